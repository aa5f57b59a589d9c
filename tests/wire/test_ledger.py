"""The ledger: limits hold for all processes together, and every call is one row, however it and its process end."""

import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest
from support.callers import Caller
from support.dialects import NEW, V1
from support.gateways import serve
from support.heard import DIALECTS, all_at_once, hear, wait_until
from support.ledger import check_row, check_usage, kept
from support.servers import postgres
from support.stores import locked
from support.upstream import PIECES, TEXT, say, script

from chatapi.accounting.redis import AWAY_S

ANSWERED_S = 15  # an upper bound where hanging is the failure


# ---------------------------------------------------------------- real gunicorn


@pytest.fixture(scope="module")
def env(gateway_env):
    return {**gateway_env, "CHATAPI_MAX_TIME": "30", "CHATAPI_IDLE_TIMEOUT": "20"}


@pytest.fixture(scope="module")
def four(env, tmp_path_factory):
    """Four workers over SQLite."""
    with kept(env, f"sqlite:///{tmp_path_factory.mktemp('four')}/chatapi.db", "-w", "4") as running:
        yield running


def test_four_workers_answer_exactly_as_many_calls_as_a_minute_allows(upstream, four):
    # A worker that is quick may take all connections: then nothing was tried.
    assert any(len(workers_that_answered_a_minutes_calls(four)) > 1 for _attempt in range(8))


def workers_that_answered_a_minutes_calls(four):
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
        assert 54 <= int(heard.headers["RateLimit-Reset"]) <= 60
    for heard in refused:
        assert heard.code == "rate_limited"
        assert heard.headers["RateLimit-Remaining"] == "0"
        assert 1 <= int(heard.headers["Retry-After"]) <= 60
        assert heard.headers["Retry-After"] in heard.error["message"]
    rows = four.rows(key_id=key_id)
    assert sorted(row["request_id"] for row in rows) == sorted(h.headers["X-Request-Id"] for h in found.values())
    assert [row["ending"] for row in rows].count("completed") == 12
    check_usage(four, key_id)
    usage = four.gateway.request("GET", "/v1/usage", headers=headers).json()["data"]
    assert sum(row["calls"] for row in usage) == 48
    assert {row["key_id"] for row in usage} == {key_id}
    return {row["owner"] for row in rows}


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
    assert wait_until(lambda: four.metric("chatapi_limit_decisions_total", decision="shadowed", limit="rpm") == was + 3)


# ---------------------------------------------------------------- endings: most of them in test_endings

