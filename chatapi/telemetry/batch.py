"""What is told of calls is written together, every 50 ms: no call waits for a file, or for what is made of its end."""

import _thread
import atexit
import logging
import time
from collections.abc import Callable

from ..call import Call
from ..errors import traceback_without_messages

log = logging.getLogger(__name__)
DELAY_S = 0.05


class Batch:
    """Calls that have ended, and whatever else gathers until it is time to write it.

    `observers` hear of each call that has ended; then `writers` write, each a part of what has gathered.
    """

    def __init__(self) -> None:
        self.observers: list[Callable[[Call], None]] = []
        self.writers: list[Callable[[], None]] = []
        self._ended: list[Call] = []
        self._due = False

    def ended(self, call: Call) -> None:
        """`call` has ended: whoever observes hears of it within DELAY_S."""
        self._ended.append(call)
        if not self._due:
            self.soon()

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
        self._due = True  # what observers gather is written right now
        ended, self._ended = self._ended, []
        for observe in self.observers:
            for call in ended:
                _do(observe, call)
        self._due = False
        for write in self.writers:
            _do(write)


def _do(what: Callable[..., None], *about: Call) -> None:
    # A fault in one line or figure takes no other with it.
    try:
        what(*about)
    except Exception as error:
        log.error("what has ended is not told whole: %s", traceback_without_messages(error))


batch = Batch()
atexit.register(batch.flush)
