"""A connection over real sockets: what WSGI is told, how answers are framed, bodies read, and leaving seen."""

import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import gevent
import gevent.socket
import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader
from hypothesis import given
from hypothesis import strategies as st
from support.fuzz import some_of
from support.tables import raised

from chatapi.errors import BadRequest, PayloadTooLarge
from chatapi.web import bodies, wire
from chatapi.web.connection import Connection, HangUps, environ_of

CFG = Config()
CFG.set("forwarder_headers", "")
PEER, LISTENER = ("127.0.0.1", 40_000), ("127.0.0.1", 8000)
SOON_S = 0.25


@dataclass
class Server:
    hang_ups: HangUps
    environ: dict
    alive: bool = True
    log = SimpleNamespace(access_log_enabled=False)


@contextmanager
def connected(kind=socket.SOCK_STREAM, listener=LISTENER, peer=PEER):
    """(our connection, the caller's end)."""
    common = wsgi.base_environ(CFG) | {"wsgi.multithread": True}
    with joined(*socket.socketpair(type=kind), peer, common, listener) as both:
        yield both


@pytest.fixture
def both():
    with connected() as both:
        yield both


@pytest.fixture
def connection(both):
    return both[0]


@pytest.fixture
def theirs(both):
    """The caller's end."""
    return both[1]


@contextmanager
def joined(ours, theirs, peer, common, listener=LISTENER):
    ours, theirs = under_gevent(ours), under_gevent(theirs)
    connection = Connection(ours, environ_of(listener, peer), Server(HangUps(), {"SCRIPT_NAME": "", **common}))
    try:
        yield connection, theirs
    finally:
        theirs.close()
        connection.close()


def answered(connection, status="200 OK", *parts, **headers):
    """Answer with these parts: whole, where a length is told."""
    connection.start_response(status, [(name.replace("_", "-"), value) for name, value in headers.items()])
    for part in parts:
        connection.write(part)
    connection.finish()


def under_gevent(sock):
    """The same socket; who waits for it lets the other greenlets go on."""
    taken = gevent.socket.socket(sock.family, sock.type, fileno=sock.detach())
    taken.settimeout(5)
    return taken


def asked(connection, theirs, raw=b"GET / HTTP/1.1\r\n\r\n"):
    """The next request on the connection, its environ made."""
    if raw:
        theirs.sendall(raw)
    request = Request(CFG, SocketUnreader(connection.wire), PEER)
    return request, connection.accept(request)


# ---------------------------------------------------------------- what WSGI is told

FORMS = """Accept ACCEPT X-One x-one X_One Script-Name SCRIPT_NAME PATH_INFO Content-Type-X Host-X X-Forwarded-For
X-Forwarded-Proto Connection Cookie Wsgi.Input Remote-Addr Expect"""
NAMES = st.sampled_from(FORMS.split())
VALUES = st.text(st.sampled_from("ab ,;:/%_=\t\xe9"), max_size=12).map(str.strip)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
HOSTS = st.sampled_from(["example.org", "example.org:8080", "[::1]:80", "", "a:b:c"])
KINDS = st.sampled_from(["application/json", "text/plain; charset=x"])
ONCE = some_of(**{"Host": HOSTS, "Content-Type": KINDS, "Content-Length": st.just("0")})
TARGETS = st.sampled_from(["/", "/v1/chat/completions?a=%20b&c", "/a%2Fb/%C3%A9%ff", "http://x/y?z", "*", "//d//e"])


@given(TARGETS, HEADERS, ONCE, st.sampled_from(["1.0", "1.1"]), st.sampled_from([LISTENER, "/run/chatapi.sock"]))
def test_the_environ_is_gunicorns(target, headers, once, version, listener):
    method = "OPTIONS" if target == "*" else "GET"
    headers = [(name, "100-continue" if name == "Expect" else value) for name, value in headers] + list(once.items())
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in headers), "", ""]
    peer = PEER if listener == LISTENER else ""
    with connected(listener=listener, peer=peer) as (connection, theirs):
        try:
            request, ours = asked(connection, theirs, "\r\n".join(lines).encode("latin-1"))
        except wsgi.ConfigurationProblem:
            return
        _, expected = wsgi.create(request, theirs, peer, listener, CFG)
    own = {"chatapi.connection", *("gunicorn.socket", "wsgi.errors", "wsgi.early_hints", "wsgi.multithread")}
    assert {k: v for k, v in ours.items() if k not in own} == {k: v for k, v in expected.items() if k not in own}


