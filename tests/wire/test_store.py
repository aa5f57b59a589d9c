"""The store on SQLite and on real PostgreSQL: one body of tests, and what each of them does when it is in trouble."""

import os
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from support.gateways import python
from support.heard import wait_until
from support.ledger import added_up, reported
from support.servers import postgres
from support.stores import locked, path_of, side_by_side_processes, sql

from chatapi.accounting import Accounts, keys, statements, sums, tables
from chatapi.accounting import store as stores
from chatapi.accounting.store import Store
from chatapi.accounting.tables import Step
from chatapi.call import call_id
from chatapi.errors import SchemaError, StoreUnavailable

SCHEMA = len(tables.STEPS)
DAY = 1_795_305_600.0  # 2026-11-22T00:00:00Z
DAY_S = 86_400
NOT_LONGER_S = 6


@pytest.fixture
def store(database):
    store = Store(database)
    yield store
    store.close()


@pytest.fixture
def other(database):
    """Another process's store, as it were."""
    other = Store(database)
    yield other
    other.close()


def call(number, at=DAY, **fields):
    """A call that is open."""
    row = dict.fromkeys(column.name for column in tables.calls.columns)
    row |= {"id": call_id(at + number / 1000, 0), "request_id": f"r{number}", "started_at": at, "stream": False}
    row |= {"dialect": "openai", "route": "/v1/chat/completions", "attempts": 0, "owner": "h b p 1 2", "until": at + 60}
    return row | fields


def ended(row, **fields):
    more = {"ending": "completed", "status": 200, "attempts": 1, "served": "test/ok", "usage_source": "upstream"}
    return row | more | {"prompt_tokens": 3, "completion_tokens": 4, "first_token_ms": 1.5, "total_ms": 20.25} | fields


def key(id, at=DAY, **fields):
    row = dict.fromkeys(column.name for column in tables.keys.columns)
    return (
        row
        | {"id": id, "name": f"of {id}", "digest": "d", "limits": {}, "models": [], "created_at": at, "admin": False}
        | fields
    )


def ledger(store):
    return {
        row["id"]: dict(row) for row in store.read(lambda tx: statements.rows_of(tx.execute(sa.select(tables.calls))))
    }


def used(store, *args):
    return store.read(lambda tx: sums.used(tx, *args))


def numbers(store):
    """The numbers of the calls in the ledger."""
    return sorted(int(row["request_id"][1:]) for row in ledger(store).values())


def open_one(store, number, at=DAY):
    store.write(lambda tx: statements.record(tx, [call(number, at)]))


# ---------------------------------------------------------------- the schema

USE_IT = """
from chatapi.accounting.store import Store
from chatapi.accounting.statements import get_meta
# each
store = Store(arguments[0])
# go
result = store.read(lambda tx: get_meta(tx, "secret"))
"""


def test_an_empty_database_is_set_up_on_first_use_by_many_processes_once(database):
    found = side_by_side_processes(USE_IT, 8, database)
    assert len(set(found)) == 1
    assert len(found[0]) == 64
    assert sql(database, "SELECT value FROM meta WHERE name = 'schema'") == [(str(SCHEMA),)]


def test_a_new_store_connects_when_it_is_used(database):
    store = Store(database)
    if store.is_sqlite:
        assert not path_of(database).exists()
    store.check()
    assert store.schema_version() == len(tables.STEPS)
    store.close()


def test_a_newer_schema_asks_for_a_newer_chatapi(store, other, database):
    other.check()
    sql(database, "UPDATE meta SET value = '7' WHERE name = 'schema'")
    for use in (store.check, lambda: store.write(lambda tx: None), store.upgrade):
        with pytest.raises(SchemaError, match=rf"has schema 7, .* knows {SCHEMA}: install a newer chatapi"):
            use()
    assert store.schema_version() == 7


def _second(tx):
    tx.exec_driver_sql("CREATE TABLE second (n BIGINT)")


def _third(tx):
    tx.exec_driver_sql("INSERT INTO second VALUES (3)")


TWO_MORE = (Step("second", _second), Step("third", _third))


