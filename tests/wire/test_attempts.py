"""One call to one model over the wire: connections kept, attempts, waits, and limits in every phase of an exchange."""

import json
import socket
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from email.utils import formatdate

import pytest
from support.gateways import python, side_by_side
from support.upstream import TEXT, fault, say, script

from chatapi import create_app
from chatapi.call import Call
from chatapi.catalogue import Catalogue, ModelCard
from chatapi.chat import ChatJob
from chatapi.engine.circuit import Board, Circuit
from chatapi.engine.engine import Engine, TimeLimits
from chatapi.errors import ChatError, UpstreamError
from chatapi.huggingface import HuggingFace

TOKEN = "hf_right"
MESSAGES = [{"role": "user", "content": "hi there"}]


@pytest.fixture
def hub(upstream, transport):
    return HuggingFace(transport, upstream.url, idle_timeout_s=0.5)


# ---------------------------------------------------------------- one call to one model


def job_for(model):
    return ChatJob(model=model, messages=MESSAGES)


def asked(hub, model, stream=False, seconds=5.0, card=None):
    """The text of the answer. Raises what the client raises."""
    card = card or ModelCard(id=model)
    engine = Engine(Catalogue({card.id: card}), hub, TimeLimits(seconds), Circuit(Board()))
    call, job = Call("-", seconds=seconds), job_for(card.id)
    engine.begin(job, call)
    if not stream:
        return engine.reply(job, call).text
    return "".join(map(said, engine.stream(job, call)))


def said(item):
    """The text of an item of a stream."""
    if isinstance(item, list):
        return json.loads(b'"' + b"".join(item) + b'"')
    return "".join(choice["delta"].get("content") or "" for choice in item.choices)


def outcome(hub, model, stream=False, seconds=5.0):
    """The text of the answer, or the error."""
    try:
        return asked(hub, model, stream, seconds)
    except ChatError as error:
        return error


def test_a_redirect_is_the_upstreams_failure(upstream, hub):
    assert outcome(hub, "test/redirect").code == "upstream_unavailable"
    assert not [call for call in upstream.calls if call.path == "/redirected"]


def own(upstream, model):
    """A model on its own server; nothing but the call itself is sent there."""
    return ModelCard(id=model, url=f"{upstream.url}/at/{model}")


def text_model(upstream, model):
    return ModelCard(id=model, task="text-generation", url=f"{upstream.url}/at/{model}")


