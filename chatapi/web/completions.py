"""The S1 dialect: messages in, envelope out."""

from flask import Blueprint, Response

from ..schemas.envelope import load_completions
from . import gate
from .replies import answer

blueprint = Blueprint("completions", __name__)


@blueprint.post("/api/chat/completions")
def complete() -> Response:
    """Answer a conversation.

    `messages` and `model` are required; the answer is `{"success": true, "data": {"response", "model", "usage"}}`,
    or a stream of `chat.completion.chunk` events when `stream` is true.
    """
    gate.admit()
    return answer(load_completions(gate.read_json()))
