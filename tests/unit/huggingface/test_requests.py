"""What is sent to each kind of model. Pure: nothing is sent here."""

import dataclasses

import pytest
from support import models
from support.models import BASE, CHAT, CHATS, HI, NEO, OWN_CHAT, TEXTS, ask, id_of, payload, reply, request
from support.tables import raised

from chatapi.catalogue import ModelCard
from chatapi.errors import BadRequest

CLASSIC, GENERATE, TEXT2TEXT = models.CLASSIC, models.GENERATE, models.TEXT2TEXT
EMBEDDED = ModelCard(id="acme/small", url="https://e.test", renames={"repetition_penalty": "repeat_penalty"})
IMAGE = {"type": "image_url", "image_url": {"url": "https://e.test/cat.png"}}
LOOK = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}]
PNG_ONLY = [{"role": "user", "content": [IMAGE]}]


def strictly(job, **changes):
    return dataclasses.replace(job, strict=True, **changes)


def refused(card, job):
    """The fields that are named."""
    error = raised(BadRequest, request, card, job)
    assert all(name in error.message for name in error.details)
    return list(error.details)


def parameters(card, **options):
    return payload(card, ask(**options))["parameters"]


# ---------------------------------------------------------------- where to

CLASSICS, TGI = f"{BASE}/hf-inference/models", "https://tgi.test"
URLS = [  # whole, and what is added for a stream
    *((CHAT, f"{BASE}/v1/chat/completions", ""), (OWN_CHAT, f"{TGI}/one/v1/chat/completions", "")),
    *((CLASSIC, f"{CLASSICS}/acme/gpt", ""), (TEXT2TEXT, f"{CLASSICS}/acme/flan", "")),
    *((card, f"{TGI}/generate", "_stream") for card in (GENERATE, models.GENERATE_T5)),
]


@pytest.mark.parametrize("card, whole, more", URLS, ids=str)
def test_urls(card, whole, more):
    assert (request(card).url, request(card, stream=True).url) == (whole, whole + more)


# ---------------------------------------------------------------- chat models


@pytest.mark.parametrize("card", CHATS, ids=id_of)
def test_chat_gets_the_conversation_and_nothing_unasked(card):
    talk = [{"role": "system", "content": "Be brief."}, *HI, {"role": "assistant", "content": "Yes?"}, *HI]
    assert payload(card, ask(talk)) == {"model": card.id, "messages": talk}


def test_a_servers_own_names():
    sent = payload(EMBEDDED, ask(repetition_penalty=1.2, temperature=1))
    assert sent == {"model": "acme/small", "messages": HI, "repeat_penalty": 1.2, "temperature": 1}


def test_a_server_that_takes_no_fields_of_its_own_is_sent_none_and_they_are_named():
    card = dataclasses.replace(EMBEDDED, own_fields=False)
    job = dataclasses.replace(ask(max_tokens=2), extra={"n_predict": 200, "cache_prompt": True})
    assert payload(card, job) == {"model": "acme/small", "messages": HI, "max_tokens": 2}
    body = {"choices": [{"message": {"content": "?"}}]}
    assert reply(card, body, job).ignored == ("n_predict", "cache_prompt")
    assert payload(CHAT, job)["n_predict"] == 200


BLIND = dataclasses.replace(OWN_CHAT, images=False)


def test_images_are_left_out_where_they_cannot_be_read():
    assert payload(CHAT, ask(LOOK))["messages"] == LOOK
    assert payload(BLIND, ask(LOOK))["messages"] == [{"role": "user", "content": "What is this?"}]
    assert reply(BLIND, {"choices": [{"message": {"content": "?"}}]}, ask(LOOK)).ignored == ("messages.0.content.1",)


@pytest.mark.parametrize("kind", ["input_audio", "file", "of_no_kind"])
def test_what_is_no_text_is_refused_where_only_text_is_read(kind):
    """Its server would say 500, as if the fault were its own."""
    heard = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": kind}]}]
    assert refused(BLIND, ask(heard)) == ["messages.0.content.1.type"]
    assert payload(CHAT, ask(heard))["messages"] == heard


@pytest.mark.parametrize("card", [BLIND, *TEXTS], ids=id_of)
@pytest.mark.parametrize("job", [ask(PNG_ONLY), strictly(ask(LOOK))], ids=["nothing-left", "strict"])
def test_images_are_refused_where_leaving_them_out_is_no_answer(card, job):
    assert refused(card, job) == [f"messages.0.content.{len(job.messages[0]['content']) - 1}"]


# ---------------------------------------------------------------- text models

FULL = {"max_tokens": 40, "temperature": 0.7, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}
SENT = {"max_new_tokens": 40, "temperature": 0.7, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}
ALONE, DETAILED = {"return_full_text": False}, {"return_full_text": False, "details": True}


