"""How a body becomes a job: each field strictly of its JSON types, and every fault told at once, by its dotted path.

Here is what every call has: texts, a model, messages. The other fields are in `fields`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

from marshmallow import Schema, ValidationError, missing
from marshmallow.fields import Field

from ..chat import ChatJob, Json
from ..errors import BadRequest
from ..languages import N_, _
from ..settings import MODEL_ID_LENGTH, MODEL_ID_PATTERN, is_model_id

MAX_FAULTS = 100  # of one array that are looked for: a body may hold millions
NAMED_FAULTS = 20  # how many faulty fields a message spells out
TOLD_FAULTS = 1000  # how many `details` holds
# Fields that are about the call, not for the model.
CALL_FIELDS = {"messages", "message", "model", "stream", "stream_options", "max_time", "fallbacks"}


def load(
    schema: type[Schema], body: Json, *, paths: Mapping[str, str] | None = None, errors: Json | None = None
) -> Json:
    """The fields of `body` that `schema` knows, checked. Raises BadRequest naming all that are wrong.

    `paths` says how the caller spelled a field, `errors` are faults found before.
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
    if errors:
        raise invalid({(paths or {}).get(top, top): inner for top, inner in errors.items()})
    return data


@cache
def _required(schema: type[Schema]) -> tuple[str, ...]:
    return tuple(name for name, field in schema._declared_fields.items() if field.required)


def invalid(errors: Mapping[str, Any]) -> BadRequest:
    """The refusal of a body with `errors`: by name of a field, lists of texts or, of what is within it, the same."""
    details = dict(islice(_flat(errors), TOLD_FAULTS))
    shown = [f"{path}: {'; '.join(said)}" for path, said in islice(details.items(), NAMED_FAULTS)]
    if rest := list(islice(details, NAMED_FAULTS, None)):
        shown.append(_("and {count} more: {names}", count=len(rest), names=", ".join(rest[:100])))
    return BadRequest(_("The request is invalid: {faults}.", faults=". ".join(shown)), details=details)


