"""What operators and readers see: health, readiness, the docs pages, CORS, and the line of each call."""

import hashlib
import os
import platform
import re
import subprocess
import time
from dataclasses import replace

import psutil
import pytest
from support.dialects import LEGACY, NEW, RESPONSES, V1, asking
from support.gateways import ROOT, gunicorn, python, ran, serve
from support.heard import numbers, wait_until
from support.hub import put_tokenizer

from chatapi import create_app
from chatapi.accounting.statements import put_meta
from chatapi.accounting.store import Store
from chatapi.errors import StoreUnavailable
from chatapi.settings import VERSION
from chatapi.web.docs import GUIDES

ORIGIN = "https://app.example.com"
CHATS = (LEGACY, NEW, V1, RESPONSES)


PARTS = ("database", "limits", "upstream")


def test_it_is_alive_and_ready(client):
    assert client.get("/healthz").json == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["status"], ready.json["circuit"]) == (200, "ok", {"open": {}})
    assert {name: part["ok"] for name, part in ready.json["parts"].items()} == dict.fromkeys(PARTS, True)
    assert all(part["reason"] and part["age_s"] >= 0 for part in ready.json["parts"].values())


def test_readyz_names_the_open_circuits(app, client):
    circuit = app.extensions["chatapi"].engine.circuit
    for _ in range(5):
        circuit.enter("acme/ill").failed()
    ready = client.get("/readyz")
    assert list(ready.json["circuit"]["open"]) == ["acme/ill"]
    assert (ready.status_code, ready.json["status"]) == (200, "degraded"), "other models answer, and fallbacks"
    assert ready.json["parts"]["upstream"]["reason"] == "Some models are failing."


def test_a_worker_told_to_stop_is_not_ready(app, client):
    app.extensions["chatapi"].health.stopping = True
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (503, "stopping")


AWAY = {  # without a database nobody is answered, without Redis everybody
    "database": ({"database_url": "sqlite:////dev/null/chatapi.db"}, 503, "not ready", "cannot be written to"),
    "limits": ({"redis_url": "redis://127.0.0.1:1/0"}, 200, "degraded", "limits are held in the database"),
}


@pytest.mark.parametrize("part", AWAY)
def test_what_is_away_is_told_with_its_reason(settings, part):
    own, status, word, reason = AWAY[part]
    ready = create_app(replace(settings, **own)).test_client().get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (status, word)
    assert reason in ready.json["parts"][part]["reason"]


KEY = "sk-test-ready"


def test_readyz_tells_hosts_and_addresses_to_those_with_a_key_alone(settings):
    own = {"keys": frozenset({hashlib.sha256(KEY.encode()).hexdigest()}), "redis_url": "redis://127.0.0.1:1/0"}
    away = replace(settings, database_url="postgresql+psycopg://user@127.0.0.1:5999/books", auth="auto", **own)
    app = create_app(away)
    circuit = app.extensions["chatapi"].engine.circuit
    for _ in range(5):
        circuit.enter("int/x at http://127.0.0.1:39999").failed()
    with app.test_client() as client:
        for headers in ({}, {"Authorization": "Bearer sk-wrong"}):
            told = client.get("/readyz", headers=headers)
            assert told.status_code == 503
            for word in ("127.0.0.1", "5999", "39999", "://", "books", "user", "psycopg"):
                assert word not in told.text
            assert list(told.json["circuit"]["open"]) == ["int/x"]
        told = client.get("/readyz", headers={"Authorization": f"Bearer {KEY}"})
    assert "5999" in told.json["parts"]["database"]["detail"]
    assert "39999" in told.json["parts"]["upstream"]["detail"]
    assert list(told.json["circuit"]["open"]) == ["int/x at http://127.0.0.1:39999"]


def test_the_reference_names_every_route_and_what_it_does(client):
    page = client.get("/docs")
    assert page.mimetype == "text/html"
    paths = client.get("/openapi.json").json["paths"]
    assert len(paths) > 8
    for path, operations in paths.items():
        assert path in page.text
        assert all(operation["summary"] for operation in operations.values())


