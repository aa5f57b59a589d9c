"""`/`, the playground: try a model by hand. The page does it all with the routes that everybody calls."""

from flask import Blueprint, Response, request

from ..chat import Json
from ..errors import AccessError, BadRequest
from ..languages import N_, _
from ..migration.snippets import snippets
from ..schemas import COMPLETIONS, DIALECTS, Dialect
from ..schemas.fields import Flag, Integer, Number, Object, Stop
from . import layout
from .request import components, read_json
from .response import json_response

blueprint = Blueprint("playground", __name__)

USUAL = COMPLETIONS
# The form's parameters, in its order, and what each does; each dialect has those that are fields of its requests.
HINTS = {
    "temperature": N_("How freely it chooses its words"),
    "max_tokens": N_("How long the answer may be, in tokens"),
    "top_p": N_("Only the likeliest words, up to this share"),
    "top_k": N_("Only so many of the likeliest words"),
    "repetition_penalty": N_("Above 1: less repetition"),
    "presence_penalty": N_("Above 0: on to new subjects"),
    "frequency_penalty": N_("Above 0: fewer words said often"),
    "seed": N_("The same seed, the same answer, where the model can"),
    "stop": N_("Ends the answer where this appears; one a line"),
    "n": N_("How many answers, each a choice of its own"),
    "logprobs": N_("With how likely each of its tokens was"),
    "top_logprobs": N_("And so many others that might have stood there"),
    "logit_bias": N_("Likelier or less likely tokens, by their numbers, from −100 to 100"),
    "reasoning_effort": N_("How long a reasoning model thinks: low, medium, high"),
    "max_time": N_("How long all of it may take, in seconds"),
}
SUGGESTIONS = (
    N_("Explain in three sentences why the sky is blue."),
    N_("Write a haiku about rain on a tin roof."),
    N_("What is the difference between a list and a tuple in Python? Show it."),
)
# What playground.js imports, so that a browser fetches all of it at once rather than file by file.
SCRIPTS = (
    *(f"js/{name}.js" for name in ("texts", "dom", "api", "ask", "dialects", "sse", "facts", "markdown", "colour")),
    *(
        f"js/{name}.js"
        for name in ("models", "choices", "modelbar", "keybox", "problem", "settings", "composer", "snippets")
    ),
    *(f"js/{name}.js" for name in ("conversations", "sides", "thread")),
    "vendor/marked/marked.esm.js",
    "vendor/dompurify/purify.min.js",
)


@blueprint.get("/")
@layout.in_readers_language
def playground() -> Response:
    """The playground."""
    embedded = components().engine.catalogue.embedded
    return layout.page(
        "playground.html",
        ("css/playground.css",),
        scripts=SCRIPTS,
        embedded=embedded.id if embedded else None,
        is_smallest=components().settings.embedded_model is None,
        suggestions=[_(text) for text in SUGGESTIONS],
        playground={
            "dialects": [_dialect(dialect) for dialect in sorted(DIALECTS, key=lambda one: one is not USUAL)],
            "dialect": USUAL.path,
            "embedded": embedded.id if embedded else None,
            "locked": _locked(),
        },
    )


def _locked() -> str | None:
    """What is said to whoever reads the page and has to have a key."""
    # A link elsewhere may have led here: the requests that the page will make come from the page all the same.
    environ = {name: value for name, value in request.environ.items() if name != "HTTP_SEC_FETCH_SITE"}
    try:
        components().access.authenticate(environ, request.remote_addr)
    except AccessError as error:
        return error.message
    return None


def _dialect(dialect: Dialect) -> Json:
    """A dialect as its form needs it."""
    fields = dialect.request[1]._declared_fields
    named = [(key, dialect.renamed.get(key, key)) for key in HINTS]
    found = [(key, name, fields.get(name.partition(".")[0])) for key, name in named]
    return {
        "path": dialect.path,
        "name": _(dialect.label),
        "conversational": "message" not in fields,
        "parameters": [
            {"name": name, "key": key, **_widget(field), "hint": _(HINTS[key])} for key, name, field in found if field
        ],
    }


def _widget(field: object) -> Json:
    """How a parameter is asked for: its type, and its bounds, both included, as a form has them."""
    if isinstance(field, Number):
        low = field.low if field.above is None else field.above + 0.01
        return {"type": "integer" if isinstance(field, Integer) else "number", "min": low, "max": field.high}
    kinds = ((Flag, "flag"), (Object, "object"), (Stop, "lines"))
    return {"type": next((kind for of, kind in kinds if isinstance(field, of)), "text"), "min": None, "max": None}


@blueprint.post("/playground/snippets")
def create_snippets() -> Response:
    """A request `{"path", "body"}` as `curl`, `python` and `javascript`: what the playground shows of it."""
    components().access.authenticate(request.environ, request.remote_addr)  # no call, and so not in the ledger
    asked = read_json()
    path, body = asked.get("path"), asked.get("body")
    if not isinstance(path, str) or path not in {dialect.path for dialect in DIALECTS} or not isinstance(body, dict):
        raise BadRequest(
            _("Send the path of a chat route and the body of a request to it."),
            details={"path": [_("must be a chat route")], "body": [_("must be an object")]},
        )
    return json_response(snippets(path, body, request.host_url.rstrip("/")))
