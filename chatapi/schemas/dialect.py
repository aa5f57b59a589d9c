"""What a dialect is: one value with all that the routes, the reference and the playground have to know of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from marshmallow import Schema

from ..chat import ChatJob, Chunk, Json, Reply
from ..errors import ChatError, error_classes

# For examples.
QUESTION = "What is Brazil?"
MODEL = "openai/gpt-oss-120b"
CONVERSATION = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}


class EventWriter(Protocol):
    """Renders one stream's events, each call whole events as bytes."""

    def chunk(self, chunk: Chunk) -> bytes:
        """The events that `chunk` makes."""
        ...

    def pieces(self, pieces: list[bytes]) -> bytes:
        """The events of plain text: JSON-escaped pieces of choice 0, from the model of the last chunk."""
        ...

    def end(self) -> bytes:
        """What follows the last chunk of a stream that ended well."""
        ...

    def error(self, error: ChatError, request_id: str) -> bytes:
        """The last event of a stream that failed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One wire format, in and out.

    `request`, `reply` and `failure` are bodies as the reference names and describes them: the first by the fields that
    `load` checks and `also` by what it checks of them together, the others by their JSON Schema.
    """

    path: str  # of its route, for POST
    load: Callable[[Json, str], ChatJob]  # body, model where it names none; raises BadRequest
    dump: Callable[[Reply, ChatJob], Json]
    events: Callable[[ChatJob], EventWriter]
    error: Callable[[ChatError, str], Json]  # error, request id
    status: Callable[[Any], int]  # of an error, or of a class of errors
    headers: Callable[[ChatError], dict[str, str]]
    request: tuple[str, type[Schema]]
    reply: tuple[str, Json]
    failure: tuple[str, Json]
    summary: str
    details: str
    example: Json  # of a request
    label: str  # in the playground's list
    # Parameters that are not called there what they are here; a dotted name is a key within an object.
    renamed: Mapping[str, str] = field(default_factory=dict)
    also: Json = field(default_factory=dict)  # JSON Schema
    deprecated: bool = False


# --- JSON Schema

JsonSchema = dict[str, Any]

STRING: JsonSchema = {"type": "string"}
NAME: JsonSchema = {"type": "string", "minLength": 1}
HAS_TEXT: JsonSchema = {"type": "string", "pattern": r"\S"}
COUNT: JsonSchema = {"type": "integer", "minimum": 0}
USAGE_KEYS = ("prompt_tokens", "completion_tokens", "total_tokens")


def object_of(required: JsonSchema, **more: Any) -> JsonSchema:
    """An object that has `required`, and may have `more`."""
    return {"type": "object", "properties": {**required, **more}, "required": list(required)}


def or_null(kind: str) -> JsonSchema:
    """A value of the JSON type `kind`, or null."""
    return {"type": [kind, "null"]}


USAGE = object_of(dict.fromkeys(USAGE_KEYS, COUNT))
# What the errors of all dialects say.
ERROR_FIELDS: JsonSchema = {
    "message": STRING,
    "retryable": {"type": "boolean"},
    "request_id": STRING,
    "code": {"enum": [kind.code for kind in error_classes()]},
}
