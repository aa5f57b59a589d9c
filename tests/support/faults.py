"""The table of faults (`faults.toml`): what an upstream sends, and what a caller gets."""

import json
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


class Code(NamedTuple):
    """A code of the contract: its status on the two /api routes and on /v1."""

    api: int
    v1: int
    retryable: bool


CODES = {name: Code(**row) for name, row in _TABLE["code"].items()}
GOOD, NO_USAGE = "Oi", {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fault comes to: the code of either answer, None for a good one, and how often the upstream is asked.

    `mid`: the stream fails after it has begun. `routed`: the code where it is not a server of one's own that says it.
    `says`: words of the message. `blames`: it counts for the circuit.
    """

    name: str
    code: str | None = None
    whole: str | None = None
    stream: str | None = None
    routed: str | None = None
    attempts: int = 1
    whole_attempts: int | None = None
    mid: bool = False
    within_s: float = 0.0
    words: str = ""
    says: str = ""
    blames: bool = False

    def code_of(self, mode: str) -> str | None:
        """The code of a `whole` answer or of a `stream`."""
        return self.code or (self.whole if mode == "whole" else self.stream)

    def attempts_of(self, mode: str) -> int:
        """How often the upstream is asked."""
        return self.whole_attempts if mode == "whole" and self.whole_attempts else self.attempts


@dataclass(frozen=True, kw_only=True)
class Refusal(Outcome):
    """A response that is not 200, and the skins in which it was seen."""

    status: int
    body: str
    type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    skins: tuple[str, ...] = ("chat", "classic", "generate")


@dataclass(frozen=True, kw_only=True)
class Quirk(Outcome):
    """An odd form of a chat answer, whole and streamed."""

    message: str = f'{{"content": "{GOOD}"}}'
    deltas: tuple[str, ...] = (f'{{"content": "{GOOD}"}}',)
    finish: str = '"stop"'
    body: str = ""
    events: tuple[str, ...] = ()
    end: str = "done"
    only: str = ""
    ask: dict[str, Any] = field(default_factory=dict)
    text: str | None = None
    others: tuple[str, ...] = ()
    finish_reason: str = ""
    refusal: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    usage: tuple[int, int] | None = None

    @property
    def modes(self) -> tuple[str, ...]:
        """Whole, streamed, or both."""
        return (self.only,) if self.only else ("whole", "stream")

    @property
    def says_in_all(self) -> list[str]:
        """The text of each choice of the good answer."""
        text = ("" if self.calls else GOOD) if self.text is None else self.text
        return [text, *self.others]

    @property
    def ends_with(self) -> str:
        """The finish reason of the good answer."""
        return self.finish_reason or ("tool_calls" if self.calls else "stop")

    def whole_body(self) -> str:
        """The body of a whole answer."""
        if self.body:
            return self.body
        choice = {"index": 0, "message": json.loads(self.message)} | self._finish()
        return json.dumps({"object": "chat.completion", "choices": [choice], "usage": NO_USAGE})

    def stream_data(self) -> list[str]:
        """The data of each event of a stream."""
        if self.events:
            return list(self.events)
        choices = [{"index": 0, "delta": json.loads(delta)} for delta in self.deltas]
        choices += [{"index": 0, "delta": {}} | self._finish()] if self.finish else []
        events = [json.dumps({"object": "chat.completion.chunk", "choices": [choice]}) for choice in choices]
        return [*events, *(["[DONE]"] if self.end == "done" else [])]

    def _finish(self) -> dict[str, Any]:
        return {"finish_reason": json.loads(self.finish)} if self.finish else {}


def _rows(kind: str, make: Any) -> dict[str, Any]:
    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    rows = _TABLE[kind].items()
    return {name: make(name=name, **{key: tuples(value) for key, value in row.items()}) for name, row in rows}


REFUSALS: dict[str, Refusal] = _rows("refusal", Refusal)
DAYS: dict[str, Outcome] = _rows("day", Outcome)
QUIRKS: dict[str, Quirk] = _rows("quirk", Quirk)


# --- faults of every kind, as the router would tell them

ATTEMPTED_AGAIN = (429, 500, 502, 503, 504)
BACKOFF_S = 2.0  # both waits between three attempts, at their longest


def _routed(refusal: Refusal) -> Refusal:
    words = refusal.words or f"{refusal.status}, {_beginning(refusal)}"
    code = refusal.routed or refusal.code
    within_s = BACKOFF_S if refusal.attempts > 1 else 0.0
    return replace(refusal, name=f"err-{refusal.name}", words=words, code=code, within_s=within_s)


def _beginning(refusal: Refusal) -> str:
    """The first words of a refusal."""
    if refusal.body.startswith("<"):
        return "an HTML page"
    try:
        body = json.loads(refusal.body)
    except ValueError:
        body = refusal.body
    words = body.get("error", body.get("message")) if isinstance(body, dict) else body
    words = words.get("message") if isinstance(words, dict) else words
    words = " ".join(words) if isinstance(words, list) else words
    return f"“{words[:48].strip()}{'…' if len(words) > 48 else ''}”" if words else "an empty body"


FAULTS: dict[str, Outcome] = {row.name: row for row in [*map(_routed, REFUSALS.values()), *DAYS.values()]}
