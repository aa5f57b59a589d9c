"""The ledger, one row for each call, and where the limits of its caller are counted with it.

`LocalBooks` are those of one machine, beside SQLite: limits in memory that its processes share, rows in a journal.
`DatabaseBooks` are those of several machines, in PostgreSQL: what belongs together is one transaction.
"""

import json
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, Self

from . import quotas, statements, sums
from .journal import BEGUN, COLUMNS, ENDED, Journal
from .processes import is_lost
from .quotas import CELLS, COUNT, HELD, LEASE_S, PERIODS, Decision, Reservation
from .slots import Slots
from .statements import Row, Tx
from .store import Store, shared
from .tables import day_of


class Books(Protocol):
    """Where calls are written down and limits are counted. All methods raise StoreUnavailable.

    `row` has its values in the order of COLUMNS; `of` is None where no limit is held here.
    """

    def admit(self, of: Reservation) -> Decision:
        """Take a place for a call, if no limit refuses it."""

    def begin(self, row: Sequence[Any]) -> None:
        """Write the row of a call that is about to be made."""

    def hold(self, row: Sequence[Any], of: Reservation, tokens: int) -> Decision:
        """Hold back `tokens` and write the row of a call that is about to be made, if no limit refuses."""

    def end(self, row: Sequence[Any] | None, of: Reservation | None, tokens: int) -> None:
        """Write the row of a call that has ended, if it has one, and settle; a second time changes nothing."""

    def sweep(self) -> list[Row]:
        """Close the calls that are lost, and free what lost calls held; these calls."""

    def close(self) -> None:
        """Give everything back; the next use opens it again."""


class LocalBooks:
    """See above."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._slots = Slots(journal.seats, partial(read_used, store))

    def admit(self, of: Reservation) -> Decision:
        """See Books."""
        decision = self._slots.admit(of, time.time())
        of.store = self if decision.refused is None else None
        return decision

    def begin(self, row: Sequence[Any]) -> None:
        """See Books."""
        self._journal.append(row, BEGUN)

    def hold(self, row: Sequence[Any], of: Reservation, tokens: int) -> Decision:
        """See Books."""
        decision = self._slots.hold(of, tokens, time.time())
        if decision.refused is None:
            self._journal.append(row, BEGUN)
        return decision

    def end(self, row: Sequence[Any] | None, of: Reservation | None, tokens: int) -> None:
        """See Books."""
        try:
            if row is not None:
                self._journal.append(row, ENDED)
        finally:
            if of:
                self._slots.settle(of, tokens, time.time())

    def sweep(self) -> list[Row]:
        """See Books."""
        self._slots.sweep(time.time())
        self._journal.sweep()
        return close_lost(self._store)

    def close(self) -> None:
        """See Books."""
        self._slots.close()
        self._journal.close()


class DatabaseBooks:
    """See above."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def admit(self, of: Reservation) -> Decision:
        """See Books."""

        def do(tx: Tx) -> Decision:
            now = time.time()
            return _batch(tx).state(of, now).admit(of, now)

        decision = self._store.write(do)
        of.store = self if decision.refused is None else None
        return decision

    def begin(self, row: Sequence[Any]) -> None:
        """See Books."""
        self._store.write(lambda tx: _batch(tx).begun.append(as_row(row)))

    def hold(self, row: Sequence[Any], of: Reservation, tokens: int) -> Decision:
        """See Books."""

        def do(tx: Tx) -> Decision:
            now = time.time()
            decision = _batch(tx).state(of, now).hold(tx, of, tokens, now)
            if decision.refused is None:
                _batch(tx).begun.append(as_row(row))
            return decision

        return self._store.write(do)

    def end(self, row: Sequence[Any] | None, of: Reservation | None, tokens: int) -> None:
        """See Books."""

        def do(tx: Tx) -> None:
            now = time.time()
            if row is not None:
                _batch(tx).ended.append(as_row(row))
            if of:
                _batch(tx).state(of, now).settle(of.call, tokens, now, of.began)

        self._store.write(do)

    def sweep(self) -> list[Row]:
        """See Books."""
        lost = close_lost(self._store)
        if lost:
            self._store.write(lambda tx: _free(tx, lost))
        self._store.write(lambda tx: statements.forget_limits(tx, time.time()))
        return lost

    def close(self) -> None:
        """See Books."""


