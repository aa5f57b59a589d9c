"""One body of tests over every place where calls are accounted for: SQLite, PostgreSQL, and each with Redis."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.accounts import JOB, PROMPT, V1, begun, caller_of, end, job_of
from support.heard import wait_until
from support.servers import redis as own_redis
from support.stores import locked, side_by_side_processes, sql

from chatapi.accounting import Accounts, quotas, statements, sums, tables
from chatapi.accounting import redis as redis_limits
from chatapi.accounting import store as stores
from chatapi.accounting.database_ledger import LimitState
from chatapi.accounting.processes import ProcessNumbers, this_process
from chatapi.accounting.quotas import LEASE_S, Reservation
from chatapi.accounting.slots import Slots
from chatapi.accounting.store import Store
from chatapi.call import Call
from chatapi.caller import LIMIT_NAMES, NO_LIMITS, Caller, Limits
from chatapi.chat import ChatJob
from chatapi.errors import StoreUnavailable

NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z


@dataclass
class Place:
    """Where the ledger is, where limits are held, and this process's accounts there."""

    url: str
    redis_url: str | None
    opened: list = field(default_factory=list)

    def open(self):
        """Accounts as another process has them."""
        store = Store(self.url)
        self.opened.append((store, Accounts(store, self.redis_url)))
        return self.opened[-1][1]

    @property
    def accounts(self):
        return self.opened[0][1] if self.opened else self.open()

    @property
    def store(self):
        return self.accounts._store

    def rows(self, **where):
        rows = self.store.read(
            lambda tx: statements.rows_of(tx.execute(sa.select(tables.calls).order_by(tables.calls.c.id)))
        )
        return [row for row in rows if all(row[name] == value for name, value in where.items())]

    def endings(self):
        return [row["ending"] for row in self.rows()]

    def used(self):
        return {(row["model"], row["ending"]): row["calls"] for row in self.store.read(sums.used)}

    def close(self):
        for store, accounts in self.opened:
            accounts.close()
            store.close()


@pytest.fixture(params=["sqlite", "postgres", "sqlite+redis", "postgres+redis"])
def place(request):
    database, _, shared_limits = request.param.partition("+")
    url = request.getfixturevalue(f"{database}_url")
    place = Place(url, request.getfixturevalue("redis_url") if shared_limits else None)
    yield place
    place.close()


def arrived(accounts, caller, number=0, seconds=60):
    call = Call(f"r{number}", V1, "openai", seconds)
    call.caller, call.key_id, call.observers = caller, caller.key_id, (accounts.end,)
    accounts.admit(call)
    return call


def refused(call):
    return call.decision.refused if call.decision else None


# ---------------------------------------------------------------- many processes, one key

HAMMER = """
import fcntl, os, time
from chatapi.accounting import Accounts
from chatapi.accounting.store import Store
from chatapi.call import Call
from chatapi.caller import Caller, Limits
from chatapi.chat import ChatJob
from chatapi.errors import RateLimited
import redis, sqlalchemy.dialects.sqlite, sqlalchemy.dialects.postgresql

def counted(path, change=0):
    with open(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        now, most = map(int, file.read().split())
        file.seek(0)
        file.write(f"{now + change} {max(most, now + change)} ")
        return max(most, now + change)
# each
url, redis_url, words, path, attempts, together, dies = arguments
accounts = Accounts(Store(url), redis_url)
accounts._sweep_at = float("inf")  # who is lost is looked for afterwards
caller = Caller("k", "key:k", Limits.parse(words))
job = ChatJob(model="a/b", messages=[{"role": "user", "content": "hi"}], options={"max_tokens": 40})
# go
admitted = 0
for number in range(attempts):
    call = Call(f"{me}-{number}", "/v1/chat/completions", "openai", 60)
    call.caller, call.key_id, call.observers, call.model = caller, "k", (accounts.end,), "a/b"
    try:
        accounts.admit(call)
        accounts.begin(call, job)
    except RateLimited as error:
        call.fail(error)
        call.end()
        time.sleep(0.002)
        continue
    admitted += 1
    counted(path, +1)
    until = time.monotonic() + 5
    while counted(path) < together and time.monotonic() < until:
        time.sleep(0.01)  # for the others, until so many have been open together
    time.sleep(0.02 if together else 0)
    counted(path, -1)
    if dies and number == attempts // 2 and me % 2:
        os.kill(os.getpid(), 9)
    call.served, call.prompt_tokens, call.completion_tokens = "a/b", 6, 40
    call.end()
accounts.flush()
result = admitted
"""
PROCESSES, ATTEMPTS = 8, 10


