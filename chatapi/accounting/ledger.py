"""The books: one row for each call, written when it begins and completed when it ends, and the limits it counts for.

Policy when the database is away: no call begins that could not be written down; one that is under way goes on, and
its end is written as soon as the database is back (if this process dies before, the call is found and closed as
`worker_lost`). When Redis is away, limits are held in the database instead, exact for all who share that one; in the
seconds when some have noticed it and others not, a caller may get what both allow.
"""

import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..call import Call
from ..caller import WHAT, Limits, key_subject
from ..chat import ChatJob, estimated
from ..errors import RateLimited, StoreError
from ..languages import _
from ..telemetry import metrics
from . import statements, tables
from .quotas import LEASE_S, Ask, State, Verdict, reserve, settle
from .statements import Row, Tx
from .store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_LATE = 10_000  # ended calls that wait for a database that is away
RETRY_S = 1.0
SWEEP_S = 30.0
USED_S = 60.0  # how exact a key's last use is
REDIS_TIMEOUT_S = 0.5
REDIS_AWAY_S = 5.0  # for so long it is not asked again
SWAPS = 200  # attempts at one caller's state in Redis; each failure is somebody else's success


class Caller(Protocol):
    """Who makes a call; `subject` is what its limits are counted under."""

    @property
    def key_id(self) -> str | None: ...
    @property
    def subject(self) -> str: ...
    @property
    def limits(self) -> Limits: ...


class Entry:
    """One call in the books, from the moment its caller is known."""

    def __init__(self, books: "Books", caller: Caller, record: Call) -> None:
        self.caller = caller
        self.started_at = time.time()
        self.id = tables.call_id(self.started_at)
        self.begun = False
        self.reserved_in: str | None = None
        self.unwritten: str | None = None  # why its begin could not be written
        self._until = self.started_at
        self._books = books
        self._record = record

    def begin(self, job: ChatJob, seconds: float) -> Verdict | None:
        """The call is about to be made, and takes at most `seconds`; it may be if no limit has refused it."""
        self._until = time.time() + seconds
        limits = self.caller.limits
        prompt = estimated(job.messages, "").prompt_tokens if limits.of_tokens else 0
        answers: int = job.options.get("n") or 1
        verdict = self._books.begin(self, Ask(str(self.id), self._until, prompt, job.max_tokens, answers))
        if verdict is not None:
            metrics.limit_decided(verdict.refused, verdict.shadowed)
        self.begun = verdict is None or verdict.refused is None
        return verdict

    def end(self) -> None:
        """The call has ended, and its record is complete."""
        self._books.end(self)

    def row(self) -> dict[str, Any]:
        """As the ledger has it."""
        record = self._record
        row = {name: getattr(record, name) for name in _FROM_RECORD}
        return row | {
            "id": self.id,
            "started_at": self.started_at,
            "key_id": self.caller.key_id,
            "owner": owner(),
            "until": self._until,
        }


_FROM_RECORD = ("request_id", "dialect", "route", "stream", *statements.ENDED)


