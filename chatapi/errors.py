"""What can go wrong, in one tree; every dialect renders these and nothing else.

ChatError
├── BadRequest            the caller's body or path
│   ├── InvalidJSON  UnsupportedMediaType  PayloadTooLarge  NotFound  MethodNotAllowed  RouteRetired
├── AccessError           our own keys and limits
│   ├── MissingApiKey  InvalidApiKey  ForbiddenModel  AdminRequired  RateLimited
├── UpstreamError         Hugging Face, or a server that speaks like it
│   ├── ModelNotFound  UpstreamAuth  UpstreamQuota
│   ├── UpstreamRejected ── ContextLengthExceeded  ContentFiltered
│   └── UpstreamRateLimited  ModelLoading  UpstreamUnavailable  UpstreamTimeout
├── ClientLeft            nobody is there any more; never rendered
├── WorkerStopped         this process ends before the call does
└── InternalError         a fault of ours
    └── StoreUnavailable  the database does not answer; a StoreError too, as SchemaError is
"""

import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .languages import N_, _

Details = Mapping[str, Sequence[str]]

_PATH = re.compile(r"(?<![\w./'`-])[a-z_]+(?:\.\w+)*")  # a field in a sentence; no part of a model's id


class ChatError(Exception):
    """One failure, with everything an answer needs to say about it.

    `status` is the HTTP status on `/v1`, `api_status` the one on the two `/api` routes (S1 documents
    only 400 and 500 there). `retry_after_s` becomes `Retry-After` where it is known.
    """

    code = "internal_error"
    type = "server_error"
    status = 500
    api_status = 500
    retryable = False
    meaning = cure = ""  # for the reference: when a caller meets it, and what to do
    quoted = ""  # an upstream's own words within the message

    def __init__(
        self,
        message: str,
        *,
        details: Details | None = None,
        upstream_status: int | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.upstream_status = upstream_status
        self.retry_after_s = retry_after_s
        self.headers = headers or {}

    @property
    def param(self) -> str | None:
        """The first faulty field as a dotted path, or None."""
        return next(iter(self.details), None) if self.details else None

    def name_fields(self, caller_path: Callable[[str], str]) -> None:
        """Name fields as the caller wrote them; what an upstream said of them stays as it is."""
        if self.details:
            self.details = {caller_path(path): said for path, said in self.details.items()}
        ours = self.message.split(self.quoted, 1) if self.quoted else [self.message]
        self.message = self.quoted.join(_PATH.sub(lambda found: caller_path(found[0]), text) for text in ours)


class InternalError(ChatError):
    """A fault of ours; its message never carries the cause, the log does."""

    meaning = N_("A fault of the gateway's own.")
    cure = N_("Report it with the request id; the operator finds the place in the log.")


def traceback_without_messages(error: BaseException) -> str:
    """Where `error` and its causes were raised, for the log; not what they say, which may be a caller's text."""
    told = (f"{type(at).__name__}\n{''.join(traceback.format_tb(at.__traceback__))}" for at in causes(error)[:10])
    return "caused by ".join(told)


def forget_frames(error: BaseException) -> None:
    """Let go of the frames in which `error` and its causes were raised."""
    for each in causes(error):
        each.__traceback__ = None


def causes(error: BaseException) -> list[BaseException]:
    """`error`, and what it came from, the latest first."""
    found = [error]
    while (at := found[-1].__cause__ or found[-1].__context__) is not None and at not in found:
        found.append(at)
    return found


class StoreError(Exception):
    """The database cannot be used; `cause` is its own word for why, for the log and for operators."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class StoreUnavailable(InternalError, StoreError):
    """The database is away, locked, full or read-only: no call can begin that could not be written down."""

    code, status, api_status, retryable = "store_unavailable", 503, 503, True
    RETRY_AFTER_S = 2.0
    meaning = N_("The gateway's database does not answer, so no call can begin.")
    cure = N_("Wait for `Retry-After` and try again.")

    def __init__(self, cause: str, database: str) -> None:
        super().__init__(
            _("The gateway's database does not answer, so no call can begin. Try again soon."),
            retry_after_s=self.RETRY_AFTER_S,
        )
        self.cause = cause
        self.database = database


class SchemaError(StoreError):
    """The database has another schema than this version; the text says what to run. Never rendered: nothing starts."""


class BadRequest(ChatError):
    code, type, status, api_status = "invalid_request", "invalid_request_error", 400, 400
    meaning = N_("The body breaks a rule; `details` names every field.")
    cure = N_("Correct the fields that the message names.")


class InvalidJSON(BadRequest):
    code = "invalid_json"
    meaning = N_("The body is not JSON (RFC 8259): empty, cut, not UTF-8, a name twice, NaN, too deep.")
    cure = N_("Serialise the body with a JSON library.")


class UnsupportedMediaType(BadRequest):
    code, status, api_status = "unsupported_media_type", 415, 415
    meaning = N_("The body does not say that it is JSON, or is compressed.")
    cure = N_("Send `Content-Type: application/json`, without `Content-Encoding`.")


class PayloadTooLarge(BadRequest):
    code, status, api_status = "payload_too_large", 413, 413
    meaning = N_("The body is larger than `CHATAPI_MAX_BODY`.")
    cure = N_("Shorten the messages, or send smaller images.")


class NotFound(BadRequest):
    code, status, api_status = "not_found", 404, 404
    meaning = N_("There is no such route.")
    cure = N_("Check the path; the base URL of OpenAI SDKs ends in `/v1`.")


class MethodNotAllowed(BadRequest):
    code, status, api_status = "method_not_allowed", 405, 405
    meaning = N_("The route exists, the method does not.")
    cure = N_("Use a method that `Allow` names.")


class RouteRetired(BadRequest):
    """The legacy route in a brownout (`retry_after_s` says when it is served again) or after its sunset.

    `migration` leads to the routes that take its place: the guide, and the same request for them.
    """

    code, status, api_status = "route_retired", 410, 410
    meaning = N_("The legacy route is in a brownout, or retired for good.")
    cure = N_("Move to the request in `error.migration`; during a brownout, `Retry-After` says when the route is back.")

    def __init__(self, message: str, migration: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.migration = migration
        self.retryable = retry_after_s is not None


class AccessError(ChatError):
    """The caller may not do this."""

    type = "authentication_error"


class MissingApiKey(AccessError):
    code, status, api_status = "missing_api_key", 401, 401
    meaning = N_("No key came, and one is needed.")
    cure = N_("Send `Authorization: Bearer YOUR_KEY`.")


class InvalidApiKey(AccessError):
    code, status, api_status = "invalid_api_key", 401, 401
    meaning = N_("The key is not known here: mistyped, expired or revoked.")
    cure = N_("Check the key, or ask the operator for a new one.")


class ForbiddenModel(AccessError):
    code, type, status, api_status = "forbidden_model", "permission_error", 403, 403
    meaning = N_("The key may not use this model.")
    cure = N_("Ask one of the models that the message names.")


class AdminRequired(AccessError):
    code, type, status, api_status = "admin_required", "permission_error", 403, 403
    meaning = N_("The key may not see what all keys do.")
    cure = N_("Use a key made with `flask keys create --admin`.")


class RateLimited(AccessError):
    """Our own limits; `retry_after_s` says when to come back, and None that such a call can never be made."""

    code, type, status, api_status, retryable = "rate_limited", "rate_limit_error", 429, 429, True
    meaning = N_("The key has reached one of its limits.")
    cure = N_("Wait for `Retry-After`; `RateLimit-*` tells what is left.")


class UpstreamError(ChatError):
    """The upstream failed; `upstream_status` is its own HTTP status, where there was one.

    `transient` failures are worth another attempt at the same model; `fallback` ones are worth another model.
    `blames_upstream`: it shows a sick server, which no field of a request can cause (5xx, resets, silence, garbage).
    """

    code, type, status = "upstream_unavailable", "upstream_error", 502
    transient = False
    fallback = False
    blames_upstream = False
    is_gated = False  # the model's conditions have to be accepted first


class ModelNotFound(UpstreamError):
    code, type, status, fallback = "model_not_found", "invalid_request_error", 404, True
    meaning = N_("Nobody serves this model: mistyped, retired, or not at this upstream.")
    cure = N_("Check the id; `GET /v1/models` lists what is served.")


class UpstreamAuth(UpstreamError):
    code = "upstream_auth"
    meaning = N_("The upstream refused the gateway's own token.")
    cure = N_("The operator checks `HUGGINGFACE_API_KEY` and its permissions.")


class UpstreamQuota(UpstreamError):
    code, fallback = "upstream_quota", True
    meaning = N_("The Hugging Face account has no credit left.")
    cure = N_("The operator adds credit, or waits for the next month.")


class UpstreamRejected(UpstreamError):
    code, type, status, api_status = "upstream_rejected", "invalid_request_error", 400, 400
    meaning = N_("The upstream refused what was sent; its words are in the message.")
    cure = N_("Change what it names.")


class ContextLengthExceeded(UpstreamRejected):
    code, fallback = "context_length_exceeded", True
    meaning = N_("Prompt and answer together do not fit the model.")
    cure = N_("Shorten the messages, lower `max_tokens`, or ask a larger model.")


class ContentFiltered(UpstreamRejected):
    code = "content_filter"
    meaning = N_("The upstream's content filter refused the text.")
    cure = N_("Change the text; the verdict is final.")


class UpstreamRateLimited(UpstreamError):
    code, type, status = "upstream_rate_limited", "rate_limit_error", 429
    retryable = transient = fallback = True
    meaning = N_("The upstream limits how often the gateway asks it.")
    cure = N_("Wait for `Retry-After`, or name `fallbacks`.")


class ModelLoading(UpstreamError):
    code, status = "model_loading", 503
    retryable = transient = fallback = True
    meaning = N_("The model was asleep and is being loaded.")
    cure = N_("Come back after `Retry-After`.")


class UpstreamUnavailable(UpstreamError):
    retryable = fallback = blames_upstream = True
    failed = ""  # what of the connection failed, in a word of huggingface/connect.py's
    meaning = N_("The upstream failed: 5xx, a reset, a cut or an unreadable answer.")
    cure = N_("Try again in a moment, or name `fallbacks`.")


class UpstreamTimeout(UpstreamError):
    code, status = "upstream_timeout", 504
    retryable = fallback = blames_upstream = True
    meaning = N_("The upstream did not answer in time.")
    cure = N_("Try again, or allow more time with `max_time`.")


class WorkerStopped(ChatError):
    """The worker is told to stop, and this call has had its time to finish."""

    # No upstream has failed, and so no fallback is asked; to the caller it is the same: try again.
    code, type, status, retryable = "upstream_unavailable", "upstream_error", 502, True


class ClientLeft(ChatError):
    """The caller closed the connection; the work for it ends, and nothing is rendered."""

    code = "client_left"


def error_classes() -> list[type[ChatError]]:
    """Every error that a caller may be answered with, one for each code, in the order of the tree."""
    found: dict[str, type[ChatError]] = {}
    for kind in globals().values():
        if isinstance(kind, type) and issubclass(kind, ChatError) and kind.meaning:
            found.setdefault(kind.code, kind)
    return list(found.values())
