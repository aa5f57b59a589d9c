"""Put load on one server and see what it does with it: whole answers by wrk, paced streams by streams.py."""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from servers import LOAD_CORE, PATH, ROOT, Server, environment, gateway, hello, pinned, upstream
from upstream import EVENTS_BESIDE_TOKENS

Measured = dict[str, float]
MESSAGES = [{"role": "user", "content": "What is Brazil? Answer in one sentence."}]
LUA = Path(__file__).with_name("load.lua")


class LoadError(RuntimeError):
    """A server did not answer as it must; what was measured would be worth nothing."""


def body(model: str, **fields: Any) -> dict[str, Any]:
    """The body of one call."""
    return {"model": model, "messages": MESSAGES, **fields}


def wrk(
    server: Server,
    call: dict[str, Any],
    clients: int,
    seconds: float,
    *,
    ends_with: str | None = None,
    keys: Sequence[str] = (),
    strict: bool = True,
) -> Measured:
    """POST `call` with so many clients for `seconds`.

    Returns calls, seconds, refused (status ≥ 400), broken, p50_ms, p99_ms, max_ms. Raises LoadError if any was refused,
    broken, or ended with anything but `ends_with`, unless not `strict`.
    """
    headers = server.headers_for(call["model"])
    authorization = headers.pop("Authorization", "Bearer key")
    config = {"body": json.dumps(call), "keys": list(keys) or [authorization], "headers": headers}
    config["ends_with"] = ends_with
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"local CONFIG = {lua(config)}\n{LUA.read_text()}")
        script.flush()
        url = f"http://127.0.0.1:{server.port}{PATH}"
        options = ["-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", script.name, url]
        found = run(pinned(LOAD_CORE, "wrk", *options))
    if found.returncode or not found.stderr.startswith("{"):
        raise LoadError(f"wrk: {found.stdout}{found.stderr}")
    measured: Measured = json.loads(found.stderr)
    if strict and (measured["refused"] or measured["broken"] or not measured["calls"]):
        raise LoadError(f"{server.name} did not answer all calls well: {measured}")
    return measured


def run(command: list[str], given: str = "") -> "subprocess.CompletedProcess[str]":
    """Run it to its end, with `given` as its input."""
    return subprocess.run(command, input=given, capture_output=True, text=True, env=environment(), check=False)


def lua(value: Any) -> str:
    """`value` as Lua writes it; texts are ASCII."""
    if value is None:
        return "nil"
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{lua(k)}] = {lua(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(lua, value)) + "}"
    return json.dumps(value)  # numbers, and texts: JSON's escapes of quotes, backslashes and newlines are Lua's too


def calls(server: Server, clients: int, seconds: float, **fields: Any) -> Measured:
    """Whole calls: calls, calls_per_s, cpu_us (of the server, per call), p50_ms, p99_ms."""
    before = server.cpu_us()
    found = wrk(server, body("bench/whole", **fields), clients, seconds)
    return _rates(found, server.cpu_us() - before)


def fast_streams(server: Server, clients: int, seconds: float) -> Measured:
    """Canned streams, as fast as they go: what `calls` returns, of a stream each."""
    call = body("bench/stream", stream=True)
    before = server.cpu_us()
    found = wrk(server, call, clients, seconds, ends_with="data: [DONE]\n\n")
    return _rates(found, server.cpu_us() - before)


def _rates(found: Measured, cpu_us: float) -> Measured:
    return {
        "calls": found["calls"],
        "calls_per_s": found["calls"] / found["seconds"],
        "cpu_us": cpu_us / found["calls"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "max_ms": found["max_ms"],
    }


def paced_streams(server: Server, count: int, tokens: int, model: str = "bench/paced") -> Measured:
    """So many streams of 20 tokens a second, opened at once.

    Returns lost, first_p50_s, first_p99_s, gap_p50_s, gap_p99_s, cpu_us (of the server, per event; what opening and
    ending cost is in it), cpu_us_stream (the same per stream), rss_mb (the most while they were open), load_core (how
    busy the load's core was, 0 to 1).
    """
    given = {
        "port": server.port,
        "path": PATH,
        "headers": server.headers_for(model),
        "body": body(model, stream=True, max_tokens=tokens),
        "count": count,
        "timeout_s": tokens / 20 * 3 + 60,
    }
    before, core_before = server.cpu_us(), core_ticks()
    command = pinned(LOAD_CORE, sys.executable, str(ROOT / "bench/streams.py"))
    with watch_memory(server) as memory:
        ran = run(command, json.dumps(given))
    if ran.returncode:
        raise LoadError(ran.stderr)
    found = json.loads(ran.stdout)
    if not found.pop("whole"):
        raise LoadError(f"{server.name} streams nothing: {found['complaint']}")
    if complaint := found.pop("complaint"):
        print(f"{server.name}: {found['lost']} of {count} streams were lost: {complaint!r}", file=sys.stderr)
    busy, idle = (after - before for after, before in zip(core_ticks(), core_before, strict=True))
    cpu_us_stream = (server.cpu_us() - before) / count
    found |= {"cpu_us": cpu_us_stream / (tokens + EVENTS_BESIDE_TOKENS), "cpu_us_stream": cpu_us_stream}
    return {**found, "rss_mb": max(memory, default=0.0), "load_core": busy / (busy + idle)}


def core_ticks() -> tuple[int, int]:
    """How long the load's core has been busy and idle so far, in clock ticks."""
    line = next(x for x in Path("/proc/stat").read_text().splitlines() if x.startswith(f"cpu{LOAD_CORE} "))
    ticks = [int(number) for number in line.split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], ticks[3] + ticks[4]


def measure_start(start: Callable[[], contextlib.AbstractContextManager[Server]]) -> Measured:
    """A server's start: ready_s (from its start to its first answer to a call), rss_mb (then)."""
    call = json.dumps(body("bench/whole"))
    with start() as server:
        headers = {"Content-Type": "application/json", **server.headers_for("bench/whole")}
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, HTTPException), contextlib.closing(connect(server)) as connection:
                connection.request("POST", PATH, call, headers)
                if connection.getresponse().status == 200:
                    return {"ready_s": time.monotonic() - server.started_at, "rss_mb": server.rss_mb()}
            time.sleep(0.01)
    raise LoadError(f"{server.name} gives no answer")


def connect(server: Server) -> HTTPConnection:
    """A connection to `server`."""
    return HTTPConnection("127.0.0.1", server.port, timeout=30)


@contextlib.contextmanager
def watch_memory(server: Server) -> Iterator[list[float]]:
    """The resident memory of the process that answers, in MB, twice a second while this is open."""
    samples: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            samples.append(server.rss_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def warm_pair(stack: contextlib.ExitStack) -> tuple[Server, Server]:
    """The gateway and hello, warm."""
    up = stack.enter_context(upstream())
    pair = stack.enter_context(gateway(up)), stack.enter_context(hello())
    for server in pair:
        calls(server, 32, 1)
    return pair
