"""`/v1/chat/completions`, `/v1/models`, `/v1/usage`: what any OpenAI SDK speaks."""

from datetime import date

from flask import Blueprint, Response, g, request

from ..accounting import sums
from ..accounting.sums import report
from ..chat import ChatJob
from ..components import Components
from ..errors import BadRequest, ModelNotFound
from ..languages import _
from ..schemas import OPENAI
from .request import authenticated, body, components
from .response import answer, json_response

blueprint = Blueprint("openai", __name__)


@blueprint.post(OPENAI.path)
@authenticated
@body(OPENAI)
def create_completion(job: ChatJob, parts: Components) -> Response:
    """Create a chat completion: a `chat.completion` object, or chunks when `stream` is true."""
    return answer(job, OPENAI, parts)


@blueprint.get("/v1/models")
@authenticated
def list_models() -> Response:
    """List the models: the catalogue's, and those that the upstream lists."""
    models = [model for id, model in components().engine.models().items() if g.call.caller.may_use(id)]
    return json_response({"object": "list", "data": models})


@blueprint.get("/v1/models/<path:model>")
@authenticated
def retrieve_model(model: str) -> Response:
    """One model, by its id, slash and all."""
    g.call.caller.require([model])
    found = components().engine.models().get(model)
    if found is None:
        raise ModelNotFound(
            _("The model '{model}' is not listed here. GET /v1/models shows those that are.", model=model[:200]),
            details={"model": [_("not listed")]},
        )
    return json_response(found)


@blueprint.get("/v1/usage")
@authenticated
def list_usage() -> Response:
    """What the caller's own key has used, by model and day; `?since=` and `?until=` take days like 2026-11-30 (UTC)."""
    since, until = _day("since"), _day("until")
    rows = components().store.read(lambda tx: sums.used(tx, since, until, g.call.key_id or ""))
    return json_response({"object": "list", "data": report(rows)})


def _day(name: str) -> str | None:
    given = request.args.get(name)
    try:
        return date.fromisoformat(given).isoformat() if given else None
    except ValueError:
        raise BadRequest(
            _("{name} must be a day like 2026-11-30.", name=name), details={name: [_("must be a day")]}
        ) from None
