"""The only SQL: API keys, the ledger of calls, what was used, and the state of limits. SQLite or PostgreSQL.

Whoever writes holds the database's one write lock (SQLite's own; an advisory lock on PostgreSQL) for a short
transaction, in which everything lies that other callers of this process have handed in meanwhile. No transaction is
open while an upstream is awaited.
"""

import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from ..errors import SchemaError, StoreUnavailable

T = TypeVar("T")
Row = Mapping[str, Any]
Tx = Connection

LOCK_WAIT_S = 2.0  # how long a call waits for a database that others write to
CONNECT_S = 3
TAKE = 64  # callers' work in one transaction
_ADVISORY_LOCK = 0x63686174  # "chat"

metadata = sa.MetaData()
meta = sa.Table("meta", metadata, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text))
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("old_digest", sa.Text),  # of the secret before the last rotation, until `old_until`
    sa.Column("old_until", sa.Double),
    sa.Column("limits", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("last_used_at", sa.Double),
)
calls = sa.Table(
    "calls",
    metadata,
    # Time in microseconds and 12 random bits: new rows lie at the end of every index, and a span of time is one of ids.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("key_id", sa.Text),
    sa.Column("dialect", sa.Text, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("served", sa.Text),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("code", sa.Text),
    sa.Column("ending", sa.Text),  # NULL while the call is open
    sa.Column("prompt_tokens", sa.BigInteger),
    sa.Column("completion_tokens", sa.BigInteger),
    sa.Column("usage_source", sa.Text),
    sa.Column("first_token_ms", sa.Double),
    sa.Column("total_ms", sa.Double),
    sa.Column("owner", sa.Text, nullable=False),  # the process that answers it
    sa.Column("until", sa.Double, nullable=False),  # when it is over at the latest
)
# The only index besides the primary key: as large as the number of calls open, whatever the ledger's size.
sa.Index("calls_open", calls.c.id, sqlite_where=calls.c.ending.is_(None), postgresql_where=calls.c.ending.is_(None))
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),  # "" for callers without a key; first, for each asks for its own
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("ending", sa.Text, primary_key=True),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
)
limits = sa.Table(
    "limits",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)
# What has expired is found without a look at what has not: there may be a row for each of a million keys.
sa.Index("limits_expiring", limits.c.expires_at)


def _first(tx: Tx) -> None:
    metadata.create_all(tx)
    # Keys are told from guesses by it, and their digests are keyed with it: see access.py.
    secret = secrets.token_hex(32)
    tx.execute(meta.insert(), [{"name": "keys_version", "value": "0"}, {"name": "secret", "value": secret}])


# Each takes the schema one step further, in order; a change of the tables above is a new step at the end.
MIGRATIONS: tuple[Callable[[Tx], None], ...] = (_first,)


