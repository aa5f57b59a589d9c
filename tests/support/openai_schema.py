"""OpenAI's published response objects as JSON Schema (draft 2020-12), written down from its API reference.

    check(COMPLETION, response.json())
    check_stream(chunks, include_usage=True)

An object may hold further keys where OpenAI's own clients allow for them (messages, deltas, usage, models: providers
add reasoning, prices and the like); where a stray key would mean that something of ours leaked, it may not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
FINISH_REASONS = ["stop", "length", "tool_calls", "content_filter", "function_call"]


def thing(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None, closed: bool = False) -> Schema:
    """An object with these keys; `closed`: and no others."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": not closed}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


FUNCTION = thing({"name": TEXT, "arguments": TEXT})
TOOL_CALL = thing({"id": TEXT, "type": {"const": "function"}, "function": FUNCTION})
# Of a streamed call only the index comes every time: id, type and name come once, arguments in pieces.
PIECE = thing({}, {"name": TEXT, "arguments": TEXT})
TOOL_CALL_DELTA = thing({"index": COUNT}, {"id": TEXT, "type": {"const": "function"}, "function": PIECE})

_TOKEN = {"token": TEXT, "logprob": {"type": "number"}, "bytes": nullable(array({"type": "integer"}))}
TOKEN = thing({**_TOKEN, "top_logprobs": array(thing(_TOKEN))})
LOGPROBS = thing({"content": nullable(array(TOKEN))}, {"refusal": nullable(array(TOKEN))})

_DETAILS = dict.fromkeys(("cached_tokens", "audio_tokens", "reasoning_tokens", "accepted_prediction_tokens"), COUNT)
USAGE = thing(
    {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT},
    dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"), nullable(thing({}, _DETAILS))),
)

MESSAGE = thing(
    {"role": {"const": "assistant"}, "content": TEXT_OR_NULL, "refusal": TEXT_OR_NULL},
    {"tool_calls": array(TOOL_CALL, minItems=1), "function_call": FUNCTION},
)
CHOICE = thing(
    {"index": COUNT, "message": MESSAGE, "logprobs": nullable(LOGPROBS), "finish_reason": {"enum": FINISH_REASONS}}
)
_DELTA = {"role": {"const": "assistant"}, "content": TEXT_OR_NULL, "refusal": TEXT_OR_NULL, "function_call": PIECE}
DELTA = thing({}, {**_DELTA, "tool_calls": array(TOOL_CALL_DELTA, minItems=1)})
CHUNK_CHOICE = thing(
    {"index": COUNT, "delta": DELTA, "logprobs": nullable(LOGPROBS), "finish_reason": {"enum": [*FINISH_REASONS, None]}}
)


def completion_object(kind: str, choices: Schema, usage: Schema, usage_needed: bool) -> Schema:
    head = {"id": {"type": "string", "pattern": "^chatcmpl-.+"}, "object": {"const": kind}, "created": COUNT}
    needed = {**head, "model": {"type": "string", "minLength": 1}, "choices": choices}
    more = {"system_fingerprint": TEXT_OR_NULL, "service_tier": TEXT_OR_NULL, "usage": usage}
    # Open, at every level: what an upstream adds to its answer reaches the caller.
    return thing({**needed, "usage": usage} if usage_needed else needed, more)


COMPLETION = completion_object("chat.completion", array(CHOICE, minItems=1), USAGE, True)
CHUNK = completion_object("chat.completion.chunk", array(CHUNK_CHOICE), nullable(USAGE), False)

MODEL = thing({"id": TEXT, "object": {"const": "model"}, "created": COUNT, "owned_by": TEXT})
MODEL_LIST = thing({"object": {"const": "list"}, "data": array(MODEL)}, closed=True)

# OpenAI's four keys are always there, null where they say nothing; the last two are this gateway's.
SOME_TEXT: Schema = {"type": "string", "minLength": 1}
_ERROR = {"message": SOME_TEXT, "type": TEXT, "param": TEXT_OR_NULL, "code": TEXT_OR_NULL}
_ERROR |= {"retryable": {"type": "boolean"}, "request_id": SOME_TEXT}
ERROR = thing({"error": thing(_ERROR, closed=True)}, closed=True)


def check(schema: Schema, body: Any) -> Any:
    """`body`, once it is found to be what `schema` says; AssertionError with every difference."""
    faults = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(body)]
    assert not faults, f"{faults}\n{json.dumps(body, ensure_ascii=False)[:2000]}"
    return body


def check_stream(chunks: Sequence[Any], include_usage: bool = False, n: int = 1) -> list[Any]:
    """The chunks of a finished stream, once each is valid and all together are one answer."""
    for chunk in chunks:
        check(CHUNK, chunk)
    assert len({(c["id"], c["object"], c["created"]) for c in chunks}) == 1
    if include_usage:
        *chunks, last = chunks
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert not any("usage" in chunk for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert all(chunk["choices"] for chunk in chunks)
    for index in range(n):
        mine = [choice for choice in choices if choice["index"] == index]
        assert ["role" in choice["delta"] for choice in mine] == [True] + [False] * (len(mine) - 1)
        assert [choice["finish_reason"] is not None for choice in mine] == [False] * (len(mine) - 1) + [True]
    assert {choice["index"] for choice in choices} == set(range(n))
    return list(chunks)
