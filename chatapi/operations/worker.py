"""gunicorn's gevent worker with a keep-alive loop of its own, and a stop that lets open calls finish.

`gunicorn.conf.py` names it as `worker_class`. gunicorn's loop starts a timer for each request, reads its settings by
name dozens of times, and knows nothing of the answers under way when it is told to stop. Its hooks before and after a
request are not called.
"""

import gc
import signal
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gevent
import gevent.socket
from gevent.pool import Group
from gevent.threadpool import ThreadPool
from gunicorn.arbiter import Arbiter
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader
from gunicorn.http.wsgi import base_environ, proxy_environ
from gunicorn.workers.ggevent import GeventWorker

from ..errors import BadRequest, ChatError, InternalError, SchemaError, StoreUnavailable, traceback_without_messages
from ..languages import _
from ..settings import SettingsError

if TYPE_CHECKING:  # the master loads this file before gevent has patched anything
    from ..components import Components
    from ..web.connection import Connection, HangUps

# How long a worker told to stop still reads on a connection after its last answer. Longer than `keepalive_timeout` in
# deploy/nginx.conf: who closes last cannot close onto a request that is on its way, and nginx sends no POST twice.
IDLE_S = 2.0
# Objects made and kept before the collector looks: a call keeps some hundreds until it ends, and few lie in circles.
GARBAGE = 10_000
OVERDUE_S = 30  # beyond the graceful timeout: then a worker whose loop stands still is ended by the system


# By gunicorn's names of what it cannot read; anything else is a 400.
_STATUS = {
    "ForbiddenProxyRequest": 403,
    "LimitRequestLine": 414,
    "ExpectationFailed": 417,
    "LimitRequestHeaders": 431,
    "UnsupportedTransferCoding": 501,
}
_BESIDE_SETTINGS = ("is_ssl", "forwarded_allow_networks", "proxy_allow_networks")  # what the parser reads as well


def _error_response(status: int, error: ChatError, path: str) -> bytes:
    """A whole answer, in the words of the routes at `path`."""
    from ..schemas.strict_json import dumps  # here, for the master loads this file
    from ..web.errors import dialect_of

    request_id = uuid.uuid4().hex
    body = dumps(dialect_of(path).error(error, request_id))
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
    head += f"X-Request-Id: {request_id}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode("ascii") + body


class _Request(Request):  # type: ignore[misc]
    """gunicorn's parser of a request's head; its unreader's source is our wire."""

    def parse_request_line(self, line_bytes: bytes) -> None:
        """Tell the wire where the request goes, for what may be wrong after that."""
        try:
            super().parse_request_line(line_bytes)
        finally:
            self.unreader.sock.path = self.path or ""

    def _peer_trusted_for_forwarded(self) -> Any:
        # What depends on the peer's address is found out once a connection.
        unreader = self.unreader
        if not hasattr(unreader, "trusted"):
            unreader.trusted = super()._peer_trusted_for_forwarded()
        return unreader.trusted


class _Listening(gevent.socket.socket):  # type: ignore[misc]
    """A listening socket that takes who still waits before its close: the kernel would reset them, request and all."""

    def __init__(self, sock: Any, take: Callable[[Any, Any, Any], None]) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self._take = take

    def close(self) -> None:
        """Close it, when nobody waits any more."""
        with suppress(OSError):
            self.setblocking(False)
            while True:
                self._take(self, *self.accept())
        super().close()


