"""What the dashboard shows of the ledger, at the same small cost whatever its size.

A span is cut into steps. Of each step so many rows are read, from its beginning: where that is not all of them, what
they show is scaled to the step, and the answer says that it is sampled. Ids of calls are times, so that a step is a
range of the primary key.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from .statements import Row, Tx
from .tables import call_id, calls

STEPS = 60
MAX_ROWS = 60_000  # in all steps together: a tenth of a second
NICE_S = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600)
_COLUMNS = (
    calls.c.started_at,
    calls.c.key_id,
    calls.c.model,
    calls.c.served,
    calls.c.code,
    calls.c.ending,
    calls.c.prompt_tokens,
    calls.c.completion_tokens,
    calls.c.first_token_ms,
    calls.c.total_ms,
)
_STEP = (
    sa.select(*_COLUMNS)
    .where(calls.c.id >= sa.bindparam("low"), calls.c.id < sa.bindparam("high"))
    .order_by(calls.c.id)
    .limit(sa.bindparam("most"))
)


@dataclass(slots=True)
class Step:
    """The calls that began in one step. Counts are scaled by `scale` where not all were read."""

    at: float
    scale: float = 1.0
    rows: list[Row] = field(default_factory=list)

    def count(self, rows: Iterable[Row]) -> int:
        """So many calls, all of them reckoned."""
        return round(sum(1 for _ in rows) * self.scale)

    def total(self, name: str) -> int:
        """The sum of a column."""
        return round(sum(row[name] or 0 for row in self.rows) * self.scale)

    def percentile(self, name: str, share: float) -> float | None:
        """Of a column, None where no row has it."""
        values = sorted(row[name] for row in self.rows if row[name] is not None)
        return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else None


@dataclass(slots=True)
class Span:
    """The calls from `since` to `until`, in steps of `step_s` seconds."""

    step_s: float
    steps: list[Step]
    sampled: bool

    def errors(self) -> list[dict[str, Any]]:
        """Error codes and how often each was answered, the most frequent first."""
        found: Counter[str] = Counter()
        for step in self.steps:
            counts = Counter(row["code"] for row in step.rows if row["code"])
            found.update({code: round(count * step.scale) for code, count in counts.items()})
        return [{"code": code, "count": count} for code, count in found.most_common()]


def span(tx: Tx, since: float, until: float, key_id: str | None = None, model: str | None = None) -> Span:
    """The calls that began from `since` to `until` (Unix seconds), of one key and one model if these are given."""
    step_s = next((nice for nice in NICE_S if (until - since) / nice <= STEPS), (until - since) / STEPS)
    first = math.floor(since / step_s) * step_s
    places = [first + step_s * n for n in range(max(1, math.ceil((until - first) / step_s)))]
    most = MAX_ROWS // len(places)
    found, sampled = [], False
    for at in places:
        begin, end = max(at, since), min(at + step_s, until)
        given = {"low": call_id(begin, 0), "high": call_id(end, 0), "most": most}
        rows: list[Row] = [row._asdict() for row in tx.execute(_STEP, given)]
        step = Step(at, _scale(rows, most, begin, min(end, time.time())))
        sampled |= step.scale > 1.0
        step.rows = [row for row in rows if _is_wanted(row, key_id, model)]
        found.append(step)
    return Span(step_s, found, sampled)


def _scale(rows: list[Row], most: int, begin: float, end: float) -> float:
    """How many calls of the step each row stands for."""
    if len(rows) < most:
        return 1.0
    seen_s = rows[-1]["started_at"] - begin
    return max(1.0, (end - begin) / seen_s) if seen_s > 0 else 1.0


def _is_wanted(row: Row, key_id: str | None, model: str | None) -> bool:
    if key_id is not None and (row["key_id"] or "") != key_id:
        return False
    return model is None or (row["served"] or row["model"]) == model


def open_calls(tx: Tx) -> int:
    """How many calls have begun and not ended."""
    return int(tx.execute(sa.select(sa.func.count()).where(calls.c.ending.is_(None))).scalar_one())
