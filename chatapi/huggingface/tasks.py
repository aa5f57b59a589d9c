"""How a model is asked and its answer read, per task."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from ..catalogue import ModelCard
from ..chat import ChatJob, Chunk, Json, Reply, Usage
from .chat import Chat
from .text import Classic, Generate
from .transport import Request


class EventReader(Protocol):
    """Reads one stream's events."""

    @property
    def begun(self) -> bool:
        """Whether a chunk has been made."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the answer has been finished, with as many choices as were asked for."""
        ...

    @property
    def ended(self) -> bool:
        """Whether all that has begun is finished."""
        ...

    def glance(self, event: Json) -> Chunk | Literal[False] | None:
        """As `feed`, of an event of the ordinary form, which is no failure either; False for any other."""
        ...

    def feed(self, event: Json) -> Chunk | None:
        """The chunk that `event` makes, or None when it has nothing for the caller. Raises UpstreamError."""
        ...

    def plain_text(self, event: Json, chunk: Chunk) -> str | None:
        """The text of an event that adds nothing but text, as the `chunk` it made shows; else None."""
        ...

    def relayed(self, pieces: list[bytes]) -> None:
        """The texts (JSON-escaped) of further events that differ from a plain one in their text alone."""
        ...

    def done(self) -> None:
        """The upstream said [DONE]."""
        ...

    def end(self) -> Chunk:
        """The finish chunk. Raises UpstreamError where the answer is not the one asked for."""
        ...

    def count(self) -> Usage:
        """The upstream's count where it can be true, else an estimate."""
        ...


class Task(Protocol):
    """One way of asking a model."""

    def request(self, base: str, card: ModelCard, job: ChatJob, stream: bool) -> Request:
        """The POST that asks `job` of `card`."""
        ...

    def reply(self, card: ModelCard, job: ChatJob, body: Any, headers: Mapping[str, str]) -> Reply:
        """The answer in a whole body's JSON. Raises UpstreamError when there is none."""
        ...

    def glance(self, card: ModelCard, job: ChatJob, raw: bytes) -> Reply | None:
        """The answer in a body of the ordinary form, which is no failure either; None for any other."""
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
