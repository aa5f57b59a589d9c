"""Rolling restarts behind nginx, under load: nobody's call is lost. Fifty streams stay open while short calls go on."""

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import sys
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest
from support.callers import Caller, body_of, endless, take_apart
from support.dialects import NEW, V1, asking
from support.fronts import front, socket_path
from support.gateways import CONFIG, LOG_TAIL, free_port, serve, started
from support.heard import all_at_once, hear, wait_until
from support.servers import needs
from support.upstream import TEXT, say

STREAMS = 50
LONG = 100  # pieces, ten a second: longer than a gateway takes to start
MOST_WAITING = 1000  # a slow machine may not fill the socket's backlog: nginx answers 502 to those who find it full
END_OF_STREAM = b"data: [DONE]\n\n\r\n0\r\n\r\n"
PATIENCE_S = 60


@pytest.fixture(scope="module")
def env(gateway_env):
    limits = {"CHATAPI_AUTH": "off", "CHATAPI_MAX_TIME": "60", "CHATAPI_IDLE_TIMEOUT": "30"}
    return {**gateway_env, **limits}


@pytest.fixture(autouse=True)
def models(upstream):
    needs("nginx")
    upstream.behave("drain/short", "ok")
    upstream.behave("drain/stream", lambda x: say(x, ["tok "] * 20, pause=0.1))
    upstream.behave("drain/long", lambda x: say(x, ["tok "] * LONG, pause=0.1))
    upstream.behave("drain/endless", endless)


# ---------------------------------------------------------------- the load


@dataclass
class Load:
    """Calls at a steady pace until told to end, each on a connection of its own. `lost` tells what came instead."""

    port: int
    a_second: int
    ended: bool = False
    waiting: int = 0
    answered: int = 0
    streamed: int = 0
    slowest_s: float = 0.0
    lost: list[bytes] = field(default_factory=list)

    async def run(self, meanwhile):
        """The calls, for as long as `meanwhile()` takes (on a thread of its own) and a second before and after."""
        streams = [asyncio.create_task(self._streams(n / STREAMS)) for n in range(STREAMS)]
        shorts = asyncio.create_task(self._shorts())
        await asyncio.sleep(1.5)
        try:
            await asyncio.to_thread(meanwhile)
            await asyncio.sleep(1)
        finally:
            self.ended = True
            await asyncio.gather(shorts, *streams)

    async def _streams(self, delay_s):
        await asyncio.sleep(delay_s)  # not all in step
        while not self.ended:
            answer = await self._call("drain/stream", stream=True)
            self._count("streamed", answer, answer.endswith(END_OF_STREAM) and answer.count(b'"tok ') == 20)

    async def _shorts(self):
        async with asyncio.TaskGroup() as calls:
            due = time.monotonic()
            while not self.ended:
                if self.waiting < MOST_WAITING:
                    calls.create_task(self._short())
                due += 1 / self.a_second
                await asyncio.sleep(max(0, due - time.monotonic()))

    async def _short(self):
        asked_at = time.monotonic()
        self.waiting += 1
        answer = await self._call("drain/short", stream=False)
        self.waiting -= 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - asked_at)
        self._count("answered", answer, json.dumps(TEXT).encode() in answer and answer.endswith(b"}"))

    def _count(self, kind, answer, whole):
        if whole and answer.startswith(b"HTTP/1.1 200 "):
            setattr(self, kind, getattr(self, kind) + 1)
        else:
            self.lost.append(answer[-400:])

    async def _call(self, model, stream):
        body = json.dumps(asking(NEW, model, stream=stream)).encode()
        head = f"POST {NEW} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                answer = await reader.read()
                writer.close()
                return answer
        except (OSError, TimeoutError) as error:
            return repr(error).encode()


def under_load(port, a_second, meanwhile):
    """Nothing may be lost while `meanwhile()` runs; how much that was is printed (`pytest -s`)."""
    load, began = Load(port, a_second), time.monotonic()
    asyncio.run(load.run(meanwhile))
    print(
        f"\n{load.answered} short calls and {load.streamed} streams in {time.monotonic() - began:.1f} s, "
        f"{len(load.lost)} lost; the slowest short call took {load.slowest_s:.2f} s"
    )
    assert load.lost == []
    assert load.streamed >= STREAMS
    assert load.answered > STREAMS


# ---------------------------------------------------------------- reload, and stop and start


