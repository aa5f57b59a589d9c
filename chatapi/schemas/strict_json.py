"""Bytes → JSON, by RFC 8259 to the letter, and JSON → bytes that every reader of event streams can take."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import copy_context
from itertools import accumulate
from typing import Any, cast

from ..chat import Json
from ..compact_json import ascii_pieces, text_pieces
from ..errors import BadRequest, InvalidJSON
from ..languages import N_, _

MAX_DEPTH = 128  # arrays and objects within each other; a tool's JSON Schema needs a dozen
# Values are counted before they are built: an empty array takes three bytes of a body and sixty of memory. A
# conversation of ten thousand turns has thirty thousand.
MAX_VALUES = 250_000
_FEW = 65_536  # bytes: a body of so many cannot have too many values
_AT_ONCE = 65_536  # bytes whose strings are told apart at once: the memory for it is bounded
LARGE = 262_144  # bytes: from here on a body is parsed apart, which takes up to a third of a second for 20 MB


def _here(do: Callable[[], Any]) -> Any:
    return do()


# Runs work where it holds up nobody. A gevent worker puts a thread of the system's here, one for all large bodies.
in_thread: Callable[[Callable[[], Any]], Any] = _here


def parse_json(raw: bytes) -> Json:
    """The JSON object in a body. Raises InvalidJSON or, for any other JSON value or too many of them, BadRequest.

    RFC 8259 strictly: UTF-8, no NaN or Infinity, no duplicate names, no unpaired surrogates.
    """
    if len(raw) < LARGE:
        return _parse(raw)
    context = copy_context()  # it knows the caller's language
    return cast(Json, in_thread(lambda: context.run(_parse, raw)))


def _parse(raw: bytes) -> Json:
    if not raw or raw.isspace():
        raise InvalidJSON(_("The body is empty. Send a JSON object."))
    _check_structure(raw)
    try:
        value = _DECODER.decode(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        at = error.start
        raise InvalidJSON(_("The body is not UTF-8 (byte {at}). Send JSON encoded as UTF-8.", at=at)) from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(
            _(
                "The body is not JSON: {cause} (line {line}, column {column}). Check the text near that place.",
                cause=_(error.msg),
                line=error.lineno,
                column=error.colno,
            )
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except _Refused as error:
        raise InvalidJSON(_("The body is not JSON: {cause}.", cause=error)) from None
    except ValueError:  # Python's own limit on the digits of an integer
        raise InvalidJSON(_("The body has a number with more than 4300 digits. Send an ordinary number.")) from None
    # JSON can spell half a character ("\ud800"); it cannot be encoded again, and no upstream would take it.
    if (b"\\ud" in raw or b"\\uD" in raw) and _HALVES.search(raw.replace(b"\\\\", b"__")):
        raise InvalidJSON(_("The body has an unpaired surrogate (\\ud800 to \\udfff). Send whole characters."))
    if not isinstance(value, dict):
        said = _("must be a JSON object")
        raise BadRequest(_("The body must be a JSON object."), details={"body": [said]})
    return value


# What Python's decoder says.
_CAUSES = (
    N_("Expecting value"),
    N_("Expecting property name enclosed in double quotes"),
    N_("Expecting ':' delimiter"),
    N_("Expecting ',' delimiter"),
    N_("Unterminated string starting at"),
    N_("Invalid control character at"),
    N_("Invalid \\escape"),
    N_("Invalid \\uXXXX escape"),
    N_("Extra data"),
)


class _Refused(ValueError):
    """Why JSON that Python would read is none."""


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        double = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise _Refused(_("the name {name} appears twice in one object", name=repr(double[:64])))
    return found


def _no_constant(name: str) -> None:
    raise _Refused(_("{name} is not a JSON number", name=name))


def _finite(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):  # 1e999 is JSON, but could not be written as JSON again
        raise _Refused(_("the number {number} is too large", number=literal[:32]))
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _too_deep() -> InvalidJSON:
    return InvalidJSON(_("The body is nested more than {most} levels deep. Flatten it.", most=MAX_DEPTH))


_HALVES = re.compile(rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _check_structure(raw: bytes) -> None:
    """Refuse what has too many values or too deep ones, in time and memory that grow with the body only.

    It may be wrong about what is no JSON, but only after the place where the decoder stops.
    """
    brackets = raw.count(b"[") + raw.count(b"{")
    many = len(raw) > _FEW and brackets + raw.count(b",") > MAX_VALUES
    if brackets <= MAX_DEPTH and not many:
        return
    values, steps = 0, bytearray()
    for outside in _outside_strings(raw):
        commas = outside.count(b",")
        found = outside.translate(_STEPS, _NO_BRACKETS)
        values += commas + found.count(1)
        if values > MAX_VALUES:
            said = _("has more than {most} values", most=MAX_VALUES)
            message = _("The body has more than {most} values. Shorten its arrays and objects.", most=MAX_VALUES)
            raise BadRequest(message, details={"body": [said]})
        steps += found
    if brackets > MAX_DEPTH and max(accumulate(memoryview(steps).cast("b")), default=0) > MAX_DEPTH:
        raise _too_deep()


def _outside_strings(raw: bytes) -> Iterator[bytes]:
    """What is not inside of a string of `raw`, piece by piece."""
    # Without escapes every quotation mark begins or ends a string.
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    inside = 0
    for at in range(0, len(raw), _AT_ONCE):
        parts = raw[at : at + _AT_ONCE].split(b'"')
        yield b"".join(parts[inside::2])
        inside = (inside + len(parts) - 1) % 2


# --- JSON → bytes

# Half the clients split lines at these, of which JSON knows nothing: they go out escaped.
_LINE_ENDS = re.compile("[\u0085\u2028\u2029]")


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8; line ends of Unicode, and half a character that a token left open, are escapes."""
    text = "".join(text_pieces(value))
    if not text.isascii() and _LINE_ENDS.search(text):
        text = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join(ascii_pieces(value)).encode()
