"""The Hugging Face client: one model asked once, whole or streamed, its answer in our nouns.

Nothing here knows a dialect of ours; the embedded engine is one more server that it talks to.
"""

import time
from collections.abc import Callable, Iterator

from ..call import Call
from ..catalogue import ModelCard
from ..chat import ChatJob, Json, Reply, StreamItem, Usage
from ..errors import ChatError, UpstreamError, UpstreamRejected, UpstreamUnavailable
from ..languages import _
from . import abilities
from .chat import Chat
from .classify import classify
from .exchange import Exchange, silence
from .failure_facts import words_of
from .failures import UpstreamFailure, failure_in
from .models import Listing
from .relay import Relay
from .sse import are_events, listed_events
from .text import Classic, Generate
from .transport import Transport
from .values import as_utf8, read_text
from .whole import chunks_of, reply_of

__all__ = ["HuggingFace", "Transport"]

AFTER_FINISH_S = 1.0  # how long usage and [DONE] may take once every choice has finished
AT_ONCE = 8192  # bytes of events that are read before others have a turn: they may be 10 bytes each
MAX_UNDECIDED = 65_536  # bytes of blanks before what tells events from one body


# How a model is asked and its answer read. Another way is a class with the same four methods, chosen by `task_for`.
Task = Chat | Classic
CHAT, CLASSIC, GENERATE = Chat(), Classic(), Generate()


def task_for(card: ModelCard) -> Task:
    """How `card`'s model is asked."""
    if card.is_chat:
        return CHAT
    return GENERATE if card.url else CLASSIC


