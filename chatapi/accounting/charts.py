"""What the dashboard shows of the ledger, at the same small cost whatever its size.

A span is cut into steps. Where it has more calls than MAX_ROWS, each step is cut into slices and so many rows are read
from the beginning of each: they stand for the slice, and the answer says that it is sampled. How many calls a day had
is known, so that what was read at a busy moment, or at a calm one, is weighed by it. Ids of calls are times, so that a
slice is a range of the primary key.
"""

import calendar
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa

from ..call import call_id
from .statements import CompiledStatement, Tx
from .sums import used_by_day
from .tables import calls, day_of

STEPS = 60
SLICES = 240  # in all steps together: those of a week lie at many hours, and not all at midnight
MAX_ROWS = 12_000  # likewise: some hundredths of a second
DAY_S = 86_400
NICE_S = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600)
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class ChartedCall(NamedTuple):
    """A call, as far as charts tell of it."""

    started_at: float
    key_id: str | None
    model: str | None
    served: str | None
    code: str | None
    ending: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    first_token_ms: float | None
    total_ms: float | None


_range = CompiledStatement(
    sa.select(*(calls.c[name] for name in ChartedCall._fields))
    .where(calls.c.id >= sa.bindparam("low"), calls.c.id < sa.bindparam("high"))
    .order_by(calls.c.id)
    .limit(sa.bindparam("most"))
    .offset(sa.bindparam("skip"))
)


@dataclass(slots=True)
class TimeStep:
    """The calls that began in one step, in figures; of tokens the sums, of times the percentiles by SHARES' names."""

    completed: int = 0
    others: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_ms: dict[str, float | None] = field(default_factory=dict)
    total_ms: dict[str, float | None] = field(default_factory=dict)


@dataclass(slots=True)
class Span:
    """The calls from one moment to another, in steps of `step_s` seconds that begin at `at`; and codes of errors."""

    step_s: float
    at: list[float]
    steps: list[TimeStep]
    errors: Counter[str]
    sampled: bool


Weighed = tuple[ChartedCall, float]  # a call, and for how many it stands


