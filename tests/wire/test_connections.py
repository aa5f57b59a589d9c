"""What one connection may cost the others, under real gunicorn: unread bodies, floods, slow heads, half requests."""

import json
import re
import ssl
import time

import pytest
import requests
from support.callers import connected
from support.dialects import NEW, V1, asking
from support.fronts import certificate_in
from support.gateways import keyed, serve
from support.heard import all_at_once, wait_until
from support.others import Others

KEY = "sk-test-connections"
OTHERS_WAIT_S = 1.5  # at most
CLOSED_WITHIN_S = 12.0  # a second of lingering, on a machine that other tests share
JSON = "Content-Type: application/json"
CHUNKED, ENDLESS = "Transfer-Encoding: chunked", "Content-Length: 99999999999"


@pytest.fixture(scope="module")
def gateway(gateway_env):
    with serve({**gateway_env, **keyed(KEY)}, "--keep-alive", "2") as running:
        yield running


def head(method, path, *lines, key=None):
    keyed = [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *keyed, *lines, "", ""]).encode()


# ---------------------------------------------------------------- bodies that nobody wants

ENDLESS_BODIES = {
    "no key": (head("POST", V1, JSON, ENDLESS), b"x" * 65_536, 401),
    "no key, tiny chunks": (head("POST", NEW, JSON, CHUNKED), b"1\r\nx\r\n" * 10_000, 401),
    "no such path": (head("POST", "/nowhere", ENDLESS), b"x" * 65_536, 404),
    "no such method": (head("DELETE", V1, ENDLESS), b"x" * 65_536, 405),
    "a page": (head("GET", "/docs", CHUNKED), b"1\r\nx\r\n" * 10_000, 200),
    "of absurd length": (head("POST", V1, JSON, ENDLESS, key=KEY), b"x" * 65_536, 413),
    "of tiny chunks": (head("POST", V1, JSON, CHUNKED, key=KEY), b"1\r\nx\r\n" * 10_000, 413),
    "of another type": (head("POST", NEW, "Content-Type: x/y", ENDLESS, key=KEY), b"x" * 65_536, 415),
}


@pytest.mark.parametrize("start, more, status", ENDLESS_BODIES.values(), ids=ENDLESS_BODIES)
def test_a_body_without_end_is_not_read_to_its_end(gateway, start, more, status):
    """Four callers at once; each is answered and, sending on, closed upon. Nobody else waits."""

    def send(_):
        began = time.monotonic()
        with connected(gateway) as sock:
            sock.sendall(start)
            with pytest.raises(OSError):
                while time.monotonic() - began < 2 * CLOSED_WITHIN_S:
                    sock.sendall(more)
        return time.monotonic() - began

    with Others(gateway, OTHERS_WAIT_S, small_calls=False):
        took = all_at_once(send, range(4))
    assert max(took.values()) < CLOSED_WITHIN_S


@pytest.mark.parametrize("start, more, status", ENDLESS_BODIES.values(), ids=ENDLESS_BODIES)
def test_who_sends_a_few_megabytes_too_many_sees_the_answer(gateway, start, more, status):
    with connected(gateway) as sock:
        sock.sendall(start)
        sock.sendall(more * (3_000_000 // len(more)))
        answer = sock.recv(65_536)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nX-Request-Id: " in answer
    if b"Content-Length" in start.partition(b"\r\n\r\n")[0]:
        assert b"\r\nConnection: close\r\n" in answer


# ---------------------------------------------------------------- requests that follow one another


def test_pipelined_requests_are_answered_in_order(upstream, gateway):
    body = json.dumps(asking(V1, "test/ok")).encode()
    call = head("POST", V1, JSON, f"Content-Length: {len(body)}", key=KEY) + body
    last = head("GET", "/healthz", "Connection: close")
    with connected(gateway) as sock:
        sock.sendall(call + head("GET", "/nowhere") + call + last)
        received = b""
        while data := sock.recv(65_536):
            received += data
    assert re.findall(rb"HTTP/1.1 (\d+) ", received) == [b"200", b"404", b"200", b"200"]
    assert received.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: "], ids=["silent", "half a head"])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
def test_a_connection_without_a_request_is_closed(gateway, begun, kept):
    """--keep-alive 2, looked at once a second."""
    with connected(gateway) as sock:
        if kept:
            sock.sendall(head("GET", "/healthz"))
            assert sock.recv(65_536).endswith(b'{"status":"ok"}')
        sock.sendall(begun)
        began = time.monotonic()
        assert sock.recv(1000) == b""
        assert 1 < time.monotonic() - began < 5


def test_a_head_that_dribbles_is_not_waited_for(gateway):
    with connected(gateway) as sock:
        began = time.monotonic()
        with pytest.raises(OSError):
            for byte in b"GET /healthz HTTP/1.1\r\nX-Slow: " + b"x" * 100:
                sock.sendall(bytes([byte]))
                time.sleep(0.1)
        assert time.monotonic() - began < 6


# ---------------------------------------------------------------- what is no HTTP


@pytest.mark.parametrize("path", [V1, "/v1", f"/{V1}/", NEW, "/v1x"])
def test_bad_http_is_refused_in_the_shape_of_its_route(gateway, path):
    with connected(gateway) as sock:
        sock.sendall(head("POST", path, "No colon"))
        answer = sock.recv(65_536)
        assert sock.recv(1000) == b""
    first, body = answer.partition(b"\r\n\r\n")[::2]
    error = json.loads(body)["error"]
    assert first.startswith(b"HTTP/1.1 400 ")
    assert f"\r\nX-Request-Id: {error['request_id']}\r\n".encode() in first
    if path in (V1, "/v1", f"/{V1}/"):
        assert json.loads(body) == {"error": error}
        assert set(error) == {"message", "type", "param", "code", "retryable", "request_id"}
    else:
        assert json.loads(body)["success"] is False
        assert set(error) == {"message", "code", "retryable", "request_id"}


# ---------------------------------------------------------------- TLS, where gunicorn itself speaks it


def test_gunicorns_own_tls_works_too(upstream, gateway_env, tmp_path):
    certificate = certificate_in(tmp_path)
    upstream.behave("tls/silent", "silent")
    context = ssl.create_default_context(cafile=str(certificate))
    body = json.dumps(asking(V1, "tls/silent")).encode()
    with serve(gateway_env, certificate=certificate) as gateway, requests.Session() as session:
        session.trust_env, session.verify = False, str(certificate)
        for _ in range(2):
            assert session.post(gateway.url + V1, json=asking(V1, "test/ok"), timeout=10).status_code == 200
        large = gateway.post(V1, data=b" " * 300_000, headers={"Content-Type": "application/json"})
        assert large.status_code == 413
        with connected(gateway) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(head("POST", V1, JSON, f"Content-Length: {len(body)}") + body)
            assert wait_until(lambda: upstream.calls_for("tls/silent"))
        [call] = upstream.calls_for("tls/silent")
        assert wait_until(lambda: call.client_closed_at)


def test_an_access_log_can_name_what_either_side_said(upstream, gateway_env):
    form = "told %(m)s %(U)s %(s)s %({x-request-id}i)s %({cache-control}o)s"
    with serve(gateway_env, "--access-logfile", "-", "--access-logformat", form) as running:
        for stream, kept in ((False, "no-store"), (True, "no-cache, no-store")):
            running.post(NEW, asking(NEW, "test/ok", stream=stream), headers={"X-Request-Id": f"asked-{stream}"})
            line = f"told POST {NEW} 200 asked-{stream} {kept}"
            assert wait_until(lambda line=line: line in running.log_text())
