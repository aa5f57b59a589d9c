"""Servers of our own: of raw bytes, what is sent being what a test says, to the letter; and of HTTP."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(handle: Callable[[socket.socket], object]) -> Iterator[int]:
    """A port where `handle(socket)` has each connection; all is closed at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threads.append(threading.Thread(target=attend, args=(sock,)))
                threads[-1].start()

    def attend(sock: socket.socket) -> None:
        with closing(sock), suppress(OSError, ssl.SSLError):
            handle(sock)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(10)


def head_of(sock: socket.socket) -> bytes:
    """A request's head; what follows of its body is left out of account."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (data := sock.recv(65_536)):
            raise OSError("closed")
        received += data
    return received


def sending(*parts: bytes) -> Callable[[socket.socket], None]:
    """Hears a request out and sends `parts`, as they are."""

    def handle(sock: socket.socket) -> None:
        head_of(sock)
        for part in parts:
            sock.sendall(part)

    return handle


@contextmanager
def serving_http(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """A server whose requests this handles, on a free port; it says nothing of them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    """For the log of pytest."""

    def log_message(self, *_: object) -> None:
        pass
