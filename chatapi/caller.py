"""Who calls, and what they may: Caller and Limits. Values only; keys and counting are accounting's."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from .errors import ForbiddenModel
from .languages import N_, _

LIMIT_NAMES = ("rpm", "tpm", "concurrency", "tpd", "tpmonth")
TOKEN_LIMITS = ("tpm", "tpd", "tpmonth")
LIMIT_WORDS = {
    "rpm": N_("requests per minute"),
    "tpm": N_("tokens per minute"),
    "concurrency": N_("calls at once"),
    "tpd": N_("tokens per day"),
    "tpmonth": N_("tokens per month"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one caller; None is no limit. Limits named in `shadow` are counted and reported, but refuse nobody."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    tpd: int | None = None
    tpmonth: int | None = None
    shadow: tuple[str, ...] = ()
    # Limits that there are, by name; those of tokens, and those of calls. Made once: they are asked for in every call.
    given: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)
    of_tokens: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)
    of_calls: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Limits from words like `rpm=60 tpm=10000 shadow=tpm`. Raises ValueError."""
        given: dict[str, Any] = {}
        for word in text.replace(",", " ").split():
            name, _equals, value = word.partition("=")
            if name == "shadow" and value in LIMIT_NAMES:
                given["shadow"] = (*given.get("shadow", ()), value)
            elif name in LIMIT_NAMES and value.isascii() and value.isdigit() and int(value) > 0:
                given[name] = int(value)
            else:
                names = ", ".join(LIMIT_NAMES)
                raise ValueError(
                    _("must be words like rpm=60, of {names}, or shadow=NAME; not {word!r}", names=names, word=word)
                )
        return cls(**given)

    def __post_init__(self) -> None:
        given = tuple((name, limit) for name in LIMIT_NAMES if (limit := getattr(self, name)))
        object.__setattr__(self, "given", given)
        object.__setattr__(self, "of_tokens", tuple(pair for pair in given if pair[0] in TOKEN_LIMITS))
        object.__setattr__(self, "of_calls", tuple(pair for pair in given if pair[0] not in TOKEN_LIMITS))

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.given)

    def as_dict(self) -> dict[str, Any]:
        """For people and for JSON."""
        return {name: getattr(self, name) for name in LIMIT_NAMES} | {"shadow": list(self.shadow)}


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a call; `key_id` is None for callers without a key. Limits are counted under `subject`."""

    key_id: str | None = None
    subject: str = ""
    limits: Limits = NO_LIMITS
    models: tuple[str, ...] = ()  # patterns; none: all models
    admin: bool = False  # may see what all keys do
    key_name: str | None = None

    def may_use(self, model: str) -> bool:
        """Whether the key's patterns allow `model`."""
        return not self.models or any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)

    def require(self, models: Sequence[str]) -> None:
        """Raises ForbiddenModel for the first of `models` that the key may not use."""
        for model in models:
            if not self.may_use(model):
                allowed = ", ".join(self.models)
                raise ForbiddenModel(
                    _(
                        "This key may not use the model '{model}'; it may use: {allowed}.",
                        model=model[:200],
                        allowed=allowed,
                    ),
                    details={"model": [_("not allowed for this key")]},
                )


def key_subject(key_id: str) -> str:
    """What the limits of a key are counted under."""
    return f"key:{key_id}"
