"""Words of tests: tables by what their rows have in common, what a call is refused with, moments."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

Refusal = TypeVar("Refusal", bound=BaseException)


def rows(table: Mapping[Any, Iterable[Any]]) -> list[tuple[Any, ...]]:
    """`{outcome: [case, …]}` → `[(case, outcome), …]`; a tuple stands for several columns."""
    return [(*columns(case), *columns(outcome)) for outcome, cases in table.items() for case in cases]


def columns(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def raised(kind: type[Refusal], call: Callable[..., Any], *arguments: Any, **fields: Any) -> Refusal:
    """The error of this kind that a call ends with."""
    with pytest.raises(kind) as caught:
        call(*arguments, **fields)
    return caught.value


def at(moment: str) -> float:
    """The Unix seconds of a moment of UTC in ISO 8601."""
    return datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
