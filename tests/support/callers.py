"""A caller on a raw socket, and what came over it, taken apart."""

import json
import socket
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

from support.dialects import asking
from support.upstream import RST_ON_CLOSE, say


class Told(NamedTuple):
    """A stream taken apart."""

    comments: list
    chunks: list
    error: dict | None
    done: bool


def take_apart(body: bytes) -> Told:
    """Strictly: each event is one `data: ` line or one comment, closed by a blank line; nothing follows the end."""
    assert body.endswith(b"\n\n")
    comments, items = [], []
    for event in body[:-2].split(b"\n\n"):
        assert event.count(b"\n") == 0
        if event.startswith(b": "):
            comments.append(event[2:].decode())
        else:
            assert event.startswith(b"data: "), event
            items.append(event[6:])
    done = items[-1:] == [b"[DONE]"]
    events = [json.loads(item) for item in (items[:-1] if done else items)]
    error = events.pop()["error"] if events and "error" in events[-1] else None
    assert all("error" not in event for event in events), "the error is the last event"
    return Told(comments, events, error, done)


def choices(told):
    return [choice for chunk in told.chunks for choice in chunk["choices"]]


class Caller:
    """One request on a socket of its own, read as it comes."""

    def __init__(self, gateway, route, model, *, stream=True, receive_buffer=None, key=None, **fields):
        self._begin(gateway, http_request(route, asking(route, model, stream=stream, **fields), key), receive_buffer)

    @classmethod
    def raw(cls, gateway, request):
        """One that sends these bytes."""
        caller = cls.__new__(cls)
        caller._begin(gateway, request)
        return caller

    def _begin(self, gateway, request, receive_buffer=None):
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(10)
        self.sock.connect(("127.0.0.1", gateway.port))
        self.sock.sendall(request)
        self.received = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def read_until(self, marker):
        """Read until `marker` has come."""
        seen = 0
        while self.received.find(marker, seen) < 0:
            seen = max(0, len(self.received) - len(marker))
            data = self.sock.recv(65_536)
            assert data, f"the answer ended without {marker!r}: {self.received[-500:]!r}"
            self.received += data

    def first_line(self, within_s):
        """The status line; nothing where none comes."""
        self.sock.settimeout(within_s)
        with suppress(TimeoutError):
            self.read_until(b"\r\n")
        return bytes(self.received).partition(b"\r\n")[0]

    def body(self):
        """The whole body, read to the end of its chunks."""
        self.read_until(b"\r\n0\r\n\r\n")
        return dechunked(bytes(self.received).partition(b"\r\n\r\n")[2])

    def rest(self, until=None):
        """All that still comes, or what comes until then."""
        with suppress(ConnectionResetError):
            while not (until and self.received.endswith(until)) and (data := self.sock.recv(65_536)):
                self.received += data
        return self.received

    def leave(self, reset=False):
        """Close with FIN, or with RST."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        self.sock.close()


@contextmanager
def connected(gateway, timeout=10):
    """A socket to the gateway, closed at the end."""
    with closing(socket.create_connection(("127.0.0.1", gateway.port), timeout=timeout)) as sock:
        yield sock


def http_request(route, body, key=None):
    data = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def dechunked(data):
    parts, at = [], 0
    while size := int(data[at : (start := data.index(b"\r\n", at) + 2)], 16):
        parts.append(data[start : start + size])
        at = start + size + 2
    return b"".join(parts)


def body_of(received):
    """Status and body, whose framing must be whole."""
    head, _, body = received.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        assert body.endswith(b"\r\n0\r\n\r\n"), f"the body has no end: {body[-200:]!r}"
        body = dechunked(body)
    return int(head.split()[1]), body


def endless(x):
    say(x, [f"tok{i} " for i in range(1000)], pause=0.05)
