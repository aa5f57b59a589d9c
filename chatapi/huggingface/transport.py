"""Sending: what goes to every upstream, and the connections to each, of which a call's exchange takes one.

`requests` finds the way once per host (proxies, CA bundle, TLS); a call's own greenlet then speaks on the connection
itself.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..call import Call
from ..compact_json import text_pieces
from .connections import Adapter, TracedSession, Way
from .exchange import Exchange
from .http1 import Response

MAX_HEADS = 1000  # urls whose head is remembered: a classic one has the model's id in it


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


class Transport:
    """The process's one door to the network. `token` is sent to every upstream, all of them operator-configured."""

    def __init__(self, token: str | None, user_agent: str, traced: bool = False) -> None:
        self.token = token
        self._adapter = Adapter()
        self._session = TracedSession(self._adapter) if traced else None
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
        exchange = Exchange(call, deadline)
        try:
            if self._session is None:
                exchange.send(way, head + body)
            else:

                def send(headers: Mapping[str, str]) -> Response:
                    return exchange.send(way, self._head_of(method, url, headers, len(body))[1] + body)

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
            return Answer(exchange.status, exchange.headers, exchange.rest(deadline))


def _fields(headers: Mapping[str, str]) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    text = "".join(lines)
    if text.count("\r") + text.count("\n") != 2 * len(lines):  # a line end in a value would begin a field of its own
        text = "".join(line for line in lines if line.count("\r") + line.count("\n") == 2)
    return text.encode("latin-1", "replace")
