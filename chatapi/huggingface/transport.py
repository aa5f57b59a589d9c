"""Sending: what goes to every upstream, how each host is reached, and the connections kept to it.

`requests` finds the way once per host: proxies, CA bundle, TLS. A call's own greenlet then speaks on the connection
itself.
"""

import contextlib
import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import requests
import urllib3
from gevent.monkey import get_original
from requests.adapters import DEFAULT_POOLBLOCK, HTTPAdapter
from requests.utils import requote_uri, select_proxy

from ..call import Call
from ..compact_json import text_pieces
from .connect import CONNECT_TIMEOUT_S, POOLS, Connection, Context, context_of
from .exchange import Exchange
from .http1 import Response

MAX_HEADS = 1000  # urls whose head is remembered: a classic one has the model's id in it
MAX_IDLE = 1024  # connections kept per host; fewer would throw away what a burst of streams opened
IDLE_S = 90.0  # how long: servers close sooner as a rule


@dataclass(slots=True)
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


class Way:
    """How the host of an url is reached."""

    def __init__(self, pool: Any, host: str, origin: str, proxy_headers: Mapping[str, str], forwarded: bool) -> None:
        self.host = host
        self.proxy_headers = proxy_headers
        self._pool = pool
        self._origin = origin
        self._forwarded = forwarded  # by a proxy that wants to be told the whole url
        self._idle: deque[tuple[Connection, float]] = deque()

    def target_of(self, url: str) -> str:
        """The request's target."""
        target: str = requote_uri(url if self._forwarded else url.removeprefix(self._origin) or "/")
        return target

    def idle(self) -> Connection | None:
        """A kept connection that is still there, and on which nothing came unasked."""
        while self._idle:
            connection, _since = self._idle.pop()
            if _is_quiet(connection.sock):
                return connection
            connection.close()
        return None

    def connect(self, timeout_s: float) -> Connection:
        """A new connection. Raises urllib3's errors, OSError."""
        connection = self._pool._new_conn()
        connection.timeout = min(CONNECT_TIMEOUT_S, timeout_s)
        try:
            if self._pool.proxy is not None and not self._forwarded:
                self._pool._prepare_proxy(connection)  # CONNECT
            else:
                connection.connect()
        except BaseException as error:
            proxys = self._is_the_proxys(connection, error)  # closing forgets how far it came
            connection.close()
            if proxys:
                raise urllib3.exceptions.ProxyError(str(error), error) from error  # type: ignore[arg-type]
            raise
        connection.way = self
        connection.sock.settimeout(None)
        return connection

    def _is_the_proxys(self, connection: Connection, error: BaseException) -> bool:
        """Whether it was the proxy that failed: nobody is there, or it refuses the tunnel."""
        if self._pool.proxy is None or not isinstance(error, OSError | urllib3.exceptions.HTTPError):
            return False
        return not connection.has_connected_to_proxy or str(error).startswith("Tunnel connection failed")

    def take_back(self, connection: Connection, response: Response | None) -> None:
        """Keep a connection for another exchange, if its response has ended and the server keeps it too."""
        if response is None or not response.ended:
            connection.close()
            return
        if isinstance(context := getattr(connection.sock, "context", None), Context):
            context.remember(connection.sock)
        if not response.is_kept:
            connection.close()
            return
        now = time.monotonic()
        while self._idle and (len(self._idle) >= MAX_IDLE or self._idle[0][1] < now - IDLE_S):
            self._idle.popleft()[0].close()
        self._idle.append((connection, now))

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop()[0].close()


_poll = get_original("select", "poll")


def _is_quiet(sock: Any) -> bool:
    poll = _poll()
    try:
        poll.register(sock.fileno(), select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError):
        return False