class Books:
    """The books as one process keeps them."""

    def __init__(self, of: Store, states: "RedisStates | None" = None) -> None:
        self._store = of
        self._states = states
        self._late: deque[tuple[Entry, Row]] = deque()
        self._flushing = threading.Lock()
        self._sweep_at = 0.0
        self._used_at: dict[str, float] = {}

    def entry(self, caller: Caller, record: Call) -> Entry:
        """An entry for a call of `caller`, before it is known what it asks for."""
        if time.monotonic() > self._sweep_at:
            self.sweep()
        return Entry(self, caller, record)

    def begin(self, entry: Entry, ask: Ask) -> Verdict | None:
        """Reserve, and write the row of a call that begins. Raises StoreUnavailable."""
        try:
            return self._begin(entry, ask)
        except StoreError as error:
            entry.unwritten = error.cause
            raise

    def _begin(self, entry: Entry, ask: Ask) -> Verdict | None:
        if not entry.caller.limits:
            self._store.write(lambda tx: statements.open_call(tx, entry.row()))
            return None
        verdict = self._reserve_in_redis(entry.caller, ask)
        if verdict is None:
            return self._store.write(lambda tx: self._reserve(tx, entry, ask))
        if verdict.refused is None:
            entry.reserved_in = "redis"
            self._store.write(lambda tx: statements.open_call(tx, entry.row()))
        return verdict

    def _reserve_in_redis(self, caller: Caller, ask: Ask) -> Verdict | None:
        """None where there is none, or where it is away."""
        if self._states is None:
            return None
        now = time.time()
        return self._states.change(caller.subject, now, lambda state: reserve(state, caller.limits, ask, now))

    def _reserve(self, tx: Tx, entry: Entry, ask: Ask) -> Verdict:
        caller, now = entry.caller, time.time()
        state = State.load(statements.get_limits(tx, caller.subject), now)
        verdict = reserve(state, caller.limits, ask, now)
        if verdict.refused is None:
            entry.reserved_in = "store"
            statements.put_limits(tx, caller.subject, state.dump(), state.expires_at(now))
            statements.open_call(tx, entry.row())
        return verdict

    def end(self, entry: Entry) -> None:
        """Complete the row and settle; or write it whole, for a call that ended before it began."""
        row = entry.row()
        if entry.reserved_in == "redis" and self._states and entry.caller.limits.holds:
            call, used, now = str(row["id"]), tokens(row), time.time()
            self._states.change(entry.caller.subject, now, lambda state: settle(state, call, used, now))
        if entry.unwritten:  # whoever has just waited for the database in vain does not wait again
            self._keep(entry, row, entry.unwritten)
            return
        try:
            self._store.write(lambda tx: self._end(tx, entry, row))
        except StoreError as error:
            self._keep(entry, row, error.cause)

    def _end(self, tx: Tx, entry: Entry, row: Row) -> None:
        if not entry.begun:
            statements.open_call(tx, row)
        elif statements.close_call(tx, row) and entry.reserved_in == "store" and entry.caller.limits.holds:
            _settle(tx, entry.caller.subject, row)
        key_id, now = row["key_id"], time.time()
        if key_id and now - self._used_at.get(key_id, 0.0) > USED_S:
            self._used_at[key_id] = now
            statements.use_key(tx, key_id, now)

    # --- what could not be written at once

    def _keep(self, entry: Entry, row: Row, cause: str) -> None:
        metrics.ledger_error()
        if len(self._late) >= MOST_LATE:
            return  # its row is in the books as begun, and will be closed as lost
        self._late.append((entry, row))
        metrics.ledger_lag(len(self._late), self._late[0][0].started_at)
        if len(self._late) == 1:
            log.warning("the database is away (%s): ends of calls are written when it is back", cause)
            threading.Thread(target=self._write_late, daemon=True).start()

    def _write_late(self) -> None:
        while self._late:
            time.sleep(RETRY_S)
            self.flush()
        log.warning("the database is back, and everything is written")

    def flush(self) -> None:
        """Try to write what is late."""
        with self._flushing:
            while self._late:
                entry, row = self._late.popleft()
                try:
                    self._store.write(partial(self._end, entry=entry, row=row))
                except StoreError:
                    self._late.append((entry, row))  # at the end: should it alone be at fault, others go before it
                    break
            metrics.ledger_lag(len(self._late), min((e.started_at for e, _ in self._late), default=time.time()))

    def ping(self) -> str:
        """Where limits are held, in a few words. Raises ConnectionError when that is Redis, and it is away."""
        if self._states is None:
            return "in the database"
        self._states.ping()
        return "in Redis"

    def _free_in_redis(self, lost: list[Row]) -> None:
        for row in lost:
            if self._states and row["key_id"]:
                free = partial(settle, call=str(row["id"]), tokens=0, now=time.time())
                self._states.change(key_subject(row["key_id"]), time.time(), free)

    def sweep(self) -> None:
        """Close the calls whose process is gone, or which are open long after their deadline, as `worker_lost`."""
        self._sweep_at = time.monotonic() + SWEEP_S
        try:
            if any(_is_lost(row) for row in self._store.read(statements.open_calls)):
                self._free_in_redis(self._store.write(_close_lost))
            self._store.write(lambda tx: statements.forget_limits(tx, time.time()))
        except StoreError as error:
            log.warning("the books could not be looked through: %s", error.cause)


def report(rows: Iterable[Row], by: Collection[str] = ("key", "model", "day")) -> list[dict[str, Any]]:
    """What was used (`statements.used`), added up `by` key, model and day, or some of these; the others are None."""
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        of = {
            "key_id": (row["key_id"] or None) if "key" in by else None,
            "key_name": row["key_name"] if "key" in by else None,
            "model": row["model"] if "model" in by else None,
            "day": row["day"] if "day" in by else None,
        }
        zero = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "endings": {}}
        one = sums.setdefault(tuple(of.values()), {**of, **zero})
        for name in ("calls", "prompt_tokens", "completion_tokens"):
            one[name] += row[name]
        one["endings"][row["ending"]] = one["endings"].get(row["ending"], 0) + row["calls"]
    return list(sums.values())


