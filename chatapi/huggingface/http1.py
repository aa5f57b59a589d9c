"""HTTP/1.1 responses (RFC 9112) as they arrive on a connection: head, interim responses skipped, body, its end.

By hand: `http.client` follows interim responses without end, takes 103 for the answer, and reads a stream through three
layers; it cost a third of an exchange. Everything a peer can send is bounded. Nothing is known here of sockets but how
to receive.
"""

import re
import zlib
from collections.abc import Callable
from typing import Any

MAX_HEAD = 65_536  # bytes of status line and fields
MAX_INTERIM = 20  # responses before the final one
MAX_SIZE_LINE = 1024  # bytes of a chunk's size and extensions
MAX_FRAMING = 1024 * 1024  # bytes by which the framing of chunks may outweigh their data: a byte to a chunk is dear
READ_SIZE = 65_536
MAX_INFLATED = 1024 * 1024  # bytes that one read gives of a compressed body

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")
_FIELD = re.compile(r"^([^:\n]+):[ \t]*(.*)$", re.M)
_FOLD = re.compile(r"\r?\n[ \t]+")  # a line that goes on the one before


class BadResponse(Exception):
    """What arrives is no HTTP, or more than anybody should send."""


class CutShort(Exception):
    """The connection was closed before the response was complete."""


class Headers(dict[str, str]):
    """Header fields, asked for in any case."""

    def get(self, name: str, default: Any = "") -> Any:
        """The field's value, or `default`."""
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())


