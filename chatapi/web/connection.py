"""One caller's connection under our worker: bodies read from it, answers written to it, whether the caller is there.

Written by hand: gunicorn's environ, writer and keep-alive loop cost more than a small Flask view (docs/performance.md),
send a head and its body apart, drain unread bodies without end, and know no deadline. Its parser is kept.
"""

import math
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import gevent
from gevent.event import Event
from gevent.monkey import get_original

from ..errors import BadRequest, PayloadTooLarge
from ..languages import _

READ_SIZE = 65_536
TURN_S = 0.01  # so long one connection may keep the worker busy with what has already arrived
UNREAD_S = 60.0  # a caller who reads nothing of an answer without a deadline of its own is left after this time
# What is left unread of a body: so much is read for the connection's sake; more closes it, …
SKIPPED = 65_536
SKIPPED_S = 1.0
# … but thrown away for a moment: closing at once would reset it, and the caller would not see the answer.
LINGER_S = 1.0
LINGERING = 32 * 1024 * 1024
# From so many bytes on, a chunked body must be more than framing: a byte to a chunk costs 6 µs each.
FRAMED = 1024 * 1024
LEAST_SHARE = 16

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "trailers"),
        *("transfer-encoding", "upgrade"),
    )
)


class Server(Protocol):
    """What a connection knows of its worker."""

    alive: bool  # False: every answer says `Connection: close`
    hang_ups: "HangUps"


class HangUps:
    """Tells of callers who hang up: one epoll for all, looked at by gevent's loop. Not thread-safe.

    EPOLLRDHUP is the hang-up itself: bytes that a caller sent before it do not hide it, as they do from a reader.
    """

    def __init__(self) -> None:
        # gevent removes epoll from `select`, for waiting on it would block its loop; ours is only ever asked for what
        # the loop has seen.
        self._told: dict[int, Callable[[], None]] = {}
        self._epoll: Any = None
        if hasattr(select, "EPOLLRDHUP"):  # Linux; elsewhere a caller's leaving shows when a write fails
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


