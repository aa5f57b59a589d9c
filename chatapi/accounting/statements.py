"""The SQL: what is said to the database within `Store.write` or `Store.read`."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from ..call import call_id
from ..caller import key_subject
from .processes import is_lost
from .tables import calls, day_of, journals, keys, limits, meta, usage

log = logging.getLogger(__name__)

USED_S = 60.0  # how exact a key's last use is

Row = Mapping[str, Any]
Tx = Connection


def execute(tx: Tx, text: str, values: Row | None = None) -> Any:
    """Run a statement below SQLAlchemy, whose own way takes five times as long."""
    return tx.connection.dbapi_connection.execute(text, values or {})  # type: ignore[union-attr]


class CompiledStatement:
    """A statement that every call needs: made into SQL once, and run below SQLAlchemy, which took as long again.

    An upsert is given as a function of the dialect's own `insert`.
    """

    def __init__(self, statement: sa.ClauseElement | Callable[[Any], sa.ClauseElement]) -> None:
        self._statement = statement
        self._text: dict[str, str] = {}

    def __call__(self, tx: Tx, **values: Any) -> Any:
        return execute(tx, self.text(tx), values)

    def value(self, tx: Tx, **values: Any) -> Any:
        """The first column of the first row; None where there is no row."""
        return next((row[0] for row in self(tx, **values)), None)

    def text(self, tx: Tx) -> str:
        """In the dialect of `tx`."""
        name = tx.dialect.name
        if name not in self._text:
            made = self._statement
            statement = made if isinstance(made, sa.ClauseElement) else made(_dialect(tx).insert)
            self._text[name] = str(statement.compile(dialect=tx.dialect))
        return self._text[name]


def rows_of(found: sa.CursorResult[Any]) -> list[Row]:
    """Each by the names of its columns."""
    return [dict(row) for row in found.mappings()]


def upsert(tx: Tx, table: sa.Table, row: Row) -> None:
    """Add a row, or replace the one with the same primary key."""
    tx.execute(_upsert(_dialect(tx).insert, table).values(**row))


def _dialect(tx: Tx) -> Any:
    return sqlite if tx.dialect.name == "sqlite" else postgresql


def _upsert(insert: Any, table: sa.Table, replace: Callable[[str, Any], Any] = lambda name, new: new) -> Any:
    new = insert(table)
    primary = [column.name for column in table.primary_key]
    others = {c.name: replace(c.name, new.excluded[c.name]) for c in table.columns if c.name not in primary}
    return new.on_conflict_do_update(index_elements=primary, set_=others)


def get_meta(tx: Tx, name: str) -> str | None:
    """A value that the gateway keeps for itself."""
    found: str | None = _meta.value(tx, name=name)
    return found


_meta = CompiledStatement(sa.select(meta.c.value).where(meta.c.name == sa.bindparam("name")))


def put_meta(tx: Tx, name: str, value: str) -> None:
    """Set a value that the gateway keeps for itself."""
    upsert(tx, meta, {"name": name, "value": value})


def drop_meta(tx: Tx, prefix: str, before: str | None = None) -> None:
    """Forget what is under names that begin with `prefix`; only values that sort before `before`, if that is given."""
    where = [meta.c.name.startswith(prefix, autoescape=True), *([meta.c.value < before] if before else [])]
    tx.execute(meta.delete().where(*where))


def clock(tx: Tx) -> float | None:
    """The database's own time in Unix seconds; None for SQLite, which has none."""
    if tx.dialect.name == "sqlite":
        return None
    return float(tx.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())


def use_key(tx: Tx, id: str, at: float) -> None:
    """A key was used at `at` (Unix seconds)."""
    _use_key(tx, of=id, at=at, before=at - USED_S)


_use_key = CompiledStatement(
    keys.update()
    .where(keys.c.id == sa.bindparam("of"))
    .where(keys.c.last_used_at.is_(None) | (keys.c.last_used_at < sa.bindparam("before")))
    .values(last_used_at=sa.bindparam("at"))
)


