"""What an upstream's failure means: its status, words and codes → our error, by table (HF§3.1–3.2). Pure."""

import math
import re

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
from ..languages import N_, _
from .failures import DEFAULT_STATUS, UpstreamFailure
from .values import retry_after, seconds

TRANSIENT = frozenset({429, 500, 502, 503, 504})  # worth another attempt at the same model
WAKING_S = 20.0  # an endpoint that wakes says nothing about time; the first 200 was measured after 42 s
LONGEST_LOADING_S = 300.0  # estimates are unreliable (1809 s was seen): no caller is told to stay away for longer

# The first row that fits decides: statuses, a pattern over "code: words", the error, what to do.
_NOT_SERVED = N_("Check the model id; GET /v1/models lists the models that are served.")
_GATED = N_("The model is gated: accept its terms on Hugging Face with the account of HUGGINGFACE_API_KEY.")
_SENT = {400, 413, 422, 500, 502}  # statuses under which servers complain about what was sent
_RULES: tuple[tuple[set[int], str, type[UpstreamError], str], ...] = (
    ({400, 422}, r"^[^:]*(?:model_not_supported|model_not_found)", ModelNotFound, _NOT_SERVED),
    (
        _SENT,
        r"context_length_exceeded|exceed_context_size|maximum context length|context (?:length|window|size)"
        r"|`inputs` (?:tokens \+|must have less than)|(?:prompt|input) (?:is )?too long|too many (?:input )?tokens"
        r"|(?:prompt|input|messages?)[\w ]{0,20} exceeds? (?:the )?(?:max|model|limit|token)",
        ContextLengthExceeded,
        N_("Shorten the messages or lower max_tokens."),
    ),
    (
        {400, 403, 422, 451, 500, 502},
        r"^[^:]*content_filter|content policy|content_policy_violation|ResponsibleAIPolicy|content management policy"
        r"|data_inspection_failed|flagged|moderation",
        ContentFiltered,
        N_("The provider's content filter refused this request; change its text."),
    ),
    (
        {400, 404},
        r"endpoint is paused",
        ModelNotFound,
        N_("The Inference Endpoint is paused; resume it in its settings on Hugging Face."),
    ),
    (
        {400, 401},
        r"token seems invalid|authorization header is correct",
        UpstreamAuth,
        N_("Check HUGGINGFACE_API_KEY: Hugging Face says the token is not valid."),
    ),
    ({400, 403}, r"requires a pro subscription|hf\.co/pricing", UpstreamQuota, N_("The account needs a paid plan.")),
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
        N_('The model has no chat template: give it task = "text-generation" in the catalogue.'),
    ),
    (
        {500},
        r"failed to parse (?:tools|messages)|unsupported tool|missing tool|image input is not supported",
        UpstreamRejected,
        N_("Change what it names: this is llama.cpp's way to refuse a request."),
    ),
    (
        {404, 410},
        r"api-inference\.huggingface\.co is no longer",
        ModelNotFound,
        N_("HUGGINGFACE_BASE_URL names Hugging Face's retired host; remove the setting."),
    ),
    ({404, 410}, r"", ModelNotFound, _NOT_SERVED),
    (
        {401},
        r"",
        UpstreamAuth,
        N_("Check HUGGINGFACE_API_KEY: it is missing, wrong or expired (https://huggingface.co/settings/tokens)."),
    ),
    ({403}, r"gated|access to model .{1,200} is restricted", UpstreamAuth, _GATED),
    (
        {403},
        r"",
        UpstreamAuth,
        N_("Check HUGGINGFACE_API_KEY: the token needs the permission 'Make calls to Inference Providers'."),
    ),
    (
        {402},
        r"",
        UpstreamQuota,
        N_("The Hugging Face account has no inference credits left: add credits or wait for the next month."),
    ),
    (
        {429},
        r"log in or use a hf access token",
        UpstreamRateLimited,
        N_("Hugging Face limits anonymous callers: set HUGGINGFACE_API_KEY."),
    ),
    ({429}, r"", UpstreamRateLimited, N_("Try again later; the upstream limits how often it is asked.")),
)


def classify(card: ModelCard, failure: UpstreamFailure) -> UpstreamError:
    """The error that a failure of `card`'s upstream means, its message telling what to do."""
    said = f"{failure.code}: {failure.words}: {failure.headers.get('X-Error-Code', '')[:100]}"
    if failure.status in (503, DEFAULT_STATUS) and (loading := _loading(card, failure)):
        return loading
    for statuses, pattern, kind, advice in _RULES:
        if failure.status in statuses and re.search(pattern, said, re.IGNORECASE):
            return _error(kind, card, failure, advice)
    if 400 <= failure.status < 500 and failure.status not in (408, 409, 424):
        return _error(UpstreamRejected, card, failure, N_("Change what it names and send the request again."))
    return _error(UpstreamUnavailable, card, failure, N_("Try again in a moment, or use another model."))


def _error(kind: type[UpstreamError], card: ModelCard, failure: UpstreamFailure, advice: str) -> UpstreamError:
    words = failure.words.rstrip(".")
    facts = {"model": card.id, "status": failure.http_status, "advice": _(advice)}
    if words:
        message = _("The upstream of '{model}' answered {status}: {words}. {advice}", words=words, **facts)
    else:
        message = _("The upstream of '{model}' answered {status}. {advice}", **facts)
    error = kind(
        message,
        upstream_status=failure.http_status,
        details={"model": [failure.words or _("not served")]} if kind is ModelNotFound else None,
        retry_after_s=retry_after(failure.headers, failure.body, failure.words) if kind.retryable else None,
    )
    error.quoted = words
    error.is_gated = advice == _GATED
    error.transient = kind.retryable and failure.status in TRANSIENT and "HUGGINGFACE_API_KEY" not in advice
    # A status that an answer does not name is a guess of ours, and 408 and 409 are about one request.
    error.blames_upstream = kind is UpstreamUnavailable and failure.named and failure.status not in (408, 409)
    return error


def _loading(card: ModelCard, failure: UpstreamFailure) -> UpstreamError | None:
    """503 is loading when it says for how long, or when an entry's own endpoint is being woken (HF§5.2)."""
    timed = seconds(failure.body.get("estimated_time")) if isinstance(failure.body, dict) else None
    if timed is None and not (card.url and "SERVICE_UNAVAILABLE" in failure.code):
        return None
    wait_s = (retry_after(failure.headers) or WAKING_S) if timed is None else min(timed, LONGEST_LOADING_S)
    return ModelLoading(
        _(
            "The model '{model}' was asleep and is being loaded; come back in about {seconds} s.",
            model=card.id,
            seconds=max(1, math.ceil(wait_s)),
        ),
        upstream_status=503,
        retry_after_s=wait_s,
    )
