"""A streamed answer: events as they come, heartbeats while nothing comes, and an end that says what it is."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
from flask import Response, g
from flask.globals import request_ctx

from ..call import Call
from ..chat import ChatJob, Chunk, StreamItem, Usage, estimated
from ..errors import ChatError, ClientLeft, InternalError, traceback_without_messages
from ..languages import _
from ..schemas import EventWriter
from ..telemetry import metrics

log = logging.getLogger(__name__)

MAX_WRITE = 65_536  # bytes that are put together for one write
BYTES_A_TOKEN = 4


class EventStream:
    """A response's body.

    An object rather than a generator: a generator that was never started does not run its `finally`, and a caller
    may leave between the status and the first byte. `close` may be called at any time, and again.
    """

    def __init__(
        self,
        call: Call,
        job: ChatJob,
        writer: EventWriter,
        items: Iterator[StreamItem],
        head: Callable[["EventStream"], Response],
        heartbeat_s: float,
    ) -> None:
        """`head` makes the answer that has this as its body; under a test client there is no heartbeat."""
        self._call = call
        self._job = job
        self._writer = writer
        self._items = items
        self._heartbeat = Heartbeat(self, call, head, heartbeat_s) if call.connection is not None else None
        self._ready: StreamItem | None = None
        self.ignored: tuple[str, ...] = ()
        self._tokens = self._size = 0  # of what was delivered: deltas, and their text in bytes
        self._done = self._drains = False

    def start(self) -> None:
        """Wait until the first chunk is there or a heartbeat has sent the head. Raises ChatError before that."""
        try:
            self._ready = next(self._items)
        except StopIteration:
            self._items = iter(())
        except BaseException as error:
            if self._heartbeat is None or not self._heartbeat.head_sent:
                self._give_up()
                raise
            self._items = _raising(error)
        if isinstance(self._ready, Chunk):
            self._call.served, self.ignored = self._ready.model, self._ready.ignored
        if self._heartbeat is not None:
            self._heartbeat.head_is_made()
        metrics.stream_opened(1)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """What is to be sent next: one event, and whatever else is already there, in one write."""
        if self._done:
            raise StopIteration
        data = self._next_events()
        while self._call.more_ready and not self._done and len(data) < MAX_WRITE:
            data += self._next_events()
        if not data and self._done:
            raise StopIteration
        if self._heartbeat is not None:
            self._heartbeat.sent_at = time.monotonic()
        return data

    def _next_events(self) -> bytes:
        try:
            if (item := self._ready) is None:
                item = next(self._items)
            else:
                self._ready = None
            if type(item) is list:
                self._tokens += len(item)
                self._size += sum(map(len, item))
                return self._writer.pieces(item)
            return self._chunk(item)  # type: ignore[arg-type]
        except StopIteration:
            data = self._writer.end()
            self._end("completed")
            return data
        except ChatError as error:
            return self._failed(error)
        except Exception as error:
            log.error("request %s: a stream failed: %s", self._call.request_id, traceback_without_messages(error))
            return self._failed(InternalError(_("An internal error occurred; the answer is not complete.")))

    def _chunk(self, chunk: Chunk) -> bytes:
        for choice in chunk.choices:
            if said := _said(choice["delta"]):
                self._tokens += 1
                self._size += len(said.encode("utf-8", "surrogatepass"))
        call = self._call
        if call.first_token_ms is None or call.served != chunk.model:
            call.answered_by(chunk.model)
        if chunk.usage:
            call.count(chunk.usage)
        return self._writer.chunk(chunk)

    def _failed(self, error: ChatError) -> bytes:
        self._call.fail(error)
        error.name_fields(self._job.caller_path)
        data = b"" if isinstance(error, ClientLeft) else self._writer.error(error, self._call.request_id)
        self._end("failed")
        return data

    # --- its end

    def close(self) -> None:
        """End the work for this stream, and the upstream's connection with it; a caller who is gone has left."""
        if self._done or not self._call.drain_s:
            self._end("client_left")
        elif not self._drains:
            self._drains = True
            self._call.leave()
            gevent.spawn(self._drain)

    def _drain(self) -> None:
        """Read on for the ledger, where the model's card says so; nobody reads what is made of it."""
        with suppress(StopIteration):
            while True:
                next(self)

    def _give_up(self) -> None:
        """The status has not gone out: the failure becomes an ordinary answer, which ends the call."""
        self._done = True
        self._release()

    def _end(self, ending: str) -> None:
        if self._done:
            return
        self._done = True
        self._release()
        metrics.stream_opened(-1)
        call = self._call
        if call.usage_source is None and (self._tokens or call.prompt_owed):
            call.count(self._delivered())
        call.end(ending)

    def _delivered(self) -> Usage:
        """Nobody counted: the prompt is owed once it was sent, and of the text what went out, in pieces or by size."""
        prompt = estimated(self._job.messages, "").prompt_tokens
        return Usage(prompt, max(self._tokens, -(-self._size // BYTES_A_TOKEN)), "estimate")

    def _release(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._call.connection.unwatch()
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


def _said(delta: dict[str, Any]) -> str:
    """The text of a delta, whatever kind it is of."""
    return "".join([value for key, value in delta.items() if isinstance(value, str) and key != "role"]) or (
        str(delta["tool_calls"]) if delta.get("tool_calls") else ""
    )


def _raising(error: BaseException) -> Iterator[StreamItem]:
    raise error
    yield


class Heartbeat:
    """A comment after every silence, so that nothing on the way takes it for the end; the status with the first.

    One timer a stream, which looks when it fires whether anything was sent since: none is set or stopped for a token.
    """

    def __init__(
        self, stream: EventStream, call: Call, head: Callable[[EventStream], Response], every_s: float
    ) -> None:
        self._call = call
        self._every_s = every_s
        # What makes the head, until there is one: no request is kept for as long as its answer takes.
        self._head: tuple[Any, partial[Response]] | None = (
            request_ctx._get_current_object(),  # type: ignore[attr-defined]
            partial(head, stream),
        )
        self.head_sent = self._over = False
        self.sent_at = time.monotonic()
        self._arm(every_s)

    def _arm(self, seconds: float) -> None:
        self._timer = gevent.get_hub().loop.timer(seconds)
        self._timer.start(self._due)

    def head_is_made(self) -> None:
        """The head goes out with the first event, where it has not yet."""
        self._head = None

    def stop(self) -> None:
        """The stream is over."""
        self._over, self._head = True, None
        self._timer.close()

    def _due(self) -> None:
        left_s = self.sent_at + self._every_s - time.monotonic()
        if left_s <= 0.001:
            self.sent_at, left_s = time.monotonic(), self._every_s
            gevent.spawn(self._send)
        self._timer.close()
        self._arm(left_s)

    def _send(self) -> None:
        if self._over:  # in the same turn of the loop
            return
        with suppress(OSError):  # nobody is there: the watch over the connection says so too
            if self._head is not None:
                (context, head), self._head, self.head_sent = self._head, None, True
                with context.copy():
                    g.call = self._call
                    response = context.app.process_response(head())
                    self._call.connection.begin(response.status, response.lines())
            self._call.connection.write(f": {self._call.waiting_for}\n\n".encode())
