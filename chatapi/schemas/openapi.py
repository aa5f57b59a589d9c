"""Schemas as JSON Schema (2020-12), for the reference: what the fields check is what the document says."""

from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow.fields import Field

from ..languages import N_, _
from . import DIALECTS
from .dialect import HAS_TEXT, NAME, STRING, JsonSchema, object_of
from .loading import Messages, Strict

TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}

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
    found |= {"items": _message(field), "minItems": 1} if isinstance(field, Messages) else field.keywords
    if text := described(str(field.name)):
        found["description"] = text
    return found


def _message(field: Messages) -> JsonSchema:
    """A message of the dialect: who has to say something, and what a tool's result answers."""
    roles = field.roles
    content = {"anyOf": [STRING, {"type": "array", "items": {"anyOf": _parts(field.parts)}}]}
    maybe = {"anyOf": [*content["anyOf"], {"type": "null"}]}
    calls = {"type": ["array", "null"], "items": {"type": "object"}}
    silent = ("tool", "function", "assistant" if "developer" in roles else "")
    speakers = [role for role in roles if role not in silent]
    found = [object_of({"role": {"enum": speakers}, "content": content}, tool_calls=calls)]
    assistant: JsonSchema = {"role": {"enum": ["assistant"]}}
    if "developer" in roles:
        found.append(object_of(assistant, content=maybe, tool_calls=calls))
    else:
        called = {"tool_calls": {**calls, "type": "array", "minItems": 1}}
        found.append(object_of(assistant | called, content=maybe))
    if "function" in roles:
        found.append(object_of({"role": {"enum": ["function"]}, "content": maybe}, tool_calls=calls))
    if "tool" in roles:
        answers = {"role": {"enum": ["tool"]}, "tool_call_id": NAME}
        found.append(object_of(answers, content=maybe, tool_calls=calls))
    return {"anyOf": found}


def _parts(known: tuple[str, ...] | None) -> list[JsonSchema]:
    """What a content part may be; `known` None: of any other type, too."""
    image = {"anyOf": [HAS_TEXT, object_of({"url": HAS_TEXT})]}
    found = [
        object_of({"type": {"const": "text"}, "text": STRING}),
        object_of({"type": {"const": "image_url"}, "image_url": image}),
    ]
    other = NAME | {"not": {"enum": ["text", "image_url"]}}
    return found if known is not None else [*found, object_of({"type": other})]


def request_schemas() -> JsonSchema:
    """Component name → JSON Schema, of the request of each dialect."""
    plugin = MarshmallowPlugin()
    spec = APISpec("chatapi", "1", "3.1.0", plugins=[plugin])
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(_attributes)  # type: ignore[no-untyped-call]
    for dialect in DIALECTS:
        name, schema = dialect.request
        spec.components.schema(name, schema=schema)
    found: JsonSchema = spec.to_dict()["components"]["schemas"]
    for dialect in DIALECTS:
        name = dialect.request[0]
        whole = found[name] | {"additionalProperties": True} | dialect.also
        found[name] = {keyword: said for keyword, said in whole.items() if said}
    return found