BODIES = [
    *((CLASSIC, FULL, {**SENT, **ALONE}), (CLASSIC, {}, ALONE), (TEXT2TEXT, FULL, SENT), (TEXT2TEXT, {}, {})),
    (GENERATE, {"max_tokens": 40, "top_k": 5}, {"max_new_tokens": 40, "top_k": 5, **DETAILED}),
    (GENERATE, {"seed": 3, "frequency_penalty": 0.5}, {"seed": 3, "frequency_penalty": 0.5, **DETAILED}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("card, options, sent", BODIES, ids=str)
def test_bodies_of_text_models_hold_what_is_asked_for_and_no_echo(card, options, sent, stream):
    assert payload(card, ask(**options), stream) == {"inputs": "Hi", "parameters": sent}


# HF§2.2: what a server would refuse is said in words it takes.
SAMPLING = [
    *(({}, {}), ({"max_tokens": 7}, {"max_new_tokens": 7}), ({"max_completion_tokens": 8}, {"max_new_tokens": 8})),
    *((greedy, {"do_sample": False}) for greedy in ({"temperature": 0}, {"temperature": 0.0}, {"top_p": 0})),
    *(({"top_p": 1}, {}), ({"top_p": 1.0}, {}), ({"temperature": 0, "top_p": 1}, {"do_sample": False})),
    *((kept, kept) for kept in ({"top_p": 0.5}, {"temperature": 2}, {"temperature": 0.01, "top_p": 0.01})),
    (
        {"temperature": 0, "top_p": 0.9, "top_k": 3, "max_tokens": 7, "repetition_penalty": 1.3},
        {"do_sample": False, "max_new_tokens": 7, "repetition_penalty": 1.3},
    ),
    ({"user": "u-1", "metadata": {"k": "v"}}, {}),
]
OURS = {"return_full_text", "details"}


@pytest.mark.parametrize("card", TEXTS, ids=id_of)
@pytest.mark.parametrize("options, expected", SAMPLING, ids=str)
def test_sampling(card, options, expected):
    sent = parameters(card, **options)
    assert {name: value for name, value in sent.items() if name not in OURS} == expected


def test_stops_go_only_to_servers_that_take_them():
    stops = ["a", "b", "c", "d", "e"]
    for card in (CLASSIC, TEXT2TEXT):
        assert "stop" not in parameters(card, stop=stops)  # HF§2.1: they answer 400
    assert parameters(GENERATE, stop=["a"])["stop"] == ["a"]
    assert parameters(GENERATE, stop=stops)["stop"] == stops[:4]  # TGI takes four
    card = dataclasses.replace(NEO, url=TGI)
    assert parameters(card, stop=["###"])["stop"] == ["###", "\nUser:", "\nSystem:"], "a conversation's own go too"


TOOL = {"type": "function", "function": {"name": "f"}}
CANNOT = (
    {"n": 2, "tools": [TOOL], "tool_choice": "required", "functions": [{"name": "f"}]}
    | {"function_call": {"name": "f"}, "response_format": {"type": "json_object"}, "logprobs": True}
    | {"top_logprobs": 2, "logit_bias": {"1": 1}}
)
NOTHING_ASKED = (
    {"n": 1, "tools": [], "tool_choice": "auto", "functions": [], "function_call": "none", "logprobs": False}
    | {"response_format": {"type": "text"}, "top_logprobs": 0, "logit_bias": {}, "presence_penalty": 0}
    | {"frequency_penalty": 0.0}
)
ADVISORY = {"presence_penalty": 1, "frequency_penalty": 1.5, "seed": 7, "reasoning_effort": "low"}


@pytest.mark.parametrize("card", TEXTS, ids=id_of)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name, value", CANNOT.items(), ids=CANNOT)
def test_what_text_models_cannot_do_is_refused_by_name(card, strict, name, value):
    error = raised(BadRequest, request, card, dataclasses.replace(ask(**{name: value}), strict=strict))
    assert list(error.details) == [name]
    assert name in error.message and card.id in error.message
    assert set(refused(card, ask(**CANNOT))) == set(CANNOT), "and every one of several"


@pytest.mark.parametrize("where", ["options", "extra"])
def test_what_the_catalogue_says_a_model_cannot_is_refused_whether_its_dialect_knows_the_field_or_not(where):
    card, given = (
        ModelCard(id="a/b", cannot=("service_tier", "verbosity")),
        {"service_tier": "flex", "verbosity": "low"},
    )
    assert set(refused(card, dataclasses.replace(ask(), **{where: given}))) == set(given)
    request(card, dataclasses.replace(ask(), **{where: {"store": True}}))


@pytest.mark.parametrize("card", TEXTS, ids=id_of)
@pytest.mark.parametrize("name, value", NOTHING_ASKED.items(), ids=NOTHING_ASKED)
def test_values_that_ask_for_nothing_are_no_fault(card, name, value):
    job = strictly(ask(**{name: value}))
    sent = payload(card, job)["parameters"]
    assert name not in sent or sent[name] == value
    assert reply(card, {"generated_text": "ok"}, job).ignored == ()


UNHEARD = [(name, ask(**{name: value})) for name, value in ADVISORY.items()]
UNHEARD += [("guided_json", dataclasses.replace(ask(), extra={"guided_json": 1}))]


@pytest.mark.parametrize("name, job", UNHEARD, ids=[name for name, _ in UNHEARD])
def test_advice_a_text_model_cannot_take_is_named_or_refused(name, job):
    assert name not in payload(CLASSIC, job)["parameters"]
    assert reply(CLASSIC, {"generated_text": "ok"}, job).ignored == (name,)
    assert refused(CLASSIC, strictly(job)) == [name]
