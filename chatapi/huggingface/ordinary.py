"""The ordinary form of answers and events: OpenAI's own, with one choice that is text alone. Pure.

Nearly all have it, and its keys alone tell it: so these are read at a glance. Whatever else stands in them takes a
closer look (see answers.py and chat_events.py), which reads the ordinary form to the same end, for four times as much
(83 µs to 21).
"""

from typing import Any, Literal

from ..catalogue import ModelCard
from ..chat import ChatJob, Choice, Chunk, Json, Reply, Usage
from ..compact_json import text_pieces
from .abilities import left_out
from .answers import CALLS
from .finish import finish_reason_with, is_cut
from .tool_calls import CallPieces
from .usage import HIDDEN_ANSWER, HIDDEN_PROMPT, MOST_CHARACTERS_A_TOKEN, MOST_TOKENS_A_CHARACTER, believed, usage_in
from .values import MAX_VALUES, MOST_TOKENS, decode

_BODY = {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
_CHOICE = {place: {"index", place, "logprobs", "finish_reason"} for place in ("message", "delta")}
_MESSAGE = {"role", "content"}
_CALLING = _MESSAGE | {"tool_calls"}
_NO_CALLS: tuple[Any, ...] = (None, [])
_USAGE = {"prompt_tokens", "completion_tokens", "total_tokens"}
ENDS = ("stop", "length", "content_filter")  # that say nothing of calls


def wanted_of(job: ChatJob) -> int:
    """How many answers are asked for."""
    return job.options.get("n") or 1


def fingerprint_of(body: Json) -> str | None:
    """The `system_fingerprint` of a body or an event."""
    given = body.get("system_fingerprint")
    return given if isinstance(given, str) and given else None


def glance(card: ModelCard, job: ChatJob, raw: bytes) -> Reply | None:
    """The answer in a body of the ordinary form, which is no failure either; None for any other."""
    body: Any = _read_object(raw) if wanted_of(job) == 1 else None
    found = _ordinary(body, "message")
    if found is None or not (said := found[0].get("content")):
        return None
    message = {"role": "assistant", "content": said, "refusal": None}
    if not found[0].keys() <= message.keys():
        message |= {key: None for key in found[0] if key not in (*message, *CALLS, "function_call")}
    usage = ordinary_usage(body.get("usage"))
    if usage is None or not _is_likely(usage, len(said)):
        usage = believed(usage or usage_in(body), job, len(said), lambda: said)
    return Reply(
        model=card.id,
        choices=[{"index": 0, "message": message, "logprobs": None, "finish_reason": found[1] or "stop"}],
        usage=usage,
        system_fingerprint=fingerprint_of(body),
        ignored=() if card.takes_all else left_out(card, job),
    )


def ordinary_usage(given: Any) -> Usage | None:
    """What OpenAI's three keys tell, where they alone do: nearly always."""
    if type(given) is not dict or not given.keys() <= _USAGE:
        return None
    prompt, completion = given.get("prompt_tokens"), given.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:
        return None
    return Usage(prompt, completion) if 0 <= prompt <= MOST_TOKENS and 0 <= completion <= MOST_TOKENS else None


def _is_likely(usage: Usage, length: int) -> bool:
    """Whether it can be true of so many characters, whatever the job is."""
    many = MOST_TOKENS_A_CHARACTER * length + HIDDEN_ANSWER
    likely = length / MOST_CHARACTERS_A_TOKEN <= usage.completion_tokens <= many
    return likely and 0 < usage.prompt_tokens <= HIDDEN_PROMPT


def _read_object(raw: bytes) -> Any:
    """The value of a JSON text that is an object in good UTF-8, of ordinary size; None of any other."""
    if raw[:1] != b"{" or len(raw) > MAX_VALUES:
        return None
    try:
        return decode(raw.decode())
    except (ValueError, RecursionError):
        return None


def _ordinary(body: Any, place: str) -> tuple[Json, str | None] | None:
    """The message or delta, at `place`, of an ordinary answer or event, and its finish reason; None of any other.

    Its `content` is a string or None, and what else is in it is nothing; the body has no more than a usage beside it.
    """
    if type(body) is not dict or type(choices := body.get("choices")) is not list or len(choices) != 1:
        return None
    choice = choices[0]
    if type(choice) is not dict or type(message := choice.get(place)) is not dict:
        return None
    reason = choice.get("finish_reason") or None
    if not (_has_only(_BODY, body) and _has_only(_CHOICE[place], choice) and (reason is None or reason in ENDS)):
        return None
    if choice.get("logprobs") is not None or not isinstance(message.get("content"), str | None):
        return None
    if not _has_only(_CALLING, message) or message.get("tool_calls") not in _NO_CALLS:
        return None
    return message, reason


def _counts_only(event: Any) -> bool:
    """Whether an event is OpenAI's last one, which tells the usage and nothing else."""
    if type(event) is not dict or event.get("choices") != [] or not event.keys() <= _BODY:
        return False
    return event.get("object") == "chat.completion.chunk" and type(event.get("usage")) is dict and event["usage"] != {}


def _has_only(known: set[str], given: Json) -> bool:
    """Whether nothing is said under any other key."""
    return given.keys() <= known or all(given[key] is None for key in given.keys() - known)


# --- streams


class StreamedChoice:
    """What has been read of one choice."""

    __slots__ = (
        *("begun", "called", "calls", "extra", "finish", "has_unread_text"),
        *("pieces", "place", "refused", "text", "thought"),
    )

    def __init__(self) -> None:
        self.begun = False  # its role has gone out
        # As it stands between quotes in JSON: a list of its pieces would take five times as much.
        self.text = bytearray()
        self.pieces = 0  # in which it came
        self.place = ""  # where they were found first
        self.thought: list[str] = []  # what else it said, to be counted
        self.calls: CallPieces | None = None  # its tool calls
        self.called = False  # by the deprecated function_call
        self.refused = False
        self.has_unread_text = False  # it has strings that may be its text
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

    def finish_with(self, reason: str) -> None:
        """It has ended; the first reason counts, unless another one says that it was cut."""
        if not self.finish or is_cut(reason):
            has_calls = bool(self.calls)
            self.finish = finish_reason_with(reason, has_calls, self.called) if has_calls or self.called else reason


class OrdinaryEvents:
    """What has been read of a chat stream, and how its ordinary events are read."""

    __slots__ = (
        *("plain", "_choices", "_extra", "_fingerprint", "_ignored", "_job", "_model"),
        *("_numbers", "_others_finished", "_has_unread_event", "_usage", "_wanted"),
    )

    def __init__(self, card: ModelCard, job: ChatJob, ignored: tuple[str, ...]) -> None:
        self.plain = False  # the last event added nothing but text to the one answer, and its chunk says no more
        self._model = card.id
        self._job = job
        self._wanted = wanted_of(job)
        self._ignored = ignored
        self._choices: list[StreamedChoice] = []
        self._numbers: dict[int, int] = {}  # an upstream's index → ours
        self._others_finished = False  # choices that nobody asked for
        self._has_unread_event = False  # an event said something in no form that is known
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
    def begun(self) -> bool:
        """Whether a chunk has been made."""
        return any(choice.begun for choice in self._choices)

    @property
    def _active(self) -> list[StreamedChoice]:
        return [choice for choice in self._choices if choice.begun or choice.finish]

    @property
    def said(self) -> str:
        """All that was delivered, as one text to be counted."""
        return "".join("".join((choice.spoken, *choice.thought)) for choice in self._choices)

    def count(self) -> Usage:
        """The upstream's count where it can be true, else an estimate."""
        length = sum(len(choice.text) + sum(map(len, choice.thought)) for choice in self._choices)
        return believed(self._usage, self._job, length, lambda: self.said)

    def passed_on(self, pieces: list[bytes]) -> None:
        """The texts (JSON-escaped) of further events, that differ from a plain one in their text alone."""
        choice = self._choices[0]
        choice.text += pieces[0] if len(pieces) == 1 else b"".join(pieces)
        choice.pieces += len(pieces)

    def glance(self, data: bytes) -> Chunk | Literal[False] | None:
        """As `feed`, of the data of an event of the ordinary form, which is no failure either; False for any other."""
        event: Any = _read_object(data) if self._wanted == 1 else None
        if (found := _ordinary(event, "delta")) is None:
            if not _counts_only(event):
                return False
        elif not self._is_the_one(event["choices"][0]):
            return False
        if usage := event.get("usage"):
            self._usage = ordinary_usage(usage) or usage_in(event, self._usage)
        self._fingerprint = fingerprint_of(event) or self._fingerprint
        if found is None:
            return None
        message, reason = found
        self.plain = bool(message.get("content")) and not (reason or usage or self._extra)
        return self._spoken(message, reason)

    def done(self) -> None:
        """The upstream said [DONE]: what has answered by then has ended, be it without a finish reason."""
        if self._others_finished:
            return
        for choice in self._choices:
            if choice.answers and not choice.finish:
                choice.finish_with("stop")

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
        if reason:
            choice.finish_with(reason)
        if not choice.begun and (delta or not reason):
            choice.begun = True
            delta = {"role": "assistant", "content": "", **delta}
        return self._chunk([streamed(0, delta, None, None, {})]) if delta else None

    def _number(self, index: int) -> int | None:
        """Our number of the choice that has this one; None where nobody asked for it."""
        if (number := self._numbers.get(index)) is None:
            free = [n for n in range(self._wanted) if n not in self._numbers.values()]
            if not free:
                return None
            number = self._numbers[index] = index if index in free else free[0]
            while len(self._choices) <= number:
                self._choices.append(StreamedChoice())
        return number

    def _chunk(self, choices: list[Choice]) -> Chunk:
        extra, self._extra = self._extra, {}
        return Chunk(
            model=self._model, choices=choices, system_fingerprint=self._fingerprint, ignored=self._ignored, extra=extra
        )


def streamed(number: int, delta: Json, logprobs: Any, reason: str | None, extra: Json) -> Choice:
    """A choice of a chunk."""
    return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **extra}
