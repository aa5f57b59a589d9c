"""Odd forms of answers, whole and streamed, are read alike: each row of the table, without a network."""

import json

import pytest
from support import models
from support.faults import QUIRKS
from support.tables import raised

from chatapi.chat import ChatJob
from chatapi.errors import UpstreamError
from chatapi.huggingface import task_for
from chatapi.huggingface.classify import classify
from chatapi.huggingface.failures import failure_in
from chatapi.huggingface.relay import Relay
from chatapi.huggingface.sse import listed_events
from chatapi.huggingface.values import read_text
from chatapi.huggingface.whole import reply_of

CARD = models.CHAT
CASES = [(name, mode) for name, quirk in QUIRKS.items() for mode in quirk.modes]


def job_for(quirk):
    return ChatJob(model=CARD.id, messages=[{"role": "user", "content": "Oi?"}], options=quirk.ask)


def relay_for(quirk):
    return Relay(CARD, task_for(CARD).events(CARD, job_for(quirk)), lambda model, usage: usage)


def whole(quirk):
    """The choices and the usage of a whole answer."""
    raw = quirk.whole_body().encode()
    if lines := listed_events(raw):
        reply = reply_of(CARD.id, relay_for(quirk).whole(lines))
        return list(reply.choices), reply.usage
    body = read_text(raw)
    if failure := failure_in(body):
        raise classify(CARD, failure)
    reply = task_for(CARD).reply(CARD, job_for(quirk), body, {})
    return list(reply.choices), reply.usage


def streamed(quirk):
    """The same of a stream, its deltas joined as SDKs join them."""
    relay = relay_for(quirk)
    items = relay.take("".join(f"data: {data}\n\n" for data in quirk.stream_data()).encode())
    items += [] if relay.failure or relay.done else relay.end()
    if relay.failure:
        raise relay.failure
    items += relay.finish()
    return joined(choices_of(item) for item in items), items[-1].usage


def choices_of(item):
    """The choices of a chunk; a run of plain text is one."""
    if not isinstance(item, list):
        return item.choices
    text = json.loads(b'"' + b"".join(item) + b'"')
    return [{"index": 0, "delta": {"content": text}, "finish_reason": None}]


def joined(chunks):
    """As the OpenAI SDKs do it: lists by `index`, strings one after another."""
    choices = {}
    for choice in (choice for choices_of_one in chunks for choice in choices_of_one):
        known = choices.setdefault(choice["index"], {"index": choice["index"], "message": {}})
        known["finish_reason"] = choice["finish_reason"]
        add(known["message"], choice["delta"])
    return [choices[index] for index in sorted(choices)]


def add(into, delta):
    for key, value in delta.items():
        if key == "tool_calls":
            for call in value:
                calls = into.setdefault("tool_calls", [])
                assert call["index"] <= len(calls), "calls are numbered without a gap"
                if call["index"] == len(calls):
                    calls.append({})
                add(calls[call["index"]], {k: v for k, v in call.items() if k != "index"})
        elif isinstance(value, dict):
            add(into.setdefault(key, {}), value)
        else:
            into[key] = into[key] + value if isinstance(into.get(key), str) else value


@pytest.mark.parametrize("name, mode", CASES)
def test_quirks(name, mode):
    quirk = QUIRKS[name]
    read = whole if mode == "whole" else streamed
    if quirk.code_of(mode) is not None:
        error = raised(UpstreamError, read, quirk)
        assert (error.code, error.blames_upstream) == (quirk.code_of(mode), quirk.blames)
        assert quirk.says in error.message
        return
    choices, usage = read(quirk)
    messages = [choice["message"] for choice in choices]
    assert [message.get("content") or "" for message in messages] == quirk.says_in_all
    assert choices[0]["finish_reason"] == quirk.ends_with
    assert messages[0]["role"] == "assistant"
    assert messages[0].get("refusal") == quirk.refusal
    check_calls(messages[0].get("tool_calls") or [], quirk)
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    if quirk.usage:
        assert (usage.prompt_tokens, usage.completion_tokens, usage.source) == (*quirk.usage, "upstream")


def check_calls(calls, quirk):
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in calls] == list(quirk.calls)
    ids = [call["id"] for call in calls]
    assert all(isinstance(id, str) and id for id in ids)
    assert len(set(ids)) == len(ids)
    assert all(call["type"] == "function" for call in calls)


def reply_to(body=None, **choice):
    whole = {"index": 0, "message": {"role": "assistant", "content": "Oi"}, "finish_reason": "stop"}
    return models.reply(CARD, {"choices": [whole | choice], **(body or {})})


WHOLE = {"token": "Oi", "logprob": -0.5, "bytes": [79, 105]}
TOPS = {**WHOLE, "top_logprobs": [WHOLE, {"token": 5}]}
NO_BYTES = {**WHOLE, "bytes": None}
LOGPROBS = [  # what is given, and what is told of it
    *((garbage, None) for garbage in ("x", 5, ["x"], True)),
    *((none, {"content": None, "refusal": None}) for none in ({"content": {"": ""}}, {"refusal": 5})),
    (
        {"content": [TOPS, "x", {"token": "x"}]},
        {"content": [{**WHOLE, "top_logprobs": [WHOLE]}], "refusal": None},
    ),
    (
        {"content": [{**WHOLE, "bytes": ["x"], "top_logprobs": 5}]},
        {"content": [{**NO_BYTES, "top_logprobs": []}], "refusal": None},
    ),
]


@pytest.mark.parametrize("given, told", LOGPROBS, ids=str)
def test_logprobs_are_tokens_or_nothing(given, told):
    assert reply_to(logprobs=given).choices[0]["logprobs"] == told


def test_the_details_of_usage_are_counts_or_nothing():
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "queue_time": 0.25, "completion_tokens_details": "x"}
    usage["prompt_tokens_details"] = {"cached_tokens": "1", "audio_tokens": {"x": 1}, "text_tokens": -5}
    details = reply_to({"usage": usage}).usage.details
    assert details == {"queue_time": 0.25, "prompt_tokens_details": {"cached_tokens": 1}}
