"""The ledger of one machine, beside SQLite: limits in memory that its processes share, rows in journals.

A journal is a file that one process alone appends to. A line is a row of the ledger as JSON behind a letter: `B` when a
call begins, `E` when it has ended; a process that is killed loses none of them. Whoever reads the ledger, and every
process a moment after it has written, folds the lines into the database first: in one transaction, with how many bytes
of each file were taken, so that each counts once.
"""

import _thread
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..call import call_id
from ..compact_json import ascii_pieces
from ..errors import StoreError, StoreUnavailable
from ..telemetry import metrics
from . import statements
from .processes import ProcessNumbers, this_process
from .quotas import Decision, Reservation
from .retries import RETRY_S
from .slots import Slots
from .statements import COLUMNS, Row, Tx

log = logging.getLogger(__name__)

FOLD_S = 0.1  # how long a line is in the file alone, if nobody asks
LARGE = 4 << 20  # bytes after which a file is left for a new one
FOLD_BYTES = 8 << 20  # of a file in one transaction
MAX_UNFOLDED = 256 << 20  # bytes that wait for a database that is away; no call begins beyond

BEGUN, ENDED = "B", "E"
Values = list[Any]  # of a row, in the order of COLUMNS


class LocalLedger:
    """Where calls are written down and limits are counted; `used(key, period, now)` is what a key has used.

    Its methods raise StoreUnavailable. `row` has its values in the order of COLUMNS.
    """

    def __init__(self, journal: "Journal", used: Callable[[str | None, str, float], int]) -> None:
        self._journal = journal
        self._slots = Slots(journal.numbers, used)

    def admit(self, reservation: Reservation) -> Decision:
        """Take a place for a call, if no limit refuses it."""
        decision = self._slots.admit(reservation, time.time())
        reservation.held_by = self if decision.refused is None else None
        return decision

    def begin(self, row: Sequence[Any]) -> None:
        """Write the row of a call that is about to be made."""
        self._journal.append(row, BEGUN)

    def hold(self, row: Sequence[Any], reservation: Reservation, tokens: int) -> Decision:
        """Hold back `tokens` and write the row of a call that is about to be made, if no limit refuses."""
        decision = self._slots.hold(reservation, tokens, time.time())
        if decision.refused is None:
            self._journal.append(row, BEGUN)
        return decision

    def end(self, row: Sequence[Any] | None, reservation: Reservation | None, tokens: int) -> None:
        """Write the row of a call that has ended, if it has one, and settle what is reserved here, if anything is.

        A second time changes nothing.
        """
        try:
            if row is not None:
                self._journal.append(row, ENDED)
        finally:
            if reservation:
                self._slots.settle(reservation, tokens, time.time())

    def sweep(self) -> None:
        """Free what processes that are gone have held, and take in their journals."""
        self._slots.sweep(time.time())
        self._journal.sweep()

    def free(self, lost: Iterable[Row]) -> None:
        """What these calls held is free: `sweep` has seen to it."""

    def close(self) -> None:
        """Give everything back; the next use opens it again."""
        self._slots.close()
        self._journal.close()


