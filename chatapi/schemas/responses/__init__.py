"""OpenAI's Responses format, in and out: `POST /v1/responses`. Stateless: a request brings all that it is about."""

from ..loading import Dialect
from ..openai import dump_error, error_headers
from .dump import dump_reply
from .events import ResponseWriter
from .load import load_job

RESPONSES = Dialect(
    load=load_job,
    dump=dump_reply,
    events=ResponseWriter,
    error=dump_error,
    status=lambda error: error.status,
    headers=error_headers,
)
