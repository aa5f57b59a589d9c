"""What operators type: `flask --app wsgi keys|usage|db|doctor …`. Every command takes `--json`."""

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import click
from flask import Flask, current_app
from flask.cli import AppGroup, FlaskGroup, with_appcontext

from ..accounting import statements
from ..accounting.ledger import report
from ..accounting.statements import Row
from ..accounting.tables import STEPS
from ..caller import NAMES, WHAT, Limits
from ..components import Components
from ..errors import SchemaError, StoreUnavailable
from ..settings import SettingsError, server_url
from . import doctor

Command = TypeVar("Command", bound=Callable[..., Any])

PRUNE_AT_ONCE = 1_000  # rows in one transaction: other processes write in between


class _Group(AppGroup):
    """Commands whose failures are told in a line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StoreUnavailable as error:
            raise click.ClickException(f"{error.database}: {error.cause}. Check DATABASE_URL.") from None
        except (SchemaError, LookupError) as error:
            raise click.ClickException(str(error)) from None


keys = _Group("keys", help="The API keys of callers.")
usage = _Group("usage", help="What was used.")
db = _Group("db", help="The database.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def init_app(app: Flask) -> None:
    """Add the commands."""
    from .migrate import migrate

    for command in (keys, usage, db, migrate, examine):
        app.cli.add_command(command)


def without_parts(error: SettingsError) -> Flask | None:
    """For Flask's command line, an application of which `doctor` can tell what is wrong; None anywhere else."""
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    if not isinstance(context.command, FlaskGroup):  # `flask run` and the like would serve it
        raise click.ClickException(_in_a_line(error))
    app = Flask("chatapi", static_folder=None)
    app.extensions["chatapi"] = error
    init_app(app)
    return app


def _parts() -> Components:
    found = current_app.extensions["chatapi"]
    if isinstance(found, SettingsError):
        raise click.ClickException(_in_a_line(found))
    return cast(Components, found)


def _in_a_line(error: SettingsError) -> str:
    return "these settings cannot be used: " + "; ".join(error.mistakes)


# --- keys

_LATEST = 7_000_000_000  # the year 2191, in Unix seconds: times until then can be reckoned with, and shown


class _Moment(click.ParamType[float]):
    """A date, or date and time, as Unix seconds; UTC unless it says otherwise."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            moment = datetime.fromisoformat(value)
            at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            at = -1.0
        if not 0 <= at < _LATEST:
            self.fail(f"{value!r} is no date like 2027-06-30", param, ctx)
        return at


class _Duration(click.ParamType[float]):
    """A time like 90s, 30m, 24h or 7d, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(str(value)[-1:])
        count = str(value)[:-1]
        if unit is None or not (count.isascii() and count.isdigit() and len(count) < 7):
            self.fail(f"{value!r} is no time like 90s, 30m, 24h or 7d", param, ctx)
        return float(count) * unit


