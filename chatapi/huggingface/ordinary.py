"""The ordinary form of answers and events: OpenAI's own, with one choice that is text alone. Pure.

Nearly all have it, and its keys alone tell it: so these are read at a glance. Whatever else stands in them takes a
closer look (see answers.py), which reads the ordinary form to the same end, for four times as much (83 µs to 21).
"""

from typing import Any

from ..chat import ChatJob, Json
from .values import MAX_VALUES, decode

_BODY = {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
_CHOICE = {place: {"index", place, "logprobs", "finish_reason"} for place in ("message", "delta")}
_MESSAGE = {"role", "content"}
_CALLING = _MESSAGE | {"tool_calls"}
_NO_CALLS: tuple[Any, ...] = (None, [])
ENDS = ("stop", "length", "content_filter")  # that say nothing of calls


def wanted_of(job: ChatJob) -> int:
    """How many answers are asked for."""
    return job.options.get("n") or 1


def fingerprint_of(body: Json) -> str | None:
    """The `system_fingerprint` of a body or an event."""
    given = body.get("system_fingerprint")
    return given if isinstance(given, str) and given else None


def read_object(raw: bytes) -> Any:
    """The value of a JSON text that is an object in good UTF-8, of ordinary size; None of any other."""
    if raw[:1] != b"{" or len(raw) > MAX_VALUES:
        return None
    try:
        return decode(raw.decode())
    except (ValueError, RecursionError):
        return None


def ordinary(body: Any, place: str) -> tuple[Json, str | None] | None:
    """The message or delta, at `place`, of an ordinary answer or event, and its finish reason; None of any other.

    Its `content` is a string or None, and what else is in it is nothing; the body has no more than a usage beside it.
    """
    if type(body) is not dict or type(choices := body.get("choices")) is not list or len(choices) != 1:
        return None
    choice = choices[0]
    if type(choice) is not dict or type(message := choice.get(place)) is not dict:
        return None
    reason = choice.get("finish_reason") or None
    if not (_has_only(_BODY, body) and _has_only(_CHOICE[place], choice) and (reason is None or reason in ENDS)):
        return None
    if choice.get("logprobs") is not None or not isinstance(message.get("content"), str | None):
        return None
    if not _has_only(_CALLING, message) or message.get("tool_calls") not in _NO_CALLS:
        return None
    return message, reason


def counts_only(event: Any) -> bool:
    """Whether an event is OpenAI's last one, which tells the usage and nothing else."""
    if type(event) is not dict or event.get("choices") != [] or not event.keys() <= _BODY:
        return False
    return event.get("object") == "chat.completion.chunk" and type(event.get("usage")) is dict and event["usage"] != {}


def _has_only(known: set[str], given: Json) -> bool:
    """Whether nothing is said under any other key."""
    return given.keys() <= known or all(given[key] is None for key in given.keys() - known)
