"""What is sent to each kind of model, and how each shape of answer is read. Pure: nothing is sent here."""

import dataclasses
import json
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from chatapi.catalogue import ModelCard
from chatapi.chat import ChatJob
from chatapi.errors import BadRequest, UpstreamUnavailable
from chatapi.huggingface.abilities import check
from chatapi.huggingface.tasks import task_for

BASE = "https://hf.test"
CHAT = ModelCard(id="acme/chat")
OWN_CHAT = ModelCard(id="acme/own", url="https://tgi.test/one")
CLASSIC = ModelCard(id="acme/gpt", task="text-generation")
TEXT2TEXT = ModelCard(id="acme/flan", task="text2text-generation")
GENERATE = ModelCard(id="acme/tgi", task="text-generation", url="https://tgi.test")
GENERATE_T5 = ModelCard(id="acme/tgi-flan", task="text2text-generation", url="https://tgi.test")
NEO = ModelCard(id="acme/gpt-neo-125m", task="text-generation", context="conversation")
EMBEDDED = ModelCard(id="acme/small", url="https://e.test", renames={"repetition_penalty": "repeat_penalty"})
CHATS, TEXTS = (CHAT, OWN_CHAT), (CLASSIC, TEXT2TEXT, GENERATE, GENERATE_T5)

HI = [{"role": "user", "content": "Hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://e.test/cat.png"}}
LOOK = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}]
PNG_ONLY = [{"role": "user", "content": [IMAGE]}]


def id_of(card):
    return card.id


def ask(messages=HI, **options):
    return ChatJob(model="asked/for", messages=messages, options=options)


def with_stops(*stops):
    return ask(stop=list(stops))


def strictly(job, **changes):
    return dataclasses.replace(job, strict=True, **changes)


def request(card, job=None, stream=False):
    job = job or ask()
    check(card, job)
    return task_for(card).request(BASE, card, job, stream)


def payload(card, job=None, stream=False):
    return request(card, job, stream).payload


def refused(card, job):
    with pytest.raises(BadRequest) as caught:
        request(card, job)
    return caught.value


def parameters(card, **options):
    return payload(card, ask(**options))["parameters"]


def reply(card, body, job=None, headers=None):
    return task_for(card).reply(card, job or ask(), body, CaseInsensitiveDict(headers or {}))


# ---------------------------------------------------------------- where to


ROUTED, CLASSICS = f"{BASE}/v1/chat/completions", f"{BASE}/hf-inference/models"
OF_TGI = ("https://tgi.test/generate", "https://tgi.test/generate_stream")


@pytest.mark.parametrize(
    "card, whole, streamed",
    [
        (CHAT, ROUTED, ROUTED),
        (OWN_CHAT, *["https://tgi.test/one/v1/chat/completions"] * 2),
        (CLASSIC, *[f"{CLASSICS}/acme/gpt"] * 2),
        (TEXT2TEXT, *[f"{CLASSICS}/acme/flan"] * 2),
        *((GENERATE, *OF_TGI), (GENERATE_T5, *OF_TGI)),
    ],
    ids=str,
)
def test_urls(card, whole, streamed):
    assert (request(card).url, request(card, stream=True).url) == (whole, streamed)


# ---------------------------------------------------------------- chat: what is sent


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
    assert list(refused(BLIND, ask(heard)).details) == ["messages.0.content.1.type"]
    assert payload(CHAT, ask(heard))["messages"] == heard


@pytest.mark.parametrize("card", [BLIND, *TEXTS], ids=id_of)
@pytest.mark.parametrize("job", [ask(PNG_ONLY), strictly(ask(LOOK))], ids=["nothing-left", "strict"])
def test_images_are_refused_where_leaving_them_out_is_no_answer(card, job):
    error, place = refused(card, job), f"messages.0.content.{len(job.messages[0]['content']) - 1}"
    assert list(error.details) == [place]
    assert place in error.message


# ---------------------------------------------------------------- text models: what is sent


