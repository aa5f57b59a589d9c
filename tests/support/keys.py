"""Keys for tests: made in a database of their own, guessed, and with all the SQL that they cost."""

import hashlib
import re
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from chatapi.accounting import keys as keys_module
from chatapi.accounting import tables
from chatapi.accounting.access import Access
from chatapi.accounting.keys import Keys
from chatapi.accounting.store import Store
from chatapi.caller import NO_LIMITS, Caller

KEY = "sk-the-right-one"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
RIGHT = f"Bearer {KEY}"
WRONG = "Bearer sk-another"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A database without a key in it."""
    with closing(f"sqlite:///{tmp_path_factory.mktemp('untouched')}/chatapi.db") as of:
        yield of


@contextmanager
def closing(url):
    of = Store(url)
    try:
        yield of
    finally:
        of.close()


def nobody(address):
    return Caller(subject=f"address:{address}")


@pytest.fixture
def required(untouched):
    return Access("required", frozenset({DIGEST}), Keys(untouched), NO_LIMITS)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/chatapi.db"


@pytest.fixture
def keys(url, sql):
    with closing(url) as of:
        yield Keys(of)


def made(keys, name="a", limits=NO_LIMITS, models=(), expires_at=None):
    """A new key: (id, text)."""
    row, text = keys.create(name, limits, models, expires_at)
    return row["id"], text


@pytest.fixture
def at_once(monkeypatch):
    """Changes by others are looked for at every call. That it takes no longer than 5 s is shown under gunicorn."""
    monkeypatch.setattr(keys_module, "CHECK_S", 0.0)


@pytest.fixture
def sql():
    """All SQL that SQLite is given from here on: seen by SQLite itself, whichever layers it came through."""
    told = []

    def trace(connection, record):
        connection.set_trace_callback(told.append)

    sa.event.listen(sa.Engine, "connect", trace)
    yield told
    sa.event.remove(sa.Engine, "connect", trace)


def swapped(text, place):
    """`text` with another letter of the alphabet at `place`."""
    return text[:place] + ("a" if text[place] != "a" else "b") + text[place + 1 :]


NOT_QUITE = {
    "another id": lambda a, b: b[:19] + a[19:],
    "another key's tail": lambda a, b: a[:19] + b[19:],
    "another key's tag": lambda a, b: a[:51] + b[51:],
    "one letter of the id": lambda a, b: swapped(a, 9),
    "one letter of the secret": lambda a, b: swapped(a, 30),
    "one letter of the tag": lambda a, b: swapped(a, 60),
    "cut": lambda a, b: a[:-1],
    "longer": lambda a, b: a + "a",
    "twice": lambda a, b: a + a,
    "without its tag": lambda a, b: a[:51],
    "without its name": lambda a, b: a.removeprefix("chatapi_"),
    "capitals": lambda a, b: a.upper(),
    "one capital": lambda a, b: a[:30] + re.sub("[a-z]", lambda found: found[0].upper(), a[30:], count=1),
    "a line break at its end": lambda a, b: a + "\n",
    "a blank inside": lambda a, b: a[:30] + " " + a[30:],
    "full-width letters": lambda a, b: a[:-1] + "ａ",
    "the id alone": lambda a, b: a[8:18],
    "the digest": lambda a, b: hashlib.sha256(a.encode()).hexdigest(),
    "none": lambda a, b: "",
}


def flood(text):
    """Guesses of every kind that have no right tag."""
    made_up = [f"chatapi_{keys_module._random(10)}_{keys_module._random(42)}" for _ in range(50)]
    yield from made_up
    yield from (change(text, made_up[0]) for change in NOT_QUITE.values())


@contextmanager
def away(of, path):
    """The database's file cannot be opened meanwhile; a folder in its place keeps SQLite from making a new one."""
    of.close()
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    try:
        yield
    finally:
        of.close()
        path.rmdir()
        path.with_suffix(".away").rename(path)


def bearer(text, request_id="-"):
    return {"Authorization": f"Bearer {text}", "X-Request-Id": request_id}


def asked(store):
    """(process, request id) of every call in the ledger."""
    rows = store.read(lambda tx: tx.execute(sa.select(tables.calls.c.owner, tables.calls.c.request_id)).all())
    return [(owner.split(" ")[3], name) for owner, name in rows]
