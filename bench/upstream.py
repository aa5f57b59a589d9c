"""A model server that streams at a steady pace: `python bench/upstream.py PORT SECONDS_BETWEEN_TOKENS`.

Answers every POST with as many tokens as its `max_tokens` says. One thread on one epoll and precomputed events, so that
2,000 streams of 20 tokens a second cost the load's core about a third of it.
"""

import json
import re
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

CONTENT_LENGTH = re.compile(rb"content-length: *(\d+)", re.I)
MAX_TOKENS = re.compile(rb'"max_tokens": *(\d+)')
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    """One event as Hugging Face's router writes it."""
    head = {"id": "chatcmpl-canned", "object": "chat.completion.chunk", "created": 1767225600, "model": "canned"}
    return b"data: " + json.dumps({**head, "choices": choices, **more}, separators=(",", ":")).encode() + b"\n\n"


def token(number: int) -> bytes:
    """The event of one token."""
    return event([{"index": 0, "delta": {"content": f" word{number}"}, "finish_reason": None}])


ROLE = event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
FINISH = event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
DONE = b"data: [DONE]\n\n"
EVENTS_BESIDE_TOKENS = 4  # the role, the finish, the usage, [DONE]


def usage(tokens: int) -> bytes:
    """The event that ends a stream of `tokens`."""
    return event([], usage={"prompt_tokens": 12, "completion_tokens": tokens, "total_tokens": 12 + tokens})


def canned_stream(events: int) -> bytes:
    """A whole stream of so many events."""
    tokens = events - EVENTS_BESIDE_TOKENS
    return b"".join([ROLE, *(token(n) for n in range(tokens)), FINISH, usage(tokens), DONE])


CANNED_REPLY = {
    "id": "chatcmpl-canned",
    "object": "chat.completion",
    "created": 1767225600,
    "model": "canned",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Brazil is the largest country in South America."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21},
}


def framed(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


TOKENS = [framed(token(number)) for number in range(100)]


@dataclass(eq=False, slots=True)
class Connection:
    """One connection of the gateway's, and the stream on it."""

    sock: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""
    sent_tokens: int = 0
    tokens: int = 0

    def next_request(self) -> bool:
        """Whether a whole request has come; then the stream it asks for begins."""
        head, separator, rest = self.received.partition(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head)
        if not separator or len(rest) < (size := int(length[1]) if length else 0):
            return False
        asked = MAX_TOKENS.search(rest)
        self.received = rest[size:]
        self.sent_tokens, self.tokens = 0, int(asked[1]) if asked else 100
        return True

    def send_next(self) -> bool:
        """Send what did not fit before, and the next token; whether more is to follow. Raises OSError."""
        data = self.unsent
        if self.sent_tokens < self.tokens:
            data += HEAD + framed(ROLE) if self.sent_tokens == 0 else b""
            data += TOKENS[self.sent_tokens % len(TOKENS)]
            self.sent_tokens += 1
            if self.sent_tokens == self.tokens:
                data += framed(FINISH) + framed(usage(self.tokens)) + framed(DONE) + b"0\r\n\r\n"
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        self.unsent = data[sent:]
        return bool(self.unsent) or self.sent_tokens < self.tokens


def serve(port: int, pace_s: float) -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    connections: dict[int, Connection] = {}
    due: deque[tuple[float, Connection]] = deque()  # the pace is the same for all, so what is appended is due last

    def step(connection: Connection, at: float) -> None:
        try:
            if connection.send_next():
                due.append((at + pace_s, connection))
        except OSError:  # the caller has left
            close(connection)

    def close(connection: Connection) -> None:
        connections.pop(connection.sock.fileno(), None)
        connection.sock.close()

    while True:
        timeout_s = max(0.0, due[0][0] - time.monotonic()) if due else -1
        for number, _ in poller.poll(timeout_s, 512):
            if number == listener.fileno():
                accept(listener, poller, connections)
            elif not read(connections[number]):
                close(connections[number])
            elif connections[number].next_request():
                step(connections[number], time.monotonic())
        now = time.monotonic()
        while due and due[0][0] <= now:
            at, connection = due.popleft()
            if connection.sock.fileno() >= 0:
                step(connection, at)


def read(connection: Connection) -> bool:
    """Take what has come; False when nothing will come any more."""
    try:
        data = connection.sock.recv(262_144)
    except OSError:
        return False
    connection.received += data
    return bool(data)


def accept(listener: socket.socket, poller: select.epoll, connections: dict[int, Connection]) -> None:
    """Take all who wait."""
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[sock.fileno()] = Connection(sock)
        poller.register(sock, select.EPOLLIN)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]))
