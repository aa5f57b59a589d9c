"""deploy/nginx.conf as it ships, in a real nginx before a real gunicorn: only addresses and the certificate change."""

import http.client
import io
import json
import re
import socket
import ssl
import threading
from contextlib import closing, contextmanager

import pytest
import requests
from support.callers import Caller, take_apart
from support.dialects import LEGACY, NEW, V1, asking
from support.fronts import CONF, certificate_in, front, shipped, socket_path
from support.gateways import free_port, serve
from support.heard import all_at_once, hear, wait_until
from support.servers import needs, nginx_check
from support.upstream import PIECES, TEXT, say, stepwise

from chatapi.operations.worker import IDLE_S

MB = 1_000_000


# ---------------------------------------------------------------- before a gateway


@pytest.fixture(scope="module")
def env(gateway_env):
    """The gateway with production's limit of a body."""
    return {name: value for name, value in gateway_env.items() if name != "CHATAPI_MAX_BODY"} | {"CHATAPI_AUTH": "off"}


@pytest.fixture(scope="module")
def fronted(env):
    needs("nginx")
    with socket_path() as path, serve(env, "-b", f"unix:{path}"), front(path) as running:
        yield running


@pytest.mark.parametrize("route", [LEGACY, NEW, V1])
def test_a_whole_answer(upstream, fronted, route):
    heard = hear(fronted, route, "test/ok")
    assert (heard.status, heard.text) == (200, TEXT)
    assert "nginx/" not in heard.headers["Server"]
    assert heard.headers["X-Request-Id"]


def test_a_stream_arrives_piece_by_piece(upstream, fronted):
    """The upstream says each piece only when the caller has read the one before."""
    steps = threading.Semaphore(0)
    upstream.behave("nginx/stepwise", stepwise(steps))
    with Caller(fronted, V1, "nginx/stepwise") as caller:
        for piece in PIECES:
            steps.release()
            caller.read_until(json.dumps(piece).encode())
        steps.release(10)
        assert take_apart(caller.body()).done


def test_a_caller_who_leaves_ends_the_upstreams_call(upstream, fronted):
    upstream.behave("nginx/endless", lambda x: say(x, [f"tok{i} " for i in range(400)], pause=0.05))
    with Caller(fronted, V1, "nginx/endless") as caller:
        caller.read_until(b"tok3")
    upstream.behave("nginx/silent", "silent")
    with Caller(fronted, V1, "nginx/silent", stream=False):
        assert wait_until(lambda: upstream.calls_for("nginx/silent"))
    for model in ("nginx/endless", "nginx/silent"):
        [call] = upstream.calls_for(model)
        assert wait_until(lambda call=call: call.client_closed_at)
        assert not call.finished


def test_a_caller_who_leaves_before_the_body_is_whole_is_not_passed_on(upstream, fronted):
    upstream.behave("nginx/half", "ok")
    body = json.dumps(asking(V1, "nginx/half")).encode()
    head = f"POST {V1} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", fronted.port), timeout=10)) as caller:
        caller.sendall(head.encode() + body[:-5])
    assert hear(fronted, V1, "test/ok").status == 200
    assert upstream.calls_for("nginx/half") == []


# ---------------------------------------------------------------- what is too large


