"""`/openapi.json`: every route for programs, as OpenAPI 3.1 has it; made from the schemas, the views and the errors."""

from functools import cache

from flask import Blueprint, Response, current_app

from .. import errors, languages
from ..chat import Json
from ..errors import ChatError
from ..languages import N_, _
from ..schemas import DIALECTS, LEGACY, Dialect
from ..schemas.dialect import COUNT, MODEL, STRING, object_of, or_null
from ..settings import VERSION
from .errors import dialect_of
from .layout import in_readers_language
from .response import json_response

blueprint = Blueprint("openapi", __name__)

PREVIEW = "/api/migrate/preview"
# Route → the name of its answer's schema, what it does, in a line, and what else is to be said.
READ = {
    "/v1/models": ("ModelList", N_("List the models."), N_("The catalogue's, and those that the upstream lists.")),
    "/v1/models/{model}": ("Model", N_("One model, by its id."), ""),
    "/v1/usage": (
        "UsageList",
        N_("What your own key has used, by model and day."),
        N_("`since` and `until` take days like 2026-11-30 (UTC)."),
    ),
    "/healthz": ("Health", N_("Whether the process is alive."), ""),
    "/readyz": ("Readiness", N_("Whether it takes calls, with a reason for each part."), ""),
    "/metrics": (None, N_("Counters and times for Prometheus."), ""),
}
OPEN = ("/healthz", "/readyz")  # answer without a key

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
    for dialect in DIALECTS:
        answer = _response(N_("The answer, or a stream of events where `stream` is true."), dialect.reply[0])
        answer["content"]["text/event-stream"] = {}
        operation = _operation(dialect.path, dialect.summary, dialect.details, answer) | _body(dialect)
        paths[dialect.path] = {"post": operation | ({"deprecated": True} if dialect.deprecated else {})}
    summary = N_("Translate a request of the legacy route for the routes that take its place.")
    text = N_("No model is asked. The answer has both requests as JSON, curl, Python and JavaScript, and what changes.")
    preview = _response(N_("The request for both new routes."), "Preview")
    paths[PREVIEW] = {"post": _operation(PREVIEW, summary, text, preview) | _body(LEGACY)}
    for path, (answered_by, summary, text) in READ.items():
        paths[path] = {"get": _operation(path, summary, text, _read_response(answered_by))}
    bodies = dict(body for dialect in DIALECTS for body in (dialect.reply, dialect.failure))
    schemas = {**request_schemas(), **bodies, **_answers()}
    security = {"bearer": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatapi", "version": VERSION, "description": _("A chat gateway for Hugging Face models.")},
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": security, "headers": _headers()},
    }


# --- operations


def _view_name(path: str) -> str:
    rule = path.replace("{model}", "<path:model>")
    endpoint: str = next(r.endpoint for r in current_app.url_map.iter_rules() if r.rule == rule)
    return endpoint.rpartition(".")[2]


def _operation(path: str, summary: str, text: str, answer: Json) -> Json:
    unready = {"503": _response(N_("It takes no calls now."), "Readiness")} if path == "/readyz" else {}
    responses = {"200": answer, **unready, **_errors(path)}
    operation: Json = {"operationId": _view_name(path), "summary": _(summary), "responses": responses}
    if text:
        operation["description"] = _(text)
    if path in OPEN:
        operation["security"] = []
    if parameters := _parameters(path):
        operation["parameters"] = parameters
    return operation


def _parameters(path: str) -> list[Json]:
    if path == "/v1/models/{model}":
        return [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}, "example": MODEL}]
    if path == "/v1/usage":
        day = {"type": "string", "format": "date"}
        return [{"name": name, "in": "query", "schema": day} for name in ("since", "until")]
    return []


def _body(dialect: Dialect) -> Json:
    content = {"schema": {"$ref": f"#/components/schemas/{dialect.request[0]}"}, "example": dialect.example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _read_response(answered: str | None) -> Json:
    if answered is None:
        return {"description": _("Prometheus' text format."), "content": {"text/plain": {}}, "headers": _refs()}
    return _response(N_("What was asked for."), answered)


def _response(text: str, schema: str) -> Json:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": _(text), "content": content, "headers": _refs()}


def _errors(path: str) -> Json:
    """Status → the codes that come with it on this route."""
    dialect = dialect_of(path)
    by_status: dict[int, list[str]] = {}
    for kind in errors.error_classes():
        if _is_possible(kind, path):
            by_status.setdefault(dialect.status(kind), []).append(f"`{kind.code}`")
    return {str(status): _response(", ".join(by_status[status]), dialect.failure[0]) for status in sorted(by_status)}


_ALWAYS = (errors.InternalError, errors.MethodNotAllowed)
_KEYED = (errors.MissingApiKey, errors.InvalidApiKey, errors.StoreUnavailable)
_MORE = {"/v1/models/{model}": (errors.ModelNotFound, errors.ForbiddenModel), "/v1/usage": (errors.BadRequest,)}


def _is_possible(kind: type[ChatError], path: str) -> bool:
    if path in READ:
        return kind in (*_ALWAYS, *(() if path in OPEN else _KEYED), *_MORE.get(path, ()))
    if path == PREVIEW and (issubclass(kind, errors.UpstreamError) or kind is errors.ForbiddenModel):
        return False
    if kind is errors.RouteRetired:
        return path == LEGACY.path
    return kind not in (errors.NotFound, errors.AdminRequired)


def _refs() -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}


def _headers() -> Json:
    return {name: {"description": _(text), "schema": {"type": "string"}} for name, text in HEADERS.items()}


# --- answers


def _answers() -> Json:
    text, anything = STRING, {"type": "object"}
    request = object_of({"path": text, "body": anything, "curl": text, "python": text, "javascript": text})
    change = object_of({"field": text, "becomes": or_null("string"), "note": text})
    migrated = {"completions": request, "openai": request, "changes": {"type": "array", "items": change}}
    models = {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}
    listed = {"type": "array", "items": anything}
    return {
        "Model": object_of({"id": text, "object": {"const": "model"}, "created": COUNT, "owned_by": text}),
        "ModelList": object_of({"object": {"const": "list"}, "data": models}),
        "UsageList": object_of({"object": {"const": "list"}, "data": listed}),
        "Preview": object_of(
            {"success": {"const": True}, "data": object_of({**migrated, "same_upstream_request": {"type": "boolean"}})}
        ),
        "Health": object_of({"status": {"const": "ok"}}),
        "Readiness": object_of({"status": {"enum": ["ok", "degraded", "not ready", "stopping"]}, "parts": anything}),
    }
