"""What a command has to say, for the eye, as JSON and as CSV."""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Shown:
    """What a command returns: `data` for JSON, `text` for the eye, and `lines` for CSV, the columns' names first."""

    data: Any
    text: str
    lines: Sequence[Sequence[Any]] = ()

    def show(self, as_json: bool, as_csv: bool) -> None:
        """Print it."""
        if as_json:
            click.echo(as_text(self.data))
        elif as_csv:
            csv.writer(sys.stdout, lineterminator="\n").writerows(self.lines)
        else:
            click.echo(self.text)


def as_text(value: Any) -> str:
    """`value` as JSON over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def one(thing: Mapping[str, Any], note: str = "") -> Shown:
    """One thing, a line for each of its values, and a `note` below."""
    text = "\n".join(f"{name:<15}{cell(value)}" for name, value in thing.items())
    return Shown(thing, f"{text}\n\n{note}" if note else text)


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Lines under the names of their columns."""
    rows = [columns, *lines]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


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
