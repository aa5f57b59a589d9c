"""Who may call, how much, and what each call was: `Accounts` is the door of this room.

Policy when a server is away: no call begins that could not be written down. One that is under way goes on, and its
end is written as soon as the database is back (if this process dies before, the call is found and closed as
`worker_lost`). When Redis is away, limits are held in the database instead; in the seconds when some have noticed it
and others not, a caller may get what both allow.
"""

import _thread
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from ..call import Call
from ..caller import Limits
from ..chat import ChatJob, Message, estimate_tokens, text_of
from ..errors import StoreError, StoreUnavailable
from ..telemetry import metrics
from . import quotas, statements, sums
from .database_ledger import DatabaseLedger
from .extra_fields import bounded
from .local_ledger import LocalLedger
from .processes import is_lost, this_process
from .quotas import Decision, Reservation
from .redis import RedisLimits
from .retries import RETRY_S, RetryQueue
from .statements import COLUMNS, Row
from .store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

SWEEP_S = 30.0


class Accounts:
    """Keeps account of calls (see call.py) for this process. `on_lost` is given the rows of calls found lost."""

    def __init__(
        self, store: Store, redis_url: str | None = None, on_lost: Callable[[list[Row]], None] | None = None
    ) -> None:
        used = partial(sums.read_used, store)
        self._store = store
        self._ledger = LocalLedger(store.journal, used) if store.journal else DatabaseLedger(store)
        self._redis = RedisLimits(redis_url, used) if redis_url else None
        self._on_lost = on_lost
        self._database_retries = RetryQueue("the database", metrics.ledger_lag)
        self._redis_retries = RetryQueue("Redis")
        self._away_at = 0.0
        self._sweep_at = 0.0

    def admit(self, call: Call) -> None:
        """A call arrives, and its caller is known: it counts, and has a place until its end.

        Raises RateLimited or StoreUnavailable.
        """
        if time.monotonic() > self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_S
            _thread.start_new_thread(self.sweep, ())  # under gevent a greenlet
        caller = call.caller
        assert caller is not None
        reservation = call.reservation = Reservation(
            call.id, caller.subject, caller.key_id, caller.limits, call.started_at, call.lease_ends_at
        )
        if caller.limits.given:
            self._decided(call, self._admit(reservation))

    def begin(self, call: Call, job: ChatJob) -> ChatJob:
        """A call is about to be made: the most tokens that it can use are held back, and its row is written.

        Returns `job` without what could use more. Raises RateLimited or StoreUnavailable.
        """
        reservation: Reservation = call.reservation
        reservation.lease_ends_at = call.lease_ends_at
        if job.extra:
            job = bounded(job, reservation.limits)
        reservation.job = job
        tokens, reservation.max_completion = token_bounds(job, reservation.limits)
        if tokens:
            self._hold(call, reservation, tokens)
        else:
            self._ask_database(self._ledger.begin, _row(call))
        call.begun = True
        return job

    def _admit(self, reservation: Reservation) -> Decision:
        if self._redis is not None:
            with suppress(StoreUnavailable):  # then in the database
                return self._redis.admit(reservation, time.time())
        return self._ask_database(self._ledger.admit, reservation)

    def _hold(self, call: Call, reservation: Reservation, tokens: int) -> None:
        redis = self._redis
        if redis is not None and reservation.held_by is redis:
            try:
                decision = redis.hold(reservation, tokens, time.time())
            except StoreUnavailable as error:
                # It is given back when that is possible, and the call has a place in the database instead.
                self._redis_retries.add(partial(redis.settle, replace(reservation), 0, time.time()), error.cause)
                self._decided(call, self._ask_database(self._ledger.admit, reservation))
            else:
                self._decided(call, decision)
                self._ask_database(self._ledger.begin, _row(call))
                return
        self._decided(call, self._ask_database(self._ledger.hold, _row(call), reservation, tokens))

    def _decided(self, call: Call, decision: Decision) -> None:
        call.decision = decision
        if decision.shadowed:
            call.shadowed = tuple(dict.fromkeys((*(call.shadowed or ()), *decision.shadowed)))
        if decision.refused:
            raise quotas.refusal(decision, call.reservation.limits)

    def _ask_database(self, do: Callable[..., T], *args: Any) -> T:
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

    def _end(self, reservation: Reservation | None, row: list[Any] | None, tokens: int) -> None:
        if reservation and self._redis is not None and reservation.held_by is self._redis:
            self._write(partial(self._redis.settle, reservation, tokens, time.time()), self._redis_retries)
        here = reservation if reservation and reservation.held_by is self._ledger else None
        write = partial(self._ledger.end, row, here, tokens)
        # Whoever has just waited for the database in vain does not wait again.
        self._write(write, self._database_retries, at_once=time.monotonic() > self._away_at + RETRY_S)

    def _write(self, do: Callable[[], None], retries: RetryQueue, at_once: bool = True) -> None:
        cause = "not yet back"
        if at_once and not retries.waiting:
            try:
                do()
                return
            except StoreError as error:
                cause = error.cause
        retries.add(do, cause)

    # --- what is done beside calls

    def sweep(self) -> None:
        """Close calls that are lost: their process is gone, or they are open long after their deadline."""
        self._sweep_at = time.monotonic() + SWEEP_S
        try:
            self._ledger.sweep()
            lost: list[Row] = []
            if any(map(is_lost, self._store.read(statements.open_calls))):
                lost = self._store.write(statements.close_lost)
                self._ledger.free(lost)
        except StoreError as error:
            log.warning("the ledger could not be looked through: %s", error.cause)
            return
        if lost and self._on_lost is not None:
            self._on_lost(lost)
        if self._redis is not None:
            for row in lost:
                self._write(partial(self._redis.free, row["id"], row["key_id"]), self._redis_retries)

    def flush(self) -> None:
        """Write what is late, as far as that is possible now."""
        self._redis_retries.flush()
        self._database_retries.flush()
        if self._store.journal is not None:
            with suppress(StoreError):
                self._store.journal.fold()

    def close(self) -> None:
        """Give back what this process holds; the next use opens it again."""
        self.flush()
        self._ledger.close()

    def ping(self) -> str:
        """Where limits are held, in a few words. Raises ConnectionError when that is Redis, and it is away."""
        if self._redis is None:
            return "in the database"
        self._redis.ping()
        return "in Redis"


