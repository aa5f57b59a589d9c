"""The limits of one machine: a file of fixed slots that its processes have mapped, changed under one lock.

A slot holds the numbers of one caller (see quotas.py). Each process has places of its own, one for each of its calls
that is open, so that those of a process that was killed can be given back. Before anything is changed, what is there
is copied to the file's head; whoever gets the lock after a process that died meanwhile puts it back.
"""

import fcntl
import hashlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable

from ..errors import StoreUnavailable
from . import quotas
from .processes import MAX_PROCESSES, ProcessNumbers, this_process
from .quotas import CELLS, COUNT, LEASE_S, PERIODS, Decision, Reservation

WAIT_S = 2.0  # for a process that was stopped while it had the lock
CALLERS = 1 << 15  # within a minute; beyond, whoever came longest ago is forgotten first
TRIED = 16  # slots in which a caller may be
PLACES = 4096  # open calls of one process
REMEMBERED = 10_000  # callers whose slot is known without a search

# In words of 8 bytes. A slot: two of the caller's digest, when it expires (Unix seconds), and the caller's numbers.
_DIGEST, _EXPIRES, _NUMBERS = 0, 2, 3
_SLOT = _NUMBERS + CELLS
# A place: where its slot begins (0 is free), the tokens held back, the end of its lease (Unix seconds), and its call.
_PLACE = 4
# The head: whether a change is under way, of which slot and place, and what these were before it.
_CHANGING, _SLOT_AT, _PLACE_AT, _OLD_PLACE, _OLD_SLOT = 0, 1, 2, 4, 8
_SLOTS_BEGIN = 512
_PLACES_BEGIN = _SLOTS_BEGIN + CALLERS * _SLOT
_END = _PLACES_BEGIN + MAX_PROCESSES * PLACES * _PLACE
NAME = "limits-1"  # another number for another layout


