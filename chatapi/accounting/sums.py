"""What was used, added up: a row for each day, key, model and ending, kept when the calls themselves are pruned."""

from collections.abc import Callable, Collection, Iterable
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from .statements import CompiledStatement, Row, Tx, rows_of
from .store import Store
from .tables import day_of, keys, usage


def used(tx: Tx, since: str | None = None, until: str | None = None, key_id: str | None = None) -> list[Row]:
    """What was used from day `since` to day `until`, both included: a row for each day, key, model and ending."""
    query = sa.select(usage, keys.c.name.label("key_name")).outerjoin(keys, keys.c.id == usage.c.key_id)
    order = (usage.c.day, usage.c.key_id, usage.c.model, usage.c.ending)
    return rows_of(tx.execute(query.where(*_of(since, until, key_id)).order_by(*order)))


def _of(since: str | None, until: str | None, key_id: str | None, model: str | None = None) -> list[Any]:
    """What narrows a query to these days, and to one key and one model where they are given."""
    wanted = {usage.c.key_id: key_id, usage.c.model: model}
    days = usage.c.day.between(since or "", until or "9999-12-31")
    return [days, *(column == value for column, value in wanted.items() if value is not None)]


_SUMS = [sa.func.sum(usage.c[name]).label(name) for name in ("calls", "prompt_tokens", "completion_tokens")]


def used_by(
    tx: Tx, name: str, since: str, until: str, key_id: str | None = None, model: str | None = None
) -> list[Row]:
    """What was used from day to day, both included, added up by the column `name`, the most called first.

    Added up by the database: of a year there may be a million rows.
    """
    query = sa.select(usage.c[name], *_SUMS).where(*_of(since, until, key_id, model))
    found = query.group_by(usage.c[name]).subquery()
    chosen = sa.select(found)
    if name == "key_id":
        chosen = sa.select(found, keys.c.name.label("key_name")).outerjoin(keys, keys.c.id == found.c.key_id)
    return _ints(tx.execute(chosen.order_by(found.c.calls.desc(), found.c[name])))


def used_by_day(tx: Tx, since: str, until: str, key_id: str | None = None, model: str | None = None) -> list[Row]:
    """What was used from day to day, both included: for each day, of calls that were `completed` and of all others."""
    completed = (usage.c.ending == "completed").label("completed")
    query = sa.select(usage.c.day, completed, *_SUMS).where(*_of(since, until, key_id, model))
    return _ints(tx.execute(query.group_by(usage.c.day, completed)))


def _ints(found: sa.CursorResult[Any]) -> list[Row]:
    """Rows whose sums are plain integers: PostgreSQL's are decimals."""
    return [{name: int(it) if isinstance(it, Decimal) else it for name, it in row.items()} for row in rows_of(found)]


_tokens_used = CompiledStatement(
    sa.select(
        sa.func.coalesce(sa.func.sum(usage.c.prompt_tokens + usage.c.completion_tokens), sa.literal_column("0"))
    ).where(usage.c.key_id == sa.bindparam("key_id"), usage.c.day >= sa.bindparam("since"))
)


# A limit of a calendar period → the first day of the one that a moment (Unix seconds) lies in.
FIRST_DAY: dict[str, Callable[[float], str]] = {"tpd": day_of, "tpmonth": lambda at: f"{day_of(at)[:7]}-01"}


def used_in_period(tx: Tx, key_id: str | None, limit: str, now: float) -> int:
    """Tokens of the calls of a key in a limit's period that have ended; sums of callers without a key begin at 0."""
    if key_id is None:
        return 0
    return int(_tokens_used.value(tx, key_id=key_id, since=FIRST_DAY[limit](now)))


def read_used(store: Store, key_id: str | None, limit: str, now: float) -> int:
    """As `used_in_period`, read for it alone."""
    return store.read(lambda tx: used_in_period(tx, key_id, limit, now)) if key_id else 0


def prune_usage(tx: Tx, before: str, most: int) -> int:
    """Delete up to `most` rows of what was used before the day `before`; how many."""
    at = sa.tuple_(usage.c.key_id, usage.c.day, usage.c.model, usage.c.ending)
    old = sa.select(usage.c.key_id, usage.c.day, usage.c.model, usage.c.ending).where(usage.c.day < before)
    return tx.execute(usage.delete().where(at.in_(old.limit(most)))).rowcount


def report(rows: Iterable[Row], by: Collection[str] = ("key", "model", "day")) -> list[dict[str, Any]]:
    """What was used (`used`), added up `by` key, model and day, or some of these; the others are None."""
    totals: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        of = {
            "key_id": (row["key_id"] or None) if "key" in by else None,
            "key_name": row["key_name"] if "key" in by else None,
            "model": (row["model"] or None) if "model" in by else None,
            "day": row["day"] if "day" in by else None,
        }
        zero = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "endings": {}}
        one = totals.setdefault(tuple(of.values()), {**of, **zero})
        for name in ("calls", "prompt_tokens", "completion_tokens"):
            one[name] += row[name]
        one["endings"][row["ending"]] = one["endings"].get(row["ending"], 0) + row["calls"]
    return list(totals.values())
