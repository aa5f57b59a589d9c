"""The legacy route in the database: the operators' switch, the keys' extensions, and who still calls."""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from .statements import Row, Tx, get_meta, put_meta, upsert
from .tables import keys, legacy_callers, legacy_extensions

_SWITCH = "legacy_switched_off"
_PLACE = ("day", "key_id", "client")
_COUNTS = ("calls", "refused", "compared", "differ")


def state(tx: Tx) -> tuple[bool, dict[str, float]]:
    """Whether the route is switched off, and until when each extended key is served."""
    rows = tx.execute(sa.select(legacy_extensions.c.key_id, legacy_extensions.c.until))
    return get_meta(tx, _SWITCH) == "1", dict(row for row in rows)


def put_switch(tx: Tx, off: bool) -> None:
    """Switch the route off for everybody, or take that back."""
    put_meta(tx, _SWITCH, "1" if off else "0")


def put_extension(tx: Tx, key_id: str, until: float) -> None:
    """Serve a key until then; a new date replaces the old one."""
    upsert(tx, legacy_extensions, {"key_id": key_id, "until": until})


# --- who calls


def add_callers(tx: Tx, rows: Iterable[Row], most: int, other: str, unnamed: frozenset[str]) -> None:
    """Add counts by day, key and client; beyond `most` names a key and day, clients are `other`.

    `unnamed` are the clients that are no names, and always have their place.
    """
    for row in rows:
        place = {name: row[name] for name in _PLACE}
        found = _clients(tx, place["day"], place["key_id"])
        if place["client"] not in found and place["client"] not in unnamed and len(found - unnamed) >= most:
            place["client"] = other
        old = tx.execute(sa.select(legacy_callers).filter_by(**place)).mappings().first()
        new = {name: row[name] + (old[name] if old else 0) for name in _COUNTS}
        new["last_seen"] = max(row["last_seen"], old["last_seen"] if old else 0.0)
        uses = dict(old["uses"]) if old else {}
        for field, count in row["uses"].items():
            uses[field] = uses.get(field, 0) + count
        upsert(tx, legacy_callers, {**place, **new, "uses": uses})


def _clients(tx: Tx, day: str, key_id: str) -> set[str]:
    where = (legacy_callers.c.day == day, legacy_callers.c.key_id == key_id)
    return set(tx.execute(sa.select(legacy_callers.c.client).where(*where)).scalars())


def callers(tx: Tx, day: str) -> list[Row]:
    """The counts of one day."""
    found = tx.execute(sa.select(legacy_callers).where(legacy_callers.c.day == day))
    return [dict(row) for row in found.mappings()]


def caller_days(tx: Tx, since: str) -> Sequence[str]:
    """The days from `since` on that have counts, in order."""
    days = sa.select(legacy_callers.c.day).where(legacy_callers.c.day >= since)
    return list(tx.execute(days.distinct().order_by(legacy_callers.c.day)).scalars())


def drop_callers(tx: Tx, before: str) -> None:
    """Forget the counts of the days before."""
    tx.execute(legacy_callers.delete().where(legacy_callers.c.day < before))


def key_names(tx: Tx) -> dict[str, str]:
    """The name of every key, by its id."""
    return dict(row for row in tx.execute(sa.select(keys.c.id, keys.c.name)))
