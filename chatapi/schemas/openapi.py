"""Schemas as JSON Schema (2020-12), for the reference: what the fields check is what the document says."""

from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow.fields import Field

from ..languages import N_, _
from .envelope import CompletionsSchema, LegacySchema
from .fields import Items, Messages, ModelId, ModelIds, Number, Stop, Strict, Text
from .openai import OpenAISchema, StreamOptions
from .responses.json_schema import keywords, some_message
from .responses.load import ResponsesSchema

REQUESTS = {
    "LegacyRequest": LegacySchema,
    "CompletionsRequest": CompletionsSchema,
    "ChatCompletionRequest": OpenAISchema,
    "ResponsesRequest": ResponsesSchema,
}
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}
MODEL_ID = r"^[A-Za-z0-9._\-]+(/[A-Za-z0-9._\-]+)?(:[A-Za-z0-9._\-]+)?$"
HAS_TEXT = r"\S"

# What each field is for, in the words of a reader who has not used it yet.
DESCRIPTIONS = {
    "messages": N_("The conversation so far: at least one message with a `role` and `content` (text, or parts)."),
    "message": N_("The text to answer. `prompt` and `inputs` are accepted spellings."),
    "input": N_("A text, or the items of the conversation: messages, function calls and their results."),
    "instructions": N_("What the model shall keep to: goes first, as system message."),
    "model": N_("The model's id, `org/name` or `org/name:suffix`; `GET /v1/models` lists them."),
    "stream": N_("Whether the answer is sent as server-sent events while it is written. Default: false."),
    "stream_options": N_("`include_usage`: end the stream with a chunk that has the usage."),
    "temperature": N_("How freely the next token is chosen: 0 is the most likely one. Default: the model's."),
    "top_p": N_("Choose among the most likely tokens that make up this share. Default: the model's."),
    "top_k": N_("Choose among so many of the most likely tokens. Default: the model's."),
    "max_tokens": N_("The most tokens that the answer may have. Default: the model's."),
    "max_completion_tokens": N_("The newer name of `max_tokens`, which it outranks."),
    "max_output_tokens": N_("The most tokens that the answer may have. Default: the model's."),
    "repetition_penalty": N_("Above 1, the model avoids repeating itself. Default: the model's."),
    "presence_penalty": N_("Above 0, the model takes up new subjects. Default: 0."),
    "frequency_penalty": N_("Above 0, the model repeats words less often. Default: 0."),
    "max_time": N_("Seconds that the whole answer may take. Default: the operator's limit."),
    "fallbacks": N_("Models to ask, in order, where this one fails; in place of the catalogue's."),
    "stop": N_("One text or several at which the answer ends."),
    "n": N_("How many answers are wanted. Default: 1."),
    "seed": N_("The same seed gives the same answer, where the model can."),
    "logprobs": N_("Whether the tokens' probabilities are told. Default: false."),
    "top_logprobs": N_("How many likely tokens are told for each place. Default: 0."),
    "logit_bias": N_("Token ids that become more or less likely."),
    "tools": N_("Functions that the model may call."),
    "tool_choice": N_("Whether, or which, function is to be called. Default: auto."),
    "parallel_tool_calls": N_("Whether several functions may be called at once. Default: true."),
    "functions": N_("The older form of `tools`."),
    "function_call": N_("The older form of `tool_choice`."),
    "response_format": N_("Text, a JSON object, or JSON by a schema."),
    "text": N_("The answer's format (text, JSON object, JSON by a schema) and its verbosity."),
    "reasoning": N_("How much the model thinks before it answers: `effort`."),
    "reasoning_effort": N_("How much the model thinks before it answers."),
    "user": N_("Who your user is, in your own words; passed on."),
    "metadata": N_("Names and values of your own; passed on."),
}


def described(field: str) -> str | None:
    """What a field is for, in the current language."""
    return _(DESCRIPTIONS[field]) if field in DESCRIPTIONS else None


