"""Upstreams whose answers have no end: a call ends within its limits, others go on, memory stays where it was."""

import json
import time

import pytest
import requests
from support.dialects import RESPONSES, V1, asking
from support.gateways import serve
from support.others import Others, Worker

MAX_TIME_S = 2
FEW_S = 8  # beyond that, on a machine that other tests share
A_WHILE_S = 1.8  # in which somebody else is answered; on an idle machine nobody waits for 1.5 s
MOST_MB = 250


@pytest.fixture(scope="module")
def gateway(gateway_env):
    own = {"CHATAPI_MAX_TIME": str(MAX_TIME_S), "CHATAPI_IDLE_TIMEOUT": "2", "CHATAPI_AUTH": "off"}
    with serve(gateway_env | own) as running:
        yield running


def event(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def call(number, arguments="{}", index=0):
    called = {"index": index, "id": f"a{number}", "function": {"name": "f", "arguments": arguments}}
    return event({"tool_calls": [called]})


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def head(kind, status=b"200 OK"):
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % (status, kind)


EVENTS, JSON = head(b"text/event-stream"), head(b"application/json")
BEGUN = EVENTS + chunk(event({"content": "hi"}))
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
NEW_CALLS = b"".join(call(number, index=number) for number in range(300))
NEW_KEYS = b"".join(b'data: {"choices":[],"x%d":"y"}\n\n' % number for number in range(500))
WITHOUT_END = {  # what comes first, and what comes then again and again
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "fields of a head": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "trailers": (BEGUN + b"0\r\n", b"X: y\r\n" * 1000),
    "a chunk's extension": (EVENTS, b"5;" + b"x" * 60_000),
    "chunks of a byte": (EVENTS, chunk(b"y") * 10_000),
    "a line": (EVENTS + chunk(b"data: "), chunk(b"y" * 60_000)),
    "lines of one event": (EVENTS, chunk(b"data: y\n" * 7000)),
    "blank lines": (EVENTS, chunk(b"\n" * 60_000)),
    "other fields": (EVENTS, chunk(b"id: 5\n\n" * 8000)),
    "comments": (BEGUN, chunk(b": c\n\n" * 8000)),
    "what is no JSON": (EVENTS, chunk(b"data: zz\n\n" * 6000)),
    "empty objects": (EVENTS, chunk(b"data: {}\n\n" * 6000)),
    "empty deltas": (BEGUN, chunk(event({}) * 600)),
    "roles": (EVENTS, chunk(event({"role": "assistant", "content": ""}) * 600)),
    "counts": (BEGUN, chunk(USAGE * 800)),
    "keys of its own": (EVENTS, chunk(NEW_KEYS)),
    "small deltas": (EVENTS, chunk(event({"content": "y"}) * 600)),
    "large deltas": (EVENTS, chunk(event({"content": "y" * 20_000}) * 3)),
    "thoughts": (EVENTS, chunk(event({"reasoning_content": "y"}) * 600)),
    "tool calls": (EVENTS, chunk(NEW_CALLS)),
    "pieces of a tool call": (EVENTS, chunk(call(1, "}") * 400)),
    "what comes after the finish": (BEGUN + chunk(event({}, "stop")), chunk(b"data: {}\n\n" * 6000)),
    "what comes after the end": (BEGUN + chunk(event({}, "stop") + b"data: [DONE]\n\n"), chunk(b": c\n\n" * 8000)),
    "blanks before JSON": (JSON, chunk(b" " * 60_000)),
    "arrays": (JSON + chunk(b'{"choices":['), chunk(b"[[],[]]," * 8000)),
    "a whole text": (JSON + chunk(b'{"choices":[{"message":{"content":"'), chunk(b"y" * 60_000)),
    "an error's words": (head(b"text/plain", b"400 No"), chunk(b"y" * 60_000)),
}
ENDS_WELL = {"what comes after the end"}
CASES = [(name, V1, True) for name in WITHOUT_END]
CASES += [(name, V1, False) for name in ("interim responses", "chunks of a byte", "empty objects", "large deltas")]
CASES += [(name, V1, False) for name in ("blanks before JSON", "arrays", "a whole text", "an error's words")]
CASES += [(name, RESPONSES, True) for name in ("large deltas", "tool calls")]


@pytest.mark.parametrize("name, route, stream", CASES)
def test_what_has_no_end_ends_and_holds_up_nobody(upstream, gateway, name, route, stream):
    first, then = WITHOUT_END[name]

    def answer(x):
        x.call.status = 200
        if first:
            x.wire(first)
        while True:
            x.wire(then)

    model = f"endless/{list(WITHOUT_END).index(name)}-{stream}-{route[4]}"
    upstream.behave(model, answer)
    began, length, end = time.monotonic(), 0, b""
    with Worker(gateway) as worker, Others(gateway) as others:
        with requests.Session() as session:
            session.trust_env = False
            body = asking(route, model, stream=stream)
            with session.post(gateway.url + route, json=body, stream=True, timeout=60) as heard:
                for data in heard.iter_content(65_536):
                    length, end = length + len(data), (end + data)[-4000:]
        took_s, answered = time.monotonic() - began, others.answered
    print(f"{took_s:.1f} s, {worker.memory_mb:.0f} MB, {length / 1e6:.1f} MB for the caller")
    assert took_s < MAX_TIME_S + FEW_S
    assert answered or took_s < A_WHILE_S
    assert worker.memory_mb < MOST_MB
    assert b"internal_error" not in end
    finished = heard.status_code == 200 and (not stream or b"[DONE]" in end or b"response.completed" in end)
    assert finished == (name in ENDS_WELL)
    assert gateway.workers() == [worker.pid]