def hammered(place, words, tmp_path, together=0):
    """How many calls were admitted, and how many were open at once at most."""
    shared_file = tmp_path / "open"
    shared_file.write_text("0 0 ")
    arguments = (place.url, place.redis_url, words, str(shared_file), ATTEMPTS, together, False)
    admitted = side_by_side_processes(HAMMER, PROCESSES, *arguments)
    open_now, most = map(int, shared_file.read_text().split())
    assert open_now == 0
    return sum(admitted), most


@pytest.mark.parametrize("words, most", [("rpm=20", 20), ("rpm=99 tpm=1000", 1000 // (PROMPT + 40))])
def test_many_processes_admit_exactly_what_is_allowed(place, tmp_path, words, most):
    admitted, _ = hammered(place, words, tmp_path)
    assert admitted == most
    assert sorted(place.endings()) == ["completed"] * most + ["refused"] * (PROCESSES * ATTEMPTS - most)
    assert place.used() == {("a/b", "completed"): most, ("", "refused"): PROCESSES * ATTEMPTS - most}


def test_many_processes_have_no_more_calls_open_than_is_allowed(place, tmp_path):
    admitted, most = hammered(place, "concurrency=3", tmp_path, 3)
    assert most == 3
    assert admitted > 3  # a place that was given back is used again
    assert place.endings().count("completed") == admitted


def test_processes_that_are_killed_lose_their_open_calls_once_and_give_back_what_they_held(place, tmp_path):
    (tmp_path / "open").write_text("0 0 ")
    arguments = (place.url, place.redis_url, "concurrency=50 tpm=100000", str(tmp_path / "open"), ATTEMPTS, 0, True)
    admitted = side_by_side_processes(HAMMER, PROCESSES, *arguments)
    died = admitted.count(None)
    assert died == PROCESSES // 2
    lost = []
    accounts = place.open()
    accounts._on_lost = lost.extend
    for _ in range(2):
        for other in (accounts, place.open()):
            other.sweep()
    assert [row["ending"] for row in lost] == ["worker_lost"] * died
    completed = died * (ATTEMPTS // 2) + (PROCESSES - died) * ATTEMPTS
    assert sorted(place.endings()) == ["completed"] * completed + ["worker_lost"] * died
    assert place.used() == {("a/b", "completed"): completed, ("a/b", "worker_lost"): died}
    call = arrived(accounts, caller_of("concurrency=50 tpm=100000"))
    accounts.begin(call, JOB)
    left = {status.name: status.remaining for status in call.decision.statuses}
    assert left == {"concurrency": 49, "tpm": 100000 - 46 * completed - 46}
    call.end("completed")


# ---------------------------------------------------------------- what is counted


def test_all_answers_of_one_call_are_held_back(place):
    four = ChatJob(model="a/b", messages=JOB.messages, options={"n": 4, "max_tokens": 100})
    assert refused(begun(place.accounts, caller_of("tpm=250"), four)) == "tpm"


def test_a_call_counts_when_it_arrives_and_has_its_place_until_it_ends(place):
    caller = caller_of("rpm=3 concurrency=1")
    first = arrived(place.accounts, caller)
    assert refused(begun(place.accounts, caller)) == "concurrency"
    first.end("refused")  # its body was no JSON, say
    assert refused(begun(place.accounts, caller, number=1)) is None
    place.accounts.sweep()
    assert [row["ending"] for row in place.rows(request_id="r0")] == ["refused", "refused"]
    assert [row["ending"] for row in place.rows(request_id="r1")] == [None]


def test_what_was_held_back_is_replaced_by_what_was_used(place):
    caller = caller_of("tpm=100")
    first = begun(place.accounts, caller)
    assert refused(begun(place.accounts, caller, job_of(60))) == "tpm"
    end(first, 1, 2)
    assert refused(begun(place.accounts, caller, job_of(91))) is None


def test_a_call_settles_once(place):
    caller = caller_of("tpm=1000 concurrency=2")
    call = begun(place.accounts, caller)
    end(call)
    for _ in range(3):
        place.accounts.end(call)
    other = begun(place.open(), caller)
    assert {status.name: status.remaining for status in other.decision.statuses} == {
        "concurrency": 1,
        "tpm": 1000 - 46 - 46,
    }
    assert place.used() == {("a/b", "completed"): 1}


@pytest.mark.parametrize("words", ["tpd=100", "tpmonth=100"])
def test_days_and_months_are_known_from_the_ledger_where_a_store_has_forgotten_them(place, words, tmp_path):
    caller = caller_of(words)
    end(begun(place.accounts, caller))
    place.close()
    place.opened.clear()
    forget(place, tmp_path)
    call = begun(place.accounts, caller)
    assert call.decision.statuses[0].remaining == 100 - 46 - 46
    end(call)
    assert refused(begun(place.accounts, caller)) == words.partition("=")[0]


def forget(place, tmp_path):
    """Nothing is left but the ledger."""
    if place.redis_url:
        import redis

        with redis.Redis.from_url(place.redis_url) as client:
            client.flushall()
    for path in tmp_path.glob("**/limits-*"):
        path.unlink()
    if place.url.startswith("postgres"):
        sql(place.url, "DELETE FROM limits")


def test_without_limits_nothing_is_kept_of_a_caller(place):
    call = begun(place.accounts, Caller(None, "address:-", NO_LIMITS))
    assert call.decision is None
    assert place.endings() == [None]
    assert sql(place.url, "SELECT count(*) FROM limits") == [(0,)]
    end(call)
    assert place.endings() == ["completed"]


# ---------------------------------------------------------------- tokens that cannot be


@pytest.mark.parametrize(
    "prompt, completion, counted",
    [
        (12, 40, (12, 40)),
        (12, 2**40, (12, 40)),
        (2**40, 1, (4096 + 4 * len("hi"), 1)),
        (10**400, 10**400, (4096 + 4 * len("hi"), 40)),
        (-5, -(10**30), (0, 0)),
        (-1, -1, (0, 0)),
        (None, None, (None, None)),
    ],
)
def test_counts_that_cannot_be_true_are_what_is_possible_at_most(place, prompt, completion, counted):
    caller = caller_of("tpmonth=1000000")
    end(begun(place.accounts, caller), prompt, completion)
    [row] = place.rows()
    assert (row["prompt_tokens"], row["completion_tokens"]) == counted
    next_one = begun(place.accounts, caller, number=1)
    assert next_one.decision.statuses[0].remaining == 1_000_000 - sum(c or 0 for c in counted) - 46
    end(begun(place.accounts, caller_of(key_id="free"), number=2), prompt, completion)  # nor without limits
    [row] = place.rows(request_id="r2")
    assert 0 <= (row["prompt_tokens"] or 0) <= 2**40 and 0 <= (row["completion_tokens"] or 0) <= 40


def test_who_is_refused_leaves_no_name_in_what_was_used(place):
    caller = caller_of("rpm=1")
    for number in range(5):
        end_of = begun(place.accounts, caller, ChatJob(model=f"made/up-{number}", messages=JOB.messages), number)
    assert refused(end_of) == "rpm"
    lost = begun(place.accounts, caller_of(key_id="other"), ChatJob(model="made/up", messages=JOB.messages), 9)
    lost.code = "model_not_found"
    lost.end("upstream_cut")
    assert place.used() == {("", "refused"): 4, ("", "upstream_cut"): 1}


# ---------------------------------------------------------------- lost calls


def of_owner(host=None, boot=None, pids=None, pid=None, born=None):
    parts = zip((host, boot, pids, pid, born), this_process.name.split(" "), strict=True)
    return " ".join(old if new is None else new for new, old in parts)


@pytest.mark.parametrize(
    "changed, ending",
    [
        ({}, None),
        ({"born": "1"}, "worker_lost"),  # its number was given to another process
        ({"pid": "999999999"}, "worker_lost"),
        ({"boot": "other", "pid": "1"}, "worker_lost"),  # the machine was started anew
        ({"host": "elsewhere", "pid": "999999999"}, None),  # who knows; its deadline ends it
        ({"pids": "pid:[1]", "pid": "999999999"}, None),  # another container
    ],
)
def test_a_call_is_lost_when_its_process_is(place, changed, ending):
    begun(place.accounts, caller_of())
    assert place.endings() == [None]
    sql(place.url, f"UPDATE calls SET owner = '{of_owner(**changed)}'")
    place.accounts.sweep()
    assert place.endings() == [ending]


@pytest.mark.parametrize("key_id", ["k", None])
def test_calls_that_are_open_long_after_their_deadline_are_lost_and_give_back_what_they_held(place, key_id):
    caller = Caller(key_id, f"key:{key_id}" if key_id else "address:203.0.113.7", Limits.parse("concurrency=1"))
    begun(place.accounts, caller, seconds=2 - LEASE_S)
    assert refused(begun(place.accounts, caller)) == "concurrency"
    place.accounts.sweep()
    assert place.endings().count(None) == 1
    time.sleep(2.1)
    place.accounts.sweep()
    assert "worker_lost" in place.endings() and None not in place.endings()
    assert refused(begun(place.accounts, caller)) is None


def test_an_end_that_comes_after_all_changes_nothing(place):
    call = begun(place.accounts, caller_of())
    assert place.endings() == [None]
    sql(place.url, "UPDATE calls SET until = 1")
    place.accounts.sweep()
    end(call)
    place.accounts.flush()
    assert place.endings() == ["worker_lost"]
    assert place.used() == {("a/b", "worker_lost"): 1}


# ---------------------------------------------------------------- a server is away


@pytest.fixture
def on_postgres(postgres_url):
    place = Place(postgres_url, None)
    yield place
    place.close()


@pytest.fixture
def own():
    """A Redis that can be stopped."""
    with own_redis() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def with_own_redis(request, own, monkeypatch):
    monkeypatch.setattr(redis_limits, "AWAY_S", 0.5)
    monkeypatch.setattr(redis_limits, "TIMEOUT_S", 0.3)
    place = Place(request.getfixturevalue(f"{request.param}_url"), own.url)
    yield place
    place.close()


def test_an_end_that_the_database_does_not_take_is_written_when_it_does_and_nobody_waits_for_it(
    on_postgres, monkeypatch
):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.3)
    calls = [begun(on_postgres.accounts, caller_of("concurrency=50"), number=number) for number in range(20)]
    with locked(on_postgres.url):
        began = time.monotonic()
        for call in calls:
            end(call)
        assert time.monotonic() - began < 3, "the first has waited for all"
        assert len(on_postgres.accounts._database_retries.waiting) == 20
        assert on_postgres.endings() == [None] * 20
    assert wait_until(lambda: on_postgres.endings() == ["completed"] * 20, 6)
    assert on_postgres.used() == {("a/b", "completed"): 20}
    assert refused(begun(on_postgres.accounts, caller_of("concurrency=1"))) is None


def test_late_ends_are_written_once_also_when_two_write_them(on_postgres):
    for number in range(40):
        call = begun(on_postgres.accounts, caller_of(), number=number)
        call.observers = ()
        end(call)
        on_postgres.accounts._database_retries.add(lambda call=call: on_postgres.accounts.end(call), "away")
    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(on_postgres.accounts.flush) for _ in range(2)]:
            one.result(20)
    assert on_postgres.used() == {("a/b", "completed"): 40}


def test_a_call_whose_beginning_was_written_unknown_to_us_ends_and_stops_no_other(on_postgres, monkeypatch):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.3)
    call = begun(on_postgres.accounts, caller_of())
    refused_one = Call("r1", V1, "openai", 60)
    refused_one.caller, refused_one.observers = caller_of(), (on_postgres.accounts.end,)
    on_postgres.accounts.admit(refused_one)
    with locked(on_postgres.url):
        with pytest.raises(StoreUnavailable):
            on_postgres.accounts.begin(refused_one, JOB)
        refused_one.end("failed")
        end(call)
    assert wait_until(lambda: sorted(map(str, on_postgres.endings())) == ["completed", "failed"], 6)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_place_in_redis_is_given_back_when_the_call_cannot_be_written_down(request, redis_url, monkeypatch, database):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.3)
    place = Place(request.getfixturevalue(f"{database}_url"), redis_url)
    place.store.check()
    caller = caller_of("concurrency=1 tpm=100")
    with locked(place.url):
        call = begun(place.accounts, caller)
        if call.begun:
            end(call, 0, 0)
    call = begun(place.accounts, caller)
    assert (refused(call), call.code) == (None, None)
    place.close()


