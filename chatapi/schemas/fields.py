"""Fields of requests: JSON types strictly, so that nothing is coerced, and no body makes more faults than are told."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from marshmallow import INCLUDE, Schema, ValidationError, validates_schema
from marshmallow.fields import Field

from ..chat import Json
from ..languages import N_, _
from ..settings import is_model_id

MAX_FAULTS = 100  # of one array that are looked for: a body may hold millions
MAX_FALLBACKS = 16


def faults(items: Iterable[Any], fault: Callable[[Any], Any]) -> dict[int, Any]:
    """Place → what `fault` says of the item there; the first MAX_FAULTS only."""
    found = ((place, said) for place, item in enumerate(items) if (said := fault(item)))
    return dict(islice(found, MAX_FAULTS))


class Strict(Field[Any]):
    """A value of exactly the JSON types `kinds`; `true` is no number, `5.0` no integer, `"5"` neither."""

    def __init__(self, said: str, *kinds: type, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.said = said
        self.kinds = kinds

    def make_error(self, key: str, **kwargs: Any) -> ValidationError:
        """Marshmallow's own two faults of a field, in the caller's language."""
        if key == "null":
            return ValidationError(_("must be {kind}, not null", kind=_(self.said)))
        return ValidationError(_("is required"))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if type(value) not in self.kinds:
            raise ValidationError(_("must be {kind}", kind=_(self.said)))
        return value


class Flag(Strict):
    """true or false."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(N_("true or false"), bool, **kwargs)


class Text(Strict):
    """A string; with `blank` False one that has text."""

    def __init__(self, blank: bool = True, **kwargs: Any) -> None:
        super().__init__(N_("a string"), str, **kwargs)
        self.blank = blank

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if not self.blank and not text.strip():
            raise ValidationError(_("must have text"))
        return text


class Object(Strict):
    """A JSON object."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(N_("an object"), dict, **kwargs)


class TextOrObject(Strict):
    """A string, or an object."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(N_("a string or an object"), str, dict, **kwargs)


class Number(Strict):
    """A number from `low` to `high`, both included, and greater than `above`; an integer literal is fine."""

    said_kind = N_("a number")
    kinds_taken: tuple[type, ...] = (int, float)

    def __init__(
        self, low: float | None = None, high: float | None = None, *, above: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(self.said_kind, *self.kinds_taken, **kwargs)
        self.low = low
        self.high = high
        self.above = above

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        super()._deserialize(value, attr, data, **kwargs)
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            if self.high is None:
                raise ValidationError(_("must be at least {low}", low=f"{self.low:g}"))
            raise ValidationError(_("must be from {low} to {high}", low=f"{self.low:g}", high=f"{self.high:g}"))
        if self.above is not None and value <= self.above:
            raise ValidationError(_("must be above {low}", low=f"{self.above:g}"))
        return value


class Integer(Number):
    """A JSON number without fraction or exponent, from `low` to `high`."""

    said_kind = N_("an integer")
    kinds_taken = (int,)


class ModelId(Text):
    """`[org/]name[:suffix]`, so that no id can change the path or the host of a request."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if not is_model_id(text):
            raise ValidationError(
                _("must be a model id of the form org/name or org/name:suffix, in letters, digits, '.', '_' and '-'")
            )
        return text


class ModelIds(Strict):
    """A list of model ids."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(N_("an array of model ids"), list, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        ids = super()._deserialize(value, attr, data, **kwargs)
        if len(ids) > MAX_FALLBACKS:
            raise ValidationError(_("must have at most {most} model ids", most=MAX_FALLBACKS))
        said = [_("must be a model id of the form org/name")]
        if errors := faults(ids, lambda id: not (isinstance(id, str) and is_model_id(id)) and said):
            raise ValidationError(errors)
        return tuple(ids)


class Stop(Strict):
    """One stop string or several; always a list afterwards, as upstreams want it (HF§1.10)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(N_("a string or an array of strings"), str, list, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        given = super()._deserialize(value, attr, data, **kwargs)
        stops = [given] if isinstance(given, str) else given
        if errors := faults(stops, lambda stop: not isinstance(stop, str) and [_("must be a string")]):
            raise ValidationError(errors)
        return [stop for stop in stops if stop]


class Items(Strict):
    """An array of objects."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(N_("an array of objects"), list, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Json]:
        items: list[Json] = super()._deserialize(value, attr, data, **kwargs)
        if errors := faults(items, lambda item: not isinstance(item, dict) and [_("must be an object")]):
            raise ValidationError(errors)
        return items


# --- messages


class Messages(Strict):
    """One or more messages, in the dialect's roles; `parts` None takes any part type that is named."""

    def __init__(self, roles: tuple[str, ...], parts: tuple[str, ...] | None, **kwargs: Any) -> None:
        super().__init__(N_("an array of messages"), list, **kwargs)
        self.roles = roles
        self.parts = parts
        self.schema = MessageSchema(roles, parts)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Json]:
        given = super()._deserialize(value, attr, data, **kwargs)
        if not given:
            raise ValidationError(_("must have at least one message"))
        errors: dict[int, Any] = {}
        messages = []
        for i, item in enumerate(given):
            if len(errors) == MAX_FAULTS:
                errors[i] = [_("this message and those after it were not checked")]
                break
            if not isinstance(item, dict):
                errors[i] = [_("must be an object")]
                continue
            # What nearly every message looks like needs no schema: ten thousand of them pass in milliseconds.
            if len(item) == 2 and self._plain(item):
                messages.append(item)
                continue
            try:
                messages.append(_without_nothing(self.schema.load(item)))
            except ValidationError as error:
                errors[i] = error.messages
        if errors:
            raise ValidationError(errors)
        return messages

    def _plain(self, item: Json) -> bool:
        role, content = item.get("role"), item.get("content")
        if type(role) is not str or role not in self.roles or role == "tool":
            return False
        return type(content) is str or (type(content) is list and all(map(_is_plain_text, content)))


