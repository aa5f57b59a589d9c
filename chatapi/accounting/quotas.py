"""What a caller may still do: arithmetic on the numbers that a store holds for it, whichever store that is.

A call takes a place when it arrives (`admit`), holds back the most tokens that it can cause before it is made
(`hold`), and gives both up for the tokens that it did use when it has ended (`settle`).

A caller's numbers are `CELLS` integers of 64 bits, read and changed in place. A minute is any 60 seconds, to the
millisecond; days and months are those of UTC, and a call belongs to those in which it began, as in the ledger.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from ..caller import LIMIT_WORDS, Limits
from ..chat import ChatJob
from ..errors import RateLimited
from ..languages import _

Cells = list[int] | memoryview  # the numbers of one caller: a list, or memory that several processes share
MINUTE_S = 60
SKEW_S = 5  # the clocks of two machines; what is further in the future was counted before a clock was set back
LEASE_S = 30.0  # a call that was never settled holds its place for so long after its own deadline
DAY_S = 86_400
COUNT, HELD = 0, 1  # the cells of open calls: how many, and the tokens held back for them


@dataclass(slots=True)
class Reservation:
    """One call's claim on its caller's limits. `held_by` has it, at `place`, until it is settled there."""

    call: int
    subject: str
    key_id: str | None
    limits: Limits
    started_at: float  # Unix seconds
    lease_ends_at: float  # Unix seconds: its own deadline
    held_by: object = None
    place: int = 0
    job: ChatJob | None = None  # once it is about to be made
    max_completion: int = 10**9  # tokens: what no true count of its answers exceeds


class LimitStatus(NamedTuple):
    """What is left of one limit: `reset_s` is when all of it is there again, if nothing more is used."""

    name: str
    limit: int
    remaining: int
    reset_s: int


class Decision(NamedTuple):
    """What became of a call. `refused` and `shadowed` name limits; without `refused` the call may go on."""

    refused: str | None
    shadowed: tuple[str, ...]
    retry_after_s: float | None  # None: a call like this one can never be admitted
    statuses: tuple[LimitStatus, ...]

    @property
    def tightest(self) -> LimitStatus | None:
        """The limit that a caller should look at: the one that refused, or the one with the least left."""
        tightest, least = None, math.inf
        for status in self.statuses:
            name, limit, remaining, _reset_s = status
            if name == self.refused:
                return status
            # How many calls are open is no allowance that is used up: it is told where nothing else is.
            share = remaining / limit if name != "concurrency" else math.inf
            if tightest is None or share < least:
                tightest, least = status, share
        return tightest


class SlidingMinute:
    """What was used in the last 60 seconds: one cell a second, all of it leaving a minute after the last of it came.

    Cells: the first second that still counts, the sum, when the latest came (in milliseconds), and a ring of seconds,
    each the amount and, in the last ten bits, the millisecond of the latest that was added.
    """

    RING = MINUTE_S + SKEW_S + 2
    SIZE = 3 + RING

    def __init__(self, at: int, held: bool) -> None:
        self.at = at
        self._ring = at + 3
        self._held = held

    def roll(self, cells: Cells, now: float) -> None:
        """Forget what is older than a minute."""
        at, oldest = self.at, int(now) - MINUTE_S
        first = cells[at]
        if not cells[at + 1]:
            cells[at] = oldest
        elif oldest - first > self.RING or cells[at + 2] > (now + SKEW_S) * 1000:
            cells[at], cells[at + 1], cells[at + 2] = oldest, 0, 0
            for cell in range(self._ring, self._ring + self.RING):
                cells[cell] = 0
        else:
            while first <= oldest:
                cell = self._ring + first % self.RING
                if first == oldest and oldest + (cells[cell] & 1023) / 1000 + MINUTE_S > now:
                    break
                cells[at + 1] -= cells[cell] >> 10
                cells[cell] = 0
                first += 1
            cells[at] = max(first, cells[at])

    def add(self, cells: Cells, amount: int, now: float, started_at: float) -> None:
        """Count `amount` at `now`."""
        second = int(now)
        cell = self._ring + second % self.RING
        cells[cell] = (cells[cell] & ~1023) + (amount << 10) | max(cells[cell] & 1023, int((now - second) * 1000))
        cells[self.at + 1] += amount
        cells[self.at + 2] = max(cells[self.at + 2], int(now * 1000))

    def used(self, cells: Cells) -> int:
        """What counts now, with what is held back for open calls."""
        return cells[self.at + 1] + (cells[HELD] if self._held else 0)

    def wait_s(self, cells: Cells, excess: int, now: float) -> float:
        """When `excess` of what is used will have left."""
        first = cells[self.at]
        for second in range(first, first + self.RING):
            cell = cells[self._ring + second % self.RING]
            excess -= cell >> 10
            if excess <= 0:
                return min(second + (cell & 1023) / 1000 + MINUTE_S - now, MINUTE_S)
        return 1.0  # the rest is held back for calls that are open, and nobody knows when one ends

    def reset_s(self, cells: Cells, now: float) -> float:
        """When all of it will have left; what is held back is used just now, at the earliest."""
        if self._held and cells[HELD]:
            return MINUTE_S
        return min(cells[self.at + 2] / 1000 + MINUTE_S - now, MINUTE_S) if cells[self.at + 1] else 0.0


class CalendarPeriod:
    """Tokens of the calls that began in this day or month. Cells: the period's number, and the sum."""

    SIZE = 2

    def __init__(self, at: int, monthly: bool) -> None:
        self.at = at
        self._monthly = monthly

    def number(self, now: float) -> int:
        """Which day since 1970, or which month since year 0."""
        day = int(now // DAY_S)
        return _month(day) if self._monthly else day

    def is_known(self, cells: Cells, now: float) -> bool:
        """Whether the sum is that of this period, or of the next, which another machine's clock has reached."""
        return cells[self.at] == self.number(now) or cells[self.at] == self.number(now + SKEW_S)

    def begin(self, cells: Cells, used: int, now: float) -> None:
        """A period of which `used` is used already."""
        cells[self.at], cells[self.at + 1] = self.number(now), used

    def roll(self, cells: Cells, now: float) -> None:
        """Nothing of it passes by itself: whoever asks for its limit begins a period that is not known."""

    def add(self, cells: Cells, amount: int, now: float, started_at: float) -> None:
        """Count `amount` of a call that began at `started_at`; not where another period has begun since."""
        if (number := cells[self.at]) and number == self.number(started_at):
            cells[self.at + 1] += amount

    def used(self, cells: Cells) -> int:
        """What counts now, with what is held back for open calls."""
        return cells[self.at + 1] + cells[HELD]

    def wait_s(self, cells: Cells, excess: int, now: float) -> float:
        """When the next period begins; where that is not enough, nobody knows when open calls end."""
        return self.reset_s(cells, now) if excess <= cells[self.at + 1] else 1.0

    def reset_s(self, cells: Cells, now: float) -> float:
        """When the next period begins."""
        number = self.number(now) + 1
        return (_month_begins(number) if self._monthly else number * DAY_S) - now


class Concurrency:
    """Calls that are open."""

    def roll(self, cells: Cells, now: float) -> None:
        """Nothing of it passes by itself."""

    def used(self, cells: Cells) -> int:
        """How many."""
        return cells[COUNT]

    def wait_s(self, cells: Cells, excess: int, now: float) -> float:
        """Nobody knows when one ends."""
        return 1.0

    def reset_s(self, cells: Cells, now: float) -> float:
        """As soon as they end."""
        return 1.0 if cells[COUNT] else 0.0


@lru_cache(8)
def _month(day: int) -> int:
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return date.year * 12 + date.month - 1


@lru_cache(8)
def _month_begins(number: int) -> float:
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()


_DAY, _MONTH = COUNT + 2, COUNT + 4
_REQUESTS, _TOKENS = COUNT + 6, COUNT + 6 + SlidingMinute.SIZE
CELLS = _TOKENS + SlidingMinute.SIZE
REQUESTS = SlidingMinute(_REQUESTS, held=False)
PERIODS = {"tpd": CalendarPeriod(_DAY, monthly=False), "tpmonth": CalendarPeriod(_MONTH, monthly=True)}
TOKENS: dict[str, SlidingMinute | CalendarPeriod] = {"tpm": SlidingMinute(_TOKENS, held=True), **PERIODS}
WINDOWS = {"rpm": REQUESTS, "concurrency": Concurrency(), **TOKENS}


def unknown(cells: Cells, limits: Limits, now: float) -> list[str]:
    """The limits of days and months whose sum is not known here: the ledger is (see `CalendarPeriod.begin`)."""
    return [name for name, _limit in limits.of_tokens if name in PERIODS and not PERIODS[name].is_known(cells, now)]


def admit(cells: Cells, limits: Limits, now: float) -> Decision:
    """A call arrives: it counts, and has a place until it is settled, if no limit refuses it."""
    refused, shadowed, wait_s = _judge(cells, limits, limits.of_calls, 1, now)
    if refused is None:
        cells[COUNT] += 1
        if limits.rpm:
            REQUESTS.add(cells, 1, now, now)
    # Where tokens are limited too, `hold` tells what is left of all limits.
    statuses = () if refused is None and limits.of_tokens else _statuses(cells, limits, limits.of_calls, now)
    return Decision(refused, shadowed, wait_s, statuses)


def hold(cells: Cells, limits: Limits, tokens: int, now: float) -> Decision:
    """A call that has a place is about to be made: the `tokens` that it can use are held back, if no limit refuses."""
    refused, shadowed, wait_s = _judge(cells, limits, limits.of_tokens, tokens, now)
    if refused is None:
        cells[HELD] += tokens
    elif wait_s is not None:  # whoever comes back is one more request
        again, _also, again_s = _judge(cells, limits, [pair for pair in limits.of_calls if pair[0] == "rpm"], 1, now)
        wait_s = max(wait_s, again_s or 0.0) if again else wait_s
    return Decision(refused, shadowed, wait_s, _statuses(cells, limits, limits.given, now))


def settle(cells: Cells, held: int, tokens: int, now: float, started_at: float) -> None:
    """A call has ended: its place and the tokens held back are free, and the `tokens` that it used count."""
    cells[COUNT] -= 1
    cells[HELD] -= held
    if tokens:
        for window in TOKENS.values():
            window.roll(cells, now)
            window.add(cells, tokens, now, started_at)


def expires_at(reservation: Reservation, now: float) -> float:
    """When nothing that is used at `now` counts any more, but in a key's days and months: the ledger knows those."""
    end = now + MINUTE_S + SKEW_S
    if reservation.key_id is not None:
        return end
    periods = (PERIODS[name].reset_s([], now) for name, _limit in reservation.limits.of_tokens if name in PERIODS)
    return max(end, now + max(periods, default=0.0))


Named = Iterable[tuple[str, int]]


def _judge(
    cells: Cells, limits: Limits, named: Named, want: int, now: float
) -> tuple[str | None, tuple[str, ...], float | None]:
    """Which limit refuses `want`, which ones would, and when (in seconds) none does any more: None is never."""
    over: dict[str, float | None] = {}
    for name, limit in named:
        window = WINDOWS[name]
        window.roll(cells, now)
        if (excess := window.used(cells) + want - limit) > 0:
            over[name] = None if want > limit else window.wait_s(cells, excess, now)
    if not over:
        return None, (), 0.0
    hard = {name: wait for name, wait in over.items() if name not in limits.shadow}
    # A limit that no waiting helps against is the one to hear of.
    refused = min(hard, key=lambda name: hard[name] is not None, default=None)
    wait_s = None if None in hard.values() else max(filter(None, hard.values()), default=0.0)
    return refused, tuple(name for name in over if name in limits.shadow), wait_s


def _statuses(cells: Cells, limits: Limits, named: Named, now: float) -> tuple[LimitStatus, ...]:
    """What is left of each limit that can refuse."""
    statuses = []
    for name, limit in named:
        if name not in limits.shadow:
            window = WINDOWS[name]
            left = limit - window.used(cells)
            statuses.append(LimitStatus(name, limit, left if left > 0 else 0, math.ceil(window.reset_s(cells, now))))
    return tuple(statuses)


def refusal(decision: Decision, limits: Limits) -> RateLimited:
    """The error of a call that a limit has refused."""
    name = decision.refused or ""
    limit = {"limit": getattr(limits, name), "what": _(LIMIT_WORDS[name])}
    if decision.retry_after_s is None:
        said = _(
            "This call alone could pass the limit of {limit} {what}. Lower max_tokens, or shorten the messages.",
            **limit,
        )
        error = RateLimited(said)
        error.retryable = False
        return error
    wait_s = max(1, -int(-decision.retry_after_s // 1))
    said = _("You have reached the limit of {limit} {what}. Try again in {wait_s} s.", wait_s=wait_s, **limit)
    return RateLimited(said, retry_after_s=wait_s)
