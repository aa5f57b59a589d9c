"""OpenAI's published Responses objects and stream events as JSON Schema, written down from its API reference.

check(RESPONSE, response.json())
check_events(events_of(body))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from chatapi.schemas import RESPONSES
from support.openai_schema import COUNT, TEXT, TEXT_OR_NULL, Schema, array, check, nullable, thing

NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
STATUS: Schema = {"enum": ["in_progress", "completed", "incomplete"]}


def id_of(prefix: str) -> Schema:
    return {"type": "string", "pattern": f"^{prefix}_[A-Za-z0-9]+$"}


_TOKEN = {"token": TEXT, "logprob": NUMBER, "bytes": array({"type": "integer", "minimum": 0, "maximum": 255})}
TOKEN = thing({**_TOKEN, "top_logprobs": array(thing(_TOKEN, closed=True))}, closed=True)

OUTPUT_TEXT = thing(
    {"type": {"const": "output_text"}, "text": TEXT, "annotations": array(OBJECT), "logprobs": array(TOKEN)},
    closed=True,
)
REFUSAL = thing({"type": {"const": "refusal"}, "refusal": TEXT}, closed=True)
REASONING_TEXT = thing({"type": {"const": "reasoning_text"}, "text": TEXT}, closed=True)
PART = {"anyOf": [OUTPUT_TEXT, REFUSAL, REASONING_TEXT]}

MESSAGE = thing(
    {
        "id": id_of("msg"),
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "status": STATUS,
        "content": array({"anyOf": [OUTPUT_TEXT, REFUSAL]}),
    },
    closed=True,
)
REASONING = thing(
    {
        "id": id_of("rs"),
        "type": {"const": "reasoning"},
        "status": STATUS,
        "summary": array(thing({"type": {"const": "summary_text"}, "text": TEXT})),
        "content": array(REASONING_TEXT),
    },
    closed=True,
)
FUNCTION_CALL = thing(
    {
        "id": id_of("fc"),
        "type": {"const": "function_call"},
        "status": STATUS,
        "call_id": {"type": "string", "minLength": 1},
        "name": TEXT,
        "arguments": TEXT,
    },
    closed=True,
)
ITEM = {"anyOf": [MESSAGE, REASONING, FUNCTION_CALL]}

USAGE = thing(
    {
        "input_tokens": COUNT,
        "input_tokens_details": thing({"cached_tokens": COUNT, "cache_write_tokens": COUNT}, closed=True),
        "output_tokens": COUNT,
        "output_tokens_details": thing({"reasoning_tokens": COUNT}, closed=True),
        "total_tokens": COUNT,
    },
    closed=True,
)
TOOL = thing(
    {
        "type": {"const": "function"},
        "name": TEXT,
        "description": TEXT_OR_NULL,
        "parameters": nullable(OBJECT),
        "strict": nullable(FLAG),
    },
    closed=True,
)
TOOL_CHOICE = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        thing({"type": {"const": "function"}, "name": TEXT}),
        thing({"type": {"const": "allowed_tools"}, "mode": {"enum": ["auto", "required"]}, "tools": array(OBJECT)}),
    ]
}
FORMAT = {
    "anyOf": [
        thing({"type": {"enum": ["text", "json_object"]}}),
        thing({"type": {"const": "json_schema"}, "name": TEXT, "schema": OBJECT}),
    ]
}
# Of `error`, OpenAI has code and message; the others are this gateway's own.
ERROR = thing(
    {
        "code": {"enum": ["server_error", "rate_limit_exceeded"]},
        "message": TEXT,
        "reason": TEXT,
        "retryable": FLAG,
        "request_id": TEXT,
    },
    closed=True,
)
RESPONSE = thing(
    {
        "id": id_of("resp"),
        "object": {"const": "response"},
        "created_at": COUNT,
        "status": {"enum": ["in_progress", "completed", "incomplete", "failed"]},
        "completed_at": nullable(COUNT),
        "error": nullable(ERROR),
        "incomplete_details": nullable(
            thing({"reason": {"enum": ["max_output_tokens", "content_filter"]}}, closed=True)
        ),
        "model": TEXT,
        "output": array(ITEM),
        "usage": nullable(USAGE),
        "background": {"const": False},
        "frequency_penalty": NUMBER,
        "instructions": TEXT_OR_NULL,
        "max_output_tokens": nullable(COUNT),
        "max_tool_calls": nullable(COUNT),
        "metadata": {"type": "object", "additionalProperties": TEXT},
        "parallel_tool_calls": FLAG,
        "presence_penalty": NUMBER,
        "previous_response_id": {"type": "null"},
        "prompt_cache_key": TEXT_OR_NULL,
        "reasoning": thing({"effort": TEXT_OR_NULL, "summary": TEXT_OR_NULL}, closed=True),
        "safety_identifier": TEXT_OR_NULL,
        "service_tier": TEXT,
        "store": {"const": False},
        "temperature": NUMBER,
        "text": thing({"format": FORMAT}, {"verbosity": TEXT}, closed=True),
        "tool_choice": TOOL_CHOICE,
        "tools": array(TOOL),
        "top_logprobs": COUNT,
        "top_p": NUMBER,
        "truncation": {"enum": ["auto", "disabled"]},
    },
    {"user": TEXT},
    closed=True,
)

_LIFECYCLE = {"response": RESPONSE}
_ITEM_AT = {"output_index": COUNT, "item": ITEM}
_AT = {"item_id": TEXT, "output_index": COUNT}
_PART_AT = {**_AT, "content_index": COUNT}
_SHOWN_TOKEN = thing({"token": TEXT, "logprob": NUMBER}, {"top_logprobs": array(OBJECT)})

EVENTS = {
    name: thing({"type": {"const": name}, "sequence_number": COUNT, **fields}, closed=True)
    for name, fields in {
        "response.created": _LIFECYCLE,
        "response.in_progress": _LIFECYCLE,
        "response.completed": _LIFECYCLE,
        "response.incomplete": _LIFECYCLE,
        "response.failed": _LIFECYCLE,
        "response.output_item.added": _ITEM_AT,
        "response.output_item.done": _ITEM_AT,
        "response.content_part.added": {**_PART_AT, "part": PART},
        "response.content_part.done": {**_PART_AT, "part": PART},
        "response.output_text.delta": {**_PART_AT, "delta": TEXT, "logprobs": array(_SHOWN_TOKEN)},
        "response.output_text.done": {**_PART_AT, "text": TEXT, "logprobs": array(_SHOWN_TOKEN)},
        "response.refusal.delta": {**_PART_AT, "delta": TEXT},
        "response.refusal.done": {**_PART_AT, "refusal": TEXT},
        "response.reasoning_text.delta": {**_PART_AT, "delta": TEXT},
        "response.reasoning_text.done": {**_PART_AT, "text": TEXT},
        "response.function_call_arguments.delta": {**_AT, "delta": TEXT},
        "response.function_call_arguments.done": {**_AT, "arguments": TEXT, "name": TEXT},
    }.items()
}
LAST = ("response.completed", "response.incomplete", "response.failed")


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events in a stream's bytes, comments left out; each named by its `event:` line as by its type."""
    events = []
    for block in body.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        (first, second) = lines
        event = json.loads(second.removeprefix("data: "))
        assert first == f"event: {event['type']}"
        events.append(event)
    return events


