"""`/openapi.json`: every route for programs, as OpenAPI 3.1 has it; made from the schemas, the views and the errors."""

from functools import cache
from typing import Any

from flask import Blueprint, Response, current_app

from .. import errors, languages
from ..chat import Json
from ..errors import ChatError
from ..languages import N_, _
from ..settings import VERSION
from .layout import in_readers_language
from .response import json_response

blueprint = Blueprint("openapi", __name__)

SAY = {"role": "user", "content": "What is Brazil?"}
MODEL = "openai/gpt-oss-120b"
# Route → the request's schema, the answer's, and an example. The answers of a stream are events.
CHAT: dict[str, tuple[str, str, Json]] = {
    "/v1/chat/completions": ("ChatCompletionRequest", "ChatCompletion", {"model": MODEL, "messages": [SAY]}),
    "/v1/responses": ("ResponsesRequest", "Response", {"model": MODEL, "input": "What is Brazil?"}),
    "/api/chat/completions": ("CompletionsRequest", "Envelope", {"model": MODEL, "messages": [SAY]}),
    "/api/huggingface-chat": ("LegacyRequest", "Envelope", {"message": "What is Brazil?", "model": MODEL}),
}
PREVIEW = "/api/migrate/preview"
READ = {
    "/v1/models": "ModelList",
    "/v1/models/{model}": "Model",
    "/v1/usage": "UsageList",
    "/healthz": "Health",
    "/readyz": "Readiness",
    "/metrics": None,
}
OPEN = ("/healthz", "/readyz")  # answer without a key

# Route → what it does, in a line, and what else is to be said.
SUMMARIES = {
    "/v1/chat/completions": (
        N_("Answer a conversation in OpenAI's format."),
        N_("A `chat.completion` object, or `chat.completion.chunk` events and `[DONE]` where `stream` is true."),
    ),
    "/v1/responses": (
        N_("Answer in OpenAI's Responses format; nothing is kept between calls."),
        N_("A `response` object, or typed events where `stream` is true."),
    ),
    "/api/chat/completions": (
        N_("Answer a conversation in an envelope."),
        N_('`{"success": true, "data": {"response", "model", "usage"}}`, or chunks where `stream` is true.'),
    ),
    "/api/huggingface-chat": (
        N_("Answer one message. Deprecated: use `POST /api/chat/completions`."),
        N_("In a brownout and after its sunset it answers 410, and `error.migration` has the same request rewritten."),
    ),
    "/api/migrate/preview": (
        N_("Translate a request of the legacy route for the routes that take its place."),
        N_("No model is asked. The answer has both requests as JSON, curl, Python and JavaScript, and what changes."),
    ),
    "/v1/models": (N_("List the models."), N_("The catalogue's, and those that the upstream lists.")),
    "/v1/models/{model}": (N_("One model, by its id."), ""),
    "/v1/usage": (
        N_("What your own key has used, by model and day."),
        N_("`since` and `until` take days like 2026-11-30 (UTC)."),
    ),
    "/healthz": (N_("Whether the process is alive."), ""),
    "/readyz": (N_("Whether it takes calls, with a reason for each part."), ""),
    "/metrics": (N_("Counters and times for Prometheus."), ""),
}

