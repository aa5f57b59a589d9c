"""The SQL: what is said to the database within `Store.write` or `Store.read`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from .tables import call_id, calls, day_of, keys, limits, meta, usage

Row = Mapping[str, Any]
Tx = Connection


def execute(tx: Tx, text: str, values: Row | None = None) -> Any:
    """Run a statement below SQLAlchemy, whose own way takes five times as long."""
    return tx.connection.dbapi_connection.execute(text, values or {})  # type: ignore[union-attr]


class _Often:
    """A statement that every call needs: made into SQL once, and run below SQLAlchemy, which took as long again."""

    def __init__(self, statement: Callable[[Any], Any]) -> None:
        self._statement = statement  # from the dialect's `insert`
        self._text: dict[str, str] = {}

    def __call__(self, tx: Tx, **values: Any) -> Any:
        name = tx.dialect.name
        if name not in self._text:
            dialect = sqlite if name == "sqlite" else postgresql
            self._text[name] = str(self._statement(dialect.insert).compile(dialect=tx.dialect))
        return execute(tx, self._text[name], values)


def _rows(found: sa.CursorResult[Any]) -> list[Row]:
    return [dict(row) for row in found.mappings()]


def upsert(table: sa.Table, tx: Tx) -> Any:
    """An insert into `table` that may say what to do where the row is there already."""
    return (sqlite if tx.dialect.name == "sqlite" else postgresql).insert(table)


def get_meta(tx: Tx, name: str) -> str | None:
    """A value that the gateway keeps for itself."""
    return next((row[0] for row in _meta(tx, of=name)), None)


_meta = _Often(lambda insert: sa.select(meta.c.value).where(meta.c.name == sa.bindparam("of")))


def put_meta(tx: Tx, name: str, value: str) -> None:
    """Set a value that the gateway keeps for itself."""
    new = upsert(meta, tx).values(name=name, value=value)
    tx.execute(new.on_conflict_do_update(index_elements=["name"], set_={"value": new.excluded.value}))


def drop_meta(tx: Tx, prefix: str, before: str | None = None) -> None:
    """Forget what is under names that begin with `prefix`; only values that sort before `before`, if that is given."""
    where = [meta.c.name.startswith(prefix, autoescape=True), *([meta.c.value < before] if before else [])]
    tx.execute(meta.delete().where(*where))


def clock(tx: Tx) -> float | None:
    """The database's own time in Unix seconds; None for SQLite, which has none."""
    if tx.dialect.name == "sqlite":
        return None
    return float(tx.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())


def put_key(tx: Tx, row: Row) -> None:
    """Add a key, or replace the one of the same id; every process hears of it."""
    new = upsert(keys, tx).values(**row)
    tx.execute(new.on_conflict_do_update(index_elements=["id"], set_={c.name: c for c in new.excluded}))
    put_meta(tx, "keys_version", str(int(get_meta(tx, "keys_version") or 0) + 1))


def get_key(tx: Tx, id: str) -> Row | None:
    """One key, or None."""
    return next(iter(_rows(tx.execute(_KEY, {"of": id}))), None)


_KEY = sa.select(keys).where(keys.c.id == sa.bindparam("of"))


def all_keys(tx: Tx) -> list[Row]:
    """Every key, the oldest first."""
    return _rows(tx.execute(sa.select(keys).order_by(keys.c.created_at, keys.c.id)))


def use_key(tx: Tx, id: str, at: float) -> None:
    """Note that a key was used."""
    tx.execute(_USE_KEY, {"of": id, "at": at})


_USE_KEY = keys.update().where(keys.c.id == sa.bindparam("of")).values(last_used_at=sa.bindparam("at"))


def get_limits(tx: Tx, subject: str) -> str | None:
    """The state of a caller's limits."""
    return next((row[0] for row in _limits(tx, of=subject)), None)


_limits = _Often(lambda insert: sa.select(limits.c.state).where(limits.c.subject == sa.bindparam("of")))


def put_limits(tx: Tx, subject: str, state: str, expires_at: float) -> None:
    """Set the state of a caller's limits."""
    _put_limits(tx, subject=subject, state=state, expires_at=expires_at)


