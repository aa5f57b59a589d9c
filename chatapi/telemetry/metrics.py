"""Counters and times of calls, in Prometheus' words.

They gather in plain numbers and go together into Prometheus' files, of which each write costs a lock and a map.
"""

import platform
import time
from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from ..call import Call
from ..settings import VERSION
from .batch import batch
from .process_metrics import Processes

_registry = CollectorRegistry()
_CALLS = Counter("chatapi_calls", "Calls by their ending", ["route", "model", "ending", "code"], registry=_registry)
_ATTEMPTS = Counter("chatapi_attempts", "Requests to upstreams", ["model"], registry=_registry)
_FALLBACKS = Counter("chatapi_fallbacks", "Other models asked in place of a model", ["model"], registry=_registry)
_TOKENS = Counter("chatapi_tokens", "Tokens by kind", ["model", "kind"], registry=_registry)
_MALFORMED = Counter("chatapi_malformed_events", "Events of upstreams that were skipped", registry=_registry)
# Up to CHATAPI_MAX_TIME, whose default is the last bound.
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0)
_FIRST = Histogram(
    "chatapi_first_token_seconds", "Time to a stream's first event", ["model"], buckets=SECONDS, registry=_registry
)
_TOTAL = Histogram("chatapi_call_seconds", "Time of a whole call", ["route"], buckets=SECONDS, registry=_registry)
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

_LEGACY = Counter(
    "chatapi_legacy_calls", "Calls of the legacy route by the name of their key", ["key"], registry=_registry
)
_SUNSET = Gauge(
    "chatapi_legacy_sunset_timestamp_seconds",
    "The day the legacy route goes, as Unix time; 0 where none is set",
    multiprocess_mode="livemax",
    registry=_registry,
)

# --- what gathers


class _Numbers:
    """What was counted since the last flush, and the levels that have changed."""

    def __init__(self) -> None:
        self.counts: dict[tuple[Counter, tuple[str, ...]], float] = {}
        self.times: dict[tuple[Histogram, tuple[str, ...]], list[float]] = {}
        self.levels: dict[Gauge, float] = {}
        self.moved: set[Gauge] = set()

    def flush(self) -> None:
        counts, times, moved = self.counts, self.times, self.moved
        self.counts, self.times, self.moved = {}, {}, set()
        for (counter, labels), by in counts.items():
            (counter.labels(*labels) if labels else counter).inc(by)
        for (histogram, labels), seconds in times.items():
            _observe_all(histogram.labels(*labels) if labels else histogram, seconds)
        for gauge in moved:
            gauge.set(self.levels[gauge])


def _observe_all(histogram: Histogram, seconds: list[float]) -> None:
    """`histogram.observe` of each, with a write for each bucket rather than for each time."""
    histogram._sum.inc(sum(seconds))
    for place, times in Counted(bisect_left(histogram._upper_bounds, value) for value in seconds).items():
        histogram._buckets[place].inc(times)


_numbers = _Numbers()
batch.writers.append(_numbers.flush)


def _count(counter: Counter, *labels: str, by: float = 1) -> None:
    key = (counter, labels)
    _numbers.counts[key] = _numbers.counts.get(key, 0) + by
    batch.soon()


def _observe(histogram: Histogram, seconds: float, *labels: str) -> None:
    _numbers.times.setdefault((histogram, labels), []).append(seconds)
    batch.soon()


def _set(gauge: Gauge, level: float) -> None:
    _numbers.levels[gauge] = level
    _numbers.moved.add(gauge)
    batch.soon()


# --- whose names are labels

# Callers name models as they like: labels are for those of the catalogue, and the first so many others that answered.
MODELS = 200
KEYS = 200  # names of keys that are labels, likewise
_keys: set[str] = set()
_known: set[str] = set()
_answered: set[str] = set()


def label_models(models: Iterable[str]) -> None:
    """Models that get a label of their own before they have answered."""
    _known.update(models)


