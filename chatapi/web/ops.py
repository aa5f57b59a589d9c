"""For operators: is it alive."""

from flask import Blueprint, Response

from .replies import json_response

blueprint = Blueprint("ops", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Alive: the process answers."""
    return json_response({"status": "ok"})
