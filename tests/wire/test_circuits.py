"""The circuit under gunicorn, shared by two workers: what opens it, what does not, and what callers hear."""

import http.client
import json
import time
from contextlib import ExitStack, closing

import psutil
import pytest
from support.callers import Caller
from support.dialects import NEW, V1, asking
from support.gateways import entry, over, serve
from support.heard import all_at_once, hear, wait_until
from support.upstream import TEXT, say

from chatapi.engine.circuit import FAILURES, PROBE_EVERY_S

FIRST_TOKEN_S, REPLY_S = 1.2, 3.0
BROKEN = "body-empty"  # unavailable at once: no second attempt


@pytest.fixture(scope="module")
def gateway(upstream_server, tmp_path_factory):
    """Two workers."""
    own = entry("own/model", 'task = "chat-completion"', f'url = "{upstream_server.url}/at/own/model"')
    limits = {"MAX_TIME": 6, "FIRST_TOKEN_TIMEOUT": FIRST_TOKEN_S, "REPLY_TIMEOUT": REPLY_S, "IDLE_TIMEOUT": 0.5}
    with serve(over(upstream_server, tmp_path_factory.mktemp("circuit"), [own], **limits), "-w", "2") as running:
        wait_until(lambda: len(running.workers()) == 2)
        yield running


class Line:
    """A connection kept open: one worker's."""

    def __init__(self, gateway):
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        self.get("/healthz")
        mine = self.connection.sock.getsockname()[1]
        self.worker = next(pid for pid in gateway.workers() if mine in peers(pid))

    def close(self):
        self.connection.close()

    def get(self, path):
        self.connection.request("GET", path)
        return json.loads(self.connection.getresponse().read())

    def ask(self, model, **fields):
        body = json.dumps(asking(V1, model, **fields))
        began = time.monotonic()
        self.connection.request("POST", V1, body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read()), time.monotonic() - began


def peers(pid):
    return {c.raddr.port for c in psutil.Process(pid).net_connections("tcp") if c.raddr}


@pytest.fixture(scope="module")
def lines(gateway):
    """A connection to each worker."""
    with ExitStack() as stack:
        found = {}
        for _ in range(200):
            line = stack.enter_context(closing(Line(gateway)))
            found.setdefault(line.worker, line)
            if len(found) == 2:
                break
        yield [found[worker] for worker in gateway.workers()]


def break_it(upstream, lines, model, times=FAILURES):
    upstream.behave(model, BROKEN)
    for number in range(times):
        assert lines[number % 2].ask(model)[0] == 502


def answers(lines, model, **fields):
    """What either worker says."""
    return [line.ask(model, **fields) for line in lines]


def test_five_failures_anywhere_open_it_everywhere(upstream, lines):
    """Failed by turns; then left alone, its fallback in its place; one probe, whose success closes it."""
    break_it(upstream, lines, "shared/model")
    opened_at = time.monotonic()
    upstream.behave("shared/model", "ok")
    upstream.behave("shared/fallback", "ok")
    for status, headers, body, seconds in answers(lines, "shared/model"):
        assert (status, body["error"]["code"]) == (502, "upstream_unavailable")
        assert body["error"]["retryable"] is True
        assert 1 <= int(headers["Retry-After"]) <= PROBE_EVERY_S
        assert seconds < 0.5
    for status, headers, body, seconds in answers(lines, "shared/model", fallbacks=["shared/fallback"]):
        assert (status, body["model"], headers["X-Requested-Model"]) == (200, "shared/fallback", "shared/model")
        assert seconds < 1
    assert len(upstream.calls_for("shared/model")) == FAILURES, "left alone"
    for line in lines:
        shown = line.get("/readyz")["circuit"]["open"]
        assert shown["shared/model"]["failed_s_ago"] < PROBE_EVERY_S
    check_probe(upstream, lines, opened_at)


