"""A real Chromium over a gateway's pages: what its console says, and what it loads, is watched.

with chromium() as browser, visit(browser, gateway.url) as page:
    page.get_by_label("Message").fill("hello")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from support.servers import needs

LAUNCH = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
WAIT_MS = 10_000
# A page fetches its scripts once it is painted, which may be after its load event.
READY = """async () => {
  while (document.getElementById("later")) await new Promise((done) => setTimeout(done, 5));
  await Promise.all([...document.querySelectorAll("script[type=module][src]")].map((script) => import(script.src)));
}"""
# What Chromium itself says of any response with such a status; the page cannot help it.
STATUS = re.compile(r"Failed to load resource: the server responded with a status of [45]\d\d")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. Skips where it is missing; fails in CI."""
    path = needs("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=LAUNCH)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Any, url: str, path: str = "/", language: str = "en", phone: bool = False, **options: Any
) -> Iterator[Any]:
    """A new reader, with storage of their own, on a page. Errors in the console, or in the page, fail the test.

    `page.complaints` has them; a test that provokes some takes them out.
    """
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
    touch = {"has_touch": True, "is_mobile": True} if phone else {}
    context = browser.new_context(viewport=size, locale=language, **touch, **options)
    context.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    try:
        context.on("page", lambda page: watch(page, complaints))
        page = context.new_page()
        page.complaints = complaints  # type: ignore[attr-defined]
        page.goto(url + path)
        page.evaluate(READY)
        yield page
    finally:
        context.close()
    assert complaints == [], complaints


def serious(page: Page) -> list[Any]:
    """What axe finds that keeps somebody from using the page."""
    found = Axe().run(page).response["violations"]
    return [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]


def watch(page: Page, complaints: list[str]) -> None:
    """Note every error of `page`: a violated policy shows as one, too."""

    def said(message: Any) -> None:
        if message.type in ("error", "warning") and not STATUS.match(message.text):
            complaints.append(message.text)

    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(str(error)))
