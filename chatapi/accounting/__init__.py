"""Who may call, how much, and what each call was: `Accounts` is the door of this room.

Policy when a server is away: no call begins that could not be written down. One that is under way goes on, and its
end is written as soon as the database is back (if this process dies before, the call is found and closed as
`worker_lost`). When Redis is away, limits are held in the database instead; in the seconds when some have noticed it
and others not, a caller may get what both allow.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from ..call import Call
from ..chat import ChatJob
from ..errors import StoreError, StoreUnavailable
from ..telemetry import metrics
from . import bounds, quotas
from .journal import COLUMNS
from .late import RETRY_S, Late, apart
from .ledger import Books, DatabaseBooks, LocalBooks, read_used
from .processes import Own
from .quotas import Decision, Reservation
from .redis import RedisLimits
from .statements import Row
from .store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

SWEEP_S = 30.0


class Accounts:
    """Keeps account of calls (see call.py) for this process. `on_lost` is given the rows of calls found lost."""

    def __init__(
        self, store: Store, redis_url: str | None = None, on_lost: Callable[[list[Row]], None] | None = None
    ) -> None:
        self._store = store
        self._books: Books = LocalBooks(store, store.journal) if store.journal else DatabaseBooks(store)
        self._redis = RedisLimits(redis_url, partial(read_used, store)) if redis_url else None
        self._on_lost = on_lost
        self._late, self._late_in_redis = Late("the database", metrics.ledger_lag), Late("Redis")
        self._away_at = 0.0
        self._sweep_at = 0.0

    def admit(self, call: Call) -> None:
        """A call arrives, and its caller is known: it counts, and has a place until its end.

        Raises RateLimited or StoreUnavailable.
        """
        if time.monotonic() > self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_S
            apart(self.sweep)
        caller = call.caller
        assert caller is not None
        of = call.reservation = Reservation(
            call.id, caller.subject, caller.key_id, caller.limits, call.started_at, call.lease_ends_at
        )
        if caller.limits.given:
            self._decided(call, self._admit(of))

    def begin(self, call: Call, job: ChatJob) -> ChatJob:
        """A call is about to be made: the most tokens that it can use are held back, and its row is written.

        Returns `job` without what could use more. Raises RateLimited or StoreUnavailable.
        """
        of: Reservation = call.reservation
        job = of.job = bounds.bounded(job, of.limits)
        of.until = call.lease_ends_at
        tokens, of.completion = bounds.most(job, of.limits)
        if tokens:
            self._hold(call, of, tokens)
        else:
            self._asked_database(self._books.begin, _row(call))
        call.begun = True
        return job

    def _admit(self, of: Reservation) -> Decision:
        if self._redis is not None:
            try:
                return self._redis.admit(of, time.time())
            except StoreUnavailable:
                pass  # then in the database
        return self._asked_database(self._books.admit, of)

    def _hold(self, call: Call, of: Reservation, tokens: int) -> None:
        redis = self._redis
        if redis is not None and of.store is redis:
            try:
                decision = redis.hold(of, tokens, time.time())
            except StoreUnavailable as error:
                # It is given back when that is possible, and the call has a place in the database instead.
                self._late_in_redis.add(partial(redis.settle, replace(of), 0, time.time()), error.cause)
                self._decided(call, self._asked_database(self._books.admit, of))
            else:
                self._decided(call, decision)
                self._asked_database(self._books.begin, _row(call))
                return
        self._decided(call, self._asked_database(self._books.hold, _row(call), of, tokens))

    def _decided(self, call: Call, decision: Decision) -> None:
        call.decision = decision
        if decision.shadowed:
            call.shadowed = tuple(dict.fromkeys((*(call.shadowed or ()), *decision.shadowed)))
        if decision.refused:
            raise quotas.refusal(decision, call.reservation.limits)

    def _asked_database(self, do: Callable[..., T], *args: Any) -> T:
        try:
            return do(*args)
        except StoreUnavailable:
            self._away_at = time.monotonic()
            raise

    def end(self, call: Call) -> None:
        """A call has ended: its row is completed, or written whole, and what it held is free. Raises nothing."""
        row = _row(call)
        self._end(call.reservation, row, _bounded_tokens(row, call.reservation))

    def release(self, call: Call) -> None:
        """What no model was to be asked for is over: what it held is free, and it has no row. Raises nothing."""
        self._end(call.reservation, None, 0)

    def _end(self, of: Reservation | None, row: list[Any] | None, tokens: int) -> None:
        if of and self._redis is not None and of.store is self._redis:
            self._write(partial(self._redis.settle, of, tokens, time.time()), self._late_in_redis)
        write = partial(self._books.end, row, of if of and of.store is self._books else None, tokens)
        # Whoever has just waited for the database in vain does not wait again.
        self._write(write, self._late, at_once=time.monotonic() > self._away_at + RETRY_S)

    def _write(self, do: Callable[[], None], late: Late, at_once: bool = True) -> None:
        cause = "not yet back"
        if at_once and not late.waiting:
            try:
                do()
                return
            except StoreError as error:
                cause = error.cause
        late.add(do, cause)

    # --- what is done beside calls

    def sweep(self) -> None:
        """Close calls that are lost: their process is gone, or they are open long after their deadline."""
        self._sweep_at = time.monotonic() + SWEEP_S
        try:
            lost = self._books.sweep()
        except StoreError as error:
            log.warning("the ledger could not be looked through: %s", error.cause)
            return
        if lost and self._on_lost is not None:
            self._on_lost(lost)
        if self._redis is not None:
            for row in lost:
                self._write(partial(self._redis.free, row["id"], row["key_id"]), self._late_in_redis)

    def flush(self) -> None:
        """Write what is late, as far as that is possible now."""
        for late in (self._late_in_redis, self._late):
            late.flush()
        if self._store.journal is not None:
            with suppress(StoreError):
                self._store.journal.fold()

    def close(self) -> None:
        """Give back what this process holds; the next use opens it again."""
        self.flush()
        self._books.close()

    def ping(self) -> str:
        """Where limits are held, in a few words. Raises ConnectionError when that is Redis, and it is away."""
        if self._redis is None:
            return "in the database"
        self._redis.ping()
        return "in Redis"


_facts = attrgetter(*COLUMNS[:-2])  # of a call, as its row has them
_PROMPT, _COMPLETION = COLUMNS.index("prompt_tokens"), COLUMNS.index("completion_tokens")


def _row(call: Call) -> list[Any]:
    return [*_facts(call), Own.name, call.lease_ends_at]


def _bounded_tokens(row: list[Any], of: Reservation | None) -> int:
    """The tokens that count against limits; the counts of `row` are what can be true of the call at most."""
    prompt, completion = row[_PROMPT] or 0, row[_COMPLETION] or 0
    if not 0 <= prompt <= bounds.TEMPLATE:
        prompt = row[_PROMPT] = max(0, min(prompt, bounds.most_of_prompt(of.job) if of and of.job else bounds.MOST))
    most = of.completion if of else bounds.MOST
    if not 0 <= completion <= most:
        completion = row[_COMPLETION] = max(0, min(completion, most))
    return prompt + completion if of and of.limits.of_tokens else 0