def test_an_older_schema_says_how_to_upgrade(store, other, database, monkeypatch):
    other.check()
    open_one(other, 1)
    monkeypatch.setattr(tables, "STEPS", (*tables.STEPS, *TWO_MORE))
    for use in (store.check, lambda: store.write(lambda tx: None)):
        with pytest.raises(SchemaError, match="flask --app wsgi db upgrade"):
            use()
    assert store.schema_version() == SCHEMA
    assert store.upgrade() == 2
    assert store.upgrade() == 0
    assert store.schema_version() == SCHEMA + 2
    assert numbers(store) == [1]
    assert sql(database, "SELECT n FROM second") == [(3,)]


FIRST_TABLES = """
CREATE TABLE meta (name TEXT NOT NULL, value TEXT, PRIMARY KEY (name));
CREATE TABLE keys (id TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, old_digest TEXT,
  old_until DOUBLE PRECISION, limits JSON NOT NULL, models JSON NOT NULL,
  created_at DOUBLE PRECISION NOT NULL, expires_at DOUBLE PRECISION,
  revoked_at DOUBLE PRECISION, last_used_at DOUBLE PRECISION, PRIMARY KEY (id));
CREATE TABLE calls (id BIGINT NOT NULL, request_id TEXT NOT NULL, started_at DOUBLE PRECISION NOT NULL, key_id TEXT,
  dialect TEXT NOT NULL, route TEXT NOT NULL, model TEXT, served TEXT, stream BOOLEAN NOT NULL,
  attempts INTEGER NOT NULL, status INTEGER, code TEXT, ending TEXT,
  prompt_tokens BIGINT, completion_tokens BIGINT, usage_source TEXT,
  first_token_ms DOUBLE PRECISION, total_ms DOUBLE PRECISION, owner TEXT NOT NULL, until DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (id));
CREATE INDEX calls_open ON calls (id) WHERE ending IS NULL;
CREATE TABLE usage (key_id TEXT NOT NULL, day TEXT NOT NULL, model TEXT NOT NULL, ending TEXT NOT NULL,
  calls BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,
  PRIMARY KEY (key_id, day, model, ending));
CREATE TABLE limits (subject TEXT NOT NULL, state TEXT NOT NULL, expires_at DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (subject));
CREATE INDEX limits_expiring ON limits (expires_at);
INSERT INTO meta VALUES ('schema', '1'), ('keys_version', '3'), ('secret', '{secret}');
INSERT INTO keys VALUES ('a', 'of a', 'd', 'o', 1.5, '{{"rpm": 3}}', '["google/*"]', {day}, NULL, NULL, {day});
INSERT INTO calls VALUES (1, 'r1', {day}, 'a', 'openai', '/v1', 'a/b', 'a/b', false, 1, 200, NULL, 'completed', 3, 4,
  'upstream', NULL, 20.25, '- - - - -', {day});
INSERT INTO calls VALUES (2, 'r2', {day}, 'a', 'openai', '/v1', 'a/b', NULL, true, 0, NULL, NULL, NULL, NULL, NULL,
  NULL, NULL, NULL, 'h b p 1 2', {day});
INSERT INTO usage VALUES ('a', '2026-11-22', 'a/b', 'completed', 1, 3, 4);
INSERT INTO limits VALUES ('key:a', '[{{"1795305600":1}},{{}},["2026-11-22",7],["2026-11",7],{{}}]', 9999999999);
"""