def span(tx: Tx, since: float, until: float, key_id: str | None = None, model: str | None = None) -> Span:
    """The calls that began from `since` to `until` (Unix seconds), of one key and one model if these are given."""
    step_s = next((nice for nice in NICE_S if (until - since) / nice <= STEPS), (until - since) / STEPS)
    first = math.floor(since / step_s) * step_s
    at = [first + step_s * n for n in range(max(1, math.ceil((until - first) / step_s)))]
    whole = _ids(since, until)
    sampled = _range.value(tx, **whole, skip=MAX_ROWS, most=1) is not None
    slices = max(1, SLICES // len(at)) if sampled else 1
    found: list[list[Weighed]] = [[] for _ in at]
    for place, begin in enumerate(at):
        for low, high in _slices(max(begin, since), min(begin + step_s, until), slices):
            found[place] += _weighed(tx, low, high, MAX_ROWS // (len(at) * slices) if sampled else MAX_ROWS)
    wanted = [[(row, weight) for row, weight in rows if _is_wanted(row, key_id, model)] for rows in found]
    if not sampled:
        return Span(step_s, at, [_step(rows) for rows in wanted], _errors(wanted), sampled)
    known = _known(tx, since, until, key_id, model, max(step_s, DAY_S))
    weighed = _calibrated(wanted, at, known, max(step_s, DAY_S))
    steps = [_step(rows) for rows in weighed]
    if step_s >= DAY_S:
        for begin, step in zip(at, steps, strict=True):
            _set_known(step, known.get((begin, True), _NOTHING), known.get((begin, False), _NOTHING))
    return Span(step_s, at, steps, _errors(weighed), sampled)


class Amount(NamedTuple):
    """What is known of some days."""

    calls: float
    prompt_tokens: float
    completion_tokens: float


_NOTHING = Amount(0.0, 0.0, 0.0)
Known = dict[tuple[float, bool], Amount]  # (where a period begins, whether the calls were completed) → what they used


def _known(tx: Tx, since: float, until: float, key_id: str | None, model: str | None, period_s: float) -> Known:
    """What the days of each period used; of the first and the last day as much as lies within the span."""
    found: Known = {}
    for row in used_by_day(tx, day_of(since), day_of(until), key_id, model):
        begin = calendar.timegm(time.strptime(row["day"], "%Y-%m-%d"))
        end = max(begin + 1.0, min(begin + DAY_S, time.time()))
        share = max(0.0, min(until, end) - max(since, begin)) / (end - begin)
        of = math.floor(begin / period_s) * period_s, bool(row["completed"])
        before = found.get(of, _NOTHING)
        found[of] = Amount(*(have + share * row[name] for have, name in zip(before, Amount._fields, strict=True)))
    return found


def _calibrated(steps: list[list[Weighed]], at: list[float], known: Known, period_s: float) -> list[list[Weighed]]:
    """The calls of each period weighed so that they are as many as are known."""
    sums: defaultdict[tuple[float, bool], float] = defaultdict(float)
    places = [math.floor(begin / period_s) * period_s for begin in at]
    for place, rows in zip(places, steps, strict=True):
        for row, weight in rows:
            sums[place, row.ending == "completed"] += weight
    factors = {of: known[of].calls / total if of in known else 1.0 for of, total in sums.items()}
    return [
        [(row, weight * factors[place, row.ending == "completed"]) for row, weight in rows]
        for place, rows in zip(places, steps, strict=True)
    ]


def _set_known(step: TimeStep, completed: Amount, others: Amount) -> None:
    """What is known of a step, rather than reckoned."""
    step.completed, step.others = round(completed.calls), round(others.calls)
    step.prompt_tokens = round(completed.prompt_tokens + others.prompt_tokens)
    step.completion_tokens = round(completed.completion_tokens + others.completion_tokens)


def _ids(since: float, until: float) -> dict[str, int]:
    return {"low": call_id(since, 0), "high": call_id(until, 0)}


def _slices(since: float, until: float, count: int) -> Iterator[tuple[float, float]]:
    width = (until - since) / count
    return ((since + n * width, since + (n + 1) * width) for n in range(count))


def _weighed(tx: Tx, since: float, until: float, most: int) -> list[Weighed]:
    """Up to `most` rows, each of the same weight: where there may be more, they stand for those behind them too."""
    rows = [ChartedCall._make(values) for values in _range(tx, **_ids(since, until), skip=0, most=most).fetchall()]
    weight = 1.0
    if len(rows) == most:
        seen_s, whole_s = rows[-1].started_at - since, min(until, time.time()) - since
        weight = max(1.0, whole_s / seen_s) if seen_s > 0 else 1.0
    return [(row, weight) for row in rows]


def _is_wanted(row: ChartedCall, key_id: str | None, model: str | None) -> bool:
    if key_id is not None and (row.key_id or "") != key_id:
        return False
    return model is None or (row.served or row.model) == model


def _step(rows: list[Weighed]) -> TimeStep:
    completed = sum(weight for row, weight in rows if row.ending == "completed")
    return TimeStep(
        round(completed),
        round(sum(weight for _row, weight in rows) - completed),
        round(sum((row.prompt_tokens or 0) * weight for row, weight in rows)),
        round(sum((row.completion_tokens or 0) * weight for row, weight in rows)),
        _percentiles([(row.first_token_ms, weight) for row, weight in rows if row.first_token_ms is not None]),
        _percentiles([(row.total_ms, weight) for row, weight in rows if row.total_ms is not None]),
    )


def _percentiles(values: list[tuple[float, float]]) -> dict[str, float | None]:
    """The least value at or below which such a share of the weight lies; None where there is no value."""
    values.sort()
    wanted = sum(weight for _value, weight in values)
    found: dict[str, float | None] = dict.fromkeys(SHARES)
    below, shares = 0.0, iter(SHARES.items())
    name, share = next(shares)
    for value, weight in values:
        below += weight
        while below >= share * wanted - 1e-9:
            found[name] = value
            if (following := next(shares, None)) is None:
                return found
            name, share = following
    return found


def _errors(steps: list[list[Weighed]]) -> Counter[str]:
    found: defaultdict[str, float] = defaultdict(float)
    for row, weight in (one for rows in steps for one in rows):
        if row.code:
            found[row.code] += weight
    return Counter({code: round(count) for code, count in found.items()})


def count_open(tx: Tx) -> int:
    """How many calls have begun and not ended."""
    return int(tx.execute(sa.select(sa.func.count()).where(calls.c.ending.is_(None))).scalar_one())


def used_since(tx: Tx, since: float) -> list[tuple[str, int, int]]:
    """Of each key with calls since then (Unix seconds): its id, its calls, its tokens."""
    tokens = sa.func.coalesce(calls.c.prompt_tokens, 0) + sa.func.coalesce(calls.c.completion_tokens, 0)
    query = sa.select(calls.c.key_id, sa.func.count(), sa.func.sum(tokens)).where(
        calls.c.id >= call_id(since, 0), calls.c.key_id.is_not(None)
    )
    return [(key_id, count, int(total)) for key_id, count, total in tx.execute(query.group_by(calls.c.key_id))]
