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

MOST = 10_000
RETRY_S = 1.0


def apart(do: Callable[[], None]) -> None:
    """Run `do` beside what goes on: in a greenlet of its own under gevent, in a thread elsewhere."""
    _thread.start_new_thread(do, ())


class Late:
    """Writes that wait for a server that is away, in this process's memory; `where` is its name, for the log, and
    `tell` hears how many they are, and since when (Unix seconds).

    `do` is called until it raises no StoreError: it must change nothing when it does, or when it has succeeded before.
    """

    def __init__(self, where: str, tell: Callable[[int, float], None] | None = None) -> None:
        self._where = where
        self._tell = tell
        self.waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._mutex = threading.Lock()
        self._runs = False

    def add(self, do: Callable[[], None], cause: str) -> bool:
        """Try `do` again, and again; False where too many wait already."""
        if self._tell is not None:
            metrics.ledger_error()
        if len(self.waiting) >= MOST:
            return False
        self.waiting.append((time.time(), do))
        self._told()
        if not self._runs:
            self._runs = True
            log.warning("%s is away (%s): ends of calls are written when it is back", self._where, cause)
            apart(self._run)
        return True

    def _run(self) -> None:
        while self.waiting:
            time.sleep(RETRY_S)
            self.flush()
        self._runs = False
        log.warning("%s is back, and everything is written", self._where)

    def flush(self) -> None:
        """Try all once, or until the server is seen to be away still."""
        with self._mutex:
            for _attempt in range(len(self.waiting)):
                since, do = self.waiting.popleft()
                try:
                    do()
                except StoreError:
                    self.waiting.append((since, do))  # at the end: should it alone be at fault, others go before it
                    break
            self._told()

    def _told(self) -> None:
        if self._tell is not None:
            self._tell(len(self.waiting), min((since for since, _do in self.waiting), default=time.time()))
