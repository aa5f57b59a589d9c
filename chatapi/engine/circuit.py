"""The circuit of each model and upstream, shared by the workers of a machine.

A board of failing models lies in memory that a forked worker shares with its siblings; it is empty while all is
well, and then costs one comparison per call. Times are CLOCK_MONOTONIC, which is the same in every process.
"""

import fcntl
import hashlib
import mmap
import os
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

FAILURES = 5  # in a row
PROBE_EVERY_S = 10.0
SLOTS = 256  # failing models at once; beyond that the one that failed longest ago is forgotten
NAME_SIZE = 92
_SLOT = struct.Struct(f"16s I d d {NAME_SIZE}s")  # digest, failures, last failure, next probe, name (for people)
_COUNT = struct.Struct("I")


class Board:
    """The shared memory: one slot per failing model. Made before the fork, it is the same for all workers."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNT.size + SLOTS * _SLOT.size)
        # A file lock, for the kernel gives it back when a worker is killed; a semaphore would stay taken.
        self._lock, path = tempfile.mkstemp()
        os.unlink(path)
        weakref.finalize(self, os.close, self._lock)
        self._among_threads = threading.Lock()  # a file lock is the process's: its threads all hold it

    @property
    def used(self) -> int:
        """How many slots were ever used since the board was last empty."""
        return int(_COUNT.unpack_from(self._memory, 0)[0])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile. Held for microseconds, never over an await."""
        with self._among_threads:
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def read(self) -> "dict[bytes, Slot]":
        """The slots in use, by digest."""
        slots = (self._slot(place) for place in range(self.used))
        return {slot.digest: slot for slot in slots if slot.failures}

    def write(self, slots: "list[Slot]") -> None:
        """Replace all slots."""
        kept = sorted(slots, key=lambda slot: slot.failed_at)[-SLOTS:]
        for place, slot in enumerate(kept):
            _SLOT.pack_into(self._memory, _COUNT.size + place * _SLOT.size, *slot)
        _COUNT.pack_into(self._memory, 0, len(kept))

    def _slot(self, place: int) -> "Slot":
        return Slot(*_SLOT.unpack_from(self._memory, _COUNT.size + place * _SLOT.size))


class Slot(NamedTuple):
    """One failing model: times in monotonic seconds."""

    digest: bytes
    failures: int
    failed_at: float
    probe_at: float
    name: bytes


shared: Board | None = None  # set by gunicorn's master, before it forks


class Circuit:
    """Opens after FAILURES in a row, then lets one probe through every PROBE_EVERY_S, and closes on a success."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def closed_for(self, name: str) -> float:
        """Seconds until `name` may be asked; 0 when it may be asked now (as a probe, where it has failed)."""
        if not self._board.used:
            return 0.0
        digest = _digest(name)
        slot = self._board.read().get(digest)
        if slot is None or slot.failures < FAILURES:
            return 0.0
        with self._board.locked():
            slots = self._board.read()
            slot = slots.get(digest)
            now = time.monotonic()
            if slot is None or slot.failures < FAILURES:
                return 0.0
            if slot.probe_at > now:
                return slot.probe_at - now
            slots[digest] = slot._replace(probe_at=now + PROBE_EVERY_S)
            self._board.write(list(slots.values()))
        return 0.0

    def failed(self, name: str) -> None:
        """`name` failed through its own fault."""
        digest = _digest(name)
        with self._board.locked():
            slots = self._board.read()
            now = time.monotonic()
            failures = slots[digest].failures + 1 if digest in slots else 1
            slots[digest] = Slot(digest, failures, now, now + PROBE_EVERY_S, name.encode()[:NAME_SIZE])
            self._board.write(list(slots.values()))

    def succeeded(self, name: str) -> None:
        """`name` answered."""
        if not self._board.used:
            return
        digest = _digest(name)
        if digest not in self._board.read():
            return
        with self._board.locked():
            slots = self._board.read()
            slots.pop(digest, None)
            self._board.write(list(slots.values()))

    def opened(self) -> dict[str, float]:
        """The names whose circuit is open → seconds since their last failure."""
        now = time.monotonic()
        slots = [s for s in self._board.read().values() if s.failures >= FAILURES] if self._board.used else []
        names = [slot.name.rstrip(b"\0").decode("utf-8", "replace") for slot in slots]
        # Names too long for their slot may look alike: the digest tells them apart.
        shown = [
            f"{name}… ({slot.digest.hex()[:8]})" if len(slot.name.rstrip(b"\0")) == NAME_SIZE else name
            for name, slot in zip(names, slots, strict=True)
        ]
        return {name: now - slot.failed_at for name, slot in zip(shown, slots, strict=True)}


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()
