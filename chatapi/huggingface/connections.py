"""How each host is reached, and the connections kept to it. `requests` finds the way: proxies, CA bundle, TLS.

What it would look for at every call is found once per host.
"""

import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import requests
import urllib3
from gevent.monkey import get_original
from requests.adapters import DEFAULT_POOLBLOCK, HTTPAdapter
from requests.utils import requote_uri, select_proxy

from .connect import CONNECT_TIMEOUT_S, POOLS, Context, context_of
from .http1 import Response

MAX_IDLE = 1024  # connections kept per host; fewer would throw away what a burst of streams opened
IDLE_S = 90.0  # how long: servers close sooner as a rule

Connection = Any  # one of urllib3's


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

    def keep(self, connection: Connection) -> None:
        """The connection is free for another exchange."""
        now = time.monotonic()
        while self._idle and (len(self._idle) >= MAX_IDLE or self._idle[0][1] < now - IDLE_S):
            self._idle.popleft()[0].close()
        self._idle.append((connection, now))

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop()[0].close()


def give_back(connection: Connection, response: Response) -> None:
    """Keep a connection whose response has ended, if the server does."""
    way: Way = connection.way
    context = getattr(connection.sock, "context", None)
    if isinstance(context, Context):
        context.remember(connection.sock)
    if response.is_kept:
        way.keep(connection)
    else:
        connection.close()


_poll = get_original("select", "poll")


def _is_quiet(sock: Any) -> bool:
    poll = _poll()
    try:
        poll.register(sock.fileno(), select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError):
        return False


class Adapter(HTTPAdapter):
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


class TracedSession:
    """Sends through requests' session, which OpenTelemetry's instrumentation looks at."""

    def __init__(self, adapter: Adapter) -> None:
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