def _put(insert: Any, table: sa.Table, primary: Sequence[str], replace: Callable[[str, Any], Any]) -> Any:
    new = insert(table)
    others = {c.name: replace(c.name, new.excluded[c.name]) for c in table.columns if c.name not in primary}
    return new.on_conflict_do_update(index_elements=primary, set_=others)


_put_limits = _Often(lambda insert: _put(insert, limits, ["subject"], lambda name, new: new))


def forget_limits(tx: Tx, before: float) -> None:
    """Forget callers of whom nothing counts any more."""
    tx.execute(limits.delete().where(limits.c.expires_at < before))


def open_call(tx: Tx, row: Row) -> None:
    """A row for a call that begins; or for one that ended as it began, which is there once however often it is said."""
    if row["ending"] is None:
        _insert_call(tx, **row)
    elif _insert_if_new(tx, **row).rowcount:
        _add_usage(tx, row)
    else:  # it was written as it began, by an attempt whose success nobody heard of
        close_call(tx, row)


_insert_call = _Often(lambda insert: insert(calls))
_insert_if_new = _Often(lambda insert: insert(calls).on_conflict_do_nothing())


def close_call(tx: Tx, row: Row) -> bool:
    """The end of the call `row["id"]`; False where it was closed before, and nothing is counted again."""
    ended = {f"new_{name}": row[name] for name in ENDED}
    if _end_call(tx, of=row["id"], **ended).rowcount == 0:
        return False
    _add_usage(tx, row)
    return True


ENDED = (  # what is known of a call at its end
    "model",
    "served",
    "attempts",
    "status",
    "code",
    "ending",
    "prompt_tokens",
    "completion_tokens",
    "usage_source",
    "first_token_ms",
    "total_ms",
)
_end_call = _Often(
    lambda insert: (
        calls.update()
        .where(calls.c.id == sa.bindparam("of"), calls.c.ending.is_(None))
        .values({name: sa.bindparam(f"new_{name}") for name in ENDED})
    )
)


def open_calls(tx: Tx) -> list[Row]:
    """The calls that have not ended."""
    return _rows(tx.execute(sa.select(calls).where(calls.c.ending.is_(None))))


def _add_usage(tx: Tx, row: Row) -> None:
    _sum_up(
        tx,
        day=day_of(row["started_at"]),
        key_id=row["key_id"] or "",
        model=row["served"] or row["model"] or "",
        ending=row["ending"],
        calls=1,
        prompt_tokens=row["prompt_tokens"] or 0,
        completion_tokens=row["completion_tokens"] or 0,
    )


_PRIMARY = ["day", "key_id", "model", "ending"]
_sum_up = _Often(lambda insert: _put(insert, usage, _PRIMARY, lambda name, new: usage.c[name] + new))


def used(tx: Tx, since: str | None = None, until: str | None = None, key_id: str | None = None) -> list[Row]:
    """What was used from day `since` to day `until`, both included: a row for each day, key, model and ending."""
    query = sa.select(usage, keys.c.name.label("key_name")).outerjoin(keys, keys.c.id == usage.c.key_id)
    if since is not None:
        query = query.where(usage.c.day >= since)
    if until is not None:
        query = query.where(usage.c.day <= until)
    if key_id is not None:
        query = query.where(usage.c.key_id == key_id)
    order = (usage.c.day, usage.c.key_id, usage.c.model, usage.c.ending)
    return _rows(tx.execute(query.order_by(*order)))


def prune(tx: Tx, before: float, most: int) -> int:
    """Delete up to `most` ended calls from before `before` (Unix seconds); how many. What was used stays."""
    old = sa.select(calls.c.id).where(calls.c.id < call_id(before, 0), calls.c.ending.is_not(None))
    return tx.execute(calls.delete().where(calls.c.id.in_(old.order_by(calls.c.id).limit(most)))).rowcount


def count_before(tx: Tx, before: float) -> int:
    """How many ended calls `prune` would delete in all."""
    where = (calls.c.id < call_id(before, 0), calls.c.ending.is_not(None))
    return tx.execute(sa.select(sa.func.count()).select_from(calls).where(*where)).scalar_one()