def _flat(errors: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    if isinstance(errors, list):
        yield path, errors
        return
    for key, inner in errors.items():
        yield from _flat(inner, f"{path}.{key}" if path else str(key))


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


def faults(items: Iterable[Any], fault: Callable[[Any], Any]) -> dict[int, Any]:
    """Place → what `fault` says of the item there; the first MAX_FAULTS only."""
    found = ((place, said) for place, item in enumerate(items) if (said := fault(item)))
    return dict(islice(found, MAX_FAULTS))


# --- fields that every call has


class Strict(Field[Any]):
    """A value of exactly the JSON types `kinds`; `true` is no number, `5.0` no integer, `"5"` neither."""

    said: str  # what it must be
    kinds: tuple[type, ...]
    keywords: Json = {}  # what it checks beside the type, in JSON Schema

    def make_error(self, key: str, **kwargs: Any) -> ValidationError:
        """Marshmallow's own two faults of a field, in the caller's language."""
        if key == "null":
            return ValidationError(_("must be {kind}, not null", kind=_(self.said)))
        return ValidationError(_("is required"))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if type(value) not in self.kinds:
            raise ValidationError(_("must be {kind}", kind=_(self.said)))
        return self._checked(value)

    def _checked(self, value: Any) -> Any:
        """What is taken of a value of the right type. Raises ValidationError."""
        return value


class Text(Strict):
    """A string; with `blank` False one that has text."""

    said, kinds = N_("a string"), (str,)

    def __init__(self, blank: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blank = blank
        if not blank:
            self.keywords = {"pattern": r"\S"}

    def _checked(self, value: str) -> str:
        if not self.blank and not value.strip():
            raise ValidationError(_("must have text"))
        return value


class Word(Text):
    """One of `words`."""

    def __init__(self, *words: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = words
        self.keywords = {"enum": [*words, None] if self.allow_none else list(words)}

    def _checked(self, value: str) -> str:
        if value not in self.words:
            raise ValidationError(_("must be one of {words}", words=", ".join(self.words)))
        return value


class ModelId(Text):
    """`[org/]name[:suffix]`, so that no id can change the path or the host of a request."""

    keywords = {"pattern": MODEL_ID_PATTERN, "maxLength": MODEL_ID_LENGTH}

    def _checked(self, value: str) -> str:
        if not is_model_id(value):
            raise ValidationError(
                _("must be a model id of the form org/name or org/name:suffix, in letters, digits, '.', '_' and '-'")
            )
        return value


class Array(Strict):
    """A JSON array, of whose items `_fault` finds nothing to say."""

    kinds: tuple[type, ...] = (list,)

    def _fault(self, item: Any) -> Any:
        """What is wrong with `item`: texts, or texts by key; nothing where it is right."""
        raise NotImplementedError

    def _checked(self, value: list[Any]) -> Any:
        if errors := faults(value, self._fault):
            raise ValidationError(errors)
        return value


class Items(Array):
    """An array of objects."""

    said = N_("an array of objects")
    keywords = {"items": {"type": "object"}}

    def _fault(self, item: Any) -> Any:
        return not isinstance(item, dict) and [_("must be an object")]


# --- messages


class Messages(Strict):
    """One or more messages, in the dialect's roles; `parts` None takes any part type that is named.

    Keys of a message that we do not know stay: they are the model's business.
    """

    said, kinds = N_("an array of messages"), (list,)

    def __init__(self, roles: tuple[str, ...], parts: tuple[str, ...] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.roles = roles
        self.parts = parts
        self._fields = {"role": Word(*roles, required=True), "tool_calls": Items(allow_none=True)}

    def _checked(self, value: list[Any]) -> list[Json]:
        if not value:
            raise ValidationError(_("must have at least one message"))
        errors: dict[int, Any] = {}
        messages = []
        for i, item in enumerate(value):
            if len(errors) == MAX_FAULTS:
                errors[i] = [_("this message and those after it were not checked")]
                break
            # What nearly every message looks like is seen at once: ten thousand of them pass in milliseconds.
            if type(item) is dict and len(item) == 2 and self._plain(item):
                messages.append(item)
            elif found := self._fault(item):
                errors[i] = found
            else:
                messages.append(_normal(item))
        if errors:
            raise ValidationError(errors)
        return messages

    def _plain(self, item: Json) -> bool:
        role, content = item.get("role"), item.get("content")
        if type(role) is not str or role not in self.roles or role == "tool":
            return False
        return type(content) is str or (type(content) is list and all(map(_is_plain_text, content)))

    def _fault(self, message: Any) -> Any:
        if not isinstance(message, dict):
            return [_("must be an object")]
        found: Json = {}
        for name, field in self._fields.items():
            try:
                field.deserialize(message.get(name, missing), name, message)
            except ValidationError as error:
                found[name] = error.messages
        if said := self._content_fault(message):
            found["content"] = said
        if message.get("role") == "tool" and "tool" in self.roles:
            answered = message.get("tool_call_id")
            if not (isinstance(answered, str) and answered):
                found["tool_call_id"] = [_("is required: the id of the tool call this answers")]
        return found

    def _content_fault(self, message: Json) -> Any:
        """Content is a string or parts; a tool's result and an assistant that calls tools may leave it out."""
        content = message.get("content")
        if content is None and not self._may_be_silent(message):
            return [_("is required") if "content" not in message else _("must not be null")]
        if isinstance(content, list):
            return faults(content, self._part_fault)
        return not isinstance(content, str | None) and [_("must be a string or an array of parts")]

    def _may_be_silent(self, message: Json) -> bool:
        role = message.get("role")
        if role in ("tool", "function"):
            return role in self.roles and (role == "tool" or "content" in message)
        calls = message.get("tool_calls") or message.get("function_call")
        return role == "assistant" and bool("developer" in self.roles or calls)

    def _part_fault(self, part: Any) -> Any:
        if not isinstance(part, dict):
            return [_("must be an object with a type")]
        kind = part.get("type")
        if kind == "text":
            return {} if isinstance(part.get("text"), str) else {"text": [_("must be a string")]}
        if kind == "image_url":
            said = [_("must be an object with a url, or a URL as a string")]
            return {} if _image_url(part) else {"image_url": said}
        if isinstance(kind, str) and kind and (self.parts is None or kind in self.parts):
            return {}
        if self.parts is None:
            return {"type": [_("is required: text, image_url, or what the model knows")]}
        return {"type": [_("must be one of {words}", words=", ".join(self.parts))]}


def _is_plain_text(part: Any) -> bool:
    return type(part) is dict and len(part) == 2 and part.get("type") == "text" and type(part.get("text")) is str


def _normal(message: Json) -> Json:
    """A message without the keys that say nothing, as SDKs write those that are not set: some servers refuse them."""
    said = {key: value for key, value in message.items() if value is not None or key == "content"}
    if not said.get("tool_calls", True):
        del said["tool_calls"]
    if isinstance(said.get("content"), list):
        said["content"] = [_normal_part(part) for part in said["content"]]
    return said


def _normal_part(part: Json) -> Json:
    if part["type"] != "image_url":
        return part
    spelled = {"type", "image_url"} if "image_url" in part else {"type", "text"}
    beside = {key: value for key, value in part.items() if key not in spelled}
    return {"type": "image_url", "image_url": _image_url(part), **beside}


def _image_url(part: Json) -> Json | None:
    """The image as OpenAI writes it, from any of the three spellings; `text` is S1's older one."""
    given = part.get("image_url", part.get("text"))
    if isinstance(given, str) and given.strip():
        return {"url": given}
    usable = isinstance(given, dict) and isinstance(given.get("url"), str) and given["url"].strip()
    return given if usable else None
