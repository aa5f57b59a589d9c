"""The engine: a job → its card and fallbacks → the client, within the call's budget. Knows no dialect, no Flask."""

import math
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from ..catalogue import Catalogue, ModelCard
from ..chat import (
    Call,
    ChatJob,
    Choice,
    Chunk,
    Json,
    Reply,
    Usage,
    Waiting,
    estimate_tokens,
    text_of,
)
from ..errors import (
    BadRequest,
    ChatError,
    ContentFiltered,
    ContextLengthExceeded,
    InternalError,
    ModelNotFound,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    WorkerStopped,
)
from .circuit import FAILURES, Circuit

SINCE = 1795305600  # `created` of our own model objects: the gateway's first day, in Unix seconds


class Client(Protocol):
    """Asks one model."""

    def reply(self, card: ModelCard, job: ChatJob, call: Call, until: float) -> Waiting[Reply]:
        """A whole answer, by `until`."""
        ...

    def stream(self, card: ModelCard, job: ChatJob, call: Call, until: float) -> Generator[Chunk | str]:
        """The answer's chunks, the first by `until`."""
        ...

    def models(self) -> list[Json]:
        """What the upstream lists."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of a call, in seconds."""

    max_time_s: float = 120.0
    reply_s: float = 45.0
    first_token_s: float = 10.0
    heartbeat_s: float = 15.0


class Engine:
    """Answers jobs."""

    def __init__(self, catalogue: Catalogue, client: Client, budget: Budget, circuit: Circuit) -> None:
        self.catalogue = catalogue
        self.circuit = circuit
        self._client = client
        self._open: weakref.WeakSet[Call] = weakref.WeakSet()
        self._budget = budget

    def seconds_for(self, job: ChatJob) -> float:
        """The time that `job` and the operator allow."""
        return min(job.max_time_s or math.inf, self._budget.max_time_s)

    def call_for(self, job: ChatJob, headers: Mapping[str, str]) -> Call:
        """A new call; `headers` go along to the upstream."""
        call = Call(self.seconds_for(job), self._budget.heartbeat_s if job.stream else math.inf, headers)
        self._open.add(call)
        return call

    def stop(self) -> None:
        """End every open call with WorkerStopped: this process has no more time."""
        for call in list(self._open):
            call.stop(WorkerStopped("The gateway is being restarted. Send the request again."))

    def reachable(self) -> str:
        """In a few words that no circuit is open. Raises UpstreamUnavailable naming those that are."""
        if opened := self.circuit.opened():
            raise UpstreamUnavailable("failing: " + ", ".join(sorted(opened)))
        return "no circuit is open"

    def models(self) -> dict[str, Json]:
        """Model objects by id: the catalogue's, then those that the upstream lists."""
        embedded = self.catalogue.embedded
        own = [embedded, *self.catalogue.cards.values()] if embedded else self.catalogue.cards.values()
        listed = [] if embedded else self._client.models()
        return {m["id"]: m for m in [*listed, *map(self._object, own)]}

    def _object(self, card: ModelCard) -> Json:
        answers = self.catalogue.find(card.id)
        shown: Json = {"id": card.id, "object": "model", "created": SINCE, "owned_by": card.id.split("/")[0]}
        shown |= {"task": answers.task, "context_length": answers.context_tokens}
        return shown | ({"served_by": answers.id} if answers.id != card.id else {})

    def reply(self, job: ChatJob, call: Call) -> Waiting[Reply]:
        """The whole answer, of the first model in line that gives one.

        Raises ChatError: when all fail, the error of the model asked for.
        """
        line = _Line(self._cards(job), call)
        for card in line:
            until = line.until(self._budget.reply_s)
            try:
                with self._judged(card, job, call):
                    return (yield from self._client.reply(card, job, call, until))
            except (UpstreamError, BadRequest) as error:
                line.note(error)
        raise line.failure

    def stream(self, job: ChatJob, call: Call) -> Generator[Chunk | str]:
        """The answer's chunks, comments while waiting. One answer, whatever model had to finish it.

        A stream that breaks after text has gone out is continued by the next model that can; where none can, the
        error of the model asked for is raised.
        """
        cards = self._cards(job)
        if len(cards) == 1:
            yield from self._asked(cards[0], job, call, call.ends_at)
            return
        line = _Line(cards, call)
        sent = Sent(plain=job.options.get("n", 1) == 1)
        for card in line:
            for ask in sent.ways(card):
                try:
                    until = line.until(self._budget.first_token_s)
                    yield from sent.relay(self._asked(card, ask(job), call, until))
                    return
                except (UpstreamError, BadRequest) as error:
                    line.note(error)
                    if not sent.plain:
                        raise line.failure from None
                    if not isinstance(error, UpstreamRejected | BadRequest):
                        break  # only a refused prefill is worth asking the same model afresh
        raise line.failure

    def _asked(self, card: ModelCard, job: ChatJob, call: Call, until: float) -> Generator[Chunk | str]:
        with self._judged(card, job, call):
            yield from self._client.stream(card, job, call, until)

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

    @contextmanager
    def _judged(self, card: ModelCard, job: ChatJob, call: Call) -> Iterator[None]:
        """Ask only where the circuit is closed, and tell it how it went. A caller who left is no verdict."""
        call.drain_s = card.drain_s
        name = f"{card.id} at {card.url}" if card.url else card.id
        if wait_s := self.circuit.closed_for(name):
            raise UpstreamUnavailable(
                f"The upstream of '{card.id}' failed {FAILURES} times in a row and is left alone for a moment.",
                retry_after_s=wait_s,
            )
        try:
            yield
        except UpstreamTimeout:
            # A call whose own time is over has not shown that the upstream is ill, unless nothing ever came.
            if time.monotonic() < call.ends_at or not (job.max_time_s or call.answered or call.left):
                self.circuit.failed(name)
            raise
        except UpstreamUnavailable:
            self.circuit.failed(name)
            raise
        self.circuit.succeeded(name)