# The state of a caller's limits, and the same set anew.
get_limits = CompiledStatement(sa.select(limits.c.state).where(limits.c.subject == sa.bindparam("subject")))
put_limits = CompiledStatement(lambda insert: _upsert(insert, limits))


def limits_with(tx: Tx, key_id: str | None, call: str) -> list[tuple[str, str, float]]:
    """The states of limits (subject, state, when it expires) in which a call may be open."""
    of = limits.c.subject == key_subject(key_id) if key_id else limits.c.subject.startswith("address:")
    found = sa.select(limits.c.subject, limits.c.state, limits.c.expires_at).where(
        of, limits.c.state.contains(f'"{call}"')
    )
    return [(subject, state, expires_at) for subject, state, expires_at in tx.execute(found)]


def forget_limits(tx: Tx, before: float) -> None:
    """Forget callers of whom nothing counts any more."""
    tx.execute(limits.delete().where(limits.c.expires_at < before))


def record(tx: Tx, rows: Iterable[Row]) -> list[Row]:
    """Calls as far as they are known: each is one row and counts once, however often it is said, in whatever order.

    Returns those that have ended by this.
    """
    ended = []
    for row in rows:
        new = _insert_if_new(tx, **row).rowcount == 1
        if row["ending"] is not None and (new or _end_call(tx, **_at_its_end(row)).rowcount == 1):
            ended.append(row)
    _count(tx, map(_BY_NAME, ended))
    return ended


def insert_folded(tx: Tx, new: Sequence[Sequence[Any]], others: Sequence[Sequence[Any]]) -> None:
    """Calls from SQLite's journals, their values in the order of the table's columns: many at once of those of which
    the ledger has nothing yet, `others` one by one.
    """
    driver = tx.dialect.loaded_dbapi
    # Two ids that are the same by chance; or what a broken disk has made of a line.
    unfit = (driver.IntegrityError, driver.InterfaceError, driver.ProgrammingError, OverflowError)
    try:
        with _savepoint(tx):
            tx.connection.dbapi_connection.executemany(_INSERT_VALUES, new)  # type: ignore[union-attr]
    except unfit:
        new, others = (), [*new, *others]
    _count(tx, (counted for values in new if (counted := _BY_PLACE(values))[3] is not None))
    for values in others:
        try:
            with _savepoint(tx):
                record(tx, [dict(zip(COLUMNS, values, strict=True))])
        except unfit:
            log.error("a call in the journal does not fit the ledger, and is left out: %s", values[:1])


@contextmanager
def _savepoint(tx: Tx) -> Iterator[None]:
    execute(tx, "SAVEPOINT folding")
    try:
        yield
    except BaseException:
        execute(tx, "ROLLBACK TO folding")
        raise
    finally:
        execute(tx, "RELEASE folding")


COLUMNS = tuple(calls.columns.keys())
_INSERT_VALUES = f"INSERT INTO calls ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_COUNTED = ("started_at", "key_id", "served", "ending", "model", "code", "prompt_tokens", "completion_tokens")
_BY_NAME = itemgetter(*_COUNTED)
_BY_PLACE = itemgetter(*map(COLUMNS.index, _COUNTED))


def insert_begun(tx: Tx, rows: Sequence[Row]) -> None:
    """PostgreSQL: rows of calls that begin; nothing of those that are there already."""
    if rows:
        _cursor(tx).executemany(_insert_if_new.text(tx), rows)


def update_ended(tx: Tx, rows: Sequence[Row]) -> None:
    """PostgreSQL: the ends of calls, whose beginning is there or not; each counts once."""
    if not rows:
        return
    cursor = _cursor(tx)
    cursor.executemany(_end_call.text(tx) + " RETURNING calls.id", [_at_its_end(row) for row in rows], returning=True)
    ended = {id for (id,) in cursor.fetchall()}
    while cursor.nextset():
        ended.update(id for (id,) in cursor.fetchall())
    by_id = {row["id"]: row for row in rows}  # should a call be said to have ended twice at once
    _count(tx, (_BY_NAME(by_id[id]) for id in ended))
    record(tx, [row for id, row in by_id.items() if id not in ended])


