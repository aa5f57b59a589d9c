"""After a view: replies, streams and errors in the dialect of the route, with the headers every answer has."""

import _thread
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from .. import errors
from ..accounting.quotas import Verdict
from ..caller import WHAT
from ..chat import Call, ChatJob, Chunk, Json, Reply, Usage, estimated, finish
from ..errors import ChatError, ClientLeft, InternalError, without_words
from ..telemetry import Record, stream_opened
from . import gate

log = logging.getLogger(__name__)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":")).encode


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; half a character that an upstream's token left open stays an escape."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        return _encode_ascii(value).encode()


# --- the dialects


class Envelope:
    """`{"success", "data" | "error"}`: the two `/api` routes."""

    @staticmethod
    def whole(reply: Reply) -> Json:
        """A whole answer."""
        return {
            "success": True,
            "data": {"response": reply.text, "model": reply.model, "usage": reply.usage.counts()},
        }

    @staticmethod
    def status(error: ChatError) -> int:
        """S1 documents 400 and 500."""
        return error.api_status

    @staticmethod
    def error(error: ChatError, request_id: str) -> Json:
        """An error's body, or the last event of a stream that failed."""
        body: Json = {"code": error.code, "message": error.message}
        if error.details:
            body["details"] = error.details
        body |= {"retryable": error.retryable, "request_id": request_id}
        if error.upstream_status is not None:
            body["upstream_status"] = error.upstream_status
        return {"success": False, "error": body}


class OpenAI:
    """OpenAI's objects: `/v1`."""

    @staticmethod
    def whole(reply: Reply) -> Json:
        """A chat.completion object."""
        body: Json = {
            "id": _completion_id(),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": reply.model,
            "choices": reply.choices,
            "usage": {**reply.usage.counts(), **reply.usage.details},
        }
        if reply.system_fingerprint:
            body["system_fingerprint"] = reply.system_fingerprint
        return body | dict(reply.extra)

    @staticmethod
    def status(error: ChatError) -> int:
        """The status that makes an SDK raise the right class."""
        return error.status

    @staticmethod
    def error(error: ChatError, request_id: str) -> Json:
        """OpenAI's error object."""
        return {
            "error": {
                "message": error.message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
                "retryable": error.retryable,
                "request_id": request_id,
            }
        }


Dialect = type[Envelope] | type[OpenAI]


def dialect() -> Dialect:
    """The dialect of the route that was asked for, also where no such route exists."""
    return OpenAI if request.path.startswith("/v1/") or request.path == "/v1" else Envelope


def _completion_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


# --- answers


def answer(job: ChatJob) -> Response:
    """What `job` is answered with: one body, or a stream of events. Raises ChatError."""
    engine = gate.parts().engine
    call = gate.begin_call(job)
    if job.stream:
        return _streamed(job, call, engine.stream(job, call))
    try:
        with gate.watched(call):
            reply = finish(engine.reply(job, call))
    finally:
        _asked(g.record, call)
        if call.left and call.drain_s:
            g.record.ending = "client_left"  # drained: whatever came of it, nobody was there
    g.record.served = reply.model
    _count(g.record, reply.usage)
    response = json_response(dialect().whole(reply))
    response.headers["X-Usage-Source"] = reply.usage.source
    _name_differences(response, job, reply.model, reply.ignored)
    return response


def _asked(record: Record, call: Call) -> None:
    """Upstreams have been asked for `call`; from here on the time is ours again."""
    g.upstream_s = time.monotonic() - call.started_at
    if call.heard_at is not None:
        g.ttft_s = call.heard_at - call.started_at
    record.attempts, record.fallbacks = call.attempts, call.fallbacks


def _count(record: Record, usage: Usage) -> None:
    record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
    record.usage_source = usage.source


def json_response(body: Any, status: int = 200) -> Response:
    """`body` as JSON."""
    return Response(to_json(body), status, mimetype="application/json")


def _streamed(job: ChatJob, call: Call, items: Generator[Chunk | str]) -> Response:
    stream = EventStream(dialect(), job, call, items, gate.watch(call))
    try:
        first = stream.open()
    except BaseException:
        stream.abandon()
        raise
    finally:
        _asked(g.record, call)
    g.deferred = True  # the stream writes the record when it ends
    stream_opened(1)
    response = event_stream(stream, stream.close)
    # Where a heartbeat sends the status before the first chunk, the catalogue knows who is being asked.
    model = first.model if first else gate.parts().engine.catalogue.find(job.model).id
    _name_differences(response, job, model, first.ignored if first else ())
    return response


def event_stream(events: Iterator[bytes], close: Callable[[], None]) -> Response:
    """`events` as they come, kept by nobody on the way; `close` is called in any case."""
    response = Response(events, mimetype="text/event-stream", direct_passthrough=True)
    response.call_on_close(close)
    response.headers["Cache-Control"] = "no-cache, no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


MAX_EVENTS_A_WRITE = 64


