"""What options take: dates, times, words, URLs."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from ...languages import _
from ...settings import server_url

_LATEST = 7_000_000_000  # the year 2191, in Unix seconds: times until then can be reckoned with, and shown


class Value(click.ParamType[Any]):
    """What `read` makes of a text; the words of its ValueError say what is wrong with one."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See above."""
        try:
            return self._read(value)
        except ValueError as mistake:
            self.fail(str(mistake), param, ctx)


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        at = -1.0
    if not 0 <= at < _LATEST:
        raise ValueError(_("{value!r} is no date like 2027-06-30", value=text))
    return at


def _expiry(text: str) -> float:
    return math.inf if text == "never" else _moment(text)


def _seconds(text: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    count = text[:-1]
    if unit is None or not (count.isascii() and count.isdigit() and len(count) < 7):
        raise ValueError(_("{value!r} is no time like 90s, 30m, 24h or 7d", value=text))
    return float(count) * unit


def _words(text: str) -> str:
    if not (text.strip() and text.isprintable() and len(text) <= 100):
        raise ValueError(_("it must be 1 to 100 printable characters"))
    return text


def _base_url(text: str) -> str:
    try:
        return server_url(text)
    except ValueError:
        raise ValueError(_("must be a URL like https://chat.example.com")) from None


def _secret(text: str) -> str:
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise ValueError(_("must be one word of printable ASCII"))
    return text


DAY = click.DateTime(["%Y-%m-%d"])
MOMENT = Value("date", _moment)  # a date, or date and time, as Unix seconds; UTC unless it says otherwise
EXPIRY = Value("date", _expiry)  # such a moment, or infinity for never
DURATION = Value("duration", _seconds)  # a time like 90s, 30m, 24h or 7d, as seconds
WORDS = Value("text", _words)  # that can be printed on one line
BASE_URL = Value("text", _base_url)  # of a server
SECRET = Value("text", _secret)  # what is wrong with one is not repeated
