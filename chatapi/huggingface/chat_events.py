"""A chat stream's events → chunks, choice by choice. Pure."""

from typing import Any, Literal

from ..catalogue import ModelCard
from ..chat import ChatJob, Choice, Chunk, Json, Usage
from ..compact_json import text_pieces
from ..languages import _
from .answers import choices_in, extra_of, extra_of_choice, has_words, is_mute, read_message, said_empty
from .failures import cut, fewer, unreadable, unreadable_form
from .finish import FINISH, ended, finish_of, is_cut
from .logprobs import read_logprobs
from .ordinary import counts_only, fingerprint_of, ordinary, wanted_of
from .tool_calls import CallPieces, whole_function_call
from .usage import believed, said_in, usage_in
from .values import count, decode

_SAID_ELSEWHERE = {"role", "content", "tool_calls", *FINISH}


class _StreamedChoice:
    """What has been read of one choice."""

    __slots__ = (
        "begun",
        "called",
        "calls",
        "extra",
        "finish",
        "mute",
        "pieces",
        "place",
        "refused",
        "text",
        "thought",
    )

    def __init__(self) -> None:
        self.begun = False  # its role has gone out
        # As it stands between quotes in JSON: a list of its pieces would take five times as much.
        self.text = bytearray()
        self.pieces = 0  # in which it came
        self.place = ""  # where they were found first
        self.thought: list[str] = []  # what else it said, to be counted
        self.calls = CallPieces()
        self.called = False  # by the deprecated function_call
        self.refused = False
        self.mute = False  # it has strings that may be its text
        self.finish: str | None = None
        self.extra: Json = {}

    @property
    def answers(self) -> bool:
        return bool(self.pieces or self.calls or self.called or self.refused)

    @property
    def spoken(self) -> str:
        """Its text."""
        text: str = decode(f'"{self.text.decode("utf-8", "replace")}"')
        return text

    def speak(self, text: str) -> None:
        """Its text goes on with `text`."""
        self.text += "".join(text_pieces(text))[1:-1].encode("utf-8", "backslashreplace")
        self.pieces += 1