HEADERS = {
    "X-Request-Id": N_("The call's id: the caller's own, if it sent a sane one."),
    "Server-Timing": N_("Where the time went, in milliseconds."),
    "Cache-Control": N_("Answers are not kept."),
    "X-Content-Type-Options": "nosniff",
    "Content-Language": N_("The language of the texts that people read."),
    "Vary": N_("What the answer depends on."),
    "X-Requested-Model": N_("The model asked for, where another one answered."),
    "X-Usage-Source": N_("Who counted the tokens: upstream, tokenizer or estimate."),
    "X-Ignored-Fields": N_("Fields of the request that had no effect."),
    "X-Accel-Buffering": N_("no: a stream is not to be collected."),
    "RateLimit-Limit": N_("The caller's tightest limit."),
    "RateLimit-Remaining": N_("What is left of it."),
    "RateLimit-Reset": N_("Seconds until all of it is there again."),
    "RateLimit-Policy": N_("Which limit it is."),
    **{
        f"x-ratelimit-{what}-{of}": N_("The minute's limits under OpenAI's names.")
        for what in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    },
    "Retry-After": N_("Seconds after which to come back."),
    "retry-after-ms": N_("The same in milliseconds."),
    "x-should-retry": N_("Whether an OpenAI SDK should try again by itself."),
    "WWW-Authenticate": N_("How to send a key."),
    "Allow": N_("The methods that are possible here."),
    "Deprecation": N_("Since when the route is deprecated (RFC 9745)."),
    "Sunset": N_("When the route is switched off (RFC 8594)."),
    "Link": N_("The routes that take its place, and the guide."),
}


@blueprint.get("/openapi.json")
@in_readers_language
def openapi() -> Response:
    """The OpenAPI document of this gateway."""
    response = json_response(document(languages.current()))
    response.headers["Content-Language"] = languages.current()
    response.vary.update(("Accept-Language", "Cookie"))
    return response


@cache
def document(language: str) -> Json:
    """The document, its texts in `language`, the current one."""
    from ..schemas.openapi import request_schemas  # here: apispec is for those who read the document

    paths: Json = {}
    for path, (asked, answered, example) in CHAT.items():
        paths[path] = {"post": _operation(path, _chat_responses(path, answered), _body(asked, example))}
    preview = {"200": _response(N_("The request for both new routes."), "Preview"), **_errors(PREVIEW)}
    example = CHAT["/api/huggingface-chat"][2]
    paths[PREVIEW] = {"post": _operation(PREVIEW, preview, _body("LegacyRequest", example))}
    for path, answered_by in READ.items():
        paths[path] = {"get": _operation(path, _read_responses(path, answered_by))}
    schemas = {**request_schemas(), **_answers()}
    security = {"bearer": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatapi", "version": VERSION, "description": _("A chat gateway for Hugging Face models.")},
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": security, "headers": _headers()},
    }


def error_classes() -> list[type[ChatError]]:
    """Every error that a caller may be answered with, one for each code, in the order of the tree."""
    found: dict[str, type[ChatError]] = {}
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, ChatError) and kind.meaning:
            found.setdefault(kind.code, kind)
    return list(found.values())


# --- operations


def _view_name(path: str) -> str:
    rule = path.replace("{model}", "<path:model>")
    endpoint: str = next(r.endpoint for r in current_app.url_map.iter_rules() if r.rule == rule)
    return endpoint.rpartition(".")[2]


def _operation(path: str, responses: Json, body: Json | None = None) -> Json:
    summary, text = SUMMARIES[path]
    operation: Json = {"operationId": _view_name(path), "summary": _(summary), "responses": responses}
    if text:
        operation["description"] = _(text)
    if path == "/api/huggingface-chat":
        operation["deprecated"] = True
    if path in OPEN:
        operation["security"] = []
    if parameters := _parameters(path):
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = body
    return operation


def _parameters(path: str) -> list[Json]:
    if path == "/v1/models/{model}":
        return [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}, "example": MODEL}]
    if path == "/v1/usage":
        day = {"type": "string", "format": "date"}
        return [{"name": name, "in": "query", "schema": day} for name in ("since", "until")]
    return []


def _body(schema: str, example: Json) -> Json:
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}
    return {"required": True, "content": {"application/json": content}}


def _chat_responses(path: str, answered: str) -> Json:
    good = _response(N_("The answer, or a stream of events where `stream` is true."), answered)
    good["content"]["text/event-stream"] = {}
    return {"200": good, **_errors(path)}


def _read_responses(path: str, answered: str | None) -> Json:
    if answered is None:
        good: Json = {"description": _("Prometheus' text format."), "content": {"text/plain": {}}, "headers": _refs()}
    else:
        good = _response(N_("What was asked for."), answered)
    unready = {"503": _response(N_("It takes no calls now."), "Readiness")} if path == "/readyz" else {}
    return {"200": good, **unready, **_errors(path)}


