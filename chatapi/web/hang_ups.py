"""Who has hung up, told at once and whatever came before: one epoll for all callers, which gevent's loop looks at."""

import select
from collections.abc import Callable
from typing import Any

import gevent
from gevent.monkey import get_original


class HangUps:
    """Watches sockets for EPOLLRDHUP, the hang-up itself: bytes that a caller sent before it do not hide it.

    Each socket costs one system call for all its life. Not thread-safe.
    """

    def __init__(self) -> None:
        self._told: dict[int, Callable[[], None]] = {}
        self._epoll: Any = None
        if hasattr(select, "EPOLLRDHUP"):  # Linux; elsewhere a caller's leaving shows when a write fails
            # gevent takes epoll out of `select`, for who waits for it blocks its loop; we ask for what is there.
            self._epoll = get_original("select", "epoll")()
            self._watcher = gevent.get_hub().loop.io(self._epoll.fileno(), 1)
            self._watcher.start(self._tell)

    def add(self, fd: int, left: Callable[[], None]) -> None:
        """Call `left()` once, from the loop, when the peer of `fd` has hung up."""
        if self._epoll is not None:
            self._told[fd] = left
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLONESHOT)

    def forget(self, fd: int) -> None:
        """`fd` is about to be closed, which takes it out of the epoll."""
        self._told.pop(fd, None)

    def _tell(self) -> None:
        for fd, _events in self._epoll.poll(0):
            if left := self._told.get(fd):
                left()