class HuggingFace:
    """Asks models at `base`, or at their card's own `url`."""

    def __init__(
        self,
        transport: Transport,
        base: str,
        idle_timeout_s: float,
        count: Callable[[str, Usage], Usage] = lambda model, usage: usage,
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
        if not card.takes_all:
            abilities.check(card, job, self._listing.able)

    def reply(self, card: ModelCard, job: ChatJob, call: Call, deadline: float) -> Reply:
        """A whole answer, by `deadline` (monotonic seconds). Raises UpstreamError, BadRequest or ClientLeft."""
        task = task_for(card)
        exchange = self._open(task, card, job, call, deadline, stream=False)
        try:
            begun, events = self._sniffed(exchange, exchange.read(deadline), deadline)
            reader = task.events(card, job) if events else None
            if reader is None:
                return self._reply(task, card, job, exchange, begun, deadline)
            relay = Relay(card, reader, self._count, self._transport.token)
            stream = _AnswerStream(call, exchange, relay, self._idle_timeout_s, deadline)
            stream.await_words(begun, deadline)
            return reply_of(card.id, stream)
        finally:
            exchange.close()

    def stream(self, card: ModelCard, job: ChatJob, call: Call, deadline: float) -> Iterator[StreamItem]:
        """The answer as it comes, its finish and usage last; returns when its first words are there, by `deadline`.

        Afterwards silence is limited by the idle timeout and everything by the call's deadline. A stream that does
        not end well raises UpstreamError, whatever was yielded before. Close what is returned.
        """
        task = task_for(card)
        reader = task.events(card, job)
        if reader is None:
            return chunks_of(self.reply(card, job, call, deadline))
        try:
            exchange = self._open(task, card, job, call, deadline, stream=True)
        except UpstreamRejected as refused:
            if "`stream` is not supported" not in refused.message:
                raise
            return chunks_of(self.reply(card, job, call, deadline))
        try:
            begun, events = self._sniffed(exchange, exchange.read(deadline), deadline)
            if not events:
                reply = self._reply(task, card, job, exchange, begun, deadline)
                exchange.close()
                return chunks_of(reply)
            relay = Relay(card, reader, self._count, self._transport.token)
            stream = _AnswerStream(call, exchange, relay, self._idle_timeout_s, call.deadline)
            stream.await_words(begun, deadline)
            return stream
        except BaseException:
            exchange.close()
            raise

    def _open(self, task: Task, card: ModelCard, job: ChatJob, call: Call, deadline: float, stream: bool) -> Exchange:
        """An exchange whose answer is one. Raises the error that it is otherwise."""
        request = task.request(self._base, card, job, stream)
        if card.url:
            request.headers = _awaiting(deadline)
        call.asked.append(card.id)
        try:
            exchange = self._transport.open(request, call, deadline)
        except UpstreamUnavailable:
            raise
        except ChatError:  # it is at work, and nobody waits for it any more
            call.prompt_owed = True
            raise
        if 200 <= exchange.response.status < 300:
            call.prompt_owed = True
            return exchange
        try:
            raw = exchange.beginning(deadline)
        finally:
            exchange.close()
        failure = UpstreamFailure.of(exchange.response.status, exchange.response.headers, raw, self._transport.token)
        raise classify(card, failure)

    def _sniffed(self, exchange: Exchange, begun: bytes, deadline: float) -> tuple[bytes, bool]:
        """The beginning of a body, and whether it is events: its first bytes say so, not its label."""
        if begun.startswith((b"{", b"data:")):  # nearly always
            return begun, begun[:1] == b"d"
        data = begun
        labelled = "text/event-stream" in exchange.response.headers.get("Content-Type").lower()
        while True:
            events = are_events(begun, labelled)
            if events is None and not data:  # nothing at all: its label says what it lacks
                events = labelled
            if events is not None or len(begun) > MAX_UNDECIDED:
                return begun, bool(events)
            if time.monotonic() >= deadline:
                raise silence()
            begun += (data := exchange.read(deadline))

    def _reply(
        self, task: Task, card: ModelCard, job: ChatJob, exchange: Exchange, begun: bytes, deadline: float
    ) -> Reply:
        """The whole answer that one body is."""
        response = exchange.response
        whole = response.ended and not response.is_compressed
        raw = begun if whole else exchange.rest(deadline, begun)
        reply = task.glance(card, job, raw) or self._read_any_form(task, card, job, exchange, raw)
        if reply.usage.texts is not None:
            reply.usage = self._count(card.id, reply.usage)
        return reply

    def _read_any_form(self, task: Task, card: ModelCard, job: ChatJob, exchange: Exchange, raw: bytes) -> Reply:
        """The answer that a body of any form is."""
        raw = as_utf8(raw, exchange.response.headers.get("Content-Type"))
        if (lines := listed_events(raw)) and (reader := task.events(card, job)):
            relay = Relay(card, reader, self._count, self._transport.token)
            return reply_of(card.id, relay.whole(lines))
        try:
            body = read_text(raw)
        except ValueError:
            raise _no_json(card, raw, self._transport.token) from None
        if failure := failure_in(body, self._transport.token):
            raise classify(card, failure)
        return task.reply(card, job, body, exchange.response.headers)


class _AnswerStream:
    """A stream that has begun to answer: its items, the first of which says something.

    An object rather than a generator: one that was never started would not close its exchange.
    """

    __slots__ = (
        *("_at", "_call", "_ended", "_exchange", "_finished"),
        *("_heard", "_heard_at", "_idle_s", "_limit", "_ready", "_relay"),
    )

    def __init__(self, call: Call, exchange: Exchange, relay: Relay, idle_s: float, limit: float) -> None:
        self._call = call
        self._exchange = exchange
        self._relay = relay
        self._idle_s = idle_s
        self._limit = limit  # monotonic, for all of it
        self._ready: list[StreamItem] = []  # a deque has room for 64 from the start
        self._at = 0  # of these, what comes next
        self._ended = False  # the stream; what it gave may still be ready
        self._finished = False
        self._heard, self._heard_at = 0, time.monotonic()

    def await_words(self, begun: bytes, deadline: float) -> None:
        """Read until there is something of the answer itself: a role is no token, nor is a comment.

        Raises the error that the stream is instead.
        """
        self._take(begun)
        while not any(map(_says_something, self._ready)):
            if self._relay.failure:
                raise self._relay.failure
            if self._ended:
                self._finish()
                return
            self._read(deadline)

    def __iter__(self) -> Iterator[StreamItem]:
        return self

    def __next__(self) -> StreamItem:
        while self._at == len(self._ready):
            if self._relay.failure:
                raise self._relay.failure
            if self._finished:
                raise StopIteration
            if self._ended:
                self._finish()
            else:
                self._read(self._limit)
        item = self._ready[self._at]
        self._at += 1
        self._call.more_ready = self._at < len(self._ready)
        return item

    def close(self) -> None:
        """End it, and with it the exchange."""
        self._call.more_ready = False
        self._exchange.close()

    def _read(self, limit: float) -> None:
        """Read what comes next. Raises UpstreamTimeout where nothing does."""
        relay = self._relay
        if relay.heard:  # before the first event only the limit holds
            limit = min(limit, self._heard_at + (AFTER_FINISH_S if relay.complete else self._idle_s))
        try:
            received = self._exchange.read(limit)
        except UpstreamError:
            # A finished answer whose [DONE] never comes is whole; so is one with fewer choices than were asked for.
            if not relay.ended:
                raise
            received = b""
        now = time.monotonic()
        if received and now >= self._limit:
            raise silence()
        self._take(received)
        if relay.heard != self._heard:
            self._heard, self._heard_at = relay.heard, now

    def _take(self, received: bytes) -> None:
        relay = self._relay
        del self._ready[: self._at]
        self._at = 0
        if len(received) <= AT_ONCE:
            self._ready.extend(relay.take(received) if received else relay.end())
        else:
            for part in _parts(received):
                self._ready.extend(relay.take(part))
                self._exchange.let_others()
        if relay.malformed:
            self._call.malformed_events += relay.malformed
            relay.malformed = 0
        if relay.done or not received:
            self._ended = True
            self._exchange.settle()

    def _finish(self) -> None:
        self._finished = True
        self._ready += self._relay.finish()


def _parts(received: bytes) -> Iterator[bytes]:
    """`received` in parts of at most AT_ONCE bytes, cut where lines end."""
    at = 0
    while at < len(received):
        end = received.rfind(b"\n", at, at + AT_ONCE) + 1 or at + AT_ONCE
        yield received[at:end]
        at = end


def _says_something(item: StreamItem) -> bool:
    if isinstance(item, list):
        return True
    return any(value for choice in item.choices for key, value in choice["delta"].items() if key != "role")


def _awaiting(deadline: float) -> dict[str, str]:
    # Asks the proxy of a sleeping Inference Endpoint to hold the request while it wakes, instead of a 503 (HF§5.2).
    seconds = int(deadline - time.monotonic())
    return {"X-Scale-Up-Timeout": str(seconds)} if seconds > 0 else {}


def _no_json(card: ModelCard, raw: bytes, secret: str | None) -> UpstreamUnavailable:
    message = _("The upstream of '{model}' sent an answer that is not JSON. Try again.", model=card.id)
    if words := words_of(None, raw, secret).rstrip("."):
        message = _("The upstream of '{model}' sent no JSON: {words}. Try again.", model=card.id, words=words)
    return UpstreamUnavailable(message, upstream_status=200)
