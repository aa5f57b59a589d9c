"""The app as production runs it: `serve` starts real gunicorn, on a free port, with its own environment.

    with serve({"HUGGINGFACE_BASE_URL": up.url, "CHATAPI_HEARTBEAT": "0.2"}) as gateway:
        gateway.post("/api/chat/completions", {...})

Nothing of the developer's comes in: no setting, no proxy, no `.env`, no `.netrc`. `catalogue_for` writes the
overlay that puts the fault server's behaviours behind models of every kind.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import psutil
import requests

from support.upstream import BEHAVIOURS, CLASSIC_REPLIES, ERRORS, Upstream

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "gunicorn.conf.py"
TOKEN = "hf_test-token"  # for the upstream
KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")
READY_WITHIN_S, STOPPED_WITHIN_S = 20, 10
T = TypeVar("T")
LEGACY = "/api/huggingface-chat"
LEGACY_BODIES: list[Any] = []  # sent by `Gateway.post`, and not yet taken by support.legacy_bodies
LOG_TAIL = 6000  # characters of the log that a failing test shows


@dataclass
class Gateway:
    """A running gunicorn."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    certificate: Path | None = None  # where gunicorn itself speaks TLS

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def post(self, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        """POST `body` as JSON (or what `data` says), on a connection of its own."""
        if path == LEGACY and isinstance(body, dict):
            LEGACY_BODIES.append(body)
        if body is not None:
            kwargs["json"] = body
        return self.request("POST", path, **kwargs)

    def request(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False  # no .netrc, no proxy
            session.verify = str(self.certificate) if self.certificate else True
            return session.request(method, self.url + path, **{"timeout": 30, **kwargs})

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def workers(self) -> list[int]:
        """The process ids of the workers: the master's other children try a reload out, and end."""
        children = psutil.Process(self.process.pid).children()
        return sorted(child.pid for child in children if not _is_rehearsal(child))


def _is_rehearsal(process: psutil.Process) -> bool:
    try:
        return "chatapi.operations.master" in process.cmdline()
    except psutil.NoSuchProcess:
        return True


@contextmanager
def serve(env: Mapping[str, str], *gunicorn_args: str, certificate: Path | None = None) -> Iterator[Gateway]:
    """gunicorn with one worker and these settings, ready to answer; stopped at the end.

    `gunicorn_args` come last, so they win. Its working directory is new and empty: no `.env`.
    """
    tls = (
        []
        if certificate is None
        else ["--certfile", str(certificate), "--keyfile", str(certificate.with_name("key.pem"))]
    )
    port = free_port()
    with started([*gunicorn(port), *tls, *gunicorn_args, "wsgi:app"], port, env, certificate) as gateway:
        yield gateway


def gunicorn(port: int) -> list[str]:
    return [sys.executable, "-m", "gunicorn", "-c", str(CONFIG), "-w", "1", "-b", f"127.0.0.1:{port}"]


@contextmanager
def started(
    command: Sequence[str],
    port: int,
    env: Mapping[str, str],
    certificate: Path | None = None,
    within_s: float = READY_WITHIN_S,
    pass_fds: Sequence[int] = (),
) -> Iterator[Gateway]:
    """This command with these settings, once it answers at `port`; stopped at the end."""
    with TemporaryDirectory(prefix="gateway-") as scratch:
        log, empty = Path(scratch, "gunicorn.log"), Path(scratch, "cwd")
        empty.mkdir()
        environment = {**clean_environment(scratch), **env}
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=empty, env=environment, stdout=out, stderr=subprocess.STDOUT, pass_fds=pass_fds
            )
        gateway = Gateway(port, process, log, certificate)
        try:
            await_ready(gateway, within_s)
            yield gateway
        finally:
            stop(process)


def over(
    upstream: Upstream, folder: Path | None = None, entries: Iterable[str] = (), **settings: object
) -> dict[str, str]:
    """The settings of a gateway over this fault server: `HEARTBEAT=30` is CHATAPI_HEARTBEAT.

    With these entries in its catalogue, which is written into `folder`.
    """
    env = {"HUGGINGFACE_API_KEY": TOKEN, "HUGGINGFACE_BASE_URL": upstream.url}
    if folder:
        (folder / "catalogue.toml").write_text("\n".join(entries))
        env["CHATAPI_CATALOGUE"] = str(folder / "catalogue.toml")
    return env | {f"CHATAPI_{name}": str(value) for name, value in settings.items()}


def keyed(key: str) -> dict[str, str]:
    """The settings of a gateway that wants this key."""
    return {"CHATAPI_AUTH": "required", "CHATAPI_KEYS": hashlib.sha256(key.encode()).hexdigest()}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def clean_environment(home: str) -> dict[str, str]:
    """What any process needs, and the way to our code."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "HOME": home, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def ran(
    *command: str, folder: Path = ROOT, stderr: int = subprocess.PIPE, **env: str
) -> subprocess.CompletedProcess[str]:
    """How a command ended, and what it said: in this folder, which is its home too, with these settings."""
    environment, out = {**clean_environment(str(folder)), **env}, subprocess.PIPE
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=out, stderr=stderr, text=True, timeout=60, check=False
    )


def flask(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`flask --app wsgi …` as operators start it, in this folder, with these settings."""
    return ran(sys.executable, "-m", "flask", "--app", "wsgi", *words, folder=folder, **env)


def python(code: str, *arguments: str, folder: Path = ROOT, **env: Any) -> subprocess.CompletedProcess[str]:
    """This program in a process of its own."""
    return ran(sys.executable, "-c", code, *arguments, folder=folder, **env)


def await_ready(gateway: Gateway, within_s: float = READY_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and gateway.process.poll() is None:
        try:
            if gateway.request("GET", "/healthz", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.02)
    raise AssertionError(f"gunicorn is not ready; its log:\n{gateway.log_text()[-LOG_TAIL:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end at once; its workers go with it, also when it hangs."""
    if process.poll() is not None:
        return
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGINT)  # gunicorn's quick shutdown: streams are not waited for
    try:
        process.wait(STOPPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        for member in family:
            member.kill()
        process.wait()


def printed(app: Any, *words: str) -> str:
    """What a command that succeeds prints: this process's gateway may be writing the lines of calls meanwhile."""
    result = app.test_cli_runner().invoke(args=words)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return re.sub(r'^{"time": ?.*\n', "", result.stdout, flags=re.MULTILINE)


def side_by_side(function: Callable[..., T], cases: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], T]:
    """function(*case) of every case, all at once."""
    with ThreadPoolExecutor(max(1, len(cases))) as pool:
        return dict(zip(cases, pool.map(lambda case: function(*case), cases), strict=True))


# A gateway that gives up soon, for the matrices of faults.
MAX_TIME_S, IDLE_S = 5.0, 0.5
LIMITS = {
    "CHATAPI_MAX_TIME": f"{MAX_TIME_S:g}",
    "CHATAPI_IDLE_TIMEOUT": f"{IDLE_S:g}",
    "CHATAPI_FIRST_TOKEN_TIMEOUT": "0.4",
    "CHATAPI_REPLY_TIMEOUT": "0.6",
    "CHATAPI_HEARTBEAT": "30",  # the status waits for the first event, or the failure
}

EVERY_BEHAVIOUR = sorted(id.removeprefix("test/") for id in BEHAVIOURS)


def catalogue_for(url: str, directory: Path, behaviours: Iterable[str] = EVERY_BEHAVIOUR) -> Path:
    """A catalogue with the fault server at `url` behind every kind of model.

    `tgi/x` is a text model on its own server and `own/x` a chat model on one, both with behaviour `test/x`;
    `classic/x` are text models of hf-inference whose behaviour a test sets; `conversation/x` get all turns.
    """
    entries = []
    for name in behaviours:
        at = f'url = "{url}/at/test/{name}"'
        entries.append(entry(f"tgi/{name}", 'task = "text-generation"', at))
        entries.append(entry(f"own/{name}", 'task = "chat-completion"', at))
    for slug in ERRORS:
        entries.append(entry(f"classic/err-{slug}", 'task = "text-generation"'))
    for id in CLASSIC_REPLIES:
        entries.append(entry(f"test/{id}", 'task = "text-generation"'))
    for id, *lines in MODELS:
        entries.append(entry(id, *(line.format(url=url) for line in lines)))
    path = directory / "catalogue.toml"
    path.write_text("\n".join(entries))
    return path


def entry(id: str, *lines: str) -> str:
    return "\n".join([f'[models."{id}"]', *lines, ""])


GENERATION, TEXT2TEXT = 'task = "text-generation"', 'task = "text2text-generation"'
CONVERSATION = 'context = "conversation"'
MODELS = (
    ("classic/any", GENERATION),
    ("classic/t5", TEXT2TEXT),
    ("tgi/t5", TEXT2TEXT, 'url = "{url}/at/test/ok"'),
    ("conversation/DialoGPT-tiny", GENERATION, CONVERSATION),
    ("conversation/gpt-neo-125m", GENERATION, CONVERSATION, 'url = "{url}/at/test/ok"'),
    ("old/retired", 'serve_as = "test/ok"', "shutdown_date = 2026-06-30"),
    ("old/retired-text", 'serve_as = "tgi/ok"'),
    ("own/no-images", 'task = "chat-completion"', "images = false", 'url = "{url}/at/test/ok"'),
)
