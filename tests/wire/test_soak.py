"""Minutes of random faults under load: nothing leaks, and every call is accounted for.

CHATAPI_SOAK_S=60 pytest -m soak -s tests/wire/test_soak.py
"""

import os
import random
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing

import psutil
import pytest
import requests
from support.callers import Caller
from support.faults import FAULTS as TABLE
from support.gateways import entry, over, serve
from support.heard import DIALECTS, hear, records, wait_until
from support.upstream import Upstream

SECONDS = float(os.environ.get("CHATAPI_SOAK_S", "600"))
CALLERS, SEED = 40, 20
WARM_UP = 0.25  # of the time: caches, pools and the allocator reach their size
MOST_GROWTH = 12 * 1024 * 1024  # bytes of memory after the warm-up
HEALTHY = ["ok", "paced", "slow", "echo", "continue", "keepalive-then-ok", "utf8-split", "packed", "whole-for-stream"]
FAULTS = [*TABLE, *HEALTHY * 3]
LIMITS = {"MAX_TIME": 3, "FIRST_TOKEN_TIMEOUT": 0.6, "REPLY_TIMEOUT": 1, "IDLE_TIMEOUT": 0.5, "HEARTBEAT": 0.3}
pytestmark = pytest.mark.soak


def one_call(gateway, dice, number):
    """A call of any kind, left at any moment or heard to its end; its request id and what came of it."""
    route = dice.choice(list(DIALECTS.values()))
    stream, leaves = dice.random() < 0.7, dice.random() < 0.3
    # More models than circuits can ever be open at once, so that most calls reach the upstream.
    model = f"{dice.choice(('test', 'test', 'drain', 'prefill'))}/{dice.choice(FAULTS)}"
    fields = {"fallbacks": [f"prefill/{dice.choice(FAULTS)}", "test/ok"]} if dice.random() < 0.4 else {}
    if dice.random() < 0.2:
        fields["max_time"] = 1
    text = f"call {number}"
    if not leaves:
        heard = hear(gateway, route, model, text, {"X-Request-Id": text.replace(" ", "-")}, stream=stream, **fields)
        return heard.code or "answered"
    with Caller(gateway, route, model, stream=stream, text=text, **fields) as caller:
        caller.sock.settimeout(dice.random() * 1.5)
        try:
            for _ in range(dice.randrange(1, 6)):
                if not caller.sock.recv(dice.randrange(1, 800)):
                    break
        except (TimeoutError, ConnectionError):
            pass
        caller.leave(reset=dice.random() < 0.5)
    return "left"


def call_until(gateway, until, dice, counts, problems):
    number = 0
    while time.monotonic() < until:
        number += 1
        try:
            counts[one_call(gateway, dice, f"{dice.seed_name}-{number}")] += 1
        except (requests.RequestException, OSError, AssertionError, ValueError) as error:
            problems.append(repr(error))


class Dice(random.Random):
    """One caller's own, so that every run throws the same."""

    def __init__(self, number):
        super().__init__(SEED * 1000 + number)
        self.seed_name = str(number)


def measured(gateway):
    """The worker: sockets that are open, file descriptors, threads, bytes of memory."""
    worker = psutil.Process(gateway.workers()[0])
    sockets = Counter(c.status for c in worker.net_connections("tcp"))
    return {
        "sockets": sockets,
        "fds": worker.num_fds(),
        "threads": worker.num_threads(),
        "rss": worker.memory_info().rss,
    }


def test_nothing_leaks_and_every_call_is_accounted_for(tmp_path):
    with Upstream() as upstream:
        for name in FAULTS:
            upstream.behave(f"drain/{name}", name)
            upstream.behave(f"prefill/{name}", name)
        chat, names = 'task = "chat-completion"', sorted(set(FAULTS))
        entries = [entry(f"drain/{name}", chat, "drain_s = 1") for name in names]
        entries += [entry(f"prefill/{name}", chat, "prefill = true") for name in names]
        with serve(over(upstream, tmp_path, entries, **LIMITS)) as gateway:
            soak(gateway, upstream)


def soak(gateway, upstream):
    [worker] = gateway.workers()
    counts, problems, began = Counter(), [], time.monotonic()
    arguments = [(gateway, began + SECONDS, Dice(i), counts, problems) for i in range(CALLERS)]
    callers = [threading.Thread(target=call_until, args=args) for args in arguments]
    for caller in callers:
        caller.start()
    time.sleep(SECONDS * WARM_UP)
    warm = measured(gateway)
    forget_calls(upstream, callers)
    settled = wait_until(lambda: not busy(gateway), 10)
    cool = measured(gateway)
    told = [record for record in records(gateway) if record.get("model")]
    print(f"\n{sum(counts.values())} calls in {SECONDS:g} s: {dict(counts.most_common())}")
    print(f"endings: {dict(Counter(record['ending'] for record in told))}")
    print(f"when warm: {warm}\nat the end: {cool}; memory grew by {(cool['rss'] - warm['rss']) / 2**20:.1f} MB")
    assert problems == []
    assert gateway.workers() == [worker], "the same worker all the time"
    assert settled, "callers' sockets are still open"
    check_accounts(told, counts)
    check_ledger(gateway, told)
    assert cool["sockets"]["CLOSE_WAIT"] == 0
    assert cool["fds"] <= warm["fds"]
    assert cool["rss"] - warm["rss"] < MOST_GROWTH
    assert "Traceback" not in gateway.log_text()


def forget_calls(upstream, callers):
    """Wait for the end; the fault server keeps every call, which is its own leak and not ours."""
    while any(caller.is_alive() for caller in callers):
        time.sleep(1)
        del upstream.calls[:-1000]


def busy(gateway):
    """Whether the worker holds a caller's connection."""
    worker = psutil.Process(gateway.workers()[0])
    return any(c.laddr.port == gateway.port and c.raddr for c in worker.net_connections("tcp"))


def check_accounts(told, counts):
    """One line for each call: those who left may have done so before their request had been read."""
    ids = Counter(record["request_id"] for record in told)
    assert max(ids.values()) == 1
    heard = sum(number for what, number in counts.items() if what != "left")
    assert heard <= len(told) <= sum(counts.values())
    assert len([id for id in ids if id.startswith("call-")]) == heard
    assert len(told) - heard >= counts["left"] * 0.98
    assert {record["ending"] for record in told} <= ENDINGS


def check_ledger(gateway, told):
    """The ledger has the very calls that the log has, each with the same end, and the sums are theirs."""
    time.sleep(1)  # what has ended is in the database a moment later
    with closing(sqlite3.connect(gateway.log.parent / "cwd/instance/chatapi.db")) as ledger:
        columns = ", ".join(NOTED)
        rows = {row[0]: row for row in ledger.execute(f"SELECT {columns} FROM calls WHERE model IS NOT NULL")}
        sums = ledger.execute("SELECT sum(calls), sum(prompt_tokens), sum(completion_tokens) FROM usage").fetchone()
        calls = ledger.execute("SELECT count(*), sum(prompt_tokens), sum(completion_tokens) FROM calls").fetchone()
    assert rows == {record["request_id"]: tuple(record.get(name) for name in NOTED) for record in told}
    assert sums == calls


NOTED = ("request_id", "ending", "status", "code", "served", "attempts", "prompt_tokens", "completion_tokens")
NOTED += ("total_ms",)
ENDINGS = {"completed", "client_left", "upstream_cut", "deadline", "refused"}
