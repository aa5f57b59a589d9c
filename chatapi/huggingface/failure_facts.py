"""An error's facts, wherever they stand in it: its status, its machine words, and what it says. Pure."""

import re
from collections.abc import Iterator
from typing import Any

from ..chat import Json
from .values import MAX_ITEMS, read_json, terms

MAX_WORDS = 500  # characters of the upstream's own words that a message repeats
MAX_READ = 4000  # characters of each text that are looked at
MAX_DEPTH = 6  # of wrappings
MAX_LOOKS = 300  # at values of a failure, nested or side by side

WORDS = terms(
    "error errors message msg detail details error_message errorMessage error_msg error_description description "
    "reason title faultstring status_msg Message text base_resp fault exception cause"
)
BESIDE = ("warnings", "metadata", "raw")  # further words, beside those
WRAPPERS = ("data", "response", "result", "body")
_STATUSES = ("http_status_code", "status_code", "statusCode", "http_status", "httpStatus", "code", "status")
_CODES = ("code", "type", "error_type", "status", "error_code", "errorCode")

# A machine word of an error → the status that it stands for.
_MEANINGS: tuple[tuple[str, int], ...] = (
    (
        r"context_length|content_filter|invalid_?request|bad_?(?:user_?)?(?:request|input)"
        r"|invalid_?(?:argument|input|param)|model_not_supp",
        400,
    ),
    (r"validation|unprocessable|(?:value|type)_error", 422),
    (r"authentication|unauthenticated|unauthorized|invalid_?api_?key", 401),
    (r"insufficient_?(?:quota|credit|balance|funds)|payment|billing", 402),
    (r"permission|forbidden", 403),
    (r"not_?found", 404),
    (r"rate_?limit|resource_?exhausted|too_?many_?requests|throttl|quota_?exceeded", 429),
    (r"overloaded|unavailable|capacity", 503),
    (r"timeout|deadline", 504),
    (r"server_?error|internal|^unknown$", 500),
)
# An error's words → the status that they stand for, where it names none in any other way.
_SAID: tuple[tuple[str, int], ...] = (
    (r"rate limit|too many requests|rate exceeded|throttl", 429),
    (r"insufficient (?:balance|credits?|quota|funds)", 402),
    (r"not authenticated|unauthori[sz]ed|(?:invalid|incorrect|expired|wrong) (?:api[ -]?key|token)|expired token", 401),
    (r"(?:is|currently) loading\b", 503),
)
_STATUS_SAID = re.compile(r"\b(?:error code|status(?: code)?|http(?: error)?)[ :=]{1,3}([45]\d\d)\b", re.IGNORECASE)


def layers_of(body: Any) -> Iterator[Json]:
    """The objects in which an error's facts may stand: the error's own first, then those around it and those within."""
    return _walk(body, 0, iter(range(MAX_LOOKS)))


def _walk(body: Any, depth: int, looks: Iterator[int]) -> Iterator[Json]:
    if depth > MAX_DEPTH or next(looks, None) is None:
        return
    if isinstance(body, str):
        body = parsed(body)
    if isinstance(body, list):
        for item in body[:MAX_ITEMS]:
            yield from _walk(item, depth + 1, looks)
    if not isinstance(body, dict):
        return
    for key in WORDS[:2]:
        if body.get(key):
            yield from _walk(body[key], depth + 1, looks)
    yield body
    for key in (*WORDS[2:], *BESIDE, *WRAPPERS):
        if isinstance(inner := body.get(key), dict | list | str):
            yield from _walk(inner, depth + 1, looks)


def parsed(text: str) -> Any:
    """JSON within a text, where somebody passed on what somebody else said."""
    text = text[:MAX_READ].strip()
    if not (text.startswith(("{", "[")) and text.endswith(("}", "]"))):
        return None
    try:
        return read_json(text.encode("utf-8", "replace"))
    except ValueError:
        return None


def code_of(layers: list[Json]) -> str:
    """The machine words of an error, one after another."""
    found = [word for layer in layers for key in _CODES if isinstance(word := layer.get(key), str) and word]
    return " ".join(word[:100].replace(":", "_") for word in found[:MAX_ITEMS])


def status_in(layers: list[Json], code: str) -> int | None:
    """The status that an error names: in figures, else by its machine words. One within may tell what a 5xx hides."""
    found = [status for layer in layers for key in _STATUSES if (status := status_of(layer.get(key)))]
    if found:
        return next((status for status in found if status < 500), found[0]) if found[0] >= 500 else found[0]
    words = re.sub(r"[\s-]+", "_", code.lower())
    return next((status for pattern, status in _MEANINGS if re.search(pattern, words)), None)


def status_of(value: Any) -> int | None:
    """The HTTP status, 400 to 599, that a value is or begins with."""
    if isinstance(value, str):
        figures = re.match(r"(?:HTTP[ /\d.]*)?([45]\d\d)\b", value.strip()[:40])
        value = int(figures[1]) if figures else None
    return value if type(value) is int and 400 <= value < 600 else None


def status_said(layers: list[Json], words: str) -> int | None:
    """The status that an error's words name or stand for."""
    if any(isinstance(layer.get("loc"), list) for layer in layers):
        return 422  # FastAPI's list of what is wrong with a body
    if said := _STATUS_SAID.search(words):
        return int(said[1])
    return next((status for pattern, status in _SAID if re.search(pattern, words, re.IGNORECASE)), None)


# --- its words


def words_of(body: Any, raw: bytes = b"", secret: str | None = None) -> str:
    """What a failure says, in whichever of its shapes (HF§3.1), without our token; at most MAX_WORDS characters."""
    looks = iter(range(MAX_LOOKS))
    said = _message(body, secret, 0, looks)
    if not said and raw.lstrip()[:1] != b"<":
        said = clean(raw.decode("utf-8", "replace"), secret)
    for layer in layers_of(body):
        for key in BESIDE:
            more = _message(layer.get(key), secret, 0, looks)
            if more.casefold() not in said.casefold():
                said = f"{said.rstrip('.')}; {more}" if said else more
    return said[:MAX_WORDS]


def _message(said: Any, secret: str | None, depth: int, looks: Iterator[int]) -> str:
    if depth > MAX_DEPTH or next(looks, None) is None:
        return ""
    if isinstance(said, str):
        inner = parsed(said)
        return (_message(inner, secret, depth + 1, looks) if inner is not None else "") or clean(said, secret)
    if isinstance(said, list):
        found = [_message(item, secret, depth + 1, looks) for item in said[:MAX_ITEMS]]
        return "; ".join(filter(None, found))[:MAX_READ]
    if not isinstance(said, dict):
        return ""
    words = next((words for key in WORDS if (words := _message(said.get(key), secret, depth + 1, looks))), "")
    if words and isinstance(place := said.get("loc"), list):  # FastAPI names the field beside its words
        words = f"{'.'.join(clean(str(step), secret) for step in place[:MAX_ITEMS])}: {words}"
    return words


def clean(text: str, secret: str | None) -> str:
    """The beginning of a text on one line, without our token."""
    if secret:
        text = text.replace(secret, "***")
    return " ".join(text[:MAX_READ].split())