FULL = {"max_tokens": 40, "temperature": 0.7, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}
SENT = {"max_new_tokens": 40, "temperature": 0.7, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}
ALONE, DETAILED = {"return_full_text": False}, {"return_full_text": False, "details": True}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "card, options, sent",
    [
        *((CLASSIC, FULL, {**SENT, **ALONE}), (CLASSIC, {}, ALONE), (TEXT2TEXT, FULL, SENT), (TEXT2TEXT, {}, {})),
        (GENERATE, {"max_tokens": 40, "top_k": 5}, {"max_new_tokens": 40, "top_k": 5, **DETAILED}),
        (GENERATE, {"seed": 3, "frequency_penalty": 0.5}, {"seed": 3, "frequency_penalty": 0.5, **DETAILED}),
    ],
    ids=str,
)
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
    assert "stop" not in parameters(CLASSIC, stop=stops)  # HF§2.1: they answer 400
    assert "stop" not in parameters(TEXT2TEXT, stop=stops)
    assert parameters(GENERATE, stop=["a"])["stop"] == ["a"]
    assert parameters(GENERATE, stop=stops)["stop"] == stops[:4]  # TGI takes four


def test_a_conversations_own_stops_are_sent_too():
    card = dataclasses.replace(NEO, url="https://tgi.test")
    assert parameters(card, stop=["###"])["stop"] == ["###", "\nUser:", "\nSystem:"]


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
    error = refused(card, dataclasses.replace(ask(**{name: value}), strict=strict))
    assert list(error.details) == [name]
    assert name in error.message
    assert card.id in error.message


def test_every_impossible_field_is_named():
    assert set(refused(CLASSIC, ask(**CANNOT)).details) == set(CANNOT)


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
    assert list(refused(CLASSIC, strictly(job)).details) == [name]


# ---------------------------------------------------------------- text models: whole answers

SHAPES = {
    "list": [{"generated_text": "hello"}],
    "dict": {"generated_text": "hello"},
    "nested": [[{"generated_text": "hello"}], [{"generated_text": "other"}]],
    "several": [{"generated_text": "hello"}, {"generated_text": "other"}],
    "conversational": {"generated_text": "hello", "conversation": {"generated_responses": ["x"]}, "warnings": ["y"]},
    "translation": [{"translation_text": "hello"}],
    "summary": [{"summary_text": "hello"}],
    "summary-beside-nothing": [{"generated_text": "", "summary_text": "hello"}],
    "details": {"generated_text": "hello", "details": {"finish_reason": "eos_token", "generated_tokens": 2}},
}


@pytest.mark.parametrize("card", TEXTS, ids=id_of)
@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES)
def test_every_shape_of_a_text_answer(card, body):
    answer = reply(card, body)
    assert answer.text == "hello"
    assert answer.model == card.id
    [choice] = answer.choices
    assert choice["message"]["role"] == "assistant"
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")


def test_an_empty_text_is_an_answer():
    assert reply(CLASSIC, [{"generated_text": ""}]).text == ""


@pytest.mark.parametrize("body", [[], {}, None, "hello", 5, [[]], [{"generated_text": None}], [None]], ids=str)
@pytest.mark.parametrize("card", [CLASSIC, GENERATE], ids=id_of)
def test_answers_without_text(card, body):
    with pytest.raises(UpstreamUnavailable):
        reply(card, body)


@pytest.mark.parametrize("shape", [lambda t: [{"generated_text": t}], lambda t: {"generated_text": t}])
@pytest.mark.parametrize("card", [CLASSIC, GENERATE], ids=id_of)
@pytest.mark.parametrize(
    "generated, text",
    [
        ("What is up? Not much.", " Not much."),
        ("What is up?", ""),
        ("What is up?What is up?", "What is up?"),
        ("what is up? Not much.", "what is up? Not much."),
        (" What is up?", " What is up?"),
        ("Well. What is up?", "Well. What is up?"),
    ],
)
def test_an_echoed_prompt_is_stripped_once(card, shape, generated, text):
    job = ask([{"role": "user", "content": "What is up?"}])
    assert reply(card, shape(generated), job).text == text


@pytest.mark.parametrize("generated", ["Hi", "Hi, how are you?"])
def test_text2text_answers_are_never_an_echo(generated):
    """HF§2.4, §7: these models don't repeat the prompt; an answer may well begin with the caller's word."""
    assert reply(TEXT2TEXT, [{"generated_text": generated}]).text == generated


