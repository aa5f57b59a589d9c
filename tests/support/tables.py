"""Tables of tests, written by what their rows have in common."""

from collections.abc import Iterable, Mapping
from typing import Any


def rows(table: Mapping[Any, Iterable[Any]]) -> list[tuple[Any, ...]]:
    """`{outcome: [case, …]}` → `[(case, outcome), …]`; a tuple stands for several columns."""
    return [(*columns(case), *columns(outcome)) for outcome, cases in table.items() for case in cases]


def columns(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
