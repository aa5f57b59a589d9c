"""What options take: dates, times, words, URLs."""

from datetime import UTC, datetime
from typing import Any

import click

from ...languages import _
from ...settings import server_url

_LATEST = 7_000_000_000  # the year 2191, in Unix seconds: times until then can be reckoned with, and shown


class Moment(click.ParamType[float]):
    """A date, or date and time, as Unix seconds; UTC unless it says otherwise."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            moment = datetime.fromisoformat(value)
            at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            at = -1.0
        if not 0 <= at < _LATEST:
            self.fail(_("{value!r} is no date like 2027-06-30", value=value), param, ctx)
        return at


class Duration(click.ParamType[float]):
    """A time like 90s, 30m, 24h or 7d, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(str(value)[-1:])
        count = str(value)[:-1]
        if unit is None or not (count.isascii() and count.isdigit() and len(count) < 7):
            self.fail(_("{value!r} is no time like 90s, 30m, 24h or 7d", value=value), param, ctx)
        return float(count) * unit


class Words(click.ParamType[str]):
    """Words that can be printed on one line."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not (value.strip() and value.isprintable() and len(value) <= 100):
            self.fail(_("it must be 1 to 100 printable characters"), param, ctx)
        return str(value)


def base_url(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """The base URL of a server."""
    try:
        return server_url(text) if text else None
    except ValueError:
        raise click.BadParameter(_("must be a URL like https://chat.example.com")) from None


def one_word(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """A secret: what is wrong is not repeated."""
    if text and not (text.isascii() and text.isprintable() and " " not in text):
        raise click.BadParameter(_("must be one word of printable ASCII"))
    return text
