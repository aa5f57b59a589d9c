"""`POST /v1/responses`: what OpenAI's newer SDKs and agents speak."""

from flask import Blueprint, Response

from ..chat import ChatJob
from ..schemas import RESPONSES
from .calls import answer
from .request import authenticated, body

blueprint = Blueprint("responses", __name__)


@blueprint.post(RESPONSES.path)
@authenticated
@body(RESPONSES)
def create_response(job: ChatJob) -> Response:
    """Create a response: a `response` object, or typed events when `stream` is true. Nothing of it is kept."""
    return answer(job, RESPONSES)
