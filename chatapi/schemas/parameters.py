"""The sampling parameters of each dialect, with their types and ranges, as the schemas have them: for forms."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from marshmallow import Schema

from .envelope import CompletionsSchema, LegacySchema
from .fields import Flag, Integer, Number, Object, Stop
from .openai import OpenAISchema
from .responses.load import ResponsesSchema

Type = Literal["number", "integer", "flag", "text", "lines", "object"]

# The order in which a form shows them; each dialect has those that are fields of its schema.
NAMES = (
    "temperature",
    "max_tokens",
    "top_p",
    "top_k",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "n",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "reasoning_effort",
    "max_time",
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: `name` is the field's in its dialect, `key` the same for all dialects. Bounds are inclusive."""

    name: str
    key: str
    type: Type
    min: float | None = None
    max: float | None = None


def parameters(schema: type[Schema], renamed: Mapping[str, str] = MappingProxyType({})) -> list[Parameter]:
    """The sampling parameters that `schema` has, some of them `renamed`; a dotted name is a key within an object."""
    fields = schema().fields
    names = [(key, renamed.get(key, key)) for key in NAMES]
    found = [(key, name, fields.get(name.partition(".")[0])) for key, name in names]
    return [_parameter(key, name, field) for key, name, field in found if field]


def _parameter(key: str, name: str, field: object) -> Parameter:
    if isinstance(field, Number):
        low = field.low if field.above is None else field.above
        return Parameter(name, key, "integer" if isinstance(field, Integer) else "number", low, field.high)
    kinds: tuple[tuple[type, Type], ...] = ((Flag, "flag"), (Object, "object"), (Stop, "lines"))
    return Parameter(name, key, next((kind for of, kind in kinds if isinstance(field, of)), "text"))


# Route → its parameters.
BY_ROUTE = {
    "/api/huggingface-chat": parameters(LegacySchema),
    "/api/chat/completions": parameters(CompletionsSchema),
    "/v1/chat/completions": parameters(OpenAISchema),
    "/v1/responses": parameters(
        ResponsesSchema, {"max_tokens": "max_output_tokens", "reasoning_effort": "reasoning.effort"}
    ),
}
