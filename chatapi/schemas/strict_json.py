"""Bytes → JSON, by RFC 8259 to the letter, and JSON → bytes that every reader of event streams can take."""

import json
import math
import re
from collections import Counter
from typing import Any

from ..chat import Json
from ..errors import BadRequest, InvalidJSON

MAX_DEPTH = 128  # arrays and objects within each other; a tool's JSON Schema needs a dozen


def parse_json(raw: bytes) -> Json:
    """The JSON object in a body. Raises InvalidJSON or, for any other JSON value, BadRequest.

    RFC 8259 strictly: UTF-8, no NaN or Infinity, no duplicate names, no unpaired surrogates.
    """
    if not raw.strip():
        raise InvalidJSON("The body is empty. Send a JSON object.")
    try:
        value = _DECODER.decode(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"The body is not UTF-8 (byte {error.start}). Send JSON encoded as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"The body is not JSON: {error}. Check the text near that place.") from None
    except RecursionError:
        raise _too_deep() from None
    except _Refused as error:
        raise InvalidJSON(f"The body is not JSON: {error}.") from None
    except ValueError:  # Python's own limit on the digits of an integer
        raise InvalidJSON("The body has a number with more than 4300 digits. Send an ordinary number.") from None
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise _too_deep()
    # JSON can spell half a character ("\ud800"); it cannot be encoded again, and no upstream would take it.
    if b"\\ud" in raw or b"\\uD" in raw:
        _check_surrogates(value)
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.", details={"body": ["must be a JSON object"]})
    return value


class _Refused(ValueError):
    """Why JSON that Python would read is none."""


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        double = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise _Refused(f"the name {double[:64]!r} appears twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise _Refused(f"{name} is not a JSON number")


def _finite(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):  # 1e999 is JSON, but could not be written as JSON again
        raise _Refused(f"the number {literal[:32]} is too large")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _too_deep() -> InvalidJSON:
    return InvalidJSON(f"The body is nested more than {MAX_DEPTH} levels deep. Flatten it.")


_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def _depth(raw: bytes) -> int:
    """How deep valid JSON is nested, up to one more than MAX_DEPTH: each round takes the innermost brackets away."""
    brackets, depth = _STRINGS.sub(b"", raw).translate(_BRACKETS, _OTHERS), 0
    while brackets and depth <= MAX_DEPTH:
        brackets, depth = brackets.replace(b"[]", b""), depth + 1
    return depth


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidJSON("The body has an unpaired surrogate (\\ud800 to \\udfff). Send whole characters.") from None


# --- JSON → bytes

# What JSONEncoder.encode makes anew for every value, with a look for circles that nothing read from JSON can have.
_encoder: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]
_chunks = _encoder(None, None, json.encoder.encode_basestring, None, ":", ",", False, False, True)
_encode_ascii = json.JSONEncoder(separators=(",", ":")).encode
# Half the clients split lines at these, of which JSON knows nothing: they go out escaped.
_LINE_ENDS = re.compile("[\u0085\u2028\u2029]")


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8; line ends of Unicode, and half a character that a token left open, are escapes."""
    text = "".join(_chunks(value, 0))
    if not text.isascii() and _LINE_ENDS.search(text):
        text = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _encode_ascii(value).encode()
