"""Start what is measured: the gateway as shipped, a bare Flask hello, nginx, LiteLLM, Portkey, and their upstream.

Whatever is measured runs on SERVER_CORE, all else on LOAD_CORE. Every server has a folder of its own, removed at the
end; nothing of the developer's settings comes in.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil
from upstream import CANNED_REPLY, canned_stream

ROOT = Path(__file__).resolve().parent.parent
SERVER_CORE, LOAD_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
EVENTS = 102  # of the canned stream
PACE_S = 0.05
READY_WITHIN_S = 90  # LiteLLM loads for half a minute on a busy core
PATH = "/v1/chat/completions"
ENDLESS = ["--rpm", "1000000000", "--tpm", "1000000000000", "--concurrency", "1000000"]  # counted, never reached

HELLO = """
from flask import Flask
app = Flask("hello")
@app.post("/v1/chat/completions")
def hello():
    return {"hello": "world"}
"""


@dataclass
class Server:
    """A running server: where it listens, what it wants to be told, and what it has used."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    headers: dict[str, str]
    log: Path
    started_at: float  # time.monotonic() before its process was made

    def headers_for(self, model: str) -> dict[str, str]:
        """The headers of a call to `model`."""
        return dict(self.headers)

    def family(self) -> list[psutil.Process]:
        """Its processes."""
        master = psutil.Process(self.process.pid)
        return [master, *master.children(recursive=True)]

    def worker(self) -> psutil.Process:
        """The process that answers: gunicorn's only worker, or the server itself where it has none."""
        return self.family()[-1]

    def cpu_us(self) -> float:
        """CPU that its processes have used so far (user and system), by the scheduler's statistics."""
        return sum(_cpu_ns(process.pid) for process in self.family()) / 1000

    def rss_mb(self) -> float:
        """Resident memory of the process that answers."""
        return self.worker().memory_info().rss / 1e6


