"""What an upstream sends is input: its JSON, numbers, waits and dates, each a bounded value or nothing. Pure."""

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

MAX_VALUES = 1_000_000  # in one JSON text: 2 million empty lists cost 0.4 s and 170 MB
MOST_TOKENS = 2**40  # what claims more has not counted
LONGEST_WAIT_S = 86_400.0
MAX_DIGITS = 15  # of a number in a text: beyond that no float is exact, and int() takes quadratic time
BOM = b"\xef\xbb\xbf"


def terms(text: str) -> tuple[str, ...]:
    """The terms of a table that is written as text."""
    return tuple(text.split())


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _nothing(constant: str) -> None:
    """NaN and Infinity are no JSON (RFC 8259): they must not leave in an answer of ours."""


decode = json.JSONDecoder(parse_float=_finite, parse_constant=_nothing).decode


def read_json(raw: bytes) -> Any:
    """The value of a JSON text. Raises ValueError for all that is none, is nested too deeply, or has too many values.

    Bytes that are no UTF-8 become U+FFFD, as everywhere on the web: a token's torn character must not cost its text.
    """
    if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raw = raw.decode("utf-16", "replace").encode()
    if len(raw) > MAX_VALUES and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise ValueError("too many values")
    try:
        return decode(raw.removeprefix(BOM).decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def unlisted(value: Any) -> Any:
    """A value without the lists around it of which it is the only item."""
    while isinstance(value, list) and len(value) == 1:
        [value] = value
    return value


def read_text(raw: bytes) -> Any:
    """As `read_json`; JSON within a JSON string is what the string says."""
    value = read_json(raw)
    return read_json(value.encode("utf-8", "replace")) if isinstance(value, str) else value


_LATIN = re.compile(r"charset\s*=\s*[\"']?(?:iso-?8859-1|latin-?1|windows-1252|cp1252|us-ascii)\b", re.IGNORECASE)


def as_utf8(body: bytes, content_type: str) -> bytes:
    """A body as UTF-8, which JSON has to be; one that is not, and says that it is Latin-1, is read as that."""
    if not _LATIN.search(content_type[:200]):
        return body
    try:
        body.decode()
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace").encode()
    return body


def count(value: Any, most: int = MOST_TOKENS) -> int | None:
    """A whole number from 0 to `most`, be it written as a number or as digits; else None."""
    if type(value) is int:
        return value if 0 <= value <= most else None
    digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS
    if digits or (isinstance(value, float) and value.is_integer()):
        return count(int(value), most)
    return None


_PARTS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "": 1.0}
_DURATION = re.compile(
    rf"(\d{{1,{MAX_DIGITS}}}(?:\.\d{{0,{MAX_DIGITS}}})?)\s*(ms|s|m|h|d|)(?:ec(?:ond)?s?|in(?:ute)?s?|ou?rs?)?(?![a-z]),?",
    re.I | re.A,
)
_UNIX_TIME = 1_000_000_000  # no wait is that long: the number is a time


def seconds(value: Any) -> float | None:
    """A wait in seconds, 0 to LONGEST_WAIT_S: a number, a duration ("20ms", "6m0s"), a time to come; else None."""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        # Compared before it is converted: an int may be larger than any float.
        return _bounded(min(value, 10**MAX_DIGITS))
    if not isinstance(value, str) or len(text := value.strip()) > 64 or not text:
        return None
    if text[0].isdigit():
        found = _DURATION.findall(text)
        if _DURATION.sub("", text).strip() or not found:
            return None
        return _bounded(sum(float(number) * _PARTS[unit.lower()] for number, unit in found))
    try:
        at = parsedate_to_datetime(text)
        return _bounded((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _bounded(value: float) -> float | None:
    if value >= _UNIX_TIME:
        value = max(0.0, value - datetime.now(UTC).timestamp())
    return min(float(value), LONGEST_WAIT_S) if value >= 0 else 0.0


_WAIT_SAID = re.compile(
    r"(?:try again|retry|wait)[^.;\d]{0,30}?"
    r"((?:\d{1,9}(?:\.\d{0,9})?\s*(?:ms|s|m|h)(?:ec(?:ond)?s?|in(?:ute)?s?|ou?rs?)?(?![a-z])[ ,]{0,2}){1,4})",
    re.IGNORECASE,
)


def retry_after(headers: Mapping[str, str], body: Any = None, words: str = "") -> float | None:
    """Seconds until an upstream wants to be asked again, wherever it says so; the finest statement wins."""
    return next((wait for wait in _waits(headers, body, words) if wait is not None), None)


def _waits(headers: Mapping[str, str], body: Any, words: str) -> Iterator[float | None]:
    milliseconds = seconds(headers.get("retry-after-ms"))
    yield None if milliseconds is None else milliseconds / 1000
    yield from (seconds(headers.get(name)) for name in ("Retry-After", "X-Retry-After"))
    reset = re.search(r"\bt=(\d{1,9})\b", headers.get("RateLimit", "")[:200])
    yield min(float(reset[1]) + 1, LONGEST_WAIT_S) if reset else None
    yield from (seconds(headers.get(name)) for name in ("RateLimit-Reset", "X-RateLimit-Reset"))
    yield _wait_in(body)
    yield _reset_of_used_up(headers)
    said = _WAIT_SAID.search(words)
    yield seconds(said[1].strip(" ,")) if said else None


def _reset_of_used_up(headers: Mapping[str, str]) -> float | None:
    """When the last of the limits that are used up is renewed (`x-ratelimit-reset-tokens: 6m0s`)."""
    waits = []
    for of in ("requests", "tokens"):
        left = count(headers.get(f"x-ratelimit-remaining-{of}", "0").strip() or "0")
        wait = seconds(headers.get(f"x-ratelimit-reset-{of}", ""))
        waits += [wait] if wait is not None and not left else []
    return max(waits, default=None)


_WAIT_KEYS = {"retryafter": 1.0, "retryafterseconds": 1.0, "retryafters": 1.0, "retryafterms": 0.001}
_LETTER = re.compile("[A-Za-z]")
_WAIT_KEYS |= {"retrydelay": 1.0, "waitseconds": 1.0, "resetafter": 1.0}
MAX_NESTING = 3  # levels at which an error's facts are looked for
MAX_ITEMS = 20  # of each list or object there


def _wait_in(body: Any, depth: int = 0) -> float | None:
    """The wait that a body names, at any of its first levels."""
    if depth > MAX_NESTING or not isinstance(body, dict | list):
        return None
    items = list(body.items())[:MAX_ITEMS] if isinstance(body, dict) else [("", item) for item in body[:MAX_ITEMS]]
    for key, value in items:
        unit = _WAIT_KEYS.get(re.sub(r"[^a-z]", "", key[:32].lower()))
        found = seconds(value) if unit else None
        if found is not None and unit:
            return found if isinstance(value, str) and _LETTER.search(value) else found * unit  # "20ms" says its own
    return next((wait for _, value in items if (wait := _wait_in(value, depth + 1)) is not None), None)