TALK = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}, *HI]


def test_a_rendered_conversation_is_stripped_too():
    prompt = payload(NEO, ask(TALK))["inputs"]
    assert reply(NEO, [{"generated_text": prompt + " Three."}], ask(TALK)).text.strip() == "Three."


@pytest.mark.parametrize("said", [" Yes.\nUser: And?", " Yes.\nSystem: be", " Yes.\nUser:\nSystem:"])
def test_a_conversation_ends_where_the_model_goes_on_as_the_user(said):
    assert reply(NEO, [{"generated_text": said}], ask(TALK)).text == " Yes."


def test_a_stop_inside_the_prompt_is_no_end():
    job = ask([{"role": "user", "content": "Count: one, two"}], stop=[","])
    assert reply(CLASSIC, [{"generated_text": "Count: one, two three, four"}], job).text == " three"


def details(**given):
    return {"generated_text": "hello you", "details": {"finish_reason": "length", **given}}


HEADERS = {"x-prompt-tokens": "9", "x-generated-tokens": "4"}
TEXT_USAGE = {  # HF§6: body before headers before an estimate
    "none": ([{"generated_text": "hello you"}], {}, None),
    "details-and-headers": (details(generated_tokens=2), HEADERS, (9, 2)),
    "prefill": (details(generated_tokens=2, prefill=[{"id": 1}, {"id": 2}, {"id": 3}]), {}, (3, 2)),
    "input-length": (details(generated_tokens=2, input_length=11), HEADERS, (11, 2)),
    "headers-only": ({"generated_text": "hello you"}, HEADERS, (9, 4)),
    "half": ({"generated_text": "hello you"}, {"x-generated-tokens": "4"}, None),
    "odd-headers": ({"generated_text": "hello you"}, {"x-prompt-tokens": "x", "x-generated-tokens": "-1"}, None),
    "characters": ([{"generated_text": "hello you"}], {"x-compute-characters": "2"}, None),
}


@pytest.mark.parametrize("body, headers, counts", TEXT_USAGE.values(), ids=TEXT_USAGE)
def test_usage_of_text_answers(body, headers, counts):
    usage = reply(GENERATE, body, headers=headers).usage
    if counts:
        assert (usage.prompt_tokens, usage.completion_tokens, usage.source) == (*counts, "upstream")
    else:
        assert usage.source == "estimate"
        assert 1 <= usage.prompt_tokens <= 3
        assert 2 <= usage.completion_tokens <= 6
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


# ---------------------------------------------------------------- chat: whole answers


def completion(message=None, finish="stop", usage=None, **choice):
    told = {"role": "assistant", "content": "hello", **(message or {})}
    head = {"id": "", "object": "chat.completion", "created": 1770000123, "model": "provider/own-name"}
    body = {**head, "choices": [{"index": 0, "message": told, "finish_reason": finish, **choice}]}
    return body if usage is None else {**body, "usage": usage}


def test_a_chat_answer():
    answer = reply(CHAT, completion(usage=COUNTS, logprobs=None))
    assert answer.text == "hello"
    assert answer.model == "acme/chat"  # ours, not the provider's
    message = {"role": "assistant", "content": "hello", "refusal": None}
    assert answer.choices == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert (answer.usage.counts(), answer.usage.source) == (COUNTS, "upstream")


