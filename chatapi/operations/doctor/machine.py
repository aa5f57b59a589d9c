"""What the gateway stands on: its database, Redis, clocks, gunicorn's configuration, the limit of open files."""

import os
import re
import resource
import runpy
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...accounting import statements, tables
from ...accounting.quotas import LEASE_S
from ...accounting.redis import RedisLimits
from ...components import Components
from ...errors import StoreError
from .findings import DOCTOR, Finding, setting

CLOCK_S = 5.0  # off by more is wrong: keys expire and limits count by it, and logs are compared
WORKER = "chatapi.operations.worker.Worker"
CONFIG = "gunicorn.conf.py"
CONNECTIONS = 1000  # gunicorn's own default
UPGRADE = "flask --app wsgi db upgrade"


class Machine:
    """This machine, as the settings see it."""

    def __init__(self, parts: Components) -> None:
        self._store = parts.store
        self._settings = parts.settings
        self._connections = CONNECTIONS
        self.database_works = False

    def database(self) -> Iterator[Finding]:
        """Its schema, whether it can be written to, and what was left open."""
        file = self._file()
        if file and not file.exists():
            yield Finding("database", None, f"{file.resolve()} does not exist; the gateway would make it", UPGRADE)
            return
        if file and file.is_file():
            yield _permissions(file)
        try:
            version = self._store.schema_version()
            if version == 0 and (others := self._store.foreign_tables()):
                message = f"{self._store} is another program's: it has the tables {', '.join(others[:5])}"
                yield Finding("database", False, message, setting("DATABASE_URL"))
                return
            yield _schema(version)
            if version != len(tables.STEPS):
                return
            yield Finding("database", True, f"{self._store}: {self._store.ping()}")
            self.database_works = True
            yield from self._left_open()
            yield from clock("database", self._store.read(statements.clock))
        except StoreError as error:
            yield Finding("database", False, f"{self._store}: {error.cause}", _mend(error.cause, file))

    def _file(self) -> Path | None:
        scheme, _, rest = self._settings.database_url.partition(":///")
        return Path(rest.partition("?")[0]) if scheme == "sqlite" and rest != ":memory:" else None

    def _left_open(self) -> Iterator[Finding]:
        late = time.time() - LEASE_S
        if lost := [row for row in self._store.read(statements.open_calls) if row["until"] < late]:
            since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(lost[0]["started_at"]))
            message = (
                f"{len(lost)} are open past their deadline, the first since {since}: their worker is gone, or hangs"
            )
            yield Finding("open calls", False, message, "systemctl restart chatapi")

    def redis(self) -> Iterator[Finding]:
        """Whether it is there, keeps what it is given, and has the same time."""
        if not self._settings.redis_url:
            return
        try:
            policy, now = RedisLimits(self._settings.redis_url, lambda *of: 0).look()
        except ConnectionError as error:
            message = f"{error}: limits are held in the database"
            yield Finding("redis", False, message, setting("REDIS_URL", "redis://HOST:6379/0"))
            return
        if policy:
            message = f"when it is full it forgets limits ({policy})"
            yield Finding("redis", False, message, "redis.conf: maxmemory-policy noeviction")
        else:
            yield Finding("redis", True, "answers, and keeps what it is given")
        yield from clock("redis", now)

    def gunicorn(self) -> Iterator[Finding]:
        """What its configuration says, read as gunicorn reads it."""
        if not Path(CONFIG).is_file():
            message = f"there is no {CONFIG} in {Path.cwd()}: a gunicorn started here is another one"
            yield Finding("gunicorn", None, message, "cd to chatapi's directory")
            return
        given: dict[str, Any] = runpy.run_path(CONFIG)
        self._connections = int(given.get("worker_connections", CONNECTIONS))
        kind = given.get("worker_class", "sync")
        line = f'{CONFIG}: worker_class = "{WORKER}"'
        yield Finding("gunicorn", kind == WORKER, f"the worker class is {kind}", "" if kind == WORKER else line)

    def files(self, running: int | None) -> Iterator[Finding]:
        """Whether a worker may open enough: each connection is a file, and so is the one to its upstream."""
        limit = running or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        whose = "the gateway" if running else "a process started here"
        needed = 2 * self._connections + 200
        enough = limit == resource.RLIM_INFINITY or limit >= needed
        message = f"{whose} may have {limit}; {self._connections} callers take {needed}"
        lines = "chatapi.service: LimitNOFILE=65536\nulimit -n 65536"
        yield Finding("open files", enough, message, "" if enough else lines)


# Words in what a database says → the line that mends it; {file} is SQLite's.
_MENDED = (
    (r"disk is full|no space left", "df -h {folder}"),
    (r"not a database|malformed|no such column|meta.* does not exist", "mv {file} {file}.other  # docs/operating.md"),
    (
        r"connection refused|is the server running|timeout expired|server closed",
        "systemctl start postgresql\n.env: DATABASE_URL=…",
    ),
    (r"authentication failed|no password supplied", ".env: DATABASE_URL=postgresql+psycopg://USER:PASSWORD@HOST/NAME"),
    (r'database "(?P<name>[^"]+)" does not exist', "createdb {name}"),
    (r"locked", "fuser {file}"),
    (r"readonly|unable to open|permission denied", "chown the file and its directory to the gateway's user: {file}"),
)


def _mend(cause: str, file: Path | None) -> str:
    for words, line in _MENDED:
        if (found := re.search(words, cause, re.IGNORECASE)) and (file or "{file}" not in line):
            return line.format(file=file, folder=(file or Path()).parent, **found.groupdict())
    return setting("DATABASE_URL")


def _schema(version: int) -> Finding:
    needed = len(tables.STEPS)
    message = f"has schema {version}, needed is {needed}"
    if version > needed:
        return Finding("schema", False, f"{message}: a newer chatapi made it", "install that version of chatapi")
    if version == 0:
        return Finding("schema", None, "is empty; the gateway makes its tables", UPGRADE)
    return Finding("schema", version == needed, message, "" if version == needed else UPGRADE)


def _permissions(file: Path) -> Finding:
    found = file.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o007:
        return Finding("permissions", False, f"{file} is open to everybody here (mode {mode:o})", f"chmod o= {file}")
    if found.st_uid != os.geteuid():
        message = f"{file} belongs to user {found.st_uid}, and this command runs as {os.geteuid()}"
        return Finding("permissions", None, message, f"sudo -u '#{found.st_uid}' {DOCTOR}")
    return Finding("permissions", True, f"{file} has mode {mode:o}")


def clock(whose: str, theirs: float | None) -> Iterator[Finding]:
    """This machine's clock beside another one (Unix seconds); nothing where the other has none."""
    if theirs is None:
        return
    off_s = theirs - time.time()
    if abs(off_s) <= CLOCK_S:
        yield Finding("clock", True, f"is that of the {whose}")
        return
    message = f"this machine is {abs(off_s):.0f} s {'slow' if off_s > 0 else 'fast'} by the clock of the {whose}"
    yield Finding("clock", False, message, "timedatectl set-ntp true")
