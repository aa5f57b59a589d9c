"""`/dashboard`: what is going on, for operators. The page has no number in it; its data want an administrator's key."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g, request

from ..accounting import charts, statements
from ..accounting.access import is_local
from ..accounting.charts import Span
from ..accounting.ledger import report
from ..accounting.tables import day_of
from ..chat import Json
from ..errors import AdminRequired, BadRequest, MissingApiKey, NotFound
from ..languages import _
from ..migration import callers
from . import layout
from .request import authenticated, components
from .response import json_response

blueprint = Blueprint("dashboard", __name__)

DAY_S = 86_400
MAX_SPAN_S = 10 * 366 * DAY_S
NEAR = 0.8  # of a limit: somebody will soon be refused


@blueprint.get("/dashboard")
@layout.in_readers_language
def dashboard() -> Response:
    """The dashboard."""
    return layout.page("dashboard.html", ("vendor/uplot/uPlot.min.css", "css/dashboard.css"))


@blueprint.get("/dashboard/data/<chart>")
@authenticated
def data(chart: str) -> Response:
    """One chart's data, `?from&to[&key][&model]` in Unix seconds."""
    _require_admin()
    if (make := CHARTS.get(chart)) is None:
        raise NotFound(_("There is no such chart. There are: {names}.", names=", ".join(CHARTS)))
    since, until = _moment("from", time.time() - DAY_S), _moment("to", time.time())
    if not 0 <= since < until <= since + MAX_SPAN_S:
        raise BadRequest(
            _("from must be before to, and both at most ten years apart."), details={"from": [_("must be before to")]}
        )
    return json_response(make(since, until, request.args.get("key"), request.args.get("model")))


def _require_admin() -> None:
    caller = g.call.caller
    if caller.admin:
        return
    if caller.key_id is not None:
        raise AdminRequired(_("This key is not an administrator's. Make one with: flask keys create --admin"))
    if components().settings.auth == "required" or not is_local(g.call.address, request.environ):
        raise MissingApiKey(_("An administrator's key is needed. Send it as 'Authorization: Bearer YOUR_KEY'."))


def _moment(name: str, default: float) -> float:
    try:
        value = float(request.args.get(name, default))
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e11:
        raise BadRequest(
            _("{name} must be a time in Unix seconds.", name=name), details={name: [_("must be a number of seconds")]}
        )
    return value


# --- charts: each of (since, until, key, model)


def _span(since: float, until: float, key: str | None, model: str | None) -> Span:
    return components().store.read(lambda tx: charts.span(tx, since, until, key, model))


def _series(span: Span, **lines: list[Any]) -> Json:
    return {"step_s": span.step_s, "sampled": span.sampled, "at": [step.at for step in span.steps], "lines": lines}


def _calls(since: float, until: float, key: str | None, model: str | None) -> Json:
    span = _span(since, until, key, model)
    good = [step.count(row for row in step.rows if row["ending"] == "completed") for step in span.steps]
    every = [step.count(step.rows) for step in span.steps]
    return _series(span, completed=good, others=[all - one for all, one in zip(every, good, strict=True)])


def _tokens(since: float, until: float, key: str | None, model: str | None) -> Json:
    span = _span(since, until, key, model)
    prompt = [step.total("prompt_tokens") for step in span.steps]
    return _series(span, prompt=prompt, completion=[step.total("completion_tokens") for step in span.steps])


def _times(name: str) -> Callable[[float, float, str | None, str | None], Json]:
    def chart(since: float, until: float, key: str | None, model: str | None) -> Json:
        span = _span(since, until, key, model)
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        lines = {word: [step.percentile(name, share) for step in span.steps] for word, share in shares.items()}
        return _series(span, **lines)

    return chart


def _errors(since: float, until: float, key: str | None, model: str | None) -> Json:
    span = _span(since, until, key, model)
    return {"sampled": span.sampled, "rows": span.errors()}


def _by(what: str) -> Callable[[float, float, str | None, str | None], Json]:
    def table(since: float, until: float, key: str | None, model: str | None) -> Json:
        days = day_of(since), day_of(until)
        rows = components().store.read(lambda tx: statements.used(tx, *days, key))
        chosen = [row for row in rows if model is None or row["model"] == model]
        found = sorted(report(chosen, (what,)), key=lambda row: -row["calls"])
        return {"from": days[0], "to": days[1], "rows": found}

    return table


def _state(since: float, until: float, key: str | None, model: str | None) -> Json:
    """How things are at this moment, whatever the span."""
    parts = components()
    opened = parts.engine.circuit.opened()
    return {
        "open_calls": parts.store.read(charts.open_calls),
        "circuits": [{"model": name, "failed_s_ago": round(ago, 1)} for name, ago in sorted(opened.items())],
        "limits": _near_their_limits(),
        "legacy": _legacy_callers(),
    }


def _legacy_callers() -> list[Json]:
    """Who called the legacy route in the last two weeks: what `flask migrate report` has."""
    parts = components()
    today = datetime.fromtimestamp(parts.legacy.clock(), UTC).date()
    first = (today - timedelta(days=13)).isoformat()
    rows = [row for day in parts.legacy.days(first) for row in parts.legacy.calls_of(day)]
    return callers.report(rows, today, parts.legacy.key_names(), parts.settings.default_model, first)


def _near_their_limits() -> list[Json]:
    """Keys that have used most of a limit: of tokens today and this month, and of the last minute."""
    parts = components()
    now = time.time()
    today = day_of(now)
    limited = {row["id"]: row for row in parts.keys.list() if not row["revoked_at"] and any(row["limits"].values())}
    if not limited:
        return []
    minute = _span(now - 60, now, None, None)
    used: dict[tuple[str, str], int] = {}
    for step in minute.steps:
        for row in step.rows:
            _add(used, row["key_id"] or "", rpm=1, tpm=(row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0))
    for row in parts.store.read(lambda tx: statements.used(tx, today[:8] + "01", today)):
        tokens = row["prompt_tokens"] + row["completion_tokens"]
        _add(used, row["key_id"], tpmonth=tokens, tpd=tokens if row["day"] == today else 0)
    found = []
    for (key_id, name), amount in used.items():
        limit = limited[key_id]["limits"].get(name) if key_id in limited else None
        if limit and amount >= NEAR * limit:
            key_name = limited[key_id]["name"]
            found.append({"key_id": key_id, "key_name": key_name, "limit": name, "used": amount, "of": limit})
    return sorted(found, key=lambda one: -one["used"] / one["of"])


def _add(used: dict[tuple[str, str], int], key_id: str, **amounts: int) -> None:
    for name, amount in amounts.items():
        used[key_id, name] = used.get((key_id, name), 0) + amount


CHARTS: dict[str, Callable[[float, float, str | None, str | None], Json]] = {
    "calls": _calls,
    "tokens": _tokens,
    "first-token": _times("first_token_ms"),
    "total-time": _times("total_ms"),
    "errors": _errors,
    "keys": _by("key"),
    "models": _by("model"),
    "state": _state,
}
