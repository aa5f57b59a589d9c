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


def const(value: Any) -> Schema:
    return {"const": value}


def closed(**fields: Schema) -> Schema:
    """An object with these keys and no others."""
    return thing(fields, closed=True)


def of(type_: str, **fields: Schema) -> Schema:
    """One of this type."""
    return closed(type=const(type_), **fields)


_TOKEN = {"token": TEXT, "logprob": NUMBER, "bytes": array({"type": "integer", "minimum": 0, "maximum": 255})}
TOKEN = closed(**_TOKEN, top_logprobs=array(closed(**_TOKEN)))
OUTPUT_TEXT = of("output_text", text=TEXT, annotations=array(OBJECT), logprobs=array(TOKEN))
REFUSAL = of("refusal", refusal=TEXT)
REASONING_TEXT = of("reasoning_text", text=TEXT)
PART = {"anyOf": [OUTPUT_TEXT, REFUSAL, REASONING_TEXT]}
CONTENT = array({"anyOf": [OUTPUT_TEXT, REFUSAL]})
SUMMARY = array(thing({"type": const("summary_text"), "text": TEXT}))

MESSAGE = of("message", id=id_of("msg"), role=const("assistant"), status=STATUS, content=CONTENT)
REASONING = of("reasoning", id=id_of("rs"), status=STATUS, summary=SUMMARY, content=array(REASONING_TEXT))
CALL_ID = {"type": "string", "minLength": 1}
FUNCTION_CALL = of("function_call", id=id_of("fc"), status=STATUS, call_id=CALL_ID, name=TEXT, arguments=TEXT)
ITEM = {"anyOf": [MESSAGE, REASONING, FUNCTION_CALL]}

USAGE = closed(
    input_tokens=COUNT,
    input_tokens_details=closed(cached_tokens=COUNT, cache_write_tokens=COUNT),
    output_tokens=COUNT,
    output_tokens_details=closed(reasoning_tokens=COUNT),
    total_tokens=COUNT,
)
TOOL = of("function", name=TEXT, description=TEXT_OR_NULL, parameters=nullable(OBJECT), strict=nullable(FLAG))
ALLOWED = {"type": const("allowed_tools"), "mode": {"enum": ["auto", "required"]}, "tools": array(OBJECT)}
TOOL_CHOICE = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]}, thing({"type": const("function"), "name": TEXT}), thing(ALLOWED)
    ]
}  # fmt: skip
FORMAT = {
    "anyOf": [
        thing({"type": {"enum": ["text", "json_object"]}}),
        thing({"type": const("json_schema"), "name": TEXT, "schema": OBJECT}),
    ]
}
# Of `error`, OpenAI has code and message; the others are this gateway's own.
CODE = {"enum": ["server_error", "rate_limit_exceeded"]}
ERROR = closed(code=CODE, message=TEXT, reason=TEXT, retryable=FLAG, request_id=TEXT)
RESPONSE = thing(
    {
        "id": id_of("resp"),
        "object": const("response"),
        "created_at": COUNT,
        "status": {"enum": ["in_progress", "completed", "incomplete", "failed"]},
        "completed_at": nullable(COUNT),
        "error": nullable(ERROR),
        "incomplete_details": nullable(closed(reason={"enum": ["max_output_tokens", "content_filter"]})),
        "output": array(ITEM),
        "usage": nullable(USAGE),
        "background": const(False),
        "max_output_tokens": nullable(COUNT),
        "max_tool_calls": nullable(COUNT),
        "metadata": {"type": "object", "additionalProperties": TEXT},
        "parallel_tool_calls": FLAG,
        "previous_response_id": {"type": "null"},
        "reasoning": closed(effort=TEXT_OR_NULL, summary=TEXT_OR_NULL),
        "store": const(False),
        "text": thing({"format": FORMAT}, {"verbosity": TEXT}, closed=True),
        "tool_choice": TOOL_CHOICE,
        "tools": array(TOOL),
        "top_logprobs": COUNT,
        "truncation": {"enum": ["auto", "disabled"]},
        **dict.fromkeys(("model", "service_tier"), TEXT),
        **dict.fromkeys(("instructions", "prompt_cache_key", "safety_identifier"), TEXT_OR_NULL),
        **dict.fromkeys(("frequency_penalty", "presence_penalty", "temperature", "top_p"), NUMBER),
    },
    {"user": TEXT},
    closed=True,
)

_ITEM_AT = {"output_index": COUNT, "item": ITEM}
_AT = {"item_id": TEXT, "output_index": COUNT}
_PART_AT = {**_AT, "content_index": COUNT}
_LOGPROBS = {"logprobs": array(thing({"token": TEXT, "logprob": NUMBER}, {"top_logprobs": array(OBJECT)}))}

EVENTS = {
    f"response.{name}": of(f"response.{name}", sequence_number=COUNT, **fields)
    for name, fields in {
        **{key: {"response": RESPONSE} for key in ("created", "in_progress", "completed", "incomplete", "failed")},
        "output_item.added": _ITEM_AT,
        "output_item.done": _ITEM_AT,
        "content_part.added": {**_PART_AT, "part": PART},
        "content_part.done": {**_PART_AT, "part": PART},
        "output_text.delta": {**_PART_AT, "delta": TEXT, **_LOGPROBS},
        "output_text.done": {**_PART_AT, "text": TEXT, **_LOGPROBS},
        "refusal.delta": {**_PART_AT, "delta": TEXT},
        "refusal.done": {**_PART_AT, "refusal": TEXT},
        "reasoning_text.delta": {**_PART_AT, "delta": TEXT},
        "reasoning_text.done": {**_PART_AT, "text": TEXT},
        "function_call_arguments.delta": {**_AT, "delta": TEXT},
        "function_call_arguments.done": {**_AT, "arguments": TEXT, "name": TEXT},
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
