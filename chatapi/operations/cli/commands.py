"""What all commands share: they return an Output, which is printed here, and a failure is told in a line."""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import click
from flask import current_app
from flask.cli import AppGroup

from ...components import Components
from ...errors import SchemaError, StoreUnavailable
from ...languages import N_, _
from ...settings import SettingsError


@dataclass(frozen=True, slots=True)
class Output:
    """What a command returns: `data` for JSON, `text` for the eye, `rows` for CSV, the columns' names first.

    Without `data` there is only the text. `status` is the process's.
    """

    data: Any
    text: str
    rows: Sequence[Sequence[Any]] = ()
    status: int = 0


class Command(click.Command):
    """A command that returns an Output; with `--json` and, where it is said, `--csv`."""

    def __init__(self, *args: Any, as_csv: bool = False, **given: Any) -> None:
        super().__init__(*args, **given)
        if as_csv:
            self.params.append(click.Option(["--csv", "as_csv"], is_flag=True, help=N_("Print CSV.")))
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help=N_("Print JSON.")))

    def invoke(self, ctx: click.Context) -> None:
        """Run it, and print what it returns."""
        as_json, as_csv = ctx.params.pop("as_json"), ctx.params.pop("as_csv", False)
        if as_json and as_csv:
            raise click.UsageError(_("Say either --csv or --json."), ctx)
        try:
            output: Output = super().invoke(ctx)
        except StoreUnavailable as error:
            text = _("{database}: {cause}. Check DATABASE_URL.", database=error.database, cause=error.cause)
            raise click.ClickException(text) from None
        except (SchemaError, LookupError) as error:
            raise click.ClickException(str(error)) from None
        if as_csv:
            csv.writer(sys.stdout, lineterminator="\n").writerows(output.rows)
        else:
            click.echo(format_json(output.data) if as_json and output.data is not None else output.text)
        ctx.exit(output.status)


class Group(AppGroup):
    """Such commands."""

    command_class = Command


def components() -> Components:
    """What the application is made of; where its settings cannot be used, the command ends and says so."""
    found = current_app.extensions["chatapi"]
    if isinstance(found, SettingsError):
        raise click.ClickException(format_mistakes(found))
    return cast(Components, found)


def format_mistakes(error: SettingsError) -> str:
    """All mistakes of the settings."""
    return " ".join((_("these settings cannot be used:"), "; ".join(error.mistakes)))


def translate(command: click.Command) -> None:
    """Say the help of a command, of its options and of its own commands in the current language, once a process."""
    command.help = _(command.help) if command.help else None
    for option in command.params:
        if isinstance(option, click.Option) and option.help:
            option.help = _(option.help)
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        translate(inner)


# --- how values are written


def format_json(value: Any) -> str:
    """`value` as JSON over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def describe(thing: Mapping[str, Any], note: str = "") -> Output:
    """One thing, a line for each of its values, and a `note` below."""
    text = "\n".join(f"{name:<15}{format_cell(value)}" for name, value in thing.items())
    return Output(thing, f"{text}\n\n{note}" if note else text)


def format_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows under the names of their columns."""
    lines = [columns, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def format_cell(value: Any) -> str:
    """`value` in a table."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={format_cell(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def format_time(moment: float | None) -> str | None:
    """Unix seconds in ISO 8601 (UTC)."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
