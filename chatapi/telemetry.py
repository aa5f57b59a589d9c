"""What is told of each call: one log line and a few counters, whatever its ending. Never a prompt, answer or key."""

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

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

# Labels take few values: models are named by callers, and so are none of them.
_registry = CollectorRegistry()
_CALLS = Counter("chatapi_calls", "Calls by their ending", ["route", "ending", "code"], registry=_registry)
_ATTEMPTS = Counter("chatapi_attempts", "Requests to upstreams", registry=_registry)
_TOKENS = Counter("chatapi_tokens", "Tokens by kind", ["kind"], registry=_registry)
_MALFORMED = Counter("chatapi_malformed_events", "Events of upstreams that were skipped", registry=_registry)
_FIRST = Histogram("chatapi_first_token_seconds", "Time to a stream's first event", registry=_registry)
_TOTAL = Histogram("chatapi_call_seconds", "Time of a whole call", ["route"], registry=_registry)


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
        self._count()
        calls.info("", extra={"record": self})

    def _count(self) -> None:
        _CALLS.labels(self.route, self.ending, self.code or "").inc()
        _TOTAL.labels(self.route).observe((self.total_ms or 0.0) / 1000)
        if self.attempts:
            _ATTEMPTS.inc(self.attempts)
        if self.first_token_ms is not None:
            _FIRST.observe(self.first_token_ms / 1000)
        if self.completion_tokens is not None:
            _TOKENS.labels("prompt").inc(self.prompt_tokens or 0)
            _TOKENS.labels("completion").inc(self.completion_tokens)
        if self.malformed_events:
            _MALFORMED.inc(self.malformed_events)

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


class _Circuits:
    """The open circuits, which all workers share, as they are when somebody asks."""

    def __init__(self, opened: Mapping[str, float]) -> None:
        self._opened = opened

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One gauge a model: seconds since its last failure."""
        gauge = GaugeMetricFamily("chatapi_circuit_open_seconds", "Models whose circuit is open", labels=["model"])
        for model, seconds in self._opened.items():
            gauge.add_metric([model], seconds)
        yield gauge


def metrics(opened: Mapping[str, float]) -> bytes:
    """Prometheus' text format: this process's numbers, or under gunicorn those of all workers together."""
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError:  # no folder for the numbers of several processes: gunicorn.conf.py makes one
        registry.register(_registry)
    registry.register(_Circuits(opened))
    return generate_latest(registry)