class Connection:
    """One client connection. `environ["chatapi.connection"]` of each of its requests."""

    __slots__ = (
        "_blocked",
        "_broken",
        "_chunked",
        "_closing",
        "_expects",
        "_fd",
        "_fresh",
        "_hub",
        "_hung_up",
        "_left",
        "_length",
        "_lingers",
        "_omits_body",
        "_read_deadline",
        "_readable",
        "_receive",
        "_received",
        "_request",
        "_server",
        "_since",
        "_sock",
        "_started",
        "_transmit",
        "_unix",
        "_watched",
        "_writable",
        "client",
        "environ",
        "headers",
        "idle_since",
        "path",
        "sent",
        "status",
        "write_deadline",
    )

    def __init__(self, client: Any, environ: dict[str, Any], server: Server) -> None:
        """`client` is gevent's socket, `environ` what goes for all requests of its listener."""
        self.client, self._server = client, server
        self._sock, self._fd = client._sock, client.fileno()  # the system's socket below gevent's never waits
        tls = getattr(client, "_sslobj", None)
        self._receive: Callable[[int], bytes] = tls.read if tls else self._sock.recv
        self._transmit: Callable[[Any], int] = tls.write if tls else self._sock.send
        self._hub, self._readable, self._writable = client.hub, client._read_event, client._write_event
        self.environ = environ
        self.environ["chatapi.connection"] = self
        self._unix = environ["SERVER_PORT"] == ""
        self.idle_since: float | None = (now := time.monotonic())  # None while a request is being answered
        self.path = ""  # of the request line, as soon as it is read
        self._fresh = False  # a request was answered, and nothing can have arrived yet
        self._request: Any = None
        self._read_deadline: float | None = None
        self._received, self._since = 0, now
        self._watched = self._hung_up = False
        self._left: Callable[[], None] | None = None
        self._blocked: Event | None = None
        self._broken = self._closing = self._lingers = False
        self._begin_nothing()

    def _begin_nothing(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.sent = 0  # bytes of the body
        self.write_deadline: float | None = None  # monotonic; after it a caller who does not read has left
        self._started = self._chunked = self._omits_body = self._expects = False
        self._length: int | None = None

    # ------------------------------------------------------------ requests

    def await_request(self) -> None:
        """The last request is answered: whatever is read now belongs to the next."""
        self.idle_since = time.monotonic()
        self.path = ""
        self._fresh = self._receive == self._sock.recv  # TLS may hold what it has already read

    def accept(self, request: Any) -> dict[str, Any]:
        """`request` (gunicorn's) is there: its environ, equal to what gunicorn would make but for what moves a path."""
        self.idle_since = None
        self._begin_nothing()
        self._request = request
        self._expects = request._expected_100_continue
        environ = self.environ.copy()
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

    # ------------------------------------------------------------ reading

    def recv(self, size: int) -> bytes:
        """For gunicorn's unreader: what has arrived, at most `size` bytes; b"" at the end. Raises OSError.

        Other connections get their turn: a socket that always has data never waits by itself.
        """
        if self._expects:  # nobody has to send a body that nobody reads
            self._expects = False
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._fresh or time.monotonic() - self._since > TURN_S:
            # Waiting for what is there already is a turn for all others; gevent.sleep(0) is not: gevent's loop looks
            # for events again only after fifty of those.
            self._fresh = False
            self._wait(self._readable, self._read_deadline)
        while True:
            try:
                data = self._receive(size)
            except _WOULD_BLOCK:
                self._wait(self._readable, self._read_deadline)
            except ssl.SSLError:
                return b""
            else:
                self._received += len(data)
                return data

    def _wait(self, watcher: Any, deadline: float | None) -> None:
        """Until `watcher` has seen something. Raises TimeoutError at `deadline` (monotonic)."""
        if deadline is None:
            self._hub.wait(watcher)
        else:
            with gevent.Timeout(max(0.0, deadline - time.monotonic()), TimeoutError()):
                self._hub.wait(watcher)
        self._since = time.monotonic()

    def read_body(self, limit: int, deadline: float) -> bytes:
        """The request's whole body. Raises PayloadTooLarge over `limit` bytes, BadRequest when it breaks off.

        It has until `deadline` (monotonic), however it dribbles.
        """
        reader = self._request.body.reader
        self._read_deadline = deadline
        try:
            return self._read_chunks(reader, limit) if hasattr(reader, "parser") else self._read_length(reader, limit)
        except Exception as error:
            self._closing = True  # where the next request would begin is not known
            # gunicorn's classes for bad chunks are known by their module.
            if isinstance(error, OSError) or type(error).__module__ == "gunicorn.http.errors":
                details = {"body": [_("is broken")]}
                raise BadRequest(_("The body could not be read to its end."), details=details) from None
            raise
        finally:
            self._read_deadline = None

    def _read_length(self, reader: Any, limit: int) -> bytes:
        length: int = reader.length
        if length > limit:
            raise too_large(limit)
        parts: list[bytes] = []
        while reader.length:
            # Below gunicorn's reader, which counts what it asks for, not what it gets.
            data: bytes = reader.unreader.read(min(READ_SIZE, reader.length))
            reader.length -= len(data)
            if not data:
                got = length - reader.length
                message = _("The body ended after {got} of {length} bytes.", got=got, length=length)
                raise BadRequest(message, details={"body": [_("is incomplete")]})
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_chunks(self, reader: Any, limit: int) -> bytes:
        parts: list[bytes] = []
        size, began = 0, self._received
        while data := reader.read(READ_SIZE):
            parts.append(data)
            size += len(data)
            if size > limit:
                raise too_large(limit)
            framing = self._received - began - size
            if framing > FRAMED and framing * LEAST_SHARE > size:
                said = _("is cut too small")
                raise BadRequest(_("The body comes in too small chunks. Send larger ones."), details={"body": [said]})
        return b"".join(parts)

    # ------------------------------------------------------------ whether the caller is there

    def watch(self, left: Callable[[], None]) -> None:
        """Call `left()` once, from the event loop, as soon as the caller has hung up; at most one watches."""
        self._left = left
        if self._hung_up:
            self._hub.loop.run_callback(self._tell_left)
        elif not self._watched:  # once a connection: what is seen while nobody watches is remembered
            self._watched = True
            self._server.hang_ups.add(self._fd, self._on_hang_up)

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

    # ------------------------------------------------------------ answering

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
        self._take_turn()
        if not self._started:
            self._send(self._head())

    def write(self, data: bytes) -> None:
        """Send `data` as the next of the body, behind what other greenlets are sending.

        Raises OSError where the caller is gone or does not read until `write_deadline`.
        """
        if not data:
            return
        self._take_turn()
        head = b"" if self._started else self._head()
        if self._omits_body:
            self._send(head)
            return
        if self._length is not None:
            data = data[: self._length - self.sent]
        self.sent += len(data)
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._send(head + data if head else data)

    def finish(self) -> None:
        """The answer is whole."""
        self._take_turn()
        end = b"" if self._started else self._head()
        if self._chunked:
            end += b"0\r\n\r\n"
        if end:
            self._send(end)
        if self._length is not None and self.sent < self._length and not self._omits_body:
            self._closing = True  # an answer cut short must not look whole
        self._lingers = self._unread() > 0

    def refuse(self, answer: bytes) -> None:
        """Send `answer` as it is, if nothing else was begun, and no more."""
        if not self._started and not self._broken:
            self._started = self._closing = self._lingers = True
            with suppress(OSError):
                self._send(answer)

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
            or request.should_close()
            or not (self._omits_body or self._chunked or length is not None)
            or self._unread() > SKIPPED
        )
        head = (
            f"HTTP/{request.version[0]}.{request.version[1]} {status}\r\n{_server_and_date()}"
            f"Connection: {'close' if self._closing else 'keep-alive'}\r\n"
            f"{TRANSFER_ENCODING if self._chunked else ''}{''.join(lines)}\r\n"
        )
        # One count in place of a look at each: a line end in a name or value would begin a header of its own.
        ends = len(lines) + 5 + self._chunked
        if head.count("\n") != ends or head.count("\r") != ends or "\0" in head:
            raise ValueError("a header has a line end in it")
        encoded = head.encode("latin-1")
        self._started = True
        return encoded

    # ------------------------------------------------------------ writing

    def _take_turn(self) -> None:
        """Wait until whoever is sending has sent all: what two greenlets write is not mixed."""
        while self._blocked is not None:
            self._blocked.wait()
        if self._broken:
            raise BrokenPipeError

    def _send(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError."""
        try:
            sent = self._transmit(data)
        except _WOULD_BLOCK:
            sent = 0
        except OSError:
            self._broken = True
            raise
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, data: memoryview) -> None:
        self._blocked = blocked = Event()
        if self.write_deadline is None:
            self.write_deadline = time.monotonic() + UNREAD_S
        self._broken = True  # until all is sent: in the middle of a frame nothing else can follow
        try:
            while data:
                self._wait(self._writable, self.write_deadline)
                with suppress(*_WOULD_BLOCK):
                    data = data[self._transmit(data) :]
                if time.monotonic() > self.write_deadline:
                    raise TimeoutError
            self._broken = False
        finally:
            self._blocked = None
            blocked.set()

    # ------------------------------------------------------------ the end

    def _unread(self) -> float:
        """Bytes of the request's body that nobody has read: infinitely many where only reading can tell."""
        reader = self._request.body.reader
        if hasattr(reader, "parser"):
            return 0 if reader.parser is None else math.inf
        length: int = reader.length
        return math.inf if length and self._expects else length

    def next_can_follow(self) -> bool:
        """Whether another request is to be read, after what is left of this one's body."""
        if self._closing or not self._lingers:
            return not self._closing
        self._read_deadline = time.monotonic() + SKIPPED_S
        try:
            reader = self._request.body.reader
            while reader.length and (data := reader.unreader.read(reader.length)):
                reader.length -= len(data)
            self._lingers = reader.length > 0
            return not self._lingers
        except OSError:
            return False
        finally:
            self._read_deadline = None

    def stop_reading(self) -> None:
        """Nothing more will be asked: what has arrived is still read and answered, and then comes the end."""
        # On the system's socket, for gevent's own would break off the read.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close it; what an answered caller is still sending is thrown away for a moment."""
        self._server.hang_ups.forget(self._fd)
        try:
            if self._lingers and not self._broken:
                self._linger()
        finally:
            self.client.close()
            self.environ.clear()

    def _linger(self) -> None:
        deadline, room = time.monotonic() + LINGER_S, LINGERING
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            while room > 0:
                self._wait(self._readable, deadline)
                # With MSG_TRUNC the kernel throws away what it has, uncopied, up to the buffer's size.
                if not (gone := self._sock.recv_into(_NOWHERE, 0, socket.MSG_TRUNC)):
                    return
                room -= gone


TRANSFER_ENCODING = "Transfer-Encoding: chunked\r\n"
_KEYS = {"CONTENT-TYPE": "CONTENT_TYPE", "CONTENT-LENGTH": "CONTENT_LENGTH"}
_NOWHERE = bytearray(1024 * 1024)
_second, _second_text = 0, ""


def _server_and_date() -> str:
    """Two header lines, made once a second."""
    global _second, _second_text
    if (now := int(time.time())) != _second:
        _second, _second_text = now, f"Server: gunicorn\r\nDate: {formatdate(now, usegmt=True)}\r\n"
    return _second_text


def too_large(limit: int) -> PayloadTooLarge:
    """What a body over `limit` bytes is refused with."""
    return PayloadTooLarge(
        _("The body is larger than {limit} bytes. Shorten the messages, or send smaller images.", limit=limit)
    )


def environ_of(listener: Any, address: Any, common: dict[str, Any]) -> dict[str, Any]:
    """What WSGI is told of all requests of one connection: `listener` and `address` as the socket names them."""
    environ = common.copy()
    if isinstance(address, tuple):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = address[0], str(address[1])
    else:
        environ["REMOTE_ADDR"] = address.decode() if isinstance(address, bytes) else address
    if isinstance(listener, tuple):
        environ["SERVER_NAME"], environ["SERVER_PORT"] = listener[0], str(listener[1])
    else:
        environ["SERVER_NAME"], environ["SERVER_PORT"] = listener, ""
    return environ
