"""API keys: made, changed and revoked by operators; checked for callers.

A key is `chatapi_` + public id + secret. The end of the secret is a tag made with the database's own secret, so that
a key that was never given out is told from a real one without asking the database. Whoever remembers real ones
(access.py) forgets them when any key was changed, for which the database is asked every CHECK_S.
"""

import hashlib
import hmac
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ..caller import LIMIT_NAMES, Caller, Limits, key_subject
from ..errors import StoreUnavailable
from ..languages import _
from .statements import Row, Tx, get_meta, put_meta, rows_of, upsert
from .store import Store
from .tables import keys

log = logging.getLogger(__name__)

CHECK_S = 2.0  # a revoked key is refused everywhere after at most so long

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
ID_LENGTH, SECRET_LENGTH, TAG_LENGTH = 10, 32, 10
_ID = re.compile(rf"[a-z2-7]{{{ID_LENGTH}}}")
_KEY = re.compile(rf"chatapi_([a-z2-7]{{{ID_LENGTH}}})_([a-z2-7]{{{SECRET_LENGTH}}})([a-z2-7]{{{TAG_LENGTH}}})")


class Keys:
    """The keys in the store."""

    def __init__(self, of: Store) -> None:
        self._store = of
        self._secret: bytes | None = None
        self._version: str | None = None
        self._generation = 0
        self._check_at = 0.0

    def holder(self, key: str) -> tuple[Caller | None, float] | None:
        """Whose key it is, and until when (Unix seconds); nobody's, for ever, where it opens nothing any more.

        None for what was never given out, of which the database is not asked. Raises StoreUnavailable.
        """
        found = _KEY.fullmatch(key)
        if found is None or not hmac.compare_digest(self._tag(found[1], found[2]), found[3]):
            return None
        row = self._store.read(lambda tx: get_key(tx, found[1]), fresh=False)
        expires_at = _expires_at(row, self._digest(found[1], found[2])) if row else 0.0
        return (_caller(row), expires_at) if row and time.time() < expires_at else (None, math.inf)

    def generation(self) -> int:
        """Another number than before, once any key has been changed, here or elsewhere."""
        if time.monotonic() >= self._check_at:
            # First: while one waits for the database, all others go on with what is known.
            self._check_at = time.monotonic() + CHECK_S
            self._forget_if_changed()
        return self._generation

    def _forget_if_changed(self) -> None:
        try:
            version = self._store.read(lambda tx: get_meta(tx, "keys_version"), fresh=False)
        except StoreUnavailable as error:
            # Keys that are known here stay so while the database is away.
            log.warning("keys cannot be checked: the database is away (%s)", error.cause)
            return
        if version != self._version:
            self._version = version
            self._generation += 1

    def _tag(self, id: str, secret: str) -> str:
        return "".join(_ALPHABET[byte & 31] for byte in self._hmac(b"tag", id, secret)[:TAG_LENGTH])

    def _digest(self, id: str, secret: str) -> str:
        return self._hmac(b"digest", id, secret).hex()

    def _hmac(self, purpose: bytes, id: str, secret: str) -> bytes:
        if self._secret is None:
            given = self._store.read(lambda tx: get_meta(tx, "secret"), fresh=False)
            self._secret = bytes.fromhex(given or "")
        return hmac.digest(self._secret, b"\0".join((purpose, id.encode(), secret.encode())), hashlib.sha256)

    # --- for operators

    def create(
        self, name: str, limits: Limits, models: Sequence[str], expires_at: float | None, admin: bool = False
    ) -> tuple[Row, str]:
        """A new key, and its text, which is shown this once and stored nowhere."""
        id = _random(ID_LENGTH)
        text, digest = self._new_text(id)
        row = dict.fromkeys(keys.c.keys()) | {
            "id": id,
            "name": name,
            "digest": digest,
            "limits": limits.as_dict(),
            "models": list(models),
            "created_at": time.time(),
            "expires_at": expires_at,
            "admin": admin,
        }
        self._store.write(lambda tx: put_key(tx, row))
        return row, text

    def rotate(self, id: str, grace_s: float) -> tuple[Row, str]:
        """A new secret for a key; the old one opens for `grace_s` more. Raises LookupError."""
        text, digest = self._new_text(id)
        new = {"digest": digest, "old_until": time.time() + grace_s}
        return self._change(id, lambda row: {**new, "old_digest": row["digest"]}), text

    def update(
        self, id: str, name: str | None, limits: Mapping[str, Any], models: Sequence[str], expires_at: float | None
    ) -> Row:
        """Change what is given of a key; its `limits` one by one, `expires_at` inf for never. Raises LookupError."""

        def change(row: Row) -> dict[str, Any]:
            new = {"name": name, "models": list(models), "expires_at": expires_at}
            changed = {k: v for k, v in new.items() if v} | {"limits": {**row["limits"], **limits}}
            return changed | ({"expires_at": None} if expires_at == math.inf else {})

        return self._change(id, change)

    def revoke(self, id: str) -> Row:
        """Nobody is admitted with this key any more. Raises LookupError."""
        return self._change(id, lambda row: {"revoked_at": row["revoked_at"] or time.time()})

    def show(self, id: str) -> Row:
        """One key. Raises LookupError."""
        return self._store.read(lambda tx: _existing(tx, id))

    def list(self) -> Sequence[Row]:
        """All keys, the oldest first."""
        return self._store.read(all_keys)

    def _change(self, id: str, change: Callable[[Row], dict[str, Any]]) -> Row:
        def do(tx: Tx) -> Row:
            row = _existing(tx, id)
            if row["revoked_at"]:
                raise LookupError(_("the key {id!r} is revoked", id=id))
            new = {**row, **change(row)}
            put_key(tx, new)
            return new

        return self._store.write(do)

    def _new_text(self, id: str) -> tuple[str, str]:
        secret = _random(SECRET_LENGTH)
        return f"chatapi_{id}_{secret}{self._tag(id, secret)}", self._digest(id, secret)


