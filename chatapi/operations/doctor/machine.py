"""What the gateway stands on: its database, Redis, clocks, gunicorn's configuration, the limit of open files."""

import os
import re
import resource
import runpy
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...accounting import statements, tables
from ...accounting.quotas import LEASE_S
from ...accounting.redis import RedisLimits
from ...accounting.store import LEAST_FREE
from ...components import Components
from ...errors import StoreError
from ...languages import N_, _
from .findings import DOCTOR, Finding, Result, setting

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

    def check_database(self) -> Iterator[Finding]:
        """Its schema, whether it can be written to, and what was left open."""
        file = self._file()
        if file and not file.exists():
            message = _("{file} does not exist; the gateway would make it", file=file.resolve())
            yield Finding("database", None, message, UPGRADE)
            return
        if file and file.is_file():
            yield Finding("permissions", *check_permissions(file))
        try:
            version = self._store.schema_version()
            if version == 0 and (others := self._store.foreign_tables()):
                named = ", ".join(others[:5])
                message = _("{file} is another program's; its tables: {tables}", file=self._store, tables=named)
                yield Finding("database", False, message, setting("DATABASE_URL"))
                return
            yield Finding("schema", *_check_schema(version))
            if version != len(tables.STEPS):
                return
            self._store.ping()
            yield Finding("database", True, _("{database} can be written to", database=self._store))
            self.database_works = True
            yield from self._check_open_calls()
            yield from check_clock("database", self._store.read(statements.clock))
        except StoreError as error:
            yield Finding("database", False, *self._explain(error.cause, file))

    def _explain(self, cause: str, file: Path | None) -> tuple[str, str]:
        # On a disk without any room SQLite speaks of "disk I/O error".
        if file and (free := shutil.disk_usage(file.absolute().parent).free) < LEAST_FREE:
            message = _("{database}: the disk is full, {free} KB are left", database=self._store, free=free // 1024)
            return message, f"df -h {file.absolute().parent}"
        return f"{self._store}: {cause}", _fix_database(cause, file)

    def _file(self) -> Path | None:
        scheme, _, rest = self._settings.database_url.partition(":///")
        return Path(rest.partition("?")[0]) if scheme == "sqlite" and rest != ":memory:" else None

    def _check_open_calls(self) -> Iterator[Finding]:
        late = time.time() - LEASE_S
        if lost := [row for row in self._store.read(statements.open_calls) if row["until"] < late]:
            since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(lost[0]["started_at"]))
            text = N_("{count} are open past their deadline, the first since {since}: their worker is gone, or hangs")
            yield Finding("open calls", False, _(text, count=len(lost), since=since), "systemctl restart chatapi")

    def check_redis(self) -> Iterator[Finding]:
        """Whether it is there, keeps what it is given, and has the same time."""
        if not self._settings.redis_url:
            return
        try:
            policy, now = RedisLimits(self._settings.redis_url, lambda *of: 0).examine()
        except ConnectionError as error:
            message = _("it does not answer ({error}): limits are held in the database", error=error)
            yield Finding("redis", False, message, setting("REDIS_URL", "redis://HOST:6379/0"))
            return
        if policy:
            message = _("when it is full it forgets limits ({policy})", policy=policy)
            yield Finding("redis", False, message, "redis.conf: maxmemory-policy noeviction")
        else:
            yield Finding("redis", True, _("answers, and keeps what it is given"))
        yield from check_clock("redis", now)

    def check_gunicorn(self) -> Iterator[Finding]:
        """What its configuration says, read as gunicorn reads it."""
        if not Path(CONFIG).is_file():
            text = N_("there is no {file} in {folder}: a gunicorn started here is another one")
            yield Finding("gunicorn", None, _(text, file=CONFIG, folder=Path.cwd()), "cd /opt/chatapi")
            return
        given: dict[str, Any] = runpy.run_path(CONFIG)
        self._connections = int(given.get("worker_connections", CONNECTIONS))
        kind = given.get("worker_class", "sync")
        fix = "" if kind == WORKER else f'{CONFIG}: worker_class = "{WORKER}"'
        yield Finding("gunicorn", kind == WORKER, _("the worker class is {kind}", kind=kind), fix)

    def check_open_files(self, running: int | None) -> Iterator[Finding]:
        """Whether a worker may open enough: each connection is a file, and so is the one to its upstream."""
        limit = running or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        needed = 2 * self._connections + 200
        enough = limit == resource.RLIM_INFINITY or limit >= needed
        text = N_("the gateway may have {limit}; {callers} callers take {needed}")
        if not running:
            text = N_("a process started here may have {limit}; {callers} callers take {needed}")
        message = _(text, limit=limit, callers=self._connections, needed=needed)
        fix = "" if enough else "chatapi.service: LimitNOFILE=65536\nulimit -n 65536"
        yield Finding("open files", enough, message, fix)


# Words in what a database says → the line to run or to change; {file} is SQLite's.
_FIXES = (
    (r"no space left", "df -h  # postgresql"),
    (r"not a database|malformed|no such column|meta.* does not exist", "mv {file} {file}.other  # docs/operating.md"),
    (
        r"connection refused|is the server running|timeout expired|server closed",
        "systemctl start postgresql\n.env: DATABASE_URL=…",
    ),
    (r"authentication failed|no password supplied", ".env: DATABASE_URL=postgresql+psycopg://USER:PASSWORD@HOST/NAME"),
    (r'database "(?P<name>[^"]+)" does not exist', "createdb {name}"),
    (r"locked", "fuser {file}"),
    (r"readonly|unable to open|permission denied", "chown chatapi: {file} {folder}"),
)


def _fix_database(cause: str, file: Path | None) -> str:
    for words, line in _FIXES:
        if (found := re.search(words, cause, re.IGNORECASE)) and (file or "{file}" not in line):
            return line.format(file=file, folder=(file or Path()).parent, **found.groupdict())
    return setting("DATABASE_URL")


def _check_schema(version: int) -> Result:
    needed = len(tables.STEPS)
    message = _("has schema {version}, needed is {needed}", version=version, needed=needed)
    if version > needed:
        return False, _("{what}: a newer chatapi made it", what=message), _("install that version of chatapi")
    if version == 0:
        return None, _("is empty; the gateway makes its tables"), UPGRADE
    return version == needed, message, "" if version == needed else UPGRADE


def check_permissions(file: Path) -> Result:
    """Whether nobody but its owner, who runs this command, may open the database's `file`."""
    found, user = file.stat(), os.geteuid()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o007:
        return False, _("{file} is open to everybody here (mode {mode:o})", file=file, mode=mode), f"chmod o= {file}"
    if found.st_uid != user:
        text = N_("{file} belongs to user {owner}, and this command runs as {user}")
        return None, _(text, file=file, owner=found.st_uid, user=user), f"sudo -u '#{found.st_uid}' {DOCTOR}"
    return True, _("{file} has mode {mode:o}", file=file, mode=mode), ""


def check_clock(whose: str, theirs: float | None) -> Iterator[Finding]:
    """This machine's clock beside another one (Unix seconds); nothing where the other has none."""
    if theirs is None:
        return
    off_s = theirs - time.time()
    if abs(off_s) <= CLOCK_S:
        yield Finding("clock", True, _("agrees with that of: {whose}", whose=whose))
        return
    text = N_("this machine is {seconds:.0f} s slow by the clock of: {whose}")
    if off_s < 0:
        text = N_("this machine is {seconds:.0f} s fast by the clock of: {whose}")
    yield Finding("clock", False, _(text, seconds=abs(off_s), whose=whose), "timedatectl set-ntp true")