def test_no_header_moves_the_path(connection, theirs):
    raw = b"GET /docs/metrics HTTP/1.1\r\nSCRIPT_NAME: /docs\r\nPATH_INFO: /metrics\r\nScript-Name: /docs\r\n\r\n"
    _, environ = asked(connection, theirs, raw)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/docs/metrics")


# ---------------------------------------------------------------- how answers are framed

METHODS, VERSIONS = st.sampled_from(["GET", "HEAD", "POST"]), st.sampled_from(["1.0", "1.1"])
KEPT = st.sampled_from(["", "close", "keep-alive", "Upgrade"])
STATUSES = st.sampled_from(["200 OK", "204 No Content", "304 Not Modified", "404 NOT FOUND", "500"])
PARTS = st.lists(st.binary(max_size=40), max_size=4)


@given(METHODS, VERSIONS, KEPT, STATUSES, PARTS, st.booleans())
def test_an_answers_bytes_are_gunicorns(method, version, kept, status, parts, sized):
    raw = f"{method} / HTTP/{version}\r\nConnection: {kept}\r\nContent-Length: 0\r\n\r\n".encode()
    headers = [("Content-Type", "text/plain"), ("X-Odd", "é"), ("Keep-Alive", "300"), ("transfer-encoding", "x")]
    headers += [("Content-Length", str(len(b"".join(parts))))] if sized else []
    with connected() as (connection, theirs):
        request, _ = asked(connection, theirs, raw)
        connection.start_response(status, headers)
        for part in parts:
            connection.write(part)
        connection.finish()
        kept = connection.next_can_follow()
        ours = theirs.recv(65_536)
    left, right = socket.socketpair()
    with left, right:
        expected = wsgi.Response(request, left, CFG)
        expected.start_response(status, headers)
        for part in parts:
            expected.write(part)
        expected.close()
        assert without_date(ours) == without_date(right.recv(65_536))
    assert kept is not expected.should_close()


def without_date(answer):
    return [line for line in answer.split(b"\r\n") if not line.startswith(b"Date: ")]


def test_head_and_body_leave_together_and_so_do_a_chunk_and_its_frame():
    with connected(socket.SOCK_SEQPACKET) as (connection, theirs):
        asked(connection, theirs)
        answered(connection, "200 OK", b"whole", Content_Length="5")
        assert theirs.recv(65_536).endswith(b"\r\n\r\nwhole")
        assert connection.next_can_follow()
        connection.await_request()
        asked(connection, theirs)
        answered(connection, "200 OK", b"one", b"", b"two")
        assert theirs.recv(65_536).endswith(b"\r\n\r\n3\r\none\r\n")
        assert [theirs.recv(65_536) for _ in range(2)] == [b"3\r\ntwo\r\n", b"0\r\n\r\n"]


def test_no_more_is_sent_than_the_length_that_was_told(connection, theirs):
    asked(connection, theirs)
    answered(connection, "200 OK", b"who", b"le and more", b"more", Content_Length="5")
    assert theirs.recv(65_536).endswith(b"\r\n\r\nwhole")


TWO_HEADERS = [("X-A", "b\r\nX-Evil: 1"), ("X-A", "b\nc"), ("X-A\r\nY: z", "b"), ("X-A", "\0")]


@pytest.mark.parametrize("name, value", TWO_HEADERS)
def test_a_header_with_a_line_end_is_not_sent(connection, theirs, name, value):
    asked(connection, theirs)
    connection.start_response("200 OK", [(name, value)])
    assert "line end" in str(raised(ValueError, connection.write, b"x"))
    connection.refuse(b"refused")
    assert theirs.recv(100) == b"refused"
    assert not connection.next_can_follow()


