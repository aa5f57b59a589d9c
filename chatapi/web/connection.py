"""One caller's connection under our worker: what WSGI is told, bodies, answers, and whether the caller is there.

Written by hand: gunicorn's environ, writer and keep-alive loop cost more than a small Flask view (docs/performance.md),
send a head and its body apart, drain unread bodies without end, and know no deadline. Its parser is kept.
"""

import select
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import gevent
from gevent.monkey import get_original

from . import bodies
from .wire import Wire

_HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "trailers"),
        *("transfer-encoding", "upgrade"),
    )
)


class HangUps:
    """Tells at once who has hung up: one epoll for all callers, which gevent's loop looks at.

    It waits for EPOLLRDHUP, the hang-up itself: bytes that a caller sent before it do not hide it. Each socket costs
    one system call for all its life. Not thread-safe.
    """

    def __init__(self) -> None:
        self._told: dict[int, Callable[[], None]] = {}
        self._epoll: Any = None
        if hasattr(select, "EPOLLRDHUP"):  # Linux; elsewhere a caller's leaving shows when a write fails
            # gevent takes epoll out of `select`, for who waits for it blocks its loop; we ask for what is there.
            self._epoll = get_original("select", "epoll")()
            self._watcher = gevent.get_hub().loop.io(self._epoll.fileno(), 1)
            self._watcher.start(self._tell)

    def add(self, fd: int, left: Callable[[], None]) -> None:
        """Call `left()` once, from the loop, when the peer of `fd` has hung up."""
        if self._epoll is not None:
            self._told[fd] = left
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLONESHOT)

    def forget(self, fd: int) -> None:
        """`fd` is about to be closed, which takes it out of the epoll."""
        self._told.pop(fd, None)

    def _tell(self) -> None:
        for fd, _events in self._epoll.poll(0):
            if left := self._told.get(fd):
                left()


class Server(Protocol):
    """What a connection knows of its worker."""

    environ: dict[str, Any]  # of all requests of all connections
    alive: bool  # False: every answer says `Connection: close`
    hang_ups: HangUps
    log: Any  # gunicorn's


