"""How failures are read: what an upstream says that is no answer, in whatever wrapping, inside of a 200 too. Pure.

A caller reads an upstream's words: our token, should they repeat it, is taken out of them here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..chat import Json
from ..errors import UpstreamRejected, UpstreamUnavailable
from ..languages import _
from .failure_facts import (
    MAX_DEPTH,
    WORDS,
    WRAPPERS,
    clean,
    code_of,
    layers_of,
    status_in,
    status_of,
    status_said,
    words_of,
)
from .tool_calls import UnreadableCalls
from .values import MAX_ITEMS, read_json, terms, unlisted

DEFAULT_STATUS = 502  # of a failure that names none

_SUCCESS: tuple[Any, ...] = (None, "", 0, "0", 200, "200", "ok", "success", "none", "null", False, [], {})
_NO_WRAPPERS = terms("usage delta tool_calls function_call arguments input logprobs content base_resp")
_SPELLINGS = {"error": "error", "err": "error", "failure": "error", "exception": "error", "fault": "error"}
_SPELLINGS |= {"errors": "errors", "message": "message", "errmsg": "message", "errormessage": "message"}
_SPELLINGS |= {"code": "code", "errno": "code", "errcode": "code", "errorcode": "code", "type": "code"}
_FAILURE_CODES = ("code", "status_code", "statusCode", "error_code", "errorCode")
_KINDS = ("object", "type", "status", "event")
_FAILED = ("error", "failed", "failure", "fail", "exception", "response.failed")
# What only an answer has: beside it code and message are no failure.
_ANSWERS = terms(
    "choices candidates message delta text generated_text token content response output output_text usage "
    "translation_text summary_text answer completion"
)


@dataclass(frozen=True, slots=True)
class UpstreamFailure:
    """An upstream's answer that is no answer.

    `status` is what it means, `http_status` the one that came; `words` is what it says, without our token; `code`
    its machine words; `body` its JSON, or None. `named`: the status is its own, not a guess of ours.
    """

    status: int
    words: str
    http_status: int
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
        words = words_of(body, raw, secret) or clean(headers.get("X-Error-Message", ""), secret)
        layers = list(layers_of(body))
        code = code_of(layers)
        # A proxy's 500 around a 400: what the caller got wrong is not "try again".
        inner = status_in(layers, code) if status >= 500 else None
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


def fewer(model: str, given: int, wanted: int) -> UpstreamRejected:
    """The error of a server that gave fewer answers than it was asked for."""
    return UpstreamRejected(
        _(
            "The upstream of '{model}' gave {given} of {wanted} answers. Ask for n=1.",
            model=model,
            given=given,
            wanted=wanted,
        ),
        details={"n": [_("more than this upstream can do")]},
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
    body = unlisted(body)
    if not isinstance(body, dict) or depth > MAX_DEPTH:
        return None
    if _is_error(body.get("error")) or _is_error(body.get("errors")):
        return _inside(body, secret)
    choices = body.get("choices")
    if not choices and (odd := _odd_names(body)):
        body = {**body, **odd}
        if _is_error(body.get("error")):
            return _inside(body, secret)
    if isinstance(choices, list) and choices:
        for choice in choices[:MAX_ITEMS]:
            if isinstance(choice, dict) and (error := _error_of_choice(choice)):
                return _inside({"error": error}, secret)
        return None
    for key, inner in list(body.items())[:MAX_ITEMS]:
        if isinstance(inner, dict) and key not in _NO_WRAPPERS:
            within = failure_in(inner, secret, depth + 1) if key in WRAPPERS else _error_within(inner, secret, depth)
            if within is not None:
                return within
    return _inside(body, secret) if _is_keyless_failure(body) else None


def _error_within(body: Json, secret: str | None, depth: int) -> UpstreamFailure | None:
    """The failure of an `error` on whatever level of an object that is not known here."""
    if _is_error(body.get("error")):
        return _inside(body, secret)
    inner = (v for k, v in list(body.items())[:MAX_ITEMS] if isinstance(v, dict) and k not in _NO_WRAPPERS)
    found = (_error_within(value, secret, depth + 1) for value in inner if depth < MAX_DEPTH)
    return next(filter(None, found), None)


def _odd_names(body: Json) -> Json:
    """An error's keys under their usual names, where they are spelled another way ("Error", "err", "errMsg")."""
    spelled = {
        key: _SPELLINGS.get(key[:40].lower().replace("_", "")) for key in list(body)[:MAX_ITEMS] if key != "type"
    }
    odd = {usual: body[key] for key, usual in spelled.items() if usual and usual != key and usual not in body}
    return {key: _odd_names(value) | value if isinstance(value, dict) else value for key, value in odd.items()}


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
    if not words_of({key: value for key, value in body.items() if key not in WORDS[:2]}):
        return False
    layers = list(layers_of(body))
    codes = [layer[key] for layer in layers for key in _FAILURE_CODES if isinstance(layer.get(key), int | str)]
    failed = any(map(_is_error, codes)) or any(status_of(layer.get("status")) for layer in layers)
    return failed or not (kinds or codes)


def _inside(body: Json, secret: str | None) -> UpstreamFailure:
    layers = list(layers_of(body))
    code = code_of(layers)
    words = words_of(body, b"", secret)
    status = status_in(layers, code) or status_said(layers, words)
    named = status or DEFAULT_STATUS
    return UpstreamFailure(named, words, named, code, {}, body, status is not None)
