"""For the eye, or as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click


def print_json(value: Any) -> None:
    """`value` over several lines."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Lines under the names of their columns."""
    rows = [columns, *lines]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_one(thing: Mapping[str, Any], as_json: bool) -> None:
    """One thing, a line for each of its values."""
    if as_json:
        print_json(thing)
        return
    for name, value in thing.items():
        click.echo(f"{name:<15}{cell(value)}")


def cell(value: Any) -> str:
    """`value` in a table."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={cell(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def iso(moment: float | None) -> str | None:
    """Unix seconds in ISO 8601 (UTC)."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