def shape_of(url):
    """Every table's columns (name, kind, whether it may be null) and indexes."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    found = sa.inspect(engine)
    return {
        table: (
            sorted((c["name"], str(c["type"]).upper(), c["nullable"]) for c in found.get_columns(table)),
            sorted(index["name"] for index in found.get_indexes(table)),
            found.get_pk_constraint(table)["constrained_columns"],
        )
        for table in found.get_table_names()
    }


def test_a_database_of_the_first_schema_is_brought_to_this_one_with_all_that_is_in_it(store, database, tmp_path):
    if store.is_sqlite:
        path_of(database).parent.mkdir()
    for statement in FIRST_TABLES.format(secret="ab" * 32, day=DAY).split(";")[:-1]:
        sql(database, statement)
    assert store.upgrade() == SCHEMA - 1
    assert store.schema_version() == SCHEMA
    if store.is_sqlite:
        fresh = f"sqlite:///{tmp_path}/fresh.db"
        Store(fresh).check()
        here, there = shape_of(database), shape_of(fresh)
        assert here.keys() == there.keys()
        assert {t: [c[0] for c in shape[0]] for t, shape in here.items()} == {
            t: [c[0] for c in shape[0]] for t, shape in there.items()
        }
        assert {t: shape[1:] for t, shape in here.items()} == {t: shape[1:] for t, shape in there.items()}
    assert store.read(lambda tx: keys.get_key(tx, "a")) == key(
        "a", old_digest="o", old_until=1.5, limits={"rpm": 3}, models=["google/*"], last_used_at=DAY
    )
    assert {row["id"]: row["ending"] for row in ledger(store).values()} == {1: "completed", 2: None}
    assert [(u["calls"], u["key_name"]) for u in used(store)] == [(1, "of a")]
    assert store.read(lambda tx: statements.get_meta(tx, "secret")) == "ab" * 32
    accounts = Accounts(store)
    accounts.sweep()
    assert {row["id"]: row["ending"] for row in ledger(store).values()} == {1: "completed", 2: "worker_lost"}


UPGRADE = """
from chatapi.accounting import store, tables
def second(tx): tx.exec_driver_sql("CREATE TABLE second (n BIGINT)")
def third(tx): tx.exec_driver_sql("INSERT INTO second VALUES (3)")
tables.STEPS = (*tables.STEPS, tables.Step("second", second), tables.Step("third", third))
# each
one = store.Store(arguments[0])
# go
result = one.upgrade()
one.check()
"""


def test_processes_that_upgrade_at_once_take_each_step_once(store, database):
    store.check()
    assert sorted(side_by_side_processes(UPGRADE, 4, database)) == [0, 0, 0, 2]
    assert sql(database, "SELECT n FROM second") == [(3,)]


def test_a_step_that_fails_leaves_nothing_of_the_steps_before_it(store, database, monkeypatch):
    store.check()
    monkeypatch.setattr(tables, "STEPS", (*tables.STEPS, *TWO_MORE, Step("broken", lambda tx: 1 / 0)))
    with pytest.raises(ZeroDivisionError):
        store.upgrade()
    assert store.schema_version() == SCHEMA
    assert not sa.inspect(sa.create_engine(database, poolclass=sa.pool.NullPool)).has_table("second")


# ---------------------------------------------------------------- keys


def test_keys_are_kept_and_every_change_is_heard_of(store, other):
    assert store.read(lambda tx: keys.get_key(tx, "a")) is None
    versions = [store.read(lambda tx: statements.get_meta(tx, "keys_version"))]
    later = key("a", DAY + 5, limits={"rpm": 3, "shadow": ["rpm"]}, models=["google/*"], old_digest="o", old_until=1.5)
    for row in (later, key("b"), later | {"name": "Ünïcode 名前", "revoked_at": DAY + 9.25}):
        store.write(lambda tx, row=row: keys.put_key(tx, row))
        versions.append(other.read(lambda tx: statements.get_meta(tx, "keys_version")))
        assert other.read(lambda tx, row=row: keys.get_key(tx, row["id"])) == row
    assert [int(version) for version in versions] == [0, 1, 2, 3]
    assert [row["id"] for row in other.read(keys.all_keys)] == ["b", "a"]
    store.write(lambda tx: statements.use_key(tx, "a", DAY + 20.5))
    assert other.read(lambda tx: keys.get_key(tx, "a"))["last_used_at"] == DAY + 20.5
    assert other.read(lambda tx: statements.get_meta(tx, "keys_version")) == "3"


def test_states_of_limits_are_kept_until_they_expire(store):
    for subject, until in [("key:a", DAY + 1), ("key:b", DAY + 2), ("key:b", DAY + 3)]:
        store.write(
            lambda tx, s=subject, u=until: statements.put_limits(tx, subject=s, state=f"until {u:.0f}", expires_at=u)
        )
    store.write(lambda tx: statements.forget_limits(tx, DAY + 2))
    assert store.read(lambda tx: statements.get_limits.value(tx, subject="key:a")) is None
    assert store.read(lambda tx: statements.get_limits.value(tx, subject="key:b")) == f"until {DAY + 3:.0f}"


# ---------------------------------------------------------------- the ledger


def test_a_call_is_opened_and_closed_once(store, other):
    row = call(1, key_id="a", model="test/ok", stream=True)
    store.write(lambda tx: statements.record(tx, [row]))
    assert other.read(statements.open_calls) == [row]
    assert used(other) == []
    end = ended(row)
    assert other.write(lambda tx: statements.close_call(tx, end)) is True
    assert store.write(lambda tx: statements.close_call(tx, {**end, "ending": "worker_lost"})) is False
    assert ledger(store) == {row["id"]: end}
    assert store.read(statements.open_calls) == []
    assert [(u["calls"], u["prompt_tokens"], u["completion_tokens"]) for u in used(store)] == [(1, 3, 4)]


def test_a_call_is_one_row_however_often_and_in_whatever_order_it_is_said(store):
    row = call(1, key_id="a", model="test/ok")
    for said in (ended(row), row, ended(row), row):
        store.write(lambda tx, said=said: statements.record(tx, [said]))
    assert ledger(store) == {row["id"]: ended(row)}
    assert store.write(lambda tx: statements.close_call(tx, ended(call(2)))) is False
    assert [u["calls"] for u in used(store)] == [1]


CLOSE_ALL = """
from chatapi.accounting import statements
from chatapi.accounting.store import Store
# each
one = Store(arguments[0])
end = {"ending": "completed", "prompt_tokens": 1, "completion_tokens": me}
rows = [{**row, **end} for row in one.read(statements.open_calls)]
# go
result = [row["id"] for row in rows if one.write(lambda tx: statements.close_call(tx, row))]
"""


def test_of_several_processes_that_close_a_call_one_does(store, database):
    for number in range(40):
        open_one(store, number)
    closed = side_by_side_processes(CLOSE_ALL, 4, database)
    assert sorted(id for ids in closed for id in ids) == sorted(ledger(store))
    by_whom = Counter(row["completion_tokens"] for row in ledger(store).values())
    assert by_whom == Counter({me: len(ids) for me, ids in enumerate(closed) if ids})
    totals = [(row["calls"], row["prompt_tokens"], row["completion_tokens"]) for row in used(store)]
    assert totals == [(40, 40, sum(me * len(ids) for me, ids in enumerate(closed)))]


TOKENS = st.none() | st.integers(0, 1000)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["open", "close", "close-again", "whole"]),
        st.integers(0, 3 * DAY_S),  # when
        st.sampled_from([None, "a", "b"]),  # whose
        st.sampled_from([None, "test/ok", "test/other"]),
        st.sampled_from([None, "test/ok", "test/fallback"]),
        st.sampled_from(["completed", "client_left", "refused"]),
        TOKENS,
        TOKENS,
        st.integers(0, 100),  # which
    ),
    max_size=30,
)


@hypothesis.settings(max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(events=EVENTS)
def test_usage_is_the_sum_of_the_ledger_whatever_the_order(store, events):
    store.write(lambda tx: [tx.execute(table.delete()) for table in (tables.calls, tables.usage)])
    opened, closed = [], []

    def play(tx):
        for number, (what, after, owner, model, served, ending, prompt, completion, which) in enumerate(events):
            row = call(number, DAY + after, key_id=owner, model=model)
            end = {"served": served, "ending": ending, "prompt_tokens": prompt, "completion_tokens": completion}
            if what == "open":
                statements.record(tx, [row])
                opened.append(row)
            elif what == "whole":
                statements.record(tx, [ended(row, **end)])
            elif what == "close" and opened:
                closed.append(ended(opened.pop(which % len(opened)), **end))
                assert statements.close_call(tx, closed[-1])
            elif what == "close-again" and closed:
                assert not statements.close_call(tx, {**closed[which % len(closed)], **end})

    store.write(play)
    assert reported(used(store)) == added_up([row for row in ledger(store).values() if row["ending"]])


USES = [(0, "a", "m1"), (0, "b", "m1"), (1, "a", "m2"), (1, None, "m1"), (2, "a", "m1")]


@pytest.mark.parametrize(
    "since, until, key_id, found",
    [
        (None, None, None, [0, 1, 2, 3, 4]),
        ("2026-11-23", None, None, [2, 3, 4]),
        (None, "2026-11-22", None, [0, 1]),
        ("2026-11-23", "2026-11-23", None, [2, 3]),
        (None, None, "a", [0, 2, 4]),
        (None, None, "", [3]),
        ("2026-11-24", "2026-11-23", None, []),
        ("2026-11-23", "2026-12-31", "a", [2, 4]),
    ],
)
def test_usage_is_asked_for_by_day_and_key(store, since, until, key_id, found):
    store.write(lambda tx: keys.put_key(tx, key("a")))
    for number, (day, owner, model) in enumerate(USES):
        row = ended(call(number, DAY + day * DAY_S + 5, key_id=owner), served=model, prompt_tokens=number)
        store.write(lambda tx, row=row: statements.record(tx, [row]))
    rows = used(store, since, until, key_id)
    assert sorted(row["prompt_tokens"] for row in rows) == found
    assert {row["key_name"] for row in rows} <= {"of a", None}
    assert all((row["key_name"] == "of a") == (row["key_id"] == "a") for row in rows)


def test_prune_deletes_ended_calls_from_before_in_portions_and_leaves_what_was_used(store):
    before = DAY + 1
    for number in (5, 1, 3, 9, 8, 7, 6, 4, 2, 0):
        row = call(number)
        store.write(lambda tx, r=row, n=number: statements.record(tx, [r if n == 3 else ended(r)]))
    store.write(lambda tx: statements.record(tx, [ended(call(0, before, request_id="r10"))]))
    was = reported(used(store))
    assert store.read(lambda tx: statements.count_before(tx, before)) == 9
    assert store.write(lambda tx: statements.prune(tx, before, 4)) == 4
    assert numbers(store) == [3, 5, 6, 7, 8, 9, 10], "the oldest go first"
    assert [store.write(lambda tx: statements.prune(tx, before, 4)) for _ in range(3)] == [4, 1, 0]
    assert numbers(store) == [3, 10]
    assert reported(used(store)) == was


# ---------------------------------------------------------------- transactions


def raising(tx):
    raise KeyError("mine")


def misspelt(tx):
    tx.exec_driver_sql("INSERT INTO nowhere VALUES (1)")


@pytest.mark.parametrize("fail, raised", [(raising, KeyError), (misspelt, StoreUnavailable)])
def test_a_failure_takes_back_what_its_work_did_and_nothing_else(store, other, fail, raised):
    open_one(store, 1)
    with pytest.raises(raised) as told:
        store.write(lambda tx: statements.record(tx, [call(2)]) or fail(tx))
    if raised is StoreUnavailable:
        assert "nowhere" in told.value.cause and "nowhere" not in told.value.message
    assert numbers(other) == [1]
    open_one(store, 3)
    assert numbers(other) == [1, 3]


def test_many_threads_write_at_once_and_all_is_committed(store, other):
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(lambda number: store.write(numbered(number)), range(400))) == list(range(400))
    assert numbers(other) == list(range(400))


def in_one_batch(store, works):
    """Hand in `works` while another is under way, so that they wait together; what came of each."""
    going, go = threading.Event(), threading.Event()

    def hold(tx):
        going.set()
        assert go.wait(10)

    def outcome(work):
        try:
            return store.write(work)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(works) + 1) as pool:
        first = pool.submit(store.write, hold)
        assert going.wait(10)
        waiting = [pool.submit(outcome, work) for work in works]
        assert wait_until(lambda: len(store._group_commit._waiting) == len(works))
        go.set()
        first.result()
        return [one.result(30) for one in waiting]


def numbered(number, do=lambda tx, number: number):
    """Work that opens this call, and then does `do`."""
    return lambda tx: statements.record(tx, [call(number)]) or do(tx, number)


def test_work_that_waits_together_is_committed_together(store, database):
    def transaction(tx, number):
        found = "1" if store.is_sqlite else tx.exec_driver_sql("SELECT pg_current_xact_id_if_assigned()").scalar()
        return str(found)

    found = in_one_batch(store, [numbered(number, transaction) for number in range(12)])
    assert len(set(found)) == 1
    assert len(ledger(store)) == 12


def test_work_that_fails_does_no_harm_to_what_waited_with_it(store, other):
    def some_fail(tx, number):
        return {3: raising, 5: misspelt}.get(number, lambda tx: number)(tx)

    found = in_one_batch(store, [numbered(number, some_fail) for number in range(8)])
    assert [n for n, one in enumerate(found) if one == n] == [0, 1, 2, 4, 6, 7]
    assert isinstance(found[3], KeyError)
    assert isinstance(found[5], StoreUnavailable)
    assert numbers(other) == [0, 1, 2, 4, 6, 7]


HAMMER = """
from chatapi.accounting.statements import get_meta, put_meta
from chatapi.accounting.store import Store
def add(tx):
    put_meta(tx, "count", str(int(get_meta(tx, "count") or 0) + 1))
