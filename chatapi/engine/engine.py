"""Which model answers: a job → its card and fallbacks → the client, within the call's limits. Knows no dialect."""

import random
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from ..call import MAX_UPSTREAM_REQUESTS, WAITING, Call
from ..catalogue import Catalogue, ModelCard
from ..chat import ChatJob, Json, Reply, StreamItem
from ..errors import (
    BadRequest,
    ChatError,
    ContentFiltered,
    ContextLengthExceeded,
    ModelNotFound,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    WorkerStopped,
)
from ..huggingface import HuggingFace
from ..languages import _, use
from .circuit import FAILURES, Attempt, Circuit
from .continuation import Continuation

T = TypeVar("T")
SINCE = 1795305600  # `created` of our own model objects: the gateway's first day, in Unix seconds
MAX_ATTEMPTS = 3  # at one model
BACKOFF_S = (0.4, 1.2)  # before the second and the third attempt, each ±25 %
LONG_WAIT_S = 3.0  # an upstream that wants to be left alone for longer is not waited for while a fallback is left


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The limits of a call, in seconds; the reply's and the first token's hold where a fallback is left."""

    call_s: float = 120.0
    reply_s: float = 45.0
    first_token_s: float = 10.0


class FallbackChain:
    """The cards to ask, one after another; tell it of each failure."""

    def __init__(self, cards: list[ModelCard], call: Call) -> None:
        self._left = cards
        self._card: ModelCard | None = None  # the one at hand
        self._call = call
        self._failure: ChatError | None = None

    def next(self) -> ModelCard | None:
        """The card to ask next, or None where no other is to be asked."""
        if self._card is not None:
            if not self._left or len(self._call.asked) >= MAX_UPSTREAM_REQUESTS:
                return None
            self._call.fallbacks += 1
        self._card = self._left.pop(0)
        return self._card

    @property
    def failure(self) -> ChatError:
        """The error of the model asked for."""
        assert self._failure  # the first model is always asked
        return self._failure

    @property
    def is_last(self) -> bool:
        """Whether no other model is left after the one at hand."""
        return not self._left

    def deadline(self, limit_s: float) -> float:
        """When to give up on the model at hand: after `limit_s` where another is left, else the call's end."""
        return self._call.deadline if self.is_last else min(self._call.deadline, time.monotonic() + limit_s)

    def note(self, error: UpstreamError | BadRequest) -> None:
        """Go on to the next model after `error`; raises it where no other model is to be asked."""
        first = self._failure is None
        self._failure = self._failure or error
        if isinstance(error, ContentFiltered):
            raise error  # the verdict is about the text, whoever gives it
        if first and not (isinstance(error, UpstreamError) and error.fallback):
            raise error
        if time.monotonic() >= self._call.deadline:
            raise self._failure
        if isinstance(error, ContextLengthExceeded) and self._card and (size := self._card.context_tokens):
            # The prompt is too long for a model no larger, too.
            self._left = [card for card in self._left if not card.context_tokens or card.context_tokens > size]