def test_a_redis_that_is_away_costs_no_call_and_limits_go_on_in_the_database(with_own_redis, own):
    caller = caller_of("rpm=4 concurrency=2 tpm=1000")
    end(begun(with_own_redis.accounts, caller))
    amid = arrived(with_own_redis.accounts, caller, number=1)
    own.stop()
    with_own_redis.accounts.begin(amid, JOB)  # its tokens are held in the database
    end(amid)
    found = [begun(with_own_redis.accounts, caller, number=number) for number in range(2, 5)]
    assert [refused(call) for call in found] == [None, None, "concurrency"]
    for call in found[:2]:
        end(call)
    assert with_own_redis.endings().count("completed") == 4
    own.start()
    time.sleep(0.6)
    assert refused(begun(with_own_redis.accounts, caller)) is None
    assert wait_until(lambda: not with_own_redis.accounts._redis_retries.waiting, 5)


@pytest.mark.parametrize("words", ["concurrency=1", "tpm=50"])
def test_what_redis_could_not_be_told_at_the_end_of_a_call_it_is_told_later(with_own_redis, own, words):
    caller = caller_of(words)
    call = begun(with_own_redis.accounts, caller)
    os.kill(own.process.pid, signal.SIGSTOP)
    try:
        end(call, 1, 2)
        assert with_own_redis.endings() == ["completed"]
    finally:
        os.kill(own.process.pid, signal.SIGCONT)
    assert wait_until(lambda: not with_own_redis.accounts._redis_retries.waiting, 8)
    time.sleep(0.6)
    assert refused(begun(with_own_redis.open(), caller, job_of(41))) is None


