"""Before a view: request id, clock, key → Caller, body → JSON, and the watch over a caller who may leave."""

import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from flask import Flask, current_app, g, request

from ..accounting.ledger import refusal
from ..caller import Caller
from ..chat import Call, ChatJob, Json
from ..components import Parts
from ..errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from ..schemas.strict_json import parse_json
from ..telemetry import Record

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})"
)
READ_SIZE = 65_536
# A body over the limit is read and thrown away up to this many times the limit: closing the connection earlier
# would reset it, and the client would see a broken pipe in place of our 413.
DISCARD_FACTOR = 4


def init_app(app: Flask) -> None:
    """Run `begin` before every request."""
    app.before_request(begin)


def begin() -> None:
    """Start the record, and with it the clock; take over the caller's request id if it is sane."""
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
    # The rule, not the path: a path that leads nowhere is the caller's text.
    route = request.url_rule.rule if request.url_rule else "-"
    g.record = Record(g.request_id, route, request.blueprint or "")
    g.upstream_headers = {"X-Request-Id": g.request_id}
    if found := _TRACEPARENT.fullmatch(request.headers.get("traceparent", "")):
        _trace(found["trace"], found["flags"])


def _trace(trace: str, flags: str) -> None:
    """Go on with the caller's trace (W3C Trace Context): our own span is the parent of what upstreams do."""
    g.record.trace_id = trace
    g.upstream_headers["traceparent"] = f"00-{trace}-{os.urandom(8).hex()}-{flags}"
    if state := request.headers.get("tracestate"):
        g.upstream_headers["tracestate"] = state[:512]


def parts() -> Parts:
    """The application's parts."""
    return cast(Parts, current_app.extensions["chatapi"])


def admit() -> Caller:
    """Who calls. Raises AccessError."""
    began = time.perf_counter()
    record: Record = g.record
    caller = parts().access.authenticate(request.environ, request.remote_addr)
    g.caller, record.key_id = caller, caller.key_id
    record.auth_ms = _ms_since(began)
    if request.method == "POST":
        g.entry = parts().books.entry(caller, record)
        record.on_close(g.entry.end)
    return caller


def begin_call(job: ChatJob) -> Call:
    """The call for `job`, written in the books and within the caller's limits. Raises AccessError."""
    began = time.perf_counter()
    record: Record = g.record
    engine = parts().engine
    record.model, record.stream = job.model, job.stream
    g.caller.require([job.model, *(job.fallbacks or ())])
    verdict = g.verdict = g.entry.begin(job, engine.seconds_for(job))
    record.limit_ms = _ms_since(began)
    if verdict is not None:
        record.shadowed = verdict.shadowed or None
        if verdict.refused:
            raise refusal(verdict, g.caller.limits)
    return engine.call_for(job, g.upstream_headers)


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)


def read_json() -> Json:
    """The request's JSON object. Raises BadRequest and its kin, before anything is parsed that must not be."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("A compressed body is not accepted. Send it without Content-Encoding.")
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        given = request.mimetype or "none"
        raise UnsupportedMediaType(f"The Content-Type is {given[:64]!r}. Send 'Content-Type: application/json'.")
    with _patience():
        body = _body(parts().settings.max_body)
    return parse_json(body)


def _body(limit: int) -> bytes:
    length = request.content_length
    if length is None and not request.environ.get("wsgi.input_terminated"):
        return b""
    source = request.environ["wsgi.input"]
    if length is not None and length > limit:
        _discard(source, min(length, DISCARD_FACTOR * limit))
        raise _too_large(limit)
    # Read by hand: werkzeug cuts a chunked body at its limit without an error.
    try:
        body = source.read(limit + 1 if length is None else length)
    except Exception as error:
        # gunicorn's classes for bad chunks are known by their module: importing it would tie us to that server.
        if not isinstance(error, OSError) and type(error).__module__ != "gunicorn.http.errors":
            raise
        raise BadRequest("The body could not be read to its end.", details={"body": ["is broken"]}) from None
    if len(body) > limit:
        _discard(source, DISCARD_FACTOR * limit)
        raise _too_large(limit)
    if length is not None and len(body) < length:
        raise BadRequest(f"The body ended after {len(body)} of {length} bytes.", details={"body": ["is incomplete"]})
    return cast(bytes, body)


@contextmanager
def _patience() -> Iterator[None]:
    """While this is open, a caller who is silent for as long as no upstream may be is not waited for."""
    client = request.environ.get("gunicorn.socket")
    if client is None:
        yield
        return
    client.settimeout(parts().settings.idle_timeout_s)
    try:
        yield
    finally:
        client.settimeout(None)


def _discard(source: Any, most: int) -> None:
    with suppress(OSError):  # who sends no more of what is refused anyway hears so now
        while most > 0 and (data := source.read(min(READ_SIZE, most))):
            most -= len(data)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes. Shorten the messages, or send smaller images.")


def cork() -> Callable[[], None]:
    """Hold back what is written to the caller until the function returned is called.

    gunicorn writes headers and body apart; one packet instead of two is noticeable on loopback. Without a TCP
    socket of gunicorn's (a unix socket behind nginx, TLS, a test client) nothing is held back.
    """
    client = request.environ.get("gunicorn.socket")
    if not isinstance(client, socket.socket) or client.family == socket.AF_UNIX or not hasattr(socket, "TCP_CORK"):
        return _nothing
    corked: socket.socket = client

    def uncork() -> None:
        with suppress(OSError):
            corked.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    with suppress(OSError):
        corked.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    return uncork


@contextmanager
def watched(call: Call) -> Iterator[None]:
    """While this is open, a caller who closes the connection ends `call`."""
    stop = watch(call)
    try:
        yield
    finally:
        stop()


def watch(call: Call) -> Callable[[], None]:
    """Watch the caller's connection until the function returned is called.

    Under gevent the event loop itself looks at the socket, in any phase of the call, at no cost per token. Elsewhere
    a caller's leaving shows only when a write fails.
    """
    client, loop = request.environ.get("gunicorn.socket"), _loop()
    if client is None or loop is None:
        return _nothing
    watcher = loop.io(client.fileno(), 1)

    def stop() -> None:
        watcher.stop()
        watcher.close()

    def readable() -> None:
        try:
            # gevent's own recv would wait, which the event loop must not: look at the system's socket below it.
            gone = client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return
        except OSError:
            gone = True
        # Bytes are the next request of a pipelining client: it is there, and we cannot tell any more.
        watcher.stop()
        if gone:
            call.leave()

    watcher.start(readable)
    return stop


def can_watch() -> bool:
    """Whether a caller who leaves is noticed at once."""
    return _loop() is not None


def _loop() -> Any:
    """gevent's event loop, where one serves this request."""
    return getattr(getattr(request.environ.get("gunicorn.socket"), "hub", None), "loop", None)


def _nothing() -> None:
    pass
