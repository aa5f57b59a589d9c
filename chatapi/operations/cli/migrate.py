"""`flask --app wsgi migrate …`: the end of the legacy route."""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import BinaryIO

import click

from ...accounting.access import KEY_ID_LENGTH
from ...accounting.tables import day_of
from ...chat import Json
from ...errors import BadRequest
from ...languages import N_, _
from ...migration import callers, schedule
from ...migration.rewrite import preview
from ...schemas.strict_json import parse_json
from ..doctor import DEFAULT_URL
from .commands import Group, Output, components, describe, format_cell, format_json, format_table, format_time
from .values import BASE_URL, DAY, MOMENT

migrate = Group("migrate", help=N_("The end of the legacy route, /api/huggingface-chat."))

_DAYS_AT_ONCE = 60  # from so many on, a bar tells how far the reading is
REHEARSAL = ("key_id", "key_name", "client", "calls", "last_seen")
REPORT = (
    *("key_id", "key_name", "client", "calls", "refused", "last_seen", "this_week", "last_week"),
    *("uses", "changes", "compared", "differ"),
)


@migrate.command(as_csv=True, help=N_("Who still calls, how often, and what will change for them."))
@click.option("--since", type=DAY, help=N_("First day (UTC)."))
def report(since: datetime | None) -> Output:
    found, first = components(), since.date().isoformat() if since else ""
    return _table(REPORT, found.legacy.report(found.settings.default_model, first, _read_with_bar))


@migrate.command(help=N_("Who of the last callers would be refused at a date."))
@click.option("--at", type=MOMENT, help=N_("The date (UTC); the sunset by default."))
@click.option(
    "--days", type=click.IntRange(1, 400), default=7, show_default=True, help=N_("Whose calls: of so many days.")
)
def rehearse(at: float | None, days: int) -> Output:
    route = components().legacy
    rows = route.calls(day_of(route.clock() - (days - 1) * callers.DAY_S), _read_with_bar)
    refused = callers.find_refused(rows, route.key_names(), lambda key_id: route.serves(key_id, at))
    if not refused:
        return Output([], _("Nobody who called in the last {days} days would be refused.", days=days))
    return _table(REHEARSAL, refused)


def _read_with_bar(days: Sequence[str]) -> Iterator[str]:
    hidden = len(days) < _DAYS_AT_ONCE or not sys.stderr.isatty()
    with click.progressbar(days, label=_("Reading"), file=sys.stderr, hidden=hidden) as bar:
        yield from bar


def _table(columns: Sequence[str], rows: Sequence[Json]) -> Output:
    lines = [[format_cell(_changes(row) if name == "changes" else row[name]) for name in columns] for row in rows]
    return Output(rows, format_table(columns, lines), [columns, *lines])


def _changes(row: Json) -> Json:
    return {change["field"]: change["becomes"] for change in row["changes"]}


# --- one request


@migrate.command(
    "preview", help=N_("What legacy requests become. FILE has one body as JSON, or one on each line; - is stdin.")
)
@click.argument("file", type=click.File("rb"))
@click.option("--url", type=BASE_URL, default=DEFAULT_URL, show_default=True, help=N_("The gateway's URL."))
def show_preview(file: BinaryIO, url: str) -> Output:
    raw = file.read()
    lines = [line for line in raw.splitlines() if line.strip()]
    if str(getattr(file, "name", "")).endswith(".jsonl") or (not _is_object(raw) and any(map(_is_object, lines))):
        results = [_preview(line, url) for line in lines]
        text = "\n".join(json.dumps(result, ensure_ascii=False) for result in results)
        return Output(None, text, status=any("error" in result for result in results))
    result = _preview(raw, url)
    if "error" in result:
        return Output(result, format_json(result), status=1)
    return Output(result, _preview_text(result))


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


def _preview_text(found: Json) -> str:
    changes = [f"{change['field']} -> {change['becomes'] or '-'}: {change['note']}" for change in found["changes"]]
    new = (found["completions"], found["openai"])
    return "\n".join(changes + [f"\n# POST {request['path']}\n{request['curl'].rstrip()}" for request in new])


# --- the schedule


@migrate.command(help=N_("Propose a schedule: brownouts before the sunset, each longer than the one before."))
@click.option("--sunset", type=DAY, required=True, help=N_("The day the route goes (UTC)."))
def suggest(sunset: datetime) -> Output:
    at, now = sunset.replace(tzinfo=UTC).timestamp(), components().legacy.clock()
    if at <= now:
        raise click.BadParameter(_("is in the past"), param_hint="--sunset")
    lines = {
        "CHATAPI_LEGACY_SUNSET": day_of(at),
        "CHATAPI_LEGACY_BROWNOUTS": " ".join(schedule.suggest(now, at)),
    }
    return Output(lines, "\n".join(f"{name}={value}" for name, value in lines.items()))


@migrate.command(
    help=N_("Serve a key until a date after the sunset, and through brownouts. A new date replaces the old one.")
)
@click.argument("key")
@click.option("--until", "ends_at", type=MOMENT, required=True, help=N_("The date (UTC)."))
def extend(key: str, ends_at: float) -> Output:
    parts = components()
    configured = any(digest.startswith(key) for digest in parts.settings.keys) and len(key) == KEY_ID_LENGTH
    name = None if configured else parts.keys.show(key)["name"]
    parts.legacy.extend(key, ends_at)
    return describe({"key_id": key, "key_name": name, "until": format_time(ends_at)})


@migrate.command("switch-off", help=N_("Retire the route now, for everybody; everywhere within 5 seconds."))
def switch_off() -> Output:
    components().legacy.switch(True)
    text = _("Switched off: within 5 seconds the legacy route answers 410 to everybody.")
    return Output({"switched_off": True}, text)


@migrate.command("switch-on", help=N_("Take switch-off back, and no more: the schedule goes on."))
def switch_on() -> Output:
    components().legacy.switch(False)
    text = _("Switched on: within 5 seconds the legacy route follows its schedule again.")
    return Output({"switched_off": False}, text)