class Worker(GeventWorker):  # type: ignore[misc]
    """Told to stop, it lets open calls finish, closes connections as they fall idle, and ends the rest with an event.

    gunicorn's own closes a connection right behind an answer that promised to keep it, waits the whole
    `graceful_timeout` for idle ones, and then writes `HTTP/1.1 500` onto them.
    """

    hang_ups: "HangUps"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: set[Connection] = set()
        self._addresses: dict[Any, Any] = {}  # of listening sockets, which may be closed before their connections
        self.environ: dict[str, Any] = {}
        self._settings: Any = None
        self._ends_at = 0.0  # by when the last calls have to, once we are told to stop
        self._late = Group()  # connections taken while the listening sockets were being closed

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        from ..web.connection import Connection, environ_of

        connection = Connection(client, environ_of(self._addresses[listener], addr), self)
        self._connections.add(connection)
        try:
            self._serve(connection, addr)
        except OSError:
            pass  # the caller has gone
        except Exception as error:
            self._answer_fault(connection, error)
        finally:
            self._connections.discard(connection)
            connection.close()

    def _serve(self, connection: "Connection", addr: Any) -> None:
        unreader, number = SocketUnreader(connection.wire), 0
        while True:
            number += 1
            try:
                request = _Request(self._settings, unreader, addr, number)
            except (StopIteration, NoMoreData):
                return
            except Exception as error:
                if type(error).__module__ != "gunicorn.http.errors":
                    raise
                # Its name, not its words: what follows a slip may be a key.
                name, status = type(error).__name__, _STATUS.get(type(error).__name__, 400)
                self.log.warning("%s: answered %d", name, status)
                refused = BadRequest(_("The request is not valid HTTP ({cause}).", cause=name))
                connection.refuse(_error_response(status, refused, connection.wire.path))
                return
            if request.proxy_protocol_info:
                connection.environ.update(proxy_environ(request))
            if not self._answer(connection, request):
                return
            connection.await_request()

    def _answer(self, connection: "Connection", request: Any) -> bool:
        """Returns whether another request may follow on the connection."""
        environ = connection.accept(request)
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self._stop_serving()
        began = datetime.now()
        body = self.wsgi(environ, connection.start_response)
        if not self.log.access_log_enabled:
            environ, request.headers = {}, ()  # a stream may last for minutes, and nobody looks at them again
        try:
            for data in body:
                connection.write(data)
            connection.finish()
        finally:
            if self.log.access_log_enabled:
                self.log.access(connection, request, environ, datetime.now() - began)
            if hasattr(body, "close"):
                body.close()
        return connection.next_can_follow()

    def _answer_fault(self, connection: "Connection", error: Exception) -> None:
        """What the application did not catch. Where a status has gone out, the answer breaks off."""
        self.log.error("a request failed: %s", traceback_without_messages(error))
        fault = InternalError(_("An internal error occurred. Report it with the request id."))
        connection.refuse(_error_response(500, fault, connection.wire.path))

    def notify(self) -> None:
        """Once a second: tell the master that we live, and close who has been idle, or dribbling a head, for long."""
        if self.alive:
            super().notify()  # which ends us when the master has gone
        else:
            self.tmp.notify()  # not so amid the last calls: with systemd's socket it goes first
        self._close_idle(self.cfg.keepalive or IDLE_S)

    def _close_idle(self, longest_s: float) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            if connection.idle_since is not None and now - connection.idle_since >= longest_s:
                connection.wire.stop_reading()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: a stop, or the reload of a new configuration."""
        self.alive = False
        signal.alarm(self.cfg.graceful_timeout + OVERDUE_S)  # the master may be gone, and nobody else would end us
        # Before the application is loaded nobody is served. A failure here would then be one to boot, and gunicorn
        # ends as a whole when a worker fails to.
        if getattr(self, "wsgi", None) is not None:
            self._components.health.stopping = True
            self._stop_serving()

    def _stop_serving(self) -> None:
        self.alive = False
        self._ends_at = time.monotonic() + self.cfg.graceful_timeout
        gevent.spawn(self._drain, self._ends_at)

    def load_wsgi(self) -> None:
        """Load the application; not onto a database whose schema is not ours."""
        try:
            super().load_wsgi()
            self._components.store.check()
            self._components.accounts.sweep()
        except (SettingsError, SchemaError) as error:
            print(f"chatapi: {error}", file=sys.stderr, flush=True)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        except StoreUnavailable as error:
            # No reason to end: a worker that is replaced while the database is away would take the master with it.
            self.log.error("%s: %s; calls are refused until it answers", error.database, error.cause)

    def run(self) -> None:
        """Serve until told to stop; what is still read for the ledger then is closed, and recorded."""
        from ..huggingface import tokenizers as tokens  # here, for the master loads this file
        from ..schemas import strict_json
        from ..telemetry.batch import batch
        from ..web.connection import HangUps

        tokens.in_thread = gevent.get_hub().threadpool.apply
        strict_json.in_thread = ThreadPool(1).apply  # one large body at a time: memory is bounded, too
        self.hang_ups = HangUps()
        self.sockets: list[Any] = [_Listening(sock, self._take_late) for sock in self.sockets]
        self._addresses = {sock: sock.getsockname() for sock in self.sockets}
        self.environ = base_environ(self.cfg) | {"wsgi.multithread": True, "SCRIPT_NAME": ""}
        # As plain attributes: a request's parser reads dozens.
        beside = {name: getattr(self.cfg, name) for name in _BESIDE_SETTINGS}
        self._settings = SimpleNamespace(**{name: each.get() for name, each in self.cfg.settings.items()}, **beside)
        gevent.config.track_greenlet_tree = False  # who began a greenlet, and where: half a kilobyte of each
        # What is loaded stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE, 20, 20)
        super().run()
        self._late.join(max(0.0, self._ends_at - time.monotonic()))
        self._components.engine.stop()
        gevent.sleep(0.1)
        self._components.legacy.callers.flush()
        batch.flush()
        self._components.accounts.close()

    def _take_late(self, listener: Any, client: Any, addr: Any) -> None:
        self._late.spawn(self.handle, listener, client, addr)

    @property
    def _components(self) -> "Components":
        found: Components = self.wsgi.extensions["chatapi"]
        return found

    def _drain(self, ends_at: float) -> None:
        """Close what is idle; shortly before gunicorn would cut them without a word, end the calls and all the rest."""
        left_s = ends_at - time.monotonic()
        calls_end_at = ends_at - min(2 * IDLE_S, left_s / 2)
        all_close_at = ends_at - min(IDLE_S, left_s / 3)
        while True:
            now = time.monotonic()
            if now >= calls_end_at:
                self._components.engine.stop()
            self._close_idle(IDLE_S if now < all_close_at else 0)
            gevent.sleep(0.1)
