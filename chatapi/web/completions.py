"""`POST /api/chat/completions`, the S1 dialect: messages in, envelope out."""

from flask import Blueprint, Response

from ..chat import ChatJob
from ..components import Components
from ..schemas import COMPLETIONS
from .request import authenticated, body
from .response import answer

blueprint = Blueprint("completions", __name__)


@blueprint.post(COMPLETIONS.path)
@authenticated
@body(COMPLETIONS)
def complete(job: ChatJob, parts: Components) -> Response:
    """Answer a conversation: an envelope, or chunks when `stream` is true."""
    return answer(job, COMPLETIONS, parts)
