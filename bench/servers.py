"""Start what is measured: the gateway as shipped, a bare Flask hello, nginx, LiteLLM, Portkey, and their upstream.

Whatever is measured runs on SERVER_CORE, all else on LOAD_CORE. Every server has a folder of its own, removed at the
end; nothing of the developer's settings comes in.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from upstream import CANNED_REPLY, canned_stream

ROOT = Path(__file__).resolve().parent.parent
SERVER_CORE, LOAD_CORE = 0, 1
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
    headers: dict[str, str] = field(default_factory=dict)
    ready_s: float = 0.0  # from its start to its first answer
    log: Path = Path(os.devnull)

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
    name: str, command: list[str], port: int, core: int, env: Mapping[str, str], **given: Any
) -> Iterator[Server]:
    """`command` in a new folder, its output in a file there, once it accepts connections on `port`."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
        log = Path(folder, "log")
        own = {"cwd": folder, "env": {**env, "HOME": folder}, "stderr": subprocess.STDOUT, "start_new_session": True}
        with log.open("wb") as out:
            process = subprocess.Popen(pinned(core, *command), stdout=out, **own)
        server = Server(name, port, process, log=log, **given)
        try:
            await_port(server)
            yield server
        finally:
            stop(process)


def await_port(server: Server) -> None:
    """Until it accepts connections. Raises RuntimeError with the end of its log."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1):
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

    def catalogue(self) -> str:
        """TOML: the models that stream; any other id has the canned reply."""
        urls = {"bench/stream": f"{self.canned}/stream", "bench/paced": str(self.paced)}
        return "".join(
            f'[models."{id}"]\ntask = "chat-completion"\nurl = "http://127.0.0.1:{where}"\n'
            for id, where in urls.items()
        )

    def url(self, model: str) -> str:
        """Where `model` is asked, without the route."""
        where = {"bench/stream": f"{self.canned}/stream", "bench/paced": str(self.paced)}
        return f"http://127.0.0.1:{where.get(model, self.canned)}"


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


@contextlib.contextmanager
def nginx(name: str, http: str, port: int, core: int, **given: Any) -> Iterator[Server]:
    """nginx with one worker and this inside its `http` block."""
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as folder:
        user = "user root;\n" if os.geteuid() == 0 else ""
        Path(folder, "nginx.conf").write_text(NGINX.format(user=user, http=http))
        path = os.environ["PATH"] + ":/usr/sbin"
        command = ["nginx", "-p", folder, "-c", "nginx.conf", "-g", "daemon off;"]
        with running(name, command, port, core, environment(PATH=path), **given) as server:
            yield server


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
def gateway(up: Upstream, **env: str) -> Iterator[Server]:
    """The gateway as shipped with one worker, and a key whose limits are counted but never reached."""
    with tempfile.TemporaryDirectory(prefix="bench-books-") as folder:
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
        command = [*gunicorn(port), "wsgi:app"]
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
def hello() -> Iterator[Server]:
    """A bare Flask view under the same gunicorn and configuration, with gunicorn's own gevent worker."""
    with tempfile.TemporaryDirectory(prefix="bench-hello-") as folder:
        Path(folder, "hello.py").write_text(HELLO)
        port = free_port()
        env = environment(PYTHONPATH=f"{folder}:{ROOT}")
        command = [*gunicorn(port), "-k", "gevent", "hello:app"]
        with running("hello", command, port, SERVER_CORE, env, headers={"Authorization": "Bearer key"}) as server:
            yield server