class Connection:
    """One client connection. `environ["chatapi.connection"]` of each of its requests."""

    def __init__(self, client: Any, environ: dict[str, Any], server: Server) -> None:
        """`client` is gevent's socket, `environ` what goes for all requests of its own."""
        self.wire = Wire(client)
        self._server = server
        self.environ = environ
        environ["chatapi.connection"] = self
        self._unix = environ["SERVER_PORT"] == ""
        self.idle_since: float | None = time.monotonic()  # None while a request is being answered
        self._request: Any = None
        self._watched = self._hung_up = False
        self._left: Callable[[], None] | None = None
        self._closing = self._lingers = self._asks_to_close = False
        self._reset()

    def _reset(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.sent = 0  # bytes of the body
        self.wire.write_deadline = None
        self._started = self._chunked = self._omits_body = False
        self._length: int | None = None

    # --- requests

    def await_request(self) -> None:
        """The last request is answered: whatever is read now belongs to the next."""
        self.idle_since = time.monotonic()
        self.wire.request_done()

    def accept(self, request: Any) -> dict[str, Any]:
        """`request` (gunicorn's) is there: its environ, equal to what gunicorn would make but for what moves a path."""
        self.idle_since = None
        self._reset()
        self._request = request
        self.wire.continues = request._expected_100_continue
        self._asks_to_close = request.should_close()
        environ = {**self._server.environ, **self.environ}
        environ["wsgi.input"] = request.body
        environ["wsgi.url_scheme"] = request.scheme
        environ["REQUEST_METHOD"] = request.method
        environ["QUERY_STRING"] = request.query
        environ["RAW_URI"] = request.uri
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if request.version == (1, 1) else "HTTP/{}.{}".format(*request.version)
        path = request.path
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        for name, value in request.headers:
            key = _KEYS.get(name) or "HTTP_" + name.replace("-", "_")
            if key in environ:
                value = f"{environ[key]},{value}"
            environ[key] = value
        if self._unix and (host := environ.get("HTTP_HOST")):  # such a socket is called what the caller calls it
            name, *ports = host.split(":")
            default = "443" if request.scheme == "https" else "80"
            environ["SERVER_NAME"], environ["SERVER_PORT"] = name, ports[0] if ports else default
        return environ

    # --- reading

    def read_body(self, limit: int, deadline: float) -> bytes:
        """The request's whole body. Raises PayloadTooLarge over `limit` bytes, BadRequest when it breaks off.

        It has until `deadline` (monotonic), however it dribbles.
        """
        self._closing = True  # after a body that breaks off nobody knows where the next request would begin
        body = bodies.read(self._request.body.reader, self.wire, limit, deadline)
        self._closing = False
        return body

    # --- whether the caller is there

    def watch(self, left: Callable[[], None]) -> None:
        """Call `left()` once, from the event loop, as soon as the caller has hung up; at most one watches."""
        self._left = left
        if self._hung_up:
            self.wire.hub.loop.run_callback(self._tell_left)
        elif not self._watched:  # once a connection: what is seen while nobody watches is remembered
            self._watched = True
            self._server.hang_ups.add(self.wire.fd, self._on_hang_up)

    def unwatch(self) -> None:
        """Whoever watched does not care any more."""
        self._left = None

    def _on_hang_up(self) -> None:
        self._hung_up = True
        self._tell_left()

    def _tell_left(self) -> None:
        if (left := self._left) is not None:
            self._left = None
            left()

    # --- answering

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """WSGI's: the head is held back to the first bytes of the body. After `begin` there is nothing to start."""
        if not self._started:
            self.status, self.headers = status, headers
        elif exc_info is not None:
            raise exc_info[1]
        return self.write

    def begin(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Send the head at once, for what comes before the first event; `start_response` is then ignored."""
        self.start_response(status, headers)
        self.wire.take_turn()
        if not self._started:
            self.wire.send(self._head())

    def write(self, data: bytes) -> None:
        """Send `data` as the next of the body, behind what other greenlets are sending.

        Raises OSError where the caller is gone or does not read until the wire's `write_deadline`.
        """
        if not data:
            return
        self.wire.take_turn()
        head = b"" if self._started else self._head()
        if self._omits_body:
            self.wire.send(head)
            return
        if self._length is not None:
            data = data[: self._length - self.sent]
        self.sent += len(data)
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.wire.send(head + data if head else data)

    def finish(self) -> None:
        """The answer is whole."""
        self.wire.take_turn()
        end = b"" if self._started else self._head()
        if self._chunked:
            end += b"0\r\n\r\n"
        if end:
            self.wire.send(end)
        if self._length is not None and self.sent < self._length and not self._omits_body:
            self._closing = True  # an answer cut short must not look whole
        self._lingers = bodies.unread(self._request.body.reader, self.wire) > 0

    def refuse(self, answer: bytes) -> None:
        """Send `answer` as it is, if nothing else was begun, and no more."""
        if not self._started and not self.wire.broken:
            self._started = self._closing = self._lingers = True
            with suppress(OSError):
                self.wire.send(answer)

    def _head(self) -> bytes:
        """The answer's head. Sets how its body is framed."""
        request, status = self._request, self.status
        code = int(status[:3])
        bare = code < 200 or code == 204
        length, lines = None, []
        for name, value in self.headers:
            lower = name.lower()
            if lower == "content-length":
                length = int(value)
                if bare:
                    continue
            elif lower in _HOP_BY_HOP:
                self._closing |= lower == "connection" and value.lower() == "close"
                continue
            lines.append(f"{name}: {value}\r\n")
        self._omits_body = bare or code == 304 or request.method == "HEAD"
        self._length = None if bare else length
        self._chunked = length is None and not self._omits_body and request.version > (1, 0)
        self._closing = (
            self._closing
            or not self._server.alive
            or self._asks_to_close
            or not (self._omits_body or self._chunked or length is not None)
            or bodies.unread(request.body.reader, self.wire) > bodies.SKIPPED
        )
        head = (
            f"HTTP/{request.version[0]}.{request.version[1]} {status}\r\n{_server_and_date()}"
            f"Connection: {'close' if self._closing else 'keep-alive'}\r\n"
            f"{_TRANSFER_ENCODING if self._chunked else ''}{''.join(lines)}\r\n"
        )
        # One count in place of a look at each: a line end in a name or value would begin a header of its own.
        ends = len(lines) + 5 + self._chunked
        if head.count("\n") != ends or head.count("\r") != ends or "\0" in head:
            raise ValueError("a header has a line end in it")
        encoded = head.encode("latin-1")
        self._started = True
        if not self._server.log.access_log_enabled:  # which may name each of them
            self.headers = []
        return encoded

    # --- the end

    def next_can_follow(self) -> bool:
        """Whether another request is to be read, after what is left of this one's body."""
        if self._lingers and not self._closing:
            self._closing = self._lingers = not bodies.skip(self._request.body.reader, self.wire)
        return not self._closing

    def close(self) -> None:
        """Close it; what an answered caller is still sending is thrown away for a moment."""
        self._server.hang_ups.forget(self.wire.fd)
        self.environ.clear()
        self.wire.close(self._lingers)


_TRANSFER_ENCODING = "Transfer-Encoding: chunked\r\n"
_KEYS = {"CONTENT-TYPE": "CONTENT_TYPE", "CONTENT-LENGTH": "CONTENT_LENGTH"}
_second, _second_text = 0, ""


def _server_and_date() -> str:
    """Two header lines, made once a second."""
    global _second, _second_text
    if (now := int(time.time())) != _second:
        _second, _second_text = now, f"Server: gunicorn\r\nDate: {formatdate(now, usegmt=True)}\r\n"
    return _second_text


def environ_of(listener: Any, address: Any) -> dict[str, Any]:
    """What WSGI is told of all requests of one connection: `listener` and `address` as the socket names them."""
    environ: dict[str, Any] = {}
    if isinstance(address, tuple):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = address[0], str(address[1])
    else:
        environ["REMOTE_ADDR"] = address.decode() if isinstance(address, bytes) else address
    if isinstance(listener, tuple):
        environ["SERVER_NAME"], environ["SERVER_PORT"] = listener[0], str(listener[1])
    else:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = listener, ""
    return environ
