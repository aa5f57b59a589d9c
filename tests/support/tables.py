"""Tables of tests, written by what their rows have in common, and what a call is refused with."""

from collections.abc import Callable, Iterable, Mapping
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