class Journal:
    """The files of all processes that work in the folder of `numbers`, and this one's own; `write` is the store's."""

    def __init__(self, write: Callable[[Callable[[Tx], None]], None], numbers: ProcessNumbers) -> None:
        self.numbers = numbers
        self._write_to_database = write
        self._mutex = threading.Lock()
        self._pid, self._file = 0, -1
        self._name = ""
        self._size = 0
        self._is_due = False  # somebody is about to fold
        self._late = False  # the database was away the last time
        self._unfolded, self._since = 0, 0.0  # lines written since the last time that went well, and when the first was
        self._folded: dict[str, int] = {}  # file → how many of its bytes are in the database for certain

    def append(self, row: Sequence[Any], kind: str) -> None:
        """Write a row, its values in the order of COLUMNS; `kind` is BEGUN or ENDED.

        Raises StoreUnavailable; then nothing of it is there.
        """
        line = "".join((kind, *ascii_pieces(row), "\n")).encode()
        with self._mutex:
            try:
                if self._pid != this_process.pid:
                    self._open()
                self._write_line(line)
            except OSError as error:
                raise StoreUnavailable(error.strerror or str(error), str(self.numbers.folder)) from None
            self._size += len(line)
            self._since = self._since if self._unfolded else time.time()
            self._unfolded += 1
            if not self._is_due:
                self._is_due = True
                _thread.start_new_thread(self._fold_soon, ())  # under gevent a greenlet

    def _write_line(self, line: bytes) -> None:
        if self._size - self._folded.get(self._name, 0) > MAX_UNFOLDED:
            raise OSError("too much waits for the database")
        written = os.write(self._file, line)
        if written != len(line):  # no room: half a line must not come before the next
            os.ftruncate(self._file, self._size)
            raise OSError("no space left")

    def _open(self) -> None:
        """A new file; only whoever made it appends to it."""
        self._close()
        name = f"{self.numbers.acquire():03}-{call_id(time.time()):016x}.journal"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path(name), flags, 0o600)
        self._pid, self._name, self._size = this_process.pid, name, 0
        self._is_due, self._unfolded = False, 0

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._pid, self._file = 0, -1

    def close(self) -> None:
        """Leave this process's file, and its number; the next line goes into a new one."""
        with self._mutex:
            if self._file >= 0 and self._folded.get(self._name) == self._size:
                self._path(self._name).unlink(missing_ok=True)
            self._close()
        self.numbers.release()

    # --- into the database

    def fold(self, names: Iterable[str] | None = None) -> None:
        """Take what all files (or those of these names) have into the database. Raises StoreUnavailable."""
        while waiting := sorted(self._waiting(names)):
            sizes: dict[str, int] = {}

            def take(tx: Tx, names: Sequence[str] = waiting, sizes: dict[str, int] = sizes) -> None:
                sizes.clear()
                statements.insert_folded(tx, *self._calls(tx, names, sizes))
                for name, size in sizes.items():
                    statements.put_folded(tx, name=name, folded=size)

            self._write_to_database(take)
            self._folded.update(sizes)
            if not sizes:
                return  # the rest are lines whose process was killed as it wrote them

    def _waiting(self, names: Iterable[str] | None) -> Iterator[str]:
        """The files of which something may not be in the database."""
        with suppress(FileNotFoundError), os.scandir(self.numbers.folder) as found:
            for entry in found:
                if entry.name.endswith(".journal") and (names is None or entry.name in names):
                    with suppress(FileNotFoundError):
                        if entry.stat().st_size > self._folded.get(entry.name, 0):
                            yield entry.name

    def _calls(self, tx: Tx, names: Iterable[str], sizes: dict[str, int]) -> tuple[list[Values], list[Values]]:
        """The calls that began in what is new in these files, and those that ended in it and may have begun before.

        Each is there once, as far as it is known. Puts into `sizes` up to where the files were read.
        """
        began: dict[bytes, bytes] = {}
        ended: dict[bytes, bytes] = {}
        for name in names:
            begin = statements.get_folded.value(tx, name=name) or 0
            self._folded[name] = max(begin, self._folded.get(name, 0))
            new = _read(self._path(name), begin)
            for line in new.splitlines():
                call = line[2 : line.find(b",")]  # its id is the first value
                (began if call in began or line[:1] == b"B" else ended)[call] = line[1:]
            if new:
                sizes[name] = begin + len(new)
        return _parsed(began.values()), _parsed(ended.values())

    def _fold_soon(self) -> None:
        time.sleep(FOLD_S)
        while True:
            with self._mutex:
                self._is_due = False
                name, unfolded = self._name, self._unfolded
            try:
                self.fold((name,))
                break
            except StoreError as error:
                if self._is_gone(name):
                    return  # and so, most likely, is the database
                self._is_due = True
                self._note_late(error.cause)
            time.sleep(RETRY_S)
        self._note_folded(name, unfolded)

    def _is_gone(self, name: str) -> bool:
        """Whether somebody has removed our file; then the next line goes into a new one."""
        if self._path(name).exists():
            return False
        with self._mutex:
            if self._name == name and self._file >= 0:
                log.error("%s was removed while in use", self._path(name))
                self._close()
                self.numbers.release()
        return True

    def _note_late(self, cause: str) -> None:
        if not self._late:
            log.warning("the database is away (%s): calls are kept in %s until it is back", cause, self.numbers.folder)
            metrics.ledger_error()
        self._late = True
        metrics.ledger_lag(self._unfolded, self._since)

    def _note_folded(self, name: str, lines: int) -> None:
        if self._is_gone(name):
            return
        if self._late:
            log.warning("the database is back, and everything is written")
            metrics.ledger_lag(0, 0.0)
        self._late = False
        with self._mutex:
            self._unfolded -= lines
            if self._name == name and self._size > LARGE and self._folded.get(name) == self._size:
                self._path(name).unlink(missing_ok=True)
                self._open()

    def sweep(self) -> None:
        """Take in and remove the files of processes that are gone. Raises StoreUnavailable."""
        self.fold()
        for number in self.numbers.others():
            with self.numbers.abandoned(number) as abandoned:
                if abandoned:
                    self._remove(self._files(number))
        if self.numbers.is_held:
            with self._mutex:
                before_us = self._files(self.numbers.acquire()) - {self._name}  # of whoever had our number before
            self._remove(before_us)
        self._write_to_database(partial(statements.drop_journals, exists=lambda name: self._path(name).exists()))

    def _path(self, name: str) -> Path:
        return self.numbers.folder / name

    def _files(self, number: int) -> set[str]:
        return {path.name for path in self.numbers.folder.glob(f"{number:03}-*.journal")}

    def _remove(self, names: set[str]) -> None:
        """Remove the files to which nobody writes any more, once the ledger has all of them."""
        if names:
            self.fold(names)
            for name in names:
                self._path(name).unlink(missing_ok=True)


def _parsed(lines: Collection[bytes]) -> list[Values]:
    """The rows in these lines: read together, or one by one where one cannot be read, which is left out."""
    with suppress(ValueError, RecursionError):
        found: list[Values] = json.loads(b"[%s]" % b",".join(lines))
        fit = all(isinstance(values, list) and len(values) == len(COLUMNS) for values in found)
        if fit and len(found) == len(lines):
            return found
    if len(lines) == 1:
        log.error("a line of %d bytes in a journal cannot be read, and is left out", *map(len, lines))
        return []
    return [values for line in lines for values in _parsed([line])]


def _read(path: Path, begin: int) -> bytes:
    """The whole lines of a file from `begin` on; as many as are taken at once."""
    try:
        with path.open("rb") as file:
            file.seek(begin)
            new = file.read(FOLD_BYTES)
    except FileNotFoundError:  # taken in and removed by another process
        return b""
    return new[: new.rfind(b"\n") + 1]
