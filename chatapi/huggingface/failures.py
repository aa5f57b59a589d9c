"""How failures are read: what an upstream says that is no answer, in whatever wrapping, inside of a 200 too. Pure.

A caller reads an upstream's words: our token, should they repeat it, is taken out of them here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..chat import Json
from ..errors import UpstreamUnavailable
from ..languages import _
from .tool_calls import UnreadableCalls
from .values import MAX_ITEMS, read_json

MAX_WORDS = 500  # characters of the upstream's own words that a message repeats
MAX_READ = 4000  # characters of each text that are looked at
MAX_DEPTH = 6  # of wrappings
MAX_LOOKS = 300  # at values of a failure, nested or side by side
DEFAULT_STATUS = 502  # of a failure that names none

_SUCCESS: tuple[Any, ...] = (None, "", 0, "0", 200, "200", "ok", "success", "none", "null", False, [], {})
_WORDS: tuple[str, ...] = (
    "error",
    "errors",
    "message",
    "msg",
    "detail",
    "details",
    "error_message",
    "errorMessage",
    "error_msg",
)
_WORDS += ("error_description", "description", "reason", "title", "faultstring", "status_msg", "Message", "text")
_WORDS += ("base_resp", "fault", "exception", "cause")
_BESIDE = ("warnings", "metadata", "raw")  # further words, beside those
_WRAPPERS = ("data", "response", "result", "body")
_STATUSES = ("http_status_code", "status_code", "statusCode", "http_status", "httpStatus", "code", "status")
_FAILURE_CODES = ("code", "status_code", "statusCode", "error_code", "errorCode")
_CODES = ("code", "type", "error_type", "status", "error_code", "errorCode")
_KINDS = ("object", "type", "status", "event")
_FAILED = ("error", "failed", "failure", "fail", "exception", "response.failed")
# What only an answer has: beside it code and message are no failure.
_ANSWERS: tuple[str, ...] = (
    "choices",
    "candidates",
    "message",
    "delta",
    "text",
    "generated_text",
    "token",
    "content",
    "response",
)
_ANSWERS += ("output", "output_text", "usage", "translation_text", "summary_text", "answer", "completion")

# A machine word of an error → the status that it stands for.
_MEANINGS: tuple[tuple[str, int], ...] = (
    (
        r"context_length|content_filter|invalid_?request|bad_?request|invalid_?(?:argument|input|param)|model_not_supp",
        400,
    ),
    (r"validation|unprocessable", 422),
    (r"authentication|unauthenticated|unauthorized|invalid_?api_?key", 401),
    (r"insufficient_?(?:quota|credit|balance|funds)|payment|billing", 402),
    (r"permission|forbidden", 403),
    (r"not_?found", 404),
    (r"rate_?limit|resource_?exhausted|too_?many_?requests|throttl|quota_?exceeded", 429),
    (r"overloaded|unavailable|capacity", 503),
    (r"timeout|deadline", 504),
    (r"server_?error|internal|^unknown$", 500),
)


@dataclass(frozen=True, slots=True)
class UpstreamFailure:
    """An upstream's answer that is no answer.

    `status` is what it means, `answered` the HTTP status that came; `words` is what it says, without our token; `code`
    its machine words; `body` its JSON, or None. `named`: the status is its own, not a guess of ours.
    """

    status: int
    words: str
    answered: int
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    named: bool = True

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], raw: bytes, secret: str | None = None) -> "UpstreamFailure":
        """From a response that is not 200."""
        try:
            body = read_json(raw)
        except ValueError:
            body = None
        words = words_of(body, raw, secret) or _clean(headers.get("X-Error-Message", ""), secret)
        layers = list(_layers(body))
        code = _code(layers)
        # A proxy's 500 around a 400: what the caller got wrong is not "try again".
        inner = _status_in(layers, code) if status >= 500 else None
        return cls(inner if inner and inner < 500 else status, words, status, code, headers, body)


def said_badly(message: str) -> UpstreamUnavailable:
    """The error of an answer that arrived and is of no use: what was asked for may have caused it."""
    error = UpstreamUnavailable(message)
    error.blames_upstream = False
    return error


def cut(model: str) -> UpstreamUnavailable:
    """The error of a stream that ended before its answer did."""
    return UpstreamUnavailable(
        _("The answer of '{model}' was cut: its stream ended before it was finished. Try again.", model=model)
    )


def unreadable(model: str, what: str) -> UpstreamUnavailable:
    """The error of an answer in a form that is not known here."""
    return said_badly(
        _("The upstream of '{model}' sent {what}. Try again, or use another model.", model=model, what=what)
    )


def unreadable_form(model: str, error: ValueError) -> UpstreamUnavailable:
    """The error of an answer whose form the readers gave up on."""
    if isinstance(error, UnreadableCalls):
        return unreadable(model, _("tool calls in a form that cannot be read"))
    return unreadable(model, _("an answer in a form that cannot be read"))


def failure_in(body: Any, secret: str | None = None, depth: int = 0) -> UpstreamFailure | None:
    """The failure inside of a 200, in a body or an event, on whatever level; None where it holds none."""
    while isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict) or depth > MAX_DEPTH:
        return None
    if _is_error(body.get("error")) or _is_error(body.get("errors")):
        return _inside(body, secret)
    choices = body.get("choices")
    if isinstance(choices, list) and choices:
        for choice in choices[:MAX_ITEMS]:
            if isinstance(choice, dict) and (error := _error_of_choice(choice)):
                return _inside({"error": error}, secret)
        return None
    for key in _WRAPPERS:
        if isinstance(inner := body.get(key), dict) and (found := failure_in(inner, secret, depth + 1)):
            return found
    return _inside(body, secret) if _is_keyless_failure(body) else None


def event_failure(data: Any, text: str, secret: str | None = None) -> UpstreamFailure:
    """The failure that an event called `error` tells, whatever its data are."""
    return failure_in(data, secret) or _inside({"error": data if _is_error(data) else text or "error"}, secret)


def _is_error(given: Any) -> bool:
    values = given.values() if isinstance(given, dict) else (given,)
    return any((value.lower() if isinstance(value, str) else value) not in _SUCCESS for value in values)


def _error_of_choice(choice: Json) -> Any:
    holders = (choice, choice.get("message"), choice.get("delta"))
    return next((h["error"] for h in holders if isinstance(h, dict) and _is_error(h.get("error"))), None)


def _is_keyless_failure(body: Json) -> bool:
    """Whether a body without `error` and without an answer tells a failure."""
    kinds = [kind for key in _KINDS if isinstance(kind := body.get(key), str)]
    if any(kind.lower() in _FAILED for kind in kinds) or body.get("success") is False or body.get("ok") is False:
        return True
    if any(body.get(key) for key in _ANSWERS if not (key == "message" and isinstance(body.get(key), str))):
        return False
    if "choices" in body and body["choices"] is not None:
        return False  # the prelude of a stream
    if not words_of({key: value for key, value in body.items() if key not in _WORDS[:2]}):
        return False
    layers = list(_layers(body))
    codes = [layer[key] for layer in layers for key in _FAILURE_CODES if isinstance(layer.get(key), int | str)]
    failed = any(map(_is_error, codes)) or any(_status(layer.get("status")) for layer in layers)
    return failed or not (kinds or codes)


def _inside(body: Json, secret: str | None) -> UpstreamFailure:
    layers = list(_layers(body))
    code = _code(layers)
    status = _status_in(layers, code)
    named = status or DEFAULT_STATUS
    return UpstreamFailure(named, words_of(body, b"", secret), named, code, {}, body, status is not None)


# --- an error's facts, wherever they stand


def _layers(body: Any) -> Iterator[Json]:
    """The objects in which an error's facts may stand: the error's own first, then those around it and those within."""
    return _walk(body, 0, iter(range(MAX_LOOKS)))


def _walk(body: Any, depth: int, looks: Iterator[int]) -> Iterator[Json]:
    if depth > MAX_DEPTH or next(looks, None) is None:
        return
    if isinstance(body, str):
        body = _parsed(body)
    if isinstance(body, list):
        for item in body[:MAX_ITEMS]:
            yield from _walk(item, depth + 1, looks)
    if not isinstance(body, dict):
        return
    for key in _WORDS[:2]:
        if body.get(key):
            yield from _walk(body[key], depth + 1, looks)
    yield body
    for key in (*_WORDS[2:], *_BESIDE, *_WRAPPERS):
        if isinstance(inner := body.get(key), dict | list | str):
            yield from _walk(inner, depth + 1, looks)


def _parsed(text: str) -> Any:
    """JSON within a text, where somebody passed on what somebody else said."""
    text = text[:MAX_READ].strip()
    if not (text.startswith(("{", "[")) and text.endswith(("}", "]"))):
        return None
    try:
        return read_json(text.encode("utf-8", "replace"))
    except ValueError:
        return None


def _code(layers: list[Json]) -> str:
    found = [word for layer in layers for key in _CODES if isinstance(word := layer.get(key), str) and word]
    return " ".join(word[:100].replace(":", "_") for word in found[:MAX_ITEMS])


def _status_in(layers: list[Json], code: str) -> int | None:
    """The status that an error names: in figures, else by its machine words. One within may tell what a 5xx hides."""
    found = [status for layer in layers for key in _STATUSES if (status := _status(layer.get(key)))]
    if found:
        return next((status for status in found if status < 500), found[0]) if found[0] >= 500 else found[0]
    words = code.lower()
    return next((status for pattern, status in _MEANINGS if re.search(pattern, words)), None)


def _status(value: Any) -> int | None:
    if isinstance(value, str):
        figures = re.match(r"(?:HTTP[ /\d.]*)?([45]\d\d)\b", value.strip()[:40])
        value = int(figures[1]) if figures else None
    return value if type(value) is int and 400 <= value < 600 else None


# --- its words


def words_of(body: Any, raw: bytes = b"", secret: str | None = None) -> str:
    """What a failure says, in whichever of its shapes (HF§3.1), without our token; at most MAX_WORDS characters."""
    looks = iter(range(MAX_LOOKS))
    said = _message(body, secret, 0, looks)
    if not said and raw.lstrip()[:1] != b"<":
        said = _clean(raw.decode("utf-8", "replace"), secret)
    for layer in _layers(body):
        for key in _BESIDE:
            more = _message(layer.get(key), secret, 0, looks)
            if more.casefold() not in said.casefold():
                said = f"{said.rstrip('.')}; {more}" if said else more
    return said[:MAX_WORDS]


def _message(said: Any, secret: str | None, depth: int, looks: Iterator[int]) -> str:
    if depth > MAX_DEPTH or next(looks, None) is None:
        return ""
    if isinstance(said, str):
        inner = _parsed(said)
        return (_message(inner, secret, depth + 1, looks) if inner is not None else "") or _clean(said, secret)
    if isinstance(said, list):
        found = [_message(item, secret, depth + 1, looks) for item in said[:MAX_ITEMS]]
        return "; ".join(filter(None, found))[:MAX_READ]
    if not isinstance(said, dict):
        return ""
    words = next((words for key in _WORDS if (words := _message(said.get(key), secret, depth + 1, looks))), "")
    if words and isinstance(place := said.get("loc"), list):  # FastAPI names the field beside its words
        words = f"{'.'.join(_clean(str(step), secret) for step in place[:MAX_ITEMS])}: {words}"
    return words


def _clean(text: str, secret: str | None) -> str:
    if secret:
        text = text.replace(secret, "***")
    return " ".join(text[:MAX_READ].split())
