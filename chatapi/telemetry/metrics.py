"""Counters and times of calls, in Prometheus' words."""

import platform
import time
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from ..call import Call
from ..settings import VERSION
from .processes import Processes

_registry = CollectorRegistry()
_CALLS = Counter("chatapi_calls", "Calls by their ending", ["route", "model", "ending", "code"], registry=_registry)
_ATTEMPTS = Counter("chatapi_attempts", "Requests to upstreams", ["model"], registry=_registry)
_FALLBACKS = Counter("chatapi_fallbacks", "Other models asked in place of a model", ["model"], registry=_registry)
_TOKENS = Counter("chatapi_tokens", "Tokens by kind", ["model", "kind"], registry=_registry)
_MALFORMED = Counter("chatapi_malformed_events", "Events of upstreams that were skipped", registry=_registry)
# Up to CHATAPI_MAX_TIME, whose default is the last bound.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0)
_FIRST = Histogram(
    "chatapi_first_token_seconds", "Time to a stream's first event", ["model"], buckets=_BUCKETS, registry=_registry
)
_TOTAL = Histogram("chatapi_call_seconds", "Time of a whole call", ["route"], buckets=_BUCKETS, registry=_registry)
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

# Callers name models as they like: labels are for those of the catalogue, and the first so many others that answered.
MODELS = 200
KEYS = 200  # names of keys that are labels, likewise
_keys: set[str] = set()
_known: set[str] = set()
_answered: set[str] = set()


def label_models(models: Iterable[str]) -> None:
    """Models that get a label of their own before they have answered."""
    _known.update(models)


def limit_decided(refused: str | None, shadowed: Iterable[str]) -> None:
    """A call was asked about: which limit refused it, and which would have."""
    _LIMITS.labels(refused or "", "refused" if refused else "admitted").inc()
    for name in shadowed:
        _LIMITS.labels(name, "shadowed").inc()


def legacy_sunset(at: float | None) -> None:
    """When the legacy route goes (Unix seconds)."""
    _SUNSET.set(at or 0)


def legacy_called(key: str | None) -> None:
    """A call of the legacy route, with the key of that name."""
    if key and key not in _keys and len(_keys) < KEYS:
        _keys.add(key)
    _LEGACY.labels((key if key in _keys else "other") if key else "").inc()


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


def record(call: Call) -> None:
    """Count a call that has ended."""
    if call.served and call.served not in _known and len(_answered) < MODELS:
        _answered.add(call.served)
    _CALLS.labels(call.route, _label(call.served or call.model), call.ending, call.code or "").inc()
    _TOTAL.labels(call.route).observe((call.total_ms or 0.0) / 1000)
    for model in call.asked:
        _ATTEMPTS.labels(_label(model)).inc()
    if call.fallbacks:
        _FALLBACKS.labels(_label(call.model)).inc(call.fallbacks)
    if call.gateway_ms is not None:
        _GATEWAY.observe(call.gateway_ms / 1000)
    if call.first_token_ms is not None:
        _FIRST.labels(_label(call.first_token_model)).observe(call.first_token_ms / 1000)
    if call.completion_tokens is not None:
        _TOKENS.labels(_label(call.served or call.model), "prompt").inc(call.prompt_tokens or 0)
        _TOKENS.labels(_label(call.served or call.model), "completion").inc(call.completion_tokens)
    if call.malformed_events:
        _MALFORMED.inc(call.malformed_events)


def _label(model: str | None) -> str:
    if model is None:
        return ""
    return model if model in _known or model in _answered else "other"


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


class _Build:
    """Which version answers."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Always 1; the labels say it."""
        gauge = GaugeMetricFamily("chatapi_build_info", "The version that runs", labels=["version", "python"])
        gauge.add_metric([VERSION, platform.python_version()], 1)
        yield gauge


def metrics(opened: Mapping[str, float]) -> bytes:
    """Prometheus' text format: this process's numbers, or under gunicorn those of all workers together."""
    registry = CollectorRegistry()
    several = True
    try:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    except ValueError:  # no folder for the numbers of several processes: gunicorn.conf.py makes one
        registry.register(_registry)
        several = False
    registry.register(Processes(with_parent=several))
    registry.register(_Build())
    registry.register(_Circuits(opened))
    return generate_latest(registry)