def _response(text: str, schema: str) -> Json:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": _(text), "content": content, "headers": _refs()}


def _errors(path: str) -> Json:
    """Status → the codes that come with it on this route."""
    openai = path.startswith("/v1/")
    by_status: dict[int, list[str]] = {}
    for kind in error_classes():
        if _is_possible(kind, path):
            by_status.setdefault(kind.status if openai else kind.api_status, []).append(kind.code)
    found = {}
    for status, codes in sorted(by_status.items()):
        schema = "OpenAIError" if openai else "EnvelopeError"
        found[str(status)] = _response(", ".join(f"`{code}`" for code in codes), schema)
    return found


_ALWAYS = (errors.InternalError, errors.MethodNotAllowed)
_KEYED = (errors.MissingApiKey, errors.InvalidApiKey, errors.StoreUnavailable)
_MORE = {"/v1/models/{model}": (errors.ModelNotFound, errors.ForbiddenModel), "/v1/usage": (errors.BadRequest,)}


def _is_possible(kind: type[ChatError], path: str) -> bool:
    if path in READ:
        return kind in (*_ALWAYS, *(() if path in OPEN else _KEYED), *_MORE.get(path, ()))
    if path == PREVIEW and (issubclass(kind, errors.UpstreamError) or kind is errors.ForbiddenModel):
        return False
    if kind is errors.RouteRetired:
        return path == "/api/huggingface-chat"
    return kind not in (errors.NotFound, errors.AdminRequired)


def _refs() -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}


def _headers() -> Json:
    return {name: {"description": _(text), "schema": {"type": "string"}} for name, text in HEADERS.items()}


# --- answers


def _object(required: Json, **more: Any) -> Json:
    return {"type": "object", "properties": {**required, **more}, "required": list(required)}


def _answers() -> Json:
    text, count, nullable = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": ["string", "null"]}
    anything: Json = {"type": "object"}
    listed = {"type": "array", "items": anything}
    usage = _object(dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), count))
    data = _object({"response": text, "model": text, "usage": usage}, finish_reason=text, refusal=text)
    codes = [kind.code for kind in error_classes()]
    common = {"message": text, "retryable": {"type": "boolean"}, "request_id": text, "code": {"enum": codes}}
    details = {"type": "object", "additionalProperties": {"type": "array", "items": text}}
    envelope_error = _object(common, details=details, upstream_status={"type": "integer"}, migration=anything)
    request = _object({"path": text, "body": anything, "curl": text, "python": text, "javascript": text})
    change = _object({"field": text, "becomes": nullable, "note": text})
    migrated = {"completions": request, "openai": request, "changes": {"type": "array", "items": change}}
    return {
        "Envelope": _object({"success": {"const": True}, "data": data}),
        "EnvelopeError": _object({"success": {"const": False}, "error": envelope_error}),
        "OpenAIError": _object({"error": _object({**common, "type": text, "param": nullable})}),
        "ChatCompletion": _object(
            {"id": text, "object": {"const": "chat.completion"}, "created": count, "model": text, "choices": listed},
            usage=usage,
        ),
        "Response": _object(
            {"id": text, "object": {"const": "response"}, "created_at": count, "model": text, "output": listed}
        ),
        "Model": _object({"id": text, "object": {"const": "model"}, "created": count, "owned_by": text}),
        "ModelList": _object(
            {"object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}}
        ),
        "UsageList": _object({"object": {"const": "list"}, "data": listed}),
        "Preview": _object(
            {"success": {"const": True}, "data": _object({**migrated, "same_upstream_request": {"type": "boolean"}})}
        ),
        "Health": _object({"status": {"const": "ok"}}),
        "Readiness": _object({"status": {"enum": ["ok", "degraded", "not ready", "stopping"]}, "parts": anything}),
    }