def test_a_redis_that_was_emptied_forgets_what_was_used_and_nothing_else(with_own_redis, own):
    caller = caller_of("concurrency=1 tpm=1000 tpd=2000")
    call = begun(with_own_redis.accounts, caller)
    own.stop()
    own.start()
    end(call)
    assert with_own_redis.endings() == ["completed"]
    time.sleep(0.6)
    call = begun(with_own_redis.accounts, caller, number=1)
    assert {status.name: status.remaining for status in call.decision.statuses} == {
        "concurrency": 0,
        "tpm": 954,
        "tpd": 2000 - 92,
    }
    assert refused(begun(with_own_redis.accounts, caller, number=2)) == "concurrency"


@pytest.mark.parametrize("kind", ["a string", "strange fields"])
def test_what_is_no_state_of_ours_in_redis_stops_no_call_and_no_other_caller(with_own_redis, own, kind):
    import redis

    with redis.Redis.from_url(own.url) as client:
        if kind == "a string":
            client.set("chatapi:limits:key:k", "garbage")
        else:
            client.hset("chatapi:limits:key:k", mapping={"x": "y", "6": "nan?", "7": "-", b"\xff": "1"})
    calls = [begun(with_own_redis.accounts, caller_of("rpm=2"), number=number) for number in range(4)]
    assert [refused(call) for call in calls] == [None, None, "rpm", "rpm"]
    begun(with_own_redis.accounts, caller_of("rpm=2", "other"))
    with redis.Redis.from_url(own.url) as client:
        assert client.exists("chatapi:limits:key:other")