def _without_nothing(message: Json) -> Json:
    """A message without the keys that say nothing, as SDKs write those that are not set: some servers refuse them."""
    said = {key: value for key, value in message.items() if value is not None or key == "content"}
    if not said.get("tool_calls", True):
        del said["tool_calls"]
    return said


class Role(Text):
    """Who speaks, one of `roles`."""

    roles: tuple[str, ...] = ()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        role: str = super()._deserialize(value, attr, data, **kwargs)
        if role not in self.roles:
            raise ValidationError(_("must be one of {words}", words=", ".join(self.roles)))
        return role


class MessageSchema(Schema):
    """One message. Keys we do not know stay: they are the model's business (`name`, `tool_calls`, `tool_call_id`)."""

    class Meta:
        unknown = INCLUDE

    def __init__(self, roles: tuple[str, ...], parts: tuple[str, ...] | None) -> None:
        super().__init__()
        self.error_messages = {"type": "must be an object"}
        self._parts = parts
        self._roles = roles
        role = self.fields["role"]
        assert isinstance(role, Role)
        role.roles = roles

    role = Role(required=True)
    content: Field[Any] = Field(allow_none=True)
    tool_calls = Items(allow_none=True)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def check_content(self, data: Json, original_data: Any, **kwargs: Any) -> None:
        """Content is a string or parts; a tool's result and an assistant that calls tools may leave it out."""
        if not isinstance(original_data, dict):
            return
        content = original_data.get("content")
        if content is None:
            if not self._may_be_silent(original_data):
                said = _("is required") if "content" not in original_data else _("must not be null")
                raise ValidationError(said, "content")
        elif isinstance(content, list):
            if errors := faults(content, self._part_fault):
                raise ValidationError({"content": errors})
            data["content"] = [_normal_part(part) for part in content]
        elif not isinstance(content, str):
            raise ValidationError(_("must be a string or an array of parts"), "content")

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def check_tool_call_id(self, data: Json, original_data: Any, **kwargs: Any) -> None:
        """A tool's result says which call it is the result of."""
        if isinstance(original_data, dict) and original_data.get("role") == "tool" and "tool" in self._roles:
            given = original_data.get("tool_call_id")
            if not (isinstance(given, str) and given):
                raise ValidationError(_("is required: the id of the tool call this answers"), "tool_call_id")

    def _may_be_silent(self, message: Json) -> bool:
        role = message.get("role")
        if role == "tool":
            return "tool" in self._roles
        calls = message.get("tool_calls") or message.get("function_call")
        return role == "assistant" and bool("developer" in self._roles or calls)

    def _part_fault(self, part: Any) -> Any:
        if not isinstance(part, dict):
            return [_("must be an object with a type")]
        kind = part.get("type")
        if kind == "text":
            return {} if isinstance(part.get("text"), str) else {"text": [_("must be a string")]}
        if kind == "image_url":
            said = [_("must be an object with a url, or a URL as a string")]
            return {} if _image_url(part) else {"image_url": said}
        if isinstance(kind, str) and kind and (self._parts is None or kind in self._parts):
            return {}
        if self._parts is None:
            return {"type": [_("is required: text, image_url, or what the model knows")]}
        return {"type": [_("must be one of {words}", words=", ".join(self._parts))]}


def _is_plain_text(part: Any) -> bool:
    return type(part) is dict and len(part) == 2 and part.get("type") == "text" and type(part.get("text")) is str


def _image_url(part: Json) -> Json | None:
    """The image as OpenAI writes it, from any of the three spellings; `text` is S1's older one."""
    given = part.get("image_url", part.get("text"))
    if isinstance(given, str) and given.strip():
        return {"url": given}
    usable = isinstance(given, dict) and isinstance(given.get("url"), str) and given["url"].strip()
    return given if usable else None


def _normal_part(part: Json) -> Json:
    if part["type"] != "image_url":
        return part
    spelled = {"type", "image_url"} if "image_url" in part else {"type", "text"}
    beside = {key: value for key, value in part.items() if key not in spelled}
    return {"type": "image_url", "image_url": _image_url(part), **beside}


def flat(errors: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    """marshmallow's nested messages → (dotted path, messages)."""
    if isinstance(errors, list):
        yield path, errors
        return
    for key, inner in errors.items():
        # `_schema` is marshmallow's name for "the object itself".
        yield from flat(inner, path if key == "_schema" else f"{path}.{key}" if path else str(key))
