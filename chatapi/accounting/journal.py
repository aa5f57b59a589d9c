"""What is written of a call at once: a line of a file that this process alone appends to.

A line is a row of the ledger as JSON behind a letter: `B` when a call begins, `E` when it has ended; a process that is
killed loses none of them. Whoever reads the ledger, and every process a moment after it has written, takes the lines
into the database first: in one transaction, with how many bytes of each file were taken, so that each counts once.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ..call import call_id
from ..compact_json import ascii_pieces
from ..errors import StoreError, StoreUnavailable
from ..telemetry import metrics
from . import statements
from .late import apart
from .processes import Own, Seats
from .statements import Tx
from .tables import calls

log = logging.getLogger(__name__)

FOLD_S = 0.1  # how long a line is in the file alone, if nobody asks
RETRY_S = 1.0
LARGE = 4 << 20  # bytes after which a file is left for a new one
AT_ONCE = 8 << 20  # bytes of a file in one transaction
MOST_WAITING = 256 << 20  # bytes that wait for a database that is away; no call begins beyond

BEGUN, ENDED = "B", "E"
Values = list[Any]
COLUMNS = tuple(calls.columns.keys())  # the values of a line


class Writer(Protocol):
    """The database (see store.py)."""

    def write(self, do: Callable[[Tx], None], /) -> None: ...


class Journal:
    """The files of all processes that work in the folder of `seats`, and this one's own."""

    def __init__(self, database: Writer, seats: Seats) -> None:
        self.seats = seats
        self._database = database
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
                if self._pid != Own.pid:
                    self._open()
                self._write(line)
            except OSError as error:
                raise StoreUnavailable(error.strerror or str(error), str(self.seats.folder)) from None
            self._size += len(line)
            self._since = self._since if self._unfolded else time.time()
            self._unfolded += 1
            if not self._is_due:
                self._is_due = True
                apart(self._fold_soon)

    def _write(self, line: bytes) -> None:
        if self._size - self._folded.get(self._name, 0) > MOST_WAITING:
            raise OSError("too much waits for the database")
        written = os.write(self._file, line)
        if written != len(line):  # no room: half a line must not come before the next
            os.ftruncate(self._file, self._size)
            raise OSError("no space left")

    def _open(self) -> None:
        """A new file; only whoever made it appends to it."""
        self._close()
        name = f"{self.seats.sit():03}-{call_id(time.time()):016x}.journal"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.seats.folder / name, flags, 0o600)
        self._pid, self._name, self._size = Own.pid, name, 0
        self._is_due, self._unfolded = False, 0

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._pid, self._file = 0, -1

    def close(self) -> None:
        """Leave this process's file, and its number; the next line goes into a new one."""
        with self._mutex:
            if self._file >= 0 and self._folded.get(self._name) == self._size:
                (self.seats.folder / self._name).unlink(missing_ok=True)
            self._close()
        self.seats.give_up()

    # --- into the database

    def fold(self, names: Iterable[str] | None = None) -> None:
        """Take what all files (or those of these names) have into the database. Raises StoreUnavailable."""
        while waiting := sorted(self._waiting(names)):
            sizes: dict[str, int] = {}

            def take(tx: Tx, names: Sequence[str] = waiting, sizes: dict[str, int] = sizes) -> None:
                sizes.clear()
                statements.take_in(tx, *self._calls(tx, names, sizes))
                for name, size in sizes.items():
                    statements.put_folded(tx, name, size)

            self._database.write(take)
            self._folded.update(sizes)
            if not sizes:
                return  # the rest are lines whose process was killed as it wrote them

    def _waiting(self, names: Iterable[str] | None) -> Iterator[str]:
        """The files of which something may not be in the database."""
        with suppress(FileNotFoundError), os.scandir(self.seats.folder) as found:
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
            begin = statements.get_folded(tx, name)
            self._folded[name] = max(begin, self._folded.get(name, 0))
            new = _read(self.seats.folder / name, begin)
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
                self._is_late(error.cause)
            time.sleep(RETRY_S)
        self._is_folded(name, unfolded)

    def _is_gone(self, name: str) -> bool:
        """Whether somebody has removed our file; then the next line goes into a new one."""
        if (self.seats.folder / name).exists():
            return False
        with self._mutex:
            if self._name == name and self._file >= 0:
                log.error("%s was removed while in use", self.seats.folder / name)
                self._close()
                self.seats.give_up()
        return True

    def _is_late(self, cause: str) -> None:
        if not self._late:
            log.warning("the database is away (%s): calls are kept in %s until it is back", cause, self.seats.folder)
            metrics.ledger_error()
        self._late = True
        metrics.ledger_lag(self._unfolded, self._since)

    def _is_folded(self, name: str, lines: int) -> None:
        if self._is_gone(name):
            return
        if self._late:
            log.warning("the database is back, and everything is written")
            metrics.ledger_lag(0, 0.0)
        self._late = False
        with self._mutex:
            self._unfolded -= lines
            if self._name == name and self._size > LARGE and self._folded.get(name) == self._size:
                (self.seats.folder / name).unlink(missing_ok=True)
                self._open()

    def sweep(self) -> None:
        """Take in and remove the files of processes that are gone. Raises StoreUnavailable."""
        self.fold()
        for number in self.seats.others():
            with self.seats.left(number) as left:
                if left:
                    self._remove(self._files(number))
        if self.seats.taken:
            with self._mutex:
                before_us = self._files(self.seats.sit()) - {self._name}  # of whoever had our number before
            self._remove(before_us)
        self._database.write(lambda tx: statements.drop_journals(tx, lambda name: (self.seats.folder / name).exists()))

    def _files(self, number: int) -> set[str]:
        return {path.name for path in self.seats.folder.glob(f"{number:03}-*.journal")}

    def _remove(self, names: set[str]) -> None:
        """Remove the files to which nobody writes any more, once the ledger has all of them."""
        if names:
            self.fold(names)
            for name in names:
                (self.seats.folder / name).unlink(missing_ok=True)


_UNREADABLE = (ValueError, RecursionError)


def _parsed(lines: Iterable[bytes]) -> list[Values]:
    with suppress(*_UNREADABLE):
        found: list[Values] = json.loads(b"[%s]" % b",".join(lines))
        if all(isinstance(values, list) and len(values) == len(COLUMNS) for values in found):
            return found
    return [values for line in lines if (values := _parsed_alone(line))]


def _parsed_alone(line: bytes) -> Values | None:
    with suppress(*_UNREADABLE):
        values = json.loads(line)
        if isinstance(values, list) and len(values) == len(COLUMNS):
            return values
    log.error("a line of %d bytes in a journal cannot be read, and is left out", len(line))
    return None


def _read(path: Path, begin: int) -> bytes:
    """The whole lines of a file from `begin` on; as many as are taken at once."""
    try:
        with path.open("rb") as file:
            file.seek(begin)
            new = file.read(AT_ONCE)
    except FileNotFoundError:  # taken in and removed by another process
        return b""
    return new[: new.rfind(b"\n") + 1]
