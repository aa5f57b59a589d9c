"""`flask --app wsgi usage …`: what was used."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ...accounting import statements, sums
from ...accounting.sums import report
from ...call import ENDINGS
from ...languages import N_, _
from .commands import Group, Output, components, format_cell, format_table
from .values import DAY

usage = Group("usage", help=N_("What was used."))

PRUNE_AT_ONCE = 1_000  # rows in one transaction: other processes write in between
_COLUMNS = ("day", "key_id", "key_name", "model", "calls", "prompt_tokens", "completion_tokens")


@usage.command("report", as_csv=True, help=N_("Calls and tokens by key, model and day."))
@click.option("--by", type=click.Choice(["key", "model", "day"]), multiple=True, help=N_("Add up over all others."))
@click.option("--since", "first", type=DAY, help=N_("First day (UTC)."))
@click.option("--until", "last", type=DAY, help=N_("Last day (UTC)."))
@click.option("--key", "key_id", help=N_("Of this key id only."))
def report_usage(by: Sequence[str], first: datetime | None, last: datetime | None, key_id: str | None) -> Output:
    days = [day.date().isoformat() if day else None for day in (first, last)]
    used = components().store.read(lambda tx: sums.used(tx, days[0], days[1], key_id))
    rows = report(used, by or ("key", "model", "day"))
    whole = [[*(row[c] for c in _COLUMNS), *(row["endings"].get(e, 0) for e in ENDINGS)] for row in rows]
    # A terminal is narrow: only what there is.
    columns = [c for c in _COLUMNS if any(row[c] is not None for row in rows)]
    endings = [e for e in ENDINGS if any(e in row["endings"] for row in rows)]
    shown = [[format_cell(row[c]) for c in columns] + [str(row["endings"].get(e, 0)) for e in endings] for row in rows]
    return Output(rows, format_table((*columns, *endings), shown), [(*_COLUMNS, *ENDINGS), *whole])


@usage.command(
    help=N_("Delete old rows of the ledger, a thousand at a time. Reports keep their numbers, but for --usage.")
)
@click.option("--before", type=DAY, help=N_("Delete the calls from before this day (UTC)."))
@click.option("--keep-days", type=click.IntRange(1, 36_500), help=N_("Or: keep so many days."))
@click.option("--usage", "with_sums", is_flag=True, help=N_("Delete what was used, too: reports forget those days."))
def prune(before: datetime | None, keep_days: int | None, with_sums: bool) -> Output:
    if (before is None) == (keep_days is None):
        raise click.UsageError(_("Say either --before DATE or --keep-days N."))
    at = before.replace(tzinfo=UTC) if before else datetime.now(UTC) - timedelta(days=keep_days or 0)
    store = components().store
    total = store.read(lambda tx: statements.count_before(tx, at.timestamp()))
    deleted, hidden = 0, not (total and sys.stderr.isatty())
    with click.progressbar(length=total, label=_("Deleting"), file=sys.stderr, hidden=hidden) as bar:
        while count := store.write(lambda tx: statements.prune(tx, at.timestamp(), PRUNE_AT_ONCE)):
            deleted += count
            bar.update(count)
    result: dict[str, Any] = {"deleted": deleted, "before": at.isoformat()}
    day = f"{at:%Y-%m-%d}"
    while with_sums and (count := store.write(lambda tx: sums.prune_usage(tx, day, PRUNE_AT_ONCE))):
        result["usage_deleted"] = result.get("usage_deleted", 0) + count
    text = _("Deleted {count} calls from before {at:%Y-%m-%d %H:%M} UTC.", count=deleted, at=at)
    if with_sums:
        rows = result.get("usage_deleted", 0)
        text += "\n" + _("Deleted {count} rows of what was used before {day}.", count=rows, day=day)
    return Output(result, text)
