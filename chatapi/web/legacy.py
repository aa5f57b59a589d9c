"""The old route: one message in, envelope out, with headers that lead its clients to the new one."""

from datetime import UTC, datetime

from flask import Blueprint, Response, request

from ..chat import ChatJob
from ..schemas import LEGACY
from .calls import answer
from .request import authenticated, body, components

blueprint = Blueprint("legacy", __name__)

PATH = "/api/huggingface-chat"
DEPRECATED_AT = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp())


@blueprint.post(PATH)
@authenticated
@body(LEGACY)
def chat(job: ChatJob) -> Response:
    """Answer one `message`. Deprecated: use `POST /api/chat/completions`."""
    return answer(job, LEGACY)


@blueprint.after_app_request
def announce(response: Response) -> Response:
    """Deprecation (RFC 9745), Sunset (RFC 8594) and where to go, on every answer of the old route."""
    if request.path != PATH:
        return response
    response.headers["Deprecation"] = f"@{DEPRECATED_AT}"
    if sunset := components().settings.legacy_sunset:
        at = datetime.fromtimestamp(sunset, UTC)
        response.headers["Sunset"] = at.strftime("%a, %d %b %Y %H:%M:%S GMT")
    response.headers.add("Link", '</api/chat/completions>; rel="successor-version"')
    response.headers.add("Link", '</docs/migration>; rel="deprecation"; type="text/html"')
    return response