# each
one = Store(arguments[0])
one.check()
# go
for _ in range(50):
    one.write(add)
result = True
"""


def test_a_write_sees_what_other_processes_have_written(store, database):
    side_by_side_processes(HAMMER, 4, database)
    assert store.read(lambda tx: statements.get_meta(tx, "count")) == "200"


# ---------------------------------------------------------------- locked


def seconds_of(do):
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as told:
        do()
    assert told.value.cause
    return time.monotonic() - began


@pytest.mark.parametrize("connected", [True, False])
def test_a_database_that_others_hold_is_told_soon_and_used_again(store, other, database, connected):
    other.check()
    if connected:
        store.check()
        open_one(store, 0)
    with locked(database):
        assert 1 < seconds_of(lambda: open_one(store, 1)) < NOT_LONGER_S
        assert numbers(store) == ([0] if connected else [])  # reading goes on
    open_one(store, 2)
    assert numbers(store) == ([0, 2] if connected else [2])


def test_everybody_who_waits_for_a_database_that_others_hold_is_told_soon(store, other, database):
    open_one(store, 0)
    with locked(database), ThreadPoolExecutor(12) as pool:
        longest = max(pool.map(lambda number: seconds_of(lambda: open_one(store, number)), range(1, 13)))
    assert longest < NOT_LONGER_S


def test_what_was_told_to_have_failed_is_not_written_later(store, other, monkeypatch):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.2)  # five times that is what everybody waits for the line
    store.check()

    works = [numbered(number) for number in range(2, 6)]
    # The first comes to a network that swallows everything.
    found = in_one_batch(store, [lambda tx: time.sleep(2.5) or numbered(1)(tx), *works])
    assert numbers(other) == [number for number in found if isinstance(number, int)]


# ---------------------------------------------------------------- SQLite in trouble


@pytest.fixture
def sqlite(sqlite_url):
    store = Store(sqlite_url)
    yield store
    store.close()


READ_ONLY = """
import os, sqlite3, sys  # sqlite3 now: who we become may not read Python's own files
from chatapi.accounting import statements, sums
from chatapi.accounting.store import Store
from chatapi.errors import StoreUnavailable
one = Store(sys.argv[1])
one._make_engine()
if os.geteuid() == 0:  # root may write anywhere
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
assert len(one.read(sums.used)) == 1
try:
    one.write(lambda tx: statements.put_meta(tx, "a", "b"))
