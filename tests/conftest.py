"""Fixtures: the fault server, the app over it, and the same app under real gunicorn."""

import contextlib
import gc
import os
from pathlib import Path

import hypothesis
import pytest
from support import legacy_bodies, stores
from support.gateways import LOG_TAIL, TOKEN, Gateway, catalogue_for, serve
from support.upstream import Upstream

from chatapi import create_app
from chatapi.huggingface import Transport
from chatapi.languages import LANGUAGES, use
from chatapi.settings import Settings

os.environ["LC_ALL"] = "C.UTF-8"  # commands speak the language of their locale

# The same cases in every run, and nothing left behind in the checkout.
hypothesis.settings.register_profile("house", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("house")


# Under these names tests ask for databases and for Redis: one server of each for all of them.
database, sqlite_url = stores.database, stores.sqlite_url
postgres_url, postgres_server = stores.postgres_url, stores.postgres_server
redis_url, redis_server = stores.redis_url, stores.redis_server


@pytest.fixture(scope="session", autouse=True)
def somewhere_else(tmp_path_factory):
    """Tests leave nothing in the checkout: the default database lies in the current folder."""
    with contextlib.chdir(tmp_path_factory.mktemp("cwd")):
        yield


@pytest.fixture(scope="module", autouse=True)
def applications_end():
    """Applications of one process share a database, in which each has a number until it is collected.

    What stays is not looked through again.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def english():
    """Whatever language the test before was answered in."""
    use(LANGUAGES[0])


@pytest.fixture(scope="session")
def every_legacy_body():
    """Hear of it, wherever a test brings one."""
    with legacy_bodies.listening():
        yield


@pytest.fixture(autouse=True)
def the_preview_keeps_its_word(every_legacy_body):
    """Of every legacy body in the suite: see `support.legacy_bodies`."""
    yield
    legacy_bodies.check_all_heard()


@pytest.fixture(scope="session")
def upstream_server():
    with Upstream() as server:
        yield server


@pytest.fixture
def upstream(upstream_server):
    """The fault server, as new: nothing called, nothing set."""
    upstream_server.reset()
    yield upstream_server
    assert upstream_server.failures == []


@pytest.fixture
def transport():
    """The client's connections, with a token of their own."""
    with contextlib.closing(Transport("hf_right", user_agent="chatapi/test")) as made:
        yield made


@pytest.fixture(scope="session")
def wide_catalogue(upstream_server, tmp_path_factory) -> Path:
    """Every behaviour of the fault server behind every kind of model."""
    return catalogue_for(upstream_server.url, tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="session")
def base_settings(upstream_server, tmp_path_factory) -> Settings:
    return Settings(
        huggingface_api_key=TOKEN,
        huggingface_base_url=upstream_server.url,
        database_url=f"sqlite:///{tmp_path_factory.mktemp('ledger')}/chatapi.db",
        # Most tests make an app of their own: one that starts fast, so with few models.
        catalogue=catalogue_for(upstream_server.url, tmp_path_factory.mktemp("few"), ["ok", "silent"]),
        max_time_s=5,
        reply_timeout_s=2,
        first_token_timeout_s=1,
        idle_timeout_s=0.5,
        heartbeat_s=0.3,
        max_body=65_536,
    )


@pytest.fixture
def settings(base_settings, upstream) -> Settings:
    return base_settings


@pytest.fixture
def app(settings):
    app = create_app(settings)
    app.testing = True
    return app


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def runner(app):
    return app.test_cli_runner()


@pytest.fixture(scope="session")
def gateway_env(upstream_server, wide_catalogue) -> dict[str, str]:
    """The gateway's settings, for tests that start one of their own with some of them changed."""
    return {
        "HUGGINGFACE_API_KEY": TOKEN,
        "HUGGINGFACE_BASE_URL": upstream_server.url,
        "CHATAPI_CATALOGUE": str(wide_catalogue),
        "CHATAPI_IDLE_TIMEOUT": "1",
        "CHATAPI_HEARTBEAT": "0.5",
        "CHATAPI_MAX_TIME": "6",
        "CHATAPI_MAX_BODY": "100000",
    }


@pytest.fixture(scope="session")
def gateway(gateway_env):
    with serve(gateway_env) as running:
        yield running


def pytest_collection_finish():
    """What is there before the first test stays: `applications_end` need not look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failing test shows the log of every gunicorn it used."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Gateway) and value.log.exists():
                report.sections.append((f"log of {name}", value.log_text()[-LOG_TAIL:]))
    return report
