"""gunicorn's settings, picked up by a bare `gunicorn wsgi:app`. A command line option outranks each of them."""

import os
import shutil
import sys
import tempfile

from chatapi.catalogue import Catalogue
from chatapi.embedded import model_id
from chatapi.engine import circuit
from chatapi.operations import master
from chatapi.settings import ROUTER_URL, Settings, SettingsError, find_misspelt

# Loaded by the master, before a worker's gevent has patched anything: neither Flask nor requests may come in here.
worker_class = "chatapi.operations.worker.Worker"
workers = int(os.environ.get("WEB_CONCURRENCY", "0")) or os.cpu_count()
worker_connections = 2000  # connections open at once in each worker; a stream was measured at 40 KB
timeout = 60  # a worker whose event loop has not moved for so long is replaced; open streams do not count
graceful_timeout = 60  # how long a stop or reload waits for open calls; then they end with an event
keepalive = 75  # longer than nginx keeps its idle connections, so that it never finds one closed
backlog = 2048
forwarder_headers = ""  # no header moves a path: neither SCRIPT_NAME nor PATH_INFO, whoever sends it
control_socket_disable = True  # its default path in the home directory would be shared by every gateway of a user


def on_starting(server):
    """Before anything listens: are the settings usable? Then the memory in which the workers share their circuits."""
    try:
        Catalogue.load(Settings.from_env().catalogue)
    except SettingsError as error:
        sys.exit(f"chatapi: {error}")
    for address in server.cfg.address:
        if isinstance(address, tuple) and address[1] > 65_535:
            sys.exit(f"chatapi: --bind {address[0]}:{address[1]}: a port is at most 65535")
    if server.cfg.workers < 1:
        sys.exit("chatapi: --workers 0: without a worker nobody is answered")
    for text in find_misspelt():
        server.log.warning("%s", text)
    circuit.shared = circuit.Board()
    master.guard(server)
    # Not a TemporaryDirectory: a worker that ends would remove it, being a copy of the master with all its duties.
    server.numbers = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="chatapi-metrics-")


def on_exit(server):
    """The master ends; with systemd's socket before its workers, who still count."""
    if not server.systemd:  # who removes the /tmp that the unit had
        shutil.rmtree(server.numbers, ignore_errors=True)


def child_exit(server, worker):
    """A worker has ended: what it counted stays, what it measured at the moment goes."""
    # Imported here: the library looks for its folder when it is first imported.
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def when_ready(server):
    """Say who answers, and how to try it."""
    settings = Settings.from_env()
    address = next((str(s) for s in server.LISTENERS), "http://127.0.0.1:8000").replace("0.0.0.0", "127.0.0.1")
    target = address
    if address.startswith("unix:"):
        target = f"--unix-socket {address.removeprefix('unix:')} http://localhost"
    # The documented models are no longer served by the router; this one is.
    model = "openai/gpt-oss-120b" if settings.base_url == ROUTER_URL else settings.default_model
    if settings.embedded_url:
        who = f"{model_id(settings.embedded_model)}, on this machine (no HUGGINGFACE_API_KEY is set)"
        model = settings.default_model
    else:
        who = f"the models of {settings.base_url}"
        if settings.wants_embedded:
            who += "; HUGGINGFACE_API_KEY is not set, so it will refuse most of them"
    print(
        f"""
chatapi answers at {address} from {who}. Try it:

  curl {target}/api/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "What is Brazil?"}}]}}'
""",
        flush=True,
    )
