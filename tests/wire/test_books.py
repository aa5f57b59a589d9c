"""The books: limits hold for all processes together, and every call is one row, however it and its process end."""

import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import psutil
import pytest
from support import stores as shared
from support.gateways import serve
from support.heard import DIALECTS, all_at_once, hear, wait_until
from support.stores import locked, path_of, side_by_side_processes, sql
from support.upstream import PIECES, TEXT, say, script
from test_api import NEW, V1, asking
from test_streams import Caller

from chatapi.accounting import statements, tables
from chatapi.accounting import store as stores
from chatapi.accounting.keys import Keys
from chatapi.accounting.ledger import REDIS_AWAY_S, Books, RedisStates, owner
from chatapi.accounting.quotas import LEASE_S
from chatapi.accounting.store import Store
from chatapi.call import Call
from chatapi.caller import NO_LIMITS, Limits
from chatapi.chat import ChatJob
from chatapi.errors import StoreUnavailable

# Fixtures, under the names that tests ask for them by.
database, sqlite_url = shared.database, shared.sqlite_url
postgres_url, postgres_server = shared.postgres_url, shared.postgres_server
redis_server = shared.redis_server

ANSWERED_S = 15  # an upper bound where hanging is the failure
PROCESSES = 8


@pytest.fixture
def redis_url(redis_server):
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def places(request):
    """Where the ledger is, and where limits are held."""
    if request.param == "redis":
        return request.getfixturevalue("sqlite_url"), request.getfixturevalue("redis_url")
    return request.getfixturevalue(f"{request.param}_url"), None


# ---------------------------------------------------------------- many processes, one key

HAMMER = """
import fcntl, time
from types import SimpleNamespace
from chatapi.accounting.ledger import Books, RedisStates
from chatapi.chat import ChatJob
from chatapi.caller import Limits
from chatapi.accounting.store import Store
from chatapi.call import Call
import redis, sqlalchemy.dialects.sqlite, sqlalchemy.dialects.postgresql

def counted(path, change=0):
    with open(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        now, most = map(int, file.read().split())
        file.seek(0)
        file.write(f"{now + change} {max(most, now + change)} ")
        return max(most, now + change)
# each
url, redis_url, words, path, attempts, together = arguments
books = Books(Store(url), RedisStates(redis_url) if redis_url else None)
caller = SimpleNamespace(key_id="k", subject="key:k", limits=Limits.parse(words))
job = ChatJob(model="a/b", messages=[{"role": "user", "content": "hi"}], options={"max_tokens": 40})
# go
admitted = 0
for number in range(attempts):
    record = Call(f"{me}-{number}", "/v1/chat/completions", "openai")
    entry = books.entry(caller, record)
    record.on_close(entry.end)
    verdict = entry.begin(job, 60)
    if verdict.refused is None:
        admitted += 1
        counted(path, +1)
        until = time.monotonic() + 5
        while counted(path) < together and time.monotonic() < until:
            time.sleep(0.01)  # for the others, until so many have been open together
        time.sleep(0.02 if together else 0)
        counted(path, -1)
        record.prompt_tokens, record.completion_tokens = entry_tokens
    record.close("refused" if verdict.refused else "completed")
    time.sleep(0 if verdict.refused is None else 0.002)
result = admitted
"""
PROMPT = 6  # what "hi" is taken to be: a message costs four more
HAMMER = HAMMER.replace("entry_tokens", f"({PROMPT}, 40)")


def hammered(places, words, tmp_path, together=0):
    """How many calls were admitted, how many were open at once at most, and the ledger."""
    shared_file = tmp_path / "open"
    shared_file.write_text("0 0 ")
    url, redis_url = places
    admitted = side_by_side_processes(HAMMER, PROCESSES, url, redis_url, words, str(shared_file), 10, together)
    open_now, most = map(int, shared_file.read_text().split())
    assert open_now == 0
    return sum(admitted), most, rows_of(url)


def rows_of(url):
    store = Store(url)
    try:
        return store.read(lambda tx: statements._rows(tx.execute(tables.calls.select())))
    finally:
        store.close()


