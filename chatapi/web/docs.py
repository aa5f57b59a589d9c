"""`/docs`: the reference, made from the OpenAPI document, and the guides in `docs/`."""

import json
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Response
from markupsafe import Markup, escape

from ..chat import Json
from ..errors import NotFound, error_classes
from ..languages import LANGUAGES, N_, _, current
from . import layout
from .openapi import document

blueprint = Blueprint("docs", __name__)

FOLDER = Path(__file__).resolve().parents[2] / "docs"
# Those for whoever calls or runs the gateway; what else lies in the folder is for its developers.
GUIDES = {
    "chat-completion-api": N_("The chat API"),
    "migration": N_("Leaving the legacy route"),
    "clients": N_("Clients and SDKs"),
    "compatibility": N_("What each upstream takes"),
    "reliability": N_("What a caller hears in each fault"),
    "api": N_("The API"),
    "models": N_("Models"),
    "keys": N_("Keys and limits"),
    "errors": N_("Errors"),
    "settings": N_("Settings"),
    "operating": N_("Operating"),
    "performance": N_("Performance"),
    "licences": N_("Licences"),
}


@blueprint.get("/docs")
@layout.in_readers_language
def docs() -> Response:
    """The reference: every route, field, status and error, with examples that run in place."""
    found = document(current())
    operations = [
        _operation(path, method, operation, found["components"]["schemas"])
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    ]
    return layout.page("docs.html", ("css/docs.css",), operations=operations, errors=error_classes(), guides=_guides())


@blueprint.get("/docs/<name>")
@layout.in_readers_language
def guide(name: str) -> Response:
    """A guide, in the reader's language."""
    guides = dict(_guides())
    if name not in guides:
        raise NotFound(_("There is no guide of that name. There are: {names}.", names=", ".join(guides)))
    return layout.page(
        "guide.html",
        ("css/docs.css",),
        title=guides[name],
        name=name,
        text=_rendered(name, current()),
        guides=_guides(),
    )


@blueprint.app_template_filter("code")
def _code(text: str) -> Markup:
    """What stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _guides() -> list[tuple[str, str]]:
    return [(name, _(title)) for name, title in GUIDES.items() if (FOLDER / f"{name}.md").is_file()]


@cache
def _rendered(name: str, language: str) -> str:
    """A guide as HTML. What it says of HTML is shown, not done."""
    from markdown_it import MarkdownIt  # here: for those who read guides

    translated = FOLDER / f"{name}.{language}.md"
    path = translated if language != LANGUAGES[0] and translated.is_file() else FOLDER / f"{name}.md"
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("heading_open", _heading)
    markdown.add_render_rule("link_open", _link)
    markdown.add_render_rule("image", _image)
    for cell in ("th_open", "td_open"):
        markdown.add_render_rule(cell, _cell)
    html: str = markdown.render(path.read_text(encoding="utf-8"))
    # What is too wide scrolls in a frame of its own, which a keyboard reaches.
    label = _("Table")
    frame = f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>'
    html = html.replace("<table>", frame).replace("</table>", "</table></div>")
    return html.replace("<pre>", '<pre tabindex="0">')


def _heading(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    text = tokens[index + 1].content
    anchor = "".join(c for c in text.lower().replace(" ", "-") if c.isalnum() or c in "-_")
    return f'<{tokens[index].tag} id="{anchor}">'


def _link(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """Links between the files lead to the guides' pages."""
    token = tokens[index]
    target, _hash, anchor = str(token.attrs.get("href", "")).partition("#")
    name = target.rpartition("/")[2].partition(".")[0]
    if target.endswith(".md") and name in GUIDES:
        token.attrs["href"] = f"/docs/{name}" + (f"#{anchor}" if anchor else "")
    return str(self.renderToken(tokens, index, options, env))


def _cell(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """A column of figures is set by a class: the pages' policy has no styles within."""
    token = tokens[index]
    if "right" in str(token.attrs.pop("style", "")):
        token.attrs["class"] = "figure"
    return str(self.renderToken(tokens, index, options, env))


def _image(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """Pictures come with the page."""
    token = tokens[index]
    png = (FOLDER / str(token.attrs["src"])).read_bytes()
    token.attrs["src"] = f"data:image/png;base64,{b64encode(png).decode()}"
    return str(self.image(tokens, index, options, env))


# --- the reference


def _operation(path: str, method: str, operation: Json, schemas: Json) -> Json:
    """A route as the page shows it: `fields` is of its body, `runs` whether its example can be tried in place."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = schemas[content["schema"]["$ref"].rpartition("/")[2]] if content else {}
    required = schema.get("required", ())
    fields = sorted(schema.get("properties", {}).items(), key=lambda one: (one[0] not in required, one[0]))
    return {
        "method": method.upper(),
        "path": path,
        "anchor": f"{method}-{path.strip('/').replace('/', '-').replace('{', '').replace('}', '')}",
        "summary": operation["summary"],
        "description": operation.get("description", ""),
        "deprecated": operation.get("deprecated", False),
        "fields": [_field(name, one, name in required) for name, one in fields],
        "example": json.dumps(content["example"], indent=2, ensure_ascii=False) if content else "",
        "runs": "{" not in path,
        "statuses": [(status, response["description"]) for status, response in operation["responses"].items()],
    }


def _field(name: str, schema: Json, required: bool) -> Json:
    """A field of a request: its type and range in words."""
    kinds = schema.get("type", [])
    words = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind != "null"]
    told = {"type": " | ".join(words), "range": _range(schema), "description": schema.get("description", "")}
    return {"name": name, "required": required, **told}


def _range(schema: Json) -> str:
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    if above is not None:
        return f"> {above:g}"
    if low is None:
        return ", ".join(map(str, filter(None, schema.get("enum", ()))))
    return f"{low:g} – {high:g}" if high is not None else f"≥ {low:g}"