@pytest.mark.parametrize("name", sorted(GUIDES.keys() - {"chat-completion-api"}))  # which is kept as it was given
def test_every_guide_is_shown_in_the_readers_language(client, name):
    english, portuguese = (
        client.get(f"/docs/{name}", headers={"Accept-Language": language}).text.partition("<article")[2]
        for language in ("en", "pt-BR")
    )
    assert english != portuguese


@pytest.mark.parametrize("name", ["nothing", "..%2f..%2fREADME", "%2e%2e", "migration.md"])
def test_no_other_file_is_shown(client, name):
    assert client.get(f"/docs/{name}").status_code == 404


@pytest.mark.parametrize(
    "arguments, told", [(("-b", "127.0.0.1:99999"), "a port is at most 65535"), (("-w", "0"), "without a worker")]
)
def test_what_gunicorn_would_take_and_nobody_could_use_is_told_in_a_line(tmp_path, arguments, told):
    done = ran(*gunicorn(0), *arguments, "wsgi:app", DATABASE_URL=f"sqlite:///{tmp_path}/chatapi.db")
    assert done.returncode != 0
    assert told in done.stderr and "Traceback" not in done.stderr


# --- CORS


def test_no_origin_may_call_unless_configured(client):
    given = client.get("/healthz", headers={"Origin": ORIGIN}).headers
    assert not [name for name, _ in given if "Access" in name]


@pytest.fixture
def across(settings):
    """A client of a gateway that pages of one other origin may call."""
    return create_app(replace(settings, cors_origins=frozenset({ORIGIN}))).test_client()


@pytest.mark.parametrize("origin", [ORIGIN, ORIGIN + ".evil.test", "null"])
def test_only_the_configured_origins_may_call_and_send_what_they_ask_to(across, origin):
    asked = "authorization,content-type,x-stainless-os,x-stainless-retry-count,api-key"
    wish = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    allowed = origin == ORIGIN
    for answer in (*(across.options(route, headers=wish) for route in CHATS), across.get("/healthz", headers=wish)):
        assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
        assert "Origin" in answer.headers["Vary"]
        assert allowed or not [name for name, _ in answer.headers if name.startswith("Access-Control")]
    given = across.options(V1, headers=wish).headers
    assert given.get("Access-Control-Allow-Headers") == (asked if allowed else None)
    assert "POST" in given["Access-Control-Allow-Methods"] if allowed else True
    unasked = across.options(V1, headers={"Origin": ORIGIN}).headers
    assert "Authorization" in unasked["Access-Control-Allow-Headers"]


def test_a_page_may_read_what_sdks_act_on(across):
    answer = across.post(V1, json=asking(V1, "nobody/serves-this"), headers={"Origin": ORIGIN})
    shown = answer.headers["Access-Control-Expose-Headers"].lower()
    assert answer.headers["x-should-retry"] == "false"
    for name in ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "x-ratelimit-remaining-requests"):
        assert name in shown


# --- numbers


@pytest.fixture(scope="module")
def two_workers(gateway_env):
    """One of its settings is misspelt."""
    with serve({**gateway_env, "CHATAPI_IDLE_TIMOUT": "9"}, "-w", "2") as running:
        yield running


def test_metrics_of_all_workers_and_the_open_circuits(upstream, two_workers):
    ask = {"model": "test/ok", "messages": [{"role": "user", "content": "hi"}]}
    upstream.behave("metrics/malformed", "test/malformed-event")
    upstream.behave("metrics/ill", "test/http500")
    for _ in range(6):
        assert two_workers.post("/v1/chat/completions", ask).ok
    assert two_workers.post("/v1/chat/completions", {**ask, "model": "metrics/malformed", "stream": True}).ok
    for _ in range(5):
        two_workers.post("/v1/chat/completions", {**ask, "model": "metrics/ill", "max_time": 1})
    time.sleep(0.2)  # what a worker counts is in its file within 50 ms
    found = numbers(two_workers.request("GET", "/metrics").text)
    answered = 'chatapi_calls_total{code="",ending="completed",model="test/ok",route="/v1/chat/completions"}'
    assert found[answered] == 6
    assert found["chatapi_malformed_events_total"] == 1
    assert found['chatapi_attempts_total{model="test/ok"}'] == 6
    assert found['chatapi_attempts_total{model="other"}'] >= 5, "a model that never answered has no label of its own"
    assert found['chatapi_tokens_total{kind="completion",model="test/ok"}'] > 6
    assert found["chatapi_gateway_seconds_count"] == 12
    assert found["chatapi_open_streams"] == 0
    assert found["chatapi_ledger_pending"] == 0
    assert found['chatapi_circuit_open_seconds{model="metrics/ill"}'] >= 0


