"""HTTP/1.1 answers off a socket, read to the letter: what a strict client would stumble over raises Malformed."""

import json
import re
import socket
from typing import Any, NamedTuple

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d) [\t -~]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")
_CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


class Malformed(Exception):
    """What arrived is no answer, or breaks off."""


class Answer(NamedTuple):
    """One final answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool  # False: it broke off where its framing says so

    @property
    def json(self) -> Any:
        """The body's value. Raises ValueError for what is no strict JSON."""
        return json.loads(self.body, parse_constant=_refuse)

    @property
    def events(self) -> list[Any]:
        """The values of the events of a stream; "[DONE]" as it is. Raises ValueError."""
        *blocks, rest = self.body.split(b"\n\n")
        if rest and self.whole:
            raise ValueError(f"after the last event: {rest[:100]!r}")
        lines = [line for block in blocks for line in block.split(b"\n") if not line.startswith((b":", b"event: "))]
        data = [line.removeprefix(b"data: ") for line in lines if line]
        if any(not line.startswith(b"data: ") for line in lines if line):
            raise ValueError(f"a line that is no field: {self.body[:300]!r}")
        return [one.decode() if one == b"[DONE]" else json.loads(one, parse_constant=_refuse) for one in data]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


class Reader:
    """Answers as they arrive on `sock`, whose timeout is how long a silence may be."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = self._buffer = b""
        self.closed = False

    def rewind(self) -> None:
        """Begin anew with what has arrived: for who was timed out amid an answer."""
        self._buffer = self._received

    def answer(self, is_head: bool = False) -> Answer | None:
        """The next final answer; None where the connection ends before one. Raises Malformed, TimeoutError."""
        while True:
            head = self._until(b"\r\n\r\n")
            if head is None:
                if self._buffer:
                    raise Malformed(f"a head that breaks off: {self._buffer[:300]!r}")
                return None
            status, headers = _parsed(head)
            if status >= 200:
                break
        return Answer(status, headers, *self._body(status, headers, is_head))

    def _body(self, status: int, headers: dict[str, str], is_head: bool) -> tuple[bytes, bool]:
        if is_head or status in (204, 304):
            return b"", True
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"] != "chunked" or "content-length" in headers:
                raise Malformed(f"framing: {headers}")
            return self._chunks()
        if (length := headers.get("content-length")) is not None:
            while len(self._buffer) < int(length):
                if not self._fill():
                    return self._take(int(length)), False
            return self._take(int(length)), True
        while self._fill():
            pass
        return self._take(len(self._buffer)), True

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            line = self._until(b"\r\n")
            if line is None:
                return body, False
            if not (found := _CHUNK.fullmatch(line)):
                raise Malformed(f"a chunk's size: {line[:100]!r}")
            size = int(found[1], 16)
            while len(self._buffer) < size + 2:
                if not self._fill():
                    return body + self._take(size), False
            body += self._take(size)
            if self._take(2) != b"\r\n":
                raise Malformed(f"a chunk longer than its size, after {body[-100:]!r}")
            if not size:
                return body, True

    def rest(self) -> bytes:
        """All that comes to the connection's end."""
        while self._fill():
            pass
        return self._take(len(self._buffer))

    def _until(self, end: bytes) -> bytes | None:
        while (at := self._buffer.find(end)) < 0:
            if not self._fill():
                return None
        return self._take(at + len(end))

    def _take(self, size: int) -> bytes:
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _fill(self) -> bool:
        try:
            data = self._sock.recv(65_536)
        except ConnectionError:
            data = b""
        self.closed = not data
        self._received += data
        self._buffer += data
        return bool(data)


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if not (found := _STATUS.fullmatch(line)):
        raise Malformed(f"a status line: {line[:300]!r}")
    headers: dict[str, str] = {}
    for field in fields:
        if not (parsed := _FIELD.fullmatch(field)):
            raise Malformed(f"a header: {field[:300]!r}")
        headers[parsed[1].decode().lower()] = parsed[2].decode("latin-1")
    return int(found[1]), headers
