"""`/dashboard`: what is going on, for operators. The page has no number in it; its data want an administrator's key."""

import math
import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from flask import Blueprint, Response, g, request

from ..accounting import charts, sums
from ..accounting.access import is_local
from ..accounting.charts import Span, TimeStep
from ..accounting.store import Store
from ..accounting.tables import day_of
from ..chat import Json
from ..errors import AdminRequired, BadRequest, MissingApiKey, NotFound
from ..languages import _
from . import layout
from .request import authenticated, components
from .response import json_response

blueprint = Blueprint("dashboard", __name__)

DAY_S = 86_400
MAX_SPAN_S = 10 * 366 * DAY_S
KEPT_S = 1.0  # charts of one moment are drawn from what was read once
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
    return json_response(make(Asked(since, until, request.args.get("key"), request.args.get("model"))))


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


# --- charts


class Asked(NamedTuple):
    """What a chart is asked for: from when to when (Unix seconds), of which key and model; None is all."""

    since: float
    until: float
    key: str | None
    model: str | None


_last: WeakKeyDictionary[Store, tuple[float, Asked, Span]] = WeakKeyDictionary()


def _span(asked: Asked) -> Span:
    """What the page asks for in five charts at once is read once."""
    store = components().store
    kept = _last.get(store)
    if kept is None or kept[1] != asked or time.monotonic() - kept[0] > KEPT_S:
        span = store.read(lambda tx: charts.span(tx, *asked))
        kept = _last[store] = time.monotonic(), asked, span
    return kept[2]


def _series(lines: dict[str, Callable[[TimeStep], Any]], asked: Asked) -> Json:
    span = _span(asked)
    values = {name: [of(step) for step in span.steps] for name, of in lines.items()}
    return {"step_s": span.step_s, "sampled": span.sampled, "at": span.at, "lines": values}


def _errors(asked: Asked) -> Json:
    span = _span(asked)
    rows = [{"code": code, "count": count} for code, count in span.errors.most_common()]
    return {"sampled": span.sampled, "rows": rows}


def _used_by(name: str, asked: Asked) -> Json:
    days = day_of(asked.since), day_of(asked.until)
    rows = components().store.read(lambda tx: sums.used_by(tx, name, *days, asked.key, asked.model))
    return {"from": days[0], "to": days[1], "rows": [{**row, name: row[name] or None} for row in rows]}


def _state(asked: Asked) -> Json:
    """How things are at this moment, whatever the span."""
    parts = components()
    opened = parts.engine.circuit.opened()
    return {
        "open_calls": parts.store.read(charts.count_open),
        "circuits": [{"model": name, "failed_s_ago": round(ago, 1)} for name, ago in sorted(opened.items())],
        "limits": _near_their_limits(),
        "legacy": parts.legacy.report(parts.settings.default_model),
    }


def _near_their_limits() -> list[Json]:
    """Keys that have used most of a limit: of tokens today and this month, and of the last minute."""
    parts = components()
    now = time.time()
    limited = {row["id"]: row for row in parts.keys.list() if not row["revoked_at"] and any(row["limits"].values())}
    if not limited:
        return []
    read = parts.store.read
    used: dict[tuple[str, str], int] = {}
    for key_id, count, tokens in read(lambda tx: charts.used_since(tx, now - 60)):
        used |= {(key_id, "rpm"): count, (key_id, "tpm"): tokens}
    for name, first_day in sums.FIRST_DAY.items():
        for row in read(partial(sums.used_by, name="key_id", since=first_day(now), until=day_of(now))):
            used[row["key_id"], name] = row["prompt_tokens"] + row["completion_tokens"]
    found = []
    for (key_id, name), amount in used.items():
        limit = limited[key_id]["limits"].get(name) if key_id in limited else None
        if limit and amount >= NEAR * limit:
            key_name = limited[key_id]["name"]
            found.append({"key_id": key_id, "key_name": key_name, "limit": name, "used": amount, "of": limit})
    return sorted(found, key=lambda one: -one["used"] / one["of"])


def _share(times: str, share: str) -> Callable[[TimeStep], Any]:
    return lambda step: getattr(step, times)[share]


# Chart → its lines, and what each has of a step.
_LINES: dict[str, dict[str, Callable[[TimeStep], Any]]] = {
    "calls": {"completed": attrgetter("completed"), "others": attrgetter("others")},
    "tokens": {"prompt": attrgetter("prompt_tokens"), "completion": attrgetter("completion_tokens")},
    "first-token": {share: _share("first_token_ms", share) for share in charts.SHARES},
    "total-time": {share: _share("total_ms", share) for share in charts.SHARES},
}
CHARTS: dict[str, Callable[[Asked], Json]] = {
    **{chart: partial(_series, lines) for chart, lines in _LINES.items()},
    "errors": _errors,
    "keys": partial(_used_by, "key_id"),
    "models": partial(_used_by, "model"),
    "state": _state,
}
