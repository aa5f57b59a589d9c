"""`flask --app wsgi keys …`: the API keys of callers."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ...accounting.statements import Row
from ...caller import LIMIT_NAMES, LIMIT_WORDS, Limits
from ...languages import N_, _
from .commands import Group, Output, components, describe, format_cell, format_table, format_time
from .values import DURATION, EXPIRY, WORDS

keys = Group("keys", help=N_("The API keys of callers."))

Function = TypeVar("Function", bound=Callable[..., Any])


def _grant_options(least: int) -> Callable[[Function], Function]:
    """The options that say what a key may do; limits from `least` on."""
    number = click.IntRange(least, 10**15)
    options = [click.option(f"--{name}", type=number, help=LIMIT_WORDS[name]) for name in LIMIT_NAMES]
    options += [
        click.option(
            "--shadow",
            type=click.Choice([*LIMIT_NAMES, "none"]),
            multiple=True,
            help=N_("Count this limit, but refuse nobody; 'none': every limit refuses."),
        ),
        click.option("--models", type=WORDS, multiple=True, metavar="GLOB", help=N_("Only these: 'google/*'.")),
        click.option("--expires", type=EXPIRY, help=N_("Not valid from this date on (UTC); 'never' takes it back.")),
    ]

    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@keys.command(help=N_("Make a key. It is shown this once, and stored nowhere."))
@click.option("--name", type=WORDS, required=True, help=N_("Whose key it is."))
@click.option("--admin", is_flag=True, help=N_("It may see what all keys do, on the dashboard."))
@_grant_options(1)
def create(
    name: str,
    admin: bool,
    models: Sequence[str],
    expires: float | None,
    shadow: Sequence[str],
    **limits: int | None,
) -> Output:
    if expires is not None and expires <= time.time():
        raise click.BadParameter(_("is in the past"), param_hint="--expires")
    expires = None if expires == math.inf else expires
    given = Limits(**limits, shadow=_shadowed(shadow))
    return _show_new_key(*components().keys.create(name, given, models, expires, admin))


@keys.command(help=N_("Change what is given, and leave the rest. A limit of 0 is none; --models '*' allows all."))
@click.argument("id")
@click.option("--name", type=WORDS, help=N_("Whose key it is."))
@_grant_options(0)
def update(
    id: str,
    name: str | None,
    models: Sequence[str],
    expires: float | None,
    shadow: Sequence[str],
    **limits: int | None,
) -> Output:
    given: dict[str, Any] = {name: limit or None for name, limit in limits.items() if limit is not None}
    given |= {"shadow": list(_shadowed(shadow))} if shadow else {}
    return describe(_describe_key(components().keys.update(id, name, given, models, expires)))


def _shadowed(names: Sequence[str]) -> tuple[str, ...]:
    if "none" in names and len(names) > 1:
        raise click.BadParameter(_("'none' stands alone"), param_hint="--shadow")
    return () if "none" in names else tuple(names)


@keys.command("list", help=N_("All keys, the oldest first."))
def list_keys() -> Output:
    shown = [_describe_key(row) for row in components().keys.list()]
    columns = ("id", "name", "state", "limits", "models", "last_used_at")
    return Output(shown, format_table(columns, ([format_cell(key[column]) for column in columns] for key in shown)))


@keys.command(help=N_("One key."))
@click.argument("id")
def show(id: str) -> Output:
    return describe(_describe_key(components().keys.show(id)))


@keys.command(help=N_("Give a key a new secret. Its id, limits and usage stay."))
@click.argument("id")
@click.option("--grace", type=DURATION, default="24h", show_default=True, help=N_("How long the old key still opens."))
def rotate(id: str, grace: float) -> Output:
    return _show_new_key(*components().keys.rotate(id, grace))


@keys.command(help=N_("Refuse a key from now on; all workers do within 5 seconds."))
@click.argument("id")
def revoke(id: str) -> Output:
    return describe(_describe_key(components().keys.revoke(id)))


def _describe_key(row: Row) -> dict[str, Any]:
    """A key as it may be shown: never its digests."""
    now = time.time()
    state = "revoked" if row["revoked_at"] else "expired" if (row["expires_at"] or now + 1) <= now else "active"
    limits = {name: value for name, value in row["limits"].items() if value}
    shown = {"id": row["id"], "name": row["name"], "state": state, "limits": limits, "models": row["models"]}
    shown |= {name: format_time(row[name]) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    if (row["old_until"] or 0) > now:
        shown["old_key_until"] = format_time(row["old_until"])
    return shown | ({"admin": True} if row["admin"] else {})


def _show_new_key(row: Row, text: str) -> Output:
    note = _("Keep the key now: it cannot be shown again. Callers send it as 'Authorization: Bearer KEY'.")
    return describe({"id": row["id"], "key": text} | _describe_key(row), note)
