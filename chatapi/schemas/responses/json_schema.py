"""What the fields of `POST /v1/responses` check, as JSON Schema keywords."""

from typing import Any

from marshmallow.fields import Field

from .items import ROLES, TEXT_PARTS, Input
from .load import Metadata, NotKept, Strings, Texts, TextSettings
from .tools import WORDS, ToolChoice, Tools

JsonSchema = dict[str, Any]

STRING: JsonSchema = {"type": "string"}
NAME: JsonSchema = {"type": "string", "minLength": 1}
HAS_TEXT: JsonSchema = {"type": "string", "pattern": r"\S"}


def keywords(field: Field[Any]) -> JsonSchema:
    """What `field` checks beside its type; nothing where it is a field of other dialects too."""
    if isinstance(field, TextSettings):
        return {"properties": {**_strings(*field.names), "format": {"anyOf": [_FORMAT, {"type": "null"}]}}}
    if isinstance(field, Texts):
        return {"properties": _strings(*field.names)}
    if isinstance(field, NotKept):
        return {"enum": [False, None] if bool in field.kinds else [None]}
    return next((said for kind, said in _OF if isinstance(field, kind)), {})


def some_message() -> JsonSchema:
    """Of a whole request: `input` or `instructions` has something to say to the model."""
    thought = {"properties": {"type": {"const": "reasoning"}}, "required": ["type"]}
    says = {"anyOf": [STRING, {"type": "array", "contains": {"not": thought}}]}
    instructed = {"properties": {"instructions": NAME}, "required": ["instructions"]}
    return {"anyOf": [{"properties": {"input": says}}, instructed]}


def _object(required: JsonSchema, **more: JsonSchema) -> JsonSchema:
    return {"type": "object", "properties": {**required, **more}, "required": list(required)}


def _or_null(kind: str) -> JsonSchema:
    return {"type": [kind, "null"]}


def _strings(*names: str) -> JsonSchema:
    return {name: _or_null("string") for name in names}


_PARTS = [_object({"type": {"const": kind}, key: STRING}) for kind, key in TEXT_PARTS.items()]
_PICTURE = _object({"type": {"const": "input_image"}, "image_url": HAS_TEXT}, file_id={"type": "null"})
_CONTENT = {"anyOf": [STRING, {"type": "array", "items": {"anyOf": [*_PARTS, _PICTURE]}}]}
_ITEMS = [
    _object({"role": {"enum": list(ROLES)}, "content": _CONTENT}, type={"enum": ["message", None]}),
    _object({"type": {"const": "function_call"}, "call_id": NAME, "name": NAME, "arguments": STRING}),
    _object({"type": {"const": "function_call_output"}, "call_id": NAME, "output": _CONTENT}),
    _object({"type": {"const": "reasoning"}}),
]

_SETTINGS = {"description": _or_null("string"), "parameters": _or_null("object"), "strict": _or_null("boolean")}
_FUNCTION = _object({"type": {"const": "function"}, "name": NAME}, **_SETTINGS)
_OTHER_TOOL = _object({"type": {"type": "string", "not": {"const": "function"}}})
_MODE = {"enum": ["auto", "required"]}
_CHOICES = [
    {"enum": [*WORDS, None]},
    _object({"type": {"const": "function"}, "name": NAME}),
    _object(
        {"type": {"const": "allowed_tools"}, "mode": _MODE, "tools": {"type": "array", "items": {"type": "object"}}}
    ),
]
_FORMAT = {
    "anyOf": [
        _object({"type": {"enum": ["text", "json_object"]}}),
        _object(
            {"type": {"const": "json_schema"}, "name": NAME, "schema": {"type": "object"}},
            **{name: _SETTINGS[name] for name in ("strict", "description")},
        ),
    ]
}
_OF: tuple[tuple[type, JsonSchema], ...] = (
    (Input, {"items": {"anyOf": _ITEMS}}),
    # What only OpenAI's servers run is taken beside a function.
    (
        Tools,
        {
            "items": {"anyOf": [_FUNCTION, _OTHER_TOOL]},
            "anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}, {"type": "array", "contains": _FUNCTION}],
        },
    ),
    (ToolChoice, {"anyOf": _CHOICES}),
    (Strings, {"items": STRING}),
    (Metadata, {"additionalProperties": STRING}),
)