def check_error(answer, route, code):
    """The route's shape of an error, from whoever answered."""
    assert answer.headers["Content-Type"] == "application/json"
    told = answer.json()
    error = told["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == answer.headers["X-Request-Id"]
    if route == V1:
        assert set(told) == {"error"}
        assert {"type", "param", "retryable"} <= set(error)
    else:
        assert told["success"] is False


@pytest.mark.parametrize("route", [NEW, V1])
@pytest.mark.parametrize(
    "size, whose", [(21 * MB, "is larger than 20971520 bytes"), (30 * MB, "is too large")], ids=["gateway", "nginx"]
)
def test_a_large_body_is_refused_by_the_gateway_and_a_larger_one_by_nginx(fronted, route, size, whose):
    answer = fronted.post(route, data=b" " * size, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    check_error(answer, route, "payload_too_large")
    assert whose in answer.json()["error"]["message"]


@pytest.mark.parametrize("route", [NEW, V1])
def test_large_headers_and_long_addresses_are_refused(fronted, route):
    answer = fronted.post(route, asking(route, "test/ok"), headers={"X-Large": "x" * 9000})
    assert answer.status_code == 431
    check_error(answer, route, "invalid_request")
    fits = fronted.post(route, asking(route, "test/ok"), headers={"X-Large": "x" * 8000})
    assert fits.status_code == 200, "what nginx lets through, the gateway takes"
    assert requests.get(f"http://127.0.0.1:{fronted.port}/{'x' * 9000}", timeout=10).status_code == 414


# ---------------------------------------------------------------- who calls, and what for


@contextmanager
def listener(says=b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"):
    """A front whose gateway notes each request, says this and closes: (front, what was sent)."""
    taken = []

    def answer(server):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                taken.append(connection.recv(65_536))
                connection.sendall(says)

    with socket_path() as path, socket.socket(socket.AF_UNIX) as server, front(path) as running:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        try:
            yield running, taken
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(scope="module")
def noted():
    needs("nginx")
    with listener() as both:
        yield both


def head_of(request):
    """The headers of what was sent."""
    return http.client.parse_headers(io.BytesIO(request.partition(b"\r\n")[2]))


SPOOFED = {
    "X-Forwarded-For": "127.0.0.1, 10.9.8.7",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Host": "localhost",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/spoofed",
    "X-Real-IP": "10.9.8.7",
    "Forwarded": "for=10.9.8.7",
    "X_Forwarded_For": "10.9.8.7",
}


def test_what_a_caller_says_of_itself_goes_no_further(noted):
    running, taken = noted
    with requests.Session() as session:
        url = f"https://127.0.0.1:{running.tls_port}/healthz"
        assert session.get(url, headers=SPOOFED, verify=str(running.certificate), timeout=10).status_code == 204
    head = head_of(taken[-1])
    assert head["X-Forwarded-For"] == "127.0.0.1"
    assert head["X-Forwarded-Proto"] == "https"
    assert head["Host"] == "127.0.0.1"
    assert not {"x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"} & {name.lower() for name in head}
    assert "10.9.8.7" not in str(head)


@pytest.mark.parametrize("trusted", ["0", "1"])
def test_nobody_behind_it_passes_for_a_program_on_this_machine(env, trusted):
    needs("nginx")
    settings = {**env, "CHATAPI_AUTH": "auto", "CHATAPI_TRUSTED_PROXIES": trusted}
    with socket_path() as path, serve(settings, "-b", f"unix:{path}") as gateway, front(path) as running:
        assert gateway.post(V1, asking(V1, "test/ok")).status_code == 200, "this one is local"
        for headers in ({}, SPOOFED, {"Host": "localhost"}):
            assert running.post(V1, asking(V1, "test/ok"), headers=headers).status_code == 401


def test_a_callers_request_id_is_passed_on_if_it_is_sane(noted):
    running, taken = noted
    url = f"http://127.0.0.1:{running.port}/healthz"
    requests.get(url, headers={"X-Request-Id": "order-4711"}, timeout=10)
    assert head_of(taken[-1])["X-Request-Id"] == "order-4711"
    for unusable in ({}, {"X-Request-Id": 'a"b'}, {"X-Request-Id": "x" * 200}):
        requests.get(url, headers=unusable, timeout=10)
        assert re.fullmatch("[0-9a-f]{32}", head_of(taken[-1])["X-Request-Id"])


def test_tls_old_and_new(fronted):
    trusting = ssl.create_default_context(cafile=str(fronted.certificate))
    with (
        socket.create_connection(("127.0.0.1", fronted.tls_port), timeout=10) as plain,
        trusting.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.version() in ("TLSv1.2", "TLSv1.3")
        secure.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert secure.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_plain_http_is_sent_to_https(fronted):
    url = f"http://127.0.0.1:{fronted.redirect_port}{V1}?a=b"
    answer = requests.post(url, json={}, allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.headers["Location"]) == (308, f"https://127.0.0.1{V1}?a=b")


def get_from(address, port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(address, 0))
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def test_metrics_are_not_public(fronted):
    assert get_from("127.0.0.1", fronted.port, "/metrics") == 200
    try:
        assert get_from("127.0.0.2", fronted.port, "/metrics") == 403
        assert get_from("127.0.0.2", fronted.port, "/healthz") == 200
        assert get_from("127.0.0.2", fronted.port, "//metrics?x") == 403
        assert get_from("127.0.0.2", fronted.port, "/%6detrics") == 403
    except OSError as error:
        pytest.skip(f"this machine has one loopback address only: {error}")


# ---------------------------------------------------------------- when there is no gateway


@pytest.mark.parametrize("route", [NEW, V1])
def test_without_a_gateway_the_caller_is_told_in_its_own_shape(route):
    needs("nginx")
    with socket_path() as path, front(path) as running:
        answer = running.post(route, asking(route, "test/ok"), headers={"X-Request-Id": "order-4711"})
        assert answer.status_code == 502
        check_error(answer, route, "upstream_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["error"]["request_id"] == "order-4711"


def test_a_call_that_may_have_reached_a_model_is_sent_once():
    needs("nginx")
    with listener(says=b"") as (running, taken):  # each is cut without a word
        answers = all_at_once(lambda n: running.post(V1, asking(V1, f"nginx/once-{n}")), range(8))
        assert {answer.status_code for answer in answers.values()} == {502}
        for n in answers:
            assert sum(f"nginx/once-{n}".encode() in request for request in taken) == 1


# ---------------------------------------------------------------- the file itself


def test_nginx_has_nothing_to_say_against_it(tmp_path):
    needs("nginx")
    checked = nginx_check(shipped("/tmp/none.sock", free_port(), free_port(), free_port(), certificate_in(tmp_path)))
    assert checked.returncode == 0
    assert "[warn]" not in checked.stderr


def seconds(name, text):
    return float(re.search(rf"^\s*{name} ([\d.]+)s;", text, re.MULTILINE)[1])


def test_its_numbers_agree_with_the_gateways():
    text = CONF.read_text()
    before_a_gateway = text[text.index("upstream chatapi {") :]
    assert seconds("keepalive_timeout", before_a_gateway) < IDLE_S, "or a POST is sent onto a connection being closed"
    assert seconds("proxy_read_timeout", text) > 120
    assert int(re.search(r"client_max_body_size (\d+)m;", text)[1]) * 1024**2 > 20_971_520
