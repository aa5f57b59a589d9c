"""The database's tables, and the steps from older schemas to this one."""

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

metadata = sa.MetaData()
meta = sa.Table("meta", metadata, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text))
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("old_digest", sa.Text),  # of the secret before the last rotation, until `old_until`
    sa.Column("old_until", sa.Double),
    sa.Column("limits", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("last_used_at", sa.Double),
    sa.Column("admin", sa.Boolean, nullable=False, server_default=sa.false()),  # may see what all keys do
)
calls = sa.Table(
    "calls",
    metadata,
    # Time in microseconds and 12 random bits: new rows lie at the end of every index, and a span of time is one of ids.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("key_id", sa.Text),
    sa.Column("dialect", sa.Text, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("served", sa.Text),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("code", sa.Text),
    sa.Column("ending", sa.Text),  # NULL while the call is open
    sa.Column("prompt_tokens", sa.BigInteger),
    sa.Column("completion_tokens", sa.BigInteger),
    sa.Column("usage_source", sa.Text),
    sa.Column("first_token_ms", sa.Double),
    sa.Column("total_ms", sa.Double),
    sa.Column("owner", sa.Text, nullable=False),  # the process that answers it
    sa.Column("until", sa.Double, nullable=False),  # when it is over at the latest
)
# The only index besides the primary key: as large as the number of calls open, whatever the ledger's size.
sa.Index("calls_open", calls.c.id, sqlite_where=calls.c.ending.is_(None), postgresql_where=calls.c.ending.is_(None))
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),  # "" for callers without a key; first, for each asks for its own
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("ending", sa.Text, primary_key=True),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
)
limits = sa.Table(
    "limits",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)
# What has expired is found without a look at what has not: there may be a row for each of a million keys.
sa.Index("limits_expiring", limits.c.expires_at)
# Calls are first written to a file of the process that answers them, beside SQLite's: how many bytes of each are here.
journals = sa.Table(
    "journals",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("folded", sa.BigInteger, nullable=False),
)
# Keys that the legacy route goes on serving after its sunset, until then (Unix seconds).
legacy_extensions = sa.Table(
    "legacy_extensions",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("until", sa.Double, nullable=False),
)
# Who still calls the legacy route.
legacy_callers = sa.Table(
    "legacy_callers",
    metadata,
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("key_id", sa.Text, primary_key=True),  # "" for callers without a key
    sa.Column("client", sa.Text, primary_key=True),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("refused", sa.BigInteger, nullable=False),
    sa.Column("compared", sa.BigInteger, nullable=False),
    sa.Column("differ", sa.BigInteger, nullable=False),
    sa.Column("last_seen", sa.Double, nullable=False),
    sa.Column("uses", sa.JSON, nullable=False),  # fields as they were written, and how often
)


class Step(NamedTuple):
    """What takes a database that has tables already one schema further."""

    name: str
    take: Callable[[Connection], None]


def create(tx: Connection) -> None:
    """All tables, in an empty database."""
    metadata.create_all(tx)
    # Keys are told from guesses by it, and their digests are keyed with it: see keys.py.
    secret = secrets.token_hex(32)
    tx.execute(meta.insert(), [{"name": "keys_version", "value": "0"}, {"name": "secret", "value": secret}])


def _add_admin_keys(tx: Connection) -> None:
    no = "0" if tx.dialect.name == "sqlite" else "false"
    tx.exec_driver_sql(f"ALTER TABLE keys ADD COLUMN admin BOOLEAN NOT NULL DEFAULT {no}")


def _add_journals(tx: Connection) -> None:
    tx.exec_driver_sql("CREATE TABLE journals (name TEXT NOT NULL PRIMARY KEY, folded BIGINT NOT NULL)")


def _add_legacy(tx: Connection) -> None:
    real = "DOUBLE" if tx.dialect.name == "sqlite" else "DOUBLE PRECISION"
    tx.exec_driver_sql(f"CREATE TABLE legacy_extensions (key_id TEXT NOT NULL PRIMARY KEY, until {real} NOT NULL)")
    tx.exec_driver_sql(
        "CREATE TABLE legacy_callers (day TEXT NOT NULL, key_id TEXT NOT NULL, client TEXT NOT NULL, "
        "calls BIGINT NOT NULL, refused BIGINT NOT NULL, compared BIGINT NOT NULL, differ BIGINT NOT NULL, "
        f"last_seen {real} NOT NULL, uses JSON NOT NULL, PRIMARY KEY (day, key_id, client))"
    )


# In order, and only added to: a database's schema is how many of them it has. A change of the tables above is a new
# step at the end, which finds the tables as the step before it has left them.
STEPS: tuple[Step, ...] = (
    Step("first tables", create),
    Step("keys of administrators", _add_admin_keys),
    Step("journals", _add_journals),
    Step("the legacy route", _add_legacy),
)


def day_of(at: float) -> str:
    """The day (UTC) of a moment in Unix seconds."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))
