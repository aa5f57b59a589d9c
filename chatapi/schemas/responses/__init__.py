"""OpenAI's Responses format, in and out: `POST /v1/responses`. Stateless: a request brings all that it is about."""

from dataclasses import replace

from ...languages import N_
from ..dialect import COUNT, MODEL, QUESTION, STRING, object_of
from ..openai import OPENAI
from .dump import dump_reply
from .events import ResponseWriter
from .items import SOME_MESSAGE
from .load import ResponsesSchema, load_job

RESPONSES = replace(  # its errors are those of OpenAI's other format
    OPENAI,
    path="/v1/responses",
    load=load_job,
    dump=dump_reply,
    events=ResponseWriter,
    request=("ResponsesRequest", ResponsesSchema),
    reply=(
        "Response",
        object_of(
            {
                "id": STRING,
                "object": {"const": "response"},
                "created_at": COUNT,
                "model": STRING,
                "output": {"type": "array", "items": {"type": "object"}},
            }
        ),
    ),
    summary=N_("Answer in OpenAI's Responses format; nothing is kept between calls."),
    details=N_("A `response` object, or typed events where `stream` is true."),
    example={"model": MODEL, "input": QUESTION},
    also=SOME_MESSAGE,
    renamed={"max_tokens": "max_output_tokens", "reasoning_effort": "reasoning.effort"},
)
