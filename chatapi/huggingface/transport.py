"""Sending: one pooled `requests` session per process, limits that hold in every phase, attempts.

A call never blocks on a socket itself. A reader (a greenlet under gevent, else a thread) runs the HTTP exchange
and puts what arrives into the call's inbox, where the call waits with the limit that holds at that moment: so a
deadline, an idle limit, a heartbeat and a caller who leaves all act within milliseconds, in every phase, be it a
header that comes one byte a second. Whoever stops waiting closes the exchange, and with it the connection.
"""

import _thread
import contextlib
import contextvars
import http.client
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import requests
import urllib3
from requests.adapters import DEFAULT_POOLBLOCK, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ..chat import BEAT, Call, Waiting
from ..errors import InternalError, UpstreamError, UpstreamTimeout, UpstreamUnavailable, without_words

CONNECT_TIMEOUT_S = 5.0
MAX_ATTEMPTS = 3
BACKOFF_S = (0.4, 1.2)  # before the second and the third attempt, each ±25 %
MAX_REPLY = 64 * 1024 * 1024  # bytes of a whole answer
READ_SIZE = 65_536
SETTLE_S = 1.0
HIGH_WATER = 1024 * 1024  # bytes read from the upstream and not yet taken by a slow caller
POOL_SIZE = 1024  # idle connections kept per host; a smaller pool throws away what a burst of streams opened

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One request to an upstream: a POST of `payload` as JSON, in its order; without one, a GET."""

    url: str
    payload: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """The process's one door to the network. `token` is sent to every upstream, all of them operator-configured."""

    def __init__(self, token: str | None, user_agent: str, traced: bool = False) -> None:
        self._session = requests.Session()
        self._traced = traced
        self._adapter = _Adapter(pool_connections=32, pool_maxsize=POOL_SIZE)
        self._session.mount("https://", self._adapter)
        self._session.mount("http://", self._adapter)
        self._headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": user_agent,
        }
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._send = self._send_traced if traced else self._adapter.send
        self._routes: dict[str, Mapping[str, Any]] = {}
        self._settling: dict[Exchange, float] = {}

    def start(self, request: Request, call: Call) -> "Exchange":
        """Send `request`; the exchange's items arrive in `call`. Close it, whatever happens."""
        prepared = requests.PreparedRequest()
        prepared.method = "GET" if request.payload is None else "POST"
        prepared.url = request.url
        prepared.headers = requests.structures.CaseInsensitiveDict({**self._headers, **request.headers, **call.headers})
        if request.payload is not None:
            # The caller's strings were checked for unpaired surrogates, so this encodes.
            prepared.body = json.dumps(request.payload, ensure_ascii=False, separators=(",", ":")).encode()
            prepared.headers["Content-Length"] = str(len(prepared.body))
        prepared.hooks = {}
        call.attempts += 1
        exchange = Exchange(self._send, prepared, self._route(request.url), call, self._settling)
        self._end_unsettled()
        if self._traced:  # the reader's span is a child of the caller's
            _thread.start_new_thread(contextvars.copy_context().run, (exchange.run,))
        else:
            _thread.start_new_thread(exchange.run, ())
        return exchange

    def _send_traced(self, prepared: requests.PreparedRequest, **how: Any) -> requests.Response:
        # The session adds cookies, hooks and redirects, of which we use none, and is what instrumentation looks at.
        return self._session.send(prepared, allow_redirects=False, **how)

    def fetch(self, request: Request, call: Call, until: float) -> Waiting[Answer]:
        """A whole answer, whatever its status. Raises UpstreamUnavailable, UpstreamTimeout, ClientLeft."""
        with contextlib.closing(self.start(request, call)) as exchange:
            head = yield from exchange.head(until)
            body = yield from exchange.rest(until)
            return Answer(head.status, head.headers, body)

    def _end_unsettled(self) -> None:
        now = time.monotonic()
        for exchange in [e for e, until in self._settling.items() if until < now]:
            del self._settling[exchange]
            exchange.abort()

    def _route(self, url: str) -> Mapping[str, Any]:
        # Proxies and CA bundle from the environment, once per host: `requests` would read them (and .netrc,
        # which would replace our Authorization header) at every call.
        host = url.split("/", 3)[2]
        if host not in self._routes:
            settings = self._session.merge_environment_settings(url, {}, None, None, None)
            self._routes[host] = {key: settings[key] for key in ("proxies", "verify", "cert")}
        return self._routes[host]


class Head(NamedTuple):
    """Status and headers of an answer whose body is still to come."""

    status: int
    headers: Mapping[str, str]