CALLS = [
    {"id": f"call_{i}", "type": "function", "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'}}
    for i, city in enumerate(("Belém", "São Paulo"))
]


def told(**message):
    return reply(CHAT, completion(message)).choices[0]["message"]


def test_a_message_says_whether_it_was_refused_and_holds_no_empty_calls():
    assert told()["refusal"] is None
    for nothing in (None, []):
        assert "tool_calls" not in told(tool_calls=nothing)
    assert reply(CHAT, completion({"content": None})).text == ""


REASONS = {"stop": "stop", "length": "length", "eos_token": "stop", "stop_sequence": "stop", "eos": "stop"}
FINISHES = {**REASONS, "tool_calls": "tool_calls", "content_filter": "content_filter"}


@pytest.mark.parametrize("word, reason", FINISHES.items())
def test_finish_reasons_whole_and_streamed(word, reason):
    assert reply(CHAT, completion(finish=word)).choices[0]["finish_reason"] == reason
    assert finishes(chunks(CHAT, [event(BL), event({}, word)])[0]) == [(0, reason)]
    if word in REASONS:
        facts = {"finish_reason": word, "generated_tokens": 1}
        assert finishes(chunks(GENERATE, [token("a"), last("b", "ab", **facts)])[0]) == [(0, reason)]
        body = {"generated_text": "a b", "details": {**facts, "prefill": []}}
        assert reply(GENERATE, body).choices[0]["finish_reason"] == reason
        assert reply(GENERATE, body, with_stops("b")).choices[0]["finish_reason"] == "stop", "a cut outranks it"


def test_an_answer_without_a_finish_reason_has_stopped():
    assert reply(CHAT, completion(finish=None)).choices[0]["finish_reason"] == "stop"


def test_several_choices():
    body = completion()
    body["choices"] += [{"index": 1, "message": {"content": "other"}, "finish_reason": "length"}]
    answer = reply(CHAT, body, ask(n=2))
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in answer.choices] == [
        (0, "hello", "stop"),
        (1, "other", "length"),
    ]
    assert answer.text == "hello"


def test_logprobs_and_the_fingerprint_go_through():
    rows = {"content": [{"token": "hello", "logprob": -0.1, "bytes": None, "top_logprobs": []}], "refusal": None}
    answer = reply(CHAT, {**completion(logprobs=rows), "system_fingerprint": "3.2.1-native"})
    assert answer.choices[0]["logprobs"] == rows
    assert answer.system_fingerprint == "3.2.1-native"


NO_CHOICES = ({}, [], None, "x", {"choices": []}, {"choices": None}, {"choices": [{}]}, {"choices": [None]})


@pytest.mark.parametrize("body", [*NO_CHOICES, {"choices": {"0": {}}}], ids=str)
def test_chat_answers_without_choices(body):
    with pytest.raises(UpstreamUnavailable):
        reply(CHAT, body)


COUNTS = {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24}
CHAT_USAGE = {
    "plain": (COUNTS, (21, 3), {}),
    "zero": ({"prompt_tokens": 0, "completion_tokens": 0}, None, {}),
    "details": (
        {**COUNTS, "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": None},
        (21, 3),
        {"prompt_tokens_details": {"cached_tokens": 4}},
    ),
    "missing": (None, None, {}),
    "empty": ({}, None, {}),
    "half": ({"prompt_tokens": 21}, None, {}),
    "strings": ({"prompt_tokens": "21", "completion_tokens": "3"}, (21, 3), {}),
    "nulls": ({"prompt_tokens": None, "completion_tokens": None}, None, {}),
}


@pytest.mark.parametrize("given, counts, more", CHAT_USAGE.values(), ids=CHAT_USAGE)
def test_usage_of_chat_answers(given, counts, more):
    usage = reply(CHAT, completion(usage=given)).usage
    if counts:
        assert (usage.prompt_tokens, usage.completion_tokens, usage.source) == (*counts, "upstream")
        assert usage.details == more
    else:
        assert usage.source == "estimate"
        assert usage.prompt_tokens > 0
        assert usage.completion_tokens > 0


# ---------------------------------------------------------------- chat: streams


def chunks(card, events, job=None):
    """Every chunk of a stream: what the events make, then the end."""
    reader = task_for(card).events(card, job or ask())
    made = [chunk for event in events if (chunk := reader.feed(event))]
    assert reader.complete
    return [*made, reader.end()], reader


def deltas(made, index=0):
    return [c["delta"] for chunk in made for c in chunk.choices if c["index"] == index]


def text(made, index=0):
    return "".join(delta.get("content") or "" for delta in deltas(made, index))


def finishes(made):
    return [(c["index"], c["finish_reason"]) for chunk in made for c in chunk.choices if c["finish_reason"]]


def event(delta=None, finish=None, index=0, **more):
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more}


def call_delta(index, **call):
    return {"tool_calls": [{"index": index, **call}]}


