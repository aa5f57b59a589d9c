"""What an upstream's refusal means: status, words and codes → our error, by table (HF§3.1–3.2). Pure."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ..catalogue import ModelCard
from ..errors import (
    ContentFiltered,
    ContextLengthExceeded,
    ModelLoading,
    ModelNotFound,
    UpstreamAuth,
    UpstreamError,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)

TRANSIENT = frozenset({429, 500, 502, 503, 504})  # worth another attempt at the same model
MAX_WORDS = 500  # characters of the upstream's own words that a message repeats


@dataclass(frozen=True, slots=True)
class Refusal:
    """An upstream's answer that is no answer: `body` is its JSON, or None; `words` what it said."""

    status: int
    headers: Mapping[str, str]
    body: Any
    words: str

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], raw: bytes) -> "Refusal":
        """From a response's parts."""
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        return cls(status, headers, body, words_of(body, raw))

    @property
    def code(self) -> str:
        """The body's own machine word: an error object's `code` or `type`, TGI's `error_type`."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        places = [error, self.body] if isinstance(error, dict) else [self.body]
        found = [p.get(k) for p in places if isinstance(p, dict) for k in ("code", "type", "error_type")]
        return " ".join(str(word) for word in found if isinstance(word, str))


def words_of(body: Any, raw: bytes = b"") -> str:
    """What an error body says, whichever of the shapes of HF§3.1 it has; at most MAX_WORDS characters."""
    error = body.get("error", body.get("errors")) if isinstance(body, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    if not said and isinstance(body, dict):
        said = body.get("message") or body.get("detail")
    if isinstance(said, list):
        said = "; ".join(s if isinstance(s, str) else json.dumps(s) for s in said)
    if not isinstance(said, str):
        said = "" if raw.lstrip()[:1] == b"<" else raw[:MAX_WORDS].decode("utf-8", "replace")
    return " ".join(said.split())[:MAX_WORDS]


# The first row that fits decides: statuses, a pattern over "code: words", the error, what to do.
_NOT_SERVED = "Check the model id; GET /v1/models lists the models that are served."
_SENT = {400, 413, 422, 500, 502}  # statuses under which servers complain about what was sent
_RULES: tuple[tuple[set[int], str, type[UpstreamError], str], ...] = (
    ({400, 422}, r"^[^:]*(?:model_not_supported|model_not_found)", ModelNotFound, _NOT_SERVED),
    (
        _SENT,
        r"context_length_exceeded|exceed_context_size|maximum context length|context (?:length|window|size)"
        r"|`inputs` (?:tokens \+|must have less than)|prompt is too long|too many (?:input )?tokens",
        ContextLengthExceeded,
        "Shorten the messages or lower max_tokens.",
    ),
    (
        {400, 403, 422, 451, 500, 502},
        r"^[^:]*content_filter|content policy|content_policy_violation|ResponsibleAIPolicy|content management policy"
        r"|data_inspection_failed",
        ContentFiltered,
        "The provider's content filter refused this request; change its text.",
    ),
    (
        {400, 404},
        r"endpoint is paused",
        ModelNotFound,
        "The Inference Endpoint is paused; resume it in its settings on Hugging Face.",
    ),
    (
        {400, 401},
        r"token seems invalid|authorization header is correct",
        UpstreamAuth,
        "Check HUGGINGFACE_API_KEY: Hugging Face says the token is not valid.",
    ),
    (
        {400, 403},
        r"requires a pro subscription|hf\.co/pricing",
        UpstreamQuota,
        "The account needs a paid plan.",
    ),
    ({403}, r"too large to be loaded", ModelNotFound, _NOT_SERVED),
    (
        {400, 422},
        r"not supported by (?:any )?provider|is not a chat model|\bmodel\b.{1,200}does not exist"
        r"|not a valid provider|unknown model|model not found",
        ModelNotFound,
        _NOT_SERVED,
    ),
    (
        {422},
        r"template_error|template not found",
        UpstreamRejected,
        'The model has no chat template: give it task = "text-generation" in the catalogue.',
    ),
    (
        {500},
        r"failed to parse (?:tools|messages)|unsupported tool|missing tool|image input is not supported",
        UpstreamRejected,
        "Change what it names: this is llama.cpp's way to refuse a request.",
    ),
    (
        {404, 410},
        r"api-inference\.huggingface\.co is no longer",
        ModelNotFound,
        "HUGGINGFACE_BASE_URL names Hugging Face's retired host; remove the setting.",
    ),
    ({404, 410}, r"", ModelNotFound, _NOT_SERVED),
    (
        {401},
        r"",
        UpstreamAuth,
        "Check HUGGINGFACE_API_KEY: it is missing, wrong or expired (https://huggingface.co/settings/tokens).",
    ),
    (
        {403},
        r"gated",
        UpstreamAuth,
        "The model is gated: accept its terms on Hugging Face with the account of HUGGINGFACE_API_KEY.",
    ),
    (
        {403},
        r"",
        UpstreamAuth,
        "Check HUGGINGFACE_API_KEY: the token needs the permission 'Make calls to Inference Providers'.",
    ),
    (
        {402},
        r"",
        UpstreamQuota,
        "The Hugging Face account has no inference credits left: add credits or wait for the next month.",
    ),
    (
        {429},
        r"log in or use a hf access token",
        UpstreamRateLimited,
        "Hugging Face limits anonymous callers: set HUGGINGFACE_API_KEY.",
    ),
    ({429}, r"", UpstreamRateLimited, "Try again later; the upstream limits how often it is asked."),
)


def verdict(card: ModelCard, refusal: Refusal) -> UpstreamError:
    """The error that a refusal by `card`'s upstream means, its message telling what to do."""
    said = f"{refusal.code}: {refusal.words}: {refusal.headers.get('X-Error-Code', '')}"
    if refusal.status == 503 and (loading := _loading(card, refusal)):
        return loading
    for statuses, pattern, kind, advice in _RULES:
        if refusal.status in statuses and re.search(pattern, said, re.IGNORECASE):
            return _error(kind, card, refusal, advice)
    if 400 <= refusal.status < 500 and refusal.status not in (408, 409, 424):
        return _error(UpstreamRejected, card, refusal, "Change what it names and send the request again.")
    return _error(UpstreamUnavailable, card, refusal, "Try again in a moment, or use another model.")


