"""For operators: is it alive, is it ready."""

from flask import Blueprint, Response

from ..telemetry.metrics import metrics
from .request import authenticated, components
from .response import json_response

blueprint = Blueprint("operations", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Alive: the process answers."""
    return json_response({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> Response:
    """Ready: it takes calls (200), or not (503): `status` is ok, degraded, not ready or stopping.

    Each of `parts` has `ok`, a `reason` and the age of this finding; `circuit` names the models whose circuit is open,
    while their fallbacks answer.
    """
    parts = components()
    found = parts.health.look()
    opened = parts.engine.circuit.opened()
    circuit = {"open": {name: {"failed_s_ago": round(ago, 1)} for name, ago in opened.items()}}
    return json_response({**found, "circuit": circuit}, 200 if found["status"] in ("ok", "degraded") else 503)


@blueprint.get("/metrics")
@authenticated
def prometheus() -> Response:
    """Counters and times in Prometheus' text format, and the open circuits."""
    return Response(metrics(components().engine.circuit.opened()), mimetype="text/plain")
