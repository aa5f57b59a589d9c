"""`/healthz`, `/readyz`, `/metrics`, for operators: is it alive, is it ready, how is it going."""

from flask import Blueprint, Response, request

from ..errors import AccessError, StoreUnavailable
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
    while their fallbacks answer. With a key, a part that is not well has the failure's own words as `detail`, and a
    circuit its server.
    """
    parts, with_key = components(), _has_key()
    found = parts.health.report(detailed=with_key)
    opened = parts.engine.circuit.opened()
    shown = {name if with_key else name.partition(" at ")[0]: ago for name, ago in opened.items()}
    circuit = {"open": {name: {"failed_s_ago": round(ago, 1)} for name, ago in shown.items()}}
    return json_response({**found, "circuit": circuit}, 200 if found["status"] in ("ok", "degraded") else 503)


def _has_key() -> bool:
    """Whether the caller has shown a key of ours: hosts and addresses are told nobody else."""
    try:
        return components().access.authenticate(request.environ, request.remote_addr).key_id is not None
    except (AccessError, StoreUnavailable):
        return False


@blueprint.get("/metrics")
@authenticated
def prometheus() -> Response:
    """Counters and times in Prometheus' text format, and the open circuits."""
    return Response(metrics(components().engine.circuit.opened()), mimetype="text/plain")
