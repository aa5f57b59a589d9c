"""`POST /v1/responses`: what OpenAI's newer SDKs and agents speak."""

from flask import Blueprint, Response

from ..chat import ChatJob
from ..components import Components
from ..schemas import RESPONSES
from .request import authenticated, body
from .response import answer

blueprint = Blueprint("responses", __name__)


@blueprint.post(RESPONSES.path)
@authenticated
@body(RESPONSES)
def create_response(job: ChatJob, parts: Components) -> Response:
    """Create a response: a `response` object, or typed events when `stream` is true. Nothing of it is kept."""
    return answer(job, RESPONSES, parts)
