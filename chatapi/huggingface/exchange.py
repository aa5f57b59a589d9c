"""One request and its answer on a kept connection, with limits that hold in every phase.

Plain blocking code: under gevent a deadline ends it by an exception wherever it blocks, be it a name that is looked up
or a header that comes one byte a second, and so does a caller who leaves. Elsewhere (a test client, a command) the
socket's own timeouts are what there is.
"""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import gevent
import gevent.monkey
import gevent.socket

from ..call import Call
from ..errors import UpstreamTimeout
from ..languages import _
from .connect import NETWORK_ERRORS, translated
from .connections import Connection, Way, give_back
from .failures import said_badly
from .http1 import READ_SIZE, Headers, Response

MAX_REPLY = 32 * 1024 * 1024  # bytes of a whole answer
MAX_ERROR = 1024 * 1024  # bytes of one that is an error: only its beginning is looked at
SETTLE_S = 1.0  # how long the end of a body whose last event has come may take
MOST_READS_TO_SETTLE = 16
TURN_S = 0.01  # so long one answer may keep the worker busy with what has already arrived
PAUSE_S = 0.0001  # a turn for all others; gevent.sleep(0) is none, for its loop looks for events after fifty of those


class Exchange:
    """A request on its way, and the answer whose head has come."""

    __slots__ = ("_alarm", "_call", "_connection", "_deadline", "_response", "_was_late", "headers", "status")

    status: int
    headers: Headers

    def __init__(self, call: Call, deadline: float) -> None:
        self._call = call
        self._deadline = deadline
        self._connection: Connection | None = None
        self._response: Response | None = None
        self._was_late = False  # something has been read behind the deadline
        self._alarm = _Alarm(call, deadline) if gevent.monkey.is_module_patched("socket") else None

    def send(self, way: Way, data: bytes) -> Response:
        """Send head and body in one write, on a kept connection or a new one, and read the head of the answer."""
        self._connection = connection = way.idle() or self._guarded(partial(way.connect, self._left_s()))
        if self._alarm is None:
            connection.sock.settimeout(self._left_s())
        response: Response = self._guarded(partial(self._ask, data))
        self._response = response
        self.status, self.headers = response.status, response.headers
        return response

    def read(self, deadline: float) -> bytes:
        """What arrives next; nothing at the end of the body. Raises UpstreamTimeout at `deadline` (monotonic)."""
        assert self._response is not None
        self._deadline = deadline
        self._was_late = False
        if self._alarm is not None:
            self._alarm.set(deadline)
        data: bytes = self._guarded(self._response.read)
        if self._response.ended:
            self._release()
        return data

    def rest(self, deadline: float, begun: bytes = b"", most: int = MAX_REPLY) -> bytes:
        """The whole body, of which `begun` was read. Raises UpstreamUnavailable where it has more than `most` bytes."""
        body = bytearray(begun)
        response = self._response
        assert response is not None
        while len(body) <= most and (response.is_compressed or not response.ended) and (data := self.read(deadline)):
            body += data
            if time.monotonic() >= deadline:
                raise silence()
        if len(body) > most:
            raise said_badly(_("The upstream's answer is larger than {bytes} bytes.", bytes=most))
        return bytes(body)

    def beginning(self, deadline: float) -> bytes:
        """The beginning of the body of an error; the rest is not read."""
        body = bytearray()
        while len(body) < MAX_ERROR and time.monotonic() < deadline and (data := self.read(deadline)):
            body += data
        return bytes(body)

    def let_others(self) -> None:
        """A turn for the worker's other connections, where this answer has kept it busy for long."""
        if self._alarm is not None:
            self._alarm.take_turns()

    def settle(self) -> None:
        """Nothing more is expected: let the body end, so that the connection can be used again. Nobody waits for it."""
        if self._response is None or self._connection is None:
            return
        # The end is in the packet of the last event as a rule.
        if self._response.ends_here():
            self._release()
        elif self._alarm is not None:
            self._alarm.stop()
            gevent.spawn(_drain, self._connection, self._response)
            self._connection = self._response = None
        else:
            self._connection.sock.settimeout(SETTLE_S)
            _drain(self._connection, self._response)
            self._connection = self._response = None

    def close(self) -> None:
        """End the exchange, and with it a connection whose body has not been read to its end."""
        if self._alarm is not None:
            self._alarm.stop()
        if self._response is not None:
            self._response.receive = _receive_nothing  # not ours any more: no circle is left to the collector
        if (connection := self._connection) is not None:
            self._connection = None
            connection.close()

    def _release(self) -> None:
        """The body has ended: its connection may be another exchange's from here on."""
        if self._alarm is not None:
            self._alarm.stop()
        connection, self._connection = self._connection, None
        if connection is not None and self._response is not None:
            give_back(connection, self._response)

    # --- waiting

    def _left_s(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def _ask(self, data: bytes) -> Response:
        try:
            self._transmit(data)
        except NETWORK_ERRORS:
            # It may have answered without reading all of a large body; what it said counts then.
            if len(data) < READ_SIZE:
                raise
        return Response(self._receive)

    def _transmit(self, data: bytes) -> None:
        assert self._connection is not None
        sock = self._connection.sock
        if type(sock) is gevent.socket.socket:
            with contextlib.suppress(BlockingIOError):  # what follows waits
                data = data[sock._sock.send(data) :]
        if data:
            sock.sendall(data)

    def _receive(self, size: int) -> bytes:
        assert self._connection is not None
        sock = self._connection.sock
        if self._alarm is None:
            sock.settimeout(self._left_s())
            data: bytes = sock.recv(size)
            return data
        try:
            if type(sock) is gevent.socket.socket:
                # Nothing is there yet as a rule, and asking costs an error: to wait first is quicker. It is also a turn
                # for all others.
                sock.hub.wait(sock._read_event)
                try:
                    return cast(bytes, sock._sock.recv(size))
                except BlockingIOError:
                    pass  # it was nothing: what follows waits
            else:
                self._alarm.take_turns()
            data = sock.recv(size)
        except TimeIsUp:
            # Held up ourselves we are late: what has arrived meanwhile was no silence. That goes for one look only.
            if self._was_late:
                raise
            self._was_late = True
            sock.settimeout(0.0)
            try:
                data = sock.recv(size)
            except OSError:
                raise TimeIsUp from None
            sock.settimeout(None)
            self._alarm.set(self._deadline)
        return data

    def _guarded(self, do: Callable[[], Any]) -> Any:
        """What `do` returns, unless the deadline passes, the call is interrupted or the connection fails."""
        call = self._call
        if call.interruption is not None:
            raise call.interruption
        call.waiting = gevent.getcurrent()
        try:
            return do()
        except TimeIsUp:
            raise silence() from None
        except NETWORK_ERRORS as error:
            if time.monotonic() >= self._deadline - 0.005:  # the socket's own timeout was it
                raise silence() from None
            raise translated(error, begun=self._response is not None) from None
        finally:
            call.waiting = None


def _receive_nothing(size: int) -> bytes:
    return b""


class TimeIsUp(BaseException):
    """Raised in a call's greenlet where it waits when the deadline of its exchange passes."""


class _Alarm:
    """Ends a call's waiting when its exchange's deadline passes. One timer, set anew when it fires too early."""

    def __init__(self, call: Call, deadline: float) -> None:
        self._call = call
        self._deadline = deadline
        self._loop = gevent.get_hub().loop
        self._timer: Any = None
        self._fires_at = 0.0
        self._turn = self._turn_began = 0.0
        self.set(deadline)

    def set(self, deadline: float) -> None:
        """The deadline is another one."""
        self._deadline = deadline
        if self._timer is None or deadline < self._fires_at:
            self._start(deadline - time.monotonic())

    def stop(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def take_turns(self) -> None:
        """Before a read: a socket that always has data never waits, and so must let others have their turn."""
        turn, now = self._loop.now(), time.monotonic()
        if turn != self._turn:
            self._turn, self._turn_began = turn, now
        elif now - self._turn_began > TURN_S:
            gevent.sleep(PAUSE_S)

    def _start(self, seconds: float) -> None:
        self.stop()
        self._fires_at = time.monotonic() + max(0.0, seconds)
        self._timer = self._loop.timer(max(0.0, seconds))
        self._timer.start(self._due)

    def _due(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s > 0.001:
            self._start(left_s)
        else:
            self.stop()
            self._call.wake(TimeIsUp())


def _drain(connection: Connection, response: Response) -> None:
    """Read to the end of a body of which nothing more is wanted, for a while."""
    response.receive = connection.sock.recv
    try:
        with gevent.Timeout(SETTLE_S, False):
            for _read in range(MOST_READS_TO_SETTLE):
                if not response.read():
                    break
    except Exception:  # whatever it is, nobody is interested
        response.is_kept = False
    if response.ended:
        give_back(connection, response)
    else:
        connection.close()


def silence() -> UpstreamTimeout:
    """The error of a limit that passed while the upstream said nothing."""
    return UpstreamTimeout(_("The upstream did not answer in time. Try again, or allow more time with max_time."))