def _cursor(tx: Tx) -> Any:
    return tx.connection.dbapi_connection.cursor()  # type: ignore[union-attr]


def close_call(tx: Tx, row: Row) -> bool:
    """The end of the call `row["id"]`; False where it was closed before, and nothing is counted again."""
    if _end_call(tx, **_at_its_end(row)).rowcount == 0:
        return False
    _count(tx, [_BY_NAME(row)])
    return True


def close_lost(tx: Tx) -> list[Row]:
    """Close the calls whose process is gone, or which are open long after their deadline, as `worker_lost`."""
    lost = [{**row, "ending": "worker_lost"} for row in open_calls(tx) if is_lost(row)]
    return [row for row in lost if close_call(tx, row)]


_insert_if_new = CompiledStatement(lambda insert: insert(calls).on_conflict_do_nothing())


def _at_its_end(row: Row) -> Row:
    return {"of": row["id"], **{f"new_{name}": row[name] for name in _ENDED}}


_ENDED = (  # what is known of a call at its end
    *("model", "served", "attempts", "status", "code", "ending"),
    *("prompt_tokens", "completion_tokens", "usage_source", "first_token_ms", "total_ms"),
)
_end_call = CompiledStatement(
    calls.update()
    .where(calls.c.id == sa.bindparam("of"), calls.c.ending.is_(None))
    .values({name: sa.bindparam(f"new_{name}") for name in _ENDED})
)


def open_calls(tx: Tx) -> list[Row]:
    """The calls that have not ended."""
    return rows_of(tx.execute(sa.select(calls).where(calls.c.ending.is_(None))))


def _count(tx: Tx, ended: Iterable[tuple[Any, ...]]) -> None:
    """Add calls that have ended, each as _COUNTED says, to what was used."""
    sums: dict[tuple[str, int, str, str], list[int]] = {}
    last_used: dict[str, float] = {}
    for started_at, key_id, served, ending, model, code, prompt, completion in ended:
        # Not under a name that the caller alone has made up.
        name = served or ("" if ending == "refused" or code == "model_not_found" else model or "")
        of = key_id or "", int(started_at // 86_400), name, ending
        if (sum_ := sums.get(of)) is None:
            sum_ = sums[of] = [0, 0, 0]
        sum_[0] += 1
        sum_[1] += prompt or 0
        sum_[2] += completion or 0
        if key_id:
            last_used[key_id] = started_at
    for (key_id, day, *names), amounts in sorted(sums.items()):  # in one order, for others wait for the same rows
        _add_usage(tx, **dict(zip(usage.columns.keys(), (key_id, day_of(day * 86_400), *names, *amounts), strict=True)))
    for key_id, at in sorted(last_used.items()):
        use_key(tx, key_id, at)


_add_usage = CompiledStatement(lambda insert: _upsert(insert, usage, lambda name, new: usage.c[name] + new))
# How many bytes of a journal are in the ledger, and the same set anew.
get_folded = CompiledStatement(sa.select(journals.c.folded).where(journals.c.name == sa.bindparam("name")))
put_folded = CompiledStatement(lambda insert: _upsert(insert, journals))


def drop_journals(tx: Tx, exists: Callable[[str], bool]) -> None:
    """Forget the journals that are there no more."""
    for (name,) in tx.execute(sa.select(journals.c.name)).all():
        if not exists(name):
            tx.execute(journals.delete().where(journals.c.name == name))


def prune(tx: Tx, before: float, most: int) -> int:
    """Delete up to `most` ended calls from before `before` (Unix seconds); how many. What was used stays."""
    old = sa.select(calls.c.id).where(calls.c.id < call_id(before, 0), calls.c.ending.is_not(None))
    return tx.execute(calls.delete().where(calls.c.id.in_(old.order_by(calls.c.id).limit(most)))).rowcount


def count_before(tx: Tx, before: float) -> int:
    """How many ended calls `prune` would delete in all."""
    where = (calls.c.id < call_id(before, 0), calls.c.ending.is_not(None))
    return tx.execute(sa.select(sa.func.count()).select_from(calls).where(*where)).scalar_one()
