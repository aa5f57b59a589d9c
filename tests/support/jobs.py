"""A body of each dialect, the job it becomes, and what it is refused with."""

from chatapi.chat import ChatJob
from chatapi.errors import BadRequest
from chatapi.schemas import COMPLETIONS, LEGACY, OPENAI, RESPONSES
from support.tables import raised

DEFAULT_MODEL = "default/model"
USER = {"role": "user", "content": "Hi"}
DIALECTS = {"s1": COMPLETIONS, "openai": OPENAI, "legacy": LEGACY, "responses": RESPONSES}
LOAD = {name: dialect.load for name, dialect in DIALECTS.items()}
MINIMAL = {
    **{dialect: {"messages": [USER], "model": "org/name"} for dialect in ("s1", "openai")},
    "legacy": {"message": "Hi"},
    "responses": {"input": "Hi", "model": "org/name"},
}

WRONG_KINDS = {  # OpenAI's fields, and what they may not be
    "max_completion_tokens": ["100", 1.5],
    "n": ["2", True],
    "seed": [1.5, "7"],
    "presence_penalty": ["0.5"],
    "frequency_penalty": [True],
    "logprobs": [1],
    "top_logprobs": ["5"],
    "logit_bias": [[]],
    "tools": [{}],
    "tool_choice": [[]],
    "parallel_tool_calls": ["no"],
    "metadata": ["x"],
    "response_format": ["json"],
    "stream_options": [True],
    "user": [5],
    "reasoning_effort": [5],
    "functions": [{}],
    "function_call": [5],
    "stop": [5, {}],
}


def job_of(dialect, **fields) -> ChatJob:
    """Of a minimal body with `fields`."""
    return LOAD[dialect]({**MINIMAL[dialect], **fields}, DEFAULT_MODEL)


def refusal_of(dialect, **fields) -> BadRequest:
    return raised(BadRequest, job_of, dialect, **fields)


def faults_of(dialect, **fields) -> list[str]:
    """The paths that are named as faulty."""
    return list(refusal_of(dialect, **fields).details)
