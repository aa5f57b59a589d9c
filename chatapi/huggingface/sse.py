"""Server-sent events: bytes as they arrive → the `data` of each event (WHATWG HTML §9.2, with HF§4.1's quirks)."""

from collections.abc import Iterator

MAX_EVENT = 16 * 1024 * 1024  # bytes; an upstream that never ends a line must not fill our memory


class EventTooLarge(ValueError):
    """An event passed MAX_EVENT bytes without ending."""


class Events:
    """Feed it bytes, split anywhere; it gives whole events.

    Lines end at LF or CRLF and are cut as bytes: a str would also split at U+2028 and U+0085, which are ordinary
    characters inside JSON, and a character may be cut in two by the network.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # pieces of a line whose end has not come
        self._data: list[bytes] = []  # lines of an event whose end has not come
        self.comments = 0
        self._size = 0  # bytes received since the last event ended

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The data of each event that `received` completes. Comments and other fields are passed over."""
        self._rest.append(received)
        self._size += len(received)
        if b"\n" in received:
            lines = b"".join(self._rest).split(b"\n")
            self._rest = [lines.pop()]
            for line in lines:
                if line.endswith(b"\r"):
                    line = line[:-1]
                if line.startswith(b"data:"):
                    # One space after the colon belongs to the syntax; older TGI leaves it out.
                    self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                elif line.startswith(b":"):
                    self.comments += 1
                elif not line and self._data:
                    # What this packet still holds of later events is counted when those go on.
                    self._size = len(self._rest[0])
                    yield self._take()
        if self._size > MAX_EVENT:
            raise EventTooLarge(f"an event of more than {MAX_EVENT} bytes")

    def end(self) -> Iterator[bytes]:
        """At the end of the stream: an event whose closing blank line, or even whose line end, was left out."""
        yield from self.feed(b"\n\n") if any(self._rest) or self._data else ()

    def _take(self) -> bytes:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        return data
