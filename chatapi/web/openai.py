"""The OpenAI dialect: what any OpenAI SDK speaks."""

from flask import Blueprint, Response

from ..errors import ModelNotFound
from ..schemas import openai_job
from . import gate
from .replies import answer, json_response

blueprint = Blueprint("openai", __name__)


@blueprint.post("/v1/chat/completions")
def create_completion() -> Response:
    """Create a chat completion: a `chat.completion` object, or chunks when `stream` is true."""
    gate.admit()
    return answer(openai_job(gate.read_json()))


@blueprint.get("/v1/models")
def list_models() -> Response:
    """List the models: the catalogue's, and those that the upstream lists."""
    gate.admit()
    return json_response({"object": "list", "data": list(gate.parts().engine.models().values())})


@blueprint.get("/v1/models/<path:model>")
def retrieve_model(model: str) -> Response:
    """One model, by its id, slash and all."""
    gate.admit()
    found = gate.parts().engine.models().get(model)
    if found is None:
        raise ModelNotFound(
            f"The model '{model[:200]}' is not listed here. GET /v1/models shows those that are.",
            details={"model": ["not listed"]},
        )
    return json_response(found)
