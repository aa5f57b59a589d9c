"""A chat stream's events → chunks, choice by choice, whatever form they have. Pure."""

from typing import Any

from ..chat import Choice, Chunk, Json
from ..languages import _
from .answers import choices_in, extra_of, extra_of_choice, has_words, is_unread, read_message, said_empty
from .failures import cut, fewer, unreadable, unreadable_form
from .finish import FINISH, finish_of, is_cut
from .logprobs import read_logprobs
from .ordinary import OrdinaryEvents, StreamedChoice, fingerprint_of, streamed
from .tool_calls import CallPieces, whole_function_call
from .usage import said_in, usage_in
from .values import count

_SAID_ELSEWHERE = {"role", "content", "tool_calls", *FINISH}


class ChatEvents(OrdinaryEvents):
    """chat.completion.chunk events → chunks: role once per choice, no empty deltas, finish and usage held back.

    The finish goes out only when the stream has ended well: an error event may still follow it (TGI).
    """

    __slots__ = ()

    def feed(self, event: Json) -> Chunk | None:
        """The chunk that `event` makes, or None. Raises UpstreamUnavailable for what cannot be read or broke off."""
        self._usage = usage_in(event, self._usage)  # cumulative where it is in every chunk: the last one counts
        self._fingerprint = fingerprint_of(event) or self._fingerprint
        self._extra |= extra_of(event)
        given = choices_in(event)
        self._has_unread_event = self._has_unread_event or (not given and "choices" not in event and has_words(event))
        numbers = self._numbers_of(given)
        choices = [c for number, choice in zip(numbers, given, strict=True) if (c := self._choice(number, choice))]
        chunk = self._chunk(choices) if choices else None
        self.plain = chunk is not None and self._is_plain(event, chunk)
        return chunk

    def _is_plain(self, event: Json, chunk: Chunk) -> bool:
        given, made = event.get("choices"), chunk.choices
        if self._wanted > 1 or event.get("usage") or not isinstance(given, list) or not len(given) == len(made) == 1:
            return False
        choice, told = given[0], made[0]["delta"]
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict) or not isinstance(text := delta.get("content"), str) or not text:
            return False
        adds = {key for key, value in (*delta.items(), *choice.items()) if value}
        if not adds <= {"role", "content", "delta", "index"} or not {"content"} <= told.keys() <= {"role", "content"}:
            return False
        return chunk.extra == extra_of(event)  # what other events had added would go out with each piece

    def end(self) -> Chunk:
        """The finish chunk. Raises UpstreamError where the stream ended, but not with the answer asked for."""
        if not self.ended:
            said = any(choice.answers or choice.thought for choice in self._choices)
            if not said and (self._has_unread_event or any(choice.has_unread_text for choice in self._choices)):
                raise unreadable(self._model, _("an answer in a form that cannot be read"))
            raise cut(self._model)
        if (given := len(self._active)) < self._wanted:
            raise fewer(self._model, given, self._wanted)
        return self._chunk([self._finished(number, choice) for number, choice in enumerate(self._choices)])

    def _finished(self, number: int, choice: StreamedChoice) -> Choice:
        if not (choice.answers or choice.thought) and (choice.has_unread_text or self._has_unread_event):
            raise unreadable(self._model, _("an answer in a form that cannot be read"))
        if choice.finish in ("tool_calls", "function_call") and not choice.answers:
            raise unreadable(self._model, _("an answer whose tool calls are missing"))
        delta: Json = {} if choice.begun else {"role": "assistant", "content": ""}
        try:
            rest = choice.calls.end(is_cut(choice.finish)) if choice.calls else []
        except ValueError as error:
            raise unreadable_form(self._model, error) from None
        delta |= {"tool_calls": rest} if rest else {}
        return streamed(number, delta, None, choice.finish, choice.extra)

    def _numbers_of(self, given: list[Json]) -> list[int | None]:
        """Our number of each choice of an event; None for one that nobody asked for."""
        indexes = [count(choice.get("index")) for choice in given]
        if len(given) == len(self._numbers) == 1 and indexes == [None]:
            return list(self._numbers.values())
        if len(set(indexes)) < len(given):
            return [self._number(place) for place in range(len(given))]
        return [self._number(place if index is None else index) for place, index in enumerate(indexes)]

    def _choice(self, number: int | None, given: Json) -> Choice | None:
        if number is None:
            self._others_finished = self._others_finished or any(given.get(key) for key in FINISH)
            return None
        choice = self._choices[number]
        reason = finish_of(self._model, given)
        delta, extra = self._delta(choice, given, reason)
        if delta.keys() > {"content"} or (delta and "content" not in delta):
            if thought := said_in(delta | {"content": None}):
                choice.thought.append(thought)
            choice.refused = choice.refused or "refusal" in delta
        if reason:
            choice.finish_with(reason)
            choice.extra, extra = {**choice.extra, **extra}, {}
        logprobs = read_logprobs(given.get("logprobs"))
        if not choice.begun and (delta or not reason):
            choice.begun = True
            delta = {"role": "assistant", "content": None if "tool_calls" in delta else "", **delta}
        elif not (delta or logprobs or extra):
            return None
        return streamed(number, delta, logprobs, None, extra)

    def _delta(self, choice: StreamedChoice, given: Json, reason: str | None) -> tuple[Json, Json]:
        """What an event adds to a choice's message, and beside it; null, "" and [] are how providers say "nothing"."""
        try:
            message, place = read_message(given, streamed=True)
            read = message["content"] or ""
            text = _new_text(choice, read, place, reason)
            # Role is ours to say, once; and how it ended.
            delta = {k: v for k, v in message.items() if not _says_nothing(v) and k not in _SAID_ELSEWHERE}
            if text:
                delta = {"content": text, **delta}
            if calls := message.get("tool_calls"):
                choice.calls = choice.calls or CallPieces()
                pieces = choice.calls.feed(calls)
                delta |= {"tool_calls": pieces} if pieces else {}
            if called := delta.pop("function_call", None):
                called = called if choice.called and _is_piece(called) else whole_function_call(called, cut=True)
                choice.called = choice.called or called is not None
                delta |= {"function_call": called} if called else {}
        except ValueError as error:
            raise unreadable_form(self._model, error) from None
        extra = extra_of_choice(given, read)
        choice.has_unread_text = choice.has_unread_text or (not text and is_unread(delta, extra, said_empty(given)))
        return delta, extra


def _new_text(choice: StreamedChoice, text: str, place: str, reason: str | None) -> str:
    """What of `text` was not yet said: some servers say all of it once more at the end, in another place."""
    at_the_end = reason is not None and (
        place.startswith("message") or (choice.pieces > 1 and not place.startswith("delta"))
    )
    elsewhere = place != choice.place or at_the_end
    if elsewhere and 0 < choice.pieces <= len(text) > 1 and text.startswith(said := choice.spoken):
        text = text.removeprefix(said)
    if text:
        choice.place = choice.place or place
        choice.speak(text)
    return text


def _says_nothing(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _is_piece(called: Any) -> bool:
    return isinstance(called, dict) and all(isinstance(value, str) for value in called.values())
