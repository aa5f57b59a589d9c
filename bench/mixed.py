"""Good traffic beside bad: a flood of keys that are not known, and a body that comes slowly."""

import json
import random
import socket
import string
import threading
import time
from collections.abc import Callable

from load import MESSAGES, LoadError, Measured, body, wrk
from servers import PATH, Server

BAD_KEYS = 10_000
BODY_BYTES, BODY_SECONDS, PIECE_BYTES = 20_000_000, 5, 65_536


def measure_beside(good: Callable[[], Measured], bad: Callable[[], float]) -> Measured:
    """What `good` measures while `bad` goes on; `other_per_s` is what `bad` returns."""
    found: list[float | Exception] = []

    def run() -> None:
        try:
            found.append(bad())
        except Exception as error:  # told by the thread that waits
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    measured = good()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return {**measured, "other_per_s": found[0]}


def bad_keys(server: Server, clients: int, seconds: float) -> float:
    """Calls with keys that look right and are not known; how many a second were refused."""
    letters = random.Random(0).choices(string.ascii_lowercase + "234567", k=BAD_KEYS + 52)
    text = "".join(letters)
    keys = [f"Bearer chatapi_{text[n : n + 10]}_{text[n + 10 : n + 52]}" for n in range(BAD_KEYS)]
    found = wrk(server, body("bench/whole"), clients, seconds, keys=keys, strict=False)
    if found["refused"] != found["calls"]:
        raise LoadError(f"{server.name} let bad keys in: {found}")
    return found["calls"] / found["seconds"]


def slow_body(server: Server) -> float:
    """One call whose body, a picture, comes in pieces over seconds; how many such calls a second were answered."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * BODY_BYTES}"}}
    data = json.dumps(body("bench/whole", messages=[*MESSAGES, {"role": "user", "content": [picture]}])).encode()
    headers = {**server.headers_for("bench/whole"), "Content-Type": "application/json", "Content-Length": len(data)}
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(f"{head}\r\n".encode())
        for sent in range(0, len(data), PIECE_BYTES):
            sock.sendall(data[sent : sent + PIECE_BYTES])
            time.sleep(max(0.0, began + sent / len(data) * BODY_SECONDS - time.monotonic()))
        answer = sock.recv(65_536)
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        raise LoadError(f"{server.name} did not take the large body: {answer[:500]!r}")
    return 1 / (time.monotonic() - began)
