"""What operators and readers see: health, readiness, the docs pages, CORS, and the line of each call."""

import json
import logging
from dataclasses import replace

import pytest
from gateways import serve

from chatapi import create_app
from chatapi.errors import ClientLeft, InternalError, MissingApiKey, UpstreamTimeout, UpstreamUnavailable, WorkerStopped
from chatapi.settings import Settings
from chatapi.telemetry import Record, _Line, configure

ORIGIN = "https://app.example.com"


def test_it_is_alive_and_ready(client):
    assert client.get("/healthz").json == {"status": "ok"}
    assert client.get("/readyz").json == {"status": "ok", "circuit": {"open": {}}}


def test_readyz_names_the_open_circuits(app, client):
    circuit = app.extensions["chatapi"].engine.circuit
    for _ in range(5):
        circuit.failed("acme/ill")
    assert list(client.get("/readyz").json["circuit"]["open"]) == ["acme/ill"]


def test_the_reference_names_every_route_and_what_it_does(app, client):
    page = client.get("/docs")
    assert page.mimetype == "text/html"
    for rule in app.url_map.iter_rules():
        assert rule.rule.replace("<", "&lt;").replace(">", "&gt;") in page.text
        assert app.view_functions[rule.endpoint].__doc__


@pytest.mark.parametrize("name", ["migration", "compatibility"])
def test_a_guide_is_shown(client, name):
    page = client.get(f"/docs/{name}")
    assert page.status_code == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("name", ["nothing", "..%2f..%2fREADME", "%2e%2e", "migration.md"])
def test_no_other_file_is_shown(client, name):
    assert client.get(f"/docs/{name}").status_code == 404


def test_the_old_route_links_to_a_guide_that_exists(client):
    links = client.post("/api/huggingface-chat").headers.getlist("Link")
    deprecation = next(link for link in links if 'rel="deprecation"' in link)
    assert client.get(deprecation.partition("<")[2].partition(">")[0]).status_code == 200


# --- CORS


def test_no_origin_may_call_unless_configured(client):
    given = client.get("/healthz", headers={"Origin": ORIGIN}).headers
    assert not [name for name, _ in given if "Access" in name]


@pytest.mark.parametrize("origin, allowed", [(ORIGIN, True), (ORIGIN + ".evil.test", False), ("null", False)])
def test_only_the_configured_origins_may_call(origin, allowed):
    client = create_app(Settings(cors_origins=frozenset({ORIGIN}))).test_client()
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for answer in (client.options("/v1/chat/completions", headers=headers), client.get("/healthz", headers=headers)):
        assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
        assert "Origin" in answer.headers["Vary"]


def test_the_preflight_allows_what_clients_send():
    client = create_app(Settings(cors_origins=frozenset({ORIGIN}))).test_client()
    answer = client.options("/v1/chat/completions", headers={"Origin": ORIGIN})
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]


# --- one line a call

ENDINGS = [
    (None, "completed"),
    (MissingApiKey("no"), "refused"),
    (ClientLeft("gone"), "client_left"),
    (UpstreamTimeout("late"), "deadline"),
    (UpstreamUnavailable("cut"), "upstream_cut"),
    (WorkerStopped("stop"), "worker_stopped"),
    (InternalError("ours"), "failed"),
]


@pytest.mark.parametrize("error, ending", ENDINGS)
def test_a_calls_ending(error, ending):
    record = Record("id", "/v1/chat/completions")
    if error:
        record.fail(error)
    record.close("completed")
    assert record.ending == ending
    assert record.code == (error.code if error else None)


def test_a_call_is_written_once_and_its_first_failure_counts(caplog):
    configure("info")
    record = Record("id", "/v1/chat/completions")
    calls = logging.getLogger("chatapi.calls")
    calls.addHandler(caplog.handler)
    try:
        record.fail(UpstreamTimeout("late"))
        record.fail(ClientLeft("gone"))
        record.close("completed")
        record.close("completed")
    finally:
        calls.removeHandler(caplog.handler)
    assert [r.__dict__["record"].ending for r in caplog.records] == ["deadline"]


def line_of(person, **fields):
    record = Record("id-1", "/v1/chat/completions", model="a/b", status=200, ending="completed", total_ms=12.0)
    for name, value in fields.items():
        setattr(record, name, value)
    log_record = logging.LogRecord("chatapi.calls", logging.INFO, "", 0, "", (), None)
    log_record.__dict__["record"] = record
    return _Line(person).format(log_record)


def test_the_line_is_json_for_machines_and_short_for_people():
    shown = json.loads(line_of(False, served="c/d", prompt_tokens=3, completion_tokens=5))
    assert shown["model"] == "a/b"
    assert shown["served"] == "c/d"
    assert shown["ending"] == "completed"
    assert "first_token_ms" not in shown
    assert "c/d completed 12 ms, 3+5 tokens" in line_of(True, served="c/d", prompt_tokens=3, completion_tokens=5)


# --- numbers


def numbers(text):
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] != "#"}


def test_metrics_of_all_workers_and_the_open_circuits(upstream, gateway_env):
    ask = {"model": "test/ok", "messages": [{"role": "user", "content": "hi"}]}
    upstream.behave("metrics/malformed", "test/malformed-event")
    upstream.behave("metrics/ill", "test/http500")
    with serve(gateway_env, "-w", "2") as gateway:
        for _ in range(6):
            assert gateway.post("/v1/chat/completions", ask).ok
        assert gateway.post("/v1/chat/completions", {**ask, "model": "metrics/malformed", "stream": True}).ok
        for _ in range(5):
            gateway.post("/v1/chat/completions", {**ask, "model": "metrics/ill", "max_time": 1})
        text = gateway.request("GET", "/metrics").text
    found = numbers(text)
    assert found['chatapi_calls_total{code="",ending="completed",route="/v1/chat/completions"}'] == 7
    assert found["chatapi_malformed_events_total"] == 1
    assert found["chatapi_attempts_total"] >= 7 + 5
    assert found['chatapi_tokens_total{kind="completion"}'] > 6
    assert found['chatapi_circuit_open_seconds{model="metrics/ill"}'] >= 0
    assert "test/ok" not in text, "models are named by callers: they are no labels"


def test_metrics_want_a_key_where_calls_do(settings):
    client = create_app(replace(settings, auth="required")).test_client()
    assert client.get("/metrics").status_code == 401
    assert client.get("/healthz").status_code == 200
