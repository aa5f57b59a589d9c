"""What is told of each call: one log line, whatever its ending. Never a prompt, an answer or a key."""

import json
import logging
import sys
import time
from dataclasses import dataclass, field, fields

from .errors import (
    AccessError,
    BadRequest,
    ChatError,
    ClientLeft,
    InternalError,
    UpstreamRejected,
    UpstreamTimeout,
    WorkerStopped,
)

calls = logging.getLogger("chatapi.calls")


@dataclass(slots=True)
class Record:
    """One call. Times in milliseconds from its arrival; `ending` is set once, by `close`.

    Endings: completed, client_left, upstream_cut, deadline, refused, worker_stopped, failed.
    """

    request_id: str
    route: str
    key_id: str | None = None
    model: str | None = None
    served: str | None = None
    stream: bool = False
    status: int | None = None
    code: str | None = None
    attempts: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usage_source: str | None = None
    malformed_events: int | None = None
    first_token_ms: float | None = None
    total_ms: float | None = None
    ending: str | None = None
    _began: float = field(default_factory=time.perf_counter)

    def first_token(self) -> None:
        """The first piece of the answer is there."""
        if self.first_token_ms is None:
            self.first_token_ms = self._elapsed_ms()

    def fail(self, error: ChatError) -> None:
        """The call ends with `error`; the first one counts."""
        if self.ending is None:
            self.code, self.ending = error.code, _ending(error)

    def close(self, ending: str) -> None:
        """Write the line, once: a later call changes nothing."""
        if self.total_ms is not None:
            return
        self.ending = self.ending or ending
        self.total_ms = self._elapsed_ms()
        calls.info("", extra={"record": self})

    def _elapsed_ms(self) -> float:
        return round((time.perf_counter() - self._began) * 1000, 1)


def _ending(error: ChatError) -> str:
    if isinstance(error, BadRequest | AccessError | UpstreamRejected):
        return "refused"
    if isinstance(error, ClientLeft):
        return "client_left"
    if isinstance(error, UpstreamTimeout):
        return "deadline"
    if isinstance(error, WorkerStopped):
        return "worker_stopped"
    return "failed" if isinstance(error, InternalError) else "upstream_cut"


class _Line(logging.Formatter):
    """JSON for machines; for a person at a terminal, the few words that matter."""

    def __init__(self, person: bool) -> None:
        super().__init__()
        self._person = person

    def format(self, record: logging.LogRecord) -> str:
        call: Record = record.__dict__["record"]
        if self._person:
            at = time.strftime("%H:%M:%S", time.localtime(record.created))
            what = f"{call.served or call.model or '-'} {call.ending} {call.total_ms:.0f} ms"
            tokens = f", {call.prompt_tokens}+{call.completion_tokens} tokens" if call.completion_tokens else ""
            return f"{at} {call.route} {call.status} {what}{tokens}{f' ({call.code})' if call.code else ''}"
        shown = {name: value for name in _SHOWN if (value := getattr(call, name)) is not None}
        return json.dumps({"time": round(record.created, 3), **shown})


_SHOWN = [f.name for f in fields(Record) if not f.name.startswith("_")]


def configure(level: str) -> None:
    """Send what we log at `level` and above to stderr, and the calls' lines to stdout. Safe to call again."""
    logging.getLogger("chatapi").setLevel(level.upper())
    if not calls.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(_Line(person=sys.stdout.isatty()))
        calls.addHandler(handler)
        calls.propagate = False
