"""What is written of calls beside SQLite: through kills at any moment, full disks, locked databases, other readers."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gateways import python
from support.heard import wait_until
from support.stores import full_disk, locked, sql
from support.tables import raised

from chatapi.accounting import local_ledger as journals
from chatapi.accounting import statements, sums, tables
from chatapi.accounting import store as stores
from chatapi.accounting.local_ledger import BEGUN, COLUMNS, ENDED, Journal
from chatapi.accounting.processes import ProcessNumbers, this_process
from chatapi.accounting.store import Store
from chatapi.call import call_id
from chatapi.errors import StoreUnavailable

DAY = 1_795_305_600.0  # 2026-11-22T00:00:00Z


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/chatapi.db"


@pytest.fixture
def opened(url):
    """Stores of this database, each as another process would have it."""
    with ExitStack() as stack:

        def open_one():
            store = Store(url)
            stack.callback(store.close)
            stack.callback(store.journal.close)
            return store

        yield open_one


@pytest.fixture
def store(opened):
    return opened()


@pytest.fixture
def other(opened):
    return opened()


def row(number, ending=None, at=DAY, **fields):
    values = dict.fromkeys(COLUMNS) | {"id": call_id(at, number), "request_id": f"r{number}", "started_at": at}
    values |= {"key_id": "k", "dialect": "openai", "route": "/v1", "model": "a/b", "stream": False, "attempts": 1}
    values |= {"owner": this_process.name, "until": time.time() + 60, "ending": ending}
    if ending == "completed":
        values |= {"served": "a/b", "prompt_tokens": 3, "completion_tokens": 4}
    return list((values | fields).values())


def begin(store, *numbers):
    for number in numbers:
        store.journal.append(row(number), BEGUN)


def end(store, *numbers):
    for number in numbers:
        store.journal.append(row(number, "completed"), ENDED)


def begin_and_end(store, numbers):
    for number in numbers:
        begin(store, number)
        end(store, number)


def endings(store):
    query = sa.select(tables.calls.c.ending).order_by(tables.calls.c.id)
    return store.read(lambda tx: list(tx.execute(query).scalars()))


def used(store):
    return {u["ending"]: (u["calls"], u["prompt_tokens"], u["completion_tokens"]) for u in store.read(sums.used)}


def files(store):
    return sorted(store.journal.numbers.folder.glob("*.journal"))


# ---------------------------------------------------------------- what is written is in the ledger


def test_what_a_process_has_written_every_reader_finds_at_once(store, other):
    begin(store, 1)
    assert endings(other) == [None]
    end(store, 1)
    assert endings(other) == ["completed"]
    assert used(other) == used(store) == {"completed": (1, 3, 4)}


def test_it_is_there_soon_without_a_reader(store, url):
    store.check()
    begin_and_end(store, range(20))
    assert wait_until(lambda: sql(url, "SELECT calls FROM usage") == [(20,)], 2)


EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["begin", "end", "end", "fold", "other folds", "reopen"])), max_size=40
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_each_call_is_one_row_and_counts_once_whoever_reads_when(store, other, events):
    store.journal.fold()
    store.write(lambda tx: [tx.execute(table.delete()) for table in (tables.calls, tables.usage)])
    begun, ended = set(), set()
    for number, what in events:
        if what == "begin" and number not in begun | ended:
            begin(store, number)
            begun.add(number)
        elif what == "end":
            end(store, number)
            ended.add(number)
        elif what == "fold":
            store.journal.fold()
        elif what == "other folds":
            other.journal.fold()
        elif what == "reopen":
            store.journal.close()
    assert endings(store) == ["completed" if number in ended else None for number in sorted(begun | ended)]
    assert used(store) == ({"completed": (len(ended), 3 * len(ended), 4 * len(ended))} if ended else {})


def test_many_who_read_at_once_count_each_call_once(store, opened):
    readers = [opened() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(lambda r=reader: [endings(r) for _ in range(30)]) for reader in readers]
        begin_and_end(store, range(300))
        for one in reading:
            one.result()
    assert used(store) == {"completed": (300, 900, 1200)}


def test_two_calls_that_have_one_id_by_chance_stop_nothing(store):
    for number in (1, 1, 2):
        store.journal.append(row(number, "completed", request_id=f"twice-{number}"), ENDED)
    begin(store, 1, 3)
    assert endings(store) == ["completed", "completed", None]
    assert used(store) == {"completed": (2, 6, 8)}
    store.write(lambda tx: statements.insert_folded(tx, [row(3), row(3), row(4, "completed")], []))
    assert used(store) == {"completed": (3, 9, 12)}


def test_a_file_that_has_grown_large_is_left_for_a_new_one(store, monkeypatch):
    monkeypatch.setattr(journals, "LARGE", 2000)
    for number in range(60):
        begin(store, number)
        time.sleep(0.01)
    assert wait_until(lambda: files(store)[0].stat().st_size < 2000, 3)
    end(store, *range(60))
    assert used(store) == {"completed": (60, 180, 240)}
    assert len(files(store)) == 1
    store.journal.sweep()
    assert store.read(lambda tx: tx.execute(sa.select(sa.func.count()).select_from(tables.journals)).scalar()) <= 1


# ---------------------------------------------------------------- kills

KILLED = """
import os, sys
from chatapi.accounting import statements
from chatapi.accounting.local_ledger import BEGUN, ENDED
from chatapi.accounting.processes import this_process
from chatapi.accounting.store import Store
import json
store, rows = Store(sys.argv[1]), json.loads(sys.argv[2])
for values in rows:
    values[-2] = this_process.name