@pytest.mark.parametrize("words, most", [("rpm=20", 20), ("rpm=99 tpm=1000", 1000 // (PROMPT + 40))])
def test_many_processes_admit_exactly_what_is_allowed(places, tmp_path, words, most):
    admitted, _, rows = hammered(places, words, tmp_path)
    assert admitted == most
    assert len(rows) == PROCESSES * 10
    assert [row["ending"] for row in rows].count("completed") == most
    assert {row["ending"] for row in rows} == {"completed", "refused"}


def test_many_processes_have_no_more_calls_open_than_is_allowed(places, tmp_path):
    admitted, most, rows = hammered(places, "concurrency=3", tmp_path, 3)
    assert most == 3
    assert admitted > 3  # a place that was given back is used again
    assert [row["ending"] for row in rows].count("completed") == admitted


# ---------------------------------------------------------------- in one process


@pytest.fixture
def books(sqlite_url):
    store = Store(sqlite_url)
    yield Books(store)
    store.close()


@pytest.fixture
def shared_books(sqlite_url, redis_url):
    store = Store(sqlite_url)
    yield Books(store, RedisStates(redis_url))
    store.close()


JOB = ChatJob(model="a/b", messages=[{"role": "user", "content": "hi"}], options={"max_tokens": 40})


def caller_of(words=""):
    return SimpleNamespace(key_id="k", subject="key:k", limits=Limits.parse(words))


def begun(books, caller, job=JOB, number=0):
    """An entry for `job`, and the verdict."""
    record = Call(f"r{number}", V1, "openai")
    entry = books.entry(caller, record)
    record.on_close(entry.end)
    verdict = entry.begin(job, 60)
    return record, entry, verdict


def test_all_answers_of_one_call_are_held_back(books):
    four = ChatJob(model="a/b", messages=JOB.messages, options={"n": 4, "max_tokens": 100})
    _, _, verdict = begun(books, caller_of("tpm=250"), four)
    assert verdict.refused == "tpm"


def test_a_call_whose_beginning_was_written_unknown_to_us_ends_and_stops_no_other(books, sqlite_url, monkeypatch):
    # stays open; and where `flush` tries the oldest of the late ends for ever, so do all after it.
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.3)
    record, entry, _ = begun(books, caller_of())
    late, _, _ = begun(books, caller_of(), number=1)
    entry.begun = False
    with locked(sqlite_url):
        record.close("failed")
        late.close("completed")
    told = {"r0": "failed", "r1": "completed"}
    wait_until(lambda: {row["request_id"]: row["ending"] for row in rows_of(sqlite_url)} == told, 6)
    assert {row["request_id"]: row["ending"] for row in rows_of(sqlite_url)} == told


def test_late_ends_are_written_once_also_when_two_write_them(books, sqlite_url):
    for number in range(40):
        record, entry, _ = begun(books, caller_of(), number=number)
        record.ending = "completed"
        books._late.append((entry, entry.row()))
    with ThreadPoolExecutor(2) as pool:
        with books._store._writer.held():
            flushes = [pool.submit(books.flush) for _ in range(2)]
            assert wait_until(lambda: len(books._store._waiting) == 2, 1) or books._store._waiting
        for one in flushes:
            one.result(20)
    assert [row["ending"] for row in rows_of(sqlite_url)] == ["completed"] * 40
    assert sql(sqlite_url, "SELECT calls FROM usage") == [(40,)]


def test_a_schema_that_changes_under_a_call_does_no_harm_to_its_answer(books, sqlite_url):
    record, _, _ = begun(books, caller_of())
    sql(sqlite_url, "UPDATE meta SET value = '7' WHERE name = 'schema'")
    books._store.close()
    record.close("completed")
    sql(sqlite_url, f"UPDATE meta SET value = '{len(tables.STEPS)}' WHERE name = 'schema'")
    assert wait_until(lambda: rows_of(sqlite_url)[0]["ending"] == "completed", 6)


def test_a_reservation_is_given_back_when_the_call_cannot_be_written_down(shared_books, sqlite_url, monkeypatch):
    monkeypatch.setattr(stores, "LOCK_WAIT_S", 0.3)
    caller = caller_of("concurrency=1")
    shared_books._store.check()
    with locked(sqlite_url):
        record = Call("r", V1, "openai")
        entry = shared_books.entry(caller, record)
        record.on_close(entry.end)
        with pytest.raises(StoreUnavailable):
            entry.begin(JOB, 60)
        record.close("failed")
    assert begun(shared_books, caller)[2].refused is None


@pytest.mark.parametrize("state", ["garbage", "[]", '{"version": 2}', "[1,2,3,4,5]", b"\xff\xfe"], ids=repr)
def test_a_state_in_redis_that_cannot_be_read_stops_no_call(shared_books, redis_url, state):
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.set("chatapi:limits:key:k", state)
    verdicts = [begun(shared_books, caller_of("rpm=2"), number=number)[2] for number in range(4)]
    assert [verdict.refused for verdict in verdicts] == [None, None, "rpm", "rpm"]


def test_a_redis_that_was_emptied_forgets_what_was_used_and_nothing_else(shared_books, redis_url, sqlite_url):
    import redis

    caller = caller_of("concurrency=1 tpm=1000")
    record, _, _ = begun(shared_books, caller)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    record.prompt_tokens, record.completion_tokens = 10, 20
    record.close("completed")
    assert [row["ending"] for row in rows_of(sqlite_url)] == ["completed"]
    _, _, verdict = begun(shared_books, caller, number=1)
    assert verdict.refused is None
    assert begun(shared_books, caller, number=2)[2].refused == "concurrency"


def test_calls_that_are_open_long_after_their_deadline_are_lost(books, sqlite_url):
    begun(books, caller_of())
    assert [row["ending"] for row in rows_of(sqlite_url)] == [None]
    sql(sqlite_url, f"UPDATE calls SET until = {time.time() - LEASE_S + 5}")
    books.sweep()
    assert [row["ending"] for row in rows_of(sqlite_url)] == [None]
    sql(sqlite_url, f"UPDATE calls SET until = {time.time() - LEASE_S - 1}")
    books.sweep()
    assert [row["ending"] for row in rows_of(sqlite_url)] == ["worker_lost"]


def of_owner(host=None, boot=None, pids=None, pid=None, born=None):
    parts = zip((host, boot, pids, pid, born), owner().split(" "), strict=True)
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
def test_a_call_is_lost_when_its_process_is(books, sqlite_url, changed, ending):
    begun(books, caller_of())
    sql(sqlite_url, f"UPDATE calls SET owner = '{of_owner(**changed)}'")
    books.sweep()
    assert [row["ending"] for row in rows_of(sqlite_url)] == [ending]


def test_a_lost_call_gives_back_what_it_held(books, sqlite_url):
    caller = caller_of("concurrency=1")
    begun(books, caller)
    assert begun(books, caller, number=1)[2].refused == "concurrency"
    sql(sqlite_url, f"UPDATE calls SET owner = '{of_owner(born='1')}' WHERE ending IS NULL")
    books.sweep()
    assert begun(books, caller, number=2)[2].refused is None


def test_without_limits_no_state_is_kept(books, sqlite_url):
    _, _, verdict = begun(books, SimpleNamespace(key_id=None, subject="address:-", limits=NO_LIMITS))
    assert verdict is None
    assert sql(sqlite_url, "SELECT count(*) FROM limits") == [(0,)]


# ---------------------------------------------------------------- real gunicorn


class Kept:
    """A running gateway, and its database."""

    def __init__(self, gateway, url):
        self.gateway, self.url, self.store = gateway, url, Store(url)
        self.keys = Keys(self.store)

    def new_key(self, words="", models=()):
        row, text = self.keys.create("a caller", Limits.parse(words), models, None)
        return row["id"], {"Authorization": f"Bearer {text}"}

    def rows(self, **where):
        rows = self.store.read(lambda tx: statements._rows(tx.execute(tables.calls.select())))
        return [row for row in rows if all(row[name] == value for name, value in where.items())]

    def row(self, **where):
        """The one row, when it has ended."""
        assert wait_until(lambda: [r for r in self.rows(**where) if r["ending"]]), self.rows(**where)
        [row] = self.rows(**where)
        return row

    def used(self, key_id=None):
        return self.store.read(lambda tx: statements.used(tx, None, None, key_id))

    def metric(self, name, **labels):
        """The sum of a metric's samples with these labels."""
        text = self.gateway.request("GET", "/metrics").text
        found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        return sum(float(v) for of, v in found if all(f'{n}="{w}"' in of for n, w in labels.items()))


@contextmanager
def kept(env, url, *arguments, **settings):
    with serve({**env, "DATABASE_URL": url, **settings}, *arguments) as gateway:
        running = Kept(gateway, url)
        try:
            yield running
        finally:
            running.store.close()


@pytest.fixture(scope="module")
def env(gateway_env):
    return {**gateway_env, "CHATAPI_MAX_TIME": "30", "CHATAPI_IDLE_TIMEOUT": "20"}


@pytest.fixture(scope="module")
def four(env, tmp_path_factory):
    """Four workers over SQLite."""
    with kept(env, f"sqlite:///{tmp_path_factory.mktemp('four')}/chatapi.db", "-w", "4") as running:
        yield running


def added_up(rows):
    sums = {}
    for row in rows:
        name = (tables.day_of(row["started_at"]), row["key_id"] or "", row["served"] or row["model"] or "")
        of = sums.setdefault((*name, row["ending"]), [0, 0, 0])
        of[0] += 1
        of[1] += row["prompt_tokens"] or 0
        of[2] += row["completion_tokens"] or 0
    return sums


def check_usage(running, key_id=""):
    """What is reported of a key is what its rows add up to."""
    names, counts = ("day", "key_id", "model", "ending"), ("calls", "prompt_tokens", "completion_tokens")
    told = {tuple(row[n] for n in names): [row[c] for c in counts] for row in running.used(key_id)}
    assert told == added_up(running.rows(key_id=key_id or None))


def test_four_workers_answer_exactly_as_many_calls_as_a_minute_allows(upstream, four):
    key_id, headers = four.new_key("rpm=12")
    cases = list(range(48))
    found = all_at_once(lambda n: hear(four.gateway, NEW, "test/ok", headers=headers, stream=n % 2 == 0), cases, 24)
    admitted = [heard for heard in found.values() if heard.status == 200]
    refused = [heard for heard in found.values() if heard.status == 429]
    assert (len(admitted), len(refused)) == (12, 36)
    assert {heard.text for heard in admitted} == {TEXT}
    assert sorted(int(heard.headers["RateLimit-Remaining"]) for heard in admitted) == list(range(12))
    for heard in found.values():
        assert heard.headers["RateLimit-Limit"] == heard.headers["x-ratelimit-limit-requests"] == "12"
        assert 55 <= int(heard.headers["RateLimit-Reset"]) <= 61
    for heard in refused:
        assert heard.code == "rate_limited"
        assert heard.headers["RateLimit-Remaining"] == "0"
        assert 1 <= int(heard.headers["Retry-After"]) <= 61
        assert heard.headers["Retry-After"] in heard.error["message"]
    rows = four.rows(key_id=key_id)
    assert len({row["owner"] for row in rows}) > 1, "one worker had all of them: nothing was tried"
    assert sorted(row["request_id"] for row in rows) == sorted(h.headers["X-Request-Id"] for h in found.values())
    assert [row["ending"] for row in rows].count("completed") == 12
    check_usage(four, key_id)
    usage = four.gateway.request("GET", "/v1/usage", headers=headers).json()["data"]
    assert sum(row["calls"] for row in usage) == 48
    assert {row["key_id"] for row in usage} == {key_id}


def test_four_workers_have_no_more_calls_open_than_is_allowed(upstream, four):
    key_id, headers = four.new_key("concurrency=5")
    now, most, lock = 0, 0, threading.Lock()

    def counting(x):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        until = time.monotonic() + 5
        while most < 5 and time.monotonic() < until:
            x.sleep(0.01)  # for the others, until so many have been open together
        x.sleep(0.05)
        with lock:
            now -= 1
        say(x)

    upstream.behave("counting/model", counting)
    found = all_at_once(lambda n: hear(four.gateway, V1, "counting/model", headers=headers), list(range(60)), 20)
    statuses = [heard.status for heard in found.values()]
    assert most == 5
    assert set(statuses) == {200, 429}
    assert statuses.count(200) > 5
    assert all(heard.headers["Retry-After"] == "1" for heard in found.values() if heard.status == 429)
    check_usage(four, key_id)


def test_four_workers_use_no_more_tokens_than_a_minute_allows(upstream, four):
    key_id, headers = four.new_key("tpm=200")
    found = all_at_once(
        lambda n: hear(four.gateway, V1, "test/ok", headers=headers, max_tokens=20), list(range(60)), 20
    )
    rows = four.rows(key_id=key_id, ending="completed")
    assert len(rows) == [heard.status for heard in found.values()].count(200) > 200 // 27
    assert sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows) <= 200
    check_usage(four, key_id)


def test_a_shadow_limit_refuses_nobody_and_is_counted(upstream, four):
    _, headers = four.new_key("rpm=2 shadow=rpm")
    was = four.metric("chatapi_limit_decisions_total", decision="shadowed", limit="rpm")
    found = [hear(four.gateway, NEW, "test/ok", headers=headers) for _ in range(5)]
    assert [heard.status for heard in found] == [200] * 5
    assert not any("RateLimit-Limit" in heard.headers for heard in found)
    assert four.metric("chatapi_limit_decisions_total", decision="shadowed", limit="rpm") == was + 3


# ---------------------------------------------------------------- endings

ENDINGS = {  # behaviour (None: the upstream is not asked), stream, fields, ending, code
    "completed": ("ok", False, {}, "completed", None),
    "completed-stream": ("ok", True, {}, "completed", None),
    "cut": ("truncated", False, {}, "upstream_cut", "upstream_unavailable"),
    "cut-stream": ("cut", True, {}, "upstream_cut", "upstream_unavailable"),
    "deadline": ("silent", False, {"max_time": 1}, "deadline", "upstream_timeout"),
    "deadline-stream": ("headers-only", True, {"max_time": 1}, "deadline", "upstream_timeout"),
    "invalid": (None, False, {"max_tokens": "many"}, "refused", "invalid_request"),
    "invalid-stream": (None, True, {"max_tokens": "many"}, "refused", "invalid_request"),
    "forbidden": (None, False, {"model": "secret/model"}, "refused", "forbidden_model"),
    "forbidden-stream": (None, True, {"model": "secret/model"}, "refused", "forbidden_model"),
    "limited": (None, False, {"max_tokens": 1000}, "refused", "rate_limited"),
    "limited-stream": (None, True, {"max_tokens": 1000}, "refused", "rate_limited"),
}
BLUEPRINTS = {"legacy": "legacy", "s1": "completions", "v1": "openai"}
ENDING_CASES = [(name, dialect) for name in ENDINGS for dialect in DIALECTS]


@pytest.fixture(scope="module")
def ended(four, upstream_server):
    """(name, dialect) → the key's id, and what was heard."""
    upstream_server.reset()

    def ask(case):
        name, dialect = case
        behaviour, stream, fields, _, _ = ENDINGS[name]
        fields = dict(fields)
        model = fields.pop("model", f"end-{name}/{dialect}")
        if behaviour:
            upstream_server.behave(model, "body-truncated" if behaviour == "truncated" else behaviour)
        key_id, headers = four.new_key("tpm=500", models=["end-*"])
        return key_id, hear(four.gateway, DIALECTS[dialect], model, headers=headers, stream=stream, **fields)

    return all_at_once(ask, ENDING_CASES, 12)


@pytest.mark.parametrize("name, dialect", ENDING_CASES)
def test_every_ending_is_one_row(upstream_server, four, ended, name, dialect):
    key_id, heard = ended[name, dialect]
    behaviour, stream, fields, ending, code = ENDINGS[name]
    row = four.row(key_id=key_id)
    model = None if name.startswith("invalid") else fields.get("model", f"end-{name}/{dialect}")
    attempts = len(upstream_server.calls_for(model)) if behaviour else 0
    assert (row["ending"], row["code"], heard.code) == (ending, code, code)
    assert (row["route"], row["dialect"]) == (DIALECTS[dialect], BLUEPRINTS[dialect])
    assert (row["request_id"], row["status"]) == (heard.headers["X-Request-Id"], heard.status)
    assert (row["model"], row["attempts"]) == (model, attempts)
    assert row["stream"] is (stream and not name.startswith("invalid"))
    assert abs(row["started_at"] - time.time()) < 300
    assert row["total_ms"] >= (row["first_token_ms"] or 0) >= 0
    if ending == "completed":
        assert row["served"] == model
        assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (*heard.tokens, "upstream")
        assert (row["first_token_ms"] is not None) == stream
    elif name == "cut-stream":
        assert (row["served"], row["completion_tokens"], row["usage_source"]) == (model, 3, "estimate")
    else:
        assert [row[name] for name in ("served", "prompt_tokens", "completion_tokens", "usage_source")] == [None] * 4
    check_usage(four, key_id)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_caller_who_leaves_is_one_row(upstream, four, dialect, stream):
    model = f"left-{dialect}/{stream}"
    upstream.behave(model, "slow" if stream else "silent")
    with Caller(four.gateway, DIALECTS[dialect], model, stream=stream) as caller:
        upstream.wait_for(lambda: upstream.calls_for(model))
        assert [row["ending"] for row in four.rows(model=model)] == [None]
        if stream:
            caller.read_until(b"tok3")
        caller.leave()
    row = four.row(model=model)
    assert (row["ending"], row["key_id"], row["attempts"]) == ("client_left", None, 1)
    if stream:
        assert (row["served"], row["usage_source"]) == (model, "estimate")
        assert 4 <= row["completion_tokens"] < 40


def test_a_fallback_is_the_model_that_served(upstream, four):
    upstream.behave("first/model", "cut")
    upstream.behave("first/model", lambda x: x.send_json(503, {"error": "gone"}))
    upstream.behave("second/model", "ok")
    heard = hear(four.gateway, NEW, "first/model", fallbacks=["second/model"])
    row = four.row(request_id=heard.headers["X-Request-Id"])
    attempts = len(upstream.calls_for("first/model")) + len(upstream.calls_for("second/model"))
    assert (row["model"], row["served"], row["attempts"]) == ("first/model", "second/model", attempts)
    assert [u["calls"] for u in four.used("") if u["model"] == "second/model"] == [1]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_caller_who_is_not_admitted_is_no_row(four, dialect):
    before = len(four.rows())
    headers = {"X-Forwarded-For": "203.0.113.7"}
    for more in ({}, {"Authorization": "Bearer nonsense"}):
        heard = hear(four.gateway, DIALECTS[dialect], "test/ok", headers=headers | more)
        assert heard.status == 401
    assert len(four.rows()) == before


def test_tokens_nobody_can_count_do_no_harm(upstream, four):
    huge = {"prompt_tokens": 10**30, "completion_tokens": 10**30, "total_tokens": 2 * 10**30}
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    upstream.behave("huge/usage", lambda x: x.send_json(200, {"choices": [choice], "usage": huge}))
    heard = hear(four.gateway, NEW, "huge/usage")
    assert heard.status == 200
    assert four.row(request_id=heard.headers["X-Request-Id"])["ending"] == "completed"


# ---------------------------------------------------------------- what is not in the books


def test_neither_prompts_nor_answers_nor_keys_are_in_the_database(upstream, four, gateway_env):
    def canary(x):
        say(x, ["CANARY", "-answer", " and more"])

    def cut(x):
        x.start_stream()
        for item in script(x, ["CANARY-answer"]).tokens:
            x.event(item)

    upstream.behave("canary/model", canary)
    upstream.behave("canary/cut", cut)
    _, headers = four.new_key("rpm=4 tpm=100000")
    key = headers["Authorization"].removeprefix("Bearer ")
    for route in DIALECTS.values():
        for stream in (False, True):
            for model in ("canary/model", "canary/cut", "CANARY model ä"):
                good = asking(route, model, "CANARY-prompt", stream=stream)
                for body in (good, good | {"CANARY-field": 1, "max_tokens": "CANARY"}):
                    four.gateway.post(route, body, headers=headers)
                    four.gateway.post(route, body)
        four.gateway.post(route, asking(route, "test/ok"), headers={"Authorization": f"Bearer {key[:-1]}x"})
    path = path_of(four.url)
    content = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert b"canary/model" in content  # it is here that they would be
    for secret in (b"CANARY", key[-42:].encode(), key[-42:-10].encode(), gateway_env["HUGGINGFACE_API_KEY"].encode()):
        assert secret not in content


# ---------------------------------------------------------------- processes that are killed


class Held:
    """An answer that waits, after three tokens, until it is released."""

    def __init__(self):
        self.go = threading.Event()

    def __call__(self, x):
        x.start_stream()
        parts = script(x).whole()
        for number, item in enumerate(parts):
            if number == 3:
                while not self.go.is_set() and x.sleep(0.02):
                    pass
            x.event(item)
        x.end()


@contextmanager
def open_streams(running, upstream, number, processes=1):
    """At least `number` streams amid their answers: their behaviour, and callers by process, each with its model."""
    held, callers = Held(), {}

    def ask(model):
        upstream.behave(model, held)
        caller = Caller(running.gateway, (NEW, V1)[hash(model) % 2], model)
        caller.read_until(PIECES[1].encode())
        [row] = running.rows(model=model)
        return int(row["owner"].split()[3]), caller

    try:
        for attempt in range(20):  # whoever is awake first takes a connection: it may be the same one for long
            for model, (pid, caller) in all_at_once(ask, [f"held-{attempt}/{n}" for n in range(number)]).items():
                callers.setdefault(pid, {})[model] = caller
            if len(callers) >= processes:
                break
        assert len(callers) >= processes
        yield held, callers
    finally:
        held.go.set()
        for of_one in callers.values():
            for caller in of_one.values():
                caller.sock.close()


def test_the_calls_of_a_worker_that_is_killed_are_lost_and_no_others(upstream, env, sqlite_url):
    with kept(env, sqlite_url, "-w", "2") as running, open_streams(running, upstream, 4, 2) as (held, callers):
        workers = running.gateway.workers()
        killed, goes_on = sorted(callers, key=lambda pid: len(callers[pid]))
        os.kill(killed, signal.SIGKILL)
        assert wait_until(lambda: len(set(running.gateway.workers()) - set(workers)) == 1, 10)
        assert wait_until(lambda: {r["model"] for r in running.rows(ending="worker_lost")} == set(callers[killed]), 10)
        assert {row["model"] for row in running.rows(ending=None)} == set(callers[goes_on])
        held.go.set()
        for caller in callers[goes_on].values():
            caller.read_until(b"[DONE]")
        assert wait_until(lambda: not running.rows(ending=None))
        assert {row["model"] for row in running.rows(ending="worker_lost")} == set(callers[killed])
        assert {row["model"] for row in running.rows(ending="completed")} == set(callers[goes_on])
        check_usage(running)


def test_after_all_were_killed_open_calls_are_lost_and_answered_ones_are_as_they_were(upstream, env, sqlite_url):
    with kept(env, sqlite_url, "-w", "2") as running:
        answered = all_at_once(lambda n: hear(running.gateway, NEW, "test/ok", stream=n % 2 == 0), list(range(20)), 8)
        with open_streams(running, upstream, 4):
            master = psutil.Process(running.gateway.process.pid)
            workers = master.children()
            for process in (master, *workers):
                process.kill()
            psutil.wait_procs(workers, 10)
        running.gateway.process.wait(10)
    with kept(env, sqlite_url, "-w", "2") as running:
        assert wait_until(lambda: len(running.rows(ending="worker_lost")) == 4, 10)
        assert not running.rows(ending=None)
        for heard in answered.values():
            row = running.row(request_id=heard.headers["X-Request-Id"])
            assert (row["ending"], row["status"], row["served"]) == ("completed", 200, "test/ok")
            assert row["completion_tokens"] == len(PIECES)
        assert len(running.rows()) == 24
        check_usage(running)


# ---------------------------------------------------------------- the database is away


def test_an_answer_ends_well_while_the_database_is_locked_and_its_end_is_written_after(upstream, env, sqlite_url):
    with kept(env, sqlite_url) as running, open_streams(running, upstream, 3) as (held, callers):
        [streams] = callers.values()
        key_id, headers = running.new_key("rpm=100 tpm=100000")
        assert hear(running.gateway, NEW, "test/ok", headers=headers).status == 200  # the key is known now
        with locked(sqlite_url):
            held.go.set()
            with ThreadPoolExecutor(8) as pool:
                new = {
                    dialect: pool.submit(
                        hear, running.gateway, route, "test/ok", headers=headers, stream=dialect == "s1"
                    )
                    for dialect, route in DIALECTS.items()
                }
                for caller in streams.values():
                    caller.read_until(b"[DONE]")
                    assert TEXT.encode() == b"".join(re.findall(rb'"content":"(.*?)"', bytes(caller.received)))
                new = {dialect: one.result() for dialect, one in new.items()}
            for dialect, heard in new.items():
                assert (heard.status, heard.code) == (503, "store_unavailable")
                assert ("success" in json.loads(heard.body)) == (dialect != "v1")
                assert heard.seconds < ANSWERED_S
            assert wait_until(lambda: running.metric("chatapi_ledger_pending") == 6)
            assert {row["model"] for row in running.rows(ending=None)} == set(streams)
        assert wait_until(lambda: running.metric("chatapi_ledger_pending") == 0, 15)
        assert running.metric("chatapi_ledger_errors_total") == 6
        assert {row["model"] for row in running.rows(key_id=None, ending="completed")} == set(streams)
        assert [row["ending"] for row in running.rows(key_id=key_id, status=503)] == ["failed"] * 3
        check_usage(running)
        check_usage(running, key_id)


def test_limits_go_on_in_the_database_while_redis_is_stopped(upstream, env, sqlite_url):
    import redis
    from support.servers import redis as new_redis

    with new_redis() as server, kept(env, sqlite_url, "-w", "2", REDIS_URL=server.url) as running:

        def asked(headers):
            found = all_at_once(lambda _: hear(running.gateway, NEW, "test/ok", headers=headers), list(range(12)), 6)
            assert max(heard.seconds for heard in found.values()) < ANSWERED_S
            return sorted(heard.status for heard in found.values())

        def in_redis(key_id):
            with redis.Redis.from_url(server.url) as client:
                return client.exists(f"chatapi:limits:key:{key_id}") == 1

        first, second, third = (running.new_key("rpm=5") for _ in range(3))
        assert asked(first[1]) == [200] * 5 + [429] * 7
        assert in_redis(first[0])
        assert sql(sqlite_url, "SELECT count(*) FROM limits") == [(0,)]
        assert running.metric("chatapi_limit_store_errors_total") == 0
        server.stop()
        assert asked(second[1]) == [200] * 5 + [429] * 7
        assert sql(sqlite_url, "SELECT subject FROM limits") == [(f"key:{second[0]}",)]
        assert running.metric("chatapi_limit_store_errors_total") >= 1
        server.start()

        def used_again():
            hear(running.gateway, NEW, "test/ok", headers=running.new_key("rpm=5")[1])
            with redis.Redis.from_url(server.url) as client:
                return len(client.keys("chatapi:limits:*")) >= 3

        assert wait_until(used_again, 15)
        # FINDING 15: until then one worker asks Redis and the other the database, and each admits the whole limit.
        time.sleep(REDIS_AWAY_S)
        assert asked(third[1]) == [200] * 5 + [429] * 7
        for key_id, _ in (first, second, third):
            check_usage(running, key_id)


@pytest.mark.parametrize("limits_in_redis", [False, True])
def test_workers_on_postgresql_are_exact_and_wait_without_stopping_anybody(
    upstream, gateway_env, postgres_url, redis_url, limits_in_redis
):
    env = {**gateway_env, "DATABASE_URL": postgres_url, "CHATAPI_ANONYMOUS_LIMITS": "rpm=40 concurrency=30"}
    with serve(env | ({"REDIS_URL": redis_url} if limits_in_redis else {}), "-w", "3") as gateway:

        def ask(_):
            return gateway.post(
                "/v1/chat/completions", {"model": "test/ok", "messages": [{"role": "user", "content": "hi"}]}
            ).status_code

        with ThreadPoolExecutor(16) as callers:
            answers = list(callers.map(ask, range(80)))
            assert (answers.count(200), answers.count(429)) == (40, 40)
            with locked(postgres_url):
                waiting = [callers.submit(ask, number) for number in range(6)]
                looks = [gateway.request("GET", "/healthz", timeout=1) for _ in range(20)]
                assert not all(future.done() for future in waiting), "they wait for the database"
                assert all(look.ok for look in looks)
                assert {future.result(15) for future in waiting} <= {429, 503}
