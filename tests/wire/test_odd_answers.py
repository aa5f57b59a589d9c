"""Odd forms of answers, end to end: each row of the table in every dialect, whole and streamed."""

import json

import pytest
from support.callers import choices, take_apart
from support.dialects import asking
from support.faults import CODES, QUIRKS
from support.gateways import LIMITS, over, serve
from support.heard import DIALECTS, ON_V1, all_at_once, check_failed_stream, hear
from support.openai_schema import COMPLETION, check, check_stream
from support.responses_schema import RESPONSE, check_events, events_of

ENVELOPE = ("legacy", "s1")
TAKES_N = ("s1", "v1")  # the others know no `n`, and so nothing of what one brings about
CASES = [
    (name, dialect, mode)
    for name, quirk in QUIRKS.items()
    for dialect in DIALECTS
    for mode in quirk.modes
    if not quirk.ask or dialect in TAKES_N
]


@pytest.fixture(scope="module")
def heard(upstream_server):
    """Every case, through one gateway, each with a model and so a circuit of its own: what was heard, and attempts."""
    upstream_server.reset()

    def ask(case):
        name, dialect, mode = case
        model = f"odd/{name}-{dialect}-{mode}"
        upstream_server.behave(model, f"quirk-{name}")
        answer = hear(gateway, DIALECTS[dialect], model, stream=mode == "stream", **QUIRKS[name].ask)
        return answer, len(upstream_server.calls_for(model))

    with serve(over(upstream_server) | LIMITS) as gateway:
        return all_at_once(ask, CASES)


@pytest.mark.parametrize("name, dialect, mode", CASES, ids=lambda part: part)
def test_an_odd_answer(heard, name, dialect, mode):
    quirk, (answer, attempts) = QUIRKS[name], heard[name, dialect, mode]
    if code := quirk.code_of(mode):
        check_failed(answer, quirk, code, dialect, mode)
    else:
        assert answer.status == 200, answer.body
        read = whole_of if mode == "whole" else stream_of
        check_answered(read(dialect, answer), quirk, dialect, mode)
    assert attempts == quirk.attempts_of(mode)


def check_failed(answer, quirk, code, dialect, mode):
    """An error in the dialect's shape, with the upstream's words; the last event of a stream that had begun."""
    if mode == "stream" and quirk.mid:
        assert answer.status == 200, answer.body
        check_failed_stream(answer, code)
    else:
        api, v1, retryable = CODES[code]
        assert (answer.code, answer.status) == (code, v1 if dialect in ON_V1 else api), answer.body
        assert answer.error["retryable"] is retryable
    assert quirk.says in answer.error["message"]


def check_answered(answer, quirk, dialect, mode):
    """`answer` is what a caller can read: [text, refusal, finish reason, calls] of each choice, and the tokens."""
    read, tokens = answer
    says = quirk.says_in_all[:1] if dialect in ENVELOPE and mode == "whole" else quirk.says_in_all
    assert [text for text, *_ in read] == says
    _, refusal, finish_reason, calls = read[0]
    assert finish_reason in (quirk.ends_with, None)
    assert refusal in (quirk.refusal, None)
    if not (dialect in ENVELOPE and mode == "whole"):
        assert refusal == quirk.refusal
        assert [(function["name"], function["arguments"]) for function in calls] == list(quirk.calls)
    if quirk.usage:
        assert tokens == quirk.usage


def whole_of(dialect, answer):
    body = json.loads(answer.body)
    if dialect in ENVELOPE:
        return [envelope_of(body["data"])], answer.tokens
    if dialect == "responses":
        return [response_of(check(RESPONSE, body))], answer.tokens
    check(COMPLETION, body)
    assert [choice["index"] for choice in body["choices"]] == list(range(len(body["choices"])))
    return [choice_of(choice["message"], choice["finish_reason"]) for choice in body["choices"]], answer.tokens


def envelope_of(data):
    """Only an empty answer says why it is empty."""
    assert data.keys() - {"refusal", "finish_reason"} == {"response", "model", "usage"}
    assert ("finish_reason" in data) is not bool(data["response"])
    return data["response"], data.get("refusal"), data.get("finish_reason"), []


def choice_of(message, finish_reason):
    calls = message.get("tool_calls") or []
    ids = [call["id"] for call in calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    return message.get("content") or "", message.get("refusal"), finish_reason, [call["function"] for call in calls]


def response_of(response):
    """In the words of chat: its reasons are two, and an answer that calls tools is complete."""
    said = {"output_text": "", "refusal": ""}
    for item in response["output"]:
        for part in item["content"] if item["type"] == "message" else ():
            said[part["type"]] += part.get("text") or part.get("refusal") or ""
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    assert len({call["call_id"] for call in calls}) == len(calls)
    reason = (response["incomplete_details"] or {}).get("reason")
    ends = {None: "tool_calls" if calls else "stop", "max_output_tokens": "length"}.get(reason, reason)
    return said["output_text"], said["refusal"] or None, ends, calls


def stream_of(dialect, answer):
    if dialect == "responses":
        return [response_of(check_events(events_of(answer.body)))], answer.tokens
    told = take_apart(answer.body)
    assert told.done
    assert told.error is None
    check_stream(told.chunks, include_usage=True, n=1 + max(choice["index"] for choice in choices(told)))
    assert all(len(chunk["choices"]) <= 1 for chunk in told.chunks)
    return [joined(choices(told), number) for number in sorted({c["index"] for c in choices(told)})], answer.tokens


def joined(streamed, number):
    """One choice as SDKs put it together: calls by their index, strings one after another."""
    message, finish_reason = {"content": "", "refusal": "", "tool_calls": []}, None
    for choice in (choice for choice in streamed if choice["index"] == number):
        finish_reason = choice["finish_reason"] or finish_reason
        for key in ("content", "refusal"):
            message[key] += choice["delta"].get(key) or ""
        for piece in choice["delta"].get("tool_calls", ()):
            add_piece(message["tool_calls"], piece)
    return choice_of({**message, "refusal": message["refusal"] or None}, finish_reason)


def add_piece(calls, piece):
    assert piece["index"] <= len(calls), "calls are numbered without a gap"
    if piece["index"] == len(calls):
        calls.append({"id": piece["id"], "function": {"name": "", "arguments": ""}})
    else:
        assert "id" not in piece, "an id is said once"
    function = calls[piece["index"]]["function"]
    for key in function:
        function[key] += piece["function"].get(key) or ""


# ---------------------------------------------------------------- bodies


BODIES = {
    "a byte order mark": ("application/json", "utf-8-sig"),
    "UTF-16": ("application/json", "utf-16"),
    "Latin-1, as it says": ("application/json; charset=ISO-8859-1", "latin-1"),
    "UTF-8, and not Latin-1 as it says": ("application/json; charset=latin-1", "utf-8"),
    "of no type": ("", "utf-8"),
    "labelled events": ("text/event-stream", "utf-8"),
}


@pytest.mark.parametrize("type, encoding", BODIES.values(), ids=BODIES)
def test_a_body_is_read_by_what_it_is(upstream, client, type, encoding):
    choice = {"index": 0, "message": {"role": "assistant", "content": "Olá"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice]}, ensure_ascii=False).encode(encoding)
    upstream.behave("odd/body", lambda x: x.send_raw(200, body, type))
    for route in DIALECTS.values():
        assert "Olá" in client.post(route, json=asking(route, "odd/body")).get_data(as_text=True)
