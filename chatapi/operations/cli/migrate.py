"""`flask --app wsgi migrate …`: the end of the legacy route."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, BinaryIO

import click

from ...accounting.access import KEY_ID_LENGTH
from ...chat import Json
from ...errors import BadRequest
from ...languages import N_, _
from ...migration import callers, schedule
from ...migration.callers import Count, Place
from ...migration.rewrite import preview
from ...migration.route import LegacyRoute
from ...schemas.strict_json import parse_json
from ..doctor import DEFAULT_URL
from .groups import Group, as_json, components
from .printing import cell, iso, print_json, print_one, print_table
from .values import Moment, base_url

migrate = Group("migrate", help=N_("The end of the legacy route, /api/huggingface-chat."))

_DAYS_AT_ONCE = 60  # from so many on, a bar tells how far the reading is
REHEARSAL = ("key_id", "key_name", "client", "calls", "last_seen")
REPORT = (
    *("key_id", "key_name", "client", "calls", "refused", "last_seen", "this_week", "last_week"),
    *("uses", "changes", "compared", "differ"),
)


@migrate.command(help=N_("Who still calls, how often, and what will change for them."))
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help=N_("First day (UTC)."))
@click.option("--csv", "as_csv", is_flag=True, help=N_("Print CSV."))
@as_json
def report(since: datetime | None, as_csv: bool, as_json: bool) -> None:
    if as_csv and as_json:
        raise click.UsageError(_("Say either --csv or --json."))
    found = components()
    today = _today(found.legacy)
    first = since.date() if since else date.min
    # The trend needs the last fourteen days, whatever is asked for.
    rows = _rows(found.legacy, min(first, today - timedelta(days=13)), quiet=as_csv or as_json)
    names = found.legacy.key_names()
    told = callers.report(rows, today, names, found.settings.default_model, first.isoformat())
    if as_json:
        print_json(told)
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([REPORT, *(_cells(one, REPORT) for one in told)])
    else:
        print_table(REPORT, (_cells(one, REPORT) for one in told))


@migrate.command(help=N_("Who of the last callers would be refused at a date."))
@click.option("--at", type=Moment(), help=N_("The date (UTC); the sunset by default."))
@click.option(
    "--days", type=click.IntRange(1, 400), default=7, show_default=True, help=N_("Whose calls: of so many days.")
)
@as_json
def rehearse(at: float | None, days: int, as_json: bool) -> None:
    route = components().legacy
    rows = _rows(route, _today(route) - timedelta(days=days - 1), quiet=as_json)
    told = callers.refused_at(rows, route.key_names(), lambda key_id: route.serves(key_id, at))
    if as_json:
        print_json(told)
    elif told:
        print_table(REHEARSAL, (_cells(one, REHEARSAL) for one in told))
    else:
        click.echo(_("Nobody who called in the last {days} days would be refused.", days=days))


def _today(route: LegacyRoute) -> date:
    return datetime.fromtimestamp(route.clock(), UTC).date()


def _rows(route: LegacyRoute, since: date, quiet: bool) -> Iterator[tuple[Place, Count]]:
    days = route.days(since.isoformat())
    hidden = quiet or len(days) < _DAYS_AT_ONCE
    with click.progressbar(days, label=_("Reading"), file=sys.stderr, hidden=hidden) as bar:
        for day in bar:
            yield from route.calls_of(day)


def _cells(one: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    changes = {change["field"]: change["becomes"] for change in one.get("changes", ())}
    return [cell(changes if name == "changes" else one[name]) for name in columns]


# --- one request


@migrate.command(
    "preview", help=N_("What legacy requests become. FILE has one body as JSON, or one on each line; - is stdin.")
)
@click.argument("file", type=click.File("rb"))
@click.option("--url", callback=base_url, default=DEFAULT_URL, show_default=True, help=N_("The gateway's URL."))
@as_json
def show_preview(file: BinaryIO, url: str, as_json: bool) -> None:
    raw = file.read()
    lines = [line for line in raw.splitlines() if line.strip()]
    if str(getattr(file, "name", "")).endswith(".jsonl") or (not _is_object(raw) and any(map(_is_object, lines))):
        results = [_preview(line, url) for line in lines]
        for result in results:
            click.echo(json.dumps(result, ensure_ascii=False))
    else:
        results = [_preview(raw, url)]
        if as_json or "error" in results[0]:
            print_json(results[0])
        else:
            _print_preview(results[0])
    sys.exit(any("error" in result for result in results))


def _is_object(text: bytes) -> bool:
    try:
        parse_json(text)
    except BadRequest:
        return False
    return True


def _preview(text: bytes, url: str) -> Json:
    try:
        return preview(parse_json(text), components().settings.default_model, url)
    except BadRequest as error:
        details = {"details": error.details} if error.details else {}
        return {"error": {"code": error.code, "message": error.message, **details}}


def _print_preview(found: Json) -> None:
    for change in found["changes"]:
        click.echo(f"{change['field']} -> {change['becomes'] or '-'}: {change['note']}")
    for name in ("completions", "openai"):
        click.echo(f"\n# POST {found[name]['path']}\n{found[name]['curl']}", nl=False)


# --- the schedule


@migrate.command(help=N_("Propose a schedule: brownouts before the sunset, each longer than the one before."))
@click.option("--sunset", type=click.DateTime(["%Y-%m-%d"]), required=True, help=N_("The day the route goes (UTC)."))
@as_json
def suggest(sunset: datetime, as_json: bool) -> None:
    at, now = sunset.replace(tzinfo=UTC).timestamp(), components().legacy.clock()
    if at <= now:
        raise click.BadParameter(_("is in the past"), param_hint="--sunset")
    lines = {
        "CHATAPI_LEGACY_SUNSET": schedule.day_of(at),
        "CHATAPI_LEGACY_BROWNOUTS": " ".join(schedule.suggest(now, at)),
    }
    if as_json:
        print_json(lines)
        return
    for name, value in lines.items():
        click.echo(f"{name}={value}")


@migrate.command(
    help=N_("Serve a key until a date after the sunset, and through brownouts. A new date replaces the old one.")
)
@click.argument("key")
@click.option("--until", type=Moment(), required=True, help=N_("The date (UTC)."))
@as_json
def extend(key: str, until: float, as_json: bool) -> None:
    parts = components()
    configured = any(digest.startswith(key) for digest in parts.settings.keys) and len(key) == KEY_ID_LENGTH
    name = None if configured else parts.keys.show(key)["name"]
    parts.legacy.extend(key, until)
    print_one({"key_id": key, "key_name": name, "until": iso(until)}, as_json)


@migrate.command("switch-off", help=N_("Retire the route now, for everybody; everywhere within 5 seconds."))
@as_json
def switch_off(as_json: bool) -> None:
    _switch(True, as_json)


@migrate.command("switch-on", help=N_("Take switch-off back, and no more: the schedule goes on."))
@as_json
def switch_on(as_json: bool) -> None:
    _switch(False, as_json)


def _switch(off: bool, as_json: bool) -> None:
    components().legacy.switch(off)
    if as_json:
        print_json({"switched_off": off})
    elif off:
        click.echo(_("Switched off: within 5 seconds the legacy route answers 410 to everybody."))
    else:
        click.echo(_("Switched on: within 5 seconds the legacy route follows its schedule again."))
