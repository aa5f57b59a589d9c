"""Thousands of requests that nobody should send, and as many answers that no upstream should give, under real gunicorn.

Each case has a number, which a failure names. `pytest -m fuzz tests/wire/test_fuzz.py` runs 50,000 of each kind.
"""

import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

import psutil
import pytest
from support.callers import connected
from support.fuzzed_requests import request
from support.fuzzed_upstream import FuzzedUpstream, call, catalogue
from support.gateways import serve
from support.heard import wait_until
from support.mutations import pieces
from support.openai_schema import COMPLETION, COUNT, FINISH_REASONS, TEXT, check, check_stream, thing
from support.responses_schema import RESPONSE, check_events, events_of
from support.strict_http import Malformed, Reader

from chatapi.catalogue import ModelCard
from chatapi.chat import ChatJob
from chatapi.errors import ChatError
from chatapi.huggingface.models import Listing
from chatapi.huggingface.transport import Transport

PATIENCE_S = 60  # with the slowest answer, on a machine that other tests share
QUIET_S = 0.3  # after so long without an answer the caller says that nothing more comes
MOST_GROWTH_MB = 100
MOST_CPU_MS = 60  # of a case, on average
HOW_MANY = [2000, pytest.param(50_000, marks=pytest.mark.fuzz)]
LISTS = 150
LIMITS = {
    "CHATAPI_MAX_TIME": "3",
    "CHATAPI_IDLE_TIMEOUT": "0.5",
    "CHATAPI_HEARTBEAT": "0.3",
    "CHATAPI_FIRST_TOKEN_TIMEOUT": "1",
    "CHATAPI_REPLY_TIMEOUT": "1",
}


@pytest.fixture(scope="module")
def gateway(gateway_env):
    with serve(gateway_env | LIMITS, "--keep-alive", "5") as running:
        yield running


