"""Before a view: request id, clock, key → Caller, body → JSON, and the watch over a caller who may leave."""

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from flask import Flask, current_app, g, request

from ..accounting.ledger import refusal
from ..caller import Caller
from ..chat import Call, ChatJob, Json
from ..components import Parts
from ..errors import BadRequest, UnsupportedMediaType
from ..schemas.strict_json import parse_json
from ..telemetry import Record
from .connection import Connection, too_large

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})"
)


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
    limit, patience_s = parts().settings.max_body, parts().settings.max_time_s
    connection: Connection | None = request.environ.get("chatapi.connection")
    if connection is not None:
        return parse_json(connection.read_body(limit, time.monotonic() + patience_s))
    return parse_json(_body(limit))


def _body(limit: int) -> bytes:
    """The body, where another server than ours holds it: a test client."""
    length = request.content_length
    if length is None and not request.environ.get("wsgi.input_terminated"):
        return b""
    if length is not None and length > limit:
        raise too_large(limit)
    body: bytes = request.environ["wsgi.input"].read(limit + 1 if length is None else length)
    if len(body) > limit:
        raise too_large(limit)
    if length is not None and len(body) < length:
        raise BadRequest(f"The body ended after {len(body)} of {length} bytes.", details={"body": ["is incomplete"]})
    return body


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

    The event loop tells of it in any phase of the call, at no cost per token. Without our worker (a test client) a
    caller's leaving shows only when a write fails.
    """
    connection: Connection | None = request.environ.get("chatapi.connection")
    if connection is None:
        return _nothing
    connection.watch(call.leave)
    return connection.unwatch


def can_watch() -> bool:
    """Whether a caller who leaves is noticed at once."""
    return "chatapi.connection" in request.environ


def _nothing() -> None:
    pass