def test_states_in_postgresql_that_cannot_be_read_stop_no_call(on_postgres):
    on_postgres.store.check()
    for state in ("garbage", "[]", '{"version": 2}', "[1,2,3,4,5]", "[[1],{}]", '[["a"],{"x":[1]}]'):
        sql(on_postgres.url, "DELETE FROM limits")
        sql(on_postgres.url, f"INSERT INTO limits VALUES ('key:k', '{state}', 9999999999)")
        calls = [begun(on_postgres.accounts, caller_of("rpm=2"), number=number) for number in range(4)]
        assert [refused(call) for call in calls] == [None, None, "rpm", "rpm"]


# ---------------------------------------------------------------- one arithmetic

STEPS = st.sampled_from([0.0, 0.001, 0.4, 1.0, 7.5, 29.0, 59.0, 60.0, 61.0, 200.0, 3600.0, 86_400.0, 2_700_000.0])
ACTIONS = st.lists(
    st.tuples(STEPS, st.sampled_from(["arrive", "ask", "ask", "use", "end"]), st.integers(0, 120), st.integers(0, 80)),
    max_size=25,
)
SOME, MORE = st.none() | st.integers(1, 6), st.none() | st.integers(1, 300)
SHADOW = st.sets(st.sampled_from(LIMIT_NAMES)).map(tuple)
SOME_LIMITS = st.builds(Limits, rpm=SOME, tpm=MORE, concurrency=SOME, tpd=MORE, tpmonth=MORE, shadow=SHADOW)


