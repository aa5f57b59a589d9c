"""`POST /api/migrate/preview`: what a request to the legacy route becomes on the new ones."""

from flask import Blueprint, Response, g, request

from ..languages import current
from ..migration import rewrite
from .request import authenticate, components, read_json
from .response import json_response

blueprint = Blueprint("migrate", __name__)


@blueprint.post("/api/migrate/preview")
def preview() -> Response:
    """Translate a body of the legacy route; no model is asked."""
    authenticate(g.call, recorded=False)
    data = rewrite.preview(
        read_json(rewrite.MAX_BYTES), components().settings.default_model, request.host_url.rstrip("/")
    )
    response = json_response({"success": True, "data": data})
    response.headers["Content-Language"] = current()
    return response
