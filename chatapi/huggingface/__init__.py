"""The Hugging Face client: one model asked once, whole or streamed, its answer in our nouns.

Nothing here knows a dialect of ours; the embedded engine is one more server that it talks to.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from ..call import Call
from ..catalogue import ModelCard
from ..chat import ChatJob, Chunk, Json, Reply, StreamItem, Usage, estimated
from ..errors import UpstreamError, UpstreamRejected, UpstreamUnavailable
from .classify import classify as verdict
from .failures import UpstreamFailure as Refusal
from .failures import failure_in as error_in
from .models import Listing
from .sse import Events, EventTooLarge
from .tasks import EventReader, Task, refuse_impossible, task_for
from .transport import Answer, Exchange, Request, Transport

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

    def check(self, card: ModelCard, job: ChatJob) -> None:
        """Raises BadRequest or ContextLengthExceeded for what `card` is known not to be able to do."""
        if card.is_chat and card.url is None:
            self._listing.check(card, job)
        refuse_impossible(card, job, self._listing.able)

    def reply(self, card: ModelCard, job: ChatJob, call: Call, deadline: float) -> Reply:
        """A whole answer, by `deadline` (monotonic seconds). Raises UpstreamError, BadRequest or ClientLeft."""
        task = task_for(card)
        request = _awaiting(card, deadline, task.request(self._base, card, job, stream=False))
        call.asked.append(card.id)
        answer = self._transport.fetch(request, call, deadline)
        reply = _reply(task, card, job, answer)
        return replace(reply, usage=self._count(card.id, reply.usage))

    def stream(self, card: ModelCard, job: ChatJob, call: Call, deadline: float) -> Iterator[StreamItem]:
        """The answer as it comes, its finish and usage last; returns when its first event is there, by `deadline`.

        Afterwards silence is limited by the idle timeout and everything by the call's deadline. A stream that does
        not end well raises UpstreamError, whatever was yielded before. Close what is returned.
        """
        task = task_for(card)
        events = task.events(card, job)
        if events is None:
            return chunks_of(self.reply(card, job, call, deadline))
        call.asked.append(card.id)
        try:
            opened = self._open(task, card, job, call, deadline)
        except UpstreamRejected as refused:
            if "`stream` is not supported" not in refused.message:
                raise
            opened = self.reply(card, job, call, deadline)
        if isinstance(opened, Reply):
            return chunks_of(replace(opened, usage=self._count(card.id, opened.usage)))
        return self._relay(card, job, call, events, opened)

    def _open(self, task: Task, card: ModelCard, job: ChatJob, call: Call, deadline: float) -> "Reply | _Stream":
        """A stream whose first event has come, or the whole answer of an upstream that does not stream."""
        request = _awaiting(card, deadline, task.request(self._base, card, job, stream=True))
        exchange = self._transport.open(request, call, deadline)
        try:
            if exchange.status != 200 or "text/event-stream" not in exchange.headers.get("Content-Type", "").lower():
                return _reply(task, card, job, Answer(exchange.status, exchange.headers, exchange.rest(deadline)))
            stream = _Stream(card, exchange, call)
            stream.await_first(deadline)
            return stream
        except BaseException:
            exchange.close()
            raise

    def _relay(
        self, card: ModelCard, job: ChatJob, call: Call, events: EventReader, stream: "_Stream"
    ) -> Iterator[StreamItem]:
        said: list[str] = []
        with closing(stream):
            while True:
                silence_s = AFTER_FINISH_S if events.complete else self._idle_timeout_s
                try:
                    event = stream.next(time.monotonic() + silence_s, silence_s)
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
                raise UpstreamUnavailable(
                    f"The answer of '{card.id}' was cut: its stream ended before it was finished."
                )
            call.more_ready = True
            yield events.end()
            usage = events.usage or estimated(job.messages, "".join(said))
            yield Chunk(model=card.id, usage=self._count(card.id, usage))
            call.more_ready = False


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

    def await_first(self, deadline: float) -> None:
        """Wait for the first event. Raises the error it is, or UpstreamUnavailable when there is none."""
        self._first = self.next(deadline)
        if self._first is None:
            raise UpstreamUnavailable(f"The upstream of '{self._card.id}' sent an empty stream. Try again.")

    def next(self, deadline: float, silence_s: float = 0.0) -> Any:
        """The next event, or None at the end. Raises UpstreamError for an error event, UpstreamTimeout at `deadline`.

        A comment is a sign of life (TGI sends one every 15 s): after it another `silence_s` may pass.
        """
        if first := self._first:
            self._first = None
            return first
        while True:
            while self._ready:
                data = self._ready.popleft()
                self._call.more_ready = bool(self._ready)
                if data.strip() == b"[DONE]":
                    self._ended = True
                    self._exchange.settle()
                    return None
                if (event := self._parsed(data)) is not None:
                    return event
            if self._ended:
                return None
            received = self._exchange.read(min(deadline, self._call.deadline))
            if self._take(received) and silence_s:
                deadline = time.monotonic() + silence_s

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
            self._call.malformed_events += 1
            return None
        if refusal := error_in(event):
            raise verdict(self._card, refusal)
        return event


def _awaiting(card: ModelCard, deadline: float, request: Request) -> Request:
    # Asks the proxy of a sleeping Inference Endpoint to hold the request while it wakes, instead of a 503 (HF§5.2).
    seconds = int(deadline - time.monotonic())
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


def chunks_of(reply: Reply) -> Iterator[Chunk]:
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
