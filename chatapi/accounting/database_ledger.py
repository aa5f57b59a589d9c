"""The ledger of several machines, in PostgreSQL, and the limits of callers there.

Rows and limits that belong together are one transaction.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from . import quotas, statements, sums
from .quotas import CELLS, COUNT, HELD, LEASE_S, PERIODS, Decision, Reservation
from .statements import COLUMNS, Row, Tx
from .store import Store


class DatabaseLedger:
    """As LocalLedger is, for calls on several machines."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def admit(self, reservation: Reservation) -> Decision:
        """Take a place for a call, if no limit refuses it."""

        def do(tx: Tx) -> Decision:
            now = time.time()
            return _batch(tx).state(reservation, now).admit(reservation, now)

        decision = self._store.write(do)
        reservation.held_by = self if decision.refused is None else None
        return decision

    def begin(self, row: Sequence[Any]) -> None:
        """Write the row of a call that is about to be made."""
        self._store.write(lambda tx: _batch(tx).begun.append(_by_name(row)))

    def hold(self, row: Sequence[Any], reservation: Reservation, tokens: int) -> Decision:
        """Hold back `tokens` and write the row of a call that is about to be made, if no limit refuses."""

        def do(tx: Tx) -> Decision:
            now = time.time()
            decision = _batch(tx).state(reservation, now).hold(tx, reservation, tokens, now)
            if decision.refused is None:
                _batch(tx).begun.append(_by_name(row))
            return decision

        return self._store.write(do)

    def end(self, row: Sequence[Any] | None, reservation: Reservation | None, tokens: int) -> None:
        """Write the row of a call that has ended, if it has one, and settle what is reserved here, if anything is."""

        def do(tx: Tx) -> None:
            now = time.time()
            if row is not None:
                _batch(tx).ended.append(_by_name(row))
            if reservation:
                _batch(tx).state(reservation, now).settle(reservation.call, tokens, now, reservation.started_at)

        self._store.write(do)

    def sweep(self) -> None:
        """Forget callers of whom nothing counts any more."""
        self._store.write(lambda tx: statements.forget_limits(tx, time.time()))

    def free(self, lost: Iterable[Row]) -> None:
        """Give back the places of these calls. A caller without a key is not in the ledger: it is searched for."""

        def do(tx: Tx) -> None:
            for row in lost:
                for subject, text, expires_at in statements.limits_with(tx, row["key_id"], str(row["id"])):
                    now = time.time()
                    state = LimitState.load(text, now)
                    state.settle(row["id"], 0, now, now)
                    statements.put_limits(tx, subject=subject, state=state.dump(), expires_at=expires_at)

        if lost:
            self._store.write(do)

    def close(self) -> None:
        """Nothing is held but by the store."""


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
            places = {call: (float(ends_at), int(held)) for call, (ends_at, held) in opened.items()}
            state = cls(list(map(int, cells)), places)
        except (ValueError, TypeError, AttributeError):
            return cls()
        for call in [call for call, (ends_at, _held) in state.open.items() if ends_at <= now]:
            del state.open[call]
        state.cells[COUNT] = len(state.open)
        state.cells[HELD] = sum(held for _ends_at, held in state.open.values())
        return state

    def dump(self) -> str:
        """As `load` takes it."""
        return json.dumps([self.cells, self.open], separators=(",", ":"))

    def admit(self, reservation: Reservation, now: float) -> Decision:
        """Take a place, if no limit refuses it."""
        decision = quotas.admit(self.cells, reservation.limits, now)
        if decision.refused is None:
            self.open[str(reservation.call)] = reservation.lease_ends_at + LEASE_S, 0
        return decision

    def hold(self, tx: Tx, reservation: Reservation, tokens: int, now: float) -> Decision:
        """Hold back `tokens`, if no limit refuses them."""
        for name in quotas.unknown(self.cells, reservation.limits, now):
            PERIODS[name].begin(self.cells, sums.used_in_period(tx, reservation.key_id, name, now), now)
        decision = quotas.hold(self.cells, reservation.limits, tokens, now)
        if decision.refused is None:
            self.open[str(reservation.call)] = reservation.lease_ends_at + LEASE_S, tokens
        return decision

    def settle(self, call: int, tokens: int, now: float, started_at: float) -> None:
        """Give the place back, and count the `tokens` used. A second time changes nothing."""
        place = self.open.pop(str(call), None)
        if place is not None:
            quotas.settle(self.cells, place[1], tokens, now, started_at)


class _Batch:
    """What the calls in one transaction have in common: each state is read and written once, and all rows together."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._states: dict[str, tuple[LimitState, float]] = {}
        self.begun: list[Row] = []
        self.ended: list[Row] = []

    def state(self, reservation: Reservation, now: float) -> LimitState:
        """A caller's state, which is about to be changed."""
        subject, expires_at = reservation.subject, quotas.expires_at(reservation, now)
        if (found := self._states.get(subject)) is None:
            found = LimitState.load(statements.get_limits.value(self._tx, subject=subject), now), 0.0
        self._states[subject] = found[0], max(expires_at, found[1])
        return found[0]

    def write(self) -> None:
        """Write it all."""
        for subject, (state, expires_at) in sorted(self._states.items()):
            lease_ends_at = max((ends_at for ends_at, _held in state.open.values()), default=0.0)
            expires_at = max(expires_at, lease_ends_at)
            statements.put_limits(self._tx, subject=subject, state=state.dump(), expires_at=expires_at)
        statements.insert_begun(self._tx, self.begun)
        statements.update_ended(self._tx, self.ended)


def _batch(tx: Tx) -> _Batch:
    batch: _Batch = tx.info.get("batch") or _Batch(tx)
    tx.info["batch"] = batch
    return batch


def _by_name(values: Sequence[Any]) -> Row:
    return dict(zip(COLUMNS, values, strict=True))