class ChatEvents:
    """chat.completion.chunk events → chunks: role once per choice, no empty deltas, finish and usage held back.

    The finish goes out only when the stream has ended well: an error event may still follow it (TGI).
    """

    __slots__ = (
        *("_choices", "_extra", "_fingerprint", "_ignored", "_job", "_model"),
        *("_numbers", "_others_finished", "_strange", "_usage", "_wanted"),
    )

    def __init__(self, card: ModelCard, job: ChatJob, ignored: tuple[str, ...]) -> None:
        self._model = card.id
        self._job = job
        self._wanted = wanted_of(job)
        self._ignored = ignored
        self._choices: list[_StreamedChoice] = []
        self._numbers: dict[int, int] = {}  # an upstream's index → ours
        self._others_finished = False
        self._strange = False  # an event said something in no form that is known
        self._fingerprint: str | None = None
        self._extra: Json = {}  # of events that made no chunk yet
        self._usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether every choice asked for has given its finish reason."""
        return bool(self._choices and self._choices[-1].finish) and self.ended and len(self._active) >= self._wanted

    @property
    def ended(self) -> bool:
        """Whether every choice that has begun has given its finish reason."""
        return bool(active := self._active) and all(choice.finish for choice in active)

    @property
    def _active(self) -> list[_StreamedChoice]:
        return [choice for choice in self._choices if choice.begun or choice.finish]

    @property
    def said(self) -> str:
        """All that was delivered, as one text to be counted."""
        return "".join("".join((choice.spoken, *choice.thought)) for choice in self._choices)

    @property
    def begun(self) -> bool:
        """Whether a chunk has been made."""
        return any(choice.begun for choice in self._choices)

    def count(self) -> Usage:
        """The upstream's count where it can be true, else an estimate."""
        length = sum(len(choice.text) + sum(map(len, choice.thought)) for choice in self._choices)
        return believed(self._usage, self._job, length, lambda: self.said)

    def plain_text(self, event: Json, chunk: Chunk) -> str | None:
        """The text of an event that adds nothing but text to the one answer; the chunk it made says no more."""
        given, made = event.get("choices"), chunk.choices
        if self._wanted > 1 or not isinstance(given, list) or len(given) != 1 or len(made) != 1:
            return None
        choice = given[0]
        if not isinstance(choice, dict) or not isinstance(delta := choice.get("delta"), dict):
            return None
        if not isinstance(text := delta.get("content"), str):
            return None
        adds = {key for key, value in delta.items() if value} | {key for key, value in choice.items() if value}
        told = made[0]["delta"].keys() <= {"role", "content"} and "content" in made[0]["delta"]
        if adds <= {"role", "content", "delta", "index"} and told and not event.get("usage"):
            # What other events had added goes out with the chunk, and would with each piece.
            return text if text and chunk.extra == extra_of(event) else None
        return None

    def relayed(self, pieces: list[bytes]) -> None:
        """So many pieces of text have been passed on without a look at their events."""
        choice = self._choices[0]
        choice.text += pieces[0] if len(pieces) == 1 else b"".join(pieces)
        choice.pieces += len(pieces)

    def glance(self, event: Json) -> Chunk | Literal[False] | None:
        """As `feed`, of an event of the ordinary form, which is no failure either; False for any other."""
        if self._wanted > 1:
            return False
        if (found := ordinary(event, "delta")) is None:
            if not counts_only(event):
                return False
        elif not self._is_the_one(event["choices"][0]):
            return False
        if event.get("usage"):
            self._usage = usage_in(event, self._usage)
        self._fingerprint = fingerprint_of(event) or self._fingerprint
        return None if found is None else self._spoken(*found)

    def _is_the_one(self, choice: Json) -> bool:
        """Whether an ordinary choice is the one that has begun, if it has, and said its text in no other place."""
        if not self._choices:
            return not choice.get("index")
        return not choice.get("index") and 0 in self._numbers and self._choices[0].place in ("", "delta")

    def _spoken(self, message: Json, reason: str | None) -> Chunk | None:
        self._number(0)
        choice = self._choices[0]
        delta: Json = {}
        if text := message.get("content"):
            choice.place = "delta"
            choice.speak(text)
            delta["content"] = text
        if reason and (not choice.finish or is_cut(reason)):
            choice.finish = ended(reason, bool(choice.calls), choice.called)
        if not choice.begun and (delta or not reason):
            choice.begun = True
            delta = {"role": "assistant", "content": "", **delta}
        return self._chunk([_streamed(0, delta, None, None, {})]) if delta else None

    def feed(self, event: Json) -> Chunk | None:
        """The chunk that `event` makes, or None. Raises UpstreamUnavailable for what cannot be read or broke off."""
        self._usage = usage_in(event, self._usage)  # cumulative where it is in every chunk: the last one counts
        self._fingerprint = fingerprint_of(event) or self._fingerprint
        self._extra |= extra_of(event)
        given = choices_in(event)
        self._strange = self._strange or (not given and "choices" not in event and has_words(event))
        numbers = self._numbers_of(given)
        choices = [c for number, choice in zip(numbers, given, strict=True) if (c := self._choice(number, choice))]
        return self._chunk(choices) if choices else None

    def done(self) -> None:
        """The upstream said [DONE]: what has answered by then has ended, be it without a finish reason."""
        if self._others_finished:
            return
        for choice in self._choices:
            if choice.answers and not choice.finish:
                choice.finish = ended("stop", bool(choice.calls), choice.called)

    def end(self) -> Chunk:
        """The finish chunk. Raises UpstreamError where the stream ended, but not with the answer asked for."""
        if not self.ended:
            if not any(choice.answers or choice.thought for choice in self._choices) and self._spoke_strangely:
                raise unreadable(self._model, _("an answer in a form that cannot be read"))
            raise cut(self._model)
        if (given := len(self._active)) < self._wanted:
            raise fewer(self._model, given, self._wanted)
        return self._chunk([self._finished(number, choice) for number, choice in enumerate(self._choices)])

    @property
    def _spoke_strangely(self) -> bool:
        return self._strange or any(choice.mute for choice in self._choices)

    def _finished(self, number: int, choice: _StreamedChoice) -> Choice:
        if not (choice.answers or choice.thought) and (choice.mute or self._strange):
            raise unreadable(self._model, _("an answer in a form that cannot be read"))
        if choice.finish in ("tool_calls", "function_call") and not choice.answers:
            raise unreadable(self._model, _("an answer whose tool calls are missing"))
        delta: Json = {} if choice.begun else {"role": "assistant", "content": ""}
        try:
            rest = choice.calls.end(is_cut(choice.finish))
        except ValueError as error:
            raise unreadable_form(self._model, error) from None
        delta |= {"tool_calls": rest} if rest else {}
        return _streamed(number, delta, None, choice.finish, choice.extra)

    def _chunk(self, choices: list[Choice]) -> Chunk:
        extra, self._extra = self._extra, {}
        return Chunk(
            model=self._model,
            choices=choices,
            system_fingerprint=self._fingerprint,
            ignored=self._ignored,
            extra=extra,
        )

    def _numbers_of(self, given: list[Json]) -> list[int | None]:
        """Our number of each choice of an event; None for one that nobody asked for."""
        indexes = [count(choice.get("index")) for choice in given]
        if len(given) == len(self._numbers) == 1 and indexes == [None]:
            return list(self._numbers.values())
        if len(set(indexes)) < len(given):
            return [self._number(place) for place in range(len(given))]
        return [self._number(place if index is None else index) for place, index in enumerate(indexes)]

    def _number(self, index: int) -> int | None:
        if (number := self._numbers.get(index)) is None:
            free = [n for n in range(self._wanted) if n not in self._numbers.values()]
            if not free:
                return None
            number = self._numbers[index] = index if index in free else free[0]
            while len(self._choices) <= number:
                self._choices.append(_StreamedChoice())
        return number

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
        if reason and (not choice.finish or is_cut(reason)):
            choice.finish = ended(reason, bool(choice.calls), choice.called)
        if reason:
            choice.extra, extra = {**choice.extra, **extra}, {}
        logprobs = read_logprobs(given.get("logprobs"))
        if not choice.begun and (delta or not reason):
            choice.begun = True
            delta = {"role": "assistant", "content": None if "tool_calls" in delta else "", **delta}
        elif not (delta or logprobs or extra):
            return None
        return _streamed(number, delta, logprobs, None, extra)

    def _delta(self, choice: _StreamedChoice, given: Json, reason: str | None) -> tuple[Json, Json]:
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
                pieces = choice.calls.feed(calls)
                delta |= {"tool_calls": pieces} if pieces else {}
            if called := delta.pop("function_call", None):
                called = called if choice.called and _is_piece(called) else whole_function_call(called, cut=True)
                choice.called = choice.called or called is not None
                delta |= {"function_call": called} if called else {}
        except ValueError as error:
            raise unreadable_form(self._model, error) from None
        extra = extra_of_choice(given, read)
        choice.mute = choice.mute or (not text and is_mute(delta, extra, said_empty(given)))
        return delta, extra


def _new_text(choice: _StreamedChoice, text: str, place: str, reason: str | None) -> str:
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


def _streamed(number: int, delta: Json, logprobs: Any, reason: str | None, extra: Json) -> Choice:
    return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **extra}


def _is_piece(called: Any) -> bool:
    return isinstance(called, dict) and all(isinstance(value, str) for value in called.values())
