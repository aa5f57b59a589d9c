"""What a caller may still do: pure arithmetic on a small state, whatever store holds it.

A call reserves before it is made and settles when it has ended: `reserve` counts it, and holds back the tokens it may
use at most; `settle` replaces those by the tokens it did use. A minute is any 60 seconds, counted in buckets of one
second that stay for 61, so that never more than the limit falls into a minute; days and months are those of UTC.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from ..caller import NAMES, TOKEN_NAMES, Limits

WINDOW_S = 61  # a bucket that begins now has left every minute it can share with a later call after so long
SKEW_S = 5  # the clocks of two machines; a bucket further in the future was written before a clock was set back
UNSAIDTOKEN_NAMES = 1024  # held back for an answer whose caller set no max_tokens
LEASE_S = 30.0  # a call that was never settled holds its place for so long after its own deadline


class Room(NamedTuple):
    """What is left of one limit: `reset_s` is when all of it is there again, if nothing more is used."""

    name: str
    limit: int
    remaining: int
    reset_s: int


class Verdict(NamedTuple):
    """What became of a reservation. `refused` and `shadowed` name limits; without `refused` the call may be made."""

    refused: str | None
    shadowed: tuple[str, ...]
    retry_after_s: float | None  # None: a call like this one can never be admitted
    rooms: tuple[Room, ...]

    @property
    def tightest(self) -> Room | None:
        """The limit that a caller should look at: the one that refused, or the one with the least left."""
        rooms = [room for room in self.rooms if room.name == (self.refused or room.name)]
        # How many calls are open is no allowance that is used up: it is told where nothing else is.
        rooms = [room for room in rooms if room.name != "concurrency"] or rooms
        return min(rooms, key=lambda room: room.remaining / room.limit, default=None)


_NOTHING = '[{},{},["",0],["",0],{}]'


@dataclass(slots=True)
class State:
    """What one caller has used: seconds → amounts, a day's and a month's tokens, and the calls that are open."""

    requests: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    day: tuple[str, int] = ("", 0)
    month: tuple[str, int] = ("", 0)
    open: dict[str, tuple[float, int]] = field(default_factory=dict)  # call → end of its lease, tokens held back

    @classmethod
    def load(cls, text: str | None, now: float) -> Self:
        """The state as it is at `now` (Unix seconds): what no longer counts is gone, and what cannot be read."""
        try:
            requests, tokens, day, month, opened = json.loads(text or _NOTHING)
            return cls(
                _within(requests, now),
                _within(tokens, now),
                _of_period(day, now, len("2026-11-22")),
                _of_period(month, now, len("2026-11")),
                {call: (until, int(held)) for call, (until, held) in opened.items() if until > now},
            )
        except (ValueError, TypeError, AttributeError, IndexError):
            return cls.load(None, now)

    def dump(self) -> str:
        """As `load` takes it."""
        return json.dumps([self.requests, self.tokens, self.day, self.month, self.open], separators=(",", ":"))

    def expires_at(self, now: float) -> float:
        """When nothing of it counts any more."""
        ends = [now + WINDOW_S, *(until for until, _ in self.open.values())]
        ends += [_next_day(now + SKEW_S)] * bool(self.day[1]) + [_next_month(now + SKEW_S)] * bool(self.month[1])
        return max(ends)

    @property
    def held(self) -> int:
        """Tokens held back for open calls."""
        return sum(tokens for _, tokens in self.open.values())


class Ask(NamedTuple):
    """A call that asks to be admitted."""

    call: str
    until: float  # Unix seconds: its own deadline
    prompt_tokens: int = 0
    max_tokens: int | None = None  # of each answer
    answers: int = 1

    def tokens(self, limits: Limits) -> int:
        """How many it may use; without max_tokens never more than `limits` allow at all."""
        if self.max_tokens is not None:
            return self.prompt_tokens + self.max_tokens * self.answers
        most: int = min(limit for name in TOKEN_NAMES if (limit := getattr(limits, name)))
        return max(self.prompt_tokens + 1, min(self.prompt_tokens + UNSAIDTOKEN_NAMES * self.answers, most))


def reserve(state: State, limits: Limits, ask: Ask, now: float) -> Verdict:
    """Count `ask` in `state` if no limit refuses it; a call that is refused leaves no trace."""
    over = {name: wait for name in NAMES if (wait := _wait(name, state, limits, ask, now)) != 0.0}
    # A limit that no waiting helps against is the one to hear of.
    refused = min((name for name in over if name not in limits.shadow), key=lambda n: over[n] is not None, default=None)
    if refused is None:
        second = int(now)
        state.requests[second] = state.requests.get(second, 0) + 1
        if limits.holds:
            state.open[ask.call] = (ask.until + LEASE_S, ask.tokens(limits) if limits.of_tokens else 0)
    waits = [wait for name, wait in over.items() if name not in limits.shadow]
    retry = None if None in waits else max((wait for wait in waits if wait), default=0.0)
    shadowed = tuple(name for name in over if name in limits.shadow)
    return Verdict(refused, shadowed, retry, _rooms(state, limits, now))


def settle(state: State, call: str, tokens: int, now: float) -> None:
    """`call` has ended, and has used `tokens`. A second time changes nothing."""
    if state.open.pop(call, None) is None or not tokens:
        return
    second = int(now)
    state.tokens[second] = state.tokens.get(second, 0) + tokens
    state.day = (state.day[0], state.day[1] + tokens)
    state.month = (state.month[0], state.month[1] + tokens)


def _wait(name: str, state: State, limits: Limits, ask: Ask, now: float) -> float | None:
    """Seconds until limit `name` lets `ask` through: 0 now, None never."""
    limit: int | None = getattr(limits, name)
    if limit is None:
        return 0.0
    want = ask.tokens(limits) if name in TOKEN_NAMES else 1
    if want > limit:
        return None
    free = limit - _used(name, state)
    if want <= free:
        return 0.0
    if name == "rpm":
        return _until_free(state.requests, want - free, now)
    if name == "tpm":
        return _until_free(state.tokens, want - free, now)
    if name == "tpd" and want <= limit - state.held:
        return _next_day(now) - now
    if name == "tpmonth" and want <= limit - state.held:
        return _next_month(now) - now
    return 1.0  # when an open call ends, and nobody knows when that is


def _used(name: str, state: State) -> int:
    match name:
        case "rpm":
            return sum(state.requests.values())
        case "tpm":
            return sum(state.tokens.values()) + state.held
        case "concurrency":
            return len(state.open)
        case "tpd":
            return state.day[1] + state.held
    return state.month[1] + state.held


def _rooms(state: State, limits: Limits, now: float) -> tuple[Room, ...]:
    """What is left of each limit that can refuse."""
    rooms = []
    for name in NAMES:
        limit = getattr(limits, name)
        if limit and name not in limits.shadow:
            rooms.append(Room(name, limit, max(0, limit - _used(name, state)), _reset_s(name, state, now)))
    return tuple(rooms)


def _reset_s(name: str, state: State, now: float) -> int:
    match name:
        case "rpm":
            wait = max(state.requests, default=now - WINDOW_S) + WINDOW_S - now
        case "tpm":  # what is held back for open calls will be used just now, at the earliest
            wait = max(state.tokens, default=now if state.held else now - WINDOW_S) + WINDOW_S - now
        case "concurrency":
            wait = 1.0 if state.open else 0.0
        case "tpd":
            wait = _next_day(now) - now
        case _:
            wait = _next_month(now) - now
    return int(-(-wait // 1)) if wait > 0 else 0


def _until_free(buckets: Mapping[int, int], amount: int, now: float) -> float:
    """When `amount` of what is in `buckets` will have left."""
    for second in sorted(buckets):
        amount -= buckets[second]
        if amount <= 0:
            return second + WINDOW_S - now
    return 1.0  # the rest is held back for open calls


def _within(buckets: Mapping[str, int], now: float) -> dict[int, int]:
    return {int(s): amount for s, amount in buckets.items() if now - WINDOW_S < int(s) <= now + SKEW_S}


def _of_period(used: tuple[str, int], now: float, length: int) -> tuple[str, int]:
    """What was used in the day or month of `now`, or in the next one that another machine's clock has reached."""
    of, amount = used
    today, soon = _day(now)[:length], _day(now + SKEW_S)[:length]
    return (of, int(amount)) if of in (today, soon) else (today, 0)


def _day(now: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(now))


def _next_day(now: float) -> float:
    return (_midnight(now) + timedelta(days=1)).timestamp()


def _next_month(now: float) -> float:
    return (_midnight(now).replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()


def _midnight(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
