"""The stand-in for Hugging Face does on the wire what its names say."""

import http.client
import json
import socket
from contextlib import closing

import pytest
from support.callers import http_request
from support.upstream import BREAKS, TEXT, U2028_TEXT, UTF8_TEXT, Upstream

MESSAGES = [{"role": "user", "content": "hi there"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server():
    with Upstream() as up:
        yield up


@pytest.fixture
def up(server):
    server.reset()
    yield server
    assert server.failures == []


def connect(up, timeout=5):
    return closing(http.client.HTTPConnection(up.url.removeprefix("http://"), timeout=timeout))


def exchange(connection, path, body, method="POST", **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def ask(up, path, body=b"", method="POST", **headers):
    with connect(up) as connection:
        return exchange(connection, path, body, method, **headers)


def chat(up, model, stream=False, **fields):
    return ask(up, CHAT, {"model": model, "messages": MESSAGES, "stream": stream, **fields})


def events(body):
    """The data of each event, parsed where it is JSON. Deliberately naive: only for well-framed streams."""
    found = [e.removeprefix(b"data: ") for e in body.split(b"\n\n") if e.startswith(b"data: ")]
    return [json.loads(e) if e.startswith(b"{") and e.endswith(b"}") else e.decode() for e in found]


def text_of(found):
    deltas = [c["delta"] for e in found if isinstance(e, dict) for c in e.get("choices", [])]
    return "".join(delta.get("content") or "" for delta in deltas)


def open_raw(up, model, stream=True):
    """A socket on which this question has been asked."""
    sock = socket.create_connection(("127.0.0.1", int(up.url.rpartition(":")[2])), timeout=5)
    sock.sendall(http_request(CHAT, {"model": model, "messages": MESSAGES, "stream": stream}))
    return sock


def chunks(up, model):
    """The answer's chunks, as the server cut them."""
    with closing(open_raw(up, model)) as sock, sock.makefile("rb") as reader:
        while reader.readline().strip():
            pass
        found = []
        while size := int(reader.readline(), 16):
            found.append(reader.read(size))
            reader.readline()
        return found


# -- healthy answers in every skin


def test_keep_alive_reuses_the_connection(up):
    with connect(up) as connection:
        for model in ("test/ok", "test/cut", "test/err-bad-gateway"):
            exchange(connection, CHAT, {"model": model, "messages": MESSAGES})
        exchange(connection, CHAT, {"model": "test/ok", "messages": MESSAGES, "stream": True})
    assert len({call.connection for call in up.calls}) == 1 and len(up.calls) == 4
    chat(up, "test/ok")
    assert up.calls[-1].connection != up.calls[0].connection
    up.wait_for(lambda: up.calls[3].client_closed_at)
    assert up.calls[3].finished


# -- streams whose events are unusual


def stream_of(up, name, **fields):
    return events(chat(up, f"test/{name}", stream=True, **fields)[2])


def test_usage_in_many_places(up):
    def usages(name):
        found = stream_of(up, name, stream_options={"include_usage": True})
        return [e["usage"]["completion_tokens"] for e in found[:-1] if e.get("usage")]

    assert usages("usage-in-finish") == [6]
    assert usages("usage-every-chunk") == [1, 2, 3, 4, 5, 6, 6]
    assert usages("usage-nowhere") == []


def test_unusual_deltas(up):
    assert stream_of(up, "role-only")[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    found = stream_of(up, "null-content")
    assert found[0]["choices"] == [] and found[1]["choices"][0]["delta"]["content"] is None
    assert text_of(found) == TEXT
    found = stream_of(up, "reasoning")
    thoughts = [e["choices"][0]["delta"].get("reasoning_content", "") for e in found[:-1]]
    assert "".join(thoughts) == "Let me think." and text_of(found) == TEXT
    assert json.loads(chat(up, "test/reasoning")[2])["choices"][0]["message"]["reasoning_content"]


# -- streams whose bytes are unusual


def test_framings(up):
    parts = {name: chunks(up, f"test/{name}") for name in ("no-space", "crlf", "comments", "packed", "bytewise")}
    plain = b"".join(chunks(up, "test/ok")).replace(b"test/ok", b"")
    assert all(part.startswith(b'data:{"') for part in parts["no-space"][:-1])
    assert all(part.endswith(b"\r\n\r\n") for part in parts["crlf"])
    assert all(part.startswith(b": ") and b"\n\ndata: " in part for part in parts["comments"])
    assert len(parts["packed"]) == 1 and parts["packed"][0].count(b"data: ") == plain.count(b"data: ") == 8
    assert {len(part) for part in parts["bytewise"]} == {1}
    assert text_of(events(b"".join(parts["bytewise"]))) == TEXT
    assert any(part.endswith(b"\r") for part in chunks(up, "test/crlf-split"))
    assert not chunks(up, "test/no-final-blank")[-1].endswith(b"\n")


def test_characters(up):
    parts = chunks(up, "test/utf8-split")
    assert text_of(events(b"".join(parts))) == UTF8_TEXT
    assert sum(0x80 <= part[0] < 0xC0 for part in parts) == len(UTF8_TEXT.encode()) - len(UTF8_TEXT)
    body = b"".join(chunks(up, "test/u2028"))
    assert text_of(events(body)) == U2028_TEXT and "\u2028".encode() in body and "\x85".encode() in body


# -- slow and broken ones


@pytest.mark.parametrize("name", BREAKS)
def test_breaks_after_three_tokens(up, name):
    with closing(open_raw(up, f"test/{name}")) as sock:
        sock.settimeout(0.5 if name == "stall-after-3" else 5)
        received, ending = b"", None
        while ending is None:
            try:
                data = sock.recv(65536)
                received, ending = received + data, None if data else "fin"
            except ConnectionResetError:
                ending = "rst"
            except TimeoutError:
                ending = "silence"
    assert received.count(b'"content"') in (3, 4) and b" from" in received
    assert not received.endswith(b"0\r\n\r\n") and b"[DONE]" not in received
    assert ending == {"reset-mid": "rst", "stall-after-3": "silence"}.get(name, "fin")
    assert not up.calls[0].finished
    assert json.loads(chat(up, f"test/{name}")[2])["choices"]


def test_reset_and_close_before_headers(up):
    with closing(open_raw(up, "test/reset")) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    with closing(open_raw(up, "test/close")) as sock:
        assert sock.recv(1) == b""
    with pytest.raises(ConnectionResetError):
        chat(up, "test/reset-once")
    assert chat(up, "test/reset-once")[0] == 200


# -- a test's own behaviours


def test_a_faulty_behaviour_is_reported():
    def broken(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Upstream() as up:
        up.behave("acme/x", broken)
        with pytest.raises(http.client.RemoteDisconnected):
            chat(up, "acme/x")
    with pytest.raises(AssertionError):
        Upstream().wait_for(lambda: False, timeout=0.01)
