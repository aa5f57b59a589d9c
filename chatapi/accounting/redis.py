"""The limits of several machines in Redis: one script, which reads, decides and changes in one go.

A caller's numbers are a hash whose fields are their places in quotas.py. The script says yes or no by the rules of that
room; what it has found there makes the decision that callers are told, by that room's own arithmetic. It is given the
steps of all calls that wait, a line each, so that a caller's numbers are read and written once for all of them.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..caller import NO_LIMITS, key_subject
from ..errors import StoreUnavailable
from ..telemetry import metrics
from . import quotas
from .group_commit import Future, GroupCommit
from .quotas import CELLS, COUNT, HELD, LEASE_S, MINUTE_S, PERIODS, REQUESTS, SKEW_S, TOKENS, Decision, Reservation

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
AWAY_S = 5.0  # for so long it is not asked again
_ANY_SUBJECT = "?"  # in place of a subject that only Redis knows
_ADMITTED = Decision(None, (), 0.0, ())
_FAILED = "! "  # before what a step's own answer is not


class RedisLimits:
    """The numbers in Redis. `used(key, limit, now)` is what the ledger knows of a day or month.

    Its methods raise StoreUnavailable when Redis is away.
    """

    def __init__(self, url: str, used: Callable[[str | None, str, float], int]) -> None:
        import redis  # only where it is used: it takes a quarter of a second and 8 MB

        self._used = used
        self._ask_again_at = 0.0
        self._errors = redis
        self._pool: Any = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=2,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=None,
        )
        self._redis: Any = redis.Redis(connection_pool=self._pool)
        self._hash = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
        self._group_commit: GroupCommit[str] = GroupCommit(self._send, lambda: 2 * TIMEOUT_S)

    def admit(self, reservation: Reservation, now: float) -> Decision:
        """Take a place, if no limit refuses it."""
        expires_at = reservation.lease_ends_at + LEASE_S
        lasts_ms = int((max(expires_at, quotas.expires_at(reservation, now)) - now) * 1000) + 1
        limits = [_hard_limit(reservation, name) for name in ("rpm", "concurrency")]
        found = self._run("admit", reservation, now, expires_at, lasts_ms, *limits)
        if not found[0]:
            return quotas.admit(_cells(found), reservation.limits, now)
        reservation.held_by = self
        if reservation.limits.of_tokens and not reservation.limits.shadow:
            return _ADMITTED  # `hold` tells what is left
        # None is refused, also where it was admitted before and nobody heard of it.
        return quotas.admit(_cells(found), reservation.limits, now)._replace(refused=None)

    def hold(self, reservation: Reservation, tokens: int, now: float) -> Decision:
        """Hold back `tokens`, if no limit refuses them."""
        named = reservation.limits
        used: dict[str, int] = {}
        while True:
            limits = [_hard_limit(reservation, name) for name in TOKENS]
            periods: list[int] = []
            for name, period in PERIODS.items():
                wanted = getattr(named, name) is not None
                periods += [period.number(now), period.number(now + SKEW_S), used.get(name, -1 if wanted else -2)]
            found = self._run("hold", reservation, now, reservation.lease_ends_at + LEASE_S, tokens, *limits, *periods)
            if found[0] >= 0:
                return quotas.hold(_cells(found), reservation.limits, tokens, now)
            used = {name: self._used(reservation.key_id, name, now) for name in PERIODS if getattr(named, name)}

    def settle(self, reservation: Reservation, tokens: int, now: float) -> None:
        """Give the place back, and count the `tokens` used. A second time changes nothing."""
        periods = [period.number(reservation.started_at) for period in PERIODS.values()]
        self._run("settle", reservation, now, tokens, *periods)

    def free(self, call: int, key_id: str | None) -> None:
        """Give back the place of a call that is lost. Of a caller without a key only Redis knows whose it was."""
        now = time.time()
        subject = key_subject(key_id) if key_id else _ANY_SUBJECT
        self.settle(Reservation(call, subject, key_id, NO_LIMITS, now, now), 0, now)

    def _run(self, what: str, reservation: Reservation, now: float, *more: float) -> list[int]:
        if time.monotonic() < self._ask_again_at:
            raise StoreUnavailable("it did not answer just now", "Redis")
        try:
            words = (what, repr(now), reservation.call, reservation.subject, *more)
            found = self._group_commit.do(" ".join(map(str, words)))
        except self._errors.ResponseError as error:  # it is there: something else is the matter, of this caller's alone
            log.error("Redis does not do as it is told: %s", type(error).__name__)
            raise StoreUnavailable(type(error).__name__, "Redis") from error
        except (self._errors.RedisError, TimeoutError) as error:
            if time.monotonic() > self._ask_again_at:
                metrics.limit_store_error()
                log.warning("Redis is away (%s): limits are held in the database meanwhile", type(error).__name__)
            self._ask_again_at = time.monotonic() + AWAY_S
            raise StoreUnavailable(type(error).__name__, "Redis") from error
        return list(map(int, found.split()))

    def _send(self, batch: list[Future[str]]) -> None:
        """Let the script do what many want at once."""
        steps = "\n".join([future.work for future in batch])
        try:
            answers = self._exchange(steps)
        except self._errors.ConnectionError:
            # Once more, for a connection that was closed since: what the script did it does not do again for a call.
            self._pool.disconnect()
            answers = self._exchange(steps)
        for future, answer in zip(batch, answers, strict=True):
            if answer.startswith(_FAILED):
                future.set_exception(self._errors.ResponseError(answer.removeprefix(_FAILED)))
            else:
                future.set_result(answer)

    def _exchange(self, steps: str) -> list[str]:
        connection = self._pool.get_connection()
        try:
            try:
                connection.send_command("EVALSHA", self._hash, 0, steps)
                answers = connection.read_response()
            except self._errors.exceptions.NoScriptError:
                connection.send_command("EVAL", _SCRIPT, 0, steps)
                answers = connection.read_response()
        except BaseException:
            connection.disconnect()  # an answer may be under way that nobody will wait for
            raise
        finally:
            self._pool.release(connection)
        return answers.decode().split("\n") if answers else []

    def ping(self) -> None:
        """Whether it is there. Raises ConnectionError."""
        try:
            self._redis.ping()
        except self._errors.RedisError as error:
            raise ConnectionError(f"Redis: {type(error).__name__}; limits are held in the database") from error

    def examine(self) -> tuple[str, float]:
        """What it throws away when it is full ("" for nothing, ever), and its own time. Raises ConnectionError."""
        try:
            seconds, microseconds = self._redis.time()
            memory = self._redis.info("memory")
        except self._errors.RedisError as error:
            raise ConnectionError(type(error).__name__) from error
        policy = memory.get("maxmemory_policy", "noeviction") if memory.get("maxmemory") else "noeviction"
        return "" if policy == "noeviction" else policy, seconds + microseconds / 1e6


def _hard_limit(reservation: Reservation, name: str) -> int:
    """The limit, or -1 where it refuses nobody."""
    limit: int | None = getattr(reservation.limits, name)
    return -1 if limit is None or name in reservation.limits.shadow else limit


# What an admitted call's decision is made from; where a limit refuses, the seconds of both minutes are told behind it.
_DAY, _MONTH, _RPM, _TPM = (window.at for window in (*PERIODS.values(), REQUESTS, TOKENS["tpm"]))
_ANSWERED = (COUNT, HELD, _DAY, _DAY + 1, _MONTH, _MONTH + 1, *range(_RPM, _RPM + 3), *range(_TPM, _TPM + 3))


def _cells(found: list[int]) -> list[int]:
    """The numbers that the script has told behind its answer: those of _ANSWERED, then pairs of place and number."""
    cells = [0] * CELLS
    pairs = 1 + len(_ANSWERED)
    for place, number in zip(_ANSWERED, found[1:pairs], strict=True):
        cells[place] = number
    for place, number in zip(found[pairs::2], found[pairs + 1 :: 2], strict=True):
        cells[place] = number
    return cells


_SCRIPT = f"""
local MINUTE, SKEW, RING, COUNT, HELD = {MINUTE_S}, {SKEW_S}, {REQUESTS.RING}, {COUNT}, {HELD}
local DAY, MONTH, REQUESTS, TOKENS = {_DAY}, {_MONTH}, {_RPM}, {_TPM}
local ANSWERED, TEXT, FAILED = {{{", ".join(map(str, _ANSWERED))}}}, '{" %.0f" * len(_ANSWERED)}', '{_FAILED}'
local ANY_SUBJECT = '{_ANY_SUBJECT}'
{Path(__file__).with_suffix(".lua").read_text()}"""
