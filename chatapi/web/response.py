"""How a call is answered: its job with one body or a stream of events, and every answer with the headers it has."""

import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

from flask import Flask, Response, request
from werkzeug.datastructures import Headers
from werkzeug.wsgi import ClosingIterator

from ..call import Call
from ..caller import LIMIT_WORDS
from ..chat import ChatJob, Reply, Usage, estimated
from ..components import Components
from ..errors import ChatError
from ..schemas import Dialect
from ..schemas.strict_json import dumps
from .request import here
from .stream import EventStream

LATE_S = 2.0  # how long after a call's deadline its answer may still be being read
AT_ONCE = 65_536  # bytes that a socket takes whether their reader reads or not
MAX_NAMED = 50  # fields in X-Ignored-Fields
EXPOSED = (
    "X-Request-Id, X-Requested-Model, X-Usage-Source, X-Ignored-Fields, Retry-After, Deprecation, Sunset, Link, "
    "RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Server-Timing, x-should-retry, retry-after-ms, "
    + ", ".join(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens"))
)
_OPENAI_LIMITS = {
    limit: tuple(f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset"))
    for limit, kind in (("rpm", "requests"), ("tpm", "tokens"))
}


# --- of a job


def answer(job: ChatJob, dialect: Dialect, parts: Components) -> Response:
    """What `job` is answered with: one body, or a stream of events. Raises ChatError."""
    call: Call = here().call
    connection = call.connection
    try:
        job = _begin(call, job, parts)
        if connection is not None:
            connection.watch(call.leave)
            connection.wire.write_deadline = call.deadline + LATE_S
        began = time.perf_counter()
        try:
            if job.stream:
                return _streamed(call, job, dialect, parts)
            reply = parts.engine.reply(job, call)
        finally:
            call.upstream_ms = (time.perf_counter() - began) * 1000
            if connection is not None and not job.stream:
                connection.unwatch()
    except ChatError as error:
        if call.prompt_owed:
            call.count(Usage(estimated(job.messages, "").prompt_tokens, 0, "estimate"))
        error.name_fields(job.caller_path)
        raise
    return _whole(call, job, dialect, reply)


def _begin(call: Call, job: ChatJob, parts: Components) -> ChatJob:
    """`job` as it may be asked: the caller's models, its token limits, a row in the ledger. Raises AccessError."""
    assert call.caller is not None
    call.model, call.stream = job.model, job.stream
    if call.caller.models:
        call.caller.require([job.model, *(job.fallbacks or ())])
    parts.engine.begin(job, call)
    began = time.perf_counter()
    job = parts.accounts.begin(call, job)
    call.limit_ms = (call.limit_ms or 0.0) + (time.perf_counter() - began) * 1000
    return job


def _whole(call: Call, job: ChatJob, dialect: Dialect, reply: Reply) -> Response:
    call.served = reply.model
    call.count(reply.usage)
    response = Answer(dumps(dialect.dump(reply, job)))
    response.own_headers.append(("X-Usage-Source", reply.usage.source))
    name_differences(response, job, reply.model, reply.ignored)
    return response


def _streamed(call: Call, job: ChatJob, dialect: Dialect, parts: Components) -> Response:
    def head(stream: EventStream) -> Response:
        response = event_stream(stream)
        model = call.served or parts.engine.catalogue.find(job.model).id
        name_differences(response, job, model, stream.ignored)
        return response

    items = parts.engine.stream(job, call)
    stream = EventStream(call, job, dialect.events(job), items, head, parts.settings.heartbeat_s)
    stream.start()
    return head(stream)


def name_differences(response: Response, job: ChatJob, model: str, ignored: tuple[str, ...]) -> None:
    """Say in headers where the answer is not exactly what was asked for."""
    if model != job.model:
        response.headers["X-Requested-Model"] = job.model
    if names := (*job.ignored, *map(job.caller_path, ignored)):
        response.headers["X-Ignored-Fields"] = ", ".join(map(_in_header, dict.fromkeys(names[:MAX_NAMED])))


def _in_header(name: str) -> str:
    # A field's name is the caller's text: only what a header can carry goes in.
    return "".join(c if c.isascii() and c.isprintable() and c != "," else "?" for c in name[:64])


# --- of any body


class Answer(Response):
    """One body of bytes, or events as they come; `own_headers` are ours to say, `caching` who may keep it.

    Werkzeug's own way makes and checks again what is settled here, and looks through all headers for each that is set:
    together a tenth of a call's way.
    """

    caching = "no-store"
    is_large = False  # more than a socket takes at once

    def __init__(self, body: bytes | Iterator[bytes], status: int = 200, kind: str = "application/json") -> None:
        self.headers = Headers()
        self.own_headers = [("Content-Type", kind)]
        self._status, self._status_code = _status_line(status)
        self._on_close = []
        self.direct_passthrough = not isinstance(body, bytes)
        if isinstance(body, bytes):
            self.own_headers.append(("Content-Length", str(len(body))))
            self.is_large = len(body) > AT_ONCE
            self.response = [body]
        else:
            self.response = body

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """WSGI's."""
        start_response(self.status, self.lines())
        return self.response

    def lines(self) -> list[tuple[str, str]]:
        """All headers."""
        return [*self.headers, *self.own_headers]


_status_line = cache(Response()._clean_status)  # of a status code, and the code


def json_response(body: Any, status: int = 200) -> Answer:
    """`body` as JSON."""
    return Answer(dumps(body), status)


def event_stream(events: Iterator[bytes]) -> Answer:
    """`events` as they come, kept by nobody on the way; their `close` is called in any case."""
    response = Answer(events, kind="text/event-stream; charset=utf-8")
    response.caching = "no-cache, no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


# --- of every answer


def init_app(app: Flask, origins: frozenset[str]) -> None:
    """Finish every answer; pages of `origins` may read it."""
    app.after_request(partial(complete, origins))


def complete(origins: frozenset[str], response: Response) -> Response:
    """The headers that every answer has; the call of one that is whole has ended."""
    call: Call = here().call
    call.status = response.status_code
    if response.direct_passthrough:
        pass  # a stream ends its call itself
    elif call.observers and isinstance(response, Answer) and response.is_large:
        response.response = ClosingIterator(_pieces(call, response.get_data()), partial(call.end, "client_left"))
    else:
        call.end()
    call.gateway_ms = (call.total_ms or call.elapsed_ms()) - call.upstream_ms
    told = response.own_headers if isinstance(response, Answer) else []
    told += (("X-Request-Id", call.request_id), ("X-Content-Type-Options", "nosniff"))
    if origins:
        _allow_origin(response.headers, origins)
    if call.decision is not None:
        _tell_limits(call.decision, told)
    told.append(("Server-Timing", timings(call)))
    if isinstance(response, Answer):
        told.append(("Cache-Control", response.caching))
    else:
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.extend(told)
    return response


def _pieces(call: Call, body: bytes) -> Iterator[bytes]:
    """A large answer: its call has a place in its caller's limits until the last piece is to leave."""
    for at in range(0, len(body), AT_ONCE):
        if at + AT_ONCE >= len(body):  # who has read all of it finds its call in the ledger
            call.end()
        yield body[at : at + AT_ONCE]


def timings(call: Call) -> str:
    """Server-Timing: where the time went up to here, in milliseconds."""
    told = ""
    if call.auth_ms is not None:
        told += f"auth;dur={call.auth_ms:.1f}, "
    if call.limit_ms is not None:
        told += f"limit;dur={call.limit_ms:.1f}, "
    if call.first_byte_at is not None:
        told += f"upstream_ttft;dur={(call.first_byte_at - call.began) * 1000:.1f}, "
    if call.upstream_ms and not call.stream:
        told += f"upstream_total;dur={call.upstream_ms:.1f}, "
    return f"{told}gateway;dur={call.gateway_ms or 0.0:.1f}"


def _allow_origin(headers: Any, allowed: frozenset[str]) -> None:
    """CORS (WHATWG Fetch) for the configured origins, each named exactly; keys travel in a header, not in cookies."""
    headers.add("Vary", "Origin")
    if (origin := request.headers.get("Origin")) not in allowed:
        return
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = EXPOSED
    if request.method == "OPTIONS":
        # SDKs send headers of their own (x-stainless-…): none of them means anything here that it may not.
        asked = request.headers.get("Access-Control-Request-Headers", "")
        headers["Access-Control-Allow-Methods"] = "GET, POST"
        headers["Access-Control-Allow-Headers"] = asked or "Authorization, Content-Type, X-Request-Id"
        headers["Access-Control-Max-Age"] = "600"


def _tell_limits(decision: Any, told: list[tuple[str, str]]) -> None:
    """What is left of the caller's tightest limit (RateLimit-*), and of both minutes under OpenAI's names."""
    if (tightest := decision.tightest) is None:
        return
    name, limit, remaining, reset_s = tightest
    told += (
        ("RateLimit-Limit", str(limit)),
        ("RateLimit-Remaining", str(remaining)),
        ("RateLimit-Reset", str(reset_s)),
        ("RateLimit-Policy", f'{limit};comment="{LIMIT_WORDS[name]}"'),
    )
    for name, limit, remaining, reset_s in decision.statuses:
        if headers := _OPENAI_LIMITS.get(name):
            told += zip(headers, (str(limit), str(remaining), f"{reset_s}s"), strict=True)