def check_probe(upstream, lines, opened_at):
    upstream.behave("shared/model", lambda x: (x.sleep(1), say(x)))
    time.sleep(max(0.0, opened_at + PROBE_EVERY_S + 0.1 - time.monotonic()))
    found = all_at_once(lambda line: line.ask("shared/model", fallbacks=["shared/fallback"]), lines)
    assert sorted(body["model"] for _, _, body, _ in found.values()) == ["shared/fallback", "shared/model"]
    assert len(upstream.calls_for("shared/model")) == FAILURES + 1, "one probe, the other went to the fallback"
    for line in lines:
        assert "shared/model" not in line.get("/readyz")["circuit"]["open"]
        assert line.ask("shared/model", fallbacks=["shared/fallback"])[2]["model"] == "shared/model"


def check_open(upstream, lines, model, is_open):
    upstream.behave(model, "ok")
    assert [status for status, *_ in answers(lines, model)] == [502 if is_open else 200] * 2


def test_the_same_id_on_a_server_of_its_own(upstream, lines):
    break_it(upstream, lines, "own/model")
    assert list(lines[0].get("/readyz")["circuit"]["open"]) == ["own/model"], "its server is told to those with a key"


def after(seconds):
    return lambda x: (x.sleep(seconds), say(x))


def on_and_on(x):
    say(x, [f"tok{i} " for i in range(100)], pause=0.05)


STREAM = {"stream": True}
# What an upstream does, what its callers ask, and whether five of them open the circuit.
COUNTED = {
    "cut": ("cut", STREAM, True),
    "reset": ("reset-mid", STREAM, True),
    "an error amid tokens": ("error-then-done", STREAM, True),
    "a stall": ("stall-after-3", STREAM, True),
    "no finish": ("eof-no-finish", STREAM, True),
    "silence within the limits of the operator": ("silent", STREAM, True),
    "silence within a limit that fallbacks bring in": (
        "silent",
        {**STREAM, "fallbacks": ["test/ok"]},
        False,
    ),
    "a first token that comes after the caller's limit": (after(1.5), {**STREAM, "max_time": 1}, False),
    "healthy tokens that go on after it": (on_and_on, {**STREAM, "max_time": 2}, False),
    "a whole answer that takes longer, as it may": (after(2.6), {"max_time": 2}, False),  # up to REPLY_S
    **{
        f"a refusal, {fault}": (fault, {}, False)
        for fault in (
            *("gone", "gated", "loading", "content-filter", "context-length", "err-validation", "err-depleted"),
            *("err-ratelimit", "err-bad-token", "body-list-error"),
        )
    },
}


@pytest.mark.parametrize("why", COUNTED)
def test_what_counts_as_a_failure(upstream, gateway, lines, why):
    behaviour, fields, opens = COUNTED[why]
    model = f"counted/{list(COUNTED).index(why)}"
    upstream.behave(model, behaviour)
    found = all_at_once(lambda _: hear(gateway, NEW, model, **fields), range(FAILURES + (not opens)))
    if "max_time" in fields:
        assert {heard.code for heard in found.values()} == {"upstream_timeout"}
    check_open(upstream, lines, model, opens)


LEAVING = [("silent", True), ("stall-after-3", True), ("slow", True), ("headers-only", True)]
LEAVING += [("silent", False), ("headers-only", False)]
READ = {"stall-after-3": b" from", "slow": b"tok3"}


@pytest.mark.parametrize("fault, stream", LEAVING)
def test_a_caller_who_left_counts_as_none(upstream, gateway, lines, fault, stream):
    model = f"left-{'stream' if stream else 'whole'}/{fault}"
    upstream.behave(model, fault)

    def leave(_):
        with Caller(gateway, NEW, model, stream=stream) as caller:
            caller.read_until(READ[fault]) if fault in READ else time.sleep(0.15)

    all_at_once(leave, range(FAILURES + 1))
    assert wait_until(lambda: all(call.client_closed_at for call in upstream.calls_for(model)))
    check_open(upstream, lines, model, False)


def test_a_rescue_knows_of_the_circuit(upstream, gateway, lines):
    """A stream that breaks goes on with a model that is well, past one whose circuit is open."""
    break_it(upstream, lines, "ill/second")
    upstream.behave("well/first", "cut")
    upstream.behave("well/third", "ok")
    heard = hear(gateway, NEW, "well/first", stream=True, fallbacks=["ill/second", "well/third"])
    assert (heard.text, heard.told.done, heard.models) == (TEXT, True, ["well/first", "well/third"])
    assert len(upstream.calls_for("ill/second")) == FAILURES
