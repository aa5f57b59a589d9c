"""Streams over real gunicorn and real sockets: as they come, heartbeats, and callers who are slow, many, or gone."""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from support.callers import Caller, choices, connected, http_request, take_apart
from support.dialects import NEW, RESPONSES, ROUTES, asking
from support.gateways import serve, side_by_side
from support.heard import Heard, check_one_answer, records_of, wait_until
from support.upstream import PIECES, RST_ON_CLOSE, TEXT, say, script, stepwise, whole

# What becomes of each behaviour, be it well or ill, is in test_reliability.

PACED = "".join(f"tok{i} " for i in range(20))


def check_stream(body, model, text=TEXT):
    """A whole stream of one model's; taken apart."""
    heard = Heard(200, {"Content-Type": "text/event-stream"}, body, 0)
    check_one_answer(heard, text)
    assert heard.models == [model]
    return heard.told


@pytest.fixture(scope="module")
def patient(gateway_env):
    """A gateway whose first heartbeat comes long after every fault: the status is held for the first event."""
    with serve({**gateway_env, "CHATAPI_HEARTBEAT": "20", "CHATAPI_MAX_TIME": "20"}) as running:
        yield running


@pytest.mark.parametrize("route", ROUTES)
def test_hf_inference_answers_in_one_piece(upstream, gateway, route):
    upstream.behave("classic/any", "ok")
    answer = gateway.post(route, asking(route, "classic/any", stream=True))
    told = check_stream(answer.content, "classic/any")
    assert len(told.chunks) == 3
    assert "stream" not in upstream.calls_for("classic/any")[0].body


@pytest.mark.parametrize("route", ROUTES)
def test_tgi_is_asked_for_a_stream(upstream, gateway, route):
    answer = gateway.post(route, asking(route, "tgi/ok", stream=True))
    told = check_stream(answer.content, "tgi/ok")
    assert [c["delta"]["content"] for c in choices(told) if c["delta"].get("content")] == list(PIECES)
    assert upstream.calls_for("test/ok")[0].path == "/at/test/ok/generate_stream"


# ---------------------------------------------------------------- as it comes


@pytest.mark.parametrize("model", ["test/ok", "tgi/ok"])
@pytest.mark.parametrize("route", [*ROUTES, RESPONSES])
def test_each_chunk_is_relayed_when_it_comes(upstream, gateway, route, model):
    steps = threading.Semaphore(0)
    upstream.behave("test/ok", stepwise(steps))
    with Caller(gateway, route, model) as caller:
        for piece in PIECES:
            steps.release()
            caller.read_until(f'"{"delta" if route == RESPONSES else "content"}":"{piece}"'.encode())
            assert upstream.calls_for("test/ok")[0].finished is False
        assert b'"finish_reason":"stop"' not in caller.received and b"response.completed" not in caller.received
        steps.release(10)
        check_stream(caller.body(), model)


def test_the_status_waits_for_the_first_event(upstream, patient):
    steps = threading.Semaphore(0)
    upstream.behave("test/ok", stepwise(steps))
    with Caller(patient, NEW, "test/ok") as caller:
        upstream.wait_for(lambda: upstream.calls_for("test/ok"))
        caller.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            caller.sock.recv(1)
        caller.sock.settimeout(5)
        steps.release(10)
        check_stream(caller.body(), "test/ok")


def test_what_comes_after_the_answer_is_not_waited_for(upstream, gateway):
    """A finish without [DONE] and without an end ends soon; [DONE] without an end ends at once."""

    def lingering(x):
        x.start_stream()
        for item in script(x).whole()[: None if x.model == "test/with-done" else -1]:
            x.event(item)
        x.sleep(30)

    for model, limit in (("test/with-done", 1.9), ("test/without-done", 8)):
        upstream.behave(model, lingering)
        began = time.monotonic()
        answer = gateway.post(NEW, asking(NEW, model, stream=True))
        check_stream(answer.content, model)
        assert time.monotonic() - began < limit


