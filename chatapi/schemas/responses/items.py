"""Input items → messages: a string, messages in either form, function calls and what came of them."""

from collections.abc import Iterator, Sequence
from typing import Any

from ...chat import Json, Message
from ...languages import N_, _
from ..dialect import HAS_TEXT, NAME, STRING, object_of
from ..fields import not_named
from ..loading import Array, faults

ROLES = ("user", "assistant", "system", "developer")
# Part type → the key of its text.
TEXT_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}

Place = tuple[str, str]  # the path of an item, or of a field, and the key of the item's content


def _kind(item: Json) -> Any:
    """The item's type: a message may leave it out, and so may a reference."""
    if (kind := item.get("type")) is not None:
        return kind
    return "item_reference" if "id" in item and "role" not in item else "message"


def _message_fault(item: Json) -> Json:
    found: Json = {}
    if item.get("role") not in ROLES:
        found["role"] = [_("must be one of {words}", words=", ".join(ROLES))]
    return found | _content_fault(item, "content")


def _call_fault(item: Json) -> Json:
    found = not_named(item, "call_id") | not_named(item, "name")
    return found if isinstance(item.get("arguments"), str) else found | {"arguments": [_("must be a string")]}


def _output_fault(item: Json) -> Json:
    return not_named(item, "call_id") | _content_fault(item, "output")


def _reference_fault(item: Json) -> Json:
    return {
        "type": [
            _("refers to an item that this gateway does not keep: set store to false in the client, so that it sends "
              "the items themselves")
        ]
    }  # fmt: skip


def _content_fault(item: Json, key: str) -> Json:
    content = item.get(key)
    if isinstance(content, str):
        return {}
    if not isinstance(content, list):
        return {key: [_("must be a string or an array of parts")]}
    found = faults(content, _part_fault)
    return {key: found} if found else {}


def _part_fault(part: Any) -> Any:
    if not isinstance(part, dict):
        return [_("must be an object with a type")]
    kind = part.get("type")
    if isinstance(kind, str) and kind in TEXT_PARTS:
        key = TEXT_PARTS[kind]
        return {} if isinstance(part.get(key), str) else {key: [_("must be a string")]}
    if kind != "input_image":
        return {"type": [_("must be one of {words}", words=", ".join((*TEXT_PARTS, "input_image")))]}
    if part.get("file_id") is not None:
        return {"file_id": [_("names a file that this gateway does not keep: send the picture as image_url")]}
    url = part.get("image_url")
    return {} if isinstance(url, str) and url.strip() else {"image_url": [_("must be a URL as a string")]}


_FAULTS = {
    "message": _message_fault,
    "function_call": _call_fault,
    "function_call_output": _output_fault,
    "reasoning": lambda item: {},
    "item_reference": _reference_fault,
}
ITEMS = ("message", "function_call", "function_call_output", "reasoning")

# --- the same as JSON Schema

_PARTS = [object_of({"type": {"const": kind}, key: STRING}) for kind, key in TEXT_PARTS.items()]
_PICTURE = object_of({"type": {"const": "input_image"}, "image_url": HAS_TEXT}, file_id={"type": "null"})
_CONTENT = {"anyOf": [STRING, {"type": "array", "items": {"anyOf": [*_PARTS, _PICTURE]}}]}
_ITEMS = [
    object_of({"role": {"enum": list(ROLES)}, "content": _CONTENT}, type={"enum": ["message", None]}),
    object_of({"type": {"const": "function_call"}, "call_id": NAME, "name": NAME, "arguments": STRING}),
    object_of({"type": {"const": "function_call_output"}, "call_id": NAME, "output": _CONTENT}),
    object_of({"type": {"const": "reasoning"}}),
]
_INSTRUCTED = {"properties": {"instructions": NAME}, "required": ["instructions"]}
_THOUGHT = {"properties": {"type": {"const": "reasoning"}}, "required": ["type"]}
_SAYS = {"anyOf": [STRING, {"type": "array", "contains": {"not": _THOUGHT}}]}
# Of a whole request: `input` or `instructions` has something to say to the model.
SOME_MESSAGE = {"anyOf": [{"properties": {"input": _SAYS}}, _INSTRUCTED]}


class Input(Array):
    """A string, or an array of items; as it was given, for `conversation` to read."""

    said, kinds = N_("a string or an array of items"), (str, list)
    keywords = {"items": {"anyOf": _ITEMS}}

    def _fault(self, item: Any) -> Any:
        if not isinstance(item, dict):
            return [_("must be an object")]
        kind = _kind(item)
        fault = _FAULTS.get(kind) if isinstance(kind, str) else None
        return fault(item) if fault else {"type": [_("must be one of {words}", words=", ".join(ITEMS))]}

    def _checked(self, value: Any) -> str | list[Json]:
        return value if isinstance(value, str) else super()._checked(value)


# --- checked items → messages


def conversation(given: str | Sequence[Json], instructions: str | None) -> tuple[list[Message], list[Place]]:
    """The messages, and for each of them where the caller wrote it."""
    pairs: list[tuple[Message, Place]] = []
    if instructions:
        pairs.append(({"role": "system", "content": instructions}, ("instructions", "")))
    if isinstance(given, str):
        pairs.append(({"role": "user", "content": given}, ("input", "")))
    else:
        pairs += _messages(given)
    return [message for message, place in pairs], [place for message, place in pairs]


def _messages(items: Sequence[Json]) -> Iterator[tuple[Message, Place]]:
    # What a model said and the functions it called in one go are one message to it, thoughts between them or not.
    turn: Message | None = None
    for number, item in enumerate(items):
        kind = _kind(item)
        if kind == "reasoning":
            continue
        if kind == "function_call":
            if turn is None:
                turn = {"role": "assistant", "content": None}
                yield turn, (f"input.{number}", "content")
            turn.setdefault("tool_calls", []).append(_tool_call(item))
        elif kind == "function_call_output":
            turn = None
            content = _content(item["output"])
            yield {"role": "tool", "tool_call_id": item["call_id"], "content": content}, (f"input.{number}", "output")
        elif item["role"] == "assistant" and turn is not None and turn["content"] is None:
            turn["content"] = _content(item["content"])
        else:
            message = {"role": item["role"], "content": _content(item["content"])}
            turn = message if item["role"] == "assistant" else None
            yield message, (f"input.{number}", "content")


def path_in_input(path: str, places: Sequence[Place]) -> str:
    """`messages…` as the caller wrote it: `input`, an item, or a place within an item's content."""
    number, _, within = path.removeprefix("messages").removeprefix(".").partition(".")
    if not number.isdigit() or int(number) >= len(places):
        return "input"
    item, content = places[int(number)]
    if not within or not content:
        return item
    return f"{item}.{content}{within.removeprefix('content')}" if within.startswith("content") else f"{item}.{within}"


def _tool_call(item: Json) -> Json:
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _content(given: str | list[Json]) -> str | list[Json]:
    """Text as a string, which every chat template reads; parts only where there is a picture among them."""
    if isinstance(given, str):
        return given
    if all(part["type"] in TEXT_PARTS for part in given):
        return "\n".join(part[TEXT_PARTS[part["type"]]] for part in given)
    return [_part(part) for part in given]


def _part(part: Json) -> Json:
    if part["type"] in TEXT_PARTS:
        return {"type": "text", "text": part[TEXT_PARTS[part["type"]]]}
    detail = {"detail": part["detail"]} if part.get("detail") else {}
    return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
