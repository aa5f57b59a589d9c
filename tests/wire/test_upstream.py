"""The stand-in for Hugging Face does on the wire what its names say."""

import json
import socket
from contextlib import closing

import pytest
import requests
from support.callers import http_request
from support.upstream import BREAKS, TEXT, U2028_TEXT, UTF8_TEXT, Upstream

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


def asking(name, stream, **fields):
    hi = [{"role": "user", "content": "hi there"}]
    return {"model": f"test/{name}", "messages": hi, "stream": stream, **fields}


def chat(up, name, stream=False, session=requests, **fields):
    return session.post(up.url + CHAT, json=asking(name, stream, **fields), timeout=5)


def events(body):
    """The data of each event, parsed where it is JSON. Deliberately naive: only for well-framed streams."""
    found = [e.removeprefix(b"data: ") for e in body.split(b"\n\n") if e.startswith(b"data: ")]
    return [json.loads(e) if e.startswith(b"{") and e.endswith(b"}") else e.decode() for e in found]


def text_of(found):
    deltas = [c["delta"] for e in found if isinstance(e, dict) for c in e.get("choices", [])]
    return "".join(delta.get("content") or "" for delta in deltas)


def open_raw(up, name):
    """A socket on which a stream has been asked for."""
    sock = socket.create_connection(("127.0.0.1", int(up.url.rpartition(":")[2])), timeout=5)
    sock.sendall(http_request(CHAT, asking(name, True)))
    return sock


def chunks(up, name):
    """The answer's chunks, as the server cut them."""
    with closing(open_raw(up, name)) as sock, sock.makefile("rb") as reader:
        while reader.readline().strip():
            pass
        found = []
        while size := int(reader.readline(), 16):
            found.append(reader.read(size))
            reader.readline()
        return found


def test_keep_alive_reuses_the_connection(up):
    with requests.Session() as session:
        for name, stream in (("ok", False), ("cut", False), ("err-bad-gateway", False), ("ok", True)):
            chat(up, name, stream, session)
    assert len({call.connection for call in up.calls}) == 1 and len(up.calls) == 4
    chat(up, "ok")
    assert up.calls[-1].connection != up.calls[0].connection
    up.wait_for(lambda: up.calls[3].client_closed_at)
    assert up.calls[3].finished


def test_unusual_events(up):
    def stream_of(name, **fields):
        return events(chat(up, name, True, **fields).content)

    for name, counts in (("in-finish", [6]), ("every-chunk", [1, 2, 3, 4, 5, 6, 6]), ("nowhere", [])):
        found = stream_of(f"usage-{name}", stream_options={"include_usage": True})
        assert [e["usage"]["completion_tokens"] for e in found[:-1] if e.get("usage")] == counts
    assert stream_of("role-only")[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    found = stream_of("null-content")
    assert found[0]["choices"] == [] and found[1]["choices"][0]["delta"]["content"] is None
    assert text_of(found) == TEXT
    found = stream_of("reasoning")
    thoughts = [e["choices"][0]["delta"].get("reasoning_content", "") for e in found[:-1]]
    assert "".join(thoughts) == "Let me think." and text_of(found) == TEXT
    assert chat(up, "reasoning").json()["choices"][0]["message"]["reasoning_content"]


def test_framings(up):
    parts = {name: chunks(up, name) for name in ("no-space", "crlf", "comments", "packed", "bytewise", "utf8-split")}
    plain = b"".join(chunks(up, "ok")).replace(b"test/ok", b"")
    assert all(part.startswith(b'data:{"') for part in parts["no-space"][:-1])
    assert all(part.endswith(b"\r\n\r\n") for part in parts["crlf"])
    assert all(part.startswith(b": ") and b"\n\ndata: " in part for part in parts["comments"])
    assert len(parts["packed"]) == 1 and parts["packed"][0].count(b"data: ") == plain.count(b"data: ") == 8
    assert {len(part) for part in parts["bytewise"]} == {1}
    assert text_of(events(b"".join(parts["bytewise"]))) == TEXT
    assert any(part.endswith(b"\r") for part in chunks(up, "crlf-split"))
    assert not chunks(up, "no-final-blank")[-1].endswith(b"\n")
    torn = parts["utf8-split"]
    assert text_of(events(b"".join(torn))) == UTF8_TEXT
    assert sum(0x80 <= part[0] < 0xC0 for part in torn) == len(UTF8_TEXT.encode()) - len(UTF8_TEXT)
    body = b"".join(chunks(up, "u2028"))
    assert text_of(events(body)) == U2028_TEXT and "\u2028".encode() in body and "\x85".encode() in body


@pytest.mark.parametrize("name", BREAKS)
def test_breaks_after_three_tokens(up, name):
    with closing(open_raw(up, name)) as sock:
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
    assert chat(up, name).json()["choices"]


def test_reset_and_close_before_headers(up):
    with closing(open_raw(up, "reset")) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    with closing(open_raw(up, "close")) as sock:
        assert sock.recv(1) == b""
    with pytest.raises(requests.ConnectionError):
        chat(up, "reset-once")
    assert chat(up, "reset-once").ok


def test_a_faulty_behaviour_is_reported():
    def broken(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Upstream() as up:
        up.behave("test/x", broken)
        with pytest.raises(requests.ConnectionError):
            chat(up, "x")
    with pytest.raises(AssertionError):
        Upstream().wait_for(lambda: False, timeout=0.01)
