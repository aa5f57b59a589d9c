"""What our gunicorn master does otherwise: it reloads only what can be loaded, and hands systemd's socket over.

Loaded before gevent has patched anything: nothing that needs it may come in here. `python -m chatapi.operations.master`
with gunicorn's arguments loads what a worker would, serves nothing, and ends with the reason where that cannot be done.
"""

import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from ..errors import SchemaError, StoreUnavailable
from ..settings import SettingsError, process_environment

REHEARSAL_S = 60.0


def guard(server: Any) -> None:
    """Put ours in the place of gunicorn's `reload` and `stop`."""
    reload, stop = server.reload, server.stop

    def rehearse_and_reload() -> None:
        """A worker that cannot boot would end gunicorn as a whole."""
        if reason := _rehearse(sys.argv[1:]):
            server.log.error("nothing is reloaded, and the workers go on as they are: %s", reason)
        else:
            reload()

    def stop_or_hand_over(graceful: bool = True) -> None:
        """With systemd's socket the master ends at once, and its workers by themselves, when their calls have.

        The next master then takes the socket while old streams go on; else their end is what new callers would wait
        for.
        """
        if graceful and server.systemd:
            for listener in server.LISTENERS:
                listener.close()
            server.LISTENERS = []
            server.kill_workers(signal.SIGTERM)
        else:
            stop(graceful)

    server.reload, server.stop = rehearse_and_reload, stop_or_hand_over


def _rehearse(arguments: list[str]) -> str:
    """Why the configuration, the code, the settings or the database's schema cannot be used; "" when they can."""
    environment = process_environment()
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)  # it counts nothing
    command = [sys.executable, "-m", "chatapi.operations.master", *arguments]
    try:
        done = subprocess.run(
            command, check=False, env=environment, capture_output=True, text=True, timeout=REHEARSAL_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip() or f"status {done.returncode}") if done.returncode else ""


def main() -> None:
    """Load what a worker would. A database that is away is no reason against a reload."""
    from gunicorn.app.wsgiapp import WSGIApplication

    try:
        app = WSGIApplication().load()
        with suppress(StoreUnavailable):
            app.extensions["chatapi"].store.check()
    except (SettingsError, SchemaError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
