"""One request on one connection, answered byte by byte."""

from __future__ import annotations

import dataclasses
import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from support.upstream.server import Upstream

JSON, PLAIN, HTML, SSE = "application/json", "text/plain; charset=utf-8", "text/html", "text/event-stream"
# POLLRDHUP tells a peer's FIN even when pipelined bytes are waiting; where it is missing POLLIN must do.
PEER_LEFT = getattr(select, "POLLRDHUP", select.POLLIN)
RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Gone(Exception):
    """The client has left, or the behaviour has dropped the connection: nothing more can be written."""


class Headers(dict[str, str]):
    """Request headers; names in any case."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


@dataclasses.dataclass
class Call:
    """One request as it was read. `at` and `client_closed_at` are time.monotonic() seconds."""

    method: str
    path: str
    headers: Headers
    raw_body: bytes
    connection: int
    body: Any = None
    at: float = dataclasses.field(default_factory=time.monotonic)
    model: str | None = None  # the id that chose the behaviour, without its :suffix
    status: int | None = None  # the status sent, if any was
    finished: bool = False  # the whole answer was written
    client_closed_at: float | None = None  # during the answer, or after it when `finished`


class Connection:
    """A client's TCP connection."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.number, self.open = sock, number, True
        self.reader: BinaryIO = sock.makefile("rb")
        self.poller = select.poll()
        self.poller.register(sock, PEER_LEFT)

    def peer_left(self, within_s: float) -> bool:
        return bool(self.poller.poll(max(0, within_s) * 1000))

    def drop(self, reset: bool = False) -> None:
        """Close with FIN, or with RST; may be called again."""
        if self.open:
            self.open = False
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            self.reader.close()
            self.sock.close()

    def read_call(self) -> Call | None:
        """The next request, or None when the client closes or talks nonsense."""
        try:
            method, target, _ = self.reader.readline().decode("latin-1").split(" ", 2)
            headers = Headers()
            while line := self.reader.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = b"".join(self._body(headers))
        except (ValueError, OSError):
            return None
        return Call(method, unquote(urlsplit(target).path), headers, body, self.number)

    def _body(self, headers: Headers) -> Iterator[bytes]:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            yield self.reader.read(int(headers.get("content-length", 0)))
            return
        while size := int(self.reader.readline().split(b";")[0], 16):
            yield self.reader.read(size)
            self.reader.readline()
        self.reader.readline()


class Exchange:
    """What a behaviour holds: the request, and the means to answer it byte by byte."""

    def __init__(self, upstream: Upstream, connection: Connection, call: Call) -> None:
        self.upstream, self.connection, self.call = upstream, connection, call
        self.skin = "chat"  # "chat", "classic" or "generate"
        self.own = False  # reached by /at/ or a bare TGI route: an endpoint of one's own
        self.path = call.path  # without the /at/ prefix
        self.stream = False
        self.attempt = 1  # which request for this model this is, since behave() or reset()
        self.chunked = False

    @property
    def model(self) -> str:
        return self.call.model or "tgi"

    @property
    def body(self) -> dict[str, Any]:
        return self.call.body if isinstance(self.call.body, dict) else {}

    @property
    def parameters(self) -> dict[str, Any]:
        """Sampling parameters, wherever this skin keeps them."""
        return self.body if self.skin == "chat" else self.body.get("parameters") or {}

    # -- whole answers

    def send_json(self, status: int, obj: Any, headers: dict[str, str] | None = None) -> None:
        self.send_raw(status, json.dumps(obj, ensure_ascii=False).encode(), JSON, headers)

    def send_raw(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        fields = {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}
        self.wire(self.head(status, {k: v for k, v in fields.items() if v}) + body, last=True)

    # -- streams

    def start_stream(
        self, headers: dict[str, str] | None = None, chunked: bool = True, content_type: str = SSE
    ) -> None:
        """Send the head of a 200 stream; without chunked its end is the end of the connection."""
        self.chunked = chunked
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
        fields = {"Content-Type": content_type, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self.wire(self.head(200, {**fields, **framing, **(headers or {})}))

    def event(self, item: Any) -> None:
        """Send one SSE event: an object as JSON, a string as it is."""
        self.raw(b"data: " + payload(item) + b"\n\n")

    def raw(self, data: bytes) -> None:
        """Send bytes of the body, as one chunk if the answer is chunked."""
        self.wire(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)

    def end(self) -> None:
        """End a stream as its framing asks."""
        if self.chunked:
            self.wire(b"0\r\n\r\n", last=True)
        else:
            self.call.finished = True
            self.connection.drop()

    # -- the wire itself

    def head(self, status: int, headers: dict[str, str]) -> bytes:
        self.call.status = status
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def wire(self, data: bytes, last: bool = False) -> None:
        """Send bytes as they are, with no framing added; `last` marks the call as finished."""
        if self.call.client_closed_at or not self.connection.open:
            raise Gone
        self.call.finished = last  # before sending: a client who has read it all must find it said
        try:
            self.connection.sock.sendall(data)
        except OSError:
            self.call.finished = False
            self.mark_left()
            raise Gone from None

    def close(self) -> None:
        """Close with FIN, whatever has been sent: a chunked body stays without its end."""
        self.connection.drop()

    def reset(self) -> None:
        """Close with RST."""
        self.connection.drop(reset=True)

    def sleep(self, seconds: float) -> bool:
        """Wait; False, at once, when the client has left. Later writes then end the behaviour."""
        if self.call.client_closed_at is None and self.connection.peer_left(seconds):
            self.mark_left()
        return self.call.client_closed_at is None

    def mark_left(self) -> None:
        self.call.client_closed_at = self.call.client_closed_at or time.monotonic()


def payload(item: Any) -> bytes:
    return (item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)).encode()
