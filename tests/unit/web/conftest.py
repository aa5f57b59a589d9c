"""One application for all tests of a module, which change nothing of it."""

import pytest

from chatapi import create_app


@pytest.fixture(scope="module")
def app(base_settings):
    app = create_app(base_settings)
    app.testing = True
    return app