except StoreUnavailable as error:
    assert "readonly" in error.cause, error.cause
    assert len(one.read(sums.used)) == 1
    print("told")
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cannot_be_written_can_still_be_read(what):
    with TemporaryDirectory() as folder:  # not tmp_path, which nobody but us may enter
        path = Path(folder, "chatapi.db")
        url = f"sqlite:///{path}"
        store = Store(url)
        store.write(lambda tx: statements.record(tx, [ended(call(1))]))
        if what == "file":
            store.close()  # else it stays open: without its -shm no SQLite reads a WAL database in such a folder
        for file in Path(folder).iterdir():  # its -wal and -shm too
            file.chmod(0o444)
        os.chmod(folder, 0o555 if what == "folder" else 0o777)
        told = python(READ_ONLY, url, folder=Path(folder))
        os.chmod(folder, 0o755)
        store.close()
        assert told.stdout == "told\n", told.stderr


def test_a_full_disk_is_told_and_nothing_is_half_written(sqlite, sqlite_url):
    open_one(sqlite, 0)
    # SQLite's own word for a full disk, on the connection that writes; the next one finds room again.
    sqlite.write(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count = 1").close())

    def much(tx):
        for number in range(1, 2000):
            statements.record(tx, [call(number)])

    with pytest.raises(StoreUnavailable) as told:
        sqlite.write(much)
    assert told.value.cause == "database or disk is full"
    assert numbers(sqlite) == [0]
    assert sql(sqlite_url, "PRAGMA integrity_check") == [("ok",)]
    sqlite.write(much)
    assert len(numbers(sqlite)) == 2000


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_told(sqlite, sqlite_url, content):
    path_of(sqlite_url).parent.mkdir()
    path_of(sqlite_url).write_bytes(content)
    for use in (sqlite.check, sqlite.upgrade, sqlite.schema_version, lambda: open_one(sqlite, 1)):
        assert seconds_of(use) < NOT_LONGER_S
    assert path_of(sqlite_url).read_bytes() == content
    for path in ("/proc/nowhere/chatapi.db", "/"):  # where no file can be
        assert seconds_of(Store(f"sqlite:///{path}").check) < NOT_LONGER_S


KILLED = """
import os, sys
from chatapi.accounting.statements import put_meta
from chatapi.accounting.store import Store
store = Store(sys.argv[1])
store.write(lambda tx: put_meta(tx, "kept", "yes"))
store._begin(store._writer._connection)
put_meta(store._writer._connection, "kept", "no")
os.kill(os.getpid(), 9)
"""


def test_a_process_that_is_killed_loses_nothing_it_committed(sqlite, sqlite_url):
    killed = python(KILLED, sqlite_url)
    assert killed.returncode == -9, killed.stderr
    assert sqlite.read(lambda tx: statements.get_meta(tx, "kept")) == "yes"
    open_one(sqlite, 1)


# ---------------------------------------------------------------- passwords

AS_USER = "postgresql+psycopg://chatapi:P%C3%A4ssw0rd%2540@127.0.0.1:1/nowhere"
AS_PARAMETER = "postgresql+psycopg://chatapi@127.0.0.1:1/nowhere?password=P%C3%A4ssw0rd%2540"


@pytest.mark.parametrize("url", [AS_USER, AS_PARAMETER], ids=["user", "parameter"])
def test_a_password_is_nowhere_to_be_seen(url):
    store = Store(url)
    with pytest.raises(StoreUnavailable) as told:
        store.check()
    shown = [str(store), repr(store), f"{told.value} {told.value.cause} {told.value!r}"]
    shown += ["".join(traceback.format_exception(told.value))]
    for text in shown:
        assert "ssw0rd" not in text
    assert "127.0.0.1" in str(store)


# ---------------------------------------------------------------- PostgreSQL in trouble


def test_postgres_that_is_stopped_is_told_at_once_and_used_again_when_it_is_back():
    with postgres() as server:
        store, idle = Store(server.url), Store(server.url)
        for each in (store, idle):
            each.check()
            each.write(lambda tx: None)
        open_one(store, 1)
        server.stop()
        for use in (lambda: open_one(store, 2), lambda: ledger(store)):
            assert seconds_of(use) < NOT_LONGER_S
        server.start()
        # Whoever has noticed is not disturbed again. Whoever has not finds each of his two connections broken once.
        open_one(store, 3)
        assert numbers(store) == [1, 3]
        failures = 0
        for _ in range(3):
            try:
                open_one(idle, 4 + failures)
                break
            except StoreUnavailable:
                failures += 1
        assert failures <= 1
        with suppress(StoreUnavailable):
            ledger(idle)
        assert numbers(idle) == [1, 3, 4 + failures]
        store.close()
        idle.close()


def test_a_connection_that_was_broken_is_replaced(postgres_url):
    store = Store(postgres_url)
    open_one(store, 1)
    ledger(store)
    kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
    sql(postgres_url, kill + " AND pid <> pg_backend_pid()")
    for use in (lambda: open_one(store, 2), lambda: ledger(store)):
        with suppress(StoreUnavailable):
            use()
    open_one(store, 3)
    assert numbers(store)[-1] == 3
    store.close()


def test_no_statement_and_no_lock_is_waited_for_without_end(postgres_url):
    store = Store(postgres_url)
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    set_to = [store.read(lambda tx, name=name: tx.exec_driver_sql(f"SHOW {name}").scalar()) for name in names]
    store.close()
    assert "0" not in set_to
    with pytest.raises(StoreUnavailable, match="does not answer") as told:
        store.write(lambda tx: tx.exec_driver_sql("SET LOCAL statement_timeout = 50; SELECT pg_sleep(60)"))
    assert "statement timeout" in told.value.cause
    store.close()


def test_expired_limits_are_found_without_a_look_at_all_of_them(sqlite):
    def plan(tx):
        return tx.exec_driver_sql("EXPLAIN QUERY PLAN DELETE FROM limits WHERE expires_at < 1").all()

    assert "limits_expiring" in str(sqlite.read(plan))