REFUSED = {  # fields, code
    "invalid": ({"max_tokens": "many"}, "invalid_request"),
    "forbidden": ({"model": "secret/model"}, "forbidden_model"),
    "limited": ({"max_tokens": 1000}, "rate_limited"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", REFUSED)
def test_who_is_refused_is_one_row_and_owes_nothing(upstream, four, name, dialect, stream):
    given, code = REFUSED[name]
    fields = {"model": "end-refused/model", "stream": stream} | given
    key_id, headers = four.new_key("tpm=500", models=["end-*"])
    heard = hear(four.gateway, DIALECTS[dialect], headers=headers, **fields)
    row = four.row(key_id=key_id)
    check_row(row, heard, dialect, fields["model"], "refused", code)
    assert row["stream"] is (stream and name != "invalid")
    assert (row["attempts"], upstream.posts) == (0, [])
    assert [row[name] for name in ("served", "prompt_tokens", "completion_tokens", "usage_source")] == [None] * 4
    check_usage(four, key_id)


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
        counted = {ending: len(callers[pid]) for ending, pid in (("worker_lost", killed), ("completed", goes_on))}
        for ending, calls in counted.items():
            assert wait_until(lambda of=ending, n=calls: running.metric("chatapi_calls_total", ending=of) == n)
        assert wait_until(lambda: running.metric("chatapi_open_streams") == 0)
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


def go_on(held, streams):
    """Each of these streams to its end, and all of it."""
    held.go.set()
    for caller in streams.values():
        caller.read_until(b"[DONE]")
        assert TEXT.encode() == b"".join(re.findall(rb'"content":"(.*?)"', bytes(caller.received)))


def check_all_ended(running, streams, key_id):
    assert {row["model"] for row in running.rows(key_id=None, ending="completed")} == set(streams)
    assert not running.rows(ending=None)
    check_usage(running)
    check_usage(running, key_id)


def test_calls_go_on_while_sqlite_is_locked_and_are_in_the_ledger_when_it_is_not(upstream, env, sqlite_url):
    with kept(env, sqlite_url) as running, open_streams(running, upstream, 3) as (held, callers):
        [streams] = callers.values()
        key_id, headers = running.new_key("rpm=100 tpm=100000")
        assert hear(running.gateway, NEW, "test/ok", headers=headers).status == 200  # the key is known now
        with locked(sqlite_url):
            go_on(held, streams)
            for dialect, route in DIALECTS.items():
                heard = hear(running.gateway, route, "test/ok", headers=headers, stream=dialect == "s1")
                assert (heard.status, heard.text) == (200, TEXT)
                assert heard.seconds < ANSWERED_S
            assert wait_until(lambda: running.metric("chatapi_ledger_pending") >= 3 + len(DIALECTS))
            assert {row["model"] for row in running.rows(ending=None)} >= set(streams)
        assert wait_until(lambda: running.metric("chatapi_ledger_pending") == 0, 15)
        assert running.metric("chatapi_ledger_errors_total") >= 1
        assert len(running.rows(key_id=key_id, ending="completed")) == 1 + len(DIALECTS)
        check_all_ended(running, streams, key_id)


def test_a_postgresql_that_is_away_costs_no_answer_and_no_end_and_its_outage_ends_with_it(upstream, env):
    with postgres() as server, kept(env, server.url) as running:
        key_id, headers = running.new_key("rpm=100 tpm=100000 concurrency=10")
        with open_streams(running, upstream, 3) as (held, callers):
            [streams] = callers.values()
            assert hear(running.gateway, NEW, "test/ok", headers=headers).status == 200  # the key is known now
            server.stop()
            go_on(held, streams)
            for route in DIALECTS.values():
                heard = hear(running.gateway, route, "test/ok", headers=headers)
                assert (heard.status, heard.code) == (503, "store_unavailable")
                assert (heard.error["retryable"], "Retry-After" in heard.headers) == (True, True)
                assert ("success" in json.loads(heard.body)) == route.startswith("/api")
                assert heard.seconds < ANSWERED_S
            assert running.metric("chatapi_ledger_pending") == 3 + len(DIALECTS)
            server.start()
            running.store.close()  # the test's own connection is broken too
            assert wait_until(lambda: hear(running.gateway, V1, "test/ok", headers=headers).status == 200, 15)
        assert wait_until(lambda: running.metric("chatapi_ledger_pending") == 0, 15)
        refused = running.rows(key_id=key_id, status=503)[: len(DIALECTS)]
        assert [row["ending"] for row in refused] == ["failed"] * len(DIALECTS)
        check_all_ended(running, streams, key_id)


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

        first, second, third = (running.new_key("rpm=5 concurrency=5") for _ in range(3))
        assert asked(first[1]) == [200] * 5 + [429] * 7
        assert in_redis(first[0])
        assert running.metric("chatapi_limit_store_errors_total") == 0
        server.stop()
        assert asked(second[1]) == [200] * 5 + [429] * 7
        assert running.metric("chatapi_limit_store_errors_total") >= 1
        server.start()

        def used_again():
            key_id, headers = running.new_key("rpm=5")
            return hear(running.gateway, NEW, "test/ok", headers=headers).status == 200 and in_redis(key_id)

        assert wait_until(used_again, 15)
        # Until then one worker asks Redis and the other the database, and each admits the whole limit.
        time.sleep(AWAY_S)
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