def tokens(row: Row) -> int:
    """Prompt and completion together."""
    return int((row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0))


def _settle(tx: Tx, subject: str, row: Row) -> None:
    now = time.time()
    state = State.load(statements.get_limits(tx, subject), now)
    settle(state, str(row["id"]), tokens(row), now)
    statements.put_limits(tx, subject, state.dump(), state.expires_at(now))


def _close_lost(tx: Tx) -> list[Row]:
    lost = [row for row in statements.open_calls(tx) if _is_lost(row)]
    for row in lost:
        if statements.close_call(tx, {**row, "ending": "worker_lost"}) and row["key_id"]:
            _settle(tx, key_subject(row["key_id"]), row)
    return lost


def refusal(verdict: Verdict, limits: Limits) -> RateLimited:
    """The error of a call that a limit has refused."""
    name = verdict.refused or ""
    limit = {"limit": getattr(limits, name), "what": _(WHAT[name])}
    if verdict.retry_after_s is None:
        said = _(
            "This call alone could pass the limit of {limit} {what}. Lower max_tokens, or shorten the messages.",
            **limit,
        )
        error = RateLimited(said)
        error.retryable = False
        return error
    wait_s = max(1, -int(-verdict.retry_after_s // 1))
    said = _("You have reached the limit of {limit} {what}. Try again in {wait_s} s.", wait_s=wait_s, **limit)
    return RateLimited(said, retry_after_s=wait_s)


# --- whose call is it


def owner() -> str:
    """This process, told apart from every other one there ever was."""
    return _owner(os.getpid())


@cache
def _owner(pid: int) -> str:
    return f"{_machine()} {pid} {_born(pid)}"


@cache
def _machine() -> str:
    # The host's name, its boot, and the namespace in which its process numbers count (a container has its own).
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:13]
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} - -"


def _born(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty when it is gone (or dead, and not yet buried)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _is_lost(row: Row) -> bool:
    if row["until"] + LEASE_S < time.time():
        return True
    host, boot, pids, pid, born = row["owner"].split(" ")
    our_host, our_boot, our_pids = _machine().split(" ")
    if host != our_host or not born:
        return False
    if boot != our_boot:
        return True
    return bool(pids == our_pids and _born(int(pid)) != born)


# --- limits of several machines


class RedisStates:
    """The state of limits in Redis, changed only where nobody else has changed it meanwhile."""

    def __init__(self, url: str) -> None:
        import redis  # only where it is used: it takes a quarter of a second and 8 MB

        self._away_until = 0.0
        self._error = redis.RedisError
        self._redis: Any = redis.Redis.from_url(
            url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
        )
        self._swap = self._redis.register_script(_SWAP)

    def change(self, subject: str, now: float, decide: Callable[[State], T]) -> T | None:
        """What `decide` returns after it has changed the state of `subject`; None when Redis is away."""
        if time.monotonic() < self._away_until:
            return None
        try:
            return self._change("chatapi:limits:" + subject, now, decide)
        except self._error as error:
            metrics.limit_store_error()
            log.warning("Redis is away (%s): limits are held in the database meanwhile", type(error).__name__)
            self._away_until = time.monotonic() + REDIS_AWAY_S
            return None

    def _change(self, name: str, now: float, decide: Callable[[State], T]) -> T:
        for _attempt in range(SWAPS):
            before = self._redis.get(name)
            state = State.load(before, now)
            result = decide(state)
            after = state.dump()
            lasts_s = max(1, int(state.expires_at(now) - now) + 1)
            if self._swap(keys=[name], args=[before or b"", after, lasts_s]):
                return result
            time.sleep(random.uniform(0, 0.005))
        raise self._error("too many at once")

    def ping(self) -> None:
        """Whether it is there. Raises ConnectionError."""
        try:
            self._redis.ping()
        except self._error as error:
            raise ConnectionError(f"Redis: {type(error).__name__}; limits are held in the database") from error

    def look(self) -> tuple[str, float]:
        """What it throws away when it is full ("" for nothing, ever), and its own time. Raises ConnectionError."""
        try:
            seconds, microseconds = self._redis.time()
            memory = self._redis.info("memory")
        except self._error as error:
            raise ConnectionError(f"it does not answer ({type(error).__name__})") from error
        policy = memory.get("maxmemory_policy", "noeviction") if memory.get("maxmemory") else "noeviction"
        return "" if policy == "noeviction" else policy, seconds + microseconds / 1e6


_SWAP = """
if (redis.call('GET', KEYS[1]) or '') == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
  return 1
end
return 0
"""
