"""The dashboard's data: who may see them, what they say, and what they cost at any size of the ledger."""

import time
from dataclasses import replace
from functools import partial

import pytest

from chatapi import create_app
from chatapi.accounting import statements
from chatapi.accounting.charts import span
from chatapi.accounting.tables import calls
from chatapi.call import call_id
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


def test_what_cannot_be_read_is_refused(client):
    for query in ("from=x", "from=NaN", "to=-1", "from=20&to=10", "from=0&to=1e300", "from=0&to=1e10"):
        assert client.get(f"/dashboard/data/calls?{query}").status_code == 400, query
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


@pytest.fixture
def large(tmp_path, settings):
    """A ledger of the last eight days with a burst at six midnights: 2,000 calls within two seconds.

    None just before the last seven days begin: of a day that is known as a whole, its share of the span is told.
    """
    store = create_app(replace(settings, database_url=f"sqlite:///{tmp_path}/large.db")).extensions["chatapi"].store
    now = time.time()
    midnight = now // 86_400 * 86_400
    bursts = [midnight - day * 86_400 + n / 1000 for day in range(1, 7) for n in range(2000)]
    steady = [now - 8 * 86_400 * (n + 0.5) / 20_000 for n in range(20_000)]
    rows = [_row(n, at) for n, at in enumerate([*bursts, *steady])]
    for first in range(0, len(rows), 5000):
        store.write(partial(statements.record, rows=rows[first : first + 5000]))
    return store, now, [row["started_at"] for row in rows]


def _row(number, at):
    row = dict.fromkeys(calls.columns.keys()) | {"id": call_id(at, number % 4096), "request_id": f"r{number}"}
    given = {"started_at": at, "key_id": f"k{number % 7}", "dialect": "openai", "model": "m", "route": "/"}
    given |= {"served": "m", "stream": False, "attempts": 1, "owner": ""}
    failed = number % 10 == 0
    given |= {"ending": "refused" if failed else "completed", "code": "rate_limited" if failed else None, "until": 0.0}
    return row | given | {"prompt_tokens": 3, "completion_tokens": 7, "total_ms": float(number % 100)}


@pytest.mark.parametrize("days", [1, 7])
def test_a_large_ledger_is_sampled_and_its_days_are_told_as_they_were(large, days):
    store, now, times = large
    found = store.read(lambda tx: span(tx, now - days * 86_400, now))
    assert found.sampled == (days > 1)
    told = sum(step.completed + step.others for step in found.steps)
    assert told == pytest.approx(sum(at >= now - days * 86_400 for at in times), rel=0.05)
    assert found.errors["rate_limited"] == pytest.approx(told / 10, rel=0.1)
    tokens = sum(step.prompt_tokens + step.completion_tokens for step in found.steps)
    assert tokens == pytest.approx(10 * told, rel=0.01)
    assert [step.total_ms["p50"] for step in found.steps if step.total_ms["p50"]]


def test_a_month_of_one_key_is_told_as_the_days_have_it(large):
    store, now, times = large
    found = store.read(lambda tx: span(tx, now - 60 * 86_400, now, "k3"))
    assert found.step_s == 86_400
    assert sum(step.completed + step.others for step in found.steps) == pytest.approx(len(times) / 7, rel=0.01)
