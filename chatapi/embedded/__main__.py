"""Starts the embedded engine, and starts it again when it falls over.

    python -m chatapi.embedded COMMAND ARGS…

starts a llama.cpp server on loopback where nothing else can answer, and becomes COMMAND (gunicorn): so the engine is
a child of the gateway. It lives exactly as long as any process of the gateway does: all of them hold the write end
of its stdin, and it ends when that closes, whatever killed them. One more process, the keeper, stands between the
two and starts an engine that fell over again, at the same address.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NoReturn
from urllib.request import ProxyHandler, build_opener

from ..catalogue import Catalogue
from ..languages import _, use
from ..settings import EMBEDDED_TOOLS, EMBEDDED_URL, Settings, SettingsError, command_language, process_environment
from . import CONTEXT_TOKENS, MODEL_ID, MULTILINGUAL, EngineError, is_healthy, model_id
from .weights import find_weights

SLOTS = 4  # callers answered side by side; others wait their turn in the engine
MAX_TOKENS = 512  # of an answer whose caller set no limit: a small model may not find an end by itself
TEMPERATURE, TOP_P = 0.2, 0.9  # SmolLM2's model card; 69 of 100 easy questions right, 64 with llama.cpp's 0.8 and 0.95
REPEAT_PENALTY = 1.1  # without it a question in Portuguese is answered by one phrase until the limit
LOAD_S = 600.0  # a large GGUF from a cold disk takes its time
RESTART_S = 1.0
# OpenMP's threads spin while they wait for each other: by default so long that one which another process holds up holds
# up all. Two threads on two cores, 8 callers, 512 tokens: 5.5 s alone, over 30 s beside a busy process; with this spin
# count 4.8 s and 14 s.
ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}


def main(arguments: list[str]) -> NoReturn:
    """Be the keeper, the engine, or the starter that becomes the command given."""
    match arguments:
        case ["--keep", port, path, name]:
            keep(int(port), path, name)
        case ["--serve", port, path, name]:
            serve(int(port), path, name)
        case []:
            sys.exit("usage: python -m chatapi.embedded COMMAND ARGS…")
    try:
        settings = Settings.from_env()
        use(command_language(settings.language))
        _check_workers(process_environment().get("WEB_CONCURRENCY", ""))
        Catalogue.load(settings.catalogue)  # its mistakes are told before a model is loaded
        environment = start(settings) if settings.wants_embedded else process_environment()
        if settings.embedded_model and not settings.wants_embedded:
            _say(_("CHATAPI_EMBEDDED_MODEL is not used: HUGGINGFACE_API_KEY or HUGGINGFACE_BASE_URL is set"))
    except (SettingsError, EngineError) as error:
        sys.exit(f"chatapi: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    _become(arguments, environment)


def _check_workers(text: str) -> None:
    # gunicorn reads it while it is imported, and shows a traceback where it is no number.
    if text and not (text.isascii() and text.isdigit() and int(text)):
        raise SettingsError([f"WEB_CONCURRENCY={text!r}: " + _("must be a number of workers, at least 1")])


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        reason = _("{command} cannot be run: {error}", command=command[0], error=error.strerror)
        sys.exit(f"chatapi: {reason}")


def start(settings: Settings) -> dict[str, str]:
    """Start the engine and wait until it answers; the environment of a gateway that asks it. Raises EngineError."""
    files = find_weights(settings)
    path, name = files[0], model_id(settings.embedded_model)
    size = sum(file.stat().st_size for file in files) / 1e6
    _say(_("loading {model} ({size:.0f} MB) …", model=name, size=size))
    began = time.monotonic()
    port = _free_port()
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)  # by gunicorn and its workers: the engine lives while one of them holds it
    keeper = subprocess.Popen(
        [*_OURSELVES, "--keep", str(port), str(path), name],
        stdin=read_end,
        env=process_environment(**ENVIRONMENT),
        start_new_session=True,  # Ctrl-C is for the gateway, which then finishes what it has begun
    )
    os.close(read_end)
    if not _await_ready(keeper, port, shows_wait=True):
        text = _("the embedded engine did not start with {path}; what it said last stands above", path=path)
        raise EngineError(text)
    again = "\r" if sys.stdout.isatty() else ""
    _say(_("the model is ready after {seconds:.1f} s", seconds=time.monotonic() - began), again)
    if not settings.embedded_model:
        models = ", ".join(f"{repo} ({size})" for repo, size in MULTILINGUAL)
        _say(_("it speaks English only; for Portuguese too: make run MODEL=… with {models}", models=models))
    tools = "yes" if _takes_tools(port) else ""
    return process_environment(**{EMBEDDED_URL: f"http://127.0.0.1:{port}", EMBEDDED_TOOLS: tools})


def _say(text: str, before: str = "") -> None:
    print(f"{before}chatapi: {text}", flush=True)


_OURSELVES = [sys.executable, "-m", "chatapi.embedded"]


def keep(port: int, path: str, name: str) -> NoReturn:
    """Run an engine until stdin ends, a new one whenever one ends; but not if the first never became ready."""
    _end_with_the_gateway()
    command = [*_OURSELVES, "--serve", str(port), path, name]
    engine = subprocess.Popen(command)
    if not _await_ready(engine, port):
        engine.kill()
        sys.exit(1)
    while True:
        status = engine.wait()
        text = _("the embedded engine ended (status {status}); starting it again", status=status)
        print(f"chatapi: {text}", file=sys.stderr, flush=True)
        time.sleep(RESTART_S)
        engine = subprocess.Popen(command)


def serve(port: int, path: str, name: str) -> NoReturn:
    """Serve the GGUF file at `path` as the model `name` on 127.0.0.1:`port` until stdin ends."""
    _end_with_the_gateway()
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    # With one thread less 8 callers wait 8 s on two cores instead of 4.8 s, though 10 s instead of 14 s beside a busy
    # process.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    params.cache_ram_mib = 0  # finished prompts are not kept: several hundred MB for little
    params.cors_origins = ""  # else any web page could talk to it past the gateway
    # A prompt that another caller's begins with would be read faster, and `cached_tokens` would count what they share.
    params.cache_prompt = False
    params.endpoint_slots = False  # it would show one caller's prompt to another
    params.ui = False
    params.use_jinja = True  # the model's own chat template, with its place for tools
    params.n_predict = MAX_TOKENS
    if name == MODEL_ID:  # any other GGUF may bring its own
        params.sampling.temp, params.sampling.top_p = TEMPERATURE, TOP_P
        params.sampling.penalty_repeat = REPEAT_PENALTY
    params.fit_params = False  # to a GPU that is not there
    params.verbosity = 1  # errors
    try:
        server = xllamacpp.Server(params)
    except Exception as error:  # the runtime documents no narrower one
        reason = _("{path} cannot be served: {error}", path=path, error=error)
        sys.exit(f"chatapi: {reason}")
    while server:  # it serves from threads of its own, as long as somebody holds it
        signal.pause()
    sys.exit()


def _end_with_the_gateway() -> None:
    # Nobody but the gateway says when: a SIGTERM to the whole group (systemd) or terminal would cut its last answers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_await_end, daemon=True).start()


def _await_end() -> None:
    os.read(0, 1)  # nothing is ever written: it returns when the last process of the gateway is gone
    os._exit(0)  # at once: nobody is left to be answered


def _await_ready(process: subprocess.Popen[bytes], port: int, shows_wait: bool = False) -> bool:
    """Whether the engine answers at last, or False when `process` ended before (or after LOAD_S)."""
    began, shown_s = time.monotonic(), 0
    while process.poll() is None and (waited_s := int(time.monotonic() - began)) < LOAD_S:
        if is_healthy(port):
            return True
        if shows_wait and waited_s > shown_s:
            _show_wait(waited_s)
            shown_s = waited_s
        time.sleep(0.05)
    return False


def _takes_tools(port: int) -> bool:
    """Whether the model's chat template has a place for tools, as llama.cpp finds it out."""
    with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/props", timeout=10) as answer:
        return bool(json.load(answer).get("chat_template_caps", {}).get("supports_tools"))


def _show_wait(waited_s: int) -> None:
    """That a large model is still being loaded: on one line of a terminal, seldom in a log."""
    if sys.stdout.isatty():
        print(f"\rchatapi: … {waited_s} s ", end="", flush=True)
    elif waited_s % 10 == 0:
        _say(_("still loading after {seconds} s", seconds=waited_s))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    main(sys.argv[1:])
