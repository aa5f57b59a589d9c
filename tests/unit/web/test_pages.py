"""What the pages are made of: their libraries, their addresses, their language and their policy."""

import gzip
import hashlib
import re
import tomllib
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from support.tables import rows

from chatapi import create_app
from chatapi.schemas import DIALECTS
from chatapi.web import layout, playground

VENDOR = layout.FOLDER / "vendor"
PACKAGES = tomllib.loads((VENDOR / "vendor.toml").read_text(encoding="utf-8"))["package"]
FILES = {f"{p['folder']}/{Path(m).name}": digest for p in PACKAGES for m, digest in p["files"].items()}


def test_every_library_is_as_its_package_has_it():
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "vendor.toml"
    }
    assert found == FILES, "make vendor restores them"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package["name"])
def test_every_library_has_its_licence_beside_it(package):
    assert (VENDOR / package["folder"] / "LICENSE").stat().st_size > 500
    assert package["integrity"].startswith("sha512-")


def imports(name: str, seen: set[str]) -> set[str]:
    """The scripts that `name` imports when it starts, and those that they do."""
    folder = Path(name).parent
    text = (layout.FOLDER / name).read_text(encoding="utf-8")
    for target in re.findall(r'^(?:import|\} from|import [^;]*? from) "(\.[^"]+)";', text, re.M):
        found = (layout.FOLDER / folder / target).resolve().relative_to(layout.FOLDER).as_posix()
        if found not in seen:
            imports(found, seen | {found})
            seen |= {found} | imports(found, seen | {found})
    return seen


def test_the_playground_names_all_scripts_that_it_needs():
    assert set(playground.SCRIPTS) == imports("js/playground.js", set())


def test_a_static_file_is_kept_for_ever_under_its_version(client):
    [address] = re.findall(r'href="(/static/[^"]+/js/thread\.js)"', client.get("/").text)
    kept = client.get(address)
    assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert kept.mimetype == "text/javascript"
    assert kept.headers["X-Content-Type-Options"] == "nosniff"
    assert kept.data == (layout.FOLDER / "js" / "thread.js").read_bytes()
    other = client.get(re.sub(r"/static/\w+/", "/static/older/", address))
    assert (other.status_code, other.headers["Cache-Control"]) == (200, "no-cache")


@pytest.mark.parametrize("path", ["/", "/static/any/css/layout.css"])
def test_whoever_takes_gzip_gets_it(client, path):
    plain, small = client.get(path), client.get(path, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert small.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small.data) == plain.data
    assert len(small.data) < len(plain.data)
    for response in (plain, small, client.get(path, headers={"Accept-Encoding": "gzip;q=0"})):
        assert "Accept-Encoding" in response.headers["Vary"]


OTHERS = ["nothing.js", "../layout.py", "%2e%2e/layout.py", "..%2flayout.py", "js", "", "js/../../layout.py"]


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_else_is_served(client, name):
    assert client.get(f"/static/any/{name}").status_code == 404


LANGUAGES = {  # what is spoken → of which cookie and header
    "en": [(None, None), ("en", "pt-BR")],
    "pt-BR": [(None, "pt"), ("pt-BR", "en"), ("xx", "pt"), ("", "pt")],
}


@pytest.mark.parametrize("cookie, header, language", rows(LANGUAGES))
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_language_chosen_outranks_the_browsers(client, path, cookie, header, language):
    if cookie is not None:
        client.set_cookie("chatapi_language", cookie)
    page = client.get(path, headers={"Accept-Language": header} if header else {})
    assert page.headers["Content-Language"] == language
    assert f'<html lang="{language}"' in page.text
    assert {"Accept-Language", "Cookie"} <= {name.strip() for name in page.headers["Vary"].split(",")}


def test_the_routes_answer_in_the_language_of_their_caller_whatever_a_page_was_read_in(client):
    client.set_cookie("chatapi_language", "pt-BR")
    refused = client.post("/v1/chat/completions", json={}, headers={"Accept-Language": "en"})
    assert refused.headers["Content-Language"] == "en"


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/errors", "/dashboard"])
def test_a_page_has_its_policy_and_nothing_inline_but_what_the_policy_names(settings, path):
    app = create_app(replace(settings, cors_origins=frozenset({"https://a.example"})))
    page = app.test_client().get(path)
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    for directive in ("default-src 'none'", "object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
        assert directive in policy
    assert "Accept-Language" in page.headers["Vary"]
    [script] = re.findall(r"<script(?![^>]*(?:src=|application/json))[^>]*>(.*?)</script>", page.text, re.S)
    assert not re.search(r"<[^>]*\s(style|on\w+)=", page.text)
    [style] = re.findall(r"<style>(.*?)</style>", page.text, re.S)
    for directive, text in (("style-src", style), ("script-src", script)):
        digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'self' 'sha256-{digest}';" in policy


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)
def test_what_the_forms_bounds_allow_is_taken(dialect):
    fields = dialect.request[1]._declared_fields
    bounds = [
        (fields[asked["name"]], asked[bound])
        for asked in playground._dialect(dialect)["parameters"]
        for bound in ("min", "max")
        if asked[bound] is not None
    ]
    assert bounds
    assert [field.deserialize(bound) for field, bound in bounds] == [bound for _field, bound in bounds]


STARTED = {"/": "playground.js", "/docs": "docs.js", "/dashboard": "dashboard.js", "/docs/errors": ""}


@pytest.mark.parametrize("path, script", STARTED.items())
def test_nothing_but_its_icon_is_fetched_before_a_page_is_painted(client, path, script):
    before, later = client.get(path).text.split('<template id="later">')
    assert re.findall(r"<link\b[^>]*", before) == re.findall(r"<link rel=\"icon\"[^>]*", before)
    assert not re.search(r"<[^>]*\ssrc=|^import|\bimport\(|\bfetch\(", before, re.M)
    assert script in later


def test_a_small_model_on_this_machine_is_named_and_better_ones_too(settings):
    page = create_app(replace(settings, embedded_url="http://127.0.0.1:9")).test_client().get("/").text
    assert "HuggingFaceTB/SmolLM2-135M-Instruct answers here" in page
    assert "HUGGINGFACE_API_KEY" in page and "make run MODEL=" in page


def test_a_link_from_elsewhere_finds_the_page_unlocked(settings):
    client = create_app(settings).test_client()
    headers = {"Host": "127.0.0.1:8000", "Sec-Fetch-Site": "cross-site"}
    assert '"locked": null' in client.get("/", headers=headers).text
    assert '"locked": null' not in client.get("/", headers=headers | {"X-Forwarded-For": "192.0.2.1"}).text


def test_snippets_are_made_of_a_request_to_a_chat_route_for_whoever_may_call(client, settings):
    asked = {"path": "/v1/responses", "body": {"model": "a/b", "input": "hello"}}
    made = client.post("/playground/snippets", json=asked).json
    assert set(made) == {"curl", "python", "javascript"}
    assert "http://localhost/v1/responses" in made["curl"]
    for other in ({}, {"path": "/metrics", "body": {}}, {"path": [], "body": {}}, {"path": "/v1/responses"}):
        assert client.post("/playground/snippets", json=other).status_code == 400
    guarded = create_app(replace(settings, auth="required")).test_client()
    assert guarded.post("/playground/snippets", json=asked).status_code == 401
