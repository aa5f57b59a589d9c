"""What a dialect is, and how a body becomes a job: every fault of it told at once, by its dotted path."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, Protocol

from marshmallow import Schema, ValidationError

from ..chat import ChatJob, Chunk, Json, Reply
from ..errors import BadRequest, ChatError
from ..languages import _
from .fields import flat

NAMED_FAULTS = 20  # how many faulty fields a message spells out
TOLD_FAULTS = 1000  # how many `details` holds
# Fields that are about the call, not for the model.
CALL_FIELDS = {"messages", "message", "model", "stream", "stream_options", "max_time", "fallbacks"}


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
    """One wire format, in and out."""

    load: Callable[[Json, str], ChatJob]  # body, model where it names none; raises BadRequest
    dump: Callable[[Reply, ChatJob], Json]
    events: Callable[[ChatJob], EventWriter]
    error: Callable[[ChatError, str], Json]  # error, request id
    status: Callable[[ChatError], int]
    headers: Callable[[ChatError], dict[str, str]]


@cache
def _required(schema: type[Schema]) -> tuple[str, ...]:
    return tuple(name for name, field in schema._declared_fields.items() if field.required)


def load(
    schema: type[Schema],
    body: Json,
    *,
    paths: Mapping[str, str] | None = None,
    check: Callable[[Any], None] | None = None,
    errors: Json | None = None,
) -> Json:
    """The fields of `body` that `schema` knows, checked. Raises BadRequest naming all that are wrong.

    `paths` says how the caller spelled a field, `check` looks at the messages as a whole, `errors` are faults
    found before.
    """
    errors = errors or {}
    data: Json = {}
    fields = schema._declared_fields
    # By hand, field by field: a body has four of thirty, and marshmallow's own load looks at all, at twice the time.
    for name, value in body.items():
        if (field := fields.get(name)) is not None:
            try:
                data[name] = field.deserialize(value, name, body)
            except ValidationError as error:
                errors[name] = error.messages
    for name in _required(schema):
        if name not in body:
            errors[name] = [_("is required")]
    if check and "messages" in data:
        try:
            check(data["messages"])
        except ValidationError as error:
            errors["messages"] = error.messages
    if errors:
        raise invalid({(paths or {}).get(top, top): inner for top, inner in errors.items()})
    return data


def invalid(errors: Mapping[str, Any]) -> BadRequest:
    """The refusal of a body with `errors`, as marshmallow nests them."""
    details = dict(islice(flat(errors), TOLD_FAULTS))
    shown = [f"{path}: {'; '.join(said)}" for path, said in islice(details.items(), NAMED_FAULTS)]
    if rest := list(islice(details, NAMED_FAULTS, None)):
        shown.append(_("and {count} more: {names}", count=len(rest), names=", ".join(rest[:100])))
    return BadRequest(_("The request is invalid: {faults}.", faults=". ".join(shown)), details=details)


def job_of(data: Json, *, messages: Sequence[Json], **more: Any) -> ChatJob:
    """The job in checked fields; what was set to null is not set."""
    options = {name: value for name, value in data.items() if value is not None and name not in CALL_FIELDS}
    return ChatJob(
        model=data["model"],
        messages=messages,
        options=options,
        stream=bool(data.get("stream")),
        stream_options=data.get("stream_options") or {},
        max_time_s=data.get("max_time"),
        fallbacks=data.get("fallbacks"),
        **more,
    )