def test_reloads_lose_no_call(env):
    """Twice: the second time the workers are replaced that a first reload has made."""

    def reload():
        for _ in range(2):
            old = gateway.workers()
            gateway.process.send_signal(signal.SIGHUP)
            assert wait_until(lambda old=old: not set(gateway.workers()) & set(old), PATIENCE_S)

    with socket_path() as path, serve(env, "-w", "2", "-b", f"unix:{path}") as gateway, front(path) as nginx:
        under_load(nginx.port, 120, reload)
        assert "Traceback" not in gateway.log_text()


# systemd's way to hand over a socket: it is number 3, and the process that shall have it is named.
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *sys.argv[2:]])
"""


@contextmanager
def socket_unit():
    """A listening Unix socket that outlives who answers on it: (its path, the socket)."""
    with socket_path() as path, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(2048)
        yield path, listening


def service(env, listening, port, *gunicorn_args):
    """gunicorn on this socket; ready when nginx, which listens at `port`, reaches it."""
    command = [sys.executable, "-c", AS_SYSTEMD, str(listening.fileno()), "-c", str(CONFIG), *gunicorn_args, "wsgi:app"]
    return started(command, port, env, pass_fds=[listening.fileno()])


def test_a_stop_and_a_start_on_the_same_socket_lose_no_call(env):
    """Those who come in between wait in the socket."""
    with socket_unit() as (path, listening), front(path) as nginx:
        new = service(env, listening, nginx.port, "-w", "2")

        def restart():
            old.process.send_signal(signal.SIGTERM)
            assert old.process.wait(PATIENCE_S) == 0
            new.__enter__()

        with service(env, listening, nginx.port, "-w", "2") as old:
            try:
                under_load(nginx.port, 60, restart)
                assert "Traceback" not in old.log_text()
            finally:
                with suppress(RuntimeError):  # it was never entered
                    new.__exit__(None, None, None)


def test_a_restarted_service_answers_new_callers_while_old_streams_go_on(env):
    """systemd starts the next gateway when the last one's master has ended; its workers still have their calls."""
    with socket_unit() as (path, listening), front(path) as nginx, service(env, listening, nginx.port) as old:
        workers = old.workers()
        with Caller(nginx, V1, "drain/long") as caller:
            caller.read_until(b"tok ")
            began = time.monotonic()
            old.process.send_signal(signal.SIGTERM)
            assert old.process.wait(5) == 0
            with service(env, listening, nginx.port):
                assert hear(nginx, NEW, "drain/short").status == 200
                assert time.monotonic() - began < 6, "a new caller has waited for the old stream's end"
                assert b"[DONE]" not in caller.received
                caller.sock.settimeout(PATIENCE_S)
                caller.rest(END_OF_STREAM)
            assert caller.received.count(b'"tok ') == LONG
        assert wait_until(lambda: not any(map(psutil.pid_exists, workers)), PATIENCE_S)
        assert "Traceback" not in old.log_text()


# ---------------------------------------------------------------- a slip before a reload

SLIPS = {
    "a setting": (".env", "CHATAPI_LOG_LEVEL=loud", "CHATAPI_LOG_LEVEL"),
    "the catalogue": ("catalogue.toml", '[models."a/b"]\ntask = "no-such-task"', "task must be one of"),
    "the schema": ("schema", "999", "schema 999"),
    "gunicorn's own": ("gunicorn.conf.py", "workers = one", "one"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_before_a_reload_is_told_and_changes_nothing(env, tmp_path, slip):
    name, text, told = SLIPS[slip]
    database = tmp_path / "chatapi.db"
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG.read_text())
    (tmp_path / "catalogue.toml").write_text(Path(env["CHATAPI_CATALOGUE"]).read_text())
    own = {"CHATAPI_CATALOGUE": str(tmp_path / "catalogue.toml"), "DATABASE_URL": f"sqlite:///{database}"}
    with serve({**env, **own}, "-c", str(tmp_path / "gunicorn.conf.py")) as gateway:
        old = gateway.workers()
        place = gateway.log.parent / "cwd" / name if name == ".env" else tmp_path / name
        before = set_schema(database, text) if name == "schema" else place.exists() and place.read_text()
        if name != "schema":
            place.write_text(text)
        gateway.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: "nothing is reloaded" in gateway.log_text(), PATIENCE_S)
        assert told in gateway.log_text().split("nothing is reloaded")[1]
        assert gateway.workers() == old
        assert hear(gateway, NEW, "drain/short").status == 200

        if name == "schema":
            set_schema(database, before)
        else:
            place.write_text(before or "")
        gateway.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: gateway.workers() and not set(gateway.workers()) & set(old), PATIENCE_S)
        assert hear(gateway, NEW, "drain/short").status == 200


def set_schema(database, version):
    """Say that the database has this version; what it had."""
    with closing(sqlite3.connect(database)) as connection, connection:
        [(before,)] = connection.execute("SELECT value FROM meta WHERE name = 'schema'")
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (version,))
    return before


