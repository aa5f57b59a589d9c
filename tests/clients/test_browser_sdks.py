"""SDKs in a page: real Chromium, from a configured origin and from another one, whole, streamed and refused."""

import subprocess
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from support.browser import chromium, visit
from support.clients import folder
from support.gateways import keyed, serve
from support.sockets import Quiet, serving_http
from support.upstream import PIECES, TEXT

pytestmark = [pytest.mark.clients, pytest.mark.browser]

PROGRAM = Path(__file__).parent / "programs" / "browser.mjs"
KEY = "sk-of-a-page"
SDKS = ("openai", "langchain")


class Handler(Quiet, SimpleHTTPRequestHandler):
    pass


@contextmanager
def site(directory):
    """A site of its own port, and so of its own origin."""
    with serving_http(partial(Handler, directory=str(directory))) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A page with the SDKs, as a bundler makes it for browsers."""
    node, pages = folder("node"), tmp_path_factory.mktemp("site")
    command = [str(node / "node_modules" / ".bin" / "esbuild"), "--bundle", "--platform=browser", "--format=iife"]
    done = subprocess.run(
        [*command, "--log-level=warning", f"--outfile={pages / 'sdks.js'}"],
        input=PROGRAM.read_text(),
        cwd=node,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    page = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script src="sdks.js"></script>'
    (pages / "index.html").write_text(page)
    return pages


@pytest.fixture(scope="module")
def origin(bundle):
    with site(bundle) as url:
        yield url


@pytest.fixture(scope="module")
def gateway(gateway_env, origin):
    with serve({**gateway_env, **keyed(KEY), "CHATAPI_CORS_ORIGINS": origin, "CHATAPI_HEARTBEAT": "30"}) as running:
        yield running


@pytest.fixture(scope="module")
def browser(bundle):
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def page(browser, origin):
    with visit(browser, origin) as opened:
        yield opened


def at(gateway, model="test/ok", key=KEY):
    return {"baseURL": f"{gateway.url}/v1", "apiKey": key, "model": model}


def run(page, sdk, what, given):
    return page.evaluate("([sdk, what, given]) => window.sdks[sdk][what](given)", [sdk, what, given])


@pytest.mark.parametrize("sdk", SDKS)
def test_a_page_of_a_configured_origin_is_answered(page, gateway, upstream, sdk):
    assert run(page, sdk, "whole", at(gateway)) == TEXT
    assert run(page, sdk, "stream", at(gateway)) == {"text": TEXT, "pieces": len(PIECES)}


@pytest.mark.parametrize("sdk", SDKS)
def test_a_page_can_read_what_went_wrong(page, gateway, upstream, sdk):
    """The browser hides an answer whose headers do not allow it: it would be "Connection error."."""
    gone = run(page, sdk, "failing", at(gateway, "nobody/serves-this"))
    assert gone["status"] == 404
    assert "GET /v1/models lists the models" in gone["message"]
    wrong = run(page, sdk, "failing", at(gateway, key="sk-wrong"))
    assert wrong["status"] == 401
    if sdk == "openai":
        assert (gone["code"], wrong["code"]) == ("model_not_found", "invalid_api_key")
        assert gone["requestId"], "X-Request-Id is there for pages"


@pytest.mark.parametrize("sdk", SDKS)
def test_a_page_of_another_origin_is_told_nothing(browser, bundle, gateway, upstream, sdk):
    with site(bundle) as elsewhere, visit(browser, elsewhere) as opened:
        failed = run(opened, sdk, "failing", at(gateway))
        assert failed["status"] is None
        assert upstream.calls_for("test/ok") == []
        opened.complaints.clear()  # the console tells why