class Exchange:
    """One request on its way. Its owner waits with `head`, `rest` and `receive`; `close` may come at any time."""

    def __init__(
        self,
        send: Callable[..., requests.Response],
        prepared: requests.PreparedRequest,
        route: Mapping[str, Any],
        call: Call,
        settling: "dict[Exchange, float]",
    ) -> None:
        self._send = send
        self._prepared = prepared
        self._route = route
        self._call = call
        self._socket: socket.socket | None = None
        self._settling = settling
        self._begun = False
        self._reading = True
        self._closed = False
        self._waiting_bytes = 0
        self._drained: threading.Event | None = None

    # --- the owner's side

    def head(self, until: float) -> Waiting[Head]:
        """Status and headers. Raises UpstreamTimeout when they have not come by `until` (monotonic seconds)."""
        head: Head = yield from self._next(until)
        self._call.heard_at = self._call.heard_at or time.monotonic()
        return head

    def rest(self, until: float) -> Waiting[bytes]:
        """The whole body."""
        body = bytearray()
        while data := (yield from self._next(until)):
            body += data
            if len(body) > MAX_REPLY:
                raise UpstreamUnavailable(f"The upstream's answer is larger than {MAX_REPLY} bytes.")
        return bytes(body)

    def receive(self, until: float) -> Any:
        """What arrives next: bytes (empty at the end of the body), BEAT, or None when `until` has passed."""
        item = self._call.receive(self, until)
        if isinstance(item, Exception):
            raise item
        if type(item) is bytes:
            self._waiting_bytes -= len(item)
            if (drained := self._drained) and self._waiting_bytes < HIGH_WATER // 2:
                drained.set()
        return item

    def _next(self, until: float) -> Waiting[Any]:
        while (item := self.receive(until)) is BEAT:
            yield "waiting for the model"
        if item is None:
            raise silence()
        return item

    def settle(self) -> None:
        """Nothing more is expected: let the reader see the body's end, so that the connection can be used again.

        The end is in the packet of the last event as a rule. Where it is not, nobody waits: whoever starts the next
        exchange ends this one, if it is still reading after SETTLE_S.
        """
        if not self._closed and self._reading:
            self._closed = True
            self._settling[self] = time.monotonic() + SETTLE_S

    def close(self) -> None:
        """End the exchange at once: a connection still in use is shut down, which also ends its reader."""
        if self in self._settling:
            return
        self.abort()

    def abort(self) -> None:
        """Close, even while the reader settles."""
        self._closed = True
        if drained := self._drained:
            drained.set()
        if (sock := self._socket) is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    # --- the reader's side

    def run(self) -> None:
        """Run the exchange to its end; every outcome becomes an item of the call."""
        try:
            self._read()
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            self._put(_translated(error, begun=self._begun))
        except Exception as error:
            log.error("reading from an upstream failed: %s", without_words(error))
            self._put(InternalError("An internal error occurred while reading from the upstream."))

    def _read(self) -> None:
        _reading.exchange = self
        timeout = (CONNECT_TIMEOUT_S, max(1.0, self._call.ends_at - time.monotonic()) + 1.0)
        response = self._send(self._prepared, stream=True, timeout=timeout, **self._route)
        raw = response.raw
        self._begun = True
        try:
            self._put(Head(response.status_code, response.headers))
            read = _reader(raw)
            while (data := read()) and not self._closed:
                if raw.connection is None:
                    self._socket = None  # the body is read: the connection may be another exchange's by now
                self._waiting_bytes += len(data)
                self._put(data)
                if self._waiting_bytes > HIGH_WATER:
                    self._wait_for_drain()
        finally:
            # A body read to its end has given its connection back to the pool: close() must not touch it any more.
            self._socket = None
            self._reading = False
            self._settling.pop(self, None)
            raw.close()
        self._put(b"")

    def _wait_for_drain(self) -> None:
        self._drained = drained = threading.Event()
        while self._waiting_bytes > HIGH_WATER // 2 and not self._closed:
            drained.wait()
            drained.clear()
        self._drained = None

    def _put(self, item: object) -> None:
        if not self._closed:
            self._call.inbox.put((self, item))

    def on_socket(self, sock: socket.socket) -> None:
        """The connection this exchange runs on is known."""
        self._socket = sock
        if self._closed:
            raise ConnectionAbortedError("nobody waits for this exchange any more")


