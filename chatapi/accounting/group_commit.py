"""Group commit: what many callers want done, done at once by whoever finds nobody at it, for all who wait."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

W = TypeVar("W")

TAKE = 256  # callers' work at once


class Work(Generic[W]):
    """What one caller wants done, and what came of it."""

    def __init__(self, what: W) -> None:
        self.what = what
        self._result: Any = None
        self._error: Exception | None = None
        self._wake = threading.Lock()
        self._wake.acquire()
        self.done = self.leads = False

    def succeed(self, result: Any) -> None:
        """It is done."""
        self._result, self.done = result, True

    def fail(self, error: Exception) -> None:
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
    """`commit` does many works at once, so that each has succeeded or failed; nobody waits for longer than `patience_s`
    for it to be begun with."""

    def __init__(self, commit: Callable[[list[Work[W]]], None], patience_s: Callable[[], float]) -> None:
        self._commit = commit
        self._patience_s = patience_s
        self._mutex = threading.Lock()
        self._waiting: deque[Work[W]] = deque()
        self._led = False

    def do(self, what: W) -> Any:
        """What came of `what`. Raises TimeoutError, and nothing is done, where nobody got to it in time."""
        work = Work(what)
        with self._mutex:
            self._waiting.append(work)
            if not self._led:
                self._led = work.leads = True
        while not work.leads and not work.done:
            if not work.wait(self._patience_s()) and self._take_back(work):
                raise TimeoutError
        if work.leads:
            self._lead(work)
        return work.result()

    def _lead(self, own: Work[W]) -> None:
        with self._mutex:
            batch = [self._waiting.popleft() for _ in range(min(TAKE, len(self._waiting)))]
        try:
            self._commit(batch)
        except BaseException as error:  # this greenlet is ended from outside
            for work in batch:
                if not work.done:
                    work.fail(error if isinstance(error, Exception) else RuntimeError("whoever did it was stopped"))
            if not isinstance(error, Exception):
                raise
        finally:
            for work in batch:
                if work is not own:
                    work.wake()
            # Those go on first, and may want something done again: so the next time there is more to do at once.
            with self._mutex:
                self._led = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].wake()

    def _take_back(self, work: Work[W]) -> bool:
        """Whether nobody has begun with `work`, and now nobody will."""
        with self._mutex:
            if work.leads or work not in self._waiting:
                return False
            self._waiting.remove(work)
            return True
