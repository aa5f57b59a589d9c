"""For people: the reference, made from the views' own docstrings, and the guides in `docs/`."""

import inspect
from pathlib import Path

from flask import Blueprint, Response, current_app, render_template

from ..errors import NotFound

blueprint = Blueprint("pages", __name__, template_folder="templates")

GUIDES = Path(__file__).resolve().parents[2] / "docs"
# Nothing is loaded, nothing runs: the page's own style is all there is.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"


@blueprint.get("/docs")
def docs() -> Response:
    """Every route, and what it does."""
    routes = [
        {
            "methods": ", ".join(sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})),
            "path": rule.rule,
            "does": inspect.getdoc(current_app.view_functions[rule.endpoint]) or "",
        }
        for rule in sorted(current_app.url_map.iter_rules(), key=lambda rule: rule.rule)
    ]
    return _page("Reference", routes=routes)


@blueprint.get("/docs/<name>")
def guide(name: str) -> Response:
    """A guide: `migration` leads from the old route to the new one, `compatibility` says what each upstream takes."""
    if name not in _guides():
        raise NotFound(f"There is no guide of that name. There are: {', '.join(_guides())}.")
    return _page(name.capitalize(), text=(GUIDES / f"{name}.md").read_text(encoding="utf-8"))


def _guides() -> list[str]:
    return sorted(path.stem for path in GUIDES.glob("*.md"))


def _page(title: str, **context: object) -> Response:
    response = Response(render_template("docs.html", title=title, pages=_guides(), **context))
    response.headers["Content-Security-Policy"] = POLICY
    return response
