"""What all commands share: their group, the gateway's components, and the language of the locale."""

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

import click
from flask import current_app
from flask.cli import AppGroup

from ...components import Components
from ...errors import SchemaError, StoreUnavailable
from ...languages import N_, _
from ...settings import SettingsError
from .printing import Shown


def json_option() -> click.Option:
    """`--json`, which every command has."""
    return click.Option(["--json", "as_json"], is_flag=True, help=N_("Print JSON."))


class Group(AppGroup):
    """Commands that return what they have to say, and whose failures are told in a line."""

    def command(  # type: ignore[override]
        self, *args: Any, as_csv: bool = False, **given: Any
    ) -> Callable[[Callable[..., Any]], click.Command]:
        """As click's, with `--json` and, where it is said, `--csv`."""

        def add(function: Callable[..., Shown | None]) -> click.Command:
            @wraps(function)
            def run(as_json: bool, as_csv: bool = False, **options: Any) -> None:
                if as_json and as_csv:
                    raise click.UsageError(_("Say either --csv or --json."))
                if shown := function(**options):
                    shown.show(as_json, as_csv)

            made: click.Command = super(Group, self).command(*args, **given)(run)
            if as_csv:
                made.params.append(click.Option(["--csv", "as_csv"], is_flag=True, help=N_("Print CSV.")))
            made.params.append(json_option())
            return made

        return add

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except StoreUnavailable as error:
            text = _("{database}: {cause}. Check DATABASE_URL.", database=error.database, cause=error.cause)
            raise click.ClickException(text) from None
        except (SchemaError, LookupError) as error:
            raise click.ClickException(str(error)) from None


def components() -> Components:
    """What the application is made of; where its settings cannot be used, the command ends and says so."""
    found = current_app.extensions["chatapi"]
    if isinstance(found, SettingsError):
        raise click.ClickException(in_a_line(found))
    return cast(Components, found)


def in_a_line(error: SettingsError) -> str:
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