def comments_of(body: bytes) -> list[str]:
    """The comments in a stream's bytes."""
    return [block[2:] for block in body.decode().split("\n\n") if block.startswith(": ")]


def check_events(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Fail unless `events` are one response's, in order; gives the response that the last of them holds."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        check(EVENTS[event["type"]], event)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert [event["type"] in LAST for event in events] == [False] * (len(events) - 1) + [True]
    last: dict[str, Any] = events[-1]["response"]
    assert events[-1]["type"] == f"response.{last['status']}"
    assert {event["response"]["id"] for event in events if "response" in event} == {last["id"]}
    assert all(event["response"]["output"] == [] for event in events[:2])
    assert _built(events[2:-1]) == last["output"]
    return last


def _built(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that a client puts together from the events between the first two and the last."""
    items: list[dict[str, Any]] = []
    done: set[int] = set()
    for event in events:
        place, kind = event["output_index"], event["type"]
        if kind == "response.output_item.added":
            assert place == len(items)
            assert event["item"]["status"] == "in_progress"
            items.append(json.loads(json.dumps(event["item"])))
            continue
        item = items[place]
        assert place not in done, "an item grew after it was done"
        if kind == "response.output_item.done":
            assert event["item"] == {**item, "status": "completed"}
            item["status"] = "completed"
            done.add(place)
            continue
        assert event["item_id"] == item["id"]
        _grow(item, event)
    for place, item in enumerate(items):
        if place not in done:
            item["status"] = "incomplete"
    return items


def _grow(item: dict[str, Any], event: dict[str, Any]) -> None:
    kind = event["type"].removeprefix("response.")
    if kind == "function_call_arguments.delta":
        item["arguments"] += event["delta"]
    elif kind == "function_call_arguments.done":
        assert (event["arguments"], event["name"]) == (item["arguments"], item["name"])
    elif kind == "content_part.added":
        assert event["content_index"] == len(item["content"])
        item["content"].append(dict(event["part"]))
    else:
        assert event["content_index"] == len(item["content"]) - 1
        _grow_part(item["content"][-1], kind, event)


def _grow_part(part: dict[str, Any], kind: str, event: dict[str, Any]) -> None:
    key = "refusal" if part["type"] == "refusal" else "text"
    if kind == "content_part.done":
        assert event["part"] == part
        return
    assert kind.startswith(part["type"])
    if kind.endswith(".delta"):
        # Half a character may end one delta and the other half begin the next, as in a string of UTF-16.
        part[key] = (part[key] + event["delta"]).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        if event.get("logprobs"):
            part["logprobs"] = [*part["logprobs"], *event["logprobs"]]
    else:
        assert event[key] == part[key]
        assert event.get("logprobs", []) == part.get("logprobs", [])


WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


def without_ids(output):
    assert len({item["id"] for item in output}) == len(output)
    return [{k: v for k, v in item.items() if k != "id"} for item in output]


CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": '{"city":"Belém"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "32 °C"}


def load(**fields):
    return RESPONSES.load({"model": "org/name", "input": "Hi", **fields}, "")


def nested(call_id="c1"):
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": '{"city":"Belém"}'}}
