"""What our gunicorn master does otherwise: it reloads only what can be loaded, and hands systemd's socket over.

Loaded before gevent has patched anything: nothing that needs it may come in here.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ..settings import process_environment

REHEARSAL_S = 60.0


def guard(server: Any) -> None:
    """Put ours in the place of gunicorn's `reload` and `stop`."""
    server.reload = _rehearsed(server, server.reload)
    server.stop = _handed_over(server, server.stop)


def _rehearsed(server: Any, reload: Callable[[], None]) -> Callable[[], None]:
    """Reload only what a process of its own could load: a worker that cannot boot would end gunicorn as a whole."""

    def rehearse_and_reload() -> None:
        if reason := _rehearse(sys.argv[1:]):
            server.log.error("nothing is reloaded, and the workers go on as they are: %s", reason)
        else:
            reload()

    return rehearse_and_reload


def _rehearse(arguments: list[str]) -> str:
    """Why the configuration, the code, the settings or the database's schema cannot be used; "" when they can."""
    environment = process_environment()
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)  # it counts nothing
    command = [sys.executable, "-m", "chatapi.operations.rehearsal", *arguments]
    try:
        done = subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True, timeout=REHEARSAL_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip() or f"status {done.returncode}") if done.returncode else ""


def _handed_over(server: Any, stop: Callable[..., None]) -> Callable[..., None]:
    """With systemd's socket the master ends at once, and its workers by themselves, when their calls have.

    The next master then takes the socket while old streams go on; else their end is what new callers would wait for.
    """

    def stop_or_hand_over(graceful: bool = True) -> None:
        if graceful and server.systemd:
            for listener in server.LISTENERS:
                listener.close()
            server.LISTENERS = []
            server.kill_workers(signal.SIGTERM)
        else:
            stop(graceful)

    return stop_or_hand_over