class Slots:
    """The file as one process has it mapped. `used(key, limit, now)` is what the ledger knows of a day or month.

    Its methods raise StoreUnavailable where the file cannot be had.
    """

    def __init__(self, numbers: ProcessNumbers, used: Callable[[str | None, str, float], int]) -> None:
        self._processes = numbers
        self._path = numbers.folder / NAME
        self._used = used
        self._mutex = threading.Lock()
        self._pid, self._file = 0, -1
        self._taken: set[int] = set()
        self._free: list[int] = []
        self._known: dict[str, tuple[int, int, int]] = {}

    def admit(self, reservation: Reservation, now: float) -> Decision:
        """Take a place, if no limit refuses it."""
        self._lock()
        try:
            slot = self._slot(reservation, now)
            if not self._free:
                raise StoreUnavailable(f"more than {PLACES} calls are open", str(self._path))
            place = self._free[-1]
            self._begin_change(slot, place)
            decision = quotas.admit(self._numbers(slot), reservation.limits, now)
            if decision.refused is None:
                words = self._words
                words[place], words[place + 1] = slot, 0
                words[place + 2], words[place + 3] = int(reservation.lease_ends_at), reservation.call
                words[slot + _EXPIRES] = int(quotas.expires_at(reservation, now))
                reservation.place = self._free.pop()
                self._taken.add(place)
            self._words[_CHANGING] = 0
            return decision
        finally:
            self._unlock()

    def hold(self, reservation: Reservation, tokens: int, now: float) -> Decision:
        """Hold back `tokens`, if no limit refuses them."""
        used: dict[str, int] = {}
        while True:
            self._lock()
            try:
                if not self._is_held(reservation):
                    raise StoreUnavailable("the call's place is gone", str(self._path))
                slot = self._words[reservation.place]
                numbers = self._numbers(slot)
                unknown = quotas.unknown(numbers, reservation.limits, now)
                if set(unknown) <= used.keys():
                    self._begin_change(slot, reservation.place)
                    for name in unknown:
                        PERIODS[name].begin(numbers, used[name], now)
                    decision = quotas.hold(numbers, reservation.limits, tokens, now)
                    if decision.refused is None:
                        self._words[reservation.place + 1] = tokens
                    self._words[_CHANGING] = 0
                    return decision
            finally:
                self._unlock()
            used = {name: self._used(reservation.key_id, name, now) for name in unknown}

    def settle(self, reservation: Reservation, tokens: int, now: float) -> None:
        """Give the place back, and count the `tokens` used. A second time changes nothing."""
        self._lock()
        try:
            if self._is_held(reservation):
                self._free_place(reservation.place, tokens, now, reservation)
                self._taken.discard(reservation.place)
                self._free.append(reservation.place)
        finally:
            self._unlock()

    def sweep(self, now: float) -> None:
        """Give back the places of processes that are gone, and those that are taken long after their deadline."""
        self._lock()
        if os.fstat(self._file).st_nlink == 0:  # somebody has removed the file: the next use finds the new one
            self._pid = 0
        try:
            for place in [p for p in self._taken if self._words[p + 2] + LEASE_S < now]:
                self._free_place(place, 0, now)
                self._taken.discard(place)
                self._free.append(place)
        finally:
            self._unlock()
        for number in self._processes.others():
            with self._processes.abandoned(number) as abandoned:
                if abandoned:
                    self._lock()
                    try:
                        self._free_all(_places_of(number), now)
                    finally:
                        self._unlock()

    def close(self) -> None:
        """Give the file back; the next use opens it again."""
        with self._mutex:
            self._close()

    # --- under the lock

    def _slot(self, reservation: Reservation, now: float) -> int:
        """Where the caller's slot begins; if it has none, a free one, or the one that is free next."""
        known = self._known.get(reservation.subject)
        if known and self._words[known[0]] == known[1] and self._words[known[0] + 1] == known[2]:
            return known[0]
        low, high = struct.unpack("qq", hashlib.blake2b(reservation.subject.encode(), digest_size=16).digest())
        tried = [_SLOTS_BEGIN + (low + n) % CALLERS * _SLOT for n in range(TRIED)]
        slot = next((at for at in tried if self._words[at] == low and self._words[at + 1] == high), None)
        if slot is None:
            slot = self._new_slot(tried, now)
            self._words[slot], self._words[slot + 1] = low, high
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[reservation.subject] = slot, low, high
        return slot

    def _new_slot(self, tried: list[int], now: float) -> int:
        unused = [at for at in tried if not self._words[at + _NUMBERS + COUNT]]
        if not unused:
            raise StoreUnavailable("too many callers at once", str(self._path))
        slot = min(unused, key=lambda at: max(self._words[at + _EXPIRES], int(now)))
        # Written before it is touched: on a full disk that is an error, where a page in memory would end the process.
        try:
            os.pwrite(self._file, bytes(8 * _SLOT), 8 * slot)
        except OSError as error:
            raise StoreUnavailable(str(error), str(self._path)) from None
        return slot

    def _numbers(self, slot: int) -> memoryview:
        return self._words[slot + _NUMBERS : slot + _SLOT]

    def _is_held(self, reservation: Reservation) -> bool:
        return self._words[reservation.place] != 0 and self._words[reservation.place + 3] == reservation.call

    def _free_place(self, place: int, tokens: int, now: float, reservation: Reservation | None = None) -> None:
        slot = self._words[place]
        self._begin_change(slot, place)
        started_at = reservation.started_at if reservation else now
        quotas.settle(self._numbers(slot), self._words[place + 1], tokens, now, started_at)
        if reservation and tokens:
            self._words[slot + _EXPIRES] = int(quotas.expires_at(reservation, now))
        self._words[place] = 0
        self._words[_CHANGING] = 0

    def _free_all(self, places: range, now: float) -> None:
        if self._map[8 * places.start : 8 * places.stop].strip(b"\0"):
            for place in places:
                if self._words[place]:
                    self._free_place(place, 0, now)

    def _take_places(self) -> None:
        """This process's own places; whoever had its number before may have left something."""
        places = _places_of(self._processes.acquire())
        self._free_all(places, time.time())
        os.pwrite(self._file, bytes(8 * (places.stop - places.start)), 8 * places.start)
        self._taken, self._free = set(), list(places)
        self._pid = this_process.pid

    def _begin_change(self, slot: int, place: int) -> None:
        words = self._words
        words[_SLOT_AT], words[_PLACE_AT] = slot, place
        words[_OLD_PLACE : _OLD_PLACE + _PLACE] = words[place : place + _PLACE]
        words[_OLD_SLOT : _OLD_SLOT + _SLOT] = words[slot : slot + _SLOT]
        words[_CHANGING] = 1

    def _undo_change(self) -> None:
        words = self._words
        slot, place = words[_SLOT_AT], words[_PLACE_AT]
        words[slot : slot + _SLOT] = words[_OLD_SLOT : _OLD_SLOT + _SLOT]
        words[place : place + _PLACE] = words[_OLD_PLACE : _OLD_PLACE + _PLACE]
        words[_CHANGING] = 0

    # --- the lock, and the file

    def _lock(self) -> None:
        self._mutex.acquire()
        try:
            opened = self._pid == this_process.pid
            if not opened:
                self._open()
            self._lock_file()
            if self._words[_CHANGING]:
                self._undo_change()
            if not opened:
                self._take_places()
        except OSError as error:
            self._close()
            self._mutex.release()
            raise StoreUnavailable(str(error), str(self._path)) from None
        except BaseException:
            self._mutex.release()
            raise

    def _lock_file(self) -> None:
        deadline = 0.0
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                # Waited for here and not in the kernel, where waiting would stop every greenlet of the process.
                deadline = deadline or time.monotonic() + WAIT_S
                if time.monotonic() > deadline:
                    raise StoreUnavailable("the limits are locked", str(self._path)) from None
            time.sleep(0.0002)

    def _unlock(self) -> None:
        if self._words[_CHANGING]:  # something of ours has failed
            self._undo_change()
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._mutex.release()

    def _open(self) -> None:
        self._close()
        self._processes.acquire()
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < 8 * _END:
            os.ftruncate(self._file, 8 * _END)  # sparse: what no caller has come to takes no room
        os.pwrite(self._file, b"\0", 8 * _SLOTS_BEGIN - 1)
        self._map = mmap.mmap(self._file, 8 * _END)
        self._words = memoryview(self._map).cast("q")

    def _close(self) -> None:
        if self._file >= 0:
            self._known.clear()
            self._words.release()
            self._map.close()
            os.close(self._file)
        self._pid, self._file = 0, -1


def _places_of(number: int) -> range:
    """The places of the process with this number."""
    begin = _PLACES_BEGIN + number * PLACES * _PLACE
    return range(begin, begin + PLACES * _PLACE, _PLACE)
