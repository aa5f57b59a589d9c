"""How a host is reached: TLS sessions resumed, names looked up once for a while, and proxies."""

import base64
import re
import select
import socket
import ssl
from contextlib import contextmanager

import pytest
from support.fronts import certificate_in
from support.sockets import head_of, sending, serving
from support.tables import raised

from chatapi.call import Call
from chatapi.errors import UpstreamUnavailable
from chatapi.huggingface import connect
from chatapi.huggingface.transport import Request

BODY = b'{"ok": true}'
KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + BODY
CLOSED = KEPT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


answering = sending(CLOSED)
refusing = sending(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def fetch(transport, url):
    made = Call("-", seconds=10)
    return transport.fetch(Request(url, {"model": "test/ok"}), made, made.deadline)


# ---------------------------------------------------------------- TLS


@contextmanager
def serving_tls(tmp_path, monkeypatch, handle):
    """The same with TLS, its certificate trusted."""
    certificate = certificate_in(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))

    def wrapped(sock):
        with context.wrap_socket(sock, server_side=True) as tls:
            handle(tls)

    with serving(wrapped) as port:
        yield f"https://127.0.0.1:{port}/v1/models"


@pytest.mark.parametrize("answer", [KEPT, CLOSED], ids=["kept", "closed"])
def test_a_tls_session_is_resumed(transport, tmp_path, monkeypatch, answer):
    """Each connection ends after its answer, so that each call opens one: but the first resume its session."""
    resumed = []

    def handle(tls):
        head_of(tls)
        resumed.append(tls.session_reused)
        tls.sendall(answer)

    with serving_tls(tmp_path, monkeypatch, handle) as url:
        for _ in range(3):
            assert fetch(transport, url).body == BODY
    assert resumed == [False, True, True]


# ---------------------------------------------------------------- names


@pytest.fixture
def looked_up(monkeypatch):
    """The names that are looked up; every one is this machine."""
    asked, real = [], socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        asked.append(host)
        return real("127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_is_looked_up_once_for_a_while(transport, looked_up, monkeypatch):
    with serving(answering) as port:
        url = f"http://once.test:{port}/v1/models"
        for _ in range(3):
            fetch(transport, url)
        assert looked_up == ["once.test"]
        monkeypatch.setattr(connect.time, "monotonic", lambda real=connect.time.monotonic: real() + connect.NAMES_S)
        fetch(transport, url)
        assert looked_up == ["once.test"] * 2


def test_a_name_whose_addresses_do_not_answer_is_looked_up_again(transport, looked_up):
    with serving(answering) as port:
        fetch(transport, f"http://moved.test:{port}/v1/models")
    for times in (1, 2):  # the first of them still has the address
        error = raised(UpstreamUnavailable, fetch, transport, f"http://moved.test:{port}/v1/models")
        assert "refused" in error.message
        assert looked_up == ["moved.test"] * times


# ---------------------------------------------------------------- proxies


class Proxy:
    """A small forward proxy: absolute targets, and tunnels for CONNECT. `heads` is what it was asked."""

    def __init__(self):
        self.heads = []

    def __call__(self, sock):
        head = head_of(sock)
        self.heads.append(head.partition(b"\r\n\r\n")[0].decode())
        method, target = self.heads[-1].split(" ")[:2]
        host, _, port = target.removeprefix("http://").partition("/")[0].partition(":")
        with socket.create_connection((host, int(port))) as other:
            if method == "CONNECT":
                sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                other.sendall(head)
            relay(sock, other)


def relay(one, other):
    """What either says, to the other, until one of them ends."""
    ends = {one: other, other: one}
    while True:
        for readable in select.select(list(ends), [], [], 10)[0]:
            if not (data := readable.recv(65_536)):
                return
            ends[readable].sendall(data)


@pytest.fixture
def proxy(monkeypatch):
    made = Proxy()
    with serving(made) as port:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
            for spelt in (name, name.lower()):
                monkeypatch.delenv(spelt, raising=False)
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://alice:s3cret@127.0.0.1:{port}")
        yield made


CREDENTIALS = "Proxy-Authorization: Basic " + base64.b64encode(b"alice:s3cret").decode()


def test_a_plain_upstream_behind_a_proxy(transport, proxy):
    with serving(answering) as port:
        url = f"http://127.0.0.1:{port}/v1/models"
        assert fetch(transport, url).body == BODY
    [head] = proxy.heads
    assert head.startswith(f"POST {url} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n")
    assert CREDENTIALS.lower() in head.lower()


def test_an_upstream_with_tls_is_reached_through_a_tunnel(transport, proxy, tmp_path, monkeypatch):
    """The proxy is told the host, and neither our token nor the request."""
    heads = []

    def handle(tls):
        heads.append(head_of(tls).decode())
        tls.sendall(CLOSED)

    with serving_tls(tmp_path, monkeypatch, handle) as url:
        assert fetch(transport, url).body == BODY
    [head] = proxy.heads
    assert re.match(r"CONNECT 127\.0\.0\.1:\d+ HTTP/1\.", head)
    assert CREDENTIALS.lower() in head.lower()
    assert "hf_right" not in head
    assert heads[0].startswith("POST /v1/models HTTP/1.1\r\n")
    assert "Proxy-Authorization" not in heads[0]
    assert "Authorization: Bearer hf_right" in heads[0]


@pytest.mark.parametrize("spared", ["127.0.0.1", "localhost,127.0.0.0/8", "*"])
def test_hosts_that_need_no_proxy_are_asked_directly(transport, proxy, monkeypatch, spared):
    monkeypatch.setenv("NO_PROXY", spared)
    with serving(answering) as port:
        assert fetch(transport, f"http://127.0.0.1:{port}/v1/models").body == BODY
    assert proxy.heads == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_or_refuses_a_tunnel_names_the_setting(transport, proxy, monkeypatch, scheme):
    def failure(port, scheme=scheme):
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://127.0.0.1:{port}")
        error = raised(UpstreamUnavailable, fetch, transport, f"{scheme}://127.0.0.1:9/v1/models")
        assert "HTTPS_PROXY" in error.message
        return error

    with serving(refusing) as port:
        assert failure(port, "https").transient is False
    failure(port)


def test_a_tunnel_to_a_server_without_tls_is_no_fault_of_the_proxys(transport, proxy):
    with serving(lambda sock: sock.sendall(CLOSED)) as port:
        error = raised(UpstreamUnavailable, fetch, transport, f"https://127.0.0.1:{port}/v1/models")
    assert "TLS" in error.message
