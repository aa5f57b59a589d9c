"""Every marshmallow schema: bytes of a body → ChatJob, for all three dialects. Nothing is coerced, nothing is lost.

All faults of a body are reported together, keyed by dotted path (`messages.1.content.0.type`).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from marshmallow import INCLUDE, Schema, ValidationError, validate, validates_schema
from marshmallow.fields import Field

from ..chat import ChatJob, Json, has_image, text_of
from ..errors import BadRequest, InvalidJSON
from ..settings import is_model_id

MAX_DEPTH = 128  # arrays and objects within each other; a tool's JSON Schema needs a dozen
MAX_FAULTS = 100  # faulty messages, and faulty parts of each, that are looked for: a body may hold millions
NAMED_FAULTS = 20  # how many faulty fields a message spells out; `details` always has all of them


# --- bytes → JSON


def parse_json(raw: bytes) -> Json:
    """The JSON object in a body. Raises InvalidJSON or, for any other JSON value, BadRequest.

    RFC 8259 strictly: UTF-8, no NaN or Infinity, no duplicate names, no unpaired surrogates.
    """
    if not raw.strip():
        raise InvalidJSON("The body is empty. Send a JSON object.")
    try:
        value = _DECODER.decode(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"The body is not UTF-8 (byte {error.start}). Send JSON encoded as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"The body is not JSON: {error}. Check the text near that place.") from None
    except RecursionError:
        raise _too_deep() from None
    except _Refused as error:
        raise InvalidJSON(f"The body is not JSON: {error}.") from None
    except ValueError:  # Python's own limit on the digits of an integer
        raise InvalidJSON("The body has a number with more than 4300 digits. Send an ordinary number.") from None
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise _too_deep()
    # JSON can spell half a character ("\ud800"); it cannot be encoded again, and no upstream would take it.
    if b"\\ud" in raw or b"\\uD" in raw:
        _check_surrogates(value)
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.", details={"body": ["must be a JSON object"]})
    return value


class _Refused(ValueError):
    """Why JSON that Python would read is none."""


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        double = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise _Refused(f"the name {double[:64]!r} appears twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise _Refused(f"{name} is not a JSON number")


def _finite(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):  # 1e999 is JSON, but could not be written as JSON again
        raise _Refused(f"the number {literal[:32]} is too large")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _too_deep() -> InvalidJSON:
    return InvalidJSON(f"The body is nested more than {MAX_DEPTH} levels deep. Flatten it.")


_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def _depth(raw: bytes) -> int:
    """How deep valid JSON is nested, up to one more than MAX_DEPTH: each round takes the innermost brackets away."""
    brackets, depth = _STRINGS.sub(b"", raw).translate(_BRACKETS, _OTHERS), 0
    while brackets and depth <= MAX_DEPTH:
        brackets, depth = brackets.replace(b"[]", b""), depth + 1
    return depth


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidJSON("The body has an unpaired surrogate (\\ud800 to \\udfff). Send whole characters.") from None


# --- fields: JSON types, strictly


class Strict(Field[Any]):
    """A value of exactly the JSON types `kinds`; `true` is no number, `5.0` no integer, `"5"` neither."""

    def __init__(self, said: str, *kinds: type, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error_messages = {
            **self.error_messages,
            "required": "is required",
            "null": f"must be {said}, not null",
        }
        self._said = said
        self._kinds = kinds

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if type(value) not in self._kinds:
            raise ValidationError(f"must be {self._said}")
        return value


class Number(Strict):
    """A number; an integer literal is fine."""

    def __init__(self, low: float | None = None, high: float | None = None, **kwargs: Any) -> None:
        super().__init__("a number", int, float, validate=_between(low, high), **kwargs)


class Integer(Strict):
    """A JSON number without fraction or exponent."""

    def __init__(self, low: int | None = None, high: int | None = None, **kwargs: Any) -> None:
        super().__init__("an integer", int, validate=_between(low, high), **kwargs)


class ModelId(Strict):
    """`[org/]name[:suffix]`, so that no id can change the path or the host of a request."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("a string", str, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if not is_model_id(text):
            raise ValidationError(
                "must be a model id of the form org/name or org/name:suffix, in letters, digits, '.', '_' and '-'"
            )
        return text