def _existing(tx: Tx, id: str) -> Row:
    row = get_key(tx, id) if _ID.fullmatch(id) else None
    if row is None:
        raise LookupError(_("there is no key {id!r}", id=id))
    return row


def _expires_at(row: Row, digest: str) -> float:
    """Until when (Unix seconds) the secret with this digest opens the key; 0.0 when it does not."""
    if row["revoked_at"]:
        return 0.0
    expires_at: float = row["expires_at"] or float("inf")
    if hmac.compare_digest(row["digest"], digest):
        return expires_at
    if row["old_digest"] and row["old_until"] and hmac.compare_digest(row["old_digest"], digest):
        return float(min(expires_at, row["old_until"]))
    return 0.0


def _caller(row: Row) -> Caller:
    given = {name: row["limits"].get(name) for name in LIMIT_NAMES}  # a newer version may know others
    limits = Limits(**given, shadow=tuple(row["limits"].get("shadow", ())))
    return Caller(row["id"], key_subject(row["id"]), limits, tuple(row["models"]), bool(row["admin"]), row["name"])


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


# --- in the database


def put_key(tx: Tx, row: Row) -> None:
    """Add a key, or replace the one of the same id; every process hears of it."""
    upsert(tx, keys, row)
    put_meta(tx, "keys_version", str(int(get_meta(tx, "keys_version") or 0) + 1))


def get_key(tx: Tx, id: str) -> Row | None:
    """One key, or None."""
    return next(iter(rows_of(tx.execute(sa.select(keys).where(keys.c.id == id)))), None)


def all_keys(tx: Tx) -> list[Row]:
    """Every key, the oldest first."""
    return rows_of(tx.execute(sa.select(keys).order_by(keys.c.created_at, keys.c.id)))
