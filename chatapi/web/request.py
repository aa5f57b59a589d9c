"""What comes before a view: the call and its id, the caller behind a key, the body's JSON. A view is a signature:

@blueprint.post(PATH)
@authenticated
@body(DIALECT)
def create(job, parts): …
"""

import os
import re
import time
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, cast

from flask import Flask, Request, Response, current_app, g, request
from werkzeug.routing import MapAdapter, Rule

from ..call import Call
from ..chat import ChatJob, Json
from ..components import Components
from ..errors import UnsupportedMediaType
from ..languages import _, current, negotiate, use
from ..schemas import Dialect
from ..schemas.strict_json import parse_json
from ..telemetry.batch import batch
from .bodies import too_large

View = Callable[..., Response]

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})"
)
_SLASHES = re.compile("/{2,}")
PROBE = "/v1/probe"  # the one GET that counts as a call


_AS_FLASK_ASKS = {"return_rule": True}


class _Routes(MapAdapter):
    """Remembers the rules without arguments that were found: as many as there are, whatever is asked for."""

    known: dict[tuple[str, str], Rule]

    def match(self, *given: Any, **named: Any) -> Any:
        """Werkzeug's; what Flask asks for is the rule of the request, and the arguments in its path."""
        if given or named != _AS_FLASK_ASKS:
            return super().match(*given, **named)
        at = self.default_method, self.path_info
        if (rule := self.known.get(at)) is not None:
            return rule, {}
        rule, arguments = super().match(return_rule=True)
        if not rule.arguments:
            self.known[at] = rule
        return rule, arguments


class Gateway(Flask):
    """The WSGI application."""

    _adapter: MapAdapter | None = None

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """One adapter for all requests, but for path and method: no route depends on host or scheme."""
        if request is None:
            return None
        if self._adapter is None:
            self._adapter = self.url_map.bind("localhost")
            self._adapter.known = {}  # type: ignore[attr-defined]
        adapter = _Routes.__new__(_Routes)  # as copy.copy does, which takes ten times as long
        environ = request.environ
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        adapter.__dict__ = {**self._adapter.__dict__, "path_info": path, "default_method": environ["REQUEST_METHOD"]}
        return adapter


def init_app(app: Flask, parts: Components) -> None:
    """Run `begin` before every request, on one spelling of its path."""
    app.wsgi_app = _one_spelling(app.wsgi_app)  # type: ignore[method-assign]
    app.before_request(partial(begin, parts))


def _one_spelling(app: Any) -> Any:
    """Clients build URLs by joining strings: a doubled or trailing slash is no other place, and no redirect."""

    def called(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if "//" in path or path[-1:] == "/":
            environ["PATH_INFO"] = one_spelling(path)
        return app(environ, start_response)

    return called


def one_spelling(path: str) -> str:
    """`path` without doubled and trailing slashes."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


# What lies behind Flask's proxies: each attribute of a proxy costs a microsecond.
_app: Callable[[], Flask] = current_app._get_current_object  # type: ignore[attr-defined]
here: Callable[[], Any] = g._get_current_object  # `here().call` is the call of the request at hand
_request: Callable[[], Request] = request._get_current_object  # type: ignore[attr-defined]


def components() -> Components:
    """What the application is made of."""
    return cast(Components, _app().extensions["chatapi"])


def begin(parts: Components) -> None:
    """Make the call, and with it start the clock; take over the caller's request id if it is sane."""
    asked = _request()
    environ = asked.environ
    given = environ.get("HTTP_X_REQUEST_ID", "")
    request_id = given if given and _SANE_ID.fullmatch(given) else os.urandom(16).hex()
    onward = {"X-Request-Id": request_id}
    # The rule, not the path: a path that leads nowhere is the caller's text.
    route = asked.url_rule.rule if asked.url_rule else "-"
    call = Call(request_id, route, asked.blueprint or "", parts.settings.max_time_s, onward)
    if environ["REQUEST_METHOD"] == "POST":
        call.observers = (batch.ended,)
    call.address = environ.get("REMOTE_ADDR")
    call.connection = environ.get("chatapi.connection")
    here().call = call
    wanted = environ.get("HTTP_ACCEPT_LANGUAGE")
    language = negotiate(wanted, parts.settings.language) if wanted else parts.settings.language
    if language != current():
        use(language)
    call.language = language
    if (trace := environ.get("HTTP_TRACEPARENT")) and (found := _TRACEPARENT.fullmatch(trace)):
        _go_on_with(call, onward, found)


def _go_on_with(call: Call, onward: dict[str, str], found: re.Match[str]) -> None:
    """Go on with the caller's trace (W3C Trace Context): our own span is the parent of what upstreams do."""
    call.trace_id = found["trace"]
    onward["traceparent"] = f"00-{found['trace']}-{os.urandom(8).hex()}-{found['flags']}"
    if state := request.headers.get("tracestate"):
        onward["tracestate"] = state[:512]


# --- who


def authenticated(view: View) -> View:
    """The caller is known, and within the limits that need no body. Raises AccessError."""

    @wraps(view)
    def called(*args: Any, **kwargs: Any) -> Response:
        authenticate(here().call)
        return view(*args, **kwargs)

    return called


def authenticate(call: Call, recorded: bool = True) -> None:
    """Find who calls, and count that against the limits; only what is `recorded` has a row in the ledger.

    Raises AccessError.
    """
    began = time.perf_counter()
    parts = components()
    caller = parts.access.authenticate(_request().environ, call.address)
    call.caller, call.key_id = caller, caller.key_id
    call.auth_ms = (time.perf_counter() - began) * 1000
    if call.observers or call.route == PROBE:
        began = time.perf_counter()
        call.observers = (parts.accounts.end if recorded else parts.accounts.release, batch.ended)
        parts.accounts.admit(call)
        call.limit_ms = (time.perf_counter() - began) * 1000


# --- what


def body(dialect: Dialect) -> Callable[[Callable[[ChatJob, Components], Response]], View]:
    """The view gets the job in the body, as `dialect` reads it, and what is there to answer it. Raises BadRequest."""

    def decorate(view: Callable[[ChatJob, Components], Response]) -> View:
        @wraps(view)
        def called() -> Response:
            parts = components()
            return view(dialect.load(read_json(), parts.settings.default_model), parts)

        return called

    return decorate


def read_json(most: int | None = None) -> Json:
    """The request's JSON object, of at most `most` bytes. Raises BadRequest and its kin, before anything is parsed
    that must not be.
    """
    asked = _request()
    environ = asked.environ
    if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise UnsupportedMediaType(_("A compressed body is not accepted. Send it without Content-Encoding."))
    kind = environ.get("CONTENT_TYPE", "")
    if kind != "application/json" and (kind := asked.mimetype) != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(
            _(
                "The Content-Type is {given}. Send 'Content-Type: application/json'.",
                given=repr((kind or "none")[:64]),
            )
        )
    limit = components().settings.max_body
    limit = min(most or limit, limit)
    call: Call = here().call
    if call.connection is not None:
        return parse_json(call.connection.read_body(limit, call.deadline))
    length = request.content_length or 0  # a test client: the body is all there
    if length > limit:
        raise too_large(limit)
    return parse_json(environ["wsgi.input"].read(length))
