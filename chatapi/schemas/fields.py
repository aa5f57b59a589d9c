"""The fields that only some requests have: JSON types strictly, so that nothing is coerced."""

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError

from ..chat import Json
from ..languages import N_, _
from ..settings import is_model_id
from .loading import Array, ModelId, Strict

MAX_FALLBACKS = 16


class Flag(Strict):
    """true or false."""

    said, kinds = N_("true or false"), (bool,)


class Object(Strict):
    """A JSON object."""

    said, kinds = N_("an object"), (dict,)


class TextOrObject(Strict):
    """A string, or an object."""

    said, kinds = N_("a string or an object"), (str, dict)


class Number(Strict):
    """A number from `low` to `high`, both included, and greater than `above`; an integer literal is fine."""

    said = N_("a number")
    kinds: tuple[type, ...] = (int, float)

    def __init__(
        self, low: float | None = None, high: float | None = None, *, above: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.low = low
        self.high = high
        self.above = above
        bounds = {"minimum": low, "maximum": high, "exclusiveMinimum": above}
        self.keywords = {keyword: bound for keyword, bound in bounds.items() if bound is not None}

    def _checked(self, value: float) -> float:
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            if self.high is None:
                raise ValidationError(_("must be at least {low}", low=f"{self.low:g}"))
            raise ValidationError(_("must be from {low} to {high}", low=f"{self.low:g}", high=f"{self.high:g}"))
        if self.above is not None and value <= self.above:
            raise ValidationError(_("must be above {low}", low=f"{self.above:g}"))
        return value


class Integer(Number):
    """A JSON number without fraction or exponent, from `low` to `high`."""

    said, kinds = N_("an integer"), (int,)


class Strings(Array):
    """An array of strings."""

    said = N_("an array of strings")
    keywords = {"items": {"type": "string"}}

    def _fault(self, item: Any) -> Any:
        return not isinstance(item, str) and [_("must be a string")]


class ModelIds(Array):
    """A list of model ids, as a tuple."""

    said = N_("an array of model ids")
    keywords = {"items": {"type": "string", **ModelId.keywords}, "maxItems": MAX_FALLBACKS}

    def _fault(self, item: Any) -> Any:
        return not (isinstance(item, str) and is_model_id(item)) and [_("must be a model id of the form org/name")]

    def _checked(self, value: list[Any]) -> tuple[str, ...]:
        if len(value) > MAX_FALLBACKS:
            raise ValidationError(_("must have at most {most} model ids", most=MAX_FALLBACKS))
        return tuple(super()._checked(value))


class Stop(Strings):
    """One stop string or several; always a list afterwards, as upstreams want it (HF§1.10)."""

    said = N_("a string or an array of strings")
    kinds = (str, list)

    def _checked(self, value: Any) -> list[str]:
        return [stop for stop in super()._checked([value] if isinstance(value, str) else value) if stop]


# --- within objects


def ill_typed(given: Json, kinds: Mapping[str, type[Strict]]) -> Json:
    """What is wrong with those keys of `given` that are neither of their kind nor null nor left out."""
    return {
        key: [_("must be {kind}", kind=_(kind.said))]
        for key, kind in kinds.items()
        if not isinstance(given.get(key), (*kind.kinds, type(None)))
    }


def not_named(given: Json, key: str) -> Json:
    """What is wrong with `key` of `given`, unless it is a name."""
    name = given.get(key)
    return {} if isinstance(name, str) and name else {key: [_("must be a string, and not empty")]}
