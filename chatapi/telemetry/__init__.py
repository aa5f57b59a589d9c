"""What is told of each call: one log line and a few counters, whatever its ending. Never a prompt, answer or key."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from ..errors import (
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

_registry = CollectorRegistry()
_CALLS = Counter("chatapi_calls", "Calls by their ending", ["route", "model", "ending", "code"], registry=_registry)
_ATTEMPTS = Counter("chatapi_attempts", "Requests to upstreams", ["model"], registry=_registry)
_FALLBACKS = Counter("chatapi_fallbacks", "Other models asked in place of a model", ["model"], registry=_registry)
_TOKENS = Counter("chatapi_tokens", "Tokens by kind", ["model", "kind"], registry=_registry)
_MALFORMED = Counter("chatapi_malformed_events", "Events of upstreams that were skipped", registry=_registry)
_FIRST = Histogram("chatapi_first_token_seconds", "Time to a stream's first event", ["model"], registry=_registry)
_TOTAL = Histogram("chatapi_call_seconds", "Time of a whole call", ["route"], registry=_registry)
_GATEWAY = Histogram(
    "chatapi_gateway_seconds",
    "Time of a call that no upstream was waited for, up to the answer's status",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
    registry=_registry,
)
_STREAMS = Gauge("chatapi_open_streams", "Streams being sent", multiprocess_mode="livesum", registry=_registry)
_LIMITS = Counter("chatapi_limit_decisions", "Limits asked, by outcome", ["limit", "decision"], registry=_registry)
_LIMIT_STORE = Counter("chatapi_limit_store_errors", "Redis was away", registry=_registry)
_LEDGER = Counter("chatapi_ledger_errors", "Ends of calls that could not be written at once", registry=_registry)
_PENDING = Gauge("chatapi_ledger_pending", "Ends not yet written", multiprocess_mode="livesum", registry=_registry)
_LAG = Gauge("chatapi_ledger_lag_seconds", "Age of the oldest of them", multiprocess_mode="livemax", registry=_registry)

# Callers name models as they like: labels are for those of the catalogue, and the first so many others that answered.
MODELS = 200
_known: set[str] = set()
_answered: set[str] = set()


def know(models: Iterable[str]) -> None:
    """Models that get a label of their own before they have answered."""
    _known.update(models)


def limit_decided(refused: str | None, shadowed: Iterable[str]) -> None:
    """A call was asked about: which limit refused it, and which would have."""
    _LIMITS.labels(refused or "", "refused" if refused else "admitted").inc()
    for name in shadowed:
        _LIMITS.labels(name, "shadowed").inc()


def limit_store_error() -> None:
    """The shared store of limits did not answer."""
    _LIMIT_STORE.inc()


def ledger_error() -> None:
    """The end of a call could not be written at once."""
    _LEDGER.inc()


def ledger_lag(pending: int, oldest: float) -> None:
    """How many ends wait to be written, and since when (Unix seconds)."""
    _PENDING.set(pending)
    _LAG.set(max(0.0, time.time() - oldest) if pending else 0.0)


def stream_opened(change: int) -> None:
    """A stream begins (+1) or has ended (-1)."""
    _STREAMS.inc(change)


@dataclass(slots=True)
class Record:
    """One call. Times in milliseconds from its arrival; `ending` is set once, by `close`.

    Endings: completed, client_left, upstream_cut, deadline, refused, worker_lost, failed (a fault of ours).
    """

    request_id: str
    route: str
    dialect: str = ""
    trace_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    served: str | None = None
    stream: bool = False
    status: int | None = None
    code: str | None = None
    attempts: int = 0
    fallbacks: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usage_source: str | None = None
    malformed_events: int | None = None
    shadowed: tuple[str, ...] | None = None
    auth_ms: float | None = None
    limit_ms: float | None = None
    gateway_ms: float | None = None
    first_token_ms: float | None = None
    total_ms: float | None = None
    ending: str | None = None
    _began: float = field(default_factory=time.perf_counter)
    _on_close: Callable[[], None] | None = None

    def first_token(self) -> None:
        """The first piece of the answer is there."""
        if self.first_token_ms is None:
            self.first_token_ms = self.elapsed_ms()

    def fail(self, error: ChatError) -> None:
        """The call ends with `error`; the first one counts."""
        if self.ending is None:
            self.code, self.ending = error.code, _ending(error)

    def on_close(self, do: Callable[[], None]) -> None:
        """Call `do` when the record is complete."""
        self._on_close = do

    def close(self, ending: str) -> None:
        """Write the line, once: a later call changes nothing."""
        if self.total_ms is not None:
            return
        self.ending = self.ending or ending
        self.total_ms = self.elapsed_ms()
        if self._on_close is not None:
            self._on_close()
        self._count()
        calls.info("", extra={"record": self})

    def elapsed_ms(self) -> float:
        """Since its arrival."""
        return round((time.perf_counter() - self._began) * 1000, 1)

    def _count(self) -> None:
        if self.served and self.served not in _known and len(_answered) < MODELS:
            _answered.add(self.served)
        model = self._label(self.served or self.model)
        _CALLS.labels(self.route, model, self.ending, self.code or "").inc()
        _TOTAL.labels(self.route).observe((self.total_ms or 0.0) / 1000)
        if self.attempts:
            _ATTEMPTS.labels(model).inc(self.attempts)
        if self.fallbacks:
            _FALLBACKS.labels(self._label(self.model)).inc(self.fallbacks)
        if self.gateway_ms is not None:
            _GATEWAY.observe(self.gateway_ms / 1000)
        if self.first_token_ms is not None:
            _FIRST.labels(model).observe(self.first_token_ms / 1000)
        if self.completion_tokens is not None:
            _TOKENS.labels(model, "prompt").inc(self.prompt_tokens or 0)
            _TOKENS.labels(model, "completion").inc(self.completion_tokens)
        if self.malformed_events:
            _MALFORMED.inc(self.malformed_events)

    def _label(self, model: str | None) -> str:
        if model is None:
            return ""
        return model if model in _known or model in _answered else "other"


def _ending(error: ChatError) -> str:
    if isinstance(error, BadRequest | AccessError | UpstreamRejected):
        return "refused"
    if isinstance(error, ClientLeft):
        return "client_left"
    if isinstance(error, UpstreamTimeout):
        return "deadline"
    if isinstance(error, WorkerStopped):
        return "worker_lost"
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
    ours = logging.getLogger("chatapi")
    ours.setLevel(level.upper())
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler())
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