def _cpu_ns(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def pinned(core: int, *command: str) -> list[str]:
    """`command` on one core."""
    return ["taskset", "-c", str(core), *command]


def find_program(program: str) -> str | None:
    """Where it is; Debian has some where only root looks."""
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """What any process needs, and `more`."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "LC_ALL": "C.UTF-8", **more}


@contextlib.contextmanager
def running(
    name: str,
    command: list[str],
    port: int,
    core: int,
    env: Mapping[str, str],
    *,
    headers: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    kind: type[Server] | None = None,
) -> Iterator[Server]:
    """`command` in a new folder with these `files`, once it answers on `port`; its output is in `log`."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as folder:
        for file, text in (files or {}).items():
            Path(folder, file).write_text(text)
        log = Path(folder, "log")
        started_at = time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                pinned(core, *command),
                cwd=folder,
                env={**env, "HOME": folder},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = (kind or Server)(name, port, process, dict(headers or {}), log, started_at)
        try:
            await_answer(server)
            yield server
        finally:
            stop(process)


def await_answer(server: Server) -> None:
    """Until it answers, whatever it says. Raises RuntimeError with the end of its log."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and server.process.poll() is None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=READY_WITHIN_S)
        with contextlib.suppress(OSError, HTTPException), contextlib.closing(connection):
            connection.request("GET", "/healthz")
            connection.getresponse()
            return
        time.sleep(0.01)
    raise RuntimeError(f"{server.name} does not start:\n{server.log.read_text(errors='replace')[-3000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- the upstream


@dataclass(frozen=True)
class Upstream:
    """Ports of the canned one (nginx) and of the paced one (upstream.py)."""

    canned: int
    paced: int
    tls: int | None = None  # the paced one behind TLS

    def streaming(self) -> dict[str, str]:
        """Model → base URL, of the models that stream; any other id has the canned reply."""
        found = {
            "bench/stream": f"http://127.0.0.1:{self.canned}/stream",
            "bench/paced": f"http://127.0.0.1:{self.paced}",
        }
        return found | ({"bench/tls": f"https://127.0.0.1:{self.tls}"} if self.tls else {})

    def catalogue(self) -> str:
        """The gateway's catalogue, TOML."""
        entry = '[models."{}"]\ntask = "chat-completion"\nurl = "{}"\n'
        return "".join(entry.format(*item) for item in self.streaming().items())

    def url(self, model: str) -> str:
        """Where `model` is asked, without the route."""
        return self.streaming().get(model, f"http://127.0.0.1:{self.canned}")


NGINX = """
{user}worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_timeout 300;
  keepalive_requests 1000000000;
  client_max_body_size 32m;
  client_body_buffer_size 1m;
  client_body_temp_path body;
  proxy_temp_path proxied;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  {http}
}}
"""
# A file answers only GET: the error that a POST gets leads to it. sub_filter, which finds nothing, makes it chunked.
CANNED = """
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /stream {{ error_page 405 =200 /canned.sse; return 405; }}
    location = /canned.sse {{
      root {folder};
      types {{ text/event-stream sse; }}
      sub_filter_types text/event-stream;
      sub_filter "never found" "";
    }}
    location / {{ default_type application/json; return 200 '{reply}'; }}
  }}
"""


def nginx(
    name: str, http: str, port: int, core: int, kind: type[Server] | None = None
) -> contextlib.AbstractContextManager[Server]:
    """nginx with one worker and this inside its `http` block."""
    user = "user root;\n" if os.geteuid() == 0 else ""
    command = ["nginx", "-p", ".", "-c", "nginx.conf", "-g", "daemon off;"]
    env = environment(PATH=os.environ["PATH"] + ":/usr/sbin")
    return running(name, command, port, core, env, files={"nginx.conf": NGINX.format(user=user, http=http)}, kind=kind)


@contextlib.contextmanager
def upstream() -> Iterator[Upstream]:
    """Both model servers, on the load's core."""
    found = Upstream(free_port(), free_port())
    with tempfile.TemporaryDirectory(prefix="bench-canned-") as folder, contextlib.ExitStack() as stack:
        Path(folder, "canned.sse").write_bytes(canned_stream(EVENTS))
        canned = CANNED.format(port=found.canned, folder=folder, reply=json.dumps(CANNED_REPLY, separators=(",", ":")))
        stack.enter_context(nginx("canned", canned, found.canned, LOAD_CORE))
        paced = [sys.executable, str(ROOT / "bench/upstream.py"), str(found.paced), str(PACE_S)]
        stack.enter_context(running("paced", paced, found.paced, LOAD_CORE, environment()))
        yield found


# --- what is measured


@contextlib.contextmanager
def gateway(up: Upstream, *options: str, **env: str) -> Iterator[Server]:
    """The gateway as shipped with one worker and these `options` of gunicorn's and settings, and a key whose limits are
    counted but never reached."""
    with tempfile.TemporaryDirectory(prefix="bench-ledger-") as folder:
        catalogue = Path(folder, "catalogue.toml")
        catalogue.write_text(up.catalogue())
        settings = {
            "HUGGINGFACE_BASE_URL": f"http://127.0.0.1:{up.canned}",
            "CHATAPI_CATALOGUE": str(catalogue),
            "CHATAPI_AUTH": "required",
            "DATABASE_URL": f"sqlite:///{folder}/chatapi.db",
            "PYTHONPATH": str(ROOT),
            **env,
        }
        key = create_key(settings)
        port = free_port()
        command = [*gunicorn(port), *options, "wsgi:app"]
        headers = {"Authorization": f"Bearer {key}"}
        with running("gateway", command, port, SERVER_CORE, environment(**settings), headers=headers) as server:
            yield server


def gunicorn(port: int) -> list[str]:
    """gunicorn with the shipped configuration and one worker."""
    config = str(ROOT / "gunicorn.conf.py")
    return [sys.executable, "-m", "gunicorn", "-c", config, "-w", "1", "-b", f"127.0.0.1:{port}"]


def create_key(settings: Mapping[str, str]) -> str:
    """A new key in the database that `settings` name."""
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "keys", "create", "--name", "bench", *ENDLESS, "--json"]
    env = environment(HOME="/nonexistent", **settings)
    made = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"no key can be made:\n{made.stderr}")
    return str(json.loads(made.stdout)["key"])


@contextlib.contextmanager
def hello(up: Upstream | None = None) -> Iterator[Server]:
    """A bare Flask view under the same gunicorn, with its own gevent worker; it asks no upstream."""
    with tempfile.TemporaryDirectory(prefix="bench-hello-") as folder:
        Path(folder, "hello.py").write_text(HELLO)
        port = free_port()
        env = environment(PYTHONPATH=f"{folder}:{ROOT}")
        command = [*gunicorn(port), "-k", "gevent", "hello:app"]
        with running("hello", command, port, SERVER_CORE, env, headers={"Authorization": "Bearer key"}) as server:
            yield server
