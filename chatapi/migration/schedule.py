"""When the legacy route is served: a pure function of the moment. All times are Unix seconds."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from ..languages import _

DAY_S = 86_400
Interval = tuple[float, float]  # its start, and its end (not included)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the route stands for one caller.

    `sunset` is the day that this caller is told, None where no day is set; `resumes_at` is when a brownout is over.
    """

    name: Literal["announced", "brownout", "retired"]
    sunset: float | None = None
    resumes_at: float | None = None


def stage_at(
    now: float,
    sunset: float | None,
    brownouts: Iterable[Interval] = (),
    extended_to: float | None = None,
    switched_off: bool = False,
) -> Stage:
    """The stage at `now` of a caller whose key is extended to `extended_to`."""
    own_sunset = sunset if sunset is None or extended_to is None else max(sunset, extended_to)
    if switched_off:
        return Stage("retired", own_sunset)
    if extended_to is not None and now < extended_to:
        return Stage("announced", own_sunset)
    resumes_at = _end_of_brownout(now, brownouts)
    # A brownout that lasts to the sunset is none: the route does not come back.
    if sunset is not None and resumes_at >= sunset:
        return Stage("retired", own_sunset)
    return Stage("announced", own_sunset) if resumes_at == now else Stage("brownout", own_sunset, resumes_at)


def _end_of_brownout(now: float, brownouts: Iterable[Interval]) -> float:
    for start, end in sorted(brownouts):
        if start <= now < end:
            now = end
    return now


# --- brownouts as they are written: ISO 8601 intervals, START/DURATION

_EXAMPLE = "2027-06-02T12:00Z/PT1H"
_DURATION = re.compile(
    r"P(?=.)(?:(?P<days>\d{1,4})D)?(?:T(?=.)(?:(?P<hours>\d{1,5})H)?(?:(?P<minutes>\d{1,6})M)?(?:(?P<seconds>\d{1,8})S)?)?",
    re.ASCII,
)


def parse_brownouts(text: str) -> tuple[Interval, ...]:
    """The intervals in `text`, separated by spaces. Raises ValueError with one argument for each mistake."""
    found: list[Interval] = []
    mistakes = []
    for window in text.split():
        try:
            found.append(_parse_interval(window))
        except ValueError as mistake:
            mistakes.append(f"{window}: {mistake}")
    if mistakes:
        raise ValueError(*mistakes)
    return tuple(found)


def _parse_interval(window: str) -> Interval:
    start, slash, duration = window.partition("/")
    if not slash:
        raise ValueError(_("must be START/DURATION like {example}", example=_EXAMPLE))
    try:
        moment = datetime.fromisoformat(start)
        began = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        raise ValueError(_("must start at a time like 2027-06-02T12:00Z")) from None
    found = _DURATION.fullmatch(duration)
    if found is None:
        raise ValueError(_("must last days, hours, minutes and seconds like P1DT2H or PT90M"))
    length = timedelta(**{unit: int(count or 0) for unit, count in found.groupdict().items()}).total_seconds()
    if not length:
        raise ValueError(_("must last longer than nothing"))
    return began, began + length


def check_brownouts(brownouts: Sequence[Interval], text: str, sunset: float | None) -> tuple[str, ...]:
    """What is wrong with the intervals that `text` spells, beside `sunset`: one line a mistake."""
    if not brownouts:
        return ()
    if sunset is None:
        return (_("needs CHATAPI_LEGACY_SUNSET: a brownout is a warning of that day"),)
    return tuple(
        _(
            "{window}: must end by {day}, the day in CHATAPI_LEGACY_SUNSET",
            window=window,
            day=f"{datetime.fromtimestamp(sunset, UTC):%Y-%m-%d}",
        )
        for window, (_start, end) in zip(text.split(), brownouts, strict=True)
        if end > sunset
    )


# --- a schedule to begin with

# Weeks before the sunset, hours: each longer than the one before, the first too short to hurt.
_GROWING = ((8, 1), (6, 4), (4, 12), (2, 24), (1, 48))


def suggest(now: float, sunset: float) -> list[str]:
    """Brownouts up to `sunset` that grow, as they are written; those whose time is past are left out."""
    windows = []
    for weeks, hours in _GROWING:
        day = datetime.fromtimestamp(sunset, UTC) - timedelta(weeks=weeks)
        # From a Tuesday's noon on, when those who must notice are at work.
        start = day - timedelta(days=(day.weekday() - 1) % 7) + timedelta(hours=12)
        if start.timestamp() > now:
            duration = f"P{hours // 24}D" if hours % 24 == 0 else f"PT{hours}H"
            windows.append(f"{start:%Y-%m-%dT%H:%MZ}/{duration}")
    return windows
