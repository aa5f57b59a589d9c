"""What could not be written at once: kept, and tried again until it is."""

import _thread
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from ..errors import StoreError
from ..telemetry import metrics

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
RETRY_S = 1.0  # between looks whether the database, or Redis, is back


class RetryQueue:
    """Writes that wait for a server that is away, in this process's memory; `server` is its name, for the log.

    `report` hears how many they are, and since when (Unix seconds). A write is called until it raises no StoreError: it
    must change nothing when it does, or when it has succeeded before.
    """

    def __init__(self, server: str, report: Callable[[int, float], None] | None = None) -> None:
        self._server = server
        self._report = report
        self.waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._mutex = threading.Lock()
        self._runs = False

    def add(self, write: Callable[[], None], cause: str) -> None:
        """Try `write` again, and again; where too many wait already it is lost."""
        if self._report is not None:
            metrics.ledger_error()
        if len(self.waiting) >= MAX_WAITING:
            return
        self.waiting.append((time.time(), write))
        self._report_waiting()
        if not self._runs:
            self._runs = True
            log.warning("%s is away (%s): ends of calls are written when it is back", self._server, cause)
            _thread.start_new_thread(self._run, ())  # under gevent a greenlet

    def _run(self) -> None:
        while self.waiting:
            time.sleep(RETRY_S)
            self.flush()
        self._runs = False
        log.warning("%s is back, and everything is written", self._server)

    def flush(self) -> None:
        """Try all once, or until the server is seen to be away still."""
        with self._mutex:
            for _attempt in range(len(self.waiting)):
                since, write = self.waiting.popleft()
                try:
                    write()
                except StoreError:
                    self.waiting.append((since, write))  # at the end: should it alone be at fault, others go before it
                    break
            self._report_waiting()

    def _report_waiting(self) -> None:
        if self._report is not None:
            self._report(len(self.waiting), min((since for since, _write in self.waiting), default=time.time()))