def test_a_head_sent_early_is_the_only_one(connection, theirs):
    asked(connection, theirs)
    connection.begin("200 OK", [("X-Early", "1")])
    connection.write(b": waiting\n\n")
    connection.start_response("500 INTERNAL SERVER ERROR", [("X-Late", "1")])
    connection.write(b"data: {}\n\n")
    connection.finish()
    connection.refuse(b"HTTP/1.1 500 ")
    answer = theirs.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nb\r\n: waiting\n\n\r\na\r\ndata: {}\n\n\r\n0\r\n\r\n")
    assert b"X-Late" not in answer


def test_what_two_greenlets_write_is_not_mixed(connection, theirs):
    size = 4_000_000  # more than the socket holds
    asked(connection, theirs)
    connection.begin("200 OK", [("Content-Length", str(3 * size))])
    writers = [gevent.spawn(connection.write, bytes([letter]) * size) for letter in b"abc"]
    received = bytearray()
    while len(received) < 3 * size:
        received += theirs.recv(1_000_000)
    gevent.joinall(writers, raise_error=True)
    body = bytes(received).partition(b"\r\n\r\n")[2]
    assert body[:size] == b"a" * size and body[size : 2 * size] == b"b" * size
    assert body[2 * size :] == b"c" * (len(body) - 2 * size)


def test_who_does_not_read_is_left_at_the_deadline(connection, theirs):
    asked(connection, theirs)
    connection.start_response("200 OK", [])
    connection.wire.write_deadline = time.monotonic() + 0.3
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        while True:
            connection.write(b"x" * 100_000)
    assert 0.2 < time.monotonic() - began < 0.3 + SOON_S
    raised(BrokenPipeError, connection.write, b"what would follow half a chunk")


# ---------------------------------------------------------------- bodies


def post(body=b"", *headers, length=None):
    length = len(body) if length is None else length
    framing = "Transfer-Encoding: chunked" if length == "chunked" else f"Content-Length: {length}"
    return "\r\n".join(["POST / HTTP/1.1", framing, *headers, "", ""]).encode() + body


def later(seconds=5.0):
    return time.monotonic() + seconds


def test_bodies_of_both_kinds_are_read_whole_and_the_next_request_follows(connection, theirs):
    for raw in (post(b"abc"), post(b"1\r\na\r\n2;x=y\r\nbc\r\n0\r\nX-Trailer: 1\r\n\r\n", length="chunked")):
        asked(connection, theirs, raw)
        assert connection.read_body(3, later()) == b"abc"
        answered(connection, "204 NO CONTENT")
        assert connection.next_can_follow()
        connection.await_request()