@pytest.fixture(scope="module")
def fuzzed_upstream():
    with FuzzedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway_of_it(gateway_env, fuzzed_upstream, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzzed") / "catalogue.toml"
    path.write_text(catalogue(fuzzed_upstream.url))
    own = {"HUGGINGFACE_BASE_URL": fuzzed_upstream.url, "CHATAPI_CATALOGUE": str(path)}
    with serve(gateway_env | LIMITS | own) as running:
        yield running


@pytest.mark.parametrize("count", HOW_MANY)
def test_no_request_makes_a_fault_of_ours(upstream, gateway, count):
    check_all(gateway, wrong_with_what_it_hears, count, side_by_side=12)


@pytest.mark.parametrize("count", HOW_MANY)
def test_no_answer_of_an_upstream_makes_a_fault_of_ours(gateway_of_it, count):
    check_all(gateway_of_it, wrong_with_what_it_makes_of_an_answer, count, side_by_side=64)


def test_no_model_list_makes_a_fault_of_ours(fuzzed_upstream):
    job = ChatJob(model="fuzz/1", messages=[{"role": "user", "content": "hi"}], options={"tools": [{}]})
    transport = Transport(None, "chatapi")
    for number in range(LISTS):
        listing = Listing(transport, f"{fuzzed_upstream.url}/{number}")
        with suppress(ChatError):
            listing.models()
            listing.check(ModelCard(id="fuzz/1"), job)
        assert all(isinstance(model["id"], str) for model in listing.models())
        json.dumps(listing.models(), allow_nan=False)
    transport.close()


# ---------------------------------------------------------------- all cases, and the worker afterwards


def check_all(gateway, wrong_with: Callable, count, side_by_side):
    """Every case of `count`, side by side; and what must hold of the worker afterwards."""
    [pid] = gateway.workers()
    worker = psutil.Process(pid)
    for number in range(50):  # caches, pools and the allocator reach their size
        wrong_with(gateway, number)
    before, began_s, began = worker.memory_info().rss, cpu_s(worker), time.monotonic()
    with ThreadPoolExecutor(side_by_side) as pool:
        outcomes = pool.map(lambda number: wrong_with(gateway, number), range(count))
        wrong = {number: said for number, said in enumerate(outcomes) if said}
    cpu_ms = (cpu_s(worker) - began_s) * 1000 / count
    growth_mb = (worker.memory_info().rss - before) / 1e6
    print(f"{count} in {time.monotonic() - began:.0f} s: {cpu_ms:.1f} ms of CPU each, {growth_mb:.0f} MB more")
    assert not wrong, f"{len(wrong)} cases: {dict(list(wrong.items())[:5])}"
    assert gateway.workers() == [pid], "a worker died"
    assert not re.search(r"Traceback|internal error|failed: ", gateway.log_text())
    assert growth_mb < MOST_GROWTH_MB
    assert cpu_ms < MOST_CPU_MS
    assert wait_until(lambda: open_streams(gateway) == 0, 20)


def cpu_s(process):
    times = process.cpu_times()
    return times.user + times.system


def open_streams(gateway):
    """Streams being sent, as the gateway counts them."""
    metrics = gateway.request("GET", "/metrics").text
    return sum(float(value) for value in re.findall(r"^chatapi_open_streams\S* (\S+)", metrics, re.M))


# ---------------------------------------------------------------- what callers hear


def wrong_with_what_it_hears(gateway, number):
    """Send the request of this number; what is wrong with what comes, in words, or None."""
    case = request(number)
    with connected(gateway, PATIENCE_S) as sock:
        with suppress(ConnectionError):  # it may be refused before all of it was there
            for piece in pieces(Random(number), case.data):
                sock.sendall(piece)
        try:
            return _wrong_with_the_answers(sock, Reader(sock), case)
        except (Malformed, ValueError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}"


def _wrong_with_the_answers(sock, reader, case):
    sock.settimeout(QUIET_S)
    try:
        answer = reader.answer(case.is_head)
    except TimeoutError:
        _say_no_more(sock)
        reader.rewind()
        answer = reader.answer(case.is_head)
    if answer is None:
        return None
    _say_no_more(sock)
    rest = reader.rest()
    if rest and not rest.startswith(b"HTTP/1.") and not case.is_head:
        return f"behind the answer: {rest[:200]!r}"
    return wrong_with(answer)


def _say_no_more(sock):
    sock.settimeout(PATIENCE_S)
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def wrong_with_what_it_makes_of_an_answer(gateway, number):
    """Ask for the upstream's answer of this number; what is wrong with what comes, in words, or None."""
    route, body = call(number)
    data = json.dumps(body)
    lines = [f"POST {route} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    with connected(gateway, PATIENCE_S) as sock:
        try:
            sock.sendall("\r\n".join([*lines, f"Content-Length: {len(data)}", "", data]).encode())
            answer = Reader(sock).answer()
            if answer is None or not answer.whole:
                return f"no whole answer: {answer}"
            return wrong_with(answer) or _wrong_with_the_form(route, body, answer)
        except (Malformed, ValueError, TimeoutError, OSError) as error:
            return f"{type(error).__name__}: {error}"


def wrong_with(answer):
    """What no answer may be, in words, or None. Raises ValueError for JSON that is none."""
    if "x-injected" in answer.headers:
        return "a header of the caller's own making"
    kind, said = answer.headers.get("content-type", ""), []
    if kind.startswith("text/event-stream"):
        said = [event for event in answer.events if isinstance(event, dict)]
    elif kind.startswith("application/json") and answer.body and answer.whole:
        said = [answer.json]
    codes = [code for one in said if (code := _code_of(one))]
    if "internal_error" in codes or (answer.status == 500 and not codes):
        return f"a fault of ours: {answer.status} {said[-1:]}"
    return None


def _code_of(said):
    if not isinstance(said, dict):
        return None
    error = said.get("error") or (said.get("response") or {}).get("error")
    return error.get("reason", error.get("code")) if isinstance(error, dict) else None


COUNTS = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), COUNT)
ENVELOPE = thing(
    {
        "success": {"const": True},
        "data": thing(
            {"response": TEXT, "model": TEXT, "usage": thing(COUNTS, closed=True)},
            {"finish_reason": {"enum": FINISH_REASONS}, "refusal": TEXT},
            closed=True,
        ),
    },
    closed=True,
)


def _wrong_with_the_form(route, body, answer):
    """What finished is what OpenAI says that it is, and what failed in mid-stream says so."""
    is_stream = answer.headers["content-type"].startswith("text/event-stream")
    try:
        if answer.status != 200:
            assert not is_stream
        elif route == "/v1/responses":
            check_events(events_of(answer.body)) if is_stream else check(RESPONSE, answer.json)
        elif not is_stream:
            check(COMPLETION if route.startswith("/v1") else ENVELOPE, answer.json)
        elif answer.events[-1] == "[DONE]":
            check_stream(answer.events[:-1], include_usage=route.startswith("/api"), n=body.get("n", 1))
        else:
            assert "error" in answer.events[-1], answer.events[-1]
    except AssertionError as error:
        return f"its form: {error}"
    return None
