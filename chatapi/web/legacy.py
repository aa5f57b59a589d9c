"""The legacy route: one message in, envelope out, until its sunset; its headers lead its clients to the new ones."""

from datetime import UTC, datetime
from email.utils import format_datetime

from flask import Blueprint, Response, g, request

from ..call import Call
from ..chat import Json
from ..errors import BadRequest, RateLimited, RouteRetired
from ..languages import N_, _
from ..migration.rewrite import MAX_BYTES, Rewritten, describe, rewrite
from ..migration.schedule import Stage
from ..schemas import COMPLETIONS, LEGACY
from .request import authenticate, components, read_json
from .response import answer

blueprint = Blueprint("legacy", __name__)

PATH, SUCCESSOR, GUIDE = LEGACY.path, COMPLETIONS.path, "/docs/migration"
DEPRECATED_AT = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp())


@blueprint.post(PATH)
def chat() -> Response:
    """Answer one `message`; in a brownout and after the sunset, say what the same request is on the new routes."""
    call: Call = g.call
    parts = components()
    try:
        authenticate(call)
    except RateLimited:
        _count(refused=False)
        raise
    stage = parts.legacy.stage(call.key_id)
    refused, rewritten = stage.name != "announced", None
    try:
        rewritten = rewrite(read_json(MAX_BYTES if refused else None), parts.settings.default_model)
    except BadRequest:
        if not refused:
            raise
    finally:
        _count(refused, rewritten)
    if refused or rewritten is None:
        raise _retired(stage, rewritten)
    return answer(rewritten.job, LEGACY, parts)


def _count(refused: bool, rewritten: Rewritten | None = None) -> None:
    """Every call whose key was accepted, whatever becomes of it."""
    call: Call = g.call
    assert call.caller is not None
    components().legacy.count(call.caller, request.headers.get("User-Agent"), refused, rewritten)


_BROWNOUT = N_(
    "{route} is switched off until {until}, as a warning: it goes on {sunset}. Send this request to {successor}; "
    "{guide} says how."
)
_RETIRED = N_("{route} is retired. Send this request to {successor}; {guide} says how.")


def _retired(stage: Stage, rewritten: Rewritten | None) -> RouteRetired:
    base = request.host_url.rstrip("/")
    migration: Json = {"guide": base + GUIDE}
    if rewritten is not None:
        migration = describe(rewritten, base) | migration
    words = {"route": PATH, "successor": SUCCESSOR, "guide": base + GUIDE}
    if stage.resumes_at is None or stage.sunset is None:
        return RouteRetired(_(_RETIRED, **words), migration)
    text = _(_BROWNOUT, until=_moment(stage.resumes_at), sunset=_moment(stage.sunset)[:10], **words)
    return RouteRetired(text, migration, retry_after_s=stage.resumes_at - components().legacy.clock())


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


@blueprint.after_request
def announce(response: Response) -> Response:
    """Deprecation (RFC 9745), Sunset (RFC 8594) and where to go, on every answer of the legacy route."""
    links = [f'<{SUCCESSOR}>; rel="successor-version"', f'<{GUIDE}>; rel="deprecation"; type="text/html"']
    response.headers["Deprecation"] = f"@{DEPRECATED_AT}"
    if sunset := components().legacy.stage(g.call.key_id).sunset:
        response.headers["Sunset"] = format_datetime(datetime.fromtimestamp(sunset, UTC), usegmt=True)
        links.append(f'<{GUIDE}>; rel="sunset"; type="text/html"')
    for link in links:
        response.headers.add("Link", link)
    return response