# --- a call's row in the ledger

_PROMPT, _COMPLETION, _ATTEMPTS = map(COLUMNS.index, ("prompt_tokens", "completion_tokens", "attempts"))
# The last two are not the call's: its process, and when it is over at the latest.
assert COLUMNS[-2:] == ("owner", "until")
_facts = attrgetter(*(name if name != "attempts" else "asked" for name in COLUMNS[:-2]))


def _row(call: Call) -> list[Any]:
    row = [*_facts(call), this_process.name, call.lease_ends_at]
    row[_ATTEMPTS] = len(row[_ATTEMPTS])
    return row


def _bounded_tokens(row: list[Any], reservation: Reservation | None) -> int:
    """The tokens that count against limits; the counts of `row` are what can be true of the call at most."""
    prompt: int = row[_PROMPT] or 0
    completion: int = row[_COMPLETION] or 0
    if not 0 <= prompt <= TEMPLATE_TOKENS:
        most = prompt_bound(reservation.job) if reservation and reservation.job else MAX_TOKENS
        prompt = row[_PROMPT] = max(0, min(prompt, most))
    if not 0 <= completion <= (most := reservation.max_completion if reservation else MAX_TOKENS):
        completion = row[_COMPLETION] = max(0, min(completion, most))
    return prompt + completion if reservation and reservation.limits.of_tokens else 0


# --- the most tokens that a job can cause

MAX_TOKENS = 10**9  # more no request can cause, and no upstream can mean
DEFAULT_COMPLETION = 1024  # tokens held back for an answer whose caller named no limit
MAX_COMPLETION = 1_000_000  # tokens of one answer without a limit: the largest contexts there are
MESSAGE_TOKENS = 4  # that a chat template adds to a message
TEMPLATE_TOKENS = 4096  # that a server may put around a conversation
IMAGE_TOKENS = 100_000
UTF8_BYTES = 4  # of a character; a token has at least one byte

_LENGTHS = ("max_tokens", "max_completion_tokens")
_TOOLS = frozenset(("tools", "functions", "response_format"))


def token_bounds(job: ChatJob, limits: Limits) -> tuple[int, int]:
    """The most tokens that `job` can cause: what to hold back for it, and what no true count of its answers exceeds.

    Where it names no length, no more is held than `limits` allow at all; without limits of tokens nothing is.
    """
    options = job.options
    lengths = [_amount(options[name]) for name in _LENGTHS if options.get(name) is not None]
    choices = max(1, _amount(options["n"])) if options.get("n") else 1
    completion = min(max(lengths, default=MAX_COMPLETION) * choices, MAX_TOKENS)
    if not limits.of_tokens:
        return 0, completion
    prompt = _estimated_prompt(job)
    if lengths:
        return min(prompt + completion, MAX_TOKENS), completion
    allowed = min(limit for _name, limit in limits.of_tokens)
    return min(max(prompt + 1, min(prompt + DEFAULT_COMPLETION * choices, allowed)), MAX_TOKENS), completion


def prompt_bound(job: ChatJob) -> int:
    """What no true count of the tokens of `job`'s prompt exceeds."""
    characters = sum(map(_characters, job.messages))
    characters += sum(len(str(job.options[name])) for name in _TOOLS & job.options.keys())
    return min(UTF8_BYTES * characters + TEMPLATE_TOKENS, MAX_TOKENS)


def _amount(value: Any) -> int:
    return min(max(value, 0), MAX_TOKENS) if isinstance(value, int) else 0


def _characters(message: Message) -> int:
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return len(content)
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    said = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    images: int = sum(part.get("type") != "text" for part in parts)
    beside = [str(value) for name, value in message.items() if name not in ("role", "content")]
    whole = content if isinstance(content, str) else ""
    return sum(len(text) for text in (whole, *said, *beside)) + images * IMAGE_TOKENS // UTF8_BYTES


def _estimated_prompt(job: ChatJob) -> int:
    tokens = 0
    for message in job.messages:
        tokens += MESSAGE_TOKENS + estimate_tokens(text_of(message))
        if calls := message.get("tool_calls"):
            tokens += estimate_tokens(str(calls))
    return tokens + sum(estimate_tokens(str(job.options[name])) for name in _TOOLS & job.options.keys())
