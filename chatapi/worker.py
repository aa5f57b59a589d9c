"""gunicorn's gevent worker, with an end that disturbs nobody: what `gunicorn.conf.py` names as `worker_class`."""

import socket
from contextlib import suppress
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

from .engine import Engine


class Worker(GeventWorker):  # type: ignore[misc]
    """Told to stop, it closes idle connections at once, lets open calls finish, and ends the rest with an event.

    gunicorn's own waits the whole `graceful_timeout` while any client keeps an idle connection open, and then writes
    `HTTP/1.1 500` onto it, which a pooled client takes for its next answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: set[Any] = set()
        self._busy: set[Any] = set()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        self._connections.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._connections.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serve one request; once told to stop, the connection's last."""
        self._busy.add(sock)
        try:
            super().handle_request(listener_name, req, sock, addr)
        finally:
            self._busy.discard(sock)
        if not self.alive:
            raise StopIteration

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: a stop, or the reload of a new configuration."""
        super().handle_exit(sig, frame)
        grace_s = self.cfg.graceful_timeout
        gevent.spawn(self._close_idle)
        # Shortly before gunicorn would cut them without a word.
        gevent.spawn_later(max(grace_s - 2.0, grace_s / 2), self._engine.stop)

    def run(self) -> None:
        """Serve until told to stop; what is still read for the books then is closed, and recorded."""
        super().run()
        self._engine.stop()
        gevent.sleep(0.1)

    @property
    def _engine(self) -> Engine:
        engine: Engine = self.wsgi.extensions["chatapi"].engine
        return engine

    def _close_idle(self) -> None:
        for sock in self._connections - self._busy:
            # A request that has already arrived is still read and answered; after it comes the end.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
