"""Which process a call belongs to: a name for each, whether it is gone, and numbers for those that share a folder."""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from .quotas import LEASE_S

MAX_PROCESSES = 128  # that share a folder


class ProcessIdentity:
    """This process: `pid`, and `name`, which tells it apart from every other one there ever was."""

    def __init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Note who we are: once, and after every fork, for it is needed in every call."""
        self.pid = os.getpid()
        self.name = f"{_machine()} {self.pid} {_started_at(self.pid)}"


@cache
def _machine() -> str:
    # The host's name, its boot, and the namespace in which its process numbers count (a container has its own).
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:13]
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} - -"


def _started_at(pid: int) -> str:
    """When a process was started, in the kernel's ticks; empty when it is gone (or dead, and not yet buried)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


this_process = ProcessIdentity()
os.register_at_fork(after_in_child=this_process.refresh)


def is_lost(row: Mapping[str, Any]) -> bool:
    """Whether the process of a call that is open (its row in the ledger) is gone, or it is long after its deadline."""
    if row["until"] + LEASE_S < time.time():
        return True
    host, boot, namespace, pid, started_at = row["owner"].split(" ")
    our_host, our_boot, our_namespace = _machine().split(" ")
    if host != our_host or not started_at:
        return False
    if boot != our_boot:
        return True
    return bool(namespace == our_namespace and _started_at(int(pid)) != started_at)


class ProcessNumbers:
    """Numbers, one for each process that works in `folder`: its own as long as it lives, for it locks that file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pid = 0
        self._number, self._file = 0, -1
        self._mutex = threading.Lock()

    def __del__(self) -> None:
        if self._pid == os.getpid():
            self.release()

    def acquire(self) -> int:
        """This process's own number; a fork has another. Makes the folder. Raises OSError."""
        with self._mutex:
            if self._pid != this_process.pid:
                self.release()
                self._number, self._file = self._first_free()
                self._pid = this_process.pid
            return self._number

    @property
    def is_held(self) -> bool:
        """Whether this process has a number."""
        return self._pid == this_process.pid

    def release(self) -> None:
        """Another process may have our number."""
        if self._file >= 0:
            os.close(self._file)
        self._pid, self._file = 0, -1

    @contextmanager
    def abandoned(self, number: int) -> Iterator[bool]:
        """Whether the process that had `number` is gone; meanwhile no other can take it."""
        file = self._lock(number)
        try:
            yield file is not None
        finally:
            if file is not None:
                os.close(file)

    def others(self) -> list[int]:
        """The numbers that were ever taken, but for our own."""
        found = [int(path.stem) for path in self.folder.glob("*.seat") if path.stem.isdecimal()]
        return sorted(number for number in found if not (self.is_held and number == self._number))

    def _first_free(self) -> tuple[int, int]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(MAX_PROCESSES):
            if (file := self._lock(number)) is not None:
                return number, file
        raise OSError(f"more than {MAX_PROCESSES} processes work in {self.folder}")

    def _lock(self, number: int) -> int | None:
        file = os.open(self.folder / f"{number}.seat", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        os.close(file)
        return None