class Engine:
    """Answers jobs."""

    def __init__(self, catalogue: Catalogue, client: HuggingFace, limits: TimeLimits, circuit: Circuit) -> None:
        self.catalogue = catalogue
        self.circuit = circuit
        self._client = client
        self._limits = limits
        self._open: weakref.WeakSet[Call] = weakref.WeakSet()

    def begin(self, job: ChatJob, call: Call) -> None:
        """`call` is for `job`: from here on a deadline of the job's is its own, and a stop of this process ends it."""
        if job.max_time_s:
            call.set_deadline(min(job.max_time_s, self._limits.call_s))
        self._open.add(call)

    def begin_probe(self, call: Call, seconds: float) -> None:
        """`call` asks no model, and takes at most `seconds`; a stop of this process ends it too."""
        call.set_deadline(seconds)
        self._open.add(call)

    def stop(self) -> None:
        """End every open call with WorkerStopped: this process has no more time."""
        for call in list(self._open):
            use(call.language)
            call.interrupt(WorkerStopped(_("The gateway is being restarted. Send the request again.")))

    def reachable(self) -> str:
        """In a few words that no circuit is open. Raises UpstreamUnavailable naming those that are."""
        if opened := self.circuit.opened():
            raise UpstreamUnavailable("failing: " + ", ".join(sorted(opened)))
        return "no circuit is open"

    def models(self) -> dict[str, Json]:
        """Model objects by id: the catalogue's, with what the upstream's list knows of the same, then the list's."""
        embedded = self.catalogue.embedded
        own = [embedded, *self.catalogue.cards.values()] if embedded else self.catalogue.cards.values()
        listed = {} if embedded else {m["id"]: m for m in self._client.models()}
        return listed | {card.id: self._object(card, listed) for card in own}

    def _object(self, card: ModelCard, listed: dict[str, Json]) -> Json:
        answers = self.catalogue.find(card.id)
        known = listed.get(answers.id.partition(":")[0], {}) if answers.url is None else {}
        shown: Json = {"id": card.id, "object": "model", "created": SINCE, "owned_by": card.id.split("/")[0]}
        shown |= {"task": answers.task, "context_length": answers.context_tokens or known.get("context_length")}
        if card.shutdown_date:
            shown["shutdown_date"] = card.shutdown_date
        return known | shown | ({"served_by": answers.id} if answers.id != card.id else {})

    # --- answers

    def reply(self, job: ChatJob, call: Call) -> Reply:
        """The whole answer, of the first model in line that gives one.

        Raises ChatError: when all fail, the error of the model asked for.
        """
        chain = FallbackChain(self._cards(job), call)
        while card := chain.next():
            deadline = chain.deadline(self._limits.reply_s)
            try:
                reply, attempt = self._attempts(self._client.reply, chain, card, job, call, deadline)
            except (UpstreamError, BadRequest) as error:
                chain.note(error)
            else:
                attempt.succeeded()
                return reply
        raise chain.failure

    def stream(self, job: ChatJob, call: Call) -> Iterator[StreamItem]:
        """The answer as it comes. One answer, whatever model had to finish it.

        A stream that breaks after text has gone out is continued by the next model that can; where none can, the
        error of the model asked for is raised.
        """
        cards = self._cards(job)
        chain = FallbackChain(cards, call)
        if len(cards) == 1 and not cards[0].prefill and (card := chain.next()):
            return self._streamed(chain, card, job, call)
        return self._continued(chain, job, call)

    def _continued(self, chain: FallbackChain, job: ChatJob, call: Call) -> Iterator[StreamItem]:
        sent = Continuation(job)
        while card := chain.next():
            failed: UpstreamError | BadRequest | None = None
            ways = sent.ways(card)
            while ways:
                ask = ways.pop(0)
                try:
                    yield from sent.relay(self._streamed(chain, card, ask(job), call))
                    return
                except (UpstreamError, BadRequest) as error:
                    refused = isinstance(error, UpstreamRejected | BadRequest)
                    # A prefill that is refused says nothing of the answer that broke off before it.
                    failed = failed if failed and refused else error
                # Where it was refused, the same model is asked afresh if that is left; else it goes on after itself.
                if not refused:
                    ways = sent.again(card) if chain.is_last else []
            assert failed  # there is a way to ask every card
            chain.note(failed)
            if not sent.plain:
                raise chain.failure
        raise chain.failure

    def _streamed(self, chain: FallbackChain, card: ModelCard, job: ChatJob, call: Call) -> Iterator[StreamItem]:
        deadline = chain.deadline(self._limits.first_token_s)
        items, attempt = self._attempts(self._client.stream, chain, card, job, call, deadline)
        try:
            with closing(items):  # type: ignore[type-var]
                yield from items
        except ChatError as error:
            _tell_circuit(error, attempt, job, call, opened=True)
            raise
        attempt.succeeded()

    # --- one model

    def _cards(self, job: ChatJob) -> list[ModelCard]:
        first = self.catalogue.find(job.model)
        cards = {first.id: first}
        for model in first.fallbacks if job.fallbacks is None else job.fallbacks:
            try:
                card = self.catalogue.find(model)
            except ModelNotFound:
                continue
            cards.setdefault(card.id, card)
        return list(cards.values())

    def _attempts(
        self,
        ask: Callable[[ModelCard, ChatJob, Call, float], T],
        chain: FallbackChain,
        card: ModelCard,
        job: ChatJob,
        call: Call,
        deadline: float,
    ) -> tuple[T, Attempt]:
        """What `ask` gives, tried again while its failures are transient and `deadline` leaves time to wait.

        With it the attempt, which is told of its success once the answer is whole. The upstream's own hint
        (`Retry-After`, `estimated_time`) outranks our backoff. The last error is let through.
        """
        call.drain_s = card.drain_s
        self._client.check(card, job)
        subject = call.caller.subject if call.caller else ""
        for number in count():
            attempt = self.circuit.enter(f"{card.id} at {card.url}" if card.url else card.id, subject)
            if attempt.wait_s:
                raise _left_alone(card, attempt.wait_s)
            try:
                return ask(card, job, call, deadline), attempt
            except ChatError as error:
                failed = error
                _tell_circuit(error, attempt, job, call, opened=False)
            wait_s = _wait_before_next(number, failed, card, call)
            if wait_s is None or time.monotonic() + wait_s >= deadline:
                raise failed
            if not chain.is_last and (wait_s > LONG_WAIT_S or attempt.is_open):
                raise failed
            call.waiting_for = f"{failed.code.replace('_', ' ')}, about {max(1, round(wait_s))} s"
            call.pause(wait_s)
            call.waiting_for = WAITING
        raise AssertionError  # there is no end to count()


