"""The models in line for one call, and the error it ends with if none of them answers."""

import time
from collections.abc import Iterator

from ..call import MAX_UPSTREAM_REQUESTS, Call
from ..catalogue import ModelCard
from ..errors import BadRequest, ChatError, ContentFiltered, ContextLengthExceeded, UpstreamError


class FallbackChain:
    """Iterate over it for the cards to ask; tell it of each failure."""

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
            if place and len(self._call.asked) >= MAX_UPSTREAM_REQUESTS:
                break
            self._call.fallbacks = place
            yield card

    @property
    def failure(self) -> ChatError:
        """The error of the model asked for."""
        assert self._failure  # the first model is always asked
        return self._failure

    @property
    def is_last(self) -> bool:
        """Whether no other model is left after the one at hand."""
        return self._place + 1 == len(self._cards)

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
        if isinstance(error, ContextLengthExceeded):
            self._larger_than = self._cards[self._place].context_tokens