class _Text(click.ParamType[str]):
    """Words that can be printed on one line."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not (value.strip() and value.isprintable() and len(value) <= 100):
            self.fail("it must be 1 to 100 printable characters", param, ctx)
        return str(value)


def _grants(least: int) -> Callable[[Command], Command]:
    """The options that say what a key may do; limits from `least` on."""
    number = click.IntRange(least, 10**15)
    options = [click.option(f"--{name}", type=number, help=f"{WHAT[name].capitalize()}.") for name in NAMES]
    options += [
        click.option("--shadow", type=click.Choice(NAMES), multiple=True, help="Count this limit, but refuse nobody."),
        click.option("--models", type=_Text(), multiple=True, metavar="GLOB", help="Only these: 'google/*'."),
        click.option("--expires", type=_Moment(), help="Not valid from this date on (UTC)."),
    ]

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@keys.command()
@click.option("--name", type=_Text(), required=True, help="Whose key it is.")
@_grants(1)
@as_json
def create(
    name: str, models: Sequence[str], expires: float | None, as_json: bool, shadow: Sequence[str], **limits: int | None
) -> None:
    """Make a key. It is shown this once, and stored nowhere."""
    if expires is not None and expires <= time.time():
        raise click.BadParameter("is in the past", param_hint="--expires")
    row, text = _parts().keys.create(name, Limits(**limits, shadow=tuple(shadow)), models, expires)
    _show_new(row, text, as_json)


@keys.command()
@click.argument("id")
@click.option("--name", type=_Text(), help="Whose key it is.")
@_grants(0)
@as_json
def update(
    id: str,
    name: str | None,
    models: Sequence[str],
    expires: float | None,
    as_json: bool,
    shadow: Sequence[str],
    **limits: int | None,
) -> None:
    """Change what is given, and leave the rest. A limit of 0 is none; --models '*' allows all."""
    given = {name: limit or None for name, limit in limits.items() if limit is not None}
    row = _parts().keys.update(id, name, given | ({"shadow": list(shadow)} if shadow else {}), models, expires)
    _show(_public(row), as_json)


@keys.command("list")
@as_json
def list_keys(as_json: bool) -> None:
    """All keys, the oldest first."""
    shown = [_public(row) for row in _parts().keys.list()]
    if as_json:
        _print_json(shown)
    else:
        columns = ("id", "name", "state", "limits", "models", "last_used_at")
        _print_table(columns, ([_cell(key[column]) for column in columns] for key in shown))


@keys.command()
@click.argument("id")
@as_json
def show(id: str, as_json: bool) -> None:
    """One key."""
    _show(_public(_parts().keys.show(id)), as_json)


@keys.command()
@click.argument("id")
@click.option("--grace", type=_Duration(), default="24h", show_default=True, help="How long the old key still opens.")
@as_json
def rotate(id: str, grace: float, as_json: bool) -> None:
    """Give a key a new secret. Its id, limits and usage stay."""
    row, text = _parts().keys.rotate(id, grace)
    _show_new(row, text, as_json)


@keys.command()
@click.argument("id")
@as_json
def revoke(id: str, as_json: bool) -> None:
    """Refuse a key from now on; all workers do within 5 seconds."""
    _show(_public(_parts().keys.revoke(id)), as_json)


def _public(row: Row) -> dict[str, Any]:
    """A key as it may be shown: never its digests."""
    now = time.time()
    state = "revoked" if row["revoked_at"] else "expired" if (row["expires_at"] or now + 1) <= now else "active"
    moments = {name: _iso(row[name]) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    limits = {name: value for name, value in row["limits"].items() if value}
    old = {"old_key_until": _iso(row["old_until"])} if (row["old_until"] or 0) > now else {}
    return (
        {"id": row["id"], "name": row["name"], "state": state, "limits": limits, "models": row["models"]}
        | moments
        | old
    )


def _show_new(row: Row, text: str, as_json: bool) -> None:
    _show({"id": row["id"], "key": text} | _public(row), as_json)
    if not as_json:
        click.echo("\nKeep the key now: it cannot be shown again. Callers send it as 'Authorization: Bearer KEY'.")


def _show(thing: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(thing)
        return
    for name, value in thing.items():
        click.echo(f"{name:<15}{_cell(value)}")


# --- usage


@usage.command("report")
@click.option("--by", type=click.Choice(["key", "model", "day"]), multiple=True, help="Add up over all others.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First day (UTC).")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Last day (UTC).")
@click.option("--key", "key_id", help="Of this key id only.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@as_json
def report_usage(
    by: Sequence[str], since: datetime | None, until: datetime | None, key_id: str | None, as_csv: bool, as_json: bool
) -> None:
    """Calls and tokens by key, model and day."""
    days = [day.date().isoformat() if day else None for day in (since, until)]
    rows = report(
        _parts().store.read(lambda tx: statements.used(tx, days[0], days[1], key_id)), by or ("key", "model", "day")
    )
    if as_json:
        _print_json(rows)
        return
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*_COLUMNS, *_ENDINGS])
        writer.writerows([*(row[c] for c in _COLUMNS), *(row["endings"].get(e, 0) for e in _ENDINGS)] for row in rows)
        return
    # A terminal is narrow: only what there is.
    columns = [c for c in _COLUMNS if any(row[c] is not None for row in rows)]
    endings = [e for e in _ENDINGS if any(e in row["endings"] for row in rows)]
    lines = ([*(_cell(row[c]) for c in columns), *(str(row["endings"].get(e, 0)) for e in endings)] for row in rows)
    _print_table((*columns, *endings), lines)


_COLUMNS = ("day", "key_id", "key_name", "model", "calls", "prompt_tokens", "completion_tokens")
_ENDINGS = ("completed", "client_left", "upstream_cut", "deadline", "refused", "worker_lost", "failed")


@usage.command()
@click.option("--before", type=click.DateTime(["%Y-%m-%d"]), help="Delete the calls from before this day (UTC).")
@click.option("--keep-days", type=click.IntRange(1, 36_500), help="Or: keep so many days.")
@click.option("--usage", "sums", is_flag=True, help="Delete what was used, too: reports forget those days.")
@as_json
def prune(before: datetime | None, keep_days: int | None, sums: bool, as_json: bool) -> None:
    """Delete old rows of the ledger, a thousand at a time. Reports keep their numbers, but for --usage."""
    if (before is None) == (keep_days is None):
        raise click.UsageError("Say either --before DATE or --keep-days N.")
    at = before.replace(tzinfo=UTC) if before else datetime.now(UTC) - timedelta(days=keep_days or 0)
    books = _parts().store
    total = books.read(lambda tx: statements.count_before(tx, at.timestamp()))
    deleted = 0
    with click.progressbar(length=total, label="Deleting", file=sys.stderr, hidden=as_json or not total) as bar:
        while count := books.write(lambda tx: statements.prune(tx, at.timestamp(), PRUNE_AT_ONCE)):
            deleted += count
            bar.update(count)
    told: dict[str, Any] = {"deleted": deleted, "before": at.isoformat()}
    day = f"{at:%Y-%m-%d}"
    while sums and (count := books.write(lambda tx: statements.prune_usage(tx, day, PRUNE_AT_ONCE))):
        told["usage_deleted"] = told.get("usage_deleted", 0) + count
    if as_json:
        _print_json(told)
        return
    click.echo(f"Deleted {deleted} calls from before {at:%Y-%m-%d %H:%M} UTC.")
    if sums:
        click.echo(f"Deleted {told.get('usage_deleted', 0)} rows of what was used before {day}.")


# --- the database


@db.command()
@as_json
def upgrade(as_json: bool) -> None:
    """Bring the database's schema to this version. Stop nothing: it takes moments."""
    steps = _parts().store.upgrade()
    if as_json:
        _print_json({"schema": len(STEPS), "steps": steps})
    else:
        click.echo(f"{_parts().store}: schema {len(STEPS)} ({steps} steps taken)")


