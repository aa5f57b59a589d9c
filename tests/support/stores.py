"""Fixtures: every test with `database` runs on SQLite and on real PostgreSQL, each time on an empty database.

`side_by_side_processes` runs the same few lines in several processes that begin at the same moment.
"""

import json
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from support.gateways import python
from support.servers import postgres, redis

_numbers = count(1)
ADVISORY_LOCK = 0x63686174


@pytest.fixture(scope="session")
def postgres_server():
    with postgres() as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_server():
    with redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server):
    """The URL of an empty Redis."""
    from redis import Redis

    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/ledger/chatapi.db"  # its folder is not there yet


@pytest.fixture
def postgres_url(postgres_server):
    name = f"test_{next(_numbers)}"
    sql(postgres_server, f"CREATE DATABASE {name}")
    yield sa.make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    sql(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request):
    """The URL of an empty database."""
    return request.getfixturevalue(f"{request.param}_url")


def sql(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What a connection of nobody's sees, or does."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        found = connection.exec_driver_sql(statement)
        return [tuple(row) for row in found] if found.returns_rows else []


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Somebody else holds the database's write lock."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(path_of(url), isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")
        return
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({ADVISORY_LOCK})")
        yield


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    was, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, was[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
        signal.signal(signal.SIGXFSZ, handler)


def path_of(url: str) -> Path:
    return Path(sa.make_url(url).database or "")


def files_of(directory: Path) -> bytes:
    """All that is written in the files there."""
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file())


PROCESSES = """
import json, os, sys
number, arguments = json.loads(sys.argv[1])
{imports}
def one_of_them(me):
{body}
ready, go = os.pipe(), os.pipe()
answers = []
for me in range(number):
    answer = os.pipe()
    if os.fork() == 0:
        os.close(go[1])
        result = one_of_them(me)
        os.write(answer[1], json.dumps(result).encode())
        os._exit(0)
    os.close(answer[1])
    answers.append(answer[0])
for _ in range(number):
    os.read(ready[0], 1)
os.close(go[1])
print(json.dumps([json.loads(os.fdopen(answer).read() or 'null') for answer in answers]))
"""


def side_by_side_processes(code: str, number: int, *arguments: Any) -> list[Any]:
    """What `code` sets `result` to in each of `number` processes; None of one that died.

    It finds `me` (0…) and `arguments`.
    What stands before a line `# each` is done once for all, in the process they are forked from, which has no thread
    and no connection yet; what stands before `# go` is done by each before all begin.
    """
    imports, _, each = code.partition("# each\n")
    lines = each.replace("# go\n", "os.write(ready[1], b'.'); os.read(go[0], 1)\n").splitlines()
    body = "\n".join(f"    {line}" for line in [*lines, "return result"])
    program = PROCESSES.format(imports=imports, body=body)
    done = python(program, json.dumps([number, arguments]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
