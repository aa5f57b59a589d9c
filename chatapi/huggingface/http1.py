"""HTTP/1.1 (RFC 9112) on a connection: a request out, its response as it arrives, interim ones skipped, to its end.

By hand: `http.client` follows interim responses without end, takes 103 for the answer, and reads a stream through three
layers; it cost a third of an exchange. Everything a peer can send is bounded.
"""

import contextlib
import re
import time
import zlib
from typing import Any, cast

import gevent.socket

MAX_HEAD = 65_536  # bytes of status line and fields
MAX_INTERIM = 20  # responses before the final one
MAX_SIZE_LINE = 1024  # bytes of a chunk's size and extensions
MAX_FRAMING = 1024 * 1024  # bytes by which the framing of chunks may outweigh their data: a byte to a chunk is dear
READ_SIZE = 65_536
MAX_INFLATED = 1024 * 1024  # bytes that one read gives of a compressed body

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")
_FIELD = re.compile(r"^([^:\n]+):[ \t]*(.*)$", re.M)
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;|\Z)")
_FOLD = re.compile(r"\r?\n[ \t]+")  # a line that goes on the one before


class BadResponse(Exception):
    """What arrives is no HTTP, or more than anybody should send."""


class CutShort(Exception):
    """The connection was closed before the response was complete."""


class TimeIsUp(BaseException):
    """Raised in a call's greenlet where it waits when the deadline of its exchange passes."""


class Headers(dict[str, str]):
    """Header fields by their names in lower case; `get` takes any."""

    def get(self, name: str, default: Any = "") -> Any:
        return super().get(name.lower(), default)


class Response:
    """The final response to `request`, which is sent in one write, once its head has come.

    Whatever waits does so until `deadline` (monotonic seconds): under gevent the exchange's `alarm` ends it, elsewhere
    the socket's own timeouts do, and there is none.
    """

    __slots__ = (
        *("alarm", "deadline", "ended", "headers", "is_compressed", "is_kept", "status", "was_late"),
        *("_at", "_buffer", "_chunked", "_framing", "_inflater", "_left", "_sock", "_until_close"),
    )

    def __init__(self, sock: Any, request: bytes, deadline: float, alarm: Any = None) -> None:
        self._sock = sock
        self.deadline = deadline
        self.alarm = alarm
        self.was_late = False  # something has been read behind the deadline
        self._buffer = b""
        self._at = 0  # in the buffer: what lies before has been read
        self._left = 0  # bytes of the body, or of its chunk, still to come; -1: the line end behind a chunk
        self._chunked = self._until_close = False
        self._framing = 0  # bytes by which that of chunks outweighs their data
        self.ended = False  # the body has come to its end; a compressed one may have more to give
        self._send(request)
        self.status, fields, version = self._final_head()
        self.headers = Headers(fields)
        self._begin_body(fields)
        connection = fields.get("connection", "").lower()
        kept = "close" not in connection if version else "keep-alive" in connection
        self.is_kept = kept and not self._until_close  # the connection can be used again once the body has ended
        self._inflater = _inflater(fields.get("content-encoding", "").strip().lower())
        self.is_compressed = self._inflater is not None

    # --- the socket

    def _send(self, data: bytes) -> None:
        sock, size = self._sock, len(data)
        try:
            if self.alarm is None:
                sock.settimeout(self._left_s())
            elif type(sock) is gevent.socket.socket:
                with contextlib.suppress(BlockingIOError):  # what follows waits
                    data = data[sock._sock.send(data) :]
            if data:
                sock.sendall(data)
        except OSError:
            # It may have answered without reading all of a large body; what it said counts then.
            if size < READ_SIZE:
                raise

    def _receive(self) -> bytes:
        """What arrives next; nothing where the peer has closed."""
        sock = self._sock
        if self.alarm is None:
            sock.settimeout(self._left_s())
            return cast(bytes, sock.recv(READ_SIZE))
        try:
            if type(sock) is gevent.socket.socket:
                # Nothing is there yet as a rule, and asking costs an error: to wait first is quicker. It is also a turn
                # for all others.
                sock.hub.wait(sock._read_event)
                try:
                    return cast(bytes, sock._sock.recv(READ_SIZE))
                except BlockingIOError:
                    pass  # it was nothing: what follows waits
            else:
                self.alarm.take_turns()
            return cast(bytes, sock.recv(READ_SIZE))
        except TimeIsUp:
            return self._look_once_more()

    def _look_once_more(self) -> bytes:
        # Held up ourselves we are late: what has arrived meanwhile was no silence. That goes for one look only.
        if self.was_late:
            raise TimeIsUp
        self.was_late = True
        self._sock.settimeout(0.0)
        try:
            data: bytes = self._sock.recv(READ_SIZE)
        except OSError:
            raise TimeIsUp from None
        self._sock.settimeout(None)
        self.alarm.set(self.deadline)
        return data

    def _left_s(self) -> float:
        return max(0.001, self.deadline - time.monotonic())

    # --- the head

    def _final_head(self) -> tuple[int, dict[str, str], int]:
        for _ in range(MAX_INTERIM + 1):
            head = self._head()
            found = _STATUS_LINE.match(head)
            if found is None:
                raise BadResponse("no HTTP/1 response")
            status = int(found[2])
            if status >= 200 or status == 101:
                return status, _fields(head[found.end() :]), int(found[1])
        raise BadResponse("no final response")

    def _head(self) -> str:
        """Its lines, each with its end."""
        searched = self._at
        while (end := self._blank_line(searched)) < 0:
            if (unread := len(self._buffer) - self._at) > MAX_HEAD:
                raise BadResponse("a head without end")
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

    def _begin_body(self, fields: dict[str, str]) -> None:
        encodings, lengths = fields.get("transfer-encoding", "").strip(", \t"), fields.get("content-length")
        if self.status in (204, 304):
            self.ended = True
        elif encodings:
            self._chunked = encodings.lower() == "chunked"
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
        inflater = self._inflater
        while inflater is not None:
            data = inflater.unconsumed_tail or self._read()
            try:
                inflated: bytes = inflater.decompress(data, MAX_INFLATED)
            except zlib.error:
                raise BadResponse("a body that is not compressed as it says") from None
            if inflated or not data:
                return inflated
        return self._read()

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
        with contextlib.suppress(BadResponse):
            while not self.ended and self._take():
                pass
        return self.ended

    def _fill(self, begun: bool) -> None:
        data = self._receive()
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
    if (found := _CHUNK_SIZE.match(line)) is None:
        raise BadResponse("a chunk without size")
    return int(found[1], 16)


def _fields(lines: str) -> dict[str, str]:
    """The fields; of one that comes twice, both values."""
    if "\n " in lines or "\n\t" in lines:
        lines = _FOLD.sub(" ", lines)
    found: dict[str, str] = {}
    for name, value in _FIELD.findall(lines):
        name, value = name.strip().lower(), value.strip()
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _inflater(encoding: str) -> Any:
    """What a compressed body is read with; None for one that is not."""
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadResponse(f"an encoding that was not asked for: {encoding[:20]}")
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, as its first bytes say