def test_a_models_own_tokenizer_counts_in_a_worker_too(upstream, gateway_env, tmp_path):
    upstream.behave("classic/any", "ok")
    put_tokenizer(tmp_path, "classic/any")
    with serve({**gateway_env, "HF_HOME": str(tmp_path)}) as gateway:

        def answer():  # the first is estimated
            found = gateway.post(V1, asking(V1, "classic/any", "one two three"))
            return found if found.headers["X-Usage-Source"] == "tokenizer" else None

        assert wait_until(answer).json()["usage"]["prompt_tokens"] == len("one two three")


# --- what it does not start on


@pytest.mark.parametrize("schema, words", [("99", "install a newer chatapi"), ("-1", "flask --app wsgi db upgrade")])
def test_it_does_not_start_on_another_schema(gateway_env, tmp_path, schema, words):
    database = f"sqlite:///{tmp_path}/chatapi.db"
    Store(database).write(lambda tx: put_meta(tx, "schema", schema))
    with pytest.raises(AssertionError) as told, serve({**gateway_env, "DATABASE_URL": database}):
        pass
    assert words in str(told.value)
    assert "Traceback" not in str(told.value).partition("its log:")[2]


def test_settings_that_only_a_worker_can_find_wrong_are_told_in_a_line(gateway_env, tmp_path):
    (tmp_path / "opentelemetry.py").write_text("")  # hides the real one
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with (
        pytest.raises(AssertionError, match=r"pip install -r requirements-otel\.txt") as told,
        serve({**gateway_env, **env}),
    ):
        pass
    assert "Traceback" not in str(told.value).partition("its log:")[2]


def test_metrics_say_which_version_runs_and_what_it_takes(two_workers):
    shown = two_workers.request("GET", "/metrics").text
    assert f'chatapi_build_info{{python="{platform.python_version()}",version="{VERSION}"}} 1.0' in shown
    value = {name: float(number) for name, number in re.findall(r"^(process_\w+) (\S+)$", shown, re.MULTILINE)}
    assert value["process_cpu_seconds_total"] > 0
    assert value["process_resident_memory_bytes"] > 3 * 10_000_000
    assert value["process_open_fds"] > 10
    assert abs(value["process_start_time_seconds"] - psutil.Process(two_workers.process.pid).create_time()) < 60
    assert 'chatapi_call_seconds_bucket{le="120.0"' in shown or "chatapi_call_seconds_bucket" not in shown


def test_a_misspelt_setting_is_told_at_the_start(two_workers):
    assert "CHATAPI_IDLE_TIMOUT; did you mean CHATAPI_IDLE_TIMEOUT?" in two_workers.log_text()


def test_a_full_disk_is_not_ready(tmp_path):
    """On a disk of its own, which nothing has room on."""
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "t", tmp_path], check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with pytest.raises(StoreUnavailable) as caught:
            Store(f"sqlite:///{tmp_path}/chatapi.db").ping()
        assert "the disk is full" in caught.value.cause
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_warning_says_when_how_bad_and_in_which_process():
    script = "import logging; from chatapi.telemetry.log import configure; configure('info'); "
    script += "logging.getLogger('chatapi.x').warning('it is so')"
    told = python(script).stderr
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d [\d:]{8} [+-]\d{4}\] \[\d+\] \[WARNING\] it is so\n", told)
