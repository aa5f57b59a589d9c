"""New connections: names looked up once per NAMES_S, TLS sessions resumed, and what can go wrong by its cause.

In a burst of openings looking up names, and reading the CA bundle for each connection, were most of the work.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any

import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ..errors import UpstreamUnavailable, causes
from ..languages import N_, _
from .http1 import BadResponse, CutShort

CONNECT_TIMEOUT_S = 5.0
NAMES_S = 10.0

Connection = Any  # one of urllib3's, and `way`, whose it is

# What may come of a connection; the errors of requests are OSErrors.
NETWORK_ERRORS = (BadResponse, CutShort, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)


class Context(ssl.SSLContext):
    """Resumes the last session of each host."""

    sessions: dict[str, Any]

    def remember(self, sock: Any) -> None:
        """The session of a connection whose tickets have come."""
        if sock.server_hostname:
            self.sessions[sock.server_hostname] = sock.session

    def wrap_socket(self, sock: Any, *args: Any, **more: Any) -> Any:
        """As any context's, with the session that was kept for the host."""
        more.setdefault("session", self.sessions.get(more.get("server_hostname") or ""))
        return super().wrap_socket(sock, *args, **more)


def context_of(tls: Mapping[str, Any]) -> Context:
    """The context for what `requests` found out about a host."""
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.sessions = {}
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.get("cert_reqs") == "CERT_NONE":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        bundle, folder = tls.get("ca_certs"), tls.get("ca_cert_dir")
        context.load_verify_locations(bundle if bundle or folder else DEFAULT_CA_BUNDLE_PATH, folder)
    return context


# --- new connections


class _Names:
    """The addresses of hosts, looked up once per NAMES_S."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, list[Any]]] = {}
        self._locks: dict[tuple[str, int], threading.Lock] = {}

    def addresses(self, host: str, port: int) -> list[Any]:
        """As socket.getaddrinfo. Raises socket.gaierror."""
        key = (host, port)
        with self._locks.setdefault(key, threading.Lock()):
            due_at, found = self._known.get(key, (0.0, []))
            if time.monotonic() >= due_at:
                found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
                self._known[key] = time.monotonic() + NAMES_S, found
            return found

    def forget(self, host: str, port: int) -> None:
        """Its addresses do not answer: look again."""
        self._known.pop((host, port), None)


_names = _Names()


class _Connecting:
    """Connects to the addresses that are known for a host, one after another."""

    def _new_conn(self: Any) -> socket.socket:
        deadline = time.monotonic() + self.timeout
        failed: OSError = OSError("no address")
        try:
            addresses = _names.addresses(self._dns_host, self.port)
        except (socket.gaierror, UnicodeError) as error:
            reason = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise urllib3.exceptions.NameResolutionError(self.host, self, reason) from error
        for family, kind, protocol, _name, address in addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                failed = error
            except BaseException:
                sock.close()
                raise
        _names.forget(self._dns_host, self.port)
        if isinstance(failed, TimeoutError):
            raise urllib3.exceptions.ConnectTimeoutError(self, str(failed)) from failed
        raise urllib3.exceptions.NewConnectionError(self, str(failed)) from failed


class _HTTPConnection(_Connecting, HTTPConnection):
    pass


class _HTTPSConnection(_Connecting, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


# --- what can go wrong, by cause

# The first row of which an error or one of its causes is an instance decides: `UpstreamUnavailable.failed`, the
# message, and whether it is worth another attempt.
_CAUSES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, str, bool], ...] = (
    (
        urllib3.exceptions.NameResolutionError,
        "name",
        N_("The upstream's host name cannot be resolved. Check HUGGINGFACE_BASE_URL, or the url of its entry."),
        False,
    ),
    (urllib3.exceptions.ProxyError, "proxy", N_("The proxy to the upstream failed. Check HTTPS_PROXY."), False),
    (
        (urllib3.exceptions.SSLError, ssl.SSLError, ssl.CertificateError),
        "handshake",
        N_("The upstream's TLS certificate or handshake failed. Check its url, or REQUESTS_CA_BUNDLE."),
        False,
    ),
    (
        urllib3.exceptions.NewConnectionError,
        "connection",
        N_("The upstream refused the connection. Try again in a moment."),
        True,
    ),
    (
        urllib3.exceptions.ConnectTimeoutError,
        "no connection in time",
        N_("The upstream did not accept a connection within {seconds} s. Try again in a moment."),
        False,
    ),
    (CutShort, "answer cut", N_("The upstream's answer was cut. Try again in a moment."), False),
    (ConnectionError, "closed", N_("The upstream closed the connection. Try again in a moment."), True),
    (BaseException, "answer", N_("The upstream's answer could not be read. Try again in a moment."), False),
)


def translated(error: BaseException, begun: bool) -> UpstreamUnavailable:
    """Our error for one of the network's; `begun`: the answer's head had come, so that nothing is tried again."""
    rows = (row[1:] for row in _CAUSES if any(isinstance(cause, row[0]) for cause in causes(error)))
    failed, message, transient = next(rows)
    unavailable = UpstreamUnavailable(_(message, seconds=f"{CONNECT_TIMEOUT_S:g}"))
    unavailable.failed = failed
    unavailable.transient = transient and not begun
    return unavailable