@db.command()
@as_json
def status(as_json: bool) -> None:
    """Which schema the database has, and which one this version needs."""
    found = _parts().store.schema_version()
    if as_json:
        _print_json({"database": str(_parts().store), "schema": found, "needed": len(STEPS)})
    else:
        click.echo(f"{_parts().store}: schema {found}, needed {len(STEPS)}")


# --- the doctor


def _url(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    try:
        return server_url(text) if text else None
    except ValueError:
        raise click.BadParameter("must be a URL like https://chat.example.com") from None


def _word(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    if text and not (text.isascii() and text.isprintable() and " " not in text):
        raise click.BadParameter("must be one word of printable ASCII")  # and is not repeated: it is a secret
    return text


@click.command("doctor")
@click.argument("part", type=click.Choice(list(doctor.PARTS)), required=False)
@click.option("--url", callback=_url, help=f"The public URL, through nginx; otherwise {doctor.DEFAULT_URL}.")
@click.option("--key", callback=_word, help="A gateway key, where the URL wants one.")
@click.option("--no-calls", is_flag=True, help="Ask no model: nothing that costs tokens.")
@click.option("--slow", is_flag=True, help="Wait as long as CHATAPI_MAX_TIME, to find timeouts that are too short.")
@as_json
@with_appcontext
def examine(part: str | None, url: str | None, key: str | None, no_calls: bool, slow: bool, as_json: bool) -> None:
    """Try everything that production needs, and say what is wrong and the line to change. Status 1: something is.

    With `models`: which models of the catalogue answer, and what can take the place of those that do not.
    """
    parts = current_app.extensions["chatapi"]
    person = sys.stderr.isatty() and not as_json
    if isinstance(parts, SettingsError):
        findings = doctor.of_mistakes(parts)
    else:
        tell = _tell if person else _say_nothing
        findings = doctor.check(parts, url, key, calls=not no_calls, slow=slow, only=part, tell=tell)
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            _print_finding(finding, clear=person)
    if as_json:
        _print_json([asdict(finding) for finding in found])
    sys.exit(any(finding.ok is False for finding in found))


def _print_finding(finding: doctor.Finding, clear: bool) -> None:
    if clear:
        _tell("")
    sign = {True: "ok", False: "WRONG", None: "?"}[finding.ok]
    click.echo(f"{sign:<7}{finding.name}: {finding.says}")
    for line in finding.do.splitlines():
        click.echo(f"       {line}")


def _tell(text: str) -> None:
    """What is being tried, on a line that the next one overwrites."""
    click.echo(f"\r\033[K{text}{' …' if text else ''}", nl=False, err=True)


def _say_nothing(text: str) -> None:
    pass


# --- printing


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    rows = [columns, *lines]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_cell(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
