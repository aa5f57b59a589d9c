"""The fields that only some requests have: JSON types strictly, so that nothing is coerced."""

from typing import Any

from marshmallow import ValidationError

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

    said, kinds = N_("an integer"), (int,)


class Strings(Array):
    """An array of strings."""

    said = N_("an array of strings")
    keywords = {"items": {"type": "string"}}

    def fault(self, item: Any) -> Any:
        """It is no string."""
        return not isinstance(item, str) and [_("must be a string")]


class ModelIds(Array):
    """A list of model ids, as a tuple."""

    said = N_("an array of model ids")
    keywords = {"items": {"type": "string", **ModelId.keywords}, "maxItems": MAX_FALLBACKS}

    def fault(self, item: Any) -> Any:
        """It is no model id."""
        return not (isinstance(item, str) and is_model_id(item)) and [_("must be a model id of the form org/name")]

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        if type(value) is list and len(value) > MAX_FALLBACKS:
            raise ValidationError(_("must have at most {most} model ids", most=MAX_FALLBACKS))
        return tuple(super()._deserialize(value, attr, data, **kwargs))


class Stop(Strings):
    """One stop string or several; always a list afterwards, as upstreams want it (HF§1.10)."""

    said = N_("a string or an array of strings")
    kinds = (str, list)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        given = [value] if isinstance(value, str) else value
        return [stop for stop in super()._deserialize(given, attr, data, **kwargs) if stop]
