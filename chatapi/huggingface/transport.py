"""Sending: one pooled `requests` session per process, and limits that hold in every phase.

Plain blocking code in the call's own greenlet. Under gevent a deadline ends it by an exception wherever it blocks, be
it a name that is looked up or a header that comes one byte a second, and so does a caller who leaves. Elsewhere (a
test client) the socket's own timeouts are what there is.
"""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import gevent
import gevent.monkey
import requests
import urllib3
from requests.adapters import DEFAULT_POOLBLOCK, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ..call import Call
from ..errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable

CONNECT_TIMEOUT_S = 5.0
MAX_REPLY = 64 * 1024 * 1024  # bytes of a whole answer
READ_SIZE = 65_536
SETTLE_S = 1.0  # how long the end of a body whose last event has come may take
POOL_SIZE = 1024  # idle connections kept per host; a smaller pool throws away what a burst of streams opened


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

    def open(self, request: Request, call: Call, deadline: float) -> "Exchange":
        """Send `request` and wait for the answer's head. Close the exchange, whatever happens.

        Raises UpstreamUnavailable, UpstreamTimeout, or what interrupts the call.
        """
        prepared = requests.PreparedRequest()
        prepared.method = "GET" if request.payload is None else "POST"
        prepared.url = request.url
        prepared.headers = requests.structures.CaseInsensitiveDict({**self._headers, **request.headers, **call.headers})
        if request.payload is not None:
            # The caller's strings were checked for unpaired surrogates, so this encodes.
            prepared.body = json.dumps(request.payload, ensure_ascii=False, separators=(",", ":")).encode()
            prepared.headers["Content-Length"] = str(len(prepared.body))
        prepared.hooks = {}
        left_s = max(0.001, deadline - time.monotonic())
        timeout = (min(CONNECT_TIMEOUT_S, left_s), left_s)
        send = partial(self._send, prepared, stream=True, timeout=timeout, **self._route(request.url))
        response = _within(call, deadline, send, begun=False)
        if call.first_byte_at is None:
            call.first_byte_at = time.monotonic()
        return Exchange(response, call)

    def _send_traced(self, prepared: requests.PreparedRequest, **how: Any) -> requests.Response:
        # The session adds cookies, hooks and redirects, of which we use none, and is what instrumentation looks at.
        return self._session.send(prepared, allow_redirects=False, **how)

    def fetch(self, request: Request, call: Call, deadline: float) -> Answer:
        """A whole answer, whatever its status. Raises as `open` does."""
        with contextlib.closing(self.open(request, call, deadline)) as exchange:
            return Answer(exchange.status, exchange.headers, exchange.rest(deadline))

    def _route(self, url: str) -> Mapping[str, Any]:
        # Proxies and CA bundle from the environment, once per host: `requests` would read them (and .netrc,
        # which would replace our Authorization header) at every call.
        host = url.split("/", 3)[2]
        if host not in self._routes:
            settings = self._session.merge_environment_settings(url, {}, None, None, None)
            self._routes[host] = {key: settings[key] for key in ("proxies", "verify", "cert")}
        return self._routes[host]


class Exchange:
    """An answer whose head has come."""

    def __init__(self, response: requests.Response, call: Call) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._raw: Any = response.raw
        self._read = _reader(self._raw)
        self._call = call
        self._settling = False

    def read(self, deadline: float) -> bytes:
        """What arrives next; nothing at the end of the body. Raises UpstreamTimeout at `deadline` (monotonic)."""
        connection = self._raw.connection
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
        data: bytes = _within(self._call, deadline, self._read, begun=True)
        return data

    def rest(self, deadline: float) -> bytes:
        """The whole body."""
        body = bytearray()
        while data := self.read(deadline):
            body += data
            if len(body) > MAX_REPLY:
                raise UpstreamUnavailable(f"The upstream's answer is larger than {MAX_REPLY} bytes.")
        return bytes(body)

    def settle(self) -> None:
        """Nothing more is expected: let the body end, so that the connection can be used again. Nobody waits for it."""
        self._settling = True
        if gevent.monkey.is_module_patched("socket"):
            gevent.spawn(self._settle)
        else:
            self._settle()

    def _settle(self) -> None:
        with gevent.Timeout(SETTLE_S, False), contextlib.suppress(Exception):
            while self._read():
                pass
        self._raw.close()

    def close(self) -> None:
        """End the exchange, and with it a connection whose body has not been read to its end."""
        if not self._settling:
            self._raw.close()


def _within(call: Call, deadline: float, do: Callable[[], Any], begun: bool) -> Any:
    """What `do` returns, unless `deadline` passes, the call is interrupted or the connection fails."""
    timer = gevent.Timeout.start_new(max(0.0, deadline - time.monotonic()))
    try:
        return call.wait(do)
    except gevent.Timeout as timeout:
        if timeout is not timer:
            raise
        raise silence() from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        if time.monotonic() >= deadline - 0.005:  # the socket's own timeout was it
            raise silence() from None
        raise _translated(error, begun) from None
    finally:
        timer.close()


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


# --- connections that send head and body in one write


class _Connection:
    """Holds a request back until it is whole: sending took 44 % less of a call."""

    sock: Any
    _held: list[Any] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
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
