"""Answers, and the headers that every one has."""

from typing import Any

from flask import Flask, Response, g, request

from ..call import Call
from ..caller import WHAT
from ..chat import ChatJob
from ..schemas.strict_json import dumps
from .request import components

MAX_NAMED = 50  # fields in X-Ignored-Fields
EXPOSED = (
    "X-Request-Id, X-Requested-Model, X-Usage-Source, X-Ignored-Fields, Retry-After, Deprecation, Sunset, Link, "
    "RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Server-Timing"
)
_OPENAI_LIMITS = {"rpm": "requests", "tpm": "tokens"}


def init_app(app: Flask) -> None:
    """Finish every answer."""
    app.after_request(complete)


class Answer(Response):
    """One body of bytes. Werkzeug's own way out makes and checks what is settled here: a tenth of a call's way."""

    default_mimetype = "application/json"

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """WSGI's."""
        body = self.response
        if not isinstance(body, list) or environ["REQUEST_METHOD"] == "HEAD" or self._on_close:
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return body


def json_response(body: Any, status: int = 200) -> Response:
    """`body` as JSON."""
    return Answer(dumps(body), status)


def name_differences(response: Response, job: ChatJob, model: str, ignored: tuple[str, ...]) -> None:
    """Say in headers where the answer is not exactly what was asked for."""
    if model != job.model:
        response.headers["X-Requested-Model"] = job.model
    if names := (*job.ignored, *map(job.written, ignored)):
        response.headers["X-Ignored-Fields"] = ", ".join(map(_in_header, dict.fromkeys(names[:MAX_NAMED])))


def _in_header(name: str) -> str:
    # A field's name is the caller's text: only what a header can carry goes in.
    return "".join(c if c.isascii() and c.isprintable() and c != "," else "?" for c in name[:64])


def complete(response: Response) -> Response:
    """The headers that every answer has; the call of one that is whole has ended."""
    call: Call = g.call
    call.status = response.status_code
    call.gateway_ms = round(call.elapsed_ms() - call.upstream_ms, 1)
    if not response.direct_passthrough:  # a stream ends its call itself
        call.end()
    headers = response.headers
    headers["X-Request-Id"] = call.request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")
    if allowed := components().settings.cors_origins:
        _allow_origin(headers, allowed)
    if call.decision is not None:
        _name_limits(headers, call.decision)
    headers["Server-Timing"] = timings(call)
    return response


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


def _name_limits(headers: Any, decision: Any) -> None:
    """What is left of the caller's tightest limit (RateLimit-*), and of both minutes under OpenAI's names."""
    if (tightest := decision.tightest) is None:
        return
    headers["RateLimit-Limit"] = str(tightest.limit)
    headers["RateLimit-Remaining"] = str(tightest.remaining)
    headers["RateLimit-Reset"] = str(tightest.reset_s)
    headers["RateLimit-Policy"] = f'{tightest.limit};comment="{WHAT[tightest.name]}"'
    for room in decision.rooms:
        if kind := _OPENAI_LIMITS.get(room.name):
            headers[f"x-ratelimit-limit-{kind}"] = str(room.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(room.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = f"{room.reset_s}s"
