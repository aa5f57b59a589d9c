"""One database, SQLite or PostgreSQL: this process's connections to it, its transactions, and its schema.

Whoever writes holds the database's one write lock (SQLite's own; an advisory lock on PostgreSQL) for a short
transaction, in which everything lies that other callers of this process have handed in meanwhile. No transaction is
open while an upstream is awaited.
"""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from ..errors import SchemaError, StoreUnavailable
from . import tables
from .group_commit import Future, GroupCommit
from .local_ledger import Journal
from .processes import ProcessNumbers
from .statements import Tx, execute, put_meta
from .tables import create, meta

T = TypeVar("T")

LOCK_WAIT_S = 2.0  # how long a call waits for a database that others write to
CONNECT_S = 3
LEAST_FREE = 2_000_000  # bytes of its disk below which a SQLite database counts as full
_ADVISORY_LOCK = 0x63686174  # "chat"


class Store:
    """One database, and this process's connections to it: one that writes, one that reads."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._writer = ExclusiveConnection(self._connect, str(self))
        self._reader = ExclusiveConnection(self._connect, str(self))
        self._engine: sa.Engine | None = None
        self._group_commit = GroupCommit(self._write_all, lambda: 5 * LOCK_WAIT_S)
        self.journal = Journal(self.write, ProcessNumbers(self._folder())) if self.is_sqlite else None

    def _folder(self) -> Path:
        """Where what goes on right now is kept: beside the database."""
        return Path(f"{self._url.database or ''}-live").absolute()

    def __str__(self) -> str:
        """The URL, without its password."""
        return self._url.difference_update_query(["password"]).render_as_string(hide_password=True)

    # --- transactions

    def write(self, do: Callable[[Tx], T]) -> T:
        """What `do` returns, committed. Raises StoreUnavailable; then nothing of it was written.

        Callers who come while others write hand in their work, and one of them does it all in the next transaction.
        """
        try:
            result: T = self._group_commit.do(do)
            return result
        except TimeoutError:  # whoever is at it gives up by himself: this is for a network that swallows everything
            raise StoreUnavailable("it does not answer", str(self)) from None

    def read(self, do: Callable[[Tx], T], *, fresh: bool = True) -> T:
        """What `do` reads. Raises StoreUnavailable.

        `fresh`: the ledger has every call that has ended by now, in any process on this machine. While the database
        cannot be written to, it has those from before.
        """
        if fresh and self.journal is not None:
            with suppress(StoreUnavailable):
                self.journal.fold()
        with self._explained(), self._reader.use() as connection:
            return do(connection)

    def _write_all(self, batch: list[Future[Callable[[Tx], Any]]]) -> None:
        results: list[Any] = []
        begun = False
        try:
            with self._explained(), self._writer.use() as connection, self._transaction(connection):
                begun = True
                results.extend(future.work(connection) for future in batch)
        except Exception as error:
            if len(batch) == 1 or not begun:
                for future in batch:
                    future.set_exception(error)
                return
            for future in batch:  # one of them is at fault: none of the others shall suffer
                self._write_all([future])
            return
        for future, result in zip(batch, results, strict=True):
            future.set_result(result)

    @contextmanager
    def _transaction(self, connection: Connection) -> Iterator[None]:
        self._begin(connection)
        connection.info["batch"] = None  # what all work of a transaction has in common (see database_ledger.py)
        try:
            yield
            if batch := connection.info["batch"]:
                batch.write()
            execute(connection, "COMMIT")
        except BaseException:
            with suppress(Exception):  # the connection may be broken
                execute(connection, "ROLLBACK")
            raise

    def _begin(self, connection: Connection) -> None:
        if not self.is_sqlite:
            execute(connection, "BEGIN")
            execute(connection, f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
            return
        _once_unlocked(execute, connection, "BEGIN IMMEDIATE")

    # --- the schema

    def check(self) -> None:
        """Connect, and create the tables in an empty database. Raises SchemaError or StoreUnavailable."""
        self.read(lambda tx: None, fresh=False)

    def ping(self) -> str:
        """In a few words that it can be written to. Raises StoreUnavailable."""
        if (file := self._url.database) and self.is_sqlite and file != ":memory:":
            # SQLite's journal may have room for one more row where the disk has none for the next.
            free = shutil.disk_usage(Path(file).absolute().parent).free
            if free < LEAST_FREE:
                raise StoreUnavailable(f"the disk is full: {free // 1024} KB left", str(self))
        self.write(lambda tx: put_meta(tx, "written_at", str(int(time.time()))))
        return f"writable, schema {len(tables.STEPS)}"

    def upgrade(self) -> int:
        """Bring the schema to this version, by one process at a time; how many steps that took."""
        with self._opened() as connection, self._transaction(connection):
            return self._steps(connection)

    def foreign_tables(self) -> list[str]:
        """The tables of the database that are none of ours."""
        with self._opened() as connection:
            return sorted(set(sa.inspect(connection).get_table_names()) - set(meta.metadata.tables))

    def schema_version(self) -> int:
        """How many migrations the database has; 0 when it is empty."""
        with self._opened() as connection:
            return self._version(connection)

    def _version(self, connection: Connection) -> int:
        if not sa.inspect(connection).has_table("meta"):
            return 0
        found = connection.execute(sa.select(meta.c.value).where(meta.c.name == "schema")).scalar()
        return int(found or 0)

    def _steps(self, connection: Connection) -> int:
        version = self._version(connection)
        if version > len(tables.STEPS):
            raise SchemaError(_wrong_version(self, version))
        if version == 0:
            create(connection)
        else:
            for step in tables.STEPS[version:]:
                step.take(connection)
        put_meta(connection, "schema", str(len(tables.STEPS)))
        return len(tables.STEPS) - version

    def _connect(self) -> Connection:
        """A connection to a database with the right schema; an empty one gets it."""
        connection = self._open()
        try:
            version = self._version(connection)
            if version == 0:
                with self._transaction(connection):
                    self._steps(connection)
            elif version != len(tables.STEPS):
                raise SchemaError(_wrong_version(self, version))
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _opened(self) -> Iterator[Connection]:
        """A connection of its own, whatever schema there is."""
        with self._explained(), closing(self._open()) as connection:
            yield connection

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
        try:
            _once_unlocked(connection.execute, f"PRAGMA {pragma}")
        except Exception as error:
            if "readonly" not in str(error):  # then it can still be read
                raise


def _once_unlocked(do: Callable[..., object], *args: object) -> None:
    """Call `do`, as soon as no other process holds SQLite's lock, but for LOCK_WAIT_S at most.

    Waited for here and not in SQLite, whose waiting would stop every greenlet of the process.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            do(*args)
            return
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.0005, 0.004))


def _wrong_version(store: Store, version: int) -> str:
    ours = len(tables.STEPS)
    if version > ours:
        return f"{store} has schema {version}, and this version of chatapi knows {ours}: install a newer chatapi"
    return f"{store} has schema {version}, and this version of chatapi needs {ours}: run: flask --app wsgi db upgrade"


class ExclusiveConnection:
    """One connection, for one at a time; thrown away when anything goes wrong with it."""

    def __init__(self, connect: Callable[[], Connection], database: str) -> None:
        self._connect = connect
        self._database = database
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """Nobody else has it meanwhile. Raises StoreUnavailable."""
        with self._locked():
            try:
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection
            except BaseException:
                self._drop()
                raise

    def close(self) -> None:
        """What is under way ends first; the next use opens it again."""
        with self._locked():
            self._drop()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Whoever has it gives up by himself after LOCK_WAIT_S: this is for a network that swallows everything.
        if not self._lock.acquire(timeout=5 * LOCK_WAIT_S):
            raise StoreUnavailable("it does not answer", self._database)
        try:
            yield
        finally:
            self._lock.release()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be broken
                connection.close()