class Transport:
    """The process's one door to the network. `token` is sent to every upstream, all of them operator-configured."""

    def __init__(self, token: str | None, user_agent: str, traced: bool = False) -> None:
        self.token = token
        self._adapter = _Adapter()
        self._session = _TracedSession(self._adapter) if traced else None
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._heads: dict[tuple[str, str], tuple[Way, bytes]] = {}

    def open(self, request: Request, call: Call, deadline: float) -> Exchange:
        """Send `request` and wait for the answer's head, until `deadline` (monotonic). Close the exchange in any case.

        Raises UpstreamUnavailable, UpstreamTimeout, or what interrupts the call.
        """
        method, url = "GET" if request.payload is None else "POST", request.url
        # The caller's strings were checked for unpaired surrogates, so this encodes.
        body = b"" if request.payload is None else "".join(text_pieces(request.payload)).encode()
        headers = {**request.headers, **call.headers}
        way, head = self._head_of(method, url, headers, len(body))
        exchange = Exchange(call, deadline, way.idle())
        try:
            if self._session is None:
                exchange.send(way.connect, head + body)
            else:

                def send(headers: Mapping[str, str]) -> Response:
                    return exchange.send(way.connect, self._head_of(method, url, headers, len(body))[1] + body)

                self._session.send(method, url, headers, send)
        except BaseException:
            exchange.close()
            raise
        if call.first_byte_at is None:
            call.first_byte_at = time.monotonic()
        return exchange

    def close(self) -> None:
        """Close the connections that are kept."""
        self._adapter.close()

    def _head_of(self, method: str, url: str, headers: Mapping[str, str], length: int) -> tuple[Way, bytes]:
        """How the host of `url` is reached, and the head of a request there."""
        if (known := self._heads.get((method, url))) is None:
            known = self._own_head(method, url, {})
            if len(self._heads) < MAX_HEADS:
                self._heads[method, url] = known
        if headers.keys() & self._headers.keys():  # one of ours is replaced
            known = self._own_head(method, url, headers)
        way, head = known
        return way, head + _fields({**headers, "Content-Length": str(length)}) + b"\r\n"

    def _own_head(self, method: str, url: str, but: Mapping[str, str]) -> tuple[Way, bytes]:
        """The request line, and the fields that every request there has, but for those of these names."""
        way = self._adapter.way_to(url)
        fields = {"Host": way.host, **self._headers, **way.proxy_headers}
        kept = {name: value for name, value in fields.items() if name not in but}
        return way, f"{method} {way.target_of(url)} HTTP/1.1\r\n".encode("ascii") + _fields(kept)

    def fetch(self, request: Request, call: Call, deadline: float) -> Answer:
        """A whole answer, whatever its status. Raises as `open` does."""
        with contextlib.closing(self.open(request, call, deadline)) as exchange:
            return Answer(exchange.response.status, exchange.response.headers, exchange.rest(deadline))


def _fields(headers: Mapping[str, str]) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    text = "".join(lines)
    if text.count("\r") + text.count("\n") != 2 * len(lines):  # a line end in a value would begin a field of its own
        text = "".join(line for line in lines if line.count("\r") + line.count("\n") == 2)
    return text.encode("latin-1", "replace")


class _Adapter(HTTPAdapter):
    """requests' adapter, for the ways it finds; sending is done by whoever asks for a way."""

    def __init__(self) -> None:
        super().__init__()
        self._ways: dict[str, Way] = {}

    def way_to(self, url: str) -> Way:
        """How the host of `url` is reached; found once."""
        scheme, _, rest = url.partition("://")
        host = rest.partition("/")[0]
        origin = f"{scheme}://{host}"
        if (way := self._ways.get(origin)) is None:
            way = self._ways[origin] = self._find(url, host, origin)
        return way

    def close(self) -> None:
        """Close the connections that are kept."""
        super().close()
        for way in self._ways.values():
            way.close()

    def _find(self, url: str, host: str, origin: str) -> Way:
        # From the environment; a call's own session would read .netrc too, which replaces our Authorization header.
        with requests.Session() as session:
            found = session.merge_environment_settings(url, {}, None, None, None)
        request = requests.PreparedRequest()
        request.method, request.url = "POST", url
        pool = self.get_connection_with_tls_context(request, found["verify"], found["proxies"], found["cert"])
        proxy = select_proxy(url, found["proxies"])
        forwarded = bool(proxy) and url.startswith("http://")
        return Way(pool, host, origin, self.proxy_headers(proxy) if proxy and forwarded else {}, forwarded)

    def send(self, request: Any, *args: Any, **how: Any) -> requests.Response:
        """What a traced session calls: the exchange is the one that was put into `request`."""
        answer: Response = request.exchange(request.headers)
        response = requests.Response()
        response.status_code, response.request, response.url = answer.status, request, request.url
        response.headers = requests.structures.CaseInsensitiveDict(answer.headers)
        return response

    # --- TLS

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """As requests', but the CA bundle is read once for all connections rather than for each."""
        host, tls = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": context_of(tls)} if host["scheme"] == "https" else tls

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = DEFAULT_POOLBLOCK, **more: Any) -> None:
        """Pools of our own connections."""
        super().init_poolmanager(connections, maxsize, block, **more)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **more: Any) -> urllib3.PoolManager:
        """The same behind a proxy."""
        manager: urllib3.PoolManager = super().proxy_manager_for(proxy, **more)
        manager.pool_classes_by_scheme = POOLS
        return manager


class _TracedSession:
    """Sends through requests' session, which OpenTelemetry's instrumentation looks at."""

    def __init__(self, adapter: _Adapter) -> None:
        self._session = requests.Session()
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def send(
        self, method: str, url: str, headers: Mapping[str, str], exchange: Callable[[Mapping[str, str]], Response]
    ) -> None:
        """Let `exchange` run, given the headers with those that the instrumentation has added."""
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.hooks = method, url, {}
        prepared.headers = requests.structures.CaseInsensitiveDict(headers)
        prepared.exchange = exchange  # type: ignore[attr-defined]
        self._session.send(prepared, allow_redirects=False, stream=True, proxies={})
