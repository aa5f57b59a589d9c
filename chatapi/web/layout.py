"""What every page shares: its frame, its language, its security policy, and the static files it is made of."""

import gzip
import hashlib
import json
import mimetypes
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec

from flask import Blueprint, Response, render_template, request
from markupsafe import Markup

from .. import languages
from ..errors import NotFound
from ..languages import LANGUAGES, N_, _

P = ParamSpec("P")

blueprint = Blueprint("layout", __name__, template_folder="templates")

# Everything comes from this gateway; pictures also from what a person attached. Nothing is evaluated, and nothing is
# inline but the page's own style and the script of its frame, under their digests.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'sha256-{script}'",
        "style-src 'self' 'sha256-{style}'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
LANGUAGE_COOKIE, THEME_COOKIE = "chatapi_language", "chatapi_theme"
PAGES = (("/", N_("Playground")), ("/docs", N_("Docs")), ("/dashboard", N_("Dashboard")))


# --- pages


def in_readers_language(view: Callable[P, Response]) -> Callable[P, Response]:
    """A view of a page, in the language that its reader chose on any page; it outranks what their browser asks for."""

    @wraps(view)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Response:
        if (chosen := request.cookies.get(LANGUAGE_COOKIE)) in LANGUAGES:
            languages.use(chosen)
        return view(*args, **kwargs)

    return wrapped


def page(template: str, styles: tuple[str, ...], **context: object) -> Response:
    """A page, in the current language; `styles` are the names of its static files besides what all pages have."""
    style, style_digest = inline(("css/layout.css", *styles))
    script, script_digest = inline(("js/page.js",))
    language = languages.current()
    theme = request.cookies.get(THEME_COOKIE)
    html = render_template(
        template,
        _=_,
        style=style,
        script=script,
        language=language,
        languages=languages.OWN_NAMES,
        theme=theme if theme in ("light", "dark") else None,
        pages=[(path, _(name)) for path, name in PAGES],
        current_page=request.path,
        static=static_url,
        texts=texts_of_scripts(language),
        **context,
    )
    response = _compressed(html.encode(), lambda body: gzip.compress(body, 5, mtime=0))
    response.mimetype = "text/html"
    response.headers["Content-Security-Policy"] = POLICY.format(style=style_digest, script=script_digest)
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Content-Language"] = language
    response.vary.update(("Accept-Language", "Cookie"))
    return response


@cache
def inline(names: tuple[str, ...]) -> tuple[Markup, str]:
    """These static files as one text that lies within the page, and its SHA-256 for the policy.

    So are the styles, without which nothing is painted, and the one script that must not wait: until a page is painted
    for the first time nothing else is fetched.
    """
    text = "".join((FOLDER / name).read_text(encoding="utf-8") for name in names)
    return Markup(text), b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def texts_of_scripts(language: str) -> Mapping[str, str]:
    """English → the text in `language`, of all texts in the pages' scripts."""
    scripts = "".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER / "js").glob("*.js")))
    used = {json.loads(found) for found in re.findall(r'\b_\(\s*("(?:[^"\\]|\\.)*")', scripts)}
    return {text: said for text, said in languages.catalogue(language).items() if text in used}


# --- static files

FOLDER = Path(__file__).parent / "static"
FOREVER = "public, max-age=31536000, immutable"


@cache
def _names() -> frozenset[str]:
    return frozenset(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())


@cache
def build() -> str:
    """A digest of all static files: part of each address, which may so be cached for ever, imports of scripts too."""
    digest = hashlib.sha256()
    for name in sorted(_names()):
        digest.update(name.encode() + b"\0" + (FOLDER / name).read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@cache
def _file(name: str) -> tuple[bytes, bytes, str]:
    """A file as it is served: its body, the same compressed, and its media type. All of them are text."""
    body = (FOLDER / name).read_bytes()
    mimetype = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
    return body, gzip.compress(body, 9, mtime=0), mimetype


def static_url(name: str) -> str:
    """The address of a static file. Raises KeyError where there is none."""
    if name not in _names():
        raise KeyError(name)
    return f"/static/{build()}/{name}"


@blueprint.get("/static/<version>/<path:name>")
def static_file(version: str, name: str) -> Response:
    """A style, a script or a picture of the pages."""
    if name not in _names():
        raise NotFound(_("There is no file {name}.", name=repr(name[:200])))
    body, compressed, mimetype = _file(name)
    response = _compressed(body, lambda _body: compressed)
    response.mimetype = mimetype
    # A page of another version, still open, gets what there is now: not to be kept under the older address.
    response.headers["Cache-Control"] = FOREVER if version == build() else "no-cache"
    return response


def _compressed(body: bytes, compress: Callable[[bytes], bytes]) -> Response:
    """`body`, in gzip for whoever takes it."""
    takes = request.accept_encodings.quality("gzip") > 0
    response = Response(compress(body) if takes else body)
    response.vary.add("Accept-Encoding")
    if takes:
        response.headers["Content-Encoding"] = "gzip"
    return response
