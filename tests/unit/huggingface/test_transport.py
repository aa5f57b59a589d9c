"""Sending: what goes out, connections, attempts, waits and limits in every phase of an exchange."""

import gzip
import json
import socket
import threading
import time
import zlib
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from email.utils import formatdate

import pytest
import requests
from support.gateways import side_by_side
from support.upstream import TEXT, fault, say, script, text_fault

from chatapi import create_app
from chatapi.call import Call
from chatapi.catalogue import Catalogue, ModelCard
from chatapi.chat import ChatJob
from chatapi.engine.circuit import Board, Circuit
from chatapi.engine.engine import Engine, TimeLimits
from chatapi.errors import ChatError, ClientLeft, UpstreamError
from chatapi.huggingface import HuggingFace, Transport
from chatapi.huggingface.transport import MAX_REPLY, Request

TOKEN = "hf_right"
MESSAGES = [{"role": "user", "content": "hi there"}]
PATH = "/v1/chat/completions"


def fetch(transport, url, payload=None, seconds=5, **call):
    made = Call("-", seconds=seconds, **call)
    return transport.fetch(Request(url, payload or {"model": "test/ok", "messages": MESSAGES}), made, made.deadline)


@pytest.fixture
def transport():
    with closing(Transport(TOKEN, user_agent="chatapi/test")) as made:
        yield made


@pytest.fixture
def hub(upstream, transport):
    return HuggingFace(transport, upstream.url, idle_timeout_s=0.5)


# ---------------------------------------------------------------- what goes out


def sent(upstream, transport, **how):
    fetch(transport, upstream.url + PATH, **how)
    return upstream.calls[-1]


def test_headers(upstream, transport):
    headers = sent(upstream, transport).headers
    assert headers["Authorization"] == "Bearer hf_right"
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == "chatapi/test"
    assert headers["Host"] == upstream.url.removeprefix("http://")
    assert headers["Accept-Encoding"] == "identity"
    assert "X-Request-Id" not in headers


def test_without_a_token_there_is_no_authorization(upstream):
    assert "Authorization" not in sent(upstream, Transport(None, user_agent="chatapi/test")).headers


def test_what_goes_along_with_a_call(upstream, transport):
    headers = sent(upstream, transport, headers={"X-Request-Id": "req-7", "tracestate": "a=\u00e9"}).headers
    assert (headers["X-Request-Id"], headers["tracestate"]) == ("req-7", "a=\u00e9")


def test_no_header_is_two(upstream, transport):
    headers = sent(upstream, transport, headers={"tracestate": "a=1\r\nX-Smuggled: yes", "X-Request-Id": "r"}).headers
    assert "X-Smuggled" not in headers
    assert headers["X-Request-Id"] == "r"


def test_the_body_is_utf8_json_in_its_order(upstream, transport):
    payload = {"model": "test/ok", "messages": [{"role": "user", "content": "Olá 🎉 \u2028"}], "a": None}
    call = sent(upstream, transport, payload=payload)
    assert list(json.loads(call.raw_body).items()) == list(payload.items())
    assert "Olá 🎉".encode() in call.raw_body


@pytest.mark.parametrize("status", [200, 201, 301, 302, 303, 307, 308, 400, 401, 404, 429, 500, 503])
def test_every_status_is_handed_on(upstream, transport, status):
    """Redirects are not followed."""
    headers = {"Retry-After": "7", "Location": "/redirected"}
    upstream.behave("test/ok", text_fault(status, "as it is")._replace(headers=headers))
    answer = fetch(transport, upstream.url + PATH)
    assert (answer.status, answer.headers.get("retry-after")) == (status, "7")
    assert answer.body == b"as it is"
    assert len(upstream.calls) == 1


# ---------------------------------------------------------------- failures of the network