def _label(model: str | None) -> str:
    if model is None:
        return ""
    return model if model in _known or model in _answered else "other"


# --- what happened


def record(call: Call) -> None:
    """Count a call that has ended."""
    if call.served and call.served not in _known and len(_answered) < MODELS:
        _answered.add(call.served)
    model = _label(call.served or call.model)
    _count(_CALLS, call.route, model, call.ending or "", call.code or "")
    _observe(_TOTAL, (call.total_ms or 0.0) / 1000, call.route)
    for asked in call.asked:
        _count(_ATTEMPTS, _label(asked))
    if call.fallbacks:
        _count(_FALLBACKS, _label(call.model), by=call.fallbacks)
    if call.gateway_ms is not None:
        _observe(_GATEWAY, call.gateway_ms / 1000)
    if call.first_token_ms is not None:
        _observe(_FIRST, call.first_token_ms / 1000, _label(call.first_token_model))
    if call.completion_tokens is not None:
        _count(_TOKENS, model, "prompt", by=call.prompt_tokens or 0)
        _count(_TOKENS, model, "completion", by=call.completion_tokens)
    if call.malformed_events:
        _count(_MALFORMED, by=call.malformed_events)
    if call.decision is not None:
        refused = call.decision.refused
        _count(_LIMITS, refused or "", "refused" if refused else "admitted")
        for name in call.shadowed or ():
            _count(_LIMITS, name, "shadowed")


batch.observers.append(record)


def record_lost(calls: Iterable[Mapping[str, object]]) -> None:
    """Count calls whose process was killed, found in the ledger: `route` and `model` of each."""
    for row in calls:
        model = row["model"]
        _count(_CALLS, str(row["route"]), _label(model if isinstance(model, str) else None), "worker_lost", "")


def limit_store_error() -> None:
    """The shared store of limits did not answer."""
    _count(_LIMIT_STORE)


def legacy_sunset(at: float | None) -> None:
    """When the legacy route goes (Unix seconds)."""
    _set(_SUNSET, at or 0)


def legacy_called(key: str | None) -> None:
    """A call of the legacy route, with the key of that name."""
    if key and key not in _keys and len(_keys) < KEYS:
        _keys.add(key)
    _count(_LEGACY, (key if key in _keys else "other") if key else "")


def ledger_error() -> None:
    """The end of a call could not be written at once."""
    _count(_LEDGER)


def ledger_lag(pending: int, oldest: float) -> None:
    """How many ends wait to be written, and since when (Unix seconds)."""
    _set(_PENDING, pending)
    _set(_LAG, max(0.0, time.time() - oldest) if pending else 0.0)


def stream_opened(change: int) -> None:
    """A stream begins (+1) or has ended (-1)."""
    _set(_STREAMS, _numbers.levels.get(_STREAMS, 0) + change)


# --- for whoever asks


class _Snapshot:
    """Gauges as they are when somebody asks."""

    def __init__(self, *gauges: GaugeMetricFamily) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Prometheus'."""
        return self._gauges


def metrics(opened: Mapping[str, float]) -> bytes:
    """Prometheus' text format: this process's numbers, or under gunicorn those of all workers together.

    `opened` are the models whose circuit is open, in all workers, and the seconds since their last failure.
    """
    batch.flush()
    registry = CollectorRegistry()
    several = True
    try:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError:  # no folder for the numbers of several processes: gunicorn.conf.py makes one
        registry.register(_registry)
        several = False
    registry.register(Processes(with_parent=several))
    build = GaugeMetricFamily("chatapi_build_info", "The version that runs", labels=["version", "python"])
    build.add_metric([VERSION, platform.python_version()], 1)
    circuits = GaugeMetricFamily("chatapi_circuit_open_seconds", "Models whose circuit is open", labels=["model"])
    for model, seconds in opened.items():
        circuits.add_metric([model], seconds)
    registry.register(_Snapshot(build, circuits))
    return generate_latest(registry)