class ModelIds(Strict):
    """A list of model ids."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("an array of model ids", list, validate=validate.Length(max=16), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        ids = super()._deserialize(value, attr, data, **kwargs)
        errors = {
            i: ["must be a model id of the form org/name"]
            for i, text in enumerate(ids)
            if not (isinstance(text, str) and is_model_id(text))
        }
        if errors:
            raise ValidationError(errors)
        return tuple(ids)


class Stop(Strict):
    """One stop string or several; always a list afterwards, as upstreams want it (HF§1.10)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("a string or an array of strings", str, list, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        given = super()._deserialize(value, attr, data, **kwargs)
        stops = [given] if isinstance(given, str) else given
        if errors := {i: ["must be a string"] for i, stop in enumerate(stops) if not isinstance(stop, str)}:
            raise ValidationError(errors)
        return [stop for stop in stops if stop]


class Items(Strict):
    """An array of objects."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("an array of objects", list, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Json]:
        items: list[Json] = super()._deserialize(value, attr, data, **kwargs)
        if errors := {i: ["must be an object"] for i, item in enumerate(items) if not isinstance(item, dict)}:
            raise ValidationError(errors)
        return items


def _between(low: float | None, high: float | None) -> validate.Validator | None:
    if low is None and high is None:
        return None
    said = f"must be from {low:g} to {high:g}" if high is not None else f"must be at least {low:g}"
    return validate.Range(min=low, max=high, error=said)


# --- messages


class Messages(Strict):
    """One or more messages, in the dialect's roles and part types."""

    def __init__(self, roles: tuple[str, ...], parts: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__("an array of messages", list, **kwargs)
        self._roles = roles
        self._schema = MessageSchema(roles, parts)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Json]:
        given = super()._deserialize(value, attr, data, **kwargs)
        if not given:
            raise ValidationError("must have at least one message")
        errors: dict[int, Any] = {}
        messages = []
        for i, item in enumerate(given):
            if len(errors) == MAX_FAULTS:
                errors[i] = ["this message and those after it were not checked"]
                break
            if not isinstance(item, dict):
                errors[i] = ["must be an object"]
                continue
            # What nearly every message looks like needs no schema: ten thousand of them pass in milliseconds.
            if len(item) == 2 and self._plain(item):
                messages.append(item)
                continue
            try:
                messages.append(self._schema.load(item))
            except ValidationError as error:
                errors[i] = error.messages
        if errors:
            raise ValidationError(errors)
        return messages

    def _plain(self, item: Json) -> bool:
        role, content = item.get("role"), item.get("content")
        if type(role) is not str or role not in self._roles:
            return False
        return type(content) is str or (type(content) is list and all(map(_is_plain_text, content)))


class MessageSchema(Schema):
    """One message. Keys we do not know stay: they are the model's business (`name`, `tool_calls`, `tool_call_id`)."""

    class Meta:
        unknown = INCLUDE

    def __init__(self, roles: tuple[str, ...], parts: tuple[str, ...]) -> None:
        super().__init__()
        self.error_messages = {"type": "must be an object"}
        self._roles = roles
        self._parts = parts
        self.fields["role"].validators = [validate.OneOf(roles, error=f"must be one of {', '.join(roles)}")]

    role = Strict("a string", str, required=True)
    content: Field[Any] = Field(allow_none=True)
    tool_calls = Items(allow_none=True)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def check_content(self, data: Json, original_data: Any, **kwargs: Any) -> None:
        """Content is a string or parts; only an assistant that calls tools may leave it out."""
        if not isinstance(original_data, dict):
            return
        content = original_data.get("content")
        if content is None:
            silent = original_data.get("role") == "assistant" and "assistant" in self._roles
            calls = original_data.get("tool_calls") or original_data.get("function_call")
            if not (silent and ("developer" in self._roles or calls)):
                raise ValidationError(
                    "is required" if "content" not in original_data else "must not be null", "content"
                )
        elif isinstance(content, list):
            if errors := dict(islice(_part_errors(content, self._parts), MAX_FAULTS)):
                raise ValidationError({"content": errors})
            data["content"] = [_normal_part(part) for part in content]
        elif not isinstance(content, str):
            raise ValidationError("must be a string or an array of parts", "content")


def _is_plain_text(part: Any) -> bool:
    return type(part) is dict and len(part) == 2 and part.get("type") == "text" and type(part.get("text")) is str


def _part_errors(content: list[Any], kinds: tuple[str, ...]) -> Iterator[tuple[int, Any]]:
    for i, part in enumerate(content):
        if not isinstance(part, dict):
            yield i, ["must be an object with a type"]
        elif errors := _errors_of_part(part, kinds):
            yield i, errors


def _errors_of_part(part: Json, kinds: tuple[str, ...]) -> dict[str, list[str]]:
    kind = part.get("type")
    if kind == "text":
        return {} if isinstance(part.get("text"), str) else {"text": ["must be a string"]}
    if kind == "image_url":
        return {} if _image_url(part) else {"image_url": ["must be an object with a url, or a URL as a string"]}
    if isinstance(kind, str) and kind in kinds:
        return {}
    return {"type": [f"must be one of {', '.join(kinds)}"]}


def _image_url(part: Json) -> Json | None:
    """The image as OpenAI writes it, from any of the three spellings; `text` is S1's older one."""
    given = part.get("image_url", part.get("text"))
    if isinstance(given, str) and given.strip():
        return {"url": given}
    usable = isinstance(given, dict) and isinstance(given.get("url"), str) and given["url"].strip()
    return given if usable else None


def _normal_part(part: Json) -> Json:
    return {"type": "image_url", "image_url": _image_url(part)} if part["type"] == "image_url" else part


def check_user_turn(messages: list[Json]) -> None:
    """Raises ValidationError unless some user message has text or an image."""
    if not any(m["role"] == "user" and (has_image(m) or text_of(m).strip()) for m in messages):
        raise ValidationError("at least one user message must have text or an image", "messages")


# --- the dialects

# Parts that are neither text nor image are forwarded as they are: the model's business.
_S1 = {"roles": ("user", "assistant", "system"), "parts": ("text", "image_url")}
_OPENAI = {
    "roles": (*_S1["roles"], "developer", "tool", "function"),
    "parts": (*_S1["parts"], "input_audio", "file", "refusal"),
}


class _Envelope(Schema):
    """What all dialects have around the messages."""

    class Meta:
        unknown = INCLUDE

    fallbacks = ModelIds(allow_none=True)


class OpenAIFields(_Envelope):
    """OpenAI's fields as openai-python sends them; null means not set, as it does there."""

    max_completion_tokens = Integer(allow_none=True)
    stop = Stop(allow_none=True)
    n = Integer(1, allow_none=True)
    seed = Integer(allow_none=True)
    presence_penalty = Number(-2, 2, allow_none=True)
    frequency_penalty = Number(-2, 2, allow_none=True)
    logprobs = Strict("true or false", bool, allow_none=True)
    top_logprobs = Integer(0, 20, allow_none=True)
    logit_bias = Strict("an object", dict, allow_none=True)
    tools = Items(allow_none=True)
    tool_choice = Strict("a string or an object", str, dict, allow_none=True)
    parallel_tool_calls = Strict("true or false", bool, allow_none=True)
    response_format = Strict("an object", dict, allow_none=True)
    stream_options = Strict("an object", dict, allow_none=True)
    user = Strict("a string", str, allow_none=True)
    reasoning_effort = Strict("a string", str, allow_none=True)
    metadata = Strict("an object", dict, allow_none=True)
    functions = Items(allow_none=True)
    function_call = Strict("a string or an object", str, dict, allow_none=True)


class CompletionsSchema(OpenAIFields):
    """S1: `POST /api/chat/completions`."""

    messages = Messages(**_S1, required=True)
    model = ModelId(required=True)
    stream = Strict("true or false", bool)
    temperature = Number(0, 2)
    max_tokens = Integer(1, 4096)
    max_completion_tokens = Integer(1, 4096, allow_none=True)
    top_p = Number(0, 1)
    top_k = Integer(1, 100)
    repetition_penalty = Number(0.1, 2)
    max_time = Integer(1, 120)


class OpenAISchema(OpenAIFields):
    """`POST /v1/chat/completions`: OpenAI's printed ranges; the rest is for the model to judge."""

    messages = Messages(**_OPENAI, required=True)
    model = ModelId(required=True)
    stream = Strict("true or false", bool, allow_none=True)
    temperature = Number(0, 2, allow_none=True)
    max_tokens = Integer(allow_none=True)
    top_p = Number(0, 1, allow_none=True)
    top_k = Integer(1, allow_none=True)
    repetition_penalty = Number(allow_none=True)
    max_time = Integer(1, 120, allow_none=True)

    @validates_schema(skip_on_field_errors=False)
    def check_stream_options(self, data: Json, **kwargs: Any) -> None:
        """`include_usage` is a JSON boolean."""
        if not isinstance((data.get("stream_options") or {}).get("include_usage"), bool | None):
            raise ValidationError({"stream_options": {"include_usage": ["must be true or false"]}})

    @validates_schema(skip_on_field_errors=False)
    def check_penalty(self, data: Json, **kwargs: Any) -> None:
        """The bound of `repetition_penalty` is open: above zero."""
        penalty = data.get("repetition_penalty")
        if penalty is not None and penalty <= 0:
            raise ValidationError("must be above 0", "repetition_penalty")


class LegacySchema(_Envelope):
    """`POST /api/huggingface-chat`: one message; sampling fields at the top level or in `parameters`."""

    message = Strict("a string", str, required=True)
    model = ModelId()
    stream = Strict("true or false", bool)
    temperature = Number(0, 2)
    max_tokens = Integer(1, 4096)
    top_p = Number(0, 1)
    top_k = Integer(1, 100)
    repetition_penalty = Number(0.1, 2)
    max_time = Integer(1, 120)

    @validates_schema(skip_on_field_errors=False)
    def check_message(self, data: Json, **kwargs: Any) -> None:
        """A message has text."""
        if isinstance(data.get("message"), str) and not data["message"].strip():
            raise ValidationError("must have text", "message")


LEGACY_SPELLINGS = {
    "prompt": "message",
    "inputs": "message",
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
}

_completions, _openai, _legacy = CompletionsSchema(), OpenAISchema(), LegacySchema()
LEGACY_FIELDS = frozenset(_legacy.fields)

# Fields that are about the call, not for the model.
_CALL_FIELDS = {"messages", "message", "model", "stream", "stream_options", "max_time", "fallbacks"}


def completions_job(body: Json) -> ChatJob:
    """The S1 dialect's job. Raises BadRequest naming every faulty field; unknown fields are ignored, and named."""
    data = _load(_completions, body, {}, check_user_turn)
    messages, dropped = _known_message_keys(data["messages"])
    unknown = [name for name in body if name not in _completions.fields]
    return _job(_completions, data, messages=messages, include_usage=True, ignored=(*unknown, *dropped))


def legacy_job(body: Json, default_model: str) -> ChatJob:
    """The legacy dialect's job, its older spellings and `parameters` folded in."""
    flat, paths, unused, errors = legacy_fields(body)
    data = _load(_legacy, flat, paths, errors=errors)
    messages = [{"role": "user", "content": data["message"]}]
    data.setdefault("model", default_model)
    unknown = [paths[name] for name in flat if name not in LEGACY_FIELDS]
    return _job(_legacy, data, messages=messages, include_usage=True, ignored=(*unknown, *unused))


def openai_job(body: Json) -> ChatJob:
    """The OpenAI dialect's job; unknown fields go on to chat upstreams as they are."""
    data = _load(_openai, body, {})
    extra = {name: value for name, value in body.items() if name not in _openai.fields}
    options = data.get("stream_options") or {}
    include_usage = options.get("include_usage") is True
    return _job(_openai, data, messages=data["messages"], include_usage=include_usage, extra=extra, strict=True)


def _job(schema: Schema, data: Json, *, messages: list[Json], **more: Any) -> ChatJob:
    options = {
        name: value
        for name, value in data.items()
        if name in schema.fields and name not in _CALL_FIELDS and value is not None
    }
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


def _load(schema: Schema, body: Json, paths: Mapping[str, str], check: Any = None, errors: Json | None = None) -> Json:
    errors = errors or {}
    data: Json = {}
    try:
        data = schema.load(body)
    except ValidationError as error:
        errors |= error.messages_dict
    try:
        if check and "messages" not in errors:
            check(data.get("messages") or schema.fields["messages"].deserialize(body["messages"]))
    except ValidationError as error:
        errors["messages"] = error.messages
    if errors:
        raise _invalid({paths.get(top, top): inner for top, inner in errors.items()})
    return data


def _invalid(errors: Mapping[str, Any]) -> BadRequest:
    details = dict(_flat(errors))
    shown = [f"{path}: {'; '.join(said)}" for path, said in list(details.items())[:NAMED_FAULTS]]
    rest = list(details)[NAMED_FAULTS:]
    if rest:
        shown.append(f"and {len(rest)} more: {', '.join(rest[:100])}")
    return BadRequest(f"The request is invalid: {'. '.join(shown)}.", details=details)


def _flat(errors: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    """marshmallow's nested messages → (dotted path, messages)."""
    if isinstance(errors, list):
        yield path, errors
        return
    for key, inner in errors.items():
        # `_schema` is marshmallow's name for "the object itself".
        yield from _flat(inner, path if key == "_schema" else f"{path}.{key}" if path else str(key))


def _known_message_keys(messages: list[Json]) -> tuple[list[Json], list[str]]:
    known = {"role", "content", "name", "tool_calls", "tool_call_id"}
    if all(message.keys() <= known for message in messages):
        return messages, []
    dropped = [f"messages.{i}.{key}" for i, m in enumerate(messages) for key in m if key not in known]
    return [{k: v for k, v in m.items() if k in known} for m in messages], dropped


class LegacyFields(NamedTuple):
    """A legacy body with one spelling for each field.

    `values` has what was written under the documented names, `paths` where each was written, `unused` the paths of
    spellings that lost against another, `errors` what is wrong with `parameters`.
    """

    values: Json
    paths: dict[str, str]
    unused: list[str]
    errors: Json


def legacy_fields(body: Json) -> LegacyFields:
    """The fields of a legacy body; what is wrong with their values is found later."""
    parameters = body.get("parameters", {})
    errors: Json = {}
    if not isinstance(parameters, dict):
        parameters, errors = {}, {"parameters": ["must be an object"]}
    flat: Json = {}
    paths: dict[str, str] = {}
    unused: list[str] = []
    given = [(name, name, value) for name, value in body.items() if name != "parameters"]
    given += [(f"parameters.{name}", name, value) for name, value in parameters.items()]
    for path, name, value in given:
        # The documented spelling wins over an older one, the top level over `parameters`.
        canonical = LEGACY_SPELLINGS.get(name, name)
        wins = canonical not in flat or (name == canonical and path == name)
        if canonical in flat:
            unused.append(paths[canonical] if wins else path)
        if wins:
            flat[canonical], paths[canonical] = value, path
    return LegacyFields(flat, paths, unused, errors)
