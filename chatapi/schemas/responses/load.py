"""A request of OpenAI's Responses format → the same job that chat completions make. Nothing is kept between calls."""

import time
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from marshmallow import Schema, ValidationError

from ...chat import ChatJob, Json
from ...languages import N_, _
from ..dialect import NAME, STRING, object_of, or_null
from ..fields import Flag, Integer, ModelIds, Number, Object, Stop, Strings, ill_typed, not_named
from ..loading import ModelId, Strict, Text, Word, faults, invalid, job_of, load
from .items import Input, conversation, path_in_input
from .tools import ToolChoice, Tools, check_choice, echoed_tools, left_out, tool_fields

MAX_NAMED = 50  # fields without effect that an answer names
LOGPROBS = "message.output_text.logprobs"


class NotKept(Strict):
    """A field that asks for state which this gateway does not keep: only null, or false, is taken."""

    said = N_("null")

    def __init__(self, instead: str, *kinds: type) -> None:
        super().__init__(allow_none=True)
        self.instead = instead
        self.kinds = kinds
        self.keywords = {"enum": [False, None] if bool in kinds else [None]}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> None:
        if value is not False or bool not in self.kinds:
            raise ValidationError(_(self.instead))


class Metadata(Object):
    """Strings by name."""

    keywords = {"additionalProperties": STRING}

    def _checked(self, value: Json) -> Json:
        names = list(value)
        if errors := faults(value.values(), lambda text: not isinstance(text, str) and [_("must be a string")]):
            raise ValidationError({names[place]: said for place, said in errors.items()})
        return value


class Texts(Object):
    """An object of which the keys `names` are strings or null."""

    def __init__(self, *names: str) -> None:
        super().__init__(allow_none=True)
        self.names = names
        self.keywords = {"properties": {name: or_null("string") for name in names}}

    def _checked(self, value: Json) -> Json:
        if errors := ill_typed(value, dict.fromkeys(self.names, Text)):
            raise ValidationError(errors)
        return value


class TextSettings(Texts):
    """`format` and `verbosity` of the answer's text."""

    def __init__(self) -> None:
        super().__init__("verbosity")
        self.keywords["properties"]["format"] = {"anyOf": [_FORMAT, {"type": "null"}]}

    def _checked(self, value: Json) -> Json:
        super()._checked(value)
        if value.get("format") is not None and (errors := _format_fault(value["format"])):
            raise ValidationError({"format": errors})
        return value


def _format_fault(given: Any) -> Any:
    if not isinstance(given, dict):
        return [_("must be an object")]
    if given.get("type") in ("text", "json_object"):
        return {}
    if given.get("type") != "json_schema":
        return {"type": [_("must be one of {words}", words="text, json_object, json_schema")]}
    found = not_named(given, "name")
    if not isinstance(given.get("schema"), dict):
        found["schema"] = [_("must be an object")]
    return found | ill_typed(given, {"strict": Flag, "description": Text})


_FORMAT = {
    "anyOf": [
        object_of({"type": {"enum": ["text", "json_object"]}}),
        object_of(
            {"type": {"const": "json_schema"}, "name": NAME, "schema": {"type": "object"}},
            strict=or_null("boolean"),
            description=or_null("string"),
        ),
    ]
}


class ResponsesSchema(Schema):
    """`POST /v1/responses`; null means not set."""

    model = ModelId(required=True)
    input = Input(required=True)
    instructions = Text(allow_none=True)
    tools = Tools(allow_none=True)
    tool_choice = ToolChoice(allow_none=True)
    parallel_tool_calls = Flag(allow_none=True)
    text = TextSettings()
    reasoning = Texts("effort", "summary")
    max_output_tokens = Integer(1, allow_none=True)
    temperature = Number(0, 2, allow_none=True)
    top_p = Number(0, 1, allow_none=True)
    top_logprobs = Integer(0, 20, allow_none=True)
    stream = Flag(allow_none=True)
    metadata = Metadata(allow_none=True)
    user = Text(allow_none=True)
    safety_identifier = Text(allow_none=True)
    prompt_cache_key = Text(allow_none=True)
    service_tier = Text(allow_none=True)
    truncation = Word("auto", "disabled", allow_none=True)
    include = Strings(allow_none=True)
    store = Flag(allow_none=True)
    max_tool_calls = Integer(1, allow_none=True)
    # Chat's own, and ours.
    stop = Stop(allow_none=True)
    seed = Integer(allow_none=True)
    presence_penalty = Number(-2, 2, allow_none=True)
    frequency_penalty = Number(-2, 2, allow_none=True)
    logit_bias = Object(allow_none=True)
    top_k = Integer(1, allow_none=True)
    repetition_penalty = Number(above=0, allow_none=True)
    fallbacks = ModelIds(allow_none=True)
    max_time = Integer(1, 120, allow_none=True)
    # State, which is refused.
    previous_response_id = NotKept(
        N_("is not possible: this gateway keeps no responses. Send the earlier items again in input")
    )
    conversation = NotKept(
        N_("is not possible: this gateway keeps no conversations. Send the earlier items again in input")
    )
    prompt = NotKept(N_("is not possible: this gateway keeps no prompts. Send the text in instructions and input"))
    background = NotKept(
        N_("is not possible: this gateway keeps no responses. Leave it out, and set stream to true for long answers"),
        bool,
    )


