"""Fixtures: one Chromium for all tests, and a new reader for each."""

import pytest
from support.browser import chromium, visit


@pytest.fixture(scope="session")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def reader(browser, gateway, upstream):
    """Somebody who reads English on a large screen, at the playground."""
    with visit(browser, gateway.url) as page:
        yield page