def _error(kind: type[UpstreamError], card: ModelCard, refusal: Refusal, advice: str) -> UpstreamError:
    words = f": {refusal.words.rstrip('.')}" if refusal.words else ""
    error = kind(
        f"The upstream of '{card.id}' answered {refusal.status}{words}. {advice}",
        upstream_status=refusal.status,
        details={"model": [refusal.words or "not served"]} if kind is ModelNotFound else None,
        retry_after_s=retry_after(refusal.headers) if kind.retryable else None,
    )
    error.transient = refusal.status in TRANSIENT and "HUGGINGFACE_API_KEY" not in advice
    return error


def _loading(card: ModelCard, refusal: Refusal) -> UpstreamError | None:
    """503 is loading when it says for how long, or when an entry's own endpoint is being woken (HF§5.2)."""
    estimate: Any = refusal.body.get("estimated_time") if isinstance(refusal.body, dict) else None
    timed = float(estimate) if type(estimate) in (int, float) and math.isfinite(estimate) else None
    if timed is None and not (card.url and "SERVICE_UNAVAILABLE" in refusal.code):
        return None
    # Estimates are unreliable (1809 s was seen): no caller is told to stay away for more than five minutes.
    seconds = retry_after(refusal.headers) or WAKING_S if timed is None else min(max(timed, 0.0), 300.0)
    return ModelLoading(
        f"The model '{card.id}' was asleep and is being loaded; come back in about {max(1, math.ceil(seconds))} s.",
        upstream_status=503,
        retry_after_s=seconds,
    )


WAKING_S = 20.0  # an endpoint that wakes says nothing about time; the first 200 was measured after 42 s


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the upstream wants to be asked again: `Retry-After` (both forms), else `RateLimit`'s t + 1."""
    if given := headers.get("Retry-After", "").strip():
        if re.fullmatch(r"\d{1,9}(?:\.\d+)?", given):
            return float(given)
        try:
            at = parsedate_to_datetime(given)
        except ValueError:
            return None
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    if reset := re.search(r"\bt=(\d{1,9})\b", headers.get("RateLimit", "")):
        return float(reset[1]) + 1
    return None


def error_in(body: Any) -> Refusal | None:
    """The refusal inside a 200: an `error` in a body or an event, with the status it names itself (else 502)."""
    if not (isinstance(body, dict) and body.get("error")):
        return None
    error = body["error"]
    places = (error, body) if isinstance(error, dict) else (body,)
    named = (place.get(key) for place in places for key in ("http_status_code", "code", "status"))
    status = next((_status(value) for value in named if _status(value)), None)
    return Refusal(status or (422 if body.get("error_type") == "validation" else 502), {}, body, words_of(body))


def _status(value: Any) -> int | None:
    number = int(value) if isinstance(value, str) and re.fullmatch(r"[45]\d\d", value) else value
    return number if type(number) is int and 400 <= number < 600 else None
