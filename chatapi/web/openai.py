"""The OpenAI dialect: what any OpenAI SDK speaks."""

from datetime import date

from flask import Blueprint, Response, request

from ..accounting import statements
from ..accounting.ledger import report
from ..errors import BadRequest, ModelNotFound
from ..schemas.openai import load_job
from . import gate
from .replies import answer, json_response

blueprint = Blueprint("openai", __name__)


@blueprint.post("/v1/chat/completions")
def create_completion() -> Response:
    """Create a chat completion: a `chat.completion` object, or chunks when `stream` is true."""
    gate.admit()
    return answer(load_job(gate.read_json()))


@blueprint.get("/v1/models")
def list_models() -> Response:
    """List the models: the catalogue's, and those that the upstream lists."""
    caller = gate.admit()
    models = [model for id, model in gate.parts().engine.models().items() if caller.may_use(id)]
    return json_response({"object": "list", "data": models})


@blueprint.get("/v1/models/<path:model>")
def retrieve_model(model: str) -> Response:
    """One model, by its id, slash and all."""
    gate.admit().require([model])
    found = gate.parts().engine.models().get(model)
    if found is None:
        raise ModelNotFound(
            f"The model '{model[:200]}' is not listed here. GET /v1/models shows those that are.",
            details={"model": ["not listed"]},
        )
    return json_response(found)


@blueprint.get("/v1/usage")
def list_usage() -> Response:
    """What the caller's own key has used, by model and day; `?since=` and `?until=` take days like 2026-11-30 (UTC)."""
    caller = gate.admit()
    since, until = _day("since"), _day("until")
    rows = gate.parts().store.read(lambda tx: statements.used(tx, since, until, caller.key_id or ""))
    return json_response({"object": "list", "data": report(rows)})


def _day(name: str) -> str | None:
    given = request.args.get(name)
    try:
        return date.fromisoformat(given).isoformat() if given else None
    except ValueError:
        raise BadRequest(f"{name} must be a day like 2026-11-30.", details={name: ["must be a day"]}) from None
