"""Open many streams at once and time what comes: `python bench/streams.py < REQUEST`, where REQUEST is JSON.

REQUEST has `port`, `path`, `headers`, `body` (an object), `count` and `timeout_s`. Prints one JSON object: streams that
ended whole and that were lost, and in seconds the time to the first token and the gaps between two reads that brought
tokens. Raw sockets on one epoll, so that the client costs little beside the server it measures.
"""

import gc
import json
import select
import socket
import statistics
import sys
import time
from array import array
from typing import Any


def request_bytes(given: dict[str, Any]) -> bytes:
    """The HTTP request that opens one stream."""
    body = json.dumps(given["body"]).encode()
    lines = [f"POST {given['path']} HTTP/1.1", f"Host: 127.0.0.1:{given['port']}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in given["headers"].items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Streams:
    """All streams, and when their tokens came. Times are monotonic seconds."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.request = request_bytes(given)
        self.poller = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.started: dict[int, float] = {}
        self.last: dict[int, float] = {}  # when a stream's latest token came
        self.tails: dict[int, bytes] = {}
        self.firsts, self.gaps = array("d"), array("d")
        self.whole = self.lost = 0
        self.complaint = ""  # the beginning of the first answer that was none
        for _ in range(given["count"]):
            self.open(given["port"])

    def open(self, port: int) -> None:
        """Begin to connect."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = sock.fileno()
        self.sockets[number], self.started[number], self.tails[number] = sock, time.monotonic(), b""
        sock.connect_ex(("127.0.0.1", port))
        self.poller.register(sock, select.EPOLLOUT)

    def end(self, number: int, whole: bool) -> None:
        """A stream has ended."""
        self.whole += whole
        self.lost += not whole
        if not whole and not self.complaint:
            self.complaint = self.tails[number].decode(errors="replace")
        self.poller.unregister(number)
        self.sockets.pop(number).close()

    def run(self, deadline: float) -> None:
        """Read all to their ends."""
        while self.sockets and time.monotonic() < deadline:
            for number, events in self.poller.poll(0.5, 512):
                if events & select.EPOLLOUT:
                    self.sockets[number].send(self.request)
                    self.poller.modify(number, select.EPOLLIN)
                else:
                    self.read(number)
        for number in list(self.sockets):
            self.end(number, False)

    def read(self, number: int) -> None:
        """Read what has come on one stream."""
        try:
            data = self.sockets[number].recv(65_536)
        except OSError:
            data = b""
        if not data:
            self.end(number, False)
            return
        if b'"content"' in data:
            now = time.monotonic()
            last = self.last.get(number)
            if last is not None:
                self.gaps.append(now - last)
                self.last[number] = now
            elif b'"content":" ' in data or b'"content": " ' in data:  # the role's content is empty
                self.firsts.append(now - self.started[number])
                self.last[number] = now
        self.tails[number] = tail = (self.tails[number] + data)[-400:]
        if tail.endswith(b"\r\n0\r\n\r\n"):
            self.end(number, b"[DONE]" in tail)


def percentile(values: "array[float]", percent: int) -> float | None:
    """The value below which `percent` of all lie; None where there are too few."""
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else None


def main() -> None:
    given = json.load(sys.stdin)
    gc.disable()  # a collection would be seen as a gap
    streams = Streams(given)
    streams.run(time.monotonic() + given["timeout_s"])
    found = {
        "whole": streams.whole,
        "lost": streams.lost,
        "complaint": streams.complaint,
        "first_p50_s": percentile(streams.firsts, 50),
        "first_p99_s": percentile(streams.firsts, 99),
        "gap_p50_s": percentile(streams.gaps, 50),
        "gap_p99_s": percentile(streams.gaps, 99),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
