"""Errors as answers, each in the dialect of the route that was asked for."""

import logging
import math

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from .. import errors
from ..call import Call
from ..errors import ChatError, ClientLeft, InternalError, traceback_without_messages
from ..languages import N_, _, current
from ..schemas import COMPLETIONS, DIALECTS, OPENAI, Dialect
from ..schemas.strict_json import dumps
from . import legacy
from .request import one_spelling

log = logging.getLogger(__name__)

# Paths that clients of OpenAI's ask for, and what helps.
_CHAT_INSTEAD = N_("Send the conversation to POST /v1/chat/completions.")
_NOT_SERVED = N_("This gateway serves chat models alone.")
_HELP = {
    "/v1/completions": _CHAT_INSTEAD,
    "/v1/responses": N_(
        "This gateway keeps no responses: keep what POST /v1/responses answers, and send its items again in input."
    ),
    "/v1/engines": N_("GET /v1/models lists the models."),
    **{
        f"/v1/{what}": _NOT_SERVED
        for what in ("embeddings", "moderations", "images", "audio", "files", "batches", "assistants", "threads")
    },
    "/v1/v1": N_("The base URL ends in /v1 once: remove one."),
    **dict.fromkeys(("/chat/completions", "/models", "/responses"), N_("The base URL must end in /v1.")),
}
_ROUTES = N_("Chat is at POST /v1/chat/completions and POST /api/chat/completions; GET /docs shows every route.")


def init_app(app: Flask) -> None:
    """Render every error in its dialect."""
    app.register_error_handler(ChatError, error_response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _fault)


_BY_PATH = {dialect.path: dialect for dialect in DIALECTS}


def dialect_of(path: str) -> Dialect:
    """The dialect in which errors of `path` are told, also where no such route exists."""
    path = one_spelling(path)
    return _BY_PATH.get(path) or (OPENAI if path.startswith("/v1/") or path == "/v1" else COMPLETIONS)


def error_response(error: ChatError) -> Response:
    """`error` in the route's dialect."""
    call: Call = g.call
    call.fail(error)
    if isinstance(error, ClientLeft):
        return Response(status=499)  # nginx's word for it; nobody reads this
    dialect = dialect_of(request.path)
    body = dumps(dialect.error(error, call.request_id))
    response = Response(body, dialect.status(error), mimetype="application/json")
    response.headers.extend(error.headers)
    response.headers.extend(dialect.headers(error))
    response.headers["Content-Language"] = current()
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        response.headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    return response


def _http_error(error: HTTPException) -> Response:
    if isinstance(error, NotFound):
        return error_response(errors.NotFound(_not_found(request.path)))
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"}))
        message = _("{method} is not possible here; use {allowed}.", method=request.method, allowed=allowed)
        response = error_response(errors.MethodNotAllowed(message, headers={"Allow": allowed}))
        return legacy.announce(response) if request.path == legacy.PATH else response
    if error.code is not None and error.code >= 500:
        return _fault(error)
    if error.code is not None and error.code < 400:
        return Response(status=error.code, headers=error.get_headers())  # a redirect
    said = error.description
    return error_response(errors.BadRequest(_("The request is not valid HTTP: {said}", said=said)))


def _not_found(path: str) -> str:
    helps = next((text for prefix, text in _HELP.items() if f"{path}/".startswith(f"{prefix}/")), _ROUTES)
    nothing = _("There is nothing at {path!r}.", path=path[:200])
    return f"{nothing} {_(helps)}"


def _fault(error: Exception) -> Response:
    log.error("request %s: internal error: %s", g.call.request_id, traceback_without_messages(error))
    return error_response(InternalError(_("An internal error occurred. Report it with the request id.")))