# What a model says: its message, finish reason and (for a stream) its deltas.
ANSWERS = {
    "parallel tool calls": (
        {"content": None, "tool_calls": CALLS},
        "tool_calls",
        [
            {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **CALLS[0]}]},
            call_delta(1, id="call_1", type="function", function={"name": "weather", "arguments": ""}),
            call_delta(1, function={"arguments": '{"city":'}),
            call_delta(1, function={"arguments": '"São Paulo"}'}),
        ],
    ),
    "text and a tool call": (
        {"content": "Let me look.", "tool_calls": CALLS[:1]},
        "tool_calls",
        [{"content": "Let me look."}, call_delta(0, **CALLS[0])],
    ),
    "deprecated function call": (
        {"content": None, "function_call": CALLS[0]["function"]},
        "function_call",
        [{"function_call": {"name": "weather", "arguments": ""}}, {"function_call": CALLS[0]["function"]}],
    ),
    "reasoning_content": (
        {"content": "4", "reasoning_content": "2 + 2"},
        "stop",
        [{"reasoning_content": "2 +"}, {"reasoning_content": " 2"}, {"content": "4"}],
    ),
    "reasoning": (
        {"content": "4", "reasoning": "2 + 2", "reasoning_details": [{"type": "text", "text": "2 + 2"}]},
        "stop",
        [{"reasoning": "2 + 2", "reasoning_details": [{"type": "text", "text": "2 + 2"}]}, {"content": "4"}],
    ),
    "refusal": (
        {"content": None, "refusal": "I can't help with that."},
        "stop",
        [{"refusal": "I can't"}, {"refusal": " help with that."}],
    ),
    "filtered": ({"content": "It is"}, "content_filter", [{"content": "It is"}]),
    "annotations": (
        {"content": "See.", "annotations": [{"type": "url_citation", "url_citation": {"url": "https://x"}}]},
        "stop",
        [{"content": "See."}, {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://x"}}]}],
    ),
    "whitespace": ({"content": " \n"}, "length", [{"content": " "}, {"content": "\n"}]),
}


@pytest.mark.parametrize("message, finish, said", ANSWERS.values(), ids=ANSWERS)
def test_whatever_a_model_says_passes_through(message, finish, said):
    answer = reply(CHAT, {"choices": [{"index": 0, "message": message, "finish_reason": finish}]})
    told = {"index": 0, "message": {"role": "assistant", "refusal": None, **message}, "logprobs": None}
    assert answer.choices == [{**told, "finish_reason": finish}]
    made, _ = chunks(CHAT, [*map(event, said), event({}, finish)])
    assert finishes(made) == [(0, finish)]
    passed = [{k: v for k, v in delta.items() if k != "role"} for delta in deltas(made)[:-1]]
    passed[0] = {k: v for k, v in passed[0].items() if v or k in said[0]}  # our first delta has a content
    assert [delta for delta in passed if delta] == [{k: v for k, v in d.items() if k != "role"} for d in said]


BL = {"role": "assistant", "content": "Bl"}
UE = {"role": "assistant", "content": "ue"}
STREAMS = {
    "plain": [event(BL), event({"content": "ue"}), event({}, "stop")],
    "role-in-every-delta": [event(BL), event(UE), event({"role": "assistant", "content": ""}, "stop")],
    "finish-with-text": [event(BL), event(UE, "stop")],
    "role-only-first": [event({"role": "assistant", "content": ""}), event({"content": "Blue"}), event({}, "stop")],
    "role-never": [event({"content": "Bl"}), event({"content": "ue"}), event(finish="stop")],
    "null-content": [event({"role": "assistant", "content": None}), event({"content": "Blue"}), event({}, "stop")],
    "empty-deltas": [event({}), event(BL), event({}), event({"content": ""}), event(UE), event({}, "stop")],
    "preludes": [{"choices": []}, {}, event(BL), {"choices": None}, event(UE), event({}, "stop"), {"choices": []}],
    "no-finish-key": [{"choices": [{"index": 0, "delta": BL}]}, event(UE), event({}, "stop")],
    "no-index": [{"choices": [{"delta": BL}]}, {"choices": [{"delta": UE, "finish_reason": "stop"}]}],
    "finish-twice": [event(BL), event(UE), event({}, "stop"), event({}, "stop")],
    "one-chunk": [event({"role": "assistant", "content": "Blue"}, "stop")],
    "null-tool-calls": [event({**BL, "tool_calls": None}), event({**UE, "tool_calls": []}), event({}, "stop")],
}


@pytest.mark.parametrize("events", STREAMS.values(), ids=STREAMS)
def test_chat_streams_become_proper_chunks(events):
    made, _ = chunks(CHAT, events)
    assert text(made) == "Blue"
    assert finishes(made) == [(0, "stop")]
    assert finishes(made[-1:]), "the finish comes last"
    assert all(chunk.model == "acme/chat" for chunk in made)
    first, *rest = deltas(made)
    assert first["role"] == "assistant"
    assert not any("role" in delta for delta in rest)
    assert all(rest[:-1]), "no empty delta before the finish chunk's"
    assert rest[-1] == {}


def test_a_stream_with_nothing_but_its_end_has_a_role():
    empty = last("</s>", "", True, finish_reason="eos_token", generated_tokens=1)
    for card, events in ((CHAT, [event({}, "stop")]), (GENERATE, [empty])):
        made, _ = chunks(card, events)
        assert deltas(made)[0].get("role") == "assistant"
        assert (text(made), finishes(made)) == ("", [(0, "stop")])


SIDE_BY_SIDE = {
    "events": [event(BL), event(UE, index=1), event({"content": "!"}), event({}, "stop"), event({}, "length", 1)],
    "one event": [{"choices": [*event({**BL, "content": "Bl!"})["choices"], *event(UE, index=1)["choices"]]}],
}
SIDE_BY_SIDE["one event"] += [{"choices": [*event({}, "stop")["choices"], *event({}, "length", 1)["choices"]]}]


@pytest.mark.parametrize("events", SIDE_BY_SIDE.values(), ids=SIDE_BY_SIDE)
def test_two_choices_side_by_side(events):
    made, _ = chunks(CHAT, events, ask(n=2))
    assert (text(made, 0), text(made, 1)) == ("Bl!", "ue")
    assert finishes(made) == [(0, "stop"), (1, "length")]
    for index in (0, 1):
        first, *rest = deltas(made, index)
        assert first["role"] == "assistant"
        assert not any("role" in delta for delta in rest)


@pytest.mark.parametrize(
    "card, n, events",
    [
        *((CHAT, 1, []), (CHAT, 1, [event(BL)])),
        (CHAT, 2, [event(BL, index=0), event(UE, index=1), event({}, "stop", 0)]),
        (CHAT, 2, [event(BL, index=0), event({}, "stop", 0)]),
        (GENERATE, 1, [{"token": {"id": 5, "text": "a", "logprob": -0.4, "special": False}, "generated_text": None}]),
    ],
    ids=["nothing", "no finish", "one of two finishes", "one of two never begins", "no last token"],
)
def test_a_stream_without_every_choices_end_is_not_complete(card, n, events):
    reader = task_for(card).events(card, ask(n=n) if n > 1 else ask())
    for item in events:
        reader.feed(item)
    assert not reader.complete


def test_logprobs_in_a_stream():
    rows = {"content": [{"token": "Bl", "logprob": -0.1, "bytes": None, "top_logprobs": []}], "refusal": None}
    made, _ = chunks(CHAT, [{"choices": [{"delta": BL, "logprobs": rows}]}, event({}, "stop")])
    assert made[0].choices[0]["logprobs"] == rows


def counted(prompt, completion):
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


STREAM_USAGE = {
    "own-chunk": [event(BL), event({}, "stop"), {"choices": [], "usage": counted(9, 2)}],
    "in-the-finish": [event(BL), event({}, "stop", usage=counted(9, 2))],
    "every-chunk": [
        event(BL, usage=counted(9, 1)),
        event(UE, usage=counted(9, 2)),
        event({}, "stop", usage=counted(9, 2)),
    ],
    "before-the-finish": [event(BL, usage=counted(9, 2)), event(UE, usage=None), event({}, "stop", usage=None)],
    "with-nulls": [event(BL, usage=None), event({}, "stop"), {"choices": [], "usage": counted(9, 2)}],
    "without-choices-key": [event(BL), event({}, "stop"), {"usage": counted(9, 2)}],
}


@pytest.mark.parametrize("events", STREAM_USAGE.values(), ids=STREAM_USAGE)
def test_usage_anywhere_in_a_chat_stream(events):
    _, reader = chunks(CHAT, events)
    assert reader.count().counts() == counted(9, 2)
    assert chunks(CHAT, STREAMS["plain"])[1].count().source == "estimate"


# ---------------------------------------------------------------- text models: streams


@pytest.mark.parametrize("card", [CLASSIC, TEXT2TEXT], ids=id_of)
def test_hf_inference_does_not_stream(card):
    assert task_for(card).events(card, ask()) is None


def token(piece, special=False):
    return {"token": {"id": 5, "text": piece, "logprob": -0.4, "special": special}, "generated_text": None}


def last(piece, generated, special=False, **facts):
    return {**token(piece, special), "generated_text": generated, "details": facts or None}


@pytest.mark.parametrize(
    "events",
    [
        [token(" Bl"), last("", " Blue")],
        [token(" Bl"), last("u", " Blue")],
        [token(" Bl"), last("</s>", " Blue", True)],
        [token(" Bl"), token("ue"), last("</s>", "Q: colour? Blue", True)],
        [{"generated_text": " Blue"}],
        [token("<s>", True), token(" Blue"), token("<unk>", True), last("</s>", " Blue", True)],
    ],
    ids=["nothing", "a token", "a special one", "the prompt before it", "alone", "special ones between"],
)
def test_of_the_whole_text_at_the_end_what_no_token_said_is_said(events):
    made, reader = chunks(GENERATE, events)
    assert (text(made), finishes(made), reader.count().source) == (" Blue", [(0, "stop")], "estimate")


def test_a_generate_stream_may_say_its_end_beside_the_text():
    reader = task_for(GENERATE).events(GENERATE, ask())
    reader.feed(token(" Bl"))
    with pytest.raises(UpstreamUnavailable, match="abort"):
        reader.feed({**last("ue", " Blue"), "finish_reason": "abort"})


def test_a_generate_stream():
    events = [token(" Bl"), token("ue"), last("</s>", " Blue", True, finish_reason="eos_token")]
    made, _ = chunks(GENERATE, events)
    assert deltas(made) == [{"role": "assistant", "content": " Bl"}, {"content": "ue"}, {}]
    assert finishes(made) == [(0, "stop")]
    assert {chunk.model for chunk in made} == {"acme/tgi"}


def test_usage_of_a_generate_stream():
    end = last("b", "ab", finish_reason="length", generated_tokens=2, input_length=9)
    assert chunks(GENERATE, [token("a"), end])[1].count().counts() == counted(9, 2)


# A stop string may come in one token, over several, or with text after it; what comes after is never seen.
STREAM_CUTS = {
    "none": (["one", " two"], ["###"], "one two"),
    "one-token": (["one", "###"], ["###"], "one"),
    "over-tokens": (["one", "#", "#", "#"], ["###"], "one"),
    "over-tokens-with-more": (["one#", "##tail"], ["###"], "one"),
    "text-after": (["one", "###", " more", " and more"], ["###"], "one"),
    "text-after-in-its-token": (["one### more", " and more"], ["###"], "one"),
    "nearly": (["one##", " two", "#"], ["###"], "one## two#"),
    "nearly-at-the-end": (["one", "##"], ["###"], "one##"),
    "again": (["one", "##", "#", "two", "###"], ["###"], "one"),
    "earliest": (["a", "b", "c", "d"], ["cd", "bc"], "a"),
    "the-fifth": (["a", "E", "b"], ["1", "2", "3", "4", "E"], "a"),
    "at-once": (["###", "one"], ["###"], ""),
    "beyond-ascii": (["olá", "🎉", "ação"], ["🎉"], "olá"),
    "newline": (["Yes.", "\n", "User", ":", " And", "?"], ["\nUser:"], "Yes."),
}


@pytest.mark.parametrize("tokens, stops, said", STREAM_CUTS.values(), ids=STREAM_CUTS)
def test_stops_are_cut_from_streams_and_whole_answers_alike(tokens, stops, said):
    end = last("</s>", "".join(tokens), True, finish_reason="eos_token", generated_tokens=len(tokens))
    made, _ = chunks(GENERATE, [*map(token, tokens), end], ask(stop=stops))
    assert text(made) == said
    assert finishes(made) == [(0, "stop")]
    assert deltas(made)[0]["role"] == "assistant"
    for card in TEXTS:
        answer = reply(card, {"generated_text": "".join(tokens)}, ask(stop=stops))
        assert (answer.text, answer.choices[0]["finish_reason"]) == (said, "stop")


def test_what_cannot_be_a_stop_is_not_held_back():
    reader = task_for(GENERATE).events(GENERATE, with_stops("###"))
    sent = [text([chunk]) if (chunk := reader.feed(token(piece))) else "" for piece in ("one two", "three four")]
    assert "".join(sent).startswith("one twothree fo")


@settings(max_examples=200)
@given(
    st.lists(st.text("ab#", min_size=1, max_size=3), max_size=8),
    st.lists(st.text("ab#", min_size=2, max_size=2), max_size=3),  # of one length: who is first is plain
)
def test_any_cut_is_the_same_streamed_and_whole(tokens, stops):
    joined = "".join(tokens)
    end = last("</s>", joined, True, finish_reason="eos_token", generated_tokens=len(tokens))
    made, _ = chunks(GENERATE, [*map(token, tokens), end], ask(stop=stops))
    assert text(made) == reply(GENERATE, {"generated_text": joined}, ask(stop=stops)).text
    assert text(made) == min((joined.partition(stop)[0] for stop in stops), key=len, default=joined)


# ---------------------------------------------------------------- no answer whatever breaks us

KEYS = ["choices", "message", "delta", "content", "index", "usage", "text", "details", "finish_reason", "prefill"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["", "stop", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=6,
)
FUZZ = settings(max_examples=100, phases=[Phase.explicit, Phase.generate])  # a find is small as it is
MESSAGES = st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "refusal"]), VALUES, max_size=4)
CHOICES = st.fixed_dictionaries(
    {}, optional={"index": VALUES, "message": MESSAGES, "delta": MESSAGES, "finish_reason": VALUES}
)
DETAILS = st.dictionaries(
    st.sampled_from(["finish_reason", "generated_tokens", "prefill", "input_length"]), VALUES, max_size=4
)
BODIES = VALUES | st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(CHOICES, max_size=3),
        "usage": VALUES,
        "generated_text": st.text(max_size=3) | VALUES,
        "details": DETAILS,
        "token": VALUES,
        "system_fingerprint": VALUES,
    },
)