class EventStream:
    """A response's body: chunks as server-sent events.

    An object rather than a generator: a generator that was never started does not run its `finally`, and a caller
    may leave between the status and the first byte. `close` may be called at any time, and again.
    """

    def __init__(
        self,
        dialect: Dialect,
        job: ChatJob,
        call: Call,
        items: Generator[Chunk | str],
        unwatch: Callable[[], None],
    ) -> None:
        self._dialect = dialect
        self._job = job
        self._call = call
        self._items = items
        self._unwatch = unwatch
        self._record: Record = g.record
        self._token = gate.parts().settings.huggingface_api_key
        self._id, self._created = _completion_id(), int(time.time())
        self._of: tuple[str, str | None] | None = None
        self._prefix = b""
        self._ready: Chunk | str | None = None
        self._tokens = 0
        self._done = False

    def open(self) -> Chunk | None:
        """Wait for what lets the status go out: the first chunk, or (None) a heartbeat. Raises ChatError."""
        self._ready = next(self._items)
        return self._ready if isinstance(self._ready, Chunk) else None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """What is to be sent next: one event, and whatever else is already there, in one write."""
        events: list[bytes] = []
        while not self._done and len(events) < MAX_EVENTS_A_WRITE:
            if event := self._next_event():
                events.append(event)
                self._call.eager = True
            elif events:
                break
        self._call.eager = False
        if not events:
            raise StopIteration
        self._call.spoke()
        return b"".join(events)

    def _next_event(self) -> bytes:
        """The next event; empty when an item makes none, or when `eager` and none is there yet."""
        item, self._ready = self._ready, None
        try:
            item = next(self._items) if item is None else item
            if isinstance(item, Chunk):
                return self._event(item)
            return b"" if self._call.eager else f": {item}\n\n".encode()
        except StopIteration:
            self._end("completed")
            return b"data: [DONE]\n\n"
        except ChatError as error:
            return self._error(error)
        except Exception as error:
            log.error("request %s: a stream failed: %s", self._record.request_id, without_words(error))
            return self._error(InternalError("An internal error occurred; the answer is not complete."))

    def abandon(self) -> None:
        """The status has not gone out: the failure becomes an ordinary answer, which keeps the record."""
        self._done = True
        self._unwatch()
        self._items.close()

    def close(self) -> None:
        """End the work for this stream, and the upstream's connection with it."""
        self._unwatch()
        if not self._done and self._call.drain_s:
            self._call.leave()
            self._record.ending = "client_left"
            _thread.start_new_thread(self._drain, ())
            return
        self._items.close()
        self._end("client_left")

    def _drain(self) -> None:
        """Read on for the books, where the model's card says so; nobody reads what is made of it."""
        self._call.eager = False
        while not self._done:
            self._next_event()
        self._items.close()

    def _end(self, ending: str) -> None:
        if not self._done:
            stream_opened(-1)
        self._done = True
        self._record.attempts, self._record.fallbacks = self._call.attempts, self._call.fallbacks
        self._record.malformed_events = self._call.malformed or None
        if self._record.usage_source is None and self._tokens:
            # Nobody counted what went out of a stream that was cut or left: a delta is a token as a rule.
            _count(self._record, Usage(estimated(self._job.messages, "").prompt_tokens, self._tokens, "estimate"))
        self._record.close("client_left" if self._call.left else ending)

    def _event(self, item: Chunk) -> bytes:
        self._call.answered = True
        self._tokens += 1
        self._record.first_token()
        self._record.served = item.model
        if item.usage:
            _count(self._record, item.usage)
        if item.usage and not self._job.include_usage:
            return b""
        if self._of != (item.model, item.system_fingerprint):
            self._of = (item.model, item.system_fingerprint)
            self._prefix = self._prefix_of(item)
        usage = b""
        if self._job.include_usage:
            usage = b',"usage":' + to_json({**item.usage.counts(), **item.usage.details} if item.usage else None)
        return b"".join((self._prefix, to_json(item.choices), usage, b"}\n\n"))

    def _prefix_of(self, item: Chunk) -> bytes:
        """An event up to its choices: the same for all that one model sends."""
        head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": item.model}
        if item.system_fingerprint:
            head["system_fingerprint"] = item.system_fingerprint
        return b"data: " + to_json(head)[:-1] + b',"choices":'

    def _error(self, error: ChatError) -> bytes:
        if not self._call.left or isinstance(error, ClientLeft):
            self._record.fail(error)
        self._end("failed")
        if isinstance(error, ClientLeft):
            return b""
        return b"data: " + _error_body(self._dialect, error, self._record.request_id, self._token) + b"\n\n"


def _name_differences(response: Response, job: ChatJob, model: str, ignored: tuple[str, ...]) -> None:
    """Say in headers where the answer is not exactly what was asked for."""
    if model != job.model:
        response.headers["X-Requested-Model"] = job.model
    if names := (*job.ignored, *ignored):
        response.headers["X-Ignored-Fields"] = ", ".join(map(_in_header, names[:50]))