@dataclass(slots=True)
class LimitState:
    """A caller's numbers, and its open calls: call → the end of its lease (Unix seconds), the tokens held back."""

    cells: list[int] = field(default_factory=lambda: [0] * CELLS)
    open: dict[str, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def load(cls, text: str | None, now: float) -> Self:
        """The state as it is at `now`: what cannot be read is nothing."""
        try:
            cells, opened = json.loads(text or "")
            if len(cells) != CELLS:
                return cls()
            state = cls(list(map(int, cells)), {c: (float(until), int(held)) for c, (until, held) in opened.items()})
        except (ValueError, TypeError, AttributeError):
            return cls()
        for call in [call for call, (until, _held) in state.open.items() if until <= now]:
            del state.open[call]
        state.cells[COUNT] = len(state.open)
        state.cells[HELD] = sum(held for _until, held in state.open.values())
        return state

    def dump(self) -> str:
        """As `load` takes it."""
        return json.dumps([self.cells, self.open], separators=(",", ":"))

    def admit(self, of: Reservation, now: float) -> Decision:
        """Take a place, if no limit refuses it."""
        decision = quotas.admit(self.cells, of.limits, now)
        if decision.refused is None:
            self.open[str(of.call)] = of.until + LEASE_S, 0
        return decision

    def hold(self, tx: Tx, of: Reservation, tokens: int, now: float) -> Decision:
        """Hold back `tokens`, if no limit refuses them."""
        for name in quotas.unknown(self.cells, of.limits, now):
            PERIODS[name].begin(self.cells, used_in_period(tx, of.key_id, name, now), now)
        decision = quotas.hold(self.cells, of.limits, tokens, now)
        if decision.refused is None:
            self.open[str(of.call)] = of.until + LEASE_S, tokens
        return decision

    def settle(self, call: int, tokens: int, now: float, began: float) -> None:
        """Give the place back, and count the `tokens` used. A second time changes nothing."""
        place = self.open.pop(str(call), None)
        if place is not None:
            quotas.settle(self.cells, place[1], tokens, now, began)


class _Batch:
    """What the calls in one transaction have in common: each state is read and written once, and all rows together."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._states: dict[str, tuple[LimitState, float]] = {}
        self.begun: list[Row] = []
        self.ended: list[Row] = []

    def state(self, of: Reservation, now: float) -> LimitState:
        """A caller's state, which is about to be changed."""
        found = self._states.get(of.subject)
        state = found[0] if found else LimitState.load(statements.get_limits(self._tx, of.subject), now)
        self._states[of.subject] = state, max(quotas.expires_at(of, now), found[1] if found else 0.0)
        return state

    def write(self) -> None:
        """Write it all."""
        for subject, (state, expires_at) in sorted(self._states.items()):
            lease_ends_at = max((until for until, _held in state.open.values()), default=0.0)
            statements.put_limits(self._tx, subject, state.dump(), max(expires_at, lease_ends_at))
        statements.begin_calls(self._tx, self.begun)
        statements.end_calls(self._tx, self.ended)


def _batch(tx: Tx) -> _Batch:
    return shared(tx, _Batch, _Batch.write)


def _free(tx: Tx, lost: Iterable[Row]) -> None:
    """Give back the places of these calls. A caller without a key is not in the ledger: it is searched for."""
    for row in lost:
        for subject, text, expires_at in statements.limits_with(tx, row["key_id"], str(row["id"])):
            now = time.time()
            state = LimitState.load(text, now)
            state.settle(row["id"], 0, now, now)
            statements.put_limits(tx, subject, state.dump(), expires_at)


# --- rows

_OWN = COLUMNS.index("until")  # the last two are not the call's: its process, and when it is over at the latest


def as_row(values: Sequence[Any]) -> Row:
    """A row by name."""
    return dict(zip(COLUMNS, values, strict=True))


def used_in_period(tx: Tx, key_id: str | None, limit: str, now: float) -> int:
    """Tokens of a key in a limit's period, from the ledger; the sums of callers without a key begin at 0."""
    if key_id is None:
        return 0
    return sums.tokens_used(tx, key_id, day_of(now) if limit == "tpd" else f"{day_of(now)[:7]}-01")


def read_used(store: Store, key_id: str | None, limit: str, now: float) -> int:
    """As `used_in_period`, read for it alone."""
    return store.read(lambda tx: used_in_period(tx, key_id, limit, now)) if key_id else 0


def close_lost(store: Store) -> list[Row]:
    """Close the calls whose process is gone, or which are open long after their deadline, as `worker_lost`."""
    if not any(is_lost(row) for row in store.read(statements.open_calls)):
        return []

    def close(tx: Tx) -> list[Row]:
        lost = [{**row, "ending": "worker_lost"} for row in statements.open_calls(tx) if is_lost(row)]
        return [row for row in lost if statements.close_call(tx, row)]

    return store.write(close)


def report(rows: Iterable[Row], by: Collection[str] = ("key", "model", "day")) -> list[dict[str, Any]]:
    """What was used (`sums.used`), added up `by` key, model and day, or some of these; the others are None."""
    totals: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        of = {
            "key_id": (row["key_id"] or None) if "key" in by else None,
            "key_name": row["key_name"] if "key" in by else None,
            "model": (row["model"] or None) if "model" in by else None,
            "day": row["day"] if "day" in by else None,
        }
        zero = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "endings": {}}
        one = totals.setdefault(tuple(of.values()), {**of, **zero})
        for name in ("calls", "prompt_tokens", "completion_tokens"):
            one[name] += row[name]
        one["endings"][row["ending"]] = one["endings"].get(row["ending"], 0) + row["calls"]
    return list(totals.values())
