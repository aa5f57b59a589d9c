"""Fixtures: one Chromium for the tests of a file, and a new reader for each."""

import pytest
from support.browser import chromium, visit


# Playwright keeps an event loop running while its browser lives, beside which no other test could run one.
@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def reader(browser, gateway, upstream):
    """Somebody who reads English on a large screen, at the playground."""
    with visit(browser, gateway.url) as page:
        yield page
