"""Real PostgreSQL, Redis and nginx: each on a free port of this machine, its files in a directory of its own.

    with postgres() as database, redis() as store, nginx(text, ports=[port]) as front:
        create_engine(database.url); store.stop(); store.start()

A program that is not installed skips the test, and fails it where CI=true. A server ends with its test, also when
pytest is killed; start it from a thread that lives as long as it shall.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support.gateways import LOG_TAIL, free_port

READY_WITHIN_S, STOPPED_WITHIN_S = 30, 15
# Debian keeps PostgreSQL's servers, and a user's PATH often the system's, out of sight.
ELSEWHERE = [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True), "/usr/local/sbin", "/usr/sbin"]


def needs(program: str) -> str:
    """Its path. Where it is missing the test is skipped, and fails in CI, which must not skip it unseen."""
    found = shutil.which(program) or shutil.which(program, path=os.pathsep.join(ELSEWHERE))
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{program} is not installed", pytrace=False)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@dataclass
class Server:
    """A process that can be stopped and started again."""

    command: Sequence[str]
    directory: Path
    is_ready: Callable[[], bool]
    user: str | None = None  # who runs it, when we are root
    dies_by: signal.Signals = signal.SIGTERM  # what it gets when pytest is gone
    stops_by: signal.Signals = signal.SIGTERM
    url: str = ""  # of a database
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*orphan_dies(self.dies_by, self.user), *self.command],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"{self.command[0]} is not ready; its log:\n{self.log_text()[-LOG_TAIL:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it; may be called again."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(self.stops_by)
        try:
            self.process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    @contextmanager
    def running(self) -> Iterator[Server]:
        try:
            self.start()
            yield self
        finally:
            self.stop()


def orphan_dies(by: signal.Signals, user: str | None = None) -> list[str]:
    """What stands before a command so that it ends with us; as another user, if we are root."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:  # not Linux
        return []
    as_user = ["--reuid", user, "--regid", user, "--clear-groups"] if user and os.geteuid() == 0 else []
    return [setpriv, *as_user, "--pdeathsig", by.name.removeprefix("SIG"), "--"]


@contextmanager
def directory(name: str) -> Iterator[Path]:
    # A server that was killed may still be writing its last files.
    with TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True) as path:
        yield Path(path)


# ---------------------------------------------------------------- PostgreSQL


@contextmanager
def postgres() -> Iterator[Server]:
    """A PostgreSQL that is empty at first, whose user may do everything."""
    initdb, server, isready = needs("initdb"), needs("postgres"), needs("pg_isready")
    port = free_port()
    with directory("postgres") as home:
        user = unprivileged_owner(home)
        data = home / "data"
        options = ["-U", "chatapi", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        command = [*orphan_dies(signal.SIGTERM, user), initdb, "-D", str(data), *options]
        made = subprocess.run(command, cwd=home, capture_output=True, check=False)
        assert made.returncode == 0, made.stderr.decode(errors="replace")
        command = [server, "-D", str(data), "-p", str(port), "-k", str(home), "-h", "127.0.0.1"]
        url = f"postgresql+psycopg://chatapi@127.0.0.1:{port}/postgres"
        # SIGINT ends open connections; it does not wait for them.
        server = Server(command, home, lambda: answers(isready, port), user, signal.SIGQUIT, signal.SIGINT, url)
        with server.running():
            yield server


def unprivileged_owner(home: Path) -> str | None:
    """PostgreSQL refuses to run as root: the user whom `home` was given to."""
    if os.geteuid() != 0:
        return None
    for user in ("postgres", "nobody"):
        with suppress(LookupError):
            shutil.chown(home, user)
            return user
    raise AssertionError("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def answers(isready: str, port: int) -> bool:
    asked = subprocess.run([isready, "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "chatapi"], check=False)
    return asked.returncode == 0


# ---------------------------------------------------------------- Redis


@contextmanager
def redis() -> Iterator[Server]:
    """A Redis that writes nothing to disk: stopped and started it is empty again, at the same address."""
    program, port = needs("redis-server"), free_port()
    with directory("redis") as home:
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        server = Server(command, home, lambda: pongs(port), dies_by=signal.SIGKILL, url=f"redis://127.0.0.1:{port}/0")
        with server.running():
            yield server


def pongs(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(16).startswith(b"+PONG")
    except OSError:
        return False


# ---------------------------------------------------------------- nginx


@contextmanager
def nginx(config: str, ports: Sequence[int] = ()) -> Iterator[Server]:
    """nginx with this whole configuration, listening at `ports`. Who runs it and where it writes is changed."""
    with nginx_at_home(config) as (home, command):
        server = Server([*command, "-g", "daemon off;"], home, lambda: all(map(listens, ports)))
        with server.running():
            yield server


def nginx_check(config: str) -> subprocess.CompletedProcess[str]:
    """`nginx -t` of it: how it ended, and what was said."""
    with nginx_at_home(config) as (_, command):
        return subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)


@contextmanager
def nginx_at_home(config: str) -> Iterator[tuple[Path, list[str]]]:
    """A directory, and nginx's command with the configuration, run by the user we are, with all its files there."""
    program = needs("nginx")
    with directory("nginx") as home:
        text = re.sub(r"(?m)^(user|pid)\s.*$", "", config)
        parts = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        writes = "".join(f"{name}_temp_path {home}/{name};\n" for name in parts)
        user = "user root;\n" if os.geteuid() == 0 else ""  # it must reach sockets in our own directories
        text = f"{user}pid {home}/pid;\n" + re.sub(r"(?m)^http\s*\{", f"http {{\n{writes}", text, count=1)
        (home / "nginx.conf").write_text(text)
        yield home, [program, "-e", "stderr", "-p", str(home), "-c", str(home / "nginx.conf")]


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
