"""How the answers of chat models are read, whole and streamed, and that no answer breaks us."""

import json
from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support import models
from support.fuzz import json_values, some_of
from support.models import ask, chunks, counted, deltas, event, finishes, id_of, last, reply, text, token, with_stops
from support.tables import raised

from chatapi.errors import UpstreamUnavailable
from chatapi.huggingface import task_for
from chatapi.schemas.openai import counts

CHAT, CLASSIC, GENERATE = models.CHAT, models.CLASSIC, models.GENERATE


# ---------------------------------------------------------------- whole answers


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
    assert (counts(answer.usage), answer.usage.source) == (COUNTS, "upstream")


CALLS = [
    {"id": f"call_{i}", "type": "function", "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'}}
    for i, city in enumerate(("Belém", "São Paulo"))
]


def test_a_message_says_whether_it_was_refused_and_holds_no_empty_calls():
    for nothing in ({}, {"tool_calls": None}, {"tool_calls": []}):
        message = reply(CHAT, completion(nothing)).choices[0]["message"]
        assert message == {"role": "assistant", "content": "hello", "refusal": None}
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
    found = [(c["index"], c["message"]["content"], c["finish_reason"]) for c in answer.choices]
    assert found == [(0, "hello", "stop"), (1, "other", "length")]
    assert answer.text == "hello"


def test_logprobs_and_the_fingerprint_go_through():
    rows = {"content": [{"token": "hello", "logprob": -0.1, "bytes": None, "top_logprobs": []}], "refusal": None}
    answer = reply(CHAT, {**completion(logprobs=rows), "system_fingerprint": "3.2.1-native"})
    assert (answer.choices[0]["logprobs"], answer.system_fingerprint) == (rows, "3.2.1-native")
    made, _ = chunks(CHAT, [{"choices": [{"delta": BL, "logprobs": rows}]}, event({}, "stop")])
    assert made[0].choices[0]["logprobs"] == rows


NO_CHOICES = ({}, [], None, "x", {"choices": []}, {"choices": None}, {"choices": [{}]}, {"choices": [None]})


@pytest.mark.parametrize("body", [*NO_CHOICES, {"choices": {"0": {}}}], ids=str)
def test_chat_answers_without_choices(body):
    raised(UpstreamUnavailable, reply, CHAT, body)


COUNTS = {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24}
COUNTED, CACHED = (21, 3, {}), {"prompt_tokens_details": {"cached_tokens": 4}}
CHAT_USAGE = {
    "plain": (COUNTS, COUNTED),
    "zero": ({"prompt_tokens": 0, "completion_tokens": 0}, None),
    "details": ({**COUNTS, **CACHED, "completion_tokens_details": None}, (21, 3, CACHED)),
    "missing": (None, None),
    "empty": ({}, None),
    "half": ({"prompt_tokens": 21}, None),
    "strings": ({"prompt_tokens": "21", "completion_tokens": "3"}, COUNTED),
    "nulls": ({"prompt_tokens": None, "completion_tokens": None}, None),
}


@pytest.mark.parametrize("given, counted", CHAT_USAGE.values(), ids=CHAT_USAGE)
def test_usage_of_chat_answers(given, counted):
    usage = reply(CHAT, completion(usage=given)).usage
    if counted:
        assert (usage.prompt_tokens, usage.completion_tokens, usage.details) == counted
    assert usage.source == ("upstream" if counted else "estimate")
    assert min(usage.prompt_tokens, usage.completion_tokens) > 0


# ---------------------------------------------------------------- streams


def calling(index, **call):
    return {"tool_calls": [{"index": index, **call}]}


def of_function(**function):
    return {"function": function}


THOUGHT = {"reasoning": "2 + 2", "reasoning_details": [{"type": "text", "text": "2 + 2"}]}
CITED = {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://x"}}]}
NAMED = {"id": "call_1", "type": "function", **of_function(name="weather", arguments="")}
ANSWERS = {  # what a model says: its message, finish reason and (for a stream) its deltas
    "parallel tool calls": (
        {"content": None, "tool_calls": CALLS},
        "tool_calls",
        [
            *({"role": "assistant", "content": None, **calling(0, **CALLS[0])}, calling(1, **NAMED)),
            *(calling(1, **of_function(arguments=piece)) for piece in ('{"city":', '"São Paulo"}')),
        ],
    ),
    "text and a tool call": (
        {"content": "Let me look.", "tool_calls": CALLS[:1]},
        "tool_calls",
        [{"content": "Let me look."}, calling(0, **CALLS[0])],
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
    "reasoning": ({"content": "4", **THOUGHT}, "stop", [THOUGHT, {"content": "4"}]),
    "refusal": ({"content": None, "refusal": "I can't."}, "stop", [{"refusal": "I can"}, {"refusal": "'t."}]),
    "filtered": ({"content": "It is"}, "content_filter", [{"content": "It is"}]),
    "annotations": ({"content": "See.", **CITED}, "stop", [{"content": "See."}, CITED]),
    "whitespace": ({"content": " \n"}, "length", [{"content": " "}, {"content": "\n"}]),
}


@pytest.mark.parametrize("message, finish, said", ANSWERS.values(), ids=ANSWERS)
def test_whatever_a_model_says_passes_through(message, finish, said):
    answer = reply(CHAT, {"choices": [{"index": 0, "message": message, "finish_reason": finish}]})
    told = {"index": 0, "message": {"role": "assistant", "refusal": None, **message}, "logprobs": None}
    assert answer.choices == [{**told, "finish_reason": finish}]
    made, _ = chunks(CHAT, [*map(event, said), event({}, finish)])
    assert finishes(made) == [(0, finish)]
    passed, came = ([{k: v for k, v in delta.items() if k != "role"} for delta in all] for all in (deltas(made), said))
    passed[0] = {k: v for k, v in passed[0].items() if v or k in said[0]}  # our first delta has a content
    assert [delta for delta in passed[:-1] if delta] == came


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


UNFINISHED = {
    "nothing": (CHAT, 1, []),
    "no finish": (CHAT, 1, [event(BL)]),
    "one of two finishes": (CHAT, 2, [event(BL), event(UE, index=1), event({}, "stop")]),
    "one of two never begins": (CHAT, 2, [event(BL), event({}, "stop")]),
    "no last token": (GENERATE, 1, [token("a")]),
}


@pytest.mark.parametrize("card, n, events", UNFINISHED.values(), ids=UNFINISHED)
def test_a_stream_without_every_choices_end_is_not_complete(card, n, events):
    reader = task_for(card).events(card, ask(n=n) if n > 1 else ask())
    for item in events:
        reader.feed(item)
    assert not reader.complete


NINE, ONE = counted(9, 2), counted(9, 1)
STREAM_USAGE = {
    "own-chunk": [event(BL), event({}, "stop"), {"choices": [], "usage": NINE}],
    "in-the-finish": [event(BL), event({}, "stop", usage=NINE)],
    "every-chunk": [event(BL, usage=ONE), event(UE, usage=NINE), event({}, "stop", usage=NINE)],
    "before-the-finish": [event(BL, usage=NINE), event(UE, usage=None), event({}, "stop", usage=None)],
    "with-nulls": [event(BL, usage=None), event({}, "stop"), {"choices": [], "usage": NINE}],
    "without-choices-key": [event(BL), event({}, "stop"), {"usage": NINE}],
}


@pytest.mark.parametrize("events", STREAM_USAGE.values(), ids=STREAM_USAGE)
def test_usage_anywhere_in_a_chat_stream(events):
    assert counts(chunks(CHAT, events)[1].count()) == NINE
    assert chunks(CHAT, STREAMS["plain"])[1].count().source == "estimate"


# ---------------------------------------------------------------- no answer whatever breaks us

KEYS = ["choices", "message", "delta", "content", "index", "usage", "text", "details", "finish_reason", "prefill"]
OF_DETAILS = ["finish_reason", "generated_tokens", "prefill", "input_length"]
SCALARS = st.integers(-3, 3) | st.floats() | st.sampled_from(["", "stop", "x"])
VALUES = json_values(SCALARS, st.sampled_from(KEYS), leaves=6)
FUZZ = settings(max_examples=100, phases=[Phase.explicit, Phase.generate])  # a find is small as it is
MESSAGES = st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "refusal"]), VALUES, max_size=4)
CHOICES = some_of(index=VALUES, message=MESSAGES, delta=MESSAGES, finish_reason=VALUES)
BODIES = VALUES | some_of(
    choices=st.lists(CHOICES, max_size=3),
    generated_text=st.text(max_size=3) | VALUES,
    details=st.dictionaries(st.sampled_from(OF_DETAILS), VALUES, max_size=4),
    **dict.fromkeys(("usage", "token", "system_fingerprint"), VALUES),
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
    assert all(type(count) is int and count >= 0 for count in counts(answer.usage).values())


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
    assert all(type(count) is int and count >= 0 for count in counts(reader.count()).values())


@given(st.lists(st.sampled_from([event(BL), event({}), event({"content": ""}), event(UE)]), max_size=6))
def test_the_role_is_said_once_whatever_comes(events):
    made, _ = chunks(CHAT, [event(BL), *events, event({}, "stop")])
    roles = ["role" in delta for delta in deltas(made)]
    assert roles[0]
    assert not any(later for _, later in pairwise(roles))