@contextmanager
def answering(*parts):
    """The url of a server that answers each connection with `parts`, as they are, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        for part in parts:
                            connection.sendall(part)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def failure(transport, url, seconds=5):
    with pytest.raises(UpstreamError) as caught:
        fetch(transport, url, seconds=seconds)
    return caught.value


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ODD = {  # what is sent → words of the message, and whether another attempt may help
    "nothing": ((), "closed the connection", True),
    "half-a-head": ((HEAD,), "cut", False),
    "half-a-body": ((HEAD + b"Content-Length: 9\r\n\r\n{",), "cut", False),
    "half-a-chunk": ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{",), "cut", False),
    "no-last-chunk": ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",), "cut", False),
    "no-http": ((b"220 smtp.test ESMTP\r\n\r\n",), "could not be read", False),
    "no-size": ((HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",), "could not be read", False),
    "no-length": ((HEAD + b"Content-Length: -1\r\n\r\n",), "could not be read", False),
    "two-lengths": ((HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",), "could not be read", False),
    "endless-interim": ((b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,), "could not be read", False),
    "endless-head": ((HEAD + b"X: y\r\n" * 50_000,), "could not be read", False),
    "unknown-encoding": ((HEAD + b"Content-Encoding: br\r\n\r\nxx",), "could not be read", False),
}


@pytest.mark.parametrize("parts, words, transient", ODD.values(), ids=ODD)
def test_what_is_no_answer(transport, parts, words, transient):
    with answering(*parts) as url:
        error = failure(transport, url)
    assert (error.code, error.upstream_status) == ("upstream_unavailable", None)
    assert words in error.message
    assert error.transient is transient
    assert error.blames_upstream


def test_names_that_cannot_be_resolved(transport):
    error = failure(transport, "http://nobody.invalid/")
    assert "cannot be resolved" in error.message
    assert not error.transient


def test_a_refused_connection(transport):
    error = failure(transport, "http://127.0.0.1:9/")
    assert "refused" in error.message
    assert error.transient


def test_a_server_without_tls(transport):
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        error = failure(transport, url.replace("http://", "https://"))
    assert "TLS" in error.message
    assert not error.transient


READ = {  # how a final response may come → its body
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", HEAD, b"\r\n{}"),
    "bare-line-feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",),
    "folded": (HEAD + b"X-Long: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",),
    "extensions-and-trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",),
    "old": (b"HTTP/1.0 200 OK\r\n\r\n{}",),
    "no-reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}",),
    "gzip": (HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"{}"),),
    "deflate": (HEAD + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"{}"),),
    "the-same-length-twice": (HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",),
}


@pytest.mark.parametrize("parts", READ.values(), ids=READ)
@pytest.mark.parametrize("bytewise", [False, True])
def test_how_a_response_may_come(transport, parts, bytewise):
    sent = [bytes([byte]) for byte in b"".join(parts)] if bytewise else parts
    with answering(*sent) as url:
        assert fetch(transport, url).body == b"{}"


def test_an_answer_larger_than_any(transport):
    with answering(HEAD + b"\r\n", *[b"[]," * 350_000] * 40) as url:
        assert "larger" in failure(transport, url).message


def test_a_small_body_that_is_large(transport):
    packed = gzip.compress(b"x" * (MAX_REPLY + 1))
    with answering(HEAD + b"Content-Encoding: gzip\r\n\r\n" + packed) as url:
        assert "larger" in failure(transport, url).message


def test_netrc_never_replaces_our_token(upstream, transport, tmp_path, monkeypatch):
    lines = "machine 127.0.0.1 login other password secret\ndefault login other password secret\n"
    for name in (".netrc", "_netrc", "named"):
        (tmp_path / name).write_text(lines)
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "named"))
    assert requests.utils.get_netrc_auth(upstream.url) == ("other", "secret"), "the trap is set"
    upstream.token = TOKEN
    answer = fetch(transport, f"{upstream.url}/v1/chat/completions", {"model": "test/ok", "messages": MESSAGES})
    assert answer.status == 200
    assert upstream.calls_for("test/ok")[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_netrc_is_not_used_without_a_token_either(upstream, tmp_path, monkeypatch):
    (tmp_path / "named").write_text("default login other password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "named"))
    fetch(Transport(None, "chatapi/test"), f"{upstream.url}/v1/chat/completions", {"model": "test/ok"})
    assert "Authorization" not in upstream.calls_for("test/ok")[0].headers


def test_a_redirect_is_the_upstreams_failure(upstream, hub):
    assert outcome(hub, "test/redirect").code == "upstream_unavailable"
    assert not [call for call in upstream.calls if call.path == "/redirected"]


# ---------------------------------------------------------------- one call to one model


def job_for(model):
    return ChatJob(model=model, messages=MESSAGES)


def asked(hub, model, stream=False, seconds=5.0, card=None):
    """The text of the answer. Raises what the client raises."""
    card = card or ModelCard(id=model)
    engine = Engine(Catalogue({card.id: card}), hub, TimeLimits(seconds), Circuit(Board()))
    call, job = Call("-"), job_for(card.id)
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


def test_a_cut_stream_does_not_hurt_the_next_call(upstream, hub):
    with pytest.raises(UpstreamError):
        asked(hub, "test/stall-after-3", stream=True)
    assert asked(hub, "test/ok", stream=True) == TEXT


def test_the_gateway_keeps_its_connections(upstream, gateway):
    for stream in (False, False, True, True, False):
        body = {"model": "own/ok", "messages": MESSAGES, "stream": stream}
        assert gateway.post("/api/chat/completions", body).ok
        time.sleep(0.05)
    assert len({call.connection for call in upstream.calls_for("test/ok")}) == 1


# ---------------------------------------------------------------- attempts

THREE = [
    "http500",
    "http502",
    "http503",
    "http504",
    "overloaded",
    "rate-bare",
    "err-unknown-error",
    "err-too-busy",
]
THREE += ["reset", "close"]
ONE = ["redirect", "gated", "gone", "content-filter", "context-length", "err-validation", "err-generation"]
ONE += ["err-depleted", "err-bad-token", "err-not-found", "err-anonymous-429", "err-tgi-413"]
ONE += ["body-empty", "body-html", "body-bad-json", "body-no-choices", "body-truncated", "loading"]
STREAM_THREE = ["error-first-429", "error-first-status", "error-first-bare"]
STREAM_ONE = ["error-first", "done-only", "eof-at-once", "eof-no-finish", "error-then-done"]
STREAM_ONE += ["error-then-close", "cut", "cut-mid-event", "reset-mid", "stall-after-3"]
ATTEMPTS = {
    **{(f"test/{name}", stream): 3 for name in THREE for stream in (False, True)},
    **{(f"test/{name}", stream): 1 for name in ONE for stream in (False, True)},
    **{(f"test/{name}", True): 3 for name in STREAM_THREE},
    **{(f"test/{name}", True): 1 for name in STREAM_ONE},
}


def test_attempts(upstream, hub):
    """All at once: each that is tried three times waits between its attempts."""
    cases = {(f"{model}-{stream}", stream): number for (model, stream), number in ATTEMPTS.items()}
    for model, stream in ATTEMPTS:
        upstream.behave(f"{model}-{stream}", model)
    outcomes = side_by_side(lambda model, stream: outcome(hub, model, stream), list(cases))
    answered = {case: told for case, told in outcomes.items() if not isinstance(told, UpstreamError)}
    assert answered == {}
    lost = [
        told for (model, _), told in outcomes.items() if model.startswith(("test/reset", "test/close", "test/http5"))
    ]
    assert {error.code for error in lost} == {"upstream_unavailable"}
    assert {case: len(upstream.calls_for(case[0])) for case in cases} == cases


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", ["silent", "headers-only"])
def test_a_silent_upstream_is_not_asked_twice(upstream, hub, phase, stream):
    assert outcome(hub, f"test/{phase}", stream, seconds=0.5).code == "upstream_timeout"
    time.sleep(0.6)
    assert len(upstream.calls_for(f"test/{phase}")) == 1


RECOVERS = ["http500", "http502", "http503", "http504", "overloaded", "rate-bare", "reset", "close"]


def test_one_good_attempt_is_enough(upstream, hub):
    cases = [(f"test/{name}-once", stream) for name in RECOVERS for stream in (False, True)]
    names = {case: f"{case[0]}-{case[1]}" for case in cases}
    for case, name in names.items():
        upstream.behave(name, case[0])
    outcomes = side_by_side(lambda name, stream: outcome(hub, name, stream), [(names[c], c[1]) for c in cases])
    assert set(outcomes.values()) == {TEXT}, outcomes
    assert {name: len(upstream.calls_for(name)) for name in names.values()} == dict.fromkeys(names.values(), 2)


@pytest.mark.parametrize("stream", [False, True])
def test_attempts_end_with_the_last_error(upstream, hub, stream):
    upstream.sequence("test/changing", ["http500", "overloaded", "http503", "ok"])
    error = outcome(hub, "test/changing", stream)
    assert (error.code, error.upstream_status) == ("upstream_unavailable", 503)
    assert len(upstream.calls_for("test/changing")) == 3


def test_attempts_give_way_to_a_final_verdict(upstream, hub):
    upstream.sequence("test/changing", ["http500", "gated", "ok"])
    assert outcome(hub, "test/changing").code == "upstream_auth"
    assert len(upstream.calls_for("test/changing")) == 2


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


def test_loading_is_waited_for(upstream, hub):
    assert asked(hub, "test/loading-2") == TEXT
    assert len(upstream.calls_for("test/loading-2")) == 3


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


def test_nobody_attempts_for_a_caller_who_left(upstream, hub):
    call, job = Call("-"), job_for("test/left")
    engine = Engine(Catalogue({}), hub, TimeLimits(5), Circuit(Board()))
    engine.begin(job, call)

    def leaves(x):
        call.leave()
        fault(503, "x").send(x)

    upstream.behave("test/left", leaves)
    with pytest.raises(ClientLeft):
        engine.reply(job, call)
    assert len(upstream.calls_for("test/left")) == 1


# ---------------------------------------------------------------- limits in every phase

PHASES = ("silent", "header-dribble", "headers-only", "body-dribble")
CASES = [(f"{kind}/{phase}", stream) for kind in ("test", "own", "tgi") for phase in PHASES for stream in (0, 1)]
CASES += [(f"{kind}/slow", True) for kind in ("test", "own", "tgi")] + [("classic/any", 0)]
ENDPOINT = "/api/chat/completions"


def test_max_time_holds_in_every_phase(upstream, gateway):
    upstream.behave("classic/any", "body-dribble")

    def ask(model, stream):
        began = time.monotonic()
        body = {"model": model, "messages": MESSAGES, "stream": bool(stream), "max_time": 1}
        answer = gateway.post(ENDPOINT, body)
        return time.monotonic() - began, answer

    for (model, stream), (seconds, answer) in side_by_side(ask, CASES).items():
        assert 0.9 < seconds < 3, (model, seconds)
        # A heartbeat has sent the status of a stream by then: the error is its last event.
        *_, last = answer.content.strip().split(b"\n\n")
        assert answer.status_code == (200 if stream else 500), model
        assert b"[DONE]" not in last
        error = json.loads(last.removeprefix(b"data: "))["error"]
        assert error["code"] == "upstream_timeout", model
        assert error["retryable"] is True
    calls = [call for call in upstream.calls if call.method == "POST"]
    assert len(calls) == len(CASES), "none of them was asked twice"
    upstream.wait_for(lambda: all(call.client_closed_at for call in calls), timeout=2)


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


def test_silence_within_a_stream_is_limited(upstream, hub):
    began = time.monotonic()
    error = outcome(hub, "test/stall-after-3", stream=True)
    assert error.code == "upstream_timeout"
    assert 0.4 < time.monotonic() - began < 3
    upstream.wait_for(lambda: upstream.calls_for("test/stall-after-3")[0].client_closed_at)
