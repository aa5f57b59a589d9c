"""The dashboard's data: who may see them, what they say, and what they cost at any size of the ledger."""

import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import pytest

from chatapi import create_app
from chatapi.accounting.charts import MAX_ROWS, span
from chatapi.accounting.tables import call_id
from chatapi.caller import NO_LIMITS

ASK = {"model": "test/ok", "messages": [{"role": "user", "content": "hi"}]}
CHARTS = ("calls", "tokens", "first-token", "total-time", "errors", "keys", "models", "state")


@pytest.fixture
def locked(settings, tmp_path):
    """An application that wants keys, with an administrator's key and another one."""
    app = create_app(replace(settings, auth="required", database_url=f"sqlite:///{tmp_path}/keys.db"))
    keys = app.extensions["chatapi"].keys
    return app.test_client(), *(
        keys.create(name, NO_LIMITS, [], None, name == "boss")[1] for name in ("boss", "worker")
    )


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_the_page_has_no_number_and_no_lock(locked):
    client, *_ = locked
    page = client.get("/dashboard")
    assert page.status_code == 200
    assert 'id="key-form"' in page.text


@pytest.mark.parametrize("chart", CHARTS)
def test_data_want_an_administrators_key(locked, chart):
    client, boss, worker = locked
    assert client.get(f"/dashboard/data/{chart}").json["error"]["code"] == "missing_api_key"
    refused = client.get(f"/dashboard/data/{chart}", headers=bearer(worker))
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "admin_required")
    shown = client.get(f"/dashboard/data/{chart}", headers=bearer(boss))
    assert (shown.status_code, shown.headers["Cache-Control"]) == (200, "no-store")


def test_a_caller_on_this_machine_is_let_in(client):
    assert client.get("/dashboard/data/calls").status_code == 200
    forwarded = client.get("/dashboard/data/calls", headers={"X-Forwarded-For": "203.0.113.7"})
    assert forwarded.status_code == 401


@pytest.mark.parametrize("query", ["from=x", "from=NaN", "to=-1", "from=20&to=10", "from=0&to=1e300", "from=0&to=1e10"])
def test_what_cannot_be_read_is_refused(client, query):
    assert client.get(f"/dashboard/data/calls?{query}").status_code == 400


def test_there_is_no_other_chart(client):
    assert client.get("/dashboard/data/nothing").status_code == 404


def test_a_call_shows_at_once(client, upstream):
    before = time.time() - 1
    assert client.post("/v1/chat/completions", json=ASK).status_code == 200
    assert client.post("/v1/chat/completions", json={**ASK, "temperature": 9}).status_code == 400
    query = f"from={before}&to={time.time() + 1}"
    calls = client.get(f"/dashboard/data/calls?{query}").json
    assert (sum(calls["lines"]["completed"]), sum(calls["lines"]["others"])) == (1, 1)
    assert client.get(f"/dashboard/data/errors?{query}").json["rows"] == [{"code": "invalid_request", "count": 1}]
    assert sum(client.get(f"/dashboard/data/tokens?{query}").json["lines"]["completion"]) > 0
    times = client.get(f"/dashboard/data/total-time?{query}&model=test/ok").json["lines"]["p50"]
    assert any(times)
    models = {row["model"]: row["calls"] for row in client.get("/dashboard/data/models").json["rows"]}
    assert models["test/ok"] >= 1
    none = client.get(f"/dashboard/data/calls?{query}&model=other/model").json["lines"]
    assert sum(map(sum, none.values())) == 0


def test_a_large_ledger_is_sampled_and_reckoned(app, tmp_path, settings):
    """Two hundred calls a second for ten minutes: read in part, told whole."""
    url = f"sqlite:///{tmp_path}/large.db"
    store = create_app(replace(settings, database_url=url)).extensions["chatapi"].store
    store.check()
    now, number = time.time(), 120_000
    begin = now - 600
    rows = (
        (call_id(begin + n / 200, n % 4096), f"r{n}", begin + n / 200, "k", "openai", "/v1/chat/completions", "m", "m")
        for n in range(number)
    )
    with closing(sqlite3.connect(tmp_path / "large.db")) as database, database:
        database.executemany(
            "INSERT INTO calls (id, request_id, started_at, key_id, dialect, route, model, served, stream, attempts, "
            "ending, owner, until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 1, 'completed', '', 0)",
            rows,
        )
    found = store.read(lambda tx: span(tx, begin, now))
    assert found.sampled
    assert sum(len(step.rows) for step in found.steps) <= MAX_ROWS
    told = sum(step.count(step.rows) for step in found.steps)
    assert told == pytest.approx(number, rel=0.02)
