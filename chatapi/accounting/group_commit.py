"""Group commit: what many callers want done, done at once by whoever finds nobody at it, for all who wait."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

W = TypeVar("W")

MAX_BATCH = 256  # callers' work at once


class Future(Generic[W]):
    """The work that one caller wants done, and what comes of it."""

    def __init__(self, work: W) -> None:
        self.work = work
        self._result: Any = None
        self._error: Exception | None = None
        self._wake = threading.Lock()
        self._wake.acquire()
        self.done = self.leads = False

    def set_result(self, result: Any) -> None:
        """It is done."""
        self._result, self.done = result, True

    def set_exception(self, error: Exception) -> None:
        """It could not be done."""
        self._error, self.done = error, True

    def result(self) -> Any:
        """What came of it; raises what was raised."""
        if self._error:
            raise self._error
        return self._result

    def wait(self, seconds: float) -> bool:
        """Whether somebody has called `wake`, within so long."""
        return self._wake.acquire(timeout=seconds)

    def wake(self) -> None:
        """Let it wait no longer."""
        self._wake.release()


class GroupCommit(Generic[W]):
    """`commit` does much work at once, so that each future has a result or an exception; nobody waits for longer than
    `patience_s` for it to be begun with."""

    def __init__(self, commit: Callable[[list[Future[W]]], None], patience_s: Callable[[], float]) -> None:
        self._commit = commit
        self._patience_s = patience_s
        self._mutex = threading.Lock()
        self._waiting: deque[Future[W]] = deque()
        self._led = False

    def do(self, work: W) -> Any:
        """What comes of `work`. Raises TimeoutError, and nothing is done, where nobody got to it in time."""
        future = Future(work)
        with self._mutex:
            self._waiting.append(future)
            if not self._led:
                self._led = future.leads = True
        while not future.leads and not future.done:
            if not future.wait(self._patience_s()) and self._take_back(future):
                raise TimeoutError
        if future.leads:
            self._lead(future)
        return future.result()

    def _lead(self, own: Future[W]) -> None:
        with self._mutex:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
        try:
            self._commit(batch)
        except BaseException as error:  # this greenlet is ended from outside
            for future in batch:
                if not future.done:
                    stopped = RuntimeError("whoever did it was stopped")
                    future.set_exception(error if isinstance(error, Exception) else stopped)
            if not isinstance(error, Exception):
                raise
        finally:
            for future in batch:
                if future is not own:
                    future.wake()
            # Those go on first, and may want something done again: so the next time there is more to do at once.
            with self._mutex:
                self._led = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].wake()

    def _take_back(self, future: Future[W]) -> bool:
        """Whether nobody has begun with it, and now nobody will."""
        with self._mutex:
            if future.leads or future not in self._waiting:
                return False
            self._waiting.remove(future)
            return True
