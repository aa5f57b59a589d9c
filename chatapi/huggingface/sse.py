"""Server-sent events: bytes as they arrive → the `data` of each event (WHATWG HTML §9.2, with HF§4.1's quirks)."""

import json
import re
from collections.abc import Iterator

from .values import read_json

MAX_EVENT = 16 * 1024 * 1024  # bytes; an upstream that never ends a line must not fill our memory
MAX_LISTED = 20_000  # events in one body, which are read without a pause
BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data", b"event", b"id", b"retry")
_CHOICES = re.compile(rb'"(?:choices|candidates)"')
_ANY_FIELD = re.compile(rb"[A-Za-z_-]{1,40}:")
_FIELD = re.compile(rb"(?:data|event|id|retry)?[:\n\r]")


def are_events(begun: bytes, labelled: bool = False) -> bool | None:
    """Whether a body that begins so is events, whatever its label says; None where it may yet be either.

    A field that is not known here begins events only where the body is `labelled` as such: it may be any text.
    """
    start = begun.removeprefix(BOM).lstrip()
    if not start:
        return None
    if _FIELD.match(start) or (labelled and _ANY_FIELD.match(start)):
        return True
    return None if any(field.startswith(start) for field in _FIELDS) or BOM.startswith(begun) else False


def listed_events(body: bytes) -> list[bytes]:
    """The JSON of each event where one body lists several, a line each or as an array; else empty."""
    begun = body.removeprefix(BOM).lstrip()
    if begun[:1] == b"[":
        return _in_array(begun) if _CHOICES.search(begun[:2000]) else []
    first, _end, more = begun.partition(b"\n")
    if not (more.strip() and first[:1] == b"{" and first.rstrip()[-1:] == b"}") or more.count(b"\n") > MAX_LISTED:
        return []
    lines = [line for line in begun.splitlines() if line.strip()]
    return lines if all(line[:1] == b"{" and line.rstrip()[-1:] == b"}" for line in lines) else []


def _in_array(body: bytes) -> list[bytes]:
    try:
        listed = read_json(body)
    except ValueError:
        return []
    several = isinstance(listed, list) and 1 < len(listed) <= MAX_LISTED
    return [json.dumps(event).encode() for event in listed] if several else []


class EventTooLarge(ValueError):
    """An event passed MAX_EVENT bytes without ending."""


class ErrorEvent(bytes):
    """The data of an event that is called `error`."""


class Events:
    """Give it what arrives, split anywhere; it gives whole events.

    A line ends at CR, LF or CRLF, and is cut as bytes: a str would also split at U+2028 and U+0085, which are ordinary
    characters inside JSON, and a character may be cut in two by the network. A byte order mark may come first, in
    packets of its own. Unlike a browser it takes an event whose last line or blank line the end of the stream cut off.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # pieces of a line whose end has not come
        self._data: list[bytes] = []  # lines of an event whose end has not come
        self._error = False  # that event is called "error"
        self._start: bytes | None = b""  # what may be the beginning of a byte order mark; None once that is known
        self.between = True  # an event has just ended, and nothing of the next one has come
        self.after_cr = False  # a LF that comes next belongs to the line end already seen
        self.size = 0  # bytes received since the last event ended
        self.comments = 0  # and lines of other fields
        self.stray = b""  # an object on a line of its own: some servers tell so what broke their stream off

    def lines(self, received: bytes) -> bytes:
        """`received` with LF for every line end, and without byte order mark: what `feed` takes."""
        if self._start is not None:
            received = self._without_mark(received)
        if self.after_cr and received:
            self.after_cr = False
            received = received.removeprefix(b"\n")
        if b"\r" in received:
            self.after_cr = received.endswith(b"\r")
            received = received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return received

    def feed(self, lines: bytes) -> Iterator[bytes]:
        """The data of each event that `lines` complete. Comments and other fields are passed over."""
        self.size += len(lines)
        if b"\n" not in lines:
            if lines:
                self._rest.append(lines)
        else:
            *whole, rest = b"".join((*self._rest, lines)).split(b"\n")
            self._rest = [rest] if rest else []
            for line in whole:
                if line.startswith(b"data:"):
                    # One space after the colon belongs to the syntax; older TGI leaves it out.
                    self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                elif not line:
                    if self._data:
                        # What this packet still holds of later events is counted when those go on.
                        self.size = len(rest)
                        yield self._take()
                    self._error = False
                elif line == b"data":
                    self._data.append(b"")
                else:
                    self.comments += 1
                    if line.startswith(b"event:"):
                        self._error = line[6:].strip().lower() == b"error"
                    elif line.startswith(b"{"):
                        self.stray = line
        self.between = not (self._rest or self._data or self._error)
        if self.size > MAX_EVENT:
            raise EventTooLarge(f"an event of more than {MAX_EVENT} bytes")

    def end(self) -> Iterator[bytes]:
        """At the end of the stream: an event whose closing blank line, or even whose line end, was left out."""
        if self._start:
            self._rest.append(self._start)
        yield from self.feed(b"\n\n") if self._rest or self._data else ()

    def _without_mark(self, received: bytes) -> bytes:
        begun = (self._start or b"") + received
        if len(begun) < len(BOM) and BOM.startswith(begun):
            self._start = begun
            return b""
        self._start = None
        return begun.removeprefix(BOM)

    def _take(self) -> bytes:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        return ErrorEvent(data) if self._error else data