def test_a_connection_serves_stream_after_stream(upstream, gateway):
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)) as connection:
        for stream in (True, False, True, True):
            body = json.dumps(asking(NEW, "test/ok", stream=stream))
            connection.request("POST", NEW, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, answer.version) == (200, 11)
            assert bool(answer.read()) and not answer.will_close


@pytest.mark.parametrize("streams", [(False, False), (True, True), (False, True)])
def test_requests_sent_at_once_on_one_connection(upstream, gateway, streams):
    """A pipelining client is there: its next request's bytes are not taken for its leaving."""
    upstream.behave("test/late", lambda x: (x.sleep(0.3), say(x)))
    with connected(gateway) as sock:
        sock.sendall(b"".join(http_request(NEW, asking(NEW, "test/late", stream=s)) for s in streams))
        received = b""
        while received.count(b'"total_tokens"') < 2:
            data = sock.recv(65_536)
            assert data, received
            received += data
    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_an_old_client_gets_a_stream_that_ends_with_its_connection(upstream, gateway):
    with connected(gateway) as sock:
        sock.sendall(http_request(NEW, asking(NEW, "test/ok", stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        received = b""
        while data := sock.recv(65_536):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    check_stream(body, "test/ok")


# ---------------------------------------------------------------- heartbeats


@pytest.fixture(scope="module")
def beating(gateway_env):
    with serve({**gateway_env, "CHATAPI_HEARTBEAT": "0.2", "CHATAPI_IDLE_TIMEOUT": "20"}) as running:
        yield running


def pausing(before, between):
    def behaviour(x):
        x.sleep(before)
        if not x.stream:
            return whole(x)
        events = script(x).whole()
        x.start_stream()
        x.event(events[0])
        x.sleep(between)
        for item in events[1:]:
            x.event(item)
        return x.end()

    return behaviour


def comments_and_chunks(body):
    """`:` for each comment, `.` for each event, in their order."""
    return "".join(":" if event.startswith(b":") else "." for event in body.strip().split(b"\n\n"))


@pytest.mark.parametrize("model", ["test/ok", "tgi/ok", "classic/any"])
def test_heartbeats(upstream, beating, model):
    name = "test/ok" if model == "tgi/ok" else model
    upstream.behave(name, pausing(0.7, 0.7))
    callers = [Caller(beating, route, model) for route in ROUTES]
    for caller in callers:
        caller.read_until(b": ")
        assert b"200 OK" in caller.received
    assert [call.status for call in upstream.calls_for(name)] == [None, None], "before the upstream's own status"
    for caller in callers:
        with caller:
            body = caller.body()
        told = check_stream(body, model)
        seen = comments_and_chunks(body)
        first = seen.index(".")
        assert 2 <= first <= 6
        if model != "classic/any":
            assert 2 <= seen[first:].count(":") <= 6
            assert seen[first + 1 : first + 3] == "::", "in the silence after the first token"
        assert all(comment.strip() for comment in told.comments)


def test_an_alias_is_named_also_when_the_status_goes_out_early(upstream, beating):
    upstream.behave("test/ok", pausing(0.5, 0))
    answer = beating.post(NEW, asking(NEW, "old/retired", stream=True))
    assert check_stream(answer.content, "test/ok").comments
    assert answer.headers["X-Requested-Model"] == "old/retired"


def test_a_silence_between_tokens_is_none_of_our_time(upstream, beating):
    upstream.behave("test/ok", pausing(0, 0.7))
    answer = beating.post(NEW, asking(NEW, "test/ok", stream=True))
    assert check_stream(answer.content, "test/ok").comments
    [record] = wait_until(lambda: records_of(beating, answer.headers["X-Request-Id"]))
    assert f"gateway;dur={record['gateway_ms']:.1f}" in answer.headers["Server-Timing"]


def test_no_heartbeat_while_tokens_flow(upstream, beating):
    answer = beating.post(NEW, asking(NEW, "test/paced", stream=True))
    assert take_apart(answer.content).comments == []


def test_heartbeats_while_waiting_for_the_next_attempt(upstream, beating):
    answer = beating.post(NEW, asking(NEW, "test/rate-retry-after-once", stream=True))
    told = check_stream(answer.content, "test/rate-retry-after-once")
    assert len(told.comments) >= 3


# ---------------------------------------------------------------- callers who leave: in every phase, in test_endings

PROMPTLY_S = 1.0  # the contract says 250 ms; a loaded test machine is given more


def check_serves_on(upstream, gateway, workers, log):
    for stream in (False, True):
        assert gateway.post(NEW, asking(NEW, "test/ok", stream=stream)).ok
    assert gateway.workers() == workers
    assert "Traceback" not in gateway.log_text()[log:]


def test_one_who_leaves_disturbs_nobody_else(upstream, gateway):
    """Others' streams share the worker, and the connections to the upstream."""
    with ThreadPoolExecutor(10) as pool:
        others = [pool.submit(gateway.post, NEW, asking(NEW, "test/paced", stream=True)) for _ in range(10)]
        for i in range(20):
            with Caller(gateway, NEW, "test/slow") as caller:
                caller.read_until(b"tok0")
                caller.leave(reset=bool(i % 2))
    for other in others:
        check_stream(other.result().content, "test/paced", PACED)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_caller_who_leaves_while_sending(upstream, gateway, reset):
    workers, log = gateway.workers(), len(gateway.log_text())
    request = http_request(NEW, asking(NEW, "test/ok"))
    for sent in (request[:30], request[:-10], chunked_request(request)[:-15]):
        sock = socket.create_connection(("127.0.0.1", gateway.port))
        sock.sendall(sent)
        time.sleep(0.05)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        sock.close()
    check_serves_on(upstream, gateway, workers, log)
    assert len(upstream.calls_for("test/ok")) == 2, "only the checks' own"


def chunked_request(request):
    head, _, body = request.partition(b"\r\n\r\n")
    head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))
    return head + b"\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


# ---------------------------------------------------------------- many, and slow


def test_fifty_streams_on_one_worker(upstream, gateway):
    began = time.monotonic()
    ask = [(ROUTES[i % 2], ("test/paced", "tgi/paced")[i // 2 % 2], i) for i in range(50)]
    found = side_by_side(lambda route, model, _: gateway.post(route, asking(route, model, stream=True)), ask)
    for (_, model, _), answer in found.items():
        check_stream(answer.content, model, PACED)
    assert len({take_apart(answer.content).chunks[0]["id"] for answer in found.values()}) == 50
    assert time.monotonic() - began < 15, "side by side: one after the other they take 50 s"
    assert len(gateway.workers()) == 1


PARTS = [f"{i:04}:" + "x" * 2000 for i in range(4000)]  # 8 MB: more than the sockets' buffers hold


def test_a_slow_reader_loses_nothing(upstream, gateway):
    """It pauses longer than the idle limit: that is about the upstream's silence, not the caller's."""
    upstream.behave("test/big", lambda x: say(x, PARTS))
    with Caller(gateway, NEW, "test/big", receive_buffer=4096) as caller:
        caller.read_until(b"0003:")
        time.sleep(1.5)
        check_stream(caller.body(), "test/big", "".join(PARTS))


def test_a_reader_who_stops_reading_and_leaves(upstream, gateway):
    workers, log = gateway.workers(), len(gateway.log_text())
    upstream.behave("test/endless", lambda x: say(x, PARTS * 10))
    with Caller(gateway, NEW, "test/endless", receive_buffer=4096) as caller:
        caller.read_until(b"0003:")
        time.sleep(0.3)
        caller.leave()
    [call] = upstream.calls_for("test/endless")
    upstream.wait_for(lambda: call.client_closed_at, PROMPTLY_S)
    assert not call.finished
    check_serves_on(upstream, gateway, workers, log)