class _Line:
    """The models in line for one call, and the error it ends with if none of them answers."""

    def __init__(self, cards: list[ModelCard], call: Call) -> None:
        self._cards = cards
        self._call = call
        self._place = 0
        self._failure: ChatError | None = None
        self._larger_than: int | None = None

    def __iter__(self) -> Iterator[ModelCard]:
        for place, card in enumerate(self._cards):
            self._place = place
            if self._larger_than and card.context_tokens and card.context_tokens <= self._larger_than:
                continue  # the prompt was too long for a model no smaller
            self._call.fallbacks = place
            yield card

    @property
    def failure(self) -> ChatError:
        """The error of the model asked for."""
        return self._failure or InternalError("No model was asked.")

    def until(self, limit_s: float) -> float:
        """When to give up on the model at hand: `limit_s` where another is left, else the call's end."""
        last = self._place + 1 == len(self._cards)
        return self._call.ends_at if last else min(self._call.ends_at, time.monotonic() + limit_s)

    def note(self, error: UpstreamError | BadRequest) -> None:
        """Go on to the next model after `error`; raises it where no other model is to be asked."""
        first = self._failure is None
        self._failure = self._failure or error
        if isinstance(error, ContentFiltered):
            raise error  # the verdict is about the text, whoever gives it
        if first and not (isinstance(error, UpstreamError) and error.fallback):
            raise error
        if time.monotonic() >= self._call.ends_at:
            raise self._failure
        if isinstance(error, ContextLengthExceeded):
            self._larger_than = self._cards[self._place].context_tokens


class Sent:
    """What has gone out of a stream, and how another model can go on from there."""

    def __init__(self, plain: bool) -> None:
        self._one = plain
        self.plain = True  # so far nothing but text of one choice: what another model can go on from
        self._pieces: list[str] = []
        self._begun = False  # a chunk has gone out, and the role with it
        self._continues = False  # the model at hand is not the one that began
        self._awaited = ""  # what it must repeat before it says anything new
        self._prompt_tokens = 0  # of the caller's own messages, at least
        self._before: int | None = None  # tokens sent before it began, where they were part of its prompt

    def ways(self, card: ModelCard) -> list[Callable[[ChatJob], ChatJob]]:
        """How to ask `card`: as the caller did; once text is out, where it can, from that text on first."""
        return [self._from_here, self._afresh] if self._pieces and card.prefill and card.is_chat else [self._afresh]

    def _afresh(self, job: ChatJob) -> ChatJob:
        self._continues, self._awaited, self._before = self._begun, "".join(self._pieces), None
        return job

    def _from_here(self, job: ChatJob) -> ChatJob:
        text = "".join(self._pieces)
        # A piece is a token as a rule; an upstream that sends few and large ones has sent more tokens than pieces.
        self._before = max(len(self._pieces), estimate_tokens(text) // 2)
        self._prompt_tokens = sum(estimate_tokens(text_of(m)) for m in job.messages)
        self._continues, self._awaited = True, ""
        limits = {k: max(1, v - self._before) for k, v in job.options.items() if k in TOKEN_LIMITS}
        begun = {"role": "assistant", "content": text}
        return replace(job, messages=[*job.messages, begun], options={**job.options, **limits})

    def relay(self, items: Generator[Chunk | str]) -> Generator[Chunk | str]:
        """Pass on what is new. Raises UpstreamUnavailable when a fresh answer is not the one begun."""
        with closing(items):
            for item in items:
                if isinstance(item, str):
                    yield item
                elif item.usage:
                    yield replace(item, usage=self._joined(item.usage))
                elif choices := [new for choice in item.choices if (new := self._new_in(choice))]:
                    self._begun = True
                    yield replace(item, choices=choices)

    def _new_in(self, choice: Choice) -> Choice | None:
        delta = dict(choice["delta"])
        content = delta.pop("content", None) or ""
        if self._continues:
            delta.pop("role", None)
        if self._awaited:
            if delta.keys() & {"tool_calls", "function_call"}:
                raise _other_answer()
            # What it thinks before it has repeated the beginning belongs to another answer's beginning.
            delta, content = {}, self._after_awaited(content, choice["finish_reason"])
        self.plain = self.plain and self._one and delta.keys() <= {"role"}
        if content:
            self._pieces.append(content)
        if not self._continues:
            return choice
        delta |= {"content": content} if content else {}
        return {**choice, "delta": delta} if delta or choice["finish_reason"] else None

    def _after_awaited(self, content: str, finish_reason: str | None) -> str:
        both = min(len(content), len(self._awaited))
        if finish_reason or content[:both] != self._awaited[:both]:
            raise _other_answer()
        self._awaited = self._awaited[both:]
        return content[both:]

    def _joined(self, usage: Usage) -> Usage:
        # The text a model was to go on from was prompt to it; to the caller it is part of the answer.
        if self._before is None:
            return usage
        prompt = max(usage.prompt_tokens - self._before, min(self._prompt_tokens, usage.prompt_tokens))
        return Usage(prompt, usage.completion_tokens + self._before, source="estimate")


TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")


def _other_answer() -> UpstreamUnavailable:
    return UpstreamUnavailable("The answer was cut, and no other model could go on from where it ended.")
