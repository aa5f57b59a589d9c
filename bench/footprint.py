"""What the gateway costs beside a bare Flask hello, both under the same gunicorn, in the same minute.

    .venv/bin/python bench/footprint.py [--streams 500] [--calls 400] [--pace 0.05]

Prints seconds from start to first answer, memory per worker (RSS and private), time per call at one client, the time
that the gateway adds to a call of its upstream, calls per second at 8 clients, and how many paced streams stay open
on one worker without a stall. The upstream is a gevent server of its own process that answers at once.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).resolve().parent.parent
MESSAGE = {"model": "acme/bench", "messages": [{"role": "user", "content": "Say something."}]}
TOKENS = 60

HELLO = """
from flask import Flask
app = Flask("hello")
@app.post("/hello")
def hello():
    return {"hello": "world"}
"""

UPSTREAM = f"""
from gevent import monkey; monkey.patch_all()
import json, socket, sys, gevent
from gevent.pywsgi import WSGIHandler, WSGIServer
class Handler(WSGIHandler):
    def handle(self):
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle()
chunk = lambda delta, reason=None, **more: b"data: " + json.dumps({{"id": "x", "object": "chat.completion.chunk",
    "created": 1, "model": "m", "choices": [{{"index": 0, "delta": delta, "finish_reason": reason}}],
    **more}}).encode() + b"\\n\\n"
WHOLE = json.dumps({{"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [{{"index": 0,
    "message": {{"role": "assistant", "content": "Something."}}, "finish_reason": "stop"}}],
    "usage": {{"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}}}).encode()
def stream():
    yield chunk({{"role": "assistant", "content": ""}})
    for i in range({TOKENS}):
        gevent.sleep(float(sys.argv[2]))
        yield chunk({{"content": f"token {{i}} "}})
    yield chunk({{}}, "stop", usage={{"prompt_tokens": 3, "completion_tokens": {TOKENS}, "total_tokens": {TOKENS} + 3}})
    yield b"data: [DONE]\\n\\n"
def app(environ, start_response):
    body = json.loads(environ["wsgi.input"].read())
    if body.get("stream"):
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return stream()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(WHOLE)))])
    return [WHOLE]
WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None, handler_class=Handler, backlog=2048).serve_forever()
"""


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--streams", type=int, default=500)
    arguments.add_argument("--calls", type=int, default=400)
    arguments.add_argument("--pace", type=float, default=0.05, help="seconds between two tokens of a stream")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, upstream(folder, given.pace) as upstream_url:
        (Path(folder) / "hello.py").write_text(HELLO)
        with served("hello:app", folder, {}) as (url, ready_s, worker):
            hello = {"ready_s": ready_s, "call_ms": per_call(url + "/hello", given.calls), "rss_mb": rss(worker)}
            hello["per_s"] = throughput(url + "/hello", given.calls)
        with served("wsgi:app", str(ROOT), {"HUGGINGFACE_BASE_URL": upstream_url}) as (url, ready_s, worker):
            chat = url + "/api/chat/completions"
            ours = {"ready_s": ready_s, "call_ms": per_call(chat, given.calls), "rss_mb": rss(worker)}
            ours["per_s"] = throughput(chat, given.calls)
            direct_ms = per_call(upstream_url + "/v1/chat/completions", given.calls)
            before = sum(worker.cpu_times()[:2])
            streams = open_streams(chat, given.streams)
            streams["cpu_us_per_token"] = (sum(worker.cpu_times()[:2]) - before) / given.streams / TOKENS * 1e6
            streams["rss_mb"] = rss(worker)
    print(f"{'':24}{'hello':>10}{'chatapi':>10}{'ratio':>8}")
    for name, value in hello.items():
        print(f"{name:24}{value:10.2f}{ours[name]:10.2f}{ours[name] / value:8.2f}")
    print(f"added per call: {ours['call_ms'] - direct_ms:.2f} ms (the upstream alone: {direct_ms:.2f} ms)")
    print(f"{given.streams} streams of {TOKENS} tokens, one every {given.pace * 1000:.0f} ms: " + json.dumps(streams))


@contextlib.contextmanager
def upstream(folder: str, pace_s: float) -> Iterator[str]:
    """The model server."""
    port = free_port()
    script = Path(folder) / "upstream.py"
    script.write_text(UPSTREAM)
    process = subprocess.Popen([sys.executable, str(script), str(port), str(pace_s)])
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def served(app: str, folder: str, environ: dict[str, str]) -> Iterator[tuple[str, float, psutil.Process]]:
    """`app` under gunicorn with one gevent worker: its URL, seconds to the first answer, its worker."""
    port = free_port()
    gunicorn = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        empty_config(),
        "-k",
        "gevent",
        "-w",
        "1",
        "--worker-connections",
        "4000",
    ]
    options = ["--backlog", "2048", "--log-level", "error", "-b", f"127.0.0.1:{port}", app]
    started = time.perf_counter()
    # A line per call goes to a file, as in production: the log is part of what a call costs.
    with Path(empty_config()).with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([*gunicorn, *options], cwd=folder, env={**os.environ, **environ}, stdout=log)
    try:
        wait_for(port)
        requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10)
        ready_s = time.perf_counter() - started
        yield f"http://127.0.0.1:{port}", ready_s, psutil.Process(process.pid).children()[0]
    finally:
        process.terminate()
        process.wait()


def empty_config() -> str:
    """A configuration file that says nothing, so that both run alike."""
    path = Path(tempfile.gettempdir()) / "bench_gunicorn_conf.py"
    path.touch()
    return str(path)


def wait_for(port: int) -> None:
    """Until something listens."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise SystemExit(f"nothing listens on port {port}")


def free_port() -> int:
    """A loopback port nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rss(worker: psutil.Process) -> float:
    """The worker's resident memory in MB."""
    return worker.memory_info().rss / 1e6


def per_call(url: str, calls: int) -> float:
    """Median milliseconds of a call, one client, connection kept."""
    with requests.Session() as session:
        took = []
        for _ in range(calls):
            started = time.perf_counter()
            session.post(url, json=MESSAGE, timeout=30).raise_for_status()
            took.append(time.perf_counter() - started)
    return statistics.median(took[calls // 10 :]) * 1000


def throughput(url: str, calls: int, clients: int = 8) -> float:
    """Calls per second with several clients."""

    def client() -> None:
        with requests.Session() as session:
            for _ in range(calls // 2):
                session.post(url, json=MESSAGE, timeout=30).raise_for_status()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients * (calls // 2) / (time.perf_counter() - started)


def open_streams(url: str, count: int) -> dict[str, float]:
    """Open `count` streams at once in a process of its own, and see how they fare."""
    reader = [sys.executable, str(Path(__file__).with_name("streams.py")), url, str(count), json.dumps(MESSAGE)]
    return dict(json.loads(subprocess.run(reader, check=True, capture_output=True, text=True).stdout))


if __name__ == "__main__":
    main()