class Store:
    """One database, and this process's connections to it: one that writes, one that reads."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._writer = _Line(self._connect, str(self))
        self._reader = _Line(self._connect, str(self))
        self._engine: sa.Engine | None = None
        self._waiting: deque[_Work[Any]] = deque()

    def __str__(self) -> str:
        """The URL, without its password."""
        return self._url.difference_update_query(["password"]).render_as_string(hide_password=True)

    # --- transactions

    def write(self, do: Callable[[Tx], T]) -> T:
        """What `do` returns, committed. Raises StoreUnavailable; then nothing of it was written.

        Callers who wait for the lock hand in their work, and the first of them does it all in one transaction.
        """
        work = _Work(do)
        self._waiting.append(work)
        with self._writer.held(unless=lambda: self._take_back(work)):
            if not work.done:
                self._take_back(work)
                self._write_all([work, *self._take()])
        return work.result()

    def _take(self) -> "list[_Work[Any]]":
        return [self._waiting.popleft() for _ in range(min(TAKE, len(self._waiting)))]

    def _take_back(self, work: "_Work[Any]") -> bool:
        """Whether nobody has begun with `work`, and now nobody will."""
        try:
            self._waiting.remove(work)
        except ValueError:
            return False
        return True

    def read(self, do: Callable[[Tx], T]) -> T:
        """What `do` reads. Raises StoreUnavailable."""
        with self._reader.held(), self._explained(), self._reader.connection() as connection:
            return do(connection)

    def _write_all(self, batch: "list[_Work[Any]]") -> None:
        try:
            with self._explained(), self._writer.connection() as connection, self._transaction(connection):
                for work in batch:
                    work.run(connection)
        except Exception as error:
            if len(batch) == 1 or not any(work.begun for work in batch):
                for work in batch:
                    work.fail(error)
                return
            for work in batch:  # one of them is at fault: none of the others shall suffer
                work.begun = False
                self._write_all([work])
            return
        for work in batch:
            work.done = True

    @contextmanager
    def _transaction(self, connection: Connection) -> Iterator[None]:
        self._begin(connection)
        try:
            yield
            _execute(connection, "COMMIT")
        except BaseException:
            with suppress(Exception):  # the connection may be broken
                _execute(connection, "ROLLBACK")
            raise

    def _begin(self, connection: Connection) -> None:
        if not self.is_sqlite:
            _execute(connection, "BEGIN")
            _execute(connection, f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
            return
        # Waited for here and not in SQLite, whose waiting would stop every greenlet of the process.
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                _execute(connection, "BEGIN IMMEDIATE")
                return
            except connection.dialect.loaded_dbapi.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(random.uniform(0.0005, 0.004))

    # --- the schema

    def check(self) -> None:
        """Connect, and create the tables in an empty database. Raises SchemaError or StoreUnavailable."""
        self.read(lambda tx: None)

    def ping(self) -> str:
        """In a few words that it can be written to. Raises StoreUnavailable."""
        self.write(lambda tx: None)
        return f"writable, schema {len(MIGRATIONS)}"

    def upgrade(self) -> int:
        """Bring the schema to this version, by one process at a time; how many steps that took."""
        with self._explained():
            connection = self._open()
            try:
                with self._transaction(connection):
                    return self._steps(connection)
            finally:
                connection.close()

    def schema_version(self) -> int:
        """How many migrations the database has; 0 when it is empty."""
        with self._explained():
            connection = self._open()
            try:
                return self._version(connection)
            finally:
                connection.close()

    def _version(self, connection: Connection) -> int:
        if not sa.inspect(connection).has_table("meta"):
            return 0
        found = connection.execute(sa.select(meta.c.value).where(meta.c.name == "schema")).scalar()
        return int(found or 0)

    def _steps(self, connection: Connection) -> int:
        version = self._version(connection)
        if version > len(MIGRATIONS):
            raise SchemaError(_wrong_version(self, version))
        for step in MIGRATIONS[version:]:
            step(connection)
        put_meta(connection, "schema", str(len(MIGRATIONS)))
        return len(MIGRATIONS) - version

    def _connect(self) -> Connection:
        """A connection to a database with the right schema; an empty one gets it."""
        connection = self._open()
        try:
            version = self._version(connection)
            if version == 0:
                with self._transaction(connection):
                    self._steps(connection)
            elif version != len(MIGRATIONS):
                raise SchemaError(_wrong_version(self, version))
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self) -> Connection:
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine.connect()

    def _make_engine(self) -> sa.Engine:
        # No pool: each of the two connections stays open as long as it works.
        common: dict[str, Any] = {"poolclass": sa.pool.NullPool, "isolation_level": "AUTOCOMMIT"}
        if not self.is_sqlite:
            options = f"-c lock_timeout={int(LOCK_WAIT_S * 1000)} -c statement_timeout=10000"
            options += " -c idle_in_transaction_session_timeout=5000"
            given = {"connect_timeout": CONNECT_S, "options": options, "tcp_user_timeout": 5000}
            return sa.create_engine(self._url, connect_args=given, **common)
        if self._url.database and self._url.database != ":memory:":
            with suppress(OSError):  # connecting says what is wrong
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
                Path(self._url.database).touch(mode=0o600)  # who else is on this machine has no business in it
        given = {"check_same_thread": False, "timeout": 0}
        engine = sa.create_engine(self._url, connect_args=given, paramstyle="named", **common)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        return engine

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            dbapi = self._engine.dialect.loaded_dbapi if self._engine else None
            if not isinstance(error, SQLAlchemyError) and not (dbapi and isinstance(error, dbapi.Error)):
                raise
            cause = str(getattr(error, "orig", None) or error or type(error).__name__).strip().partition("\n")[0]
            raise StoreUnavailable(cause, str(self)) from error

    def close(self) -> None:
        """Close both connections; the next use opens them again."""
        self._writer.close()
        self._reader.close()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # A process that is killed loses nothing that was committed; only a power cut may take the last moments.
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                connection.execute(f"PRAGMA {pragma}").close()
                break
            except Exception as error:
                if "readonly" in str(error):
                    break  # it can still be read
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(0.005)


def _wrong_version(store: Store, version: int) -> str:
    ours = len(MIGRATIONS)
    if version > ours:
        return f"{store} has schema {version}, and this version of chatapi knows {ours}: install a newer chatapi"
    return f"{store} has schema {version}, and this version of chatapi needs {ours}: run: flask --app wsgi db upgrade"


class _Work(Generic[T]):
    """What one caller wants done in a transaction, and what came of it."""

    def __init__(self, do: Callable[[Tx], T]) -> None:
        self._do = do
        self._result: T | None = None
        self._error: Exception | None = None
        self.begun = self.done = False

    def run(self, tx: Tx) -> None:
        self.begun = True
        self._result = self._do(tx)

    def fail(self, error: Exception) -> None:
        self._error, self.done = error, True

    def result(self) -> T:
        if self._error:
            raise self._error
        return self._result  # type: ignore[return-value]


class _Line:
    """One connection, for one at a time; thrown away when anything goes wrong with it."""

    def __init__(self, connect: Callable[[], Connection], database: str) -> None:
        self._connect = connect
        self._database = database
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    @contextmanager
    def held(self, unless: Callable[[], bool] = lambda: True) -> Iterator[None]:
        # Whoever has it gives up by himself after LOCK_WAIT_S: this is for a network that swallows everything.
        while not self._lock.acquire(timeout=5 * LOCK_WAIT_S):
            if unless():
                raise StoreUnavailable("it does not answer", self._database)
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        if self._connection is None:
            self._connection = self._connect()
        try:
            yield self._connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be broken
                connection.close()


# --- statements, for use within `write` or `read`


def _execute(tx: Tx, text: str, values: Row | None = None) -> Any:
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
        return _execute(tx, self._text[name], values)


def _rows(found: sa.CursorResult[Any]) -> list[Row]:
    return [dict(row) for row in found.mappings()]


def _upsert(table: sa.Table, tx: Tx) -> Any:
    return (sqlite if tx.dialect.name == "sqlite" else postgresql).insert(table)


def get_meta(tx: Tx, name: str) -> str | None:
    """A value that the gateway keeps for itself."""
    return next((row[0] for row in _meta(tx, of=name)), None)


_meta = _Often(lambda insert: sa.select(meta.c.value).where(meta.c.name == sa.bindparam("of")))


def put_meta(tx: Tx, name: str, value: str) -> None:
    """Set a value that the gateway keeps for itself."""
    new = _upsert(meta, tx).values(name=name, value=value)
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
    new = _upsert(keys, tx).values(**row)
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


def call_id(at: float, salt: int | None = None) -> int:
    """An id for a call that begins at `at` (Unix seconds); 63 bits, until the year 2097."""
    since = min(max(0, int((at - _FIRST_DAY) * 1e6)), 2**51 - 1)
    return since << 12 | (random.getrandbits(12) if salt is None else salt)


_FIRST_DAY = 1_767_225_600  # 2026-01-01


def day_of(at: float) -> str:
    """The day (UTC) of a moment in Unix seconds."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))