class Response:
    """The final response on a connection; `receive(size)` gives what has arrived, nothing at the connection's end."""

    __slots__ = (
        *("receive", "status", "headers", "is_kept", "ended", "_buffer", "_at", "_left", "_chunked", "_until_close"),
        *("is_compressed", "_framing", "_inflate", "_deflated"),
    )

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self.receive = receive
        self._buffer = b""
        self._at = 0  # in the buffer: what lies before has been read
        self._left = 0  # bytes of the body, or of its chunk, still to come; -1: the line end behind a chunk
        self._chunked = self._until_close = False
        self._framing = 0  # bytes by which that of chunks outweighs their data
        self.ended = False  # the body has come to its end; a compressed one may have more to give
        self.status, self.headers, version = self._final_head()
        self._begin_body(self.headers)
        connection = self.headers.get("connection").lower()
        kept = "close" not in connection if version else "keep-alive" in connection
        self.is_kept = kept and not self._until_close  # the connection can be used again once the body has ended
        self._inflate = _inflater(self.headers.get("content-encoding").strip().lower())
        self.is_compressed = self._inflate is not None
        self._deflated = b""

    # --- the head

    def _final_head(self) -> tuple[int, Headers, int]:
        for _ in range(MAX_INTERIM + 1):
            head = self._head()
            found = _STATUS_LINE.match(head)
            if found is None:
                raise BadResponse("no HTTP/1 response")
            status = int(found[2])
            if status >= 200 or status == 101:
                return status, _headers(head[found.end() :]), int(found[1])
        raise BadResponse("no final response")

    def _head(self) -> str:
        """Its lines, each with its end."""
        searched = self._at
        while (end := self._blank_line(searched)) < 0:
            if len(self._buffer) - self._at > MAX_HEAD:
                raise BadResponse("a head without end")
            unread = len(self._buffer) - self._at
            self._fill(begun=unread > 0)  # which moves what is unread to the buffer's beginning
            searched = max(0, unread - 3)
        if end - self._at > MAX_HEAD:
            raise BadResponse("a head without end")
        head = self._buffer[self._at : end] + b"\n"
        self._at = end + (4 if self._buffer.startswith(b"\r\n\r\n", end) else 2)
        return head.decode("latin-1")

    def _blank_line(self, start: int) -> int:
        end = self._buffer.find(b"\r\n\r\n", start)
        return end if end >= 0 else self._buffer.find(b"\n\n", start)

    def _begin_body(self, headers: Headers) -> None:
        encodings, lengths = headers.get("transfer-encoding"), headers.get("content-length", None)
        if self.status in (204, 304):
            self.ended = True
        elif encodings.strip(", \t"):
            self._chunked = encodings.strip(", \t").lower() == "chunked"
            self._until_close = not self._chunked
        elif lengths is not None:
            length, *others = {part.strip() for part in lengths.split(",")}
            if others or not (length.isascii() and length.isdigit() and len(length) <= 15):
                raise BadResponse("a length that is none")
            self._left = int(length)
            self.ended = self._left == 0
        else:
            self._until_close = True

    # --- the body

    def read(self) -> bytes:
        """What arrives next of the body, at least a byte; nothing at its end. Raises CutShort."""
        if self._inflate is None:
            return self._read()
        while True:
            data = self._deflated or self._read()
            inflated, self._deflated = self._inflate(data)
            if inflated or not data:
                return inflated

    def _read(self) -> bytes:
        while not self.ended:
            if self._at < len(self._buffer) and (data := self._take()):
                return data
            if self.ended:
                break
            self._fill(begun=True)
        return b""

    def ends_here(self) -> bool:
        """Whether all that has arrived and was not read is the end of the body."""
        while not self.ended:
            try:
                if not self._take():
                    break
            except BadResponse:
                break
        return self.ended

    def _fill(self, begun: bool) -> None:
        data = self.receive(READ_SIZE)
        if data:
            self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
            self._at = 0
        elif self._until_close:
            self.ended = True
        elif begun:
            raise CutShort
        else:
            raise ConnectionResetError("closed before a response")

    def _take(self) -> bytes:
        """What the buffer holds of the body; nothing where more has to arrive."""
        if self._chunked:
            return self._whole_chunk() or self._chunks()
        data = self._buffer[self._at :] if self._at else self._buffer
        if not self._until_close:
            data = data[: self._left]
            self._left -= len(data)
            self.ended = self._left == 0
        self._at += len(data)
        return data

    def _whole_chunk(self) -> bytes:
        """The data of the buffer where it is one chunk, as an event comes that is sent as soon as it is there."""
        buffer, size = self._buffer, len(self._buffer)
        if self._left or self._at or (line_end := buffer.find(b"\r\n", 0, 10)) <= 0 or not buffer.endswith(b"\r\n"):
            return b""
        length = size - line_end - 4
        if 2 * length <= size or _chunk_size(buffer[:line_end]) != length:
            return b""
        self._at = size
        return buffer[line_end + 2 : -2]

    def _chunks(self) -> bytes:
        """The data of the chunks in the buffer, the last one perhaps in part."""
        buffer, at, left, size = self._buffer, self._at, self._left, len(self._buffer)
        data: list[bytes] = []
        while at < size:
            if left > 0:
                piece = buffer[at : at + left]
                data.append(piece)
                at += len(piece)
                left = left - len(piece) or -1
                continue
            line_end = buffer.find(b"\n", at)
            if line_end < 0:
                if size - at > MAX_SIZE_LINE:
                    raise BadResponse("a chunk without size")
                break
            line = buffer[at : line_end - 1 if buffer[line_end - 1] == 13 and line_end > at else line_end]
            if left == -1:
                if line:
                    raise BadResponse("a chunk longer than its size")
                at, left = line_end + 1, 0
                continue
            left = _chunk_size(line)
            if left == 0:
                self._end_of_chunks(line_end + 1, at)
                return b"".join(data)
            at = line_end + 1
        joined = data[0] if len(data) == 1 else b"".join(data)
        self._framing = max(0, self._framing + at - self._at - 2 * len(joined))
        if self._framing > MAX_FRAMING:
            raise BadResponse("chunks that hold nothing")
        self._at, self._left = at, left
        return joined

    def _end_of_chunks(self, at: int, size_line: int) -> None:
        """The last chunk's size was read: the body has ended where its trailer, empty as a rule, has."""
        end = at
        self._at, self._left = size_line, 0  # to be read again, should the trailer not be there yet
        while (line_end := self._buffer.find(b"\n", end)) >= 0:
            if not self._buffer[end:line_end].removesuffix(b"\r"):
                self._at, self.ended = line_end + 1, True
                return
            end = line_end + 1
        if len(self._buffer) - at > MAX_HEAD:
            raise BadResponse("a trailer without end")


def _chunk_size(line: bytes) -> int:
    digits = line if line.isalnum() else line.partition(b";")[0].strip(b" \t")
    if not digits.isalnum() or len(digits) > 15:
        raise BadResponse("a chunk without size")
    try:
        return int(digits, 16)
    except ValueError:
        raise BadResponse("a chunk without size") from None


def _headers(lines: str) -> Headers:
    """The fields; of one that comes twice, both values."""
    if "\n " in lines or "\n\t" in lines:
        lines = _FOLD.sub(" ", lines)
    found: dict[str, str] = {}
    for name, value in _FIELD.findall(lines):
        name, value = name.strip().lower(), value.strip()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return Headers(found)


def _inflater(encoding: str) -> Callable[[bytes], tuple[bytes, bytes]] | None:
    """Gives of a piece of a compressed body at most MAX_INFLATED bytes, and what is left of it."""
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadResponse(f"an encoding that was not asked for: {encoding[:20]}")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, as its first bytes say

    def inflate(data: bytes) -> tuple[bytes, bytes]:
        try:
            return inflater.decompress(data, MAX_INFLATED), inflater.unconsumed_tail
        except zlib.error:
            raise BadResponse("a body that is not compressed as it says") from None

    return inflate
