"""What one caller's body may cost the others, under real gunicorn: processor time, memory, and how long they wait."""

import pytest
from support.bodies import FAULTY, MODEL, VALID
from support.dialects import V1
from support.gateways import serve
from support.heard import all_at_once
from support.others import Others, Worker

RESPONSES = "/v1/responses"
OTHERS_WAIT_S = 1.5
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def gateway(gateway_env):
    own = {"CHATAPI_MAX_BODY": str(21 * 1024 * 1024), "CHATAPI_MAX_TIME": "60", "CHATAPI_IDLE_TIMEOUT": "20"}
    with serve({**gateway_env, **own, "CHATAPI_AUTH": "off"}) as running:
        yield running


def in_words_of(route, body):
    """The same body for another route."""
    return body.replace(b'"messages"', b'"input"', 1) if route == RESPONSES else body


def measured(gateway, route, body):
    """The answer, and what it has cost the worker; nobody else has waited for long."""
    with Others(gateway, OTHERS_WAIT_S), Worker(gateway) as worker:
        answer = gateway.post(route, data=body, headers=JSON, timeout=60)
    print(f"{answer.status_code}, {worker.cpu_s:.2f} s, {worker.memory_mb:.0f} MB, {len(answer.content)} bytes")
    return answer, worker


@pytest.mark.parametrize("name", VALID)
def test_what_is_valid_but_dear_holds_up_nobody(upstream, gateway, name):
    answer, worker = measured(gateway, V1, VALID[name]())
    # What TGI says to more than 2 MB: the whole of it went there.
    assert answer.status_code == 200 or "length limit exceeded" in answer.text
    assert worker.cpu_s < 3 + 1, "a second for the others' calls"
    assert worker.memory_mb < 300


def test_a_photo_among_many_messages_is_answered(upstream, gateway):
    body = VALID["a photo among 200 messages"]().replace(MODEL, b"test/ok", 1)
    assert measured(gateway, V1, body)[0].status_code == 200


@pytest.mark.parametrize("route", [V1, RESPONSES])
@pytest.mark.parametrize("name", FAULTY)
def test_a_million_faults_hold_up_nobody(upstream, gateway, name, route):
    answer, worker = measured(gateway, route, in_words_of(route, FAULTY[name]()))
    assert answer.status_code == 400
    assert len(answer.content) < 100_000
    assert worker.cpu_s < 1.5 + 1
    assert worker.memory_mb < 200


def test_twelve_large_bodies_at_once_are_read_one_after_another(upstream, gateway):
    body = VALID["as many messages as are read"]()
    with Others(gateway, OTHERS_WAIT_S), Worker(gateway) as worker:
        answers = all_at_once(lambda _: gateway.post(V1, data=body, headers=JSON, timeout=60).status_code, range(12))
    print(f"{worker.cpu_s:.2f} s, {worker.memory_mb:.0f} MB")
    assert set(answers.values()) == {400}, "as TGI says to more than 2 MB"
    assert worker.memory_mb < 500


def test_what_would_be_told_twelve_times_is_no_megabytes(gateway):
    answer = gateway.post("/api/migrate/preview", {"message": "x" * 900_000})
    assert answer.status_code == 200
    answer = gateway.post("/api/migrate/preview", {"message": "x" * 2_000_000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


def test_what_would_be_told_twelve_times_is_left_out_of_a_410(gateway_env):
    own = {"CHATAPI_LEGACY_SUNSET": "2026-01-01", "CHATAPI_MAX_BODY": "21000000", "CHATAPI_AUTH": "off"}
    with serve({**gateway_env, **own}) as retired:
        for length, told in ((10, True), (2_000_000, False)):
            answer = retired.post("/api/huggingface-chat", {"message": "x" * length})
            assert answer.status_code == 410
            assert ("completions" in answer.json()["error"]["migration"]) is told
            assert "guide" in answer.json()["error"]["migration"]
