"""The circuit under gunicorn, shared by two workers: what opens it, what does not, and what callers hear."""

import http.client
import json
import time
from contextlib import ExitStack, closing

import psutil
import pytest
from support.callers import Caller
from support.dialects import NEW, V1, asking
from support.gateways import entry, serve
from support.heard import all_at_once, hear, wait_until
from support.upstream import TEXT, say

from chatapi.engine.circuit import FAILURES, PROBE_EVERY_S

FIRST_TOKEN_S, REPLY_S = 1.2, 3.0
BROKEN = "body-empty"  # unavailable at once: no second attempt


@pytest.fixture(scope="module")
def gateway(upstream_server, tmp_path_factory):
    """Two workers."""
    catalogue = tmp_path_factory.mktemp("circuit") / "catalogue.toml"
    url = f"{upstream_server.url}/at/own/model"
    catalogue.write_text(entry("own/model", 'task = "chat-completion"', f'url = "{url}"'))
    env = {
        "HUGGINGFACE_API_KEY": "hf_test",
        "HUGGINGFACE_BASE_URL": upstream_server.url,
        "CHATAPI_CATALOGUE": str(catalogue),
        "CHATAPI_MAX_TIME": "6",
        "CHATAPI_FIRST_TOKEN_TIMEOUT": f"{FIRST_TOKEN_S:g}",
        "CHATAPI_REPLY_TIMEOUT": f"{REPLY_S:g}",
        "CHATAPI_IDLE_TIMEOUT": "0.5",
    }
    with serve(env, "-w", "2") as running:
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


def check_closed(upstream, lines, model):
    upstream.behave(model, "ok")
    for status, _, body, _ in answers(lines, model):
        assert status == 200, body


def check_open(upstream, lines, model):
    upstream.behave(model, "ok")
    assert [status for status, *_ in answers(lines, model)] == [502, 502]


def test_the_same_id_on_a_server_of_its_own(upstream, lines):
    break_it(upstream, lines, "own/model")
    assert list(lines[0].get("/readyz")["circuit"]["open"]) == ["own/model"], "its server is told to those with a key"


COUNTING = ["cut", "reset-mid", "error-then-done", "stall-after-3", "eof-no-finish"]
NOT_COUNTING = ["gone", "gated", "loading", "content-filter", "context-length", "err-validation", "err-depleted"]
NOT_COUNTING += ["err-ratelimit", "err-bad-token", "body-list-error"]


@pytest.mark.parametrize("fault", COUNTING)
def test_a_stream_that_breaks_counts(upstream, gateway, lines, fault):
    upstream.behave(f"counts/{fault}", fault)
    all_at_once(lambda _: hear(gateway, NEW, f"counts/{fault}", stream=True), range(FAILURES))
    check_open(upstream, lines, f"counts/{fault}")


@pytest.mark.parametrize("fault", NOT_COUNTING)
def test_a_refusal_is_no_illness(upstream, gateway, lines, fault):
    upstream.behave(f"refuses/{fault}", fault)
    all_at_once(lambda _: hear(gateway, NEW, f"refuses/{fault}"), range(FAILURES + 1))
    check_closed(upstream, lines, f"refuses/{fault}")


LEAVING = {"silent": None, "stall-after-3": b" from", "slow": b"tok3", "headers-only": None}


@pytest.mark.parametrize("fault", LEAVING)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_caller_who_left_counts_as_none(upstream, gateway, lines, fault, stream):
    model = f"left-{'stream' if stream else 'whole'}/{fault}"
    upstream.behave(model, fault)
    if not stream and LEAVING[fault]:
        upstream.behave(model, "silent")

    def leave(_):
        with Caller(gateway, NEW, model, stream=stream) as caller:
            if stream and LEAVING[fault]:
                caller.read_until(LEAVING[fault])
            else:
                time.sleep(0.15)

    all_at_once(leave, range(FAILURES + 1))
    assert wait_until(lambda: all(call.client_closed_at for call in upstream.calls_for(model)))
    check_closed(upstream, lines, model)


# What an upstream does (its model says why it is well), the caller's patience, and whether for a stream.
HURRIED = {
    "a first token that comes later": (lambda x: (x.sleep(1.5), say(x)), 1, True),
    "healthy tokens that go on": (lambda x: say(x, [f"tok{i} " for i in range(100)], pause=0.05), 2, True),
    "a whole answer that takes its time": (lambda x: (x.sleep(2.6), say(x)), 2, False),  # it may take REPLY_S
}


@pytest.mark.parametrize("why", HURRIED)
def test_a_caller_in_a_hurry_counts_as_none(upstream, gateway, lines, why):
    behaviour, max_time, stream = HURRIED[why]
    model = f"hurry/{why.replace(' ', '-')}"
    upstream.behave(model, behaviour)
    found = all_at_once(lambda _: hear(gateway, NEW, model, max_time=max_time, stream=stream), range(FAILURES + 1))
    assert {heard.code for heard in found.values()} == {"upstream_timeout"}
    check_closed(upstream, lines, model)


def test_silence_within_the_limits_of_the_operator_counts(upstream, gateway, lines):
    upstream.behave("ill/silent", "silent")
    all_at_once(lambda _: hear(gateway, NEW, "ill/silent", stream=True), range(FAILURES))
    check_open(upstream, lines, "ill/silent")


def test_a_limit_that_the_callers_own_fallbacks_brought_in_shows_nothing(upstream, gateway, lines):
    upstream.behave("well/slow", "silent")
    all_at_once(lambda _: hear(gateway, NEW, "well/slow", stream=True, fallbacks=["test/ok"]), range(FAILURES))
    check_closed(upstream, lines, "well/slow")


def test_a_rescue_knows_of_the_circuit(upstream, gateway, lines):
    """A stream that breaks goes on with a model that is well, past one whose circuit is open."""
    break_it(upstream, lines, "ill/second")
    upstream.behave("well/first", "cut")
    upstream.behave("well/third", "ok")
    heard = hear(gateway, NEW, "well/first", stream=True, fallbacks=["ill/second", "well/third"])
    assert (heard.text, heard.told.done, heard.models) == (TEXT, True, ["well/first", "well/third"])
    assert len(upstream.calls_for("ill/second")) == FAILURES
