"""For operators: is it alive, is it ready."""

from flask import Blueprint, Response

from ..telemetry import metrics
from . import gate
from .replies import json_response

blueprint = Blueprint("ops", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Alive: the process answers."""
    return json_response({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> Response:
    """Ready: it takes calls. `circuit` names the models whose circuit is open; their fallbacks answer meanwhile."""
    opened = gate.parts().engine.circuit.opened()
    circuit = {"open": {name: {"failed_s_ago": round(ago, 1)} for name, ago in opened.items()}}
    return json_response({"status": "ok", "circuit": circuit})


@blueprint.get("/metrics")
def prometheus() -> Response:
    """Counters and times in Prometheus' text format, and the open circuits."""
    gate.admit()
    return Response(metrics(gate.parts().engine.circuit.opened()), mimetype="text/plain")
