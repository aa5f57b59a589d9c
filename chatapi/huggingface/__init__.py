"""The Hugging Face client: one model asked, whole or streamed, its answer in our nouns.

Nothing here knows a dialect of ours; the embedded engine is one more server that it talks to.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from typing import Any

from ..catalogue import ModelCard
from ..chat import (
    BEAT,
    Call,
    ChatJob,
    Chunk,
    Json,
    Reply,
    Usage,
    Waiting,
    estimated,
)
from ..errors import UpstreamError, UpstreamRejected, UpstreamUnavailable
from .classify import classify as verdict
from .failures import UpstreamFailure as Refusal
from .failures import failure_in as error_in
from .models import Listing
from .sse import Events, EventTooLarge
from .tasks import EventReader, Task, refuse_impossible, task_for
from .transport import Answer, Exchange, Request, Transport, attempts, silence

__all__ = ["HuggingFace", "Transport"]

AFTER_FINISH_S = 1.0  # how long usage and [DONE] may take once every choice has finished


def _as_it_is(model: str, usage: Usage) -> Usage:
    return usage


class HuggingFace:
    """Asks models at `base`, or at their card's own `url`."""

    def __init__(
        self, transport: Transport, base: str, idle_timeout_s: float, count: Callable[[str, Usage], Usage] = _as_it_is
    ) -> None:
        self._transport = transport
        self._base = base
        self._idle_timeout_s = idle_timeout_s
        self._count = count
        self._listing = Listing(transport, base)

    def models(self) -> list[Json]:
        """What the upstream lists as its chat models; empty where it cannot be reached."""
        return self._listing.models()

    def reply(self, card: ModelCard, job: ChatJob, call: Call, until: float) -> Waiting[Reply]:
        """A whole answer. Raises UpstreamError, BadRequest (what the model cannot do) or ClientLeft.

        `until` (monotonic seconds) bounds attempts and waits together.
        """
        task = task_for(card)
        self._check(card, job)
        request = task.request(self._base, card, job, stream=False)

        def once() -> Waiting[Reply]:
            answer = yield from self._transport.fetch(_awaiting(card, until, request), call, until)
            return _reply(task, card, job, answer)

        reply = yield from attempts(call, until, once)
        return replace(reply, usage=self._count(card.id, reply.usage))

    def stream(self, card: ModelCard, job: ChatJob, call: Call, until: float) -> Generator[Chunk | str]:
        """The answer's chunks as they come, finish and usage last; comments (str) while waiting.

        `until` bounds the time to the first event; after it silence is limited by the idle timeout and everything
        by the call's deadline. A stream that does not end well raises UpstreamError, whatever was yielded before.
        """
        task = task_for(card)
        events = task.events(card, job)
        if events is None:
            reply = yield from self.reply(card, job, call, until)
            yield from chunks_of(reply)
            return
        self._check(card, job)
        try:
            opened = yield from attempts(call, until, lambda: self._open(task, card, job, call, until))
        except UpstreamRejected as refused:
            if "`stream` is not supported" not in refused.message:
                raise
            opened = yield from self.reply(card, job, call, until)
        if isinstance(opened, Reply):
            yield from chunks_of(replace(opened, usage=self._count(card.id, opened.usage)))
        else:
            with closing(opened):
                yield from self._relay(card, job, call, events, opened)

    def _check(self, card: ModelCard, job: ChatJob) -> None:
        if card.is_chat and card.url is None:
            self._listing.check(card, job)
        refuse_impossible(card, job, self._listing.able)

    def _open(self, task: Task, card: ModelCard, job: ChatJob, call: Call, until: float) -> "Waiting[Reply | _Stream]":
        """A stream whose first event has come, or the whole answer of an upstream that does not stream."""
        request = _awaiting(card, until, task.request(self._base, card, job, stream=True))
        exchange = self._transport.start(request, call)
        try:
            head = yield from exchange.head(until)
            if head.status != 200 or "text/event-stream" not in head.headers.get("Content-Type", "").lower():
                body = yield from exchange.rest(until)
                return _reply(task, card, job, Answer(head.status, head.headers, body))
            stream = _Stream(card, exchange, call)
            yield from stream.await_first(until)
            return stream
        except BaseException:
            exchange.close()
            raise

    def _relay(
        self, card: ModelCard, job: ChatJob, call: Call, events: EventReader, stream: "_Stream"
    ) -> Generator[Chunk | str]:
        said: list[str] = []
        while True:
            silence_s = AFTER_FINISH_S if events.complete else self._idle_timeout_s
            until = min(time.monotonic() + silence_s, call.ends_at)
            try:
                event = yield from stream.next(until, silence_s)
            except UpstreamError as error:
                # A finished answer whose [DONE] never comes is whole; one that an error event follows is not.
                if events.complete and not error.upstream_status:
                    break
                raise _in_mid_stream(error) from None
            if event is None:
                break
            if chunk := events.feed(event):
                said += [c["delta"].get("content") or "" for c in chunk.choices]
                yield chunk
        if not events.complete:
            raise UpstreamUnavailable(f"The answer of '{card.id}' was cut: its stream ended before it was finished.")
        yield events.end()
        usage = events.usage or estimated(job.messages, "".join(said))
        yield Chunk(model=card.id, usage=self._count(card.id, usage))


