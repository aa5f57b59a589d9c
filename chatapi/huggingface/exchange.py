"""One request and its answer on a kept connection, with limits that hold in every phase.

Plain blocking code: under gevent a deadline ends it by an exception wherever it blocks, be it a name that is looked up
or a header that comes one byte a second, and so does a caller who leaves. Elsewhere (a test client, a command) the
socket's own timeouts are what there is.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import gevent.monkey

from ..call import MAX_UPSTREAM_REQUESTS, Call
from ..errors import UpstreamTimeout
from ..languages import _
from .connect import NETWORK_ERRORS, Connection, translated
from .failures import said_badly
from .http1 import Response, TimeIsUp

MAX_REPLY = 32 * 1024 * 1024  # bytes of a whole answer
MAX_ERROR = 1024 * 1024  # bytes of one that is an error: only its beginning is looked at
SETTLE_S = 1.0  # how long the end of a body whose last event has come may take
MOST_READS_TO_SETTLE = 16
TURN_S = 0.01  # so long one answer may keep the worker busy with what has already arrived
PAUSE_S = 0.0001  # a turn for all others; gevent.sleep(0) is none, for its loop looks for events after fifty of those


class Exchange:
    """A request on its way, and the answer whose head has come. `kept` is a connection for it, if there is one."""

    __slots__ = ("_alarm", "_call", "_connection", "_deadline", "_is_answered", "response")

    response: Response  # once it is sent

    def __init__(self, call: Call, deadline: float, kept: Connection | None) -> None:
        self._call = call
        self._deadline = deadline
        self._connection = kept
        self._is_answered = False  # the answer's head has come
        self._alarm = _Alarm(call, deadline) if gevent.monkey.is_module_patched("socket") else None

    def send(self, connect: Callable[[float], Connection], data: bytes) -> Response:
        """Send head and body in one write, on the kept connection or a new one, and read the head of the answer."""
        self.response = self._guarded(partial(self._ask, connect, data))
        self._is_answered = True
        return self.response

    def _ask(self, connect: Callable[[float], Connection], data: bytes) -> Response:
        if (kept := self._connection) is not None:
            try:
                return Response(kept.sock, data, self._deadline, self._alarm)
            except (ConnectionResetError, BrokenPipeError):
                # Its server closed it at this very moment, as it may (RFC 9112, 9.3.1): no failure of the model.
                if not self._may_ask_again():
                    raise
            self._connection = None
            kept.close()
        self._connection = connection = connect(max(0.001, self._deadline - time.monotonic()))
        return Response(connection.sock, data, self._deadline, self._alarm)

    def _may_ask_again(self) -> bool:
        """Whether this is the call's first request to its model; the next one counts as any other does."""
        asked = self._call.asked
        if asked and (asked.count(asked[-1]) > 1 or len(asked) >= MAX_UPSTREAM_REQUESTS):
            return False
        asked += asked[-1:]
        return True

    def read(self, deadline: float) -> bytes:
        """What arrives next; nothing at the end of the body. Raises UpstreamTimeout at `deadline` (monotonic)."""
        response = self.response
        self._deadline = response.deadline = deadline
        response.was_late = False
        if self._alarm is not None:
            self._alarm.set(deadline)
        data: bytes = self._guarded(response.read)
        return data

    def rest(self, deadline: float, begun: bytes = b"") -> bytes:
        """The whole body, of which `begun` was read. Raises UpstreamUnavailable beyond MAX_REPLY."""
        body = bytearray(begun)
        while len(body) <= MAX_REPLY and (data := self.read(deadline)):
            body += data
            if time.monotonic() >= deadline:
                raise silence()
        if len(body) > MAX_REPLY:
            raise said_badly(_("The upstream's answer is larger than {bytes} bytes.", bytes=MAX_REPLY))
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
        connection = self._connection
        # The end is in the packet of the last event as a rule.
        if connection is None or self.response.ended or self.response.ends_here():
            self.close()
            return
        self._connection = None
        if self._alarm is not None:
            self._alarm.stop()
            gevent.spawn(_drain, connection, self.response)
        else:
            _drain(connection, self.response)

    def close(self) -> None:
        """End the exchange, and with it a connection whose body has not been read to its end."""
        if self._alarm is not None:
            self._alarm.stop()
        if (connection := self._connection) is not None:
            self._connection = None
            connection.way.take_back(connection, self.response if self._is_answered else None)

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
            raise translated(error, begun=self._is_answered) from None
        finally:
            call.waiting = None


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
    response.alarm, response.deadline = None, time.monotonic() + SETTLE_S
    try:
        for _read in range(MOST_READS_TO_SETTLE):
            if not response.read():
                break
        connection.sock.settimeout(None)
    except Exception:  # whatever it is, nobody is interested
        response.is_kept = False
    connection.way.take_back(connection, response)


def silence() -> UpstreamTimeout:
    """The error of a limit that passed while the upstream said nothing."""
    return UpstreamTimeout(_("The upstream did not answer in time. Try again, or allow more time with max_time."))
