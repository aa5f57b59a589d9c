"""A stream's bytes → what goes on to the caller. Pure: whoever reads the connection hands them in.

Events are parsed one by one. But most of them differ in their text alone: once a plain one was parsed, the bytes before
and after its text are known, and those that have the same around their text are passed on as pieces of it. Anything
else goes the careful way.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from typing import Any

from ..catalogue import ModelCard
from ..chat import Chunk, Json, StreamItem, Usage
from ..errors import UpstreamError, UpstreamRejected, UpstreamUnavailable
from ..languages import _
from .chat_events import ChatEvents
from .classify import classify
from .failure_facts import words_of
from .failures import UpstreamFailure, event_failure, failure_in, said_badly
from .sse import MAX_EVENT, ErrorEvent, Events, EventTooLarge
from .text import GenerateEvents
from .values import read_json, unlisted

EventReader = ChatEvents | GenerateEvents

MAX_SILENT_EVENTS = 50_000  # events and comments in a row that say nothing; some servers send one for each hidden token
MAX_STREAM = 32 * 1024 * 1024  # bytes of all events: what was said is kept, to be counted
MAX_TEMPLATES = 5  # learnt in vain: then every event of this upstream looks different

# A JSON string's characters (RFC 8259), at least one; but for U+2028, U+2029 and U+0085, at which half of all readers
# of events split lines.
_TEXT = rb'(?:[^"\\\x00-\x1f\xc2\xe2]++|\xc2(?!\x85)|\xe2(?!\x80[\xa8\xa9])|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))++'
_TEXTS = re.compile(_TEXT + rb"(?:\n" + _TEXT + rb")*+")  # a line each
MAX_RUN = 32_768  # bytes in which plain events are looked for at once
_CONTENT = re.compile(rb'"content"\s*:\s*"((?:[^"\\]|\\.)*+)"')
_AROUND_DONE = b' "[]\t'


class Relay:
    """One stream."""

    __slots__ = (
        *("_card", "_count", "_events", "_heard", "_silent_events", "_malformed"),
        *("_prefix", "_reader", "_secret", "_size", "_suffix", "_templates"),
        *("complete", "done", "failure", "heard", "malformed"),
    )

    def __init__(
        self, card: ModelCard, reader: EventReader, count: Callable[[str, Usage], Usage], secret: str | None = None
    ) -> None:
        self._card = card
        self._reader = reader
        self._count = count
        self._secret = secret
        self._events = Events()
        self._prefix = self._suffix = b""  # around the text of a plain event; empty while none is known
        self._templates = 0  # learnt since one was of use
        self._silent_events = 0
        self._size = 0  # bytes received
        self._malformed = ""  # the beginning of the first event that was none
        self._heard = 0  # events that were read
        self.heard = 0  # signs of life: comments are some (TGI sends one every 15 s), once there was an event
        self.malformed = 0
        self.failure: UpstreamError | None = None  # what ended it
        self.done = False  # [DONE] came
        self.complete = False  # every answer that was asked for has ended

    @property
    def ended(self) -> bool:
        """Whether every answer that has begun has ended."""
        return self._reader.ended

    def finish(self) -> list[StreamItem]:
        """The last chunks of a stream that has ended. Raises UpstreamError where that is no end of the answer."""
        finish = self._reader.end()
        return [finish, Chunk(model=self._card.id, usage=self._count(self._card.id, self._reader.count()))]

    def whole(self, events: list[bytes]) -> list[StreamItem]:
        """All that the data of these events give, and the end. Raises the UpstreamError that they are instead."""
        items = [item for data in events for item in self.take(b"data: " + data + b"\n\n")]
        items += self.end()
        if self.failure:
            raise self.failure
        return items + self.finish()

    def take(self, received: bytes) -> list[StreamItem]:
        """What `received` gives for the caller. Once it has failed, `failure` says how."""
        items: list[StreamItem] = []
        self._size += len(received)
        try:
            if not (self._prefix and self._is_one(received, items)):
                self._take(self._events.lines(received), items)
            if self._heard:
                self.heard = self._heard + self._events.comments
            if self._size > MAX_STREAM:
                raise said_badly(_("The upstream's answer is larger than {bytes} bytes.", bytes=MAX_STREAM))
        except UpstreamError as error:
            self.failure = error
        except EventTooLarge:
            self.failure = UpstreamUnavailable(
                _(
                    "The upstream of '{model}' sent an event of more than {bytes} bytes.",
                    model=self._card.id,
                    bytes=MAX_EVENT,
                )
            )
        return items

    def end(self) -> list[StreamItem]:
        """What is left at the end of the body."""
        items: list[StreamItem] = []
        try:
            for data in self._events.end():
                self._event(data, b"", items)
            self._look_at_stray()
            if not self._heard and not self.failure:
                raise self._nothing()
        except UpstreamError as error:
            self.failure = error
        return items

    def _look_at_stray(self) -> None:
        """A stream that ended before its answer did may say why on a line that is no event."""
        if self._reader.ended or not self._events.stray:
            return
        with suppress(ValueError):
            if failure := failure_in(read_json(self._events.stray), self._secret):
                raise self._failed(failure)

    def _nothing(self) -> UpstreamError:
        if self._malformed:
            words = self._malformed.rstrip(".")
            return UpstreamUnavailable(
                _("The upstream of '{model}' sent no events: {words}. Try again.", model=self._card.id, words=words)
            )
        return UpstreamUnavailable(_("The upstream of '{model}' sent an empty stream. Try again.", model=self._card.id))

    def _take(self, lines: bytes, items: list[StreamItem]) -> None:
        events, at, size = self._events, 0, len(lines)
        comments = events.comments
        while at < size and not self.done:
            if events.between and self._prefix:
                start, at = at, self._run(lines, at, items)
                if at > start:
                    continue
            start, end = at, lines.find(b"\n\n", at)
            at = end + 2 if end >= 0 else size
            event = lines[start:at]
            if events.between and end >= 0 and event.startswith(b"data:") and event.count(b"\n") == 2:
                events.size = 0  # one line of data, and all of it is here: it need not be fed
                self._event(event[6:-2] if event.startswith(b"data: ") else event[5:-2], event, items)
                continue
            for data in events.feed(event):
                self._event(data, b"", items)
        self._silent_events += events.comments - comments
        if self._silent_events > MAX_SILENT_EVENTS:
            raise said_badly(
                _("The upstream of '{model}' sends events that say nothing, without end.", model=self._card.id)
            )

    # --- the fast way

    def _is_one(self, received: bytes, items: list[StreamItem]) -> bool:
        """Pass on a packet that is one plain event, as it comes where events are sent as soon as they are there."""
        if not (received.startswith(self._prefix) and received.endswith(self._suffix)):
            return False
        if not self._events.between or self._events.after_cr:
            return False
        text = received[len(self._prefix) : -len(self._suffix)]
        if not _is_text(text):
            return False
        self._pass_on([text], items)
        return True

    def _pass_on(self, pieces: list[bytes], items: list[StreamItem]) -> None:
        self._reader.passed_on(pieces)
        self._templates = self._silent_events = 0
        self._heard += 1
        items.append(pieces)

    def _run(self, lines: bytes, at: int, items: list[StreamItem]) -> int:
        """Pass on the plain events at `at`; where the next other one begins."""
        prefix, suffix = self._prefix, self._suffix
        if not lines.startswith(prefix, at):
            return at
        # No text has a quotation mark in it, and what stands around texts begins with one: it cuts at events alone.
        *pieces, last = lines[at + len(prefix) : at + MAX_RUN].split(suffix + prefix)
        if (end := last.find(suffix)) >= 0:
            pieces.append(last[:end])
        joined = b"\n".join(pieces)
        if joined.count(b"\n") >= len(pieces) or not _are_texts(joined):
            pieces = list(takewhile(_is_text, pieces))
        if not pieces:
            return at
        self._pass_on(pieces, items)
        return at + sum(map(len, pieces)) + len(pieces) * (len(prefix) + len(suffix))

    def _learn(self, whole: bytes) -> None:
        """Remember what stands around the text of a plain event, if it does so exactly once."""
        self._prefix = self._suffix = b""
        if self._templates >= MAX_TEMPLATES or whole.count(b'"content"') != 1:
            return
        found = _CONTENT.search(whole) if self._reader.plain else None
        if found is None:
            return
        prefix, suffix = whole[: found.start(1)], whole[found.end(1) :]
        # Escaped, the name of the text could stand elsewhere; what began with a bracket is an event in a list.
        if b"\\" in (prefix + suffix).replace(b"\\/", b"") or not suffix.endswith(b"}\n\n"):
            return
        self._prefix, self._suffix = prefix, suffix
        self._templates += 1

    # --- the careful way

    def _event(self, data: bytes, whole: bytes, items: list[StreamItem]) -> None:
        if self.done:
            return
        if data.strip(_AROUND_DONE).upper() == b"DONE":
            self.done = True
            self._reader.done()
            if not self._heard:
                raise self._nothing()
            return
        self._silent_events += 1
        chunk = False if isinstance(data, ErrorEvent) else self._reader.glance(data)
        if chunk is False:
            if (event := self._parsed(data)) is None:
                return
            if failure := failure_in(event, self._secret):
                raise self._failed(failure)
            chunk = self._reader.feed(event)
        self._heard += 1
        self.complete = self._reader.complete
        if chunk is None:
            self._prefix = b""  # what it adds goes out with the next chunk, which is no plain one then
            return
        items.append(chunk)
        self._silent_events = 0
        if whole:
            self._learn(whole)
        else:
            self._prefix = b""

    def _parsed(self, data: bytes) -> Json | None:
        try:
            event: Any = read_json(data)
        except ValueError:
            event = None
        event = unlisted(event)
        if isinstance(data, ErrorEvent):
            raise self._failed(event_failure(event, data.decode("utf-8", "replace"), self._secret))
        if isinstance(event, dict):
            return event
        self.malformed += 1
        self._malformed = self._malformed or words_of(None, bytes(data), self._secret)
        return None

    def _failed(self, failure: UpstreamFailure) -> UpstreamError:
        error = classify(self._card, failure)
        # What began to be answered was not the caller's mistake: TGI says 422 there whatever the cause (HF§4.3).
        if type(error) is UpstreamRejected and failure.status == 422 and self._reader.begun:
            return UpstreamUnavailable(error.message, upstream_status=error.upstream_status)
        return error


def _is_text(text: bytes) -> bool:
    return b"\n" not in text and _are_texts(text)


def _are_texts(lines: bytes) -> bool:
    if _TEXTS.fullmatch(lines) is None:
        return False
    try:
        return lines.isascii() or bool(lines.decode())
    except UnicodeDecodeError:
        return False