@pytest.fixture
def three(tmp_path, redis_url):
    """Limits in shared memory, in Redis, and as a row of PostgreSQL has them."""
    slots = Slots(ProcessNumbers(tmp_path / "live"), lambda *_: 0)
    yield slots, redis_limits.RedisLimits(redis_url, lambda *_: 0), InRows()
    slots.close()


class InRows:
    """A state that goes through its text form between any two steps, as it does between transactions."""

    def __init__(self):
        self.texts = {}

    def _change(self, of, now, change):
        state = LimitState.load(self.texts.get(of.subject), now)
        result = change(state)
        self.texts[of.subject] = state.dump()
        return result

    def admit(self, of, now):
        return self._change(of, now, lambda state: state.admit(of, now))

    def hold(self, of, tokens, now):
        def do(state):
            for name in quotas.unknown(state.cells, of.limits, now):
                quotas.PERIODS[name].begin(state.cells, 0, now)
            return quotas.hold(state.cells, of.limits, tokens, now), state.open.update(
                {str(of.call): (of.lease_ends_at, tokens)}
            )

        decision, _ = self._change(of, now, do)
        if decision.refused:
            self._change(of, now, lambda state: state.open.update({str(of.call): (of.lease_ends_at, 0)}))
        return decision

    def settle(self, of, tokens, now):
        self._change(of, now, lambda state: state.settle(of.call, tokens, now, of.started_at))


RUNS = count()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=SOME_LIMITS.filter(bool), actions=ACTIONS, start=st.sampled_from([NOON, NOON + 43_170.5, NOON + 0.999]))
def test_shared_memory_redis_and_postgresql_decide_alike(three, limits, actions, start):
    subject, now, open_calls = f"key:{next(RUNS)}", start, []
    for number, (step, action, one, other) in enumerate(actions):
        now += step
        if action == "end" and open_calls:
            calls, held = open_calls.pop(one % len(open_calls))
            for place, of in zip(three, calls, strict=True):
                place.settle(of, held * other // 80, now)
            continue
        calls = [Reservation(number + 1, subject, "k", limits, now, now + 9e9) for _ in three]
        decisions = [place.admit(of, now) for place, of in zip(three, calls, strict=True)]
        assert decisions[0] == decisions[1] == decisions[2], action
        if decisions[0].refused:
            continue
        if action != "arrive" and limits.of_tokens:
            decisions = [place.hold(of, one, now) for place, of in zip(three, calls, strict=True)]
            assert decisions[0] == decisions[1] == decisions[2], action
        if decisions[0].refused or action == "use":
            used = 0 if decisions[0].refused or not limits.of_tokens else one * other // 80
            for place, of in zip(three, calls, strict=True):
                place.settle(of, used, now)
        else:
            open_calls.append((calls, one if action == "ask" and limits.of_tokens else 0))