def _reader(raw: Any) -> Callable[[], bytes]:
    """Reads what has arrived of a body, at least one byte; nothing at its end. Raises when it was cut."""
    body = getattr(raw, "_original_response", None)
    if not isinstance(body, http.client.HTTPResponse) or raw.headers.get("Content-Encoding"):
        return partial(raw.read1, READ_SIZE, decode_content=True)

    # The standard library's own reader, without the two layers that urllib3 puts around every read: they were a
    # fifth of what a token costs.
    def read() -> bytes:
        data = body.read1(READ_SIZE)
        if not data:
            if body.length:
                raise http.client.IncompleteRead(b"", body.length)
            body.close()
            raw.release_conn()
        return data

    return read


def silence() -> UpstreamTimeout:
    """The error of a limit that passed while the upstream said nothing."""
    return UpstreamTimeout("The upstream did not answer in time. Try again, or allow more time with max_time.")


def _translated(error: Exception, begun: bool) -> UpstreamError:
    # By cause, not by class: `requests` calls a read timeout in mid-body a ConnectionError.
    causes = []
    at: BaseException | None = error
    while at is not None and at not in causes:
        causes.append(at)
        reason = getattr(at, "reason", None)
        inner = (
            reason
            if isinstance(reason, BaseException)
            else next((a for a in at.args if isinstance(a, BaseException)), None)
        )
        at = inner or at.__cause__ or at.__context__
    rows = ((said, again) for kind, said, again in _CAUSES if any(isinstance(cause, kind) for cause in causes))
    said, transient = next(rows)
    unavailable = UpstreamUnavailable(said)
    unavailable.transient = transient and not begun
    return unavailable


# The first row of which an error or one of its causes is an instance decides; True: worth another attempt.
_CAUSES: tuple[tuple[type[BaseException], str, bool], ...] = (
    (
        urllib3.exceptions.NameResolutionError,
        "The upstream's host name cannot be resolved. Check HUGGINGFACE_BASE_URL, or the url of its entry.",
        False,
    ),
    (urllib3.exceptions.ProxyError, "The proxy to the upstream failed. Check HTTPS_PROXY.", False),
    (
        urllib3.exceptions.SSLError,
        "The upstream's TLS certificate or handshake failed. Check its url, or REQUESTS_CA_BUNDLE.",
        False,
    ),
    (urllib3.exceptions.NewConnectionError, "The upstream refused the connection. Try again in a moment.", True),
    (
        urllib3.exceptions.ConnectTimeoutError,
        f"The upstream did not accept a connection within {CONNECT_TIMEOUT_S:g} s. Try again in a moment.",
        False,
    ),
    (http.client.IncompleteRead, "The upstream's answer was cut. Try again in a moment.", False),
    (ConnectionError, "The upstream closed the connection. Try again in a moment.", True),
    (BaseException, "The upstream's answer could not be read. Try again in a moment.", False),
)


# --- attempts


def attempts(call: Call, until: float, once: Callable[[], Waiting[T]]) -> Waiting[T]:
    """Run `once` up to MAX_ATTEMPTS times while its failures are transient and `until` leaves time to wait.

    The upstream's own hint (`Retry-After`, `estimated_time`) outranks our backoff. The last error is let through.
    """
    for number in range(MAX_ATTEMPTS):
        try:
            return (yield from once())
        except UpstreamError as error:
            wait = _wait_before_next(number, error)
            if wait is None or time.monotonic() + wait >= until:
                raise
            comment = f"{error.code.replace('_', ' ')}, about {max(1, round(wait))} s"
        yield from call.pause(wait, comment)
    raise AssertionError("unreachable")


def _wait_before_next(number: int, error: UpstreamError) -> float | None:
    if not error.transient or number + 1 >= MAX_ATTEMPTS:
        return None
    backoff = BACKOFF_S[number] * random.uniform(0.75, 1.25)
    return max(error.retry_after_s or 0.0, backoff)


# --- connections that tell their exchange which socket they use

_reading = threading.local()


class _Connection:
    """A connection that names its socket to the exchange running on it, so that closing works in every phase.

    It also sends headers and body in one write: with it and `cork`, sending took 44 % less of a call.
    """

    sock: Any
    _held: list[Any] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        if exchange := getattr(_reading, "exchange", None):
            exchange.on_socket(self.sock)
        self._held = []
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
            held = b"".join(self._held)
        finally:
            self._held = None
        self.send(held)

    def send(self, data: Any) -> None:
        """Send, or hold back while a request is put together."""
        if self._held is None:
            super().send(data)  # type: ignore[misc]
        else:
            self._held.append(data)


class _HTTPConnection(_Connection, HTTPConnection):
    pass


class _HTTPSConnection(_Connection, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, connections: int, maxsize: int, block: bool = DEFAULT_POOLBLOCK, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> urllib3.PoolManager:
        manager: urllib3.PoolManager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