@pytest.mark.parametrize("second", [False, True], ids=["then-whole", "then-stream"])
@pytest.mark.parametrize("first", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("make", [own, text_model])
def test_a_connection_is_used_again(upstream, hub, make, first, second):
    for stream in (first, second, first):
        assert asked(hub, "test/ok", stream, card=make(upstream, "test/ok")) == TEXT
        time.sleep(0.05)  # the last bytes of a stream may come after its [DONE]
    assert len({call.connection for call in upstream.calls_for("test/ok")}) == 1


@pytest.mark.parametrize("model", ["test/no-done", "test/err-validation", "test/body-html"])
def test_a_connection_outlives_what_went_over_it(upstream, hub, model):
    card = own(upstream, model)
    for _ in range(2):
        with suppress(UpstreamError):
            asked(hub, model, stream=True, card=card)
        time.sleep(0.05)
    assert len({call.connection for call in upstream.calls_for(model)}) == 1


def test_a_connection_the_upstream_closed_is_not_used_again(upstream, hub):
    def last_words(x):
        say(x)
        x.close()

    upstream.behave("test/last-words", last_words)
    for _ in range(3):
        assert asked(hub, "test/last-words") == TEXT
        time.sleep(0.05)
    assert len(upstream.calls_for("test/last-words")) == 3, "no attempt was lost on a dead connection"
    with pytest.raises(UpstreamError):
        asked(hub, "test/stall-after-3", stream=True)
    assert asked(hub, "test/ok", stream=True) == TEXT, "nor is one that was left amid a stream"


def test_the_gateway_keeps_its_connections(upstream, gateway):
    for stream in (False, False, True, True, False):
        body = {"model": "own/ok", "messages": MESSAGES, "stream": stream}
        assert gateway.post("/api/chat/completions", body).ok
        time.sleep(0.05)
    assert len({call.connection for call in upstream.calls_for("test/ok")}) == 1


# ---------------------------------------------------------------- attempts

# How many each fault gets is in test_reliability.


@pytest.mark.parametrize("stream", [False, True])
def test_attempts_end_with_the_last_error(upstream, hub, stream):
    upstream.sequence("test/changing", ["http500", "overloaded", "http503", "ok"])
    error = outcome(hub, "test/changing", stream)
    assert (error.code, error.upstream_status) == ("upstream_unavailable", 503)
    assert len(upstream.calls_for("test/changing")) == 3
    upstream.sequence("test/verdict", ["http500", "gated", "ok"])
    assert outcome(hub, "test/verdict", stream).code == "upstream_auth", "a verdict is final"
    assert len(upstream.calls_for("test/verdict")) == 2


def date_after(seconds):
    """Whole seconds are all such a date can say."""
    return lambda x: fault(429, "x", headers={"Retry-After": formatdate(time.time() + seconds, usegmt=True)}).send(x)


HINTS = {  # a fault once, then a good answer: how long the second attempt waits at least
    "retry-after": (fault(429, "x", headers={"Retry-After": "1"}), 1),
    "retry-after-503": (fault(503, "x", headers={"Retry-After": "1"}), 1),
    "retry-after-date": (date_after(2), 0.95),
    "ratelimit": (fault(429, "x", headers={"RateLimit": '"api";r=0;t=0'}), 1),
    "estimated-time": (fault(503, "loading", estimated_time=1.1), 1.1),
    "nothing": (fault(503, "x"), 0.25),
    "zero": (fault(429, "x", headers={"Retry-After": "0"}), 0.25),
}


@pytest.mark.parametrize("stream", [False, True])
def test_hints_are_honoured(upstream, hub, stream):
    for name, (failure, _) in HINTS.items():
        upstream.sequence(f"hint/{name}", [failure, "ok"])
    outcomes = side_by_side(lambda name: outcome(hub, f"hint/{name}", stream), [(name,) for name in HINTS])
    assert set(outcomes.values()) == {TEXT}, outcomes
    for name, (_, least) in HINTS.items():
        first, second = upstream.calls_for(f"hint/{name}")
        assert least - 0.05 <= second.at - first.at < least + 2, name


TOO_LONG_WAITS = {
    "retry-after": (fault(429, "x", headers={"Retry-After": "4"}), "upstream_rate_limited", 4),
    "retry-after-503": (fault(503, "x", headers={"Retry-After": "4"}), "upstream_unavailable", 4),
    "ratelimit": (fault(429, "x", headers={"RateLimit": '"api";r=0;t=3'}), "upstream_rate_limited", 4),
    "estimated-time": (fault(503, "loading", estimated_time=4), "model_loading", 4),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure, code, retry_after_s", TOO_LONG_WAITS.values(), ids=TOO_LONG_WAITS)
def test_a_wait_the_budget_cannot_hold_is_not_begun(upstream, hub, failure, code, retry_after_s, stream):
    upstream.behave("test/later", failure)
    began = time.monotonic()
    error = outcome(hub, "test/later", stream, seconds=3)
    assert (error.code, error.retry_after_s) == (code, retry_after_s)
    assert time.monotonic() - began < 2
    assert len(upstream.calls_for("test/later")) == 1


# ---------------------------------------------------------------- limits: in every phase, in test_endings
ENDPOINT = "/api/chat/completions"


def test_max_time_holds_where_something_has_always_just_arrived(upstream, gateway):
    def endless_head(x):
        x.wire(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while x.sleep(0.0005):
            x.wire(b"a")

    upstream.behave("test/endless", endless_head)
    body = {"model": "test/endless", "messages": MESSAGES, "max_time": 1}
    asked = side_by_side(lambda _number: gateway.post(ENDPOINT, body).json()["error"]["code"], [(n,) for n in range(8)])
    assert set(asked.values()) == {"upstream_timeout"}


@pytest.mark.parametrize("stream", [False, True])
def test_the_operators_limit_holds_too(settings, stream):
    """Nobody's max_time may exceed CHATAPI_MAX_TIME."""
    client = create_app(replace(settings, max_time_s=0.4, heartbeat_s=9)).test_client()
    began = time.monotonic()
    body = {"model": "own/silent", "messages": MESSAGES, "max_time": 120, "stream": stream}
    assert client.post(ENDPOINT, json=body).json["error"]["code"] == "upstream_timeout"
    assert 0.3 < time.monotonic() - began < 3


@pytest.mark.parametrize("stream", [False, True])
def test_max_time_holds_while_connecting(transport, stream):
    """A listener whose queue is full answers no SYN: the connection hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        hub = HuggingFace(transport, f"http://127.0.0.1:{deaf.getsockname()[1]}", 1)
        began = time.monotonic()
        assert outcome(hub, "test/ok", stream, seconds=0.5).code == "upstream_timeout"
        assert 0.4 < time.monotonic() - began < 3


SSE_TYPES = ["text/event-stream", "text/event-stream; charset=utf-8", "Text/Event-Stream"]


@pytest.mark.parametrize("content_type", SSE_TYPES)
def test_how_a_stream_is_known(upstream, hub, content_type):
    def typed(x):
        x.start_stream(content_type=content_type)
        for item in script(x).whole():
            x.event(item)
        x.end()

    upstream.behave("test/typed", typed)
    assert asked(hub, "test/typed", stream=True) == TEXT


# Under gevent, as a worker is; its loop is held up, so that there is something to read when the limit passes.
HELD_UP = """
from gevent import monkey; monkey.patch_all()
import sys, time
import gevent
from chatapi.call import Call
from chatapi.errors import UpstreamTimeout
from chatapi.huggingface import Transport
from chatapi.huggingface.transport import Request

def hold_up():
    gevent.sleep(0.8)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass

gevent.spawn(hold_up)
call = Call("-", seconds=1)
try:
    Transport(None, "chatapi/test").fetch(Request(sys.argv[1], {}), call, call.deadline)
except UpstreamTimeout:
    print("in time")
"""


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["head", "body"])
def test_a_limit_ends_what_dribbles_on_also_where_the_worker_was_held_up(head):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def dribble():
            sock, _ = listening.accept()
            with sock, suppress(OSError):
                sock.sendall(head)
                while True:
                    sock.sendall(b"a")
                    time.sleep(0.005)

        threading.Thread(target=dribble, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        said = python(HELD_UP, url)
    assert said.stdout == "in time\n", said.stderr