TOO_LARGE = [post(b"abcd"), post(b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n", length="chunked")]
BROKEN = [(post(b"abc", length=9), "ended after 3 of 9 bytes")]
BROKEN += [(post(body, length="chunked"), "could not be read") for body in (b"3\r\nabc\r\n", b"x\r\n", b"1\r\nabc\r\n")]


@pytest.mark.parametrize("raw", TOO_LARGE)
def test_a_body_over_the_limit_is_refused(connection, theirs, raw):
    asked(connection, theirs, raw)
    raised(PayloadTooLarge, connection.read_body, 3, later())


@pytest.mark.parametrize("raw, says", BROKEN)
def test_a_broken_body_is_said_so_and_nothing_follows(connection, theirs, raw, says):
    asked(connection, theirs, raw)
    theirs.shutdown(socket.SHUT_WR)
    assert says in raised(BadRequest, connection.read_body, 100, later()).message
    answered(connection, "400 BAD REQUEST", Content_Length="0")
    assert b"Connection: close" in theirs.recv(1000)
    assert not connection.next_can_follow()


def test_a_body_that_dribbles_is_read_until_its_deadline(connection, theirs):
    asked(connection, theirs, post(length=1000))
    dribble = gevent.spawn(lambda: [(theirs.sendall(b"x"), gevent.sleep(0.02)) for _ in range(100)])
    began = time.monotonic()
    assert "could not be read" in raised(BadRequest, connection.read_body, 1000, later(0.2)).message
    assert 0.15 < time.monotonic() - began < 0.2 + SOON_S
    dribble.kill()


def test_others_get_their_turn_while_a_body_comes_in_tiny_chunks(connection, theirs):
    """Two megabytes a byte to a chunk, all of it there: a socket that always has data never waits by itself."""
    turns = []
    sender = gevent.spawn(flood, theirs, post(b"1\r\nx\r\n" * 350_000, length="chunked"))
    request, _ = asked(connection, theirs, b"")
    assert request.method == "POST"
    clock = gevent.spawn(lambda: [(turns.append(time.process_time()), gevent.sleep(0.005)) for _ in range(2000)])
    assert "too small chunks" in raised(BadRequest, connection.read_body, 10_000_000, later(30)).message
    clock.kill()
    sender.kill()
    gaps = [b - a for a, b in pairwise(turns)]
    assert len(turns) > 10
    assert max(gaps) < 0.1  # of the processor: other tests may have it in between


def test_a_body_is_asked_for_only_by_who_reads_it(connection, theirs):
    asked(connection, theirs, post(b"", "Expect: 100-continue", length=3))
    answered(connection, "401 UNAUTHORIZED", Content_Length="0")
    answer = theirs.recv(1000)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close" in answer, "whether a body comes is not known"
    assert not connection.next_can_follow()


def test_who_expects_to_be_asked_for_the_body_is(connection, theirs):
    asked(connection, theirs, post(b"", "Expect: 100-continue", length=3))
    caller = gevent.spawn(lambda: (theirs.recv(1000), theirs.sendall(b"abc")))
    assert connection.read_body(10, later()) == b"abc"
    assert caller.get()[0] == b"HTTP/1.1 100 Continue\r\n\r\n"


UNREAD = {
    "small": (post(b"x" * 60_000), True),
    "large": (post(b"x" * 70_000), False),
    "never sent": (post(length=100), False),
    "chunked": (post(b"3\r\nabc\r\n0\r\n\r\n", length="chunked"), False),
}


@pytest.mark.parametrize("unread, follows", UNREAD.values(), ids=UNREAD)
def test_a_small_unread_body_is_skipped_and_any_other_ends_the_connection(
    connection, theirs, monkeypatch, unread, follows
):
    monkeypatch.setattr(bodies, "SKIPPED_S", 0.2)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    asked(connection, theirs, unread)
    answered(connection, "401 UNAUTHORIZED", Content_Length="0")
    began = time.monotonic()
    assert connection.next_can_follow() is follows
    assert time.monotonic() - began < bodies.SKIPPED_S + SOON_S


def test_a_body_without_end_is_thrown_away_for_a_moment_only(connection, theirs):
    asked(connection, theirs, post(b"x", length=10**12))
    answered(connection, "413 CONTENT TOO LARGE", Content_Length="0")
    assert not connection.next_can_follow()
    sender = gevent.spawn(flood, theirs)
    began = time.monotonic()
    connection.close()
    assert time.monotonic() - began < wire.LINGER_S + SOON_S
    assert sender.get() <= wire.LINGERING + 5_000_000
    assert b"413" in theirs.recv(1000)


def flood(theirs, data=b"x" * 100_000):
    """Send it again and again until nobody takes it: the bytes that went out."""
    sent = 0
    try:
        while True:
            sent += theirs.send(data[sent % len(data) :])
    except OSError:
        return sent


# ---------------------------------------------------------------- whether the caller is there


@contextmanager
def over_tcp():
    """The same over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, peer = listening.accept()
    with joined(ours, theirs, peer, {}) as both:
        yield both


@pytest.mark.parametrize("way", [over_tcp, connected])
@pytest.mark.parametrize("stray", [b"", b"\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 100_000], ids=len)
def test_leaving_is_told_once_whatever_came_before(way, stray):
    told = []
    with way() as (connection, theirs):
        asked(connection, theirs)
        connection.watch(lambda: told.append(time.monotonic()))
        theirs.sendall(stray)
        gevent.sleep(0.05)
        assert told == []
        left_at = time.monotonic()
        theirs.close()
        while not told and time.monotonic() < left_at + 20 * SOON_S:
            gevent.sleep(0.01)
        gevent.sleep(0.02)
        assert len(told) == 1


def test_leaving_while_nobody_watches_is_remembered():
    told = []
    with over_tcp() as (connection, theirs):
        connection.watch(lambda: told.append("first"))
        connection.unwatch()
        theirs.close()
        gevent.sleep(0.05)
        assert told == []
        connection.watch(lambda: told.append("second"))
        gevent.sleep(0.05)
        assert told == ["second"]