def _left_alone(card: ModelCard, wait_s: float) -> UpstreamUnavailable:
    """The error of a call that may not make an attempt at `card`, for its circuit is open."""
    return UpstreamUnavailable(
        _(
            "The upstream of '{model}' failed {times} times in a row and is left alone for a moment.",
            model=card.id,
            times=FAILURES,
        ),
        retry_after_s=wait_s,
    )


def _wait_before_next(number: int, error: ChatError, card: ModelCard, call: Call) -> float | None:
    """Seconds until another attempt at `card`, or None."""
    if not (isinstance(error, UpstreamError) and error.transient) or len(call.asked) >= MAX_UPSTREAM_REQUESTS:
        return None
    # Ids that differ in their suffix alone are one model at several providers, and share its attempts.
    same = card.id.partition(":")[0]
    if number + 1 >= MAX_ATTEMPTS or sum(asked.partition(":")[0] == same for asked in call.asked) >= MAX_ATTEMPTS:
        return None
    return max(error.retry_after_s or 0.0, BACKOFF_S[number] * random.uniform(0.75, 1.25))


def _tell_circuit(error: ChatError, attempt: Attempt, job: ChatJob, call: Call, opened: bool) -> None:
    """Tell the circuit what `error` shows of the server; `opened`: its answer had begun."""
    if isinstance(error, UpstreamError) and _shows_a_sick_server(error, job, call, opened):
        attempt.failed()
    elif isinstance(error, UpstreamRejected):
        attempt.succeeded()  # it reads what it is sent: a sign of life
    else:
        attempt.abandoned()


def _shows_a_sick_server(error: UpstreamError, job: ChatJob, call: Call, opened: bool) -> bool:
    """Whether `error` counts for the circuit: nothing that the request itself brought about does."""
    if isinstance(error, UpstreamTimeout):
        if time.monotonic() >= call.deadline:
            return not (job.max_time_s or call.first_byte_at or call.left)
        return opened or job.fallbacks is None  # a limit that the caller's own fallbacks brought in shows nothing
    if not isinstance(error, UpstreamUnavailable):
        return False
    return error.blames_upstream and (error.upstream_status is None or job.is_ordinary)
