"""How a model is asked and its answer read, per task."""

from collections.abc import Mapping
from typing import Any, Protocol

from ..catalogue import ModelCard
from ..chat import ChatJob, Chunk, Json, Reply, Usage
from .abilities import check as refuse_impossible
from .chat import Chat
from .text import Classic, Generate
from .transport import Request

__all__ = ["EventReader", "Task", "refuse_impossible", "task_for"]


class EventReader(Protocol):
    """Reads one stream's events."""

    usage: Usage | None

    @property
    def complete(self) -> bool:
        """Whether the answer has been finished."""
        ...

    @property
    def said(self) -> str:
        """All that was delivered, as one text to be counted."""
        ...

    def feed(self, event: Json) -> Chunk | None:
        """The chunk that `event` makes, or None when it has nothing for the caller. Raises UpstreamError."""
        ...

    def done(self) -> None:
        """The upstream said [DONE]."""
        ...

    def end(self) -> Chunk:
        """The finish chunk. Raises UpstreamError where the answer is not the one asked for."""
        ...


class Task(Protocol):
    """One way of asking a model."""

    def request(self, base: str, card: ModelCard, job: ChatJob, stream: bool) -> Request:
        """The POST that asks `job` of `card`."""
        ...

    def reply(self, card: ModelCard, job: ChatJob, body: Any, headers: Mapping[str, str]) -> Reply:
        """The answer in a whole body's JSON. Raises UpstreamError when there is none."""
        ...

    def events(self, card: ModelCard, job: ChatJob) -> EventReader | None:
        """The reader of this task's stream, or None where it cannot stream."""
        ...


CHAT, CLASSIC, GENERATE = Chat(), Classic(), Generate()


def task_for(card: ModelCard) -> Task:
    """How `card`'s model is asked."""
    if card.is_chat:
        return CHAT
    return GENERATE if card.url else CLASSIC
