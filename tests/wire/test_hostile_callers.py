"""Callers who hold what others need: who never read, who dribble bodies, who ask for silences. Within their limits."""

import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from support.callers import Caller
from support.dialects import NEW, RESPONSES, V1, asking
from support.gateways import serve
from support.heard import all_at_once, wait_until
from support.upstream import say

from chatapi.accounting.keys import Keys
from chatapi.accounting.store import Store
from chatapi.caller import Limits

MAX_TIME_S = 3
FEW_S = 6  # beyond that, on a machine that other tests share
OTHERS_WAIT_S = 1.5
LARGE = 8 * 1024 * 1024  # bytes: more than the sockets on the way take


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('held')}/chatapi.db"


@pytest.fixture(scope="module")
def gateway(gateway_env, url):
    own = {"CHATAPI_MAX_TIME": str(MAX_TIME_S), "CHATAPI_IDLE_TIMEOUT": "2", "CHATAPI_AUTH": "required"}
    with serve({**gateway_env, **own, "DATABASE_URL": url}) as running:
        yield running


@pytest.fixture
def new_key(gateway, url):
    with ExitStack() as stack:

        def create(words):
            store = Store(url)
            stack.callback(store.close)
            return Keys(store).create("a caller", Limits.parse(words), (), None)[1]

        yield create


SENT_UNREAD = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])  # bytes that a socket takes at most


def endless(x):
    x.start_stream()
    while True:
        x.event({"choices": [{"index": 0, "delta": {"content": "y" * 2000}, "finish_reason": None}]})


