"""The circuit of each model and upstream, shared by the workers of a machine.

A board of failing models lies in memory that a forked worker shares with its siblings; it is empty while all is
well, and then costs one comparison per call. Times are CLOCK_MONOTONIC, which is the same in every process.

What one caller alone has seen fail is shut for that caller alone: who sends what a server cannot bear must not take its
model from all others. As soon as another has seen it fail too, it is shut for all.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

FAILURES = 5  # in a row
PROBE_EVERY_S = 10.0
SLOTS = 256  # failing models at once; beyond that the one that failed longest ago is forgotten
NAME_SIZE = 92
# digest, failures, last failure, next probe, name (for people), who has seen it fail
_SLOT = struct.Struct(f"16s I d d {NAME_SIZE}s 8s")
SEVERAL = bytes(8)  # callers have seen it fail
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
        """Nobody else reads or writes meanwhile. Held for microseconds, never while waiting for anything."""
        with self._among_threads:
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def look_up(self, digest: bytes) -> "Slot | None":
        """The slot of `digest`, if it is in use."""
        if not self.used:
            return None
        with self.locked():  # a writer sorts the slots: without it one's digest may stand beside another's counts
            return self.read().get(digest)

    def read(self) -> "dict[bytes, Slot]":
        """The slots in use, by digest; while locked."""
        places = (_COUNT.size + place * _SLOT.size for place in range(self.used))
        slots = (Slot(*_SLOT.unpack_from(self._memory, at)) for at in places)
        return {slot.digest: slot for slot in slots if slot.failures}

    def write(self, slots: "list[Slot]") -> None:
        """Replace all slots; while locked."""
        kept = sorted(slots, key=lambda slot: slot.failed_at)[-SLOTS:]
        for place, slot in enumerate(kept):
            _SLOT.pack_into(self._memory, _COUNT.size + place * _SLOT.size, *slot)
        _COUNT.pack_into(self._memory, 0, len(kept))


class Slot(NamedTuple):
    """One failing model: times in monotonic seconds."""

    digest: bytes
    failures: int
    failed_at: float
    probe_at: float
    name: bytes
    seen_by: bytes = SEVERAL  # a digest of the one caller who has seen it fail

    def shuts_out(self, caller: bytes) -> bool:
        """Whether `caller` is not let through, but for probes."""
        return self.failures >= FAILURES and self.seen_by in (SEVERAL, caller)


shared: Board | None = None  # set by gunicorn's master, before it forks


class Circuit:
    """Opens after FAILURES in a row, then lets one probe through every PROBE_EVERY_S, and closes on a success."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def enter(self, name: str, subject: str = "") -> "Attempt":
        """An attempt at `name` for a caller, to be told how it went; or not to be made before `wait_s` have passed."""
        if not self.board.used:
            return Attempt(self, name, subject)
        digest, caller = _digest(name), _digest(subject, 8)
        with self.board.locked():
            slots, now = self.board.read(), time.monotonic()
            slot = slots.get(digest)
            if slot is None or not slot.shuts_out(caller):
                return Attempt(self, name, subject)
            if slot.probe_at > now:
                return Attempt(self, name, subject, wait_s=slot.probe_at - now)
            slots[digest] = slot._replace(probe_at=now + PROBE_EVERY_S)
            self.board.write(list(slots.values()))
        return Attempt(self, name, subject, is_probe=True)

    def opened(self) -> dict[str, float]:
        """The names whose circuit is open → seconds since their last failure."""
        now = time.monotonic()
        with self.board.locked():
            slots = [slot for slot in self.board.read().values() if slot.failures >= FAILURES]
        shown: dict[str, float] = {}
        for slot in slots:
            name = slot.name.rstrip(b"\0")
            # Names too long for their slot may look alike: the digest tells them apart.
            told = f"… ({slot.digest.hex()[:8]})" if len(name) == NAME_SIZE else ""
            shown[name.decode("utf-8", "replace") + told] = now - slot.failed_at
        return shown


class Attempt:
    """One attempt at an upstream."""

    def __init__(self, circuit: Circuit, name: str, subject: str, wait_s: float = 0.0, is_probe: bool = False) -> None:
        self.wait_s = wait_s
        self._board = circuit.board
        self._name = name
        self._subject = subject
        self._is_probe = is_probe

    @property
    def is_open(self) -> bool:
        """Whether another attempt of its caller's would not be let through now."""
        slot = self._board.look_up(_digest(self._name))
        return slot is not None and slot.shuts_out(_digest(self._subject, 8))

    def failed(self) -> None:
        """It failed through the upstream's own fault."""
        self._change(self._counted)

    def succeeded(self) -> None:
        """It was answered."""
        if self._board.used and self._board.look_up(_digest(self._name)):
            self._change(lambda slot: None)

    def abandoned(self) -> None:
        """It ended without showing anything: a probe is given back, and the next call is one."""
        if self._is_probe:
            self._change(lambda slot: slot and slot._replace(probe_at=0.0))

    def _counted(self, slot: Slot | None) -> Slot:
        now, caller = time.monotonic(), _digest(self._subject, 8)
        name = self._name.encode()[:NAME_SIZE]
        failures, seen_by = (slot.failures + 1, slot.seen_by) if slot else (1, caller)
        seen_by = caller if seen_by == caller else SEVERAL
        return Slot(_digest(self._name), failures, now, now + PROBE_EVERY_S, name, seen_by)

    def _change(self, change: Callable[[Slot | None], Slot | None]) -> None:
        digest = _digest(self._name)
        with self._board.locked():
            slots = self._board.read()
            changed = change(slots.pop(digest, None))
            self._board.write([*slots.values(), *([changed] if changed else [])])


def _digest(name: str, size: int = 16) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=size).digest()
