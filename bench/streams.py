"""Open many streams at once and time every event: the client half of `footprint.py`.

    python bench/streams.py URL COUNT BODY

Raw sockets on one selector, so that the client costs little beside the server it measures.
"""

import json
import selectors
import socket
import statistics
import sys
import time
from urllib.parse import urlsplit


def main(url: str, count: int, body: str) -> None:
    """Print how many streams ended well, and their delays in seconds, as JSON."""
    where = urlsplit(url)
    payload = json.dumps({**json.loads(body), "stream": True}).encode()
    request = (
        f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    ).encode() + payload
    selector = selectors.DefaultSelector()
    started: dict[socket.socket, float] = {}
    firsts: list[float] = []
    gaps: list[float] = []
    seen: dict[socket.socket, tuple[bytes, float]] = {}
    whole = 0
    for _ in range(count):
        sock = socket.create_connection((where.hostname, where.port))
        sock.sendall(request)
        started[sock] = time.monotonic()
        seen[sock] = (b"", 0.0)
        selector.register(sock, selectors.EVENT_READ)
    while seen:
        for key, _ in selector.select(60):
            sock = key.fileobj
            data, now = sock.recv(65536), time.monotonic()
            tail, last = seen[sock]
            if not data:
                whole += b"[DONE]" in tail
                selector.unregister(sock)
                sock.close()
                del seen[sock]
                continue
            if b'"content"' in data:
                (gaps if last else firsts).append(now - (last or started[sock]))
                last = now
            seen[sock] = ((tail + data)[-200:], last)
    percentiles = statistics.quantiles(gaps, n=100)
    result = {
        "whole": whole,
        "first_p50_s": round(statistics.median(firsts), 3),
        "first_max_s": round(max(firsts), 3),
        "gap_p50_s": round(percentiles[49], 3),
        "gap_p99_s": round(percentiles[98], 3),
        "gap_max_s": round(max(gaps), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