def _attributes(self: Any, field: Field[Any], ret: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """For apispec: the JSON Schema keywords of a field."""
    if not isinstance(field, Strict):
        return {}
    kinds = [TYPES[kind] for kind in field.kinds if kind in TYPES]
    types = [kind for kind in kinds if not (kind == "integer" and "number" in kinds)]
    if field.allow_none:
        types.append("null")
    found: dict[str, Any] = {"type": types[0] if len(types) == 1 else types} if types else {}
    if isinstance(field, Number):
        bounds = {"minimum": field.low, "maximum": field.high, "exclusiveMinimum": field.above}
        found |= {keyword: bound for keyword, bound in bounds.items() if bound is not None}
    if isinstance(field, ModelId):
        found["pattern"] = MODEL_ID
    if isinstance(field, ModelIds):
        found |= {"items": {"type": "string", "pattern": MODEL_ID}, "maxItems": 16}
    if isinstance(field, Messages):
        found |= {"items": _message(field), "minItems": 1}
    if isinstance(field, Items):
        found["items"] = {"type": "object"}
    if isinstance(field, Stop):
        found["items"] = {"type": "string"}
    if isinstance(field, StreamOptions):
        found["properties"] = {"include_usage": {"type": ["boolean", "null"]}}
    if isinstance(field, Text) and not field.blank:
        found["pattern"] = HAS_TEXT
    if words := getattr(field, "words", None):
        found["enum"] = [*words, None] if field.allow_none else list(words)
    found |= keywords(field)
    if text := described(str(field.name)):
        found["description"] = text
    return found


def _message(field: Messages) -> dict[str, Any]:
    """A message of the dialect: who has to say something, and what a tool's result answers."""
    roles, parts = field.roles, field.parts
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": _parts(parts)}}]}
    maybe = {"anyOf": [*content["anyOf"], {"type": "null"}]}
    calls = {"type": ["array", "null"], "items": {"type": "object"}}
    speakers = [role for role in roles if role != "tool" and not (role == "assistant" and "developer" in roles)]
    found = [_of_role(speakers, {"content": content}, tool_calls=calls)]
    if "developer" in roles:
        found.append(_of_role(["assistant"], {}, content=maybe, tool_calls=calls))
    else:
        found.append(_of_role(["assistant"], {"tool_calls": {**calls, "type": "array", "minItems": 1}}, content=maybe))
    if "tool" in roles:
        answers = {"tool_call_id": {"type": "string", "minLength": 1}}
        found.append(_of_role(["tool"], answers, content=maybe, tool_calls=calls))
    return {"anyOf": found}


def _of_role(roles: list[str], required: dict[str, Any], **more: Any) -> dict[str, Any]:
    properties = {"role": {"enum": roles}, **required, **more}
    return {"type": "object", "properties": properties, "required": ["role", *required]}


def _parts(known: tuple[str, ...] | None) -> list[dict[str, Any]]:
    """What a content part may be; `known` None: of any other type, too."""
    url = {"type": "string", "pattern": HAS_TEXT}
    image = {"anyOf": [url, {"type": "object", "properties": {"url": url}, "required": ["url"]}]}
    found = [_part({"const": "text"}, text={"type": "string"}), _part({"const": "image_url"}, image_url=image)]
    other = {"type": "string", "minLength": 1, "not": {"enum": ["text", "image_url"]}}
    return found if known is not None else [*found, _part(other)]


def _part(kind: dict[str, Any], **required: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"type": kind, **required}, "required": ["type", *required]}


def request_schemas() -> dict[str, Any]:
    """Component name → JSON Schema, of the request of each dialect."""
    plugin = MarshmallowPlugin()
    spec = APISpec("chatapi", "1", "3.1.0", plugins=[plugin])
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(_attributes)  # type: ignore[no-untyped-call]
    for name, schema in REQUESTS.items():
        spec.components.schema(name, schema=schema)
    found: dict[str, Any] = spec.to_dict()["components"]["schemas"]
    for schema in found.values():
        schema["additionalProperties"] = True
    found["ResponsesRequest"] |= some_message()
    legacy = found["LegacyRequest"]
    del legacy["required"]
    legacy["anyOf"] = [{"required": [spelling]} for spelling in ("message", "prompt", "inputs")]
    return found
