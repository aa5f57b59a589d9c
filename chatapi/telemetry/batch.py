"""What is told of calls is written together, every 50 ms: no call waits for a file."""

import _thread
import atexit
import time
from collections.abc import Callable

DELAY_S = 0.05


class Batch:
    """What gathers until it is time to write it."""

    def __init__(self) -> None:
        self._writers: list[Callable[[], None]] = []
        self._due = False

    def written_by(self, write: Callable[[], None]) -> None:
        """From now on `write` writes a part of what has gathered."""
        self._writers.append(write)

    def soon(self) -> None:
        """Something has gathered: it is written within DELAY_S."""
        if not self._due:
            self._due = True
            _thread.start_new_thread(self._later, ())  # under gevent a greenlet

    def _later(self) -> None:
        time.sleep(DELAY_S)
        if self._due:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered: before somebody reads it, and when the process ends."""
        self._due = False
        for write in self._writers:
            write()


batch = Batch()
atexit.register(batch.flush)
