"""A thousand calls of one key at once: none fails, each counts once, and no place is left behind."""

import asyncio
import json
import resource
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from support.accounts import PROMPT, begun, caller_of, end, job_of
from support.heard import wait_until
from support.ledger import check_usage, kept
from support.servers import postgres
from support.servers import redis as own_redis
from support.upstream import PIECES, say

from chatapi.accounting import Accounts

CALLS = 1000
LIMITS = {"rpm": 5000, "tpm": 10_000_000, "concurrency": 3000}
WORDS = " ".join(f"{name}={limit}" for name, limit in LIMITS.items())
PATIENCE_S = 90  # an upper bound where hanging is the failure


@pytest.fixture(autouse=True)
def many_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def running(env, url, redis_url=None):
    settings = {"REDIS_URL": redis_url} if redis_url else {}
    with kept({**env, "CHATAPI_MAX_TIME": "60"}, url, "-w", "2", **settings) as gateway:
        yield gateway


async def answered(port, headers, number, half=None):
    """The statuses of so many calls that are made at once; `half` is set when half of them are answered."""
    body = json.dumps({"model": "test/burst", "messages": [{"role": "user", "content": "hi"}]})
    sent = {"Host": "x", "Content-Type": "application/json", "Content-Length": len(body), "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in (sent | headers).items())
    statuses = []

    async def call():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n{body}".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        statuses.append(int(answer.split(maxsplit=2)[1]))
        if half and len(statuses) == number // 2:
            half.set()

    await asyncio.wait_for(asyncio.gather(*(call() for _ in range(number))), PATIENCE_S)
    return Counter(statuses)


def restarted_amid(port, headers, number, server):
    """The statuses of so many calls that are made at once; `server` is away for a second when half are answered."""
    half = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(asyncio.run, answered(port, headers, number, half))
        assert half.wait(PATIENCE_S)
        server.stop()
        time.sleep(1)
        server.start()
        return found.result(PATIENCE_S)


def left(ledger, key_id, redis_url=None):
    """What one call more finds left of each limit."""
    accounts = Accounts(ledger.store, redis_url)
    call = begun(accounts, caller_of(WORDS, key_id), job_of(0))
    end(call, 0, 0)
    accounts.close()
    return {status.name: status.remaining for status in call.decision.statuses}


def all_places_are_free(ledger, key_id, redis_url=None):
    return left(ledger, key_id, redis_url)["concurrency"] == LIMITS["concurrency"] - 1


@pytest.mark.parametrize("place", ["sqlite", "postgres", "sqlite+redis", "postgres+redis"])
def test_a_thousand_calls_of_one_key_at_once_are_all_answered_and_each_counts_once(
    request, upstream, gateway_env, place
):
    database, _, shared_limits = place.partition("+")
    redis_url = request.getfixturevalue("redis_url") if shared_limits else None
    upstream.behave("test/burst", "ok")
    with running(gateway_env, request.getfixturevalue(f"{database}_url"), redis_url) as ledger:
        key_id, headers = ledger.new_key(WORDS)
        assert asyncio.run(answered(ledger.gateway.port, headers, CALLS)) == {200: CALLS}
        assert wait_until(lambda: len(ledger.rows(key_id=key_id, ending="completed")) == CALLS, PATIENCE_S)
        check_usage(ledger, key_id)
        tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in ledger.rows(key_id=key_id))
        assert tokens >= CALLS * len(PIECES)
        assert left(ledger, key_id, redis_url) == {
            "rpm": LIMITS["rpm"] - CALLS - 1,
            "tpm": LIMITS["tpm"] - tokens - PROMPT,
            "concurrency": LIMITS["concurrency"] - 1,
        }
        assert ledger.metric("chatapi_limit_store_errors_total") == ledger.metric("chatapi_ledger_errors_total") == 0


def test_a_redis_that_is_restarted_amid_a_burst_costs_no_call_and_keeps_no_place(upstream, gateway_env, postgres_url):
    upstream.behave("test/burst", lambda x: x.sleep(0.5) and say(x))
    with own_redis() as server, running(gateway_env, postgres_url, server.url) as ledger:
        key_id, headers = ledger.new_key(WORDS)
        assert restarted_amid(ledger.gateway.port, headers, 400, server) == {200: 400}
        assert wait_until(lambda: len(ledger.rows(key_id=key_id, ending="completed")) == 400, PATIENCE_S)
        check_usage(ledger, key_id)
        assert wait_until(lambda: all_places_are_free(ledger, key_id, server.url), PATIENCE_S)
        assert wait_until(lambda: all_places_are_free(ledger, key_id), PATIENCE_S)  # where limits were held meanwhile


def test_a_postgresql_that_is_restarted_amid_a_burst_keeps_no_place_and_its_outage_ends_with_it(upstream, gateway_env):
    upstream.behave("test/burst", lambda x: x.sleep(0.5) and say(x))
    with postgres() as server, running(gateway_env, server.url) as ledger:
        key_id, headers = ledger.new_key(WORDS)
        assert asyncio.run(answered(ledger.gateway.port, headers, 1)) == {200: 1}  # the key is known now
        found = restarted_amid(ledger.gateway.port, headers, 400, server)
        ledger.store.close()  # the test's own connection is broken too
        assert set(found) <= {200, 503}
        assert found[200] >= 200
        assert wait_until(lambda: asyncio.run(answered(ledger.gateway.port, headers, 1)) == {200: 1}, PATIENCE_S)
        # Who was answered is a row, whenever it could be written.
        assert wait_until(lambda: len(ledger.rows(key_id=key_id, ending="completed")) == found[200] + 2, PATIENCE_S)
        assert not ledger.rows(key_id=key_id, ending=None)
        check_usage(ledger, key_id)
        assert wait_until(lambda: all_places_are_free(ledger, key_id), PATIENCE_S)
