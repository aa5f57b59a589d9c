"""What one caller's body may cost the others, under real gunicorn: processor time, memory, and how long they wait."""

import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests
from support.bodies import FAULTY, MODEL, VALID
from support.dialects import V1, asking
from support.gateways import serve
from support.heard import all_at_once

RESPONSES = "/v1/responses"
OTHERS_WAIT_S = 1.5
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def gateway(gateway_env):
    own = {"CHATAPI_MAX_BODY": str(21 * 1024 * 1024), "CHATAPI_MAX_TIME": "60", "CHATAPI_IDLE_TIMEOUT": "20"}
    with serve({**gateway_env, **own, "CHATAPI_AUTH": "off"}) as running:
        yield running


class Worker:
    """The gateway's one worker: CPU seconds and MB it takes while this is open."""

    def __init__(self, gateway):
        [self.pid] = gateway.workers()
        self.process = psutil.Process(self.pid)

    def __enter__(self):
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # its peak begins anew
        self._before_mb, self._before_s = self._peak_mb(), self._cpu_s()
        return self

    def __exit__(self, *_):
        self.cpu_s, self.memory_mb = self._cpu_s() - self._before_s, self._peak_mb() - self._before_mb

    def _cpu_s(self):
        times = self.process.cpu_times()
        return times.user + times.system

    def _peak_mb(self):
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[1]) / 1024


@contextmanager
def others(gateway):
    """Meanwhile others ask again and again, for /healthz and for a small call: none may wait long."""
    took, ended = [], threading.Event()

    def ask():
        with requests.Session() as session:
            session.trust_env = False
            while not ended.is_set():
                began = time.monotonic()
                assert session.get(gateway.url + "/healthz", timeout=30).status_code == 200
                assert session.post(gateway.url + V1, json=asking(V1, "test/ok"), timeout=30).status_code == 200
                took.append(time.monotonic() - began)
                time.sleep(0.02)

    asking_on = threading.Thread(target=ask)
    asking_on.start()
    try:
        yield
    finally:
        ended.set()
        asking_on.join()
    print(f"{len(took)} others, the slowest after {max(took):.2f} s")
    assert max(took) < OTHERS_WAIT_S


def in_words_of(route, body):
    """The same body for another route."""
    return body.replace(b'"messages"', b'"input"', 1) if route == RESPONSES else body


@pytest.mark.parametrize("name", VALID)
def test_what_is_valid_but_dear_holds_up_nobody(upstream, gateway, name):
    body = VALID[name]()
    with others(gateway), Worker(gateway) as worker:
        answer = gateway.post(V1, data=body, headers=JSON, timeout=60)
    print(f"{name}: {answer.status_code}, {worker.cpu_s:.2f} s, {worker.memory_mb:.0f} MB")
    # What TGI says to more than 2 MB: the whole of it went there.
    assert answer.status_code == 200 or "length limit exceeded" in answer.text
    assert worker.cpu_s < 3 + 1, "a second for the others' calls"
    assert worker.memory_mb < 300


def test_a_photo_among_many_messages_is_answered(upstream, gateway):
    body = VALID["a photo among 200 messages"]().replace(MODEL, b"test/ok", 1)
    with others(gateway):
        assert gateway.post(V1, data=body, headers=JSON, timeout=60).status_code == 200


@pytest.mark.parametrize("route", [V1, RESPONSES])
@pytest.mark.parametrize("name", FAULTY)
def test_a_million_faults_hold_up_nobody(upstream, gateway, name, route):
    body = in_words_of(route, FAULTY[name]())
    with others(gateway), Worker(gateway) as worker:
        answer = gateway.post(route, data=body, headers=JSON, timeout=60)
    print(f"{name}: {answer.status_code}, {worker.cpu_s:.2f} s, {worker.memory_mb:.0f} MB, {len(answer.content)} bytes")
    assert answer.status_code == 400
    assert len(answer.content) < 100_000
    assert worker.cpu_s < 1.5 + 1
    assert worker.memory_mb < 200


def test_twelve_large_bodies_at_once_are_read_one_after_another(upstream, gateway):
    body = VALID["as many messages as are read"]()
    with others(gateway), Worker(gateway) as worker:
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