def test_two_hosts_restarted_one_right_after_the_other_lose_no_call(env):
    """nginx still believes that the first is away when the second goes."""
    hosts = [free_port(), free_port()]
    with ExitStack() as running, front("unused", hosts) as nginx:

        def start(host):
            return running.enter_context(serve(env, "-w", "2", "-b", f"127.0.0.1:{host}"))

        def restart():
            for place, host in enumerate(hosts):
                gateways[place].process.send_signal(signal.SIGTERM)
                assert gateways[place].process.wait(PATIENCE_S) == 0
                gateways[place] = start(host)

        gateways = [start(host) for host in hosts]
        try:
            under_load(nginx.port, 60, restart)
        except AssertionError:
            print(nginx.log_text()[-LOG_TAIL:])
            raise


def answered_on(connection):
    """A short call on a connection that is kept: the answer's `Connection` header."""
    connection.request("POST", NEW, json.dumps(asking(NEW, "drain/short")), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["data"]["response"]) == (200, TEXT)
    return answer.headers["Connection"]


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP], ids=["stop", "reload"])
@pytest.mark.parametrize("kept_by", ["drain/short", "drain/stream"])
def test_a_request_that_meets_the_end_on_a_kept_connection_is_answered(env, told, kept_by):
    """Its answer promised to keep the connection. A proxy that believed it has nowhere else to send a POST."""
    with serve(env) as gateway, closing(HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_S)) as connection:
        body = json.dumps(asking(NEW, kept_by, stream=kept_by == "drain/stream"))
        connection.request("POST", NEW, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.headers["Connection"] == "keep-alive"
        if kept_by == "drain/short":
            answer.read()
        booted = gateway.log_text().count("Booting worker")
        gateway.process.send_signal(told)
        if told == signal.SIGTERM:
            assert wait_until(lambda: "Handling signal: term" in gateway.log_text())
        else:
            assert wait_until(lambda: gateway.log_text().count("Booting worker") > booted, PATIENCE_S)
        time.sleep(0.3)  # the worker has it from the master
        assert b"[DONE]" in answer.read() or kept_by == "drain/short"
        assert answered_on(connection) == "close"


@pytest.mark.parametrize("after_s", [0.1, 0.3, 0.5])
def test_a_worker_told_to_stop_while_it_boots_does_not_end_the_gateway(env, after_s):
    with serve(env) as gateway:
        old = gateway.workers()
        gateway.process.send_signal(signal.SIGHUP)
        young = wait_until(lambda: re.findall(r"Booting worker with pid: (\d+)", gateway.log_text())[len(old) :])
        time.sleep(after_s)
        os.kill(int(young[0]), signal.SIGTERM)  # gunicorn itself may not hear it so early
        assert wait_until(lambda: not set(old) & set(gateway.workers()), PATIENCE_S)
        assert hear(gateway, NEW, "drain/short").status == 200
        assert "failed to boot" not in gateway.log_text()


# ---------------------------------------------------------------- what cannot be saved is told


def test_a_killed_worker_takes_only_its_own_calls_with_it(env):
    with socket_path() as path, serve(env, "-w", "2", "-b", f"unix:{path}") as gateway, front(path) as nginx:
        victim, other = gateway.workers()
        cut, kept = streams_at(victim, other, nginx), streams_at(other, victim, nginx)
        os.kill(victim, signal.SIGKILL)
        received = all_at_once(to_the_end, [*cut, *kept])
        for caller in kept:
            assert take_apart(body_of(received[caller])[1]).done
        for caller in cut:
            assert b"[DONE]" not in received[caller]
            assert not received[caller].endswith(b"\r\n0\r\n\r\n"), "nothing may look like an end"
            assert received[caller].count(b"HTTP/1.1 ") == 1
        assert wait_until(lambda: len(gateway.workers()) == 2 and victim not in gateway.workers(), PATIENCE_S)
        assert other in gateway.workers()
        for _ in range(20):
            assert hear(nginx, V1, "drain/short").status == 200


def streams_at(worker, other, nginx):
    """Five callers amid their streams at this worker: the other sleeps while they come."""
    os.kill(other, signal.SIGSTOP)
    try:
        callers = [Caller(nginx, V1, "drain/stream") for _ in range(5)]
        for caller in callers:
            caller.read_until(b"tok ")
    finally:
        os.kill(other, signal.SIGCONT)
    return callers


def to_the_end(caller):
    """What came until the answer's end, or until it was cut."""
    with caller:
        return caller.rest(END_OF_STREAM)
