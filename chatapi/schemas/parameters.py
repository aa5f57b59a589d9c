"""The sampling parameters of each dialect, with their types and ranges, as the schemas have them: for forms."""

from dataclasses import dataclass
from typing import Literal

from marshmallow import Schema

from .envelope import CompletionsSchema, LegacySchema
from .fields import Integer, Number, Stop
from .openai import OpenAISchema

Type = Literal["number", "integer", "text", "lines"]

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


def parameters(schema: type[Schema]) -> list[Parameter]:
    """The sampling parameters that `schema` has."""
    fields = schema().fields
    return [_parameter(key, fields[key]) for key in NAMES if key in fields]


def _parameter(key: str, field: object) -> Parameter:
    if isinstance(field, Number):
        low = field.low if field.above is None else field.above
        return Parameter(key, key, "integer" if isinstance(field, Integer) else "number", low, field.high)
    return Parameter(key, key, "lines" if isinstance(field, Stop) else "text")


# Route → its parameters.
BY_ROUTE = {
    "/api/huggingface-chat": parameters(LegacySchema),
    "/api/chat/completions": parameters(CompletionsSchema),
    "/v1/chat/completions": parameters(OpenAISchema),
}