journal = store.journal
for values in rows:
    journal.append(values, BEGUN)
def die(*_, **also):
    os.kill(os.getpid(), 9)
def journal_and_die(tx):
    statements.insert_folded(tx, *journal._calls(tx, [journal._name], dict()))
    die()
{code}
die()
"""
MOMENTS = {
    "before it ends": "",
    "as it writes an end": "os.write(journal._file, b'E[12')",
    "after one end": "rows[0][12] = 'completed'; journal.append(rows[0], ENDED)",
    "in the transaction": "statements.put_folded = die; journal.fold()",
    "before the commit": "statements.put_folded = lambda tx, **values: None; store.write(journal_and_die)",
    "after it was taken in": "journal.fold()",
    "as it leaves a file": "journal.fold(); os.unlink(journal.numbers.folder / journal._name)",
}


@pytest.mark.parametrize("code", MOMENTS.values(), ids=MOMENTS)
def test_a_process_killed_at_any_moment_loses_nothing_and_nothing_counts_twice(store, url, code):
    rows = json.dumps([row(number) for number in range(3)])
    killed = python(KILLED.format(code=code), url, rows)
    assert killed.returncode == -9, killed.stderr
    done = int("journal.append(rows[0]" in code)
    assert endings(store) == ["completed"] * done + [None] * (3 - done)
    for _ in range(2):
        store.journal.sweep()
        assert endings(store) == ["completed"] * done + [None] * (3 - done)
    assert files(store) == [], "nobody writes there any more"
    assert used(store) == ({"completed": (1, 0, 0)} if done else {})


def test_files_of_processes_that_live_stay(store, other):
    begin(store, 1)
    begin(other, 2)
    for _ in range(2):
        other.journal.sweep()
        store.journal.sweep()
    assert len(files(store)) == 2
    end(store, 1)
    assert endings(other) == ["completed", None]


# ---------------------------------------------------------------- trouble


def test_a_locked_database_costs_no_call_and_nothing_is_lost(store, url, monkeypatch):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.2)
    begin(store, 1)
    assert endings(store) == [None]
    with locked(url):
        begin_and_end(store, range(2, 50))
        assert endings(store) == [None], "what there was can be read"
    assert endings(store) == [None] + ["completed"] * 48


def test_a_disk_without_room_refuses_a_call_and_keeps_what_was_written(store):
    begin(store, 1)
    with full_disk(store.journal._size + 100):  # less than a line
        for _ in range(3):
            raised(StoreUnavailable, begin, store, 2)
    begin(store, 3)
    assert endings(store) == [None, None]
    assert store.read(lambda tx: list(tx.execute(sa.select(tables.calls.c.request_id)).scalars())) == ["r1", "r3"]


def test_a_line_that_cannot_be_read_is_left_out_and_stops_no_other(store):
    begin(store, 1)
    misfit = json.dumps(row(7, "completed", request_id=None, started_at=[1]))
    os.write(store.journal._file, b"\0\xff garbage\nE[5]\n\nE" + b"[" * 5000 + b"\nB" + misfit.encode() + b"\n")
    store.journal._size = files(store)[0].stat().st_size
    end(store, 2)
    assert endings(store) == [None, "completed"]


def test_who_removes_the_folder_of_a_running_process_costs_it_a_moment_and_no_more(store, caplog):
    begin(store, 1)
    assert endings(store) == [None]
    for path in store.journal.numbers.folder.iterdir():
        path.unlink()
    store.journal.numbers.folder.rmdir()
    begin(store, 2)
    assert wait_until(lambda: "was removed while in use" in caplog.text, 3)
    begin(store, 3)
    assert wait_until(lambda: len(endings(store)) == 2, 3)


def test_no_more_waits_for_a_database_than_a_disk_can_hold(store, monkeypatch):
    monkeypatch.setattr(journals, "MAX_UNFOLDED", 500)
    assert "does not answer" in str(raised(StoreUnavailable, begin, store, *range(10)))


def test_a_folder_where_no_file_can_be_is_told():
    store = Store("sqlite:////proc/nowhere/chatapi.db")
    journal = Journal(store.write, ProcessNumbers(Path("/proc/nowhere")))
    raised(StoreUnavailable, journal.append, row(1), BEGUN)