# Fields that an upstream is sent under the same name, and those under another.
SAME = (
    *("temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "top_k"),
    *("repetition_penalty", "user", "service_tier", "model", "stream", "fallbacks", "max_time"),
)

# What chat's fields are called here.
NAMES = {
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
}

MESSAGES = "messages", "messages."  # how a path begins that leads into the conversation


def load_job(body: Json, default_model: str = "") -> ChatJob:
    """The job. Raises BadRequest naming every faulty field; fields that nobody here knows are named in `ignored`."""
    data = {name: value for name, value in load(ResponsesSchema, body).items() if value is not None}
    try:
        check_choice(data.get("tool_choice"), data.get("tools"))  # what `allowed_tools` names is there
    except ValidationError as error:
        raise invalid(error.messages_dict) from None
    messages, places = conversation(data["input"], data.get("instructions"))
    if not messages:
        raise invalid({"input": [_("must have at least one message")]})
    fields = {name: data[name] for name in SAME if data.get(name) not in (None, [], {})}
    fields |= tool_fields(data.get("tools", ()), data.get("tool_choice"), data.get("parallel_tool_calls"))
    echo = {
        "created_at": int(time.time()),
        "settings": _settings(data),
        "logprobs": LOGPROBS in data.get("include", ()),
    }
    return job_of(
        fields | _renamed(data),
        messages=messages,
        include_usage=True,
        strict=True,
        ignored=tuple(_ignored(body, data)),
        echo=echo,
        caller_path=lambda path: path_in_input(path, places) if path[:9] in MESSAGES else NAMES.get(path, path),
    )


def _renamed(data: Json) -> Json:
    text, reasoning = data.get("text", {}), data.get("reasoning", {})
    fields = {
        "max_tokens": data.get("max_output_tokens"),
        "response_format": _response_format(text.get("format")),
        "verbosity": text.get("verbosity"),
        "reasoning_effort": reasoning.get("effort"),
    }
    if LOGPROBS in data.get("include", ()):
        fields |= {"logprobs": True, "top_logprobs": data.get("top_logprobs")}
    return {name: value for name, value in fields.items() if value is not None}


def _response_format(given: Json | None) -> Json | None:
    if given is None or given["type"] == "text":
        return None
    if given["type"] == "json_object":
        return {"type": "json_object"}
    keys = ("name", "description", "schema", "strict")
    return {"type": "json_schema", "json_schema": {key: given[key] for key in keys if given.get(key) is not None}}


def _ignored(body: Json, data: Json) -> Iterable[str]:
    """The paths of what has no effect here."""
    known = ResponsesSchema._declared_fields
    yield from islice((name for name, value in body.items() if name not in known and value is not None), MAX_NAMED)
    yield from (name for name in ("max_tool_calls",) if name in data)
    yield from islice(left_out(data.get("tools", ())), MAX_NAMED)


def _settings(data: Json) -> Mapping[str, Any]:
    """What an answer repeats of its request, with OpenAI's defaults for what was not set."""
    text, reasoning = data.get("text", {}), data.get("reasoning", {})
    verbosity = {"verbosity": text["verbosity"]} if text.get("verbosity") else {}
    echo = {
        "background": False,
        "frequency_penalty": data.get("frequency_penalty", 0),
        "instructions": data.get("instructions"),
        "max_output_tokens": data.get("max_output_tokens"),
        "max_tool_calls": data.get("max_tool_calls"),
        "metadata": data.get("metadata", {}),
        "parallel_tool_calls": data.get("parallel_tool_calls", True),
        "presence_penalty": data.get("presence_penalty", 0),
        "previous_response_id": None,
        "prompt_cache_key": data.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": data.get("safety_identifier"),
        "service_tier": data.get("service_tier", "default"),
        "store": False,
        "temperature": data.get("temperature", 1),
        "text": {"format": text.get("format") or {"type": "text"}, **verbosity},
        "tool_choice": data.get("tool_choice", "auto"),
        "tools": echoed_tools(data.get("tools", ())),
        "top_logprobs": data.get("top_logprobs", 0),
        "top_p": data.get("top_p", 1),
        "truncation": data.get("truncation", "disabled"),
    }
    return echo | ({"user": data["user"]} if "user" in data else {})
