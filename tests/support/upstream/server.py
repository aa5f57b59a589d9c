"""The server: connections, what each model shall do, and every call that came."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from support.upstream.behaviours import BEHAVIOURS, SEEDS, built_in
from support.upstream.exchange import Call, Connection, Exchange, Gone
from support.upstream.refusals import Behaviour
from support.upstream.routes import route


class Upstream:
    """The server. `token`, when set, is the only one accepted, beside hf_noperm (403) and hf_broke (402)."""

    def __init__(self, token: str | None = None, port: int = 0) -> None:
        self.token = token
        self.calls: list[Call] = []
        self.failures: list[Exception] = []  # bugs in behaviours; the context manager raises the first
        self._lock = threading.Lock()
        self._special: dict[str, list[Behaviour]] = {}
        self._attempts: Counter[str] = Counter()
        self._connections: dict[int, Connection] = {}
        self._numbers = count(1)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._accept, name="upstream", daemon=True).start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.stop()
        if self.failures and kind is None:
            raise self.failures[0]

    def stop(self) -> None:
        for sock in [self._listener, *(c.sock for c in list(self._connections.values()))]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    # -- for tests

    def calls_for(self, model: str) -> list[Call]:
        return [call for call in list(self.calls) if call.model == model]

    @property
    def posts(self) -> list[Call]:
        """What models were asked; the list of them may be fetched at any time."""
        return [call for call in list(self.calls) if call.method == "POST"]

    def reset(self) -> None:
        """Forget calls, attempts and what behave() and sequence() said; no token."""
        with self._lock:
            self.calls.clear()
            self._special.clear()
            self._attempts.clear()
        self.token = None

    def behave(self, model: str, behaviour: Behaviour | str) -> None:
        """Answer for a model; a string borrows a built-in behaviour by its id, with or without `test/`."""
        self.sequence(model, [behaviour])

    def sequence(self, model: str, behaviours: Sequence[Behaviour | str]) -> None:
        """One behaviour per attempt; the last repeats."""
        with self._lock:
            self._special[model] = [built_in(b) if isinstance(b, str) else b for b in behaviours]
            self._attempts[model] = 0

    def wait_for(self, predicate: Callable[[], Any], timeout: float = 5) -> Any:
        """The predicate's first true value; AssertionError when it stays false."""
        deadline = time.monotonic() + timeout
        while not (value := predicate()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout} s; calls: {self.calls}")
            time.sleep(0.005)
        return value

    # -- connections

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(sock, next(self._numbers))
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        self._connections[connection.number] = connection
        exchange = None
        while connection.open and (call := connection.read_call()):
            exchange = Exchange(self, connection, call)
            self._answer(exchange)
            if not call.finished or call.headers.get("connection", "").lower() == "close":
                break
        if exchange and connection.open:
            exchange.sleep(0)
            if exchange.call.finished:
                exchange.mark_left()
        connection.drop()
        self._connections.pop(connection.number, None)

    def _answer(self, x: Exchange) -> None:
        handler = route(x)
        with self._lock:
            self.calls.append(x.call)
        try:
            handler(x)
        except Gone:
            pass
        except Exception as error:  # a bug of ours: the test must see it, the client a dead upstream
            self.failures.append(error)

    def behaviour_for(self, x: Exchange) -> Behaviour | None:
        """What this attempt shall do, or None for an unknown model; counts the attempt."""
        with self._lock:
            self._attempts[x.model] += 1
            x.attempt = self._attempts[x.model]
            if special := self._special.get(x.model):
                return special[min(x.attempt, len(special)) - 1]
        if x.skin == "chat" and not x.own and x.model in SEEDS:
            return None  # the router serves none of them as chat (HF 1.8)
        return BEHAVIOURS.get(x.model) or SEEDS.get(x.model)

    def served(self) -> list[str]:
        return sorted({*BEHAVIOURS, *self._special})