def _in_header(name: str) -> str:
    # A field's name is the caller's text: only what a header can carry goes in.
    return "".join(c if c.isascii() and c.isprintable() and c != "," else "?" for c in name[:64])


# --- errors and the headers of every answer


def init_app(app: Flask) -> None:
    """Render every error in its dialect, and finish every answer."""
    app.register_error_handler(ChatError, error_response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _fault)
    app.after_request(complete)


def _error_body(kind: Dialect, error: ChatError, request_id: str, token: str | None) -> bytes:
    """The error, whose words may be an upstream's: should they repeat our token, the caller does not get to see it."""
    body = to_json(kind.error(error, request_id))
    return body.replace(token.encode(), b"***") if token else body


def error_response(error: ChatError) -> Response:
    """`error` in the route's dialect."""
    g.record.fail(error)
    if isinstance(error, ClientLeft):
        return Response(status=499)  # nginx's word for it; nobody reads this
    kind = dialect()
    body = _error_body(kind, error, g.request_id, gate.parts().settings.huggingface_api_key)
    response = Response(body, kind.status(error), mimetype="application/json")
    response.headers.extend(error.headers)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        response.headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    if kind is OpenAI:
        response.headers["x-should-retry"] = "true" if error.retryable else "false"
    return response


def _http_error(error: HTTPException) -> Response:
    if isinstance(error, NotFound):
        return error_response(errors.NotFound(f"There is nothing at {request.path!r}. {_ROUTES}"))
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"}))
        message = f"{request.method} is not possible here; use {allowed}."
        return error_response(errors.MethodNotAllowed(message, headers={"Allow": allowed}))
    if error.code is not None and error.code >= 500:
        return _fault(error)
    if error.code is not None and error.code < 400:
        return Response(status=error.code, headers=error.get_headers())  # a redirect
    return error_response(errors.BadRequest(f"The request is not valid HTTP: {error.description}"))


_ROUTES = "Chat is at POST /api/chat/completions and POST /v1/chat/completions."


def _fault(error: Exception) -> Response:
    log.error("request %s: internal error: %s", g.get("request_id", "-"), without_words(error))
    return error_response(InternalError("An internal error occurred. Report it with the request id."))


def _allow_origin(response: Response) -> None:
    """CORS (WHATWG Fetch) for the configured origins, each named exactly; keys travel in a header, not in cookies."""
    allowed = gate.parts().settings.cors_origins
    if not allowed:
        return
    response.headers["Vary"] = "Origin"
    if (origin := request.headers.get("Origin")) in allowed:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = "GET, POST"
            response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-Request-Id"
            response.headers["Access-Control-Max-Age"] = "600"


EXPOSED = (
    "X-Request-Id, X-Requested-Model, X-Usage-Source, X-Ignored-Fields, Retry-After, Deprecation, Sunset, Link, "
    "RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Server-Timing"
)


def _name_limits(response: Response) -> None:
    """What is left of the caller's tightest limit (RateLimit-*), and of both minutes under OpenAI's names."""
    verdict: Verdict | None = g.get("verdict")
    if verdict is None or (tightest := verdict.tightest) is None:
        return
    response.headers["RateLimit-Limit"] = str(tightest.limit)
    response.headers["RateLimit-Remaining"] = str(tightest.remaining)
    response.headers["RateLimit-Reset"] = str(tightest.reset_s)
    response.headers["RateLimit-Policy"] = f'{tightest.limit};comment="{WHAT[tightest.name]}"'
    for room in verdict.rooms:
        if kind := _OPENAI_LIMITS.get(room.name):
            response.headers[f"x-ratelimit-limit-{kind}"] = str(room.limit)
            response.headers[f"x-ratelimit-remaining-{kind}"] = str(room.remaining)
            response.headers[f"x-ratelimit-reset-{kind}"] = f"{room.reset_s}s"


_OPENAI_LIMITS = {"rpm": "requests", "tpm": "tokens"}


def _timings() -> Iterator[tuple[str, float]]:
    """Server-Timing: where the time went up to here, in milliseconds."""
    record: Record = g.record
    if record.auth_ms is not None:
        yield "auth", record.auth_ms
    if record.limit_ms is not None:
        yield "limit", record.limit_ms
    if "ttft_s" in g:
        yield "upstream_ttft", g.ttft_s * 1000
    if "upstream_s" in g and not g.get("deferred"):
        yield "upstream_total", g.upstream_s * 1000
    yield "gateway", record.gateway_ms or 0.0


def complete(response: Response) -> Response:
    """The headers that every answer has."""
    record: Record = g.record
    record.status = response.status_code
    record.gateway_ms = round(record.elapsed_ms() - g.get("upstream_s", 0.0) * 1000, 1)
    if request.method == "POST" and not g.get("deferred"):
        g.record.close("completed")
    response.headers["X-Request-Id"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    _allow_origin(response)
    _name_limits(response)
    response.headers["Server-Timing"] = ", ".join(f"{name};dur={ms:.1f}" for name, ms in _timings())
    return response
