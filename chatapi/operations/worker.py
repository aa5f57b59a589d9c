"""gunicorn's gevent worker, with an end that disturbs nobody: what `gunicorn.conf.py` names as `worker_class`."""

import json
import socket
import sys
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.arbiter import Arbiter
from gunicorn.workers.ggevent import GeventWorker

from ..errors import SchemaError, StoreUnavailable, without_words
from ..settings import SettingsError

if TYPE_CHECKING:  # the master loads this file before gevent has patched anything
    from ..components import Parts

# How long a worker told to stop still reads on a connection after its last answer. Longer than `keepalive_timeout` in
# deploy/nginx.conf: who closes last cannot close onto a request that is on its way, and nginx sends no POST twice.
IDLE_S = 2.0


# By gunicorn's names of what it cannot read; anything else is a 400.
_STATUS = {
    "ForbiddenProxyRequest": 403,
    "LimitRequestLine": 414,
    "ExpectationFailed": 417,
    "LimitRequestHeaders": 431,
    "UnsupportedTransferCoding": 501,
}


def _refusal(status: int, what: str) -> bytes:
    code = "invalid_request" if status < 500 else "internal_error"
    error = {"code": code, "message": f"The request is not valid HTTP ({what}).", "retryable": False}
    body = json.dumps({"success": False, "error": error})
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
    head += "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii")


class _Listener:
    """What gunicorn asks a listening socket for. The socket may have been closed since it accepted the connection."""

    def __init__(self, sock: Any) -> None:
        self._name = sock.getsockname()

    def getsockname(self) -> Any:
        """Where it listened."""
        return self._name


class Worker(GeventWorker):  # type: ignore[misc]
    """Told to stop, it lets open calls finish, closes connections as they fall idle, and ends the rest with an event.

    gunicorn's own closes a connection right behind an answer that promised to keep it, waits the whole
    `graceful_timeout` for idle ones, and then writes `HTTP/1.1 500` onto them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle_since: dict[Any, float] = {}  # connections without a request
        self._listeners: dict[Any, _Listener] = {}

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        self._idle_since[client] = time.monotonic()
        try:
            super().handle(self._listeners[listener], client, addr)
        finally:
            self._idle_since.pop(client, None)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serve one request; if it comes after the order to stop, its answer says `Connection: close`."""
        self._idle_since.pop(sock, None)
        super().handle_request(listener_name, req, sock, addr)
        self._idle_since[sock] = time.monotonic()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer what is no HTTP, without repeating it: what follows a slip may be a key."""
        theirs = type(exc).__module__ == "gunicorn.http.errors"
        status = _STATUS.get(type(exc).__name__, 400) if theirs else 500
        self.log.warning("%s: answered %d", type(exc).__name__ if theirs else without_words(exc), status)
        with suppress(OSError):
            client.sendall(_refusal(status, type(exc).__name__ if theirs else "internal error"))

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: a stop, or the reload of a new configuration."""
        super().handle_exit(sig, frame)
        # Before the application is loaded nobody is served. A failure here would then be one to boot, and gunicorn
        # ends as a whole when a worker fails to.
        if getattr(self, "wsgi", None) is not None:
            self._parts.health.stopping = True
            gevent.spawn(self._drain, time.monotonic() + self.cfg.graceful_timeout)

    def load_wsgi(self) -> None:
        """Load the application; not onto a database whose schema is not ours."""
        try:
            super().load_wsgi()
            self._parts.store.check()
            self._parts.books.sweep()
        except (SettingsError, SchemaError) as error:
            print(f"chatapi: {error}", file=sys.stderr, flush=True)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        except StoreUnavailable as error:
            # No reason to end: a worker that is replaced while the database is away would take the master with it.
            self.log.error("%s: %s; calls are refused until it answers", error.database, error.cause)

    def run(self) -> None:
        """Serve until told to stop; what is still read for the books then is closed, and recorded."""
        self._listeners = {sock: _Listener(sock) for sock in self.sockets}
        from ..huggingface import tokenizers as tokens  # here, for the master loads this file

        tokens.apart = gevent.get_hub().threadpool.apply
        super().run()
        self._parts.engine.stop()
        gevent.sleep(0.1)
        self._parts.books.flush()

    @property
    def _parts(self) -> "Parts":
        parts: Parts = self.wsgi.extensions["chatapi"]
        return parts

    def _drain(self, ends_at: float) -> None:
        """Close what is idle; shortly before gunicorn would cut them without a word, end the calls and all the rest."""
        left_s = ends_at - time.monotonic()
        calls_end_at = ends_at - min(2 * IDLE_S, left_s / 2)
        all_close_at = ends_at - min(IDLE_S, left_s / 3)
        while True:
            now = time.monotonic()
            if now >= calls_end_at:
                self._parts.engine.stop()
            patience_s = IDLE_S if now < all_close_at else 0
            for sock, since in list(self._idle_since.items()):
                if now - since >= patience_s:
                    # On the system's socket, for gevent's own would break off the read: what has already arrived is
                    # read and answered, and then comes the end.
                    with suppress(OSError):
                        sock._sock.shutdown(socket.SHUT_RD)
            gevent.sleep(0.1)
