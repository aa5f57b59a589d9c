"""The engine: a job → its card and fallbacks → the client, within the call's budget. Knows no dialect, no Flask."""

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from .catalogue import Catalogue, ModelCard
from .chat import Call, ChatJob, Chunk, Json, Reply, Waiting
from .errors import BadRequest, ContentFiltered, ModelNotFound, UpstreamError


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

    def __init__(self, catalogue: Catalogue, client: Client, budget: Budget) -> None:
        self.catalogue = catalogue
        self._client = client
        self._budget = budget

    def call_for(self, job: ChatJob, request_id: str) -> Call:
        """A new call with the time that `job` and the operator allow."""
        seconds = min(job.max_time_s or math.inf, self._budget.max_time_s)
        return Call(seconds, self._budget.heartbeat_s if job.stream else math.inf, request_id)

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
        failed: UpstreamError | None = None
        cards = self._cards(job)
        for place, card in enumerate(cards):
            until = self._until(call, self._budget.reply_s, place + 1 < len(cards))
            try:
                return (yield from self._client.reply(card, job, call, until))
            except (UpstreamError, BadRequest) as error:
                failed = self._next_or_raise(error, failed, call)
        raise failed or AssertionError("a job has at least one card")

    def stream(self, job: ChatJob, call: Call) -> Generator[Chunk | str]:
        """The answer's chunks, of the first model in line that begins one; comments while waiting."""
        failed: UpstreamError | None = None
        cards = self._cards(job)
        for place, card in enumerate(cards):
            until = self._until(call, self._budget.first_token_s, place + 1 < len(cards))
            begun = False
            try:
                for item in self._client.stream(card, job, call, until):
                    begun = begun or isinstance(item, Chunk)
                    yield item
                return
            except (UpstreamError, BadRequest) as error:
                if begun:
                    raise
                failed = self._next_or_raise(error, failed, call)
        raise failed or AssertionError("a job has at least one card")

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

    @staticmethod
    def _until(call: Call, limit_s: float, fallback_left: bool) -> float:
        return min(call.ends_at, time.monotonic() + limit_s) if fallback_left else call.ends_at

    @staticmethod
    def _next_or_raise(
        error: UpstreamError | BadRequest, failed: UpstreamError | None, call: Call
    ) -> UpstreamError:
        """The error to answer with if no other model helps. Raises where no other model is to be asked."""
        if failed is None:
            if not isinstance(error, UpstreamError) or not error.fallback or time.monotonic() >= call.ends_at:
                raise error
            return error
        if isinstance(error, ContentFiltered):
            raise error
        return failed
