"""The bytes of one connection: read in turns, written in order, both with a deadline.

Below gevent's own socket, whose `recv` and `sendall` cost several times the system call: here the system's is asked
first, and gevent's loop only where it would block. No timer is made but for who has to wait.
"""

import socket
import ssl
import time
from contextlib import suppress
from typing import Any

import gevent
from gevent.event import Event

TURN_S = 0.01  # so long one connection may keep the worker busy with what has already arrived
UNREAD_S = 60.0  # a caller who does not read an answer that has no deadline of its own is left after this time
# What an answered caller is still sending is thrown away for a moment: closing at once would reset the connection, and
# the caller would not see the answer.
LINGER_S = 1.0
LINGERING = 32 * 1024 * 1024

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_NOWHERE = bytearray(1024 * 1024)


class Wire:
    """A client's socket. What gunicorn's parser reads from."""

    def __init__(self, client: Any) -> None:
        self._client = client  # gevent's socket
        self._sock = client._sock  # the system's below it, which never waits
        self.fd: int = client.fileno()
        tls = getattr(client, "_sslobj", None)
        self._receive = tls.read if tls else self._sock.recv
        self._transmit = tls.write if tls else self._sock.send
        self._tls = tls is not None
        self.hub, self._readable, self._writable = client.hub, client._read_event, client._write_event
        self.received = 0  # bytes, ever
        self.read_deadline: float | None = None  # monotonic
        self.write_deadline: float | None = None  # monotonic; after it a caller who does not read has left
        self.continues = False  # the caller waits for "100 Continue" before it sends the body
        self.broken = False  # nothing more can be sent
        self.path = ""  # of the request line, as soon as it is read
        self._answered = False
        self._since = time.monotonic()  # it has its turn
        self._blocked: Event | None = None

    # --- reading

    def recv(self, size: int) -> bytes:
        """What has arrived, at most `size` bytes; b"" at the end. Raises OSError.

        Other connections get their turn: a socket that always has data never waits by itself.
        """
        if self.continues:  # asked for only now: nobody has to send a body that nobody reads
            self.continues = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._answered or time.monotonic() - self._since > TURN_S:
            # Waiting for what is there already is a turn for all others; gevent.sleep(0) is not: gevent's loop looks
            # for events again only after fifty of those.
            self._answered = False
            self._wait(self._readable, self.read_deadline)
        while True:
            try:
                data: bytes = self._receive(size)
            except _WOULD_BLOCK:
                self._wait(self._readable, self.read_deadline)
            except ssl.SSLError:
                return b""
            else:
                self.received += len(data)
                return data

    def request_done(self) -> None:
        """A request was answered: to wait for the next is quicker than to look for it first."""
        self._answered = not self._tls  # TLS may hold what it has already read
        self.path = ""

    def stop_reading(self) -> None:
        """Nothing more will be asked: what has arrived is still read and answered, and then comes the end."""
        # On the system's socket, for gevent's own would break off the read.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    # --- writing

    def take_turn(self) -> None:
        """Wait until whoever is sending has sent all: what two greenlets write is not mixed. Raises OSError."""
        while self._blocked is not None:
            self._blocked.wait()
        if self.broken:
            raise BrokenPipeError

    def send(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError, TimeoutError at `write_deadline`."""
        try:
            sent = self._transmit(data)
        except _WOULD_BLOCK:
            sent = 0
        except OSError:
            self.broken = True
            raise
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, data: memoryview) -> None:
        self._blocked = blocked = Event()
        if self.write_deadline is None:
            self.write_deadline = time.monotonic() + UNREAD_S
        self.broken = True  # until all is sent: in the middle of a frame nothing else can follow
        try:
            while data:
                self._wait(self._writable, self.write_deadline)
                with suppress(*_WOULD_BLOCK):
                    data = data[self._transmit(data) :]
                if time.monotonic() > self.write_deadline:
                    raise TimeoutError
            self.broken = False
        finally:
            self._blocked = None
            blocked.set()

    def _wait(self, watcher: Any, deadline: float | None) -> None:
        """Until `watcher` has seen something. Raises TimeoutError at `deadline` (monotonic)."""
        if deadline is None:
            self.hub.wait(watcher)
        else:
            with gevent.Timeout(max(0.0, deadline - time.monotonic()), TimeoutError()):
                self.hub.wait(watcher)
        self._since = time.monotonic()

    # --- the end

    def close(self, linger: bool) -> None:
        """Close it; `linger`: after having thrown away for a moment what is still coming."""
        try:
            if linger and not self.broken:
                self._linger()
        finally:
            self._client.close()

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