def large(x):
    message = {"role": "assistant", "content": "z" * LARGE}
    x.send_json(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def status_for(gateway, key, path="/v1/chat/completions"):
    return gateway.post(path, asking(V1, "test/ok"), headers={"Authorization": f"Bearer {key}"}).status_code


NEVER_READ = {
    "a stream": (V1, True, endless),
    "an envelope's stream": (NEW, True, endless),
    "typed events": (RESPONSES, True, endless),
    "a whole answer": (V1, False, large),
    "a whole envelope": (NEW, False, large),
    "a whole response": (RESPONSES, False, large),
    "a stream of one chunk": (V1, True, large),
}


def test_who_never_reads_is_left_at_the_deadline_and_has_a_place_until_then(upstream, gateway, new_key):
    keys = {name: new_key("concurrency=2") for name in NEVER_READ}

    def outcome(name):
        """When two who never read have given back their places, in seconds since they called."""
        route, stream, behaviour = NEVER_READ[name]
        model, key = f"unread/{list(NEVER_READ).index(name)}", keys[name]
        upstream.behave(model, behaviour)
        began = time.monotonic()
        callers = [Caller(gateway, route, model, stream=stream, receive_buffer=4096, key=key) for _ in range(2)]
        try:
            calls = upstream.wait_for(lambda: len(upstream.calls_for(model)) == 2 and upstream.calls_for(model))
            upstream.wait_for(lambda: behaviour is endless or all(call.finished for call in calls))
            while status_for(gateway, key) == 429:
                time.sleep(0.1)
            freed_s = time.monotonic() - began
            closed = behaviour is large or wait_until(lambda: all(call.client_closed_at for call in calls))
            return freed_s, closed
        finally:
            for caller in callers:
                caller.leave()

    for name, (freed_s, closed) in all_at_once(outcome, tuple(NEVER_READ)).items():
        assert MAX_TIME_S < freed_s < MAX_TIME_S + FEW_S, name
        assert closed, name


def test_who_reads_a_large_answer_finds_the_place_free_and_the_call_in_the_ledger(upstream, gateway, new_key):
    upstream.behave("read/whole", large)
    key = new_key("concurrency=1")
    for _ in range(3):
        answer = gateway.post(V1, asking(V1, "read/whole"), headers={"Authorization": f"Bearer {key}"})
        assert len(answer.json()["choices"][0]["message"]["content"]) == LARGE
    [row] = gateway.request("GET", "/v1/usage", headers={"Authorization": f"Bearer {key}"}).json()["data"]
    assert (row["calls"], row["endings"]) == (3, {"completed": 3})


def test_twenty_who_never_read_cost_bounded_memory(upstream, gateway, new_key):
    upstream.behave("unread/many", endless)
    worker = psutil.Process(gateway.workers()[0])
    key, before = new_key("concurrency=20"), worker.memory_info().rss
    with ExitStack() as stack:
        for _ in range(20):
            caller = Caller(gateway, V1, "unread/many", receive_buffer=4096, key=key)
            stack.callback(caller.leave)
        upstream.wait_for(lambda: len(upstream.calls_for("unread/many")) == 20)
        time.sleep(1)
        # What was sent is kept, to be counted: as much as the system takes for a caller, and what waits behind it.
        assert worker.memory_info().rss - before < 20 * (SENT_UNREAD + 1e6)
    assert wait_until(lambda: status_for(gateway, key) == 200, MAX_TIME_S + FEW_S)


@contextmanager
def dribbling(gateway, key, number):
    """So many callers amid a body that comes a byte at a time: the sockets of those who are not answered."""
    head = f"POST {V1} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    with ExitStack() as stack:
        callers = [Caller.raw(gateway, f"{head}Content-Length: 5000\r\n\r\n{{".encode()) for _ in range(number)]
        for caller in callers:
            stack.callback(caller.leave)
        yield callers


def test_bodies_under_way_have_places_and_a_deadline(upstream, gateway, new_key):
    key, another = new_key("concurrency=2"), new_key("")
    began = time.monotonic()
    with dribbling(gateway, key, 12) as callers:
        lines = all_at_once(lambda caller: caller.first_line(1.0), callers)
        refused = [caller for caller, line in lines.items() if b" 429 " in line]
        assert len(refused) == 10
        reading = [caller for caller in callers if caller not in refused]
        while time.monotonic() < began + MAX_TIME_S - 1:
            asked_at = time.monotonic()
            assert status_for(gateway, another) == 200
            assert gateway.request("GET", "/healthz").status_code == 200
            assert time.monotonic() - asked_at < OTHERS_WAIT_S
            for caller in reading:
                with suppress(ConnectionError):
                    caller.sock.sendall(b" ")
            time.sleep(0.2)
        assert all(b" 400 " in caller.first_line(MAX_TIME_S + FEW_S) for caller in reading)
    assert wait_until(lambda: status_for(gateway, key) == 200)


def test_bodies_under_way_and_what_is_invalid_count_as_requests(gateway, new_key):
    key = new_key("rpm=4")
    headers = {"Authorization": f"Bearer {key}"}
    with dribbling(gateway, key, 2) as callers:
        assert [caller.first_line(0.5) for caller in callers] == [b"", b""]
        assert gateway.post(V1, {}, headers=headers).status_code == 400
        assert gateway.post(V1, data=b"{", headers=headers | {"Content-Type": "application/json"}).status_code == 400
        assert status_for(gateway, key) == 429


@pytest.mark.parametrize("query", ["silence_s=2.5", "events=2&every_s=1.7"])
def test_a_probe_has_a_place_and_gives_it_back_to_who_leaves(gateway, new_key, query):
    headers = {"Authorization": f"Bearer {(key := new_key('concurrency=2'))}"}
    head = f"GET /v1/probe?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    callers = [Caller.raw(gateway, head) for _ in range(2)]
    assert wait_until(lambda: status_for(gateway, key) == 429)
    answer = gateway.request("GET", "/v1/probe", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
    for caller in callers:
        caller.leave()
    assert wait_until(lambda: status_for(gateway, key) == 200, 2)


def test_what_one_key_makes_fail_is_shut_for_that_key_alone(upstream, gateway, new_key):
    """A server that breaks down at what the one sends, in words that anybody may send, serves the other."""
    mean, other = new_key(""), new_key("")
    upstream.behave("broken/by-words", lambda x: x.reset() if "crash" in str(x.body["messages"]) else say(x))

    def ask(key, text):
        body = asking(V1, "broken/by-words", text)
        return gateway.post(V1, body, headers={"Authorization": f"Bearer {key}"})

    while "left alone" not in (answer := ask(mean, "crash")).text:
        assert answer.status_code == 502
    assert ask(other, "hello").status_code == 200
    assert ask(mean, "hello").status_code == 200, "and what another has seen answer is open for all"