@FUZZ
@given(BODIES)
@pytest.mark.parametrize("card", [CHAT, CLASSIC, GENERATE], ids=id_of)
def test_any_whole_answer_is_a_reply_or_the_upstreams_fault(card, body):
    try:
        answer = reply(card, body, with_stops("x"))
    except UpstreamUnavailable:
        return
    json.dumps(answer.choices)
    assert isinstance(answer.text, str)
    assert all(type(count) is int and count >= 0 for count in answer.usage.counts().values())


@FUZZ
@given(st.lists(BODIES.filter(lambda body: isinstance(body, dict)), max_size=4))
@pytest.mark.parametrize("card", [CHAT, GENERATE], ids=id_of)
def test_any_stream_is_chunks_or_the_upstreams_fault(card, events):
    reader = task_for(card).events(card, with_stops("x"))
    try:
        made = [chunk for item in events if (chunk := reader.feed(item))]
    except UpstreamUnavailable:
        return
    if reader.complete:
        made.append(reader.end())
    json.dumps([chunk.choices for chunk in made])
    assert all(type(count) is int and count >= 0 for count in reader.count().counts().values())


@given(st.lists(st.sampled_from([event(BL), event({}), event({"content": ""}), event(UE)]), max_size=6))
def test_the_role_is_said_once_whatever_comes(events):
    made, _ = chunks(CHAT, [event(BL), *events, event({}, "stop")])
    roles = ["role" in delta for delta in deltas(made)]
    assert roles[0]
    assert not any(later for _, later in pairwise(roles))