class _Stream:
    """The events of one exchange, each a JSON object; None at its end."""

    def __init__(self, card: ModelCard, exchange: Exchange, call: Call) -> None:
        self._card = card
        self._call = call
        self._exchange = exchange
        self._events = Events()
        self._ready: deque[bytes] = deque()
        self._first: Any = None
        self._ended = False

    def await_first(self, until: float) -> Waiting[None]:
        """Wait for the first event. Raises the error it is, or UpstreamUnavailable when there is none."""
        self._first = yield from self.next(until)
        if self._first is None:
            raise UpstreamUnavailable(f"The upstream of '{self._card.id}' sent an empty stream. Try again.")

    def next(self, until: float, silence_s: float = 0.0) -> Waiting[Any]:
        """The next event, or None at the end. Raises UpstreamError for an error event, UpstreamTimeout at `until`.

        A comment is a sign of life (TGI sends one every 15 s): after it another `silence_s` may pass.
        """
        if first := self._first:
            self._first = None
            return first
        while True:
            while self._ready:
                data = self._ready.popleft()
                if data.strip() == b"[DONE]":
                    self._drain()
                    return None
                if (event := self._parsed(data)) is not None:
                    return event
            if self._ended:
                return None
            received = self._exchange.receive(until)
            if received is BEAT:
                yield "waiting for the model"
            elif received is None:
                raise silence()
            elif self._take(received) and silence_s:
                until = time.monotonic() + silence_s

    def close(self) -> None:
        """Close the connection, if the stream has not ended by itself."""
        self._exchange.close()

    def _take(self, received: bytes) -> bool:
        """Read what arrived; whether a comment was among it."""
        comments = self._events.comments
        try:
            self._ready.extend(self._events.feed(received) if received else self._events.end())
        except EventTooLarge as error:
            raise UpstreamUnavailable(f"The upstream of '{self._card.id}' sent {error}.") from None
        self._ended = not received
        return self._events.comments > comments

    def _parsed(self, data: bytes) -> Any:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self._call.malformed += 1
            return None
        if refusal := error_in(event):
            raise verdict(self._card, refusal)
        return event

    def _drain(self) -> None:
        # The end of the body is in the same packet as [DONE] as a rule: reading it lets the connection be used again.
        self._ended = True
        self._exchange.settle()


def _awaiting(card: ModelCard, until: float, request: Request) -> Request:
    # Asks the proxy of a sleeping Inference Endpoint to hold the request while it wakes, instead of a 503 (HF§5.2).
    seconds = int(until - time.monotonic())
    return replace(request, headers={"X-Scale-Up-Timeout": str(seconds)}) if card.url and seconds > 0 else request


def _in_mid_stream(error: UpstreamError) -> UpstreamError:
    # What began to be answered was not the caller's mistake: TGI says 422 there whatever the cause (HF§4.3).
    if type(error) is not UpstreamRejected:
        return error
    return UpstreamUnavailable(error.message, upstream_status=error.upstream_status)


def _reply(task: Task, card: ModelCard, job: ChatJob, answer: Answer) -> Reply:
    refusal = Refusal.of(answer.status, answer.headers, answer.body)
    if answer.status != 200:
        raise verdict(card, refusal)
    if inner := error_in(refusal.body):
        raise verdict(card, inner)
    if refusal.body is None:
        raise UpstreamUnavailable(
            f"The upstream of '{card.id}' sent an answer that is not JSON. Try again.", upstream_status=200
        )
    return task.reply(card, job, refusal.body, answer.headers)


def chunks_of(reply: Reply) -> Generator[Chunk]:
    """A whole answer as a stream: its text in one chunk, then finish and usage."""
    for choice in reply.choices:
        delta = {k: v for k, v in choice["message"].items() if v is not None}
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        begun = {
            "index": choice["index"],
            "delta": delta,
            "logprobs": choice["logprobs"],
            "finish_reason": None,
        }
        yield _chunk(reply, begun)
    for choice in reply.choices:
        ended = {
            "index": choice["index"],
            "delta": {},
            "logprobs": None,
            "finish_reason": choice["finish_reason"],
        }
        yield _chunk(reply, ended)
    yield Chunk(model=reply.model, usage=reply.usage)


def _chunk(reply: Reply, choice: Any) -> Chunk:
    return Chunk(
        model=reply.model,
        choices=[choice],
        system_fingerprint=reply.system_fingerprint,
        ignored=reply.ignored,
    )
