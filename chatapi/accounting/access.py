"""Who calls: API keys, and the loopback rule of `CHATAPI_AUTH`.

A key is `chatapi_` + public id + secret. The end of the secret is a tag made with the database's own secret, so that
a key that was never given out is told from a real one without asking the database. Real ones are remembered; every
CHECK_S the database is asked whether any key was changed, and if so, all are forgotten.
"""

import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from ..caller import Caller, Limits, key_subject
from ..errors import InvalidApiKey, MissingApiKey, StoreUnavailable
from . import store
from .store import Row, Store, Tx

log = logging.getLogger(__name__)

BEARER = {"WWW-Authenticate": 'Bearer realm="chatapi"'}
# Whoever adds one of these is a proxy: the connection's own address is not the caller's.
FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via")
CHECK_S = 2.0  # a revoked key is refused everywhere after at most so long
REMEMBERED = 10_000  # keys in memory

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
ID_LENGTH, SECRET_LENGTH, TAG_LENGTH = 10, 32, 10
_ID = re.compile(rf"[a-z2-7]{{{ID_LENGTH}}}")
_KEY = re.compile(rf"chatapi_([a-z2-7]{{{ID_LENGTH}}})_([a-z2-7]{{{SECRET_LENGTH}}})([a-z2-7]{{{TAG_LENGTH}}})")


class Access:
    """Admits callers. `digests` are SHA-256 digests of further keys, in hex; no key is ever held in clear."""

    def __init__(self, auth: str, digests: frozenset[str], keys: "Keys", anonymous: Limits) -> None:
        self._auth = auth
        self._digests = digests
        self._keys = keys
        self._anonymous = anonymous

    def admit(self, authorization: str | None, address: str | None, local: bool) -> Caller:
        """The caller behind an `Authorization` header. Raises MissingApiKey or InvalidApiKey.

        `local` callers (see `is_local`) need no key under `auto`, and may send any: SDKs insist on one.
        """
        scheme, _, key = (authorization or "").strip().partition(" ")
        key = key.strip()
        if scheme.lower() == "bearer" and key and (caller := self._holder(key)):
            return caller
        if self._auth == "off" or (self._auth == "auto" and local):
            return Caller(subject=f"address:{network(address)}", limits=self._anonymous)
        if scheme.lower() == "bearer" and key:
            raise InvalidApiKey("The API key is not known here. Check it, or ask whoever runs this.", headers=BEARER)
        raise MissingApiKey("An API key is needed. Send it as 'Authorization: Bearer YOUR_KEY'.", headers=BEARER)

    def _holder(self, key: str) -> Caller | None:
        if caller := self._keys.holder(key):
            return caller
        # A digest is looked up, not a key compared: timing tells nothing about keys that exist.
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        if self._digests and digest in self._digests:
            return Caller(key_id=digest[:12], subject=key_subject(digest[:12]))
        return None


class Keys:
    """The keys in the store."""

    def __init__(self, of: Store) -> None:
        self._store = of
        self._known: dict[str, tuple[Row, Caller] | None] = {}
        self._secret: bytes | None = None
        self._version: str | None = None
        self._check_at = 0.0

    def holder(self, key: str) -> Caller | None:
        """Whose key it is; None when it is nobody's, expired or revoked. Raises StoreUnavailable."""
        found = _KEY.fullmatch(key)
        if found is None or not hmac.compare_digest(self._tag(found[1], found[2]), found[3]):
            return None
        known = self._find(found[1])
        if known is None or not _opens(known[0], self._digest(found[1], found[2]), time.time()):
            return None
        return known[1]

    def _find(self, id: str) -> tuple[Row, Caller] | None:
        self._forget_if_changed()
        if id not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            row = self._store.read(lambda tx: store.get_key(tx, id))
            self._known[id] = (row, _caller(row)) if row else None
        return self._known[id]

    def _forget_if_changed(self) -> None:
        if time.monotonic() < self._check_at:
            return
        try:
            version = self._store.read(lambda tx: store.get_meta(tx, "keys_version"))
        except StoreUnavailable as error:
            # Keys that are known here stay so while the database is away.
            log.warning("keys cannot be checked: the database is away (%s)", error.cause)
            version = self._version
        self._check_at = time.monotonic() + CHECK_S
        if version != self._version:
            self._known.clear()
            self._version = version

    def _tag(self, id: str, secret: str) -> str:
        return _letters(self._hmac(b"tag", id, secret), TAG_LENGTH)

    def _digest(self, id: str, secret: str) -> str:
        return self._hmac(b"digest", id, secret).hex()

    def _hmac(self, purpose: bytes, id: str, secret: str) -> bytes:
        if self._secret is None:
            self._secret = bytes.fromhex(self._store.read(lambda tx: store.get_meta(tx, "secret")) or "")
        return hmac.digest(self._secret, b"\0".join((purpose, id.encode(), secret.encode())), hashlib.sha256)

    # --- for operators

    def create(self, name: str, limits: Limits, models: Sequence[str], expires_at: float | None) -> tuple[Row, str]:
        """A new key, and its text, which is shown this once and stored nowhere."""
        id = _random(ID_LENGTH)
        text, digest = self._new_text(id)
        row = dict.fromkeys(store.keys.c.keys()) | {
            "id": id,
            "name": name,
            "digest": digest,
            "limits": limits.as_dict(),
            "models": list(models),
            "created_at": time.time(),
            "expires_at": expires_at,
        }
        self._store.write(lambda tx: store.put_key(tx, row))
        return row, text

    def rotate(self, id: str, grace_s: float) -> tuple[Row, str]:
        """A new secret for a key; the old one opens for `grace_s` more. Raises LookupError."""
        text, digest = self._new_text(id)
        until = time.time() + grace_s
        return self._change(id, lambda row: {"digest": digest, "old_digest": row["digest"], "old_until": until}), text

    def update(
        self, id: str, name: str | None, limits: Mapping[str, Any], models: Sequence[str], expires_at: float | None
    ) -> Row:
        """Change what is given of a key; its `limits` one by one. Raises LookupError."""

        def change(row: Row) -> dict[str, Any]:
            new = {"name": name, "models": list(models), "expires_at": expires_at}
            return {k: v for k, v in new.items() if v} | {"limits": {**row["limits"], **limits}}

        return self._change(id, change)

    def revoke(self, id: str) -> Row:
        """Nobody is admitted with this key any more. Raises LookupError."""
        return self._change(id, lambda row: {"revoked_at": row["revoked_at"] or time.time()})

    def show(self, id: str) -> Row:
        """One key. Raises LookupError."""
        return self._store.read(lambda tx: _existing(tx, id))

    def list(self) -> Sequence[Row]:
        """All keys, the oldest first."""
        return self._store.read(store.all_keys)

    def _change(self, id: str, change: Callable[[Row], dict[str, Any]]) -> Row:
        def do(tx: Tx) -> Row:
            row = _existing(tx, id)
            if row["revoked_at"]:
                raise LookupError(f"the key {id!r} is revoked")
            new = {**row, **change(row)}
            store.put_key(tx, new)
            return new

        return self._store.write(do)

    def _new_text(self, id: str) -> tuple[str, str]:
        secret = _random(SECRET_LENGTH)
        return f"chatapi_{id}_{secret}{self._tag(id, secret)}", self._digest(id, secret)


def _existing(tx: Tx, id: str) -> Row:
    row = store.get_key(tx, id) if _ID.fullmatch(id) else None
    if row is None:
        raise LookupError(f"there is no key {id!r}")
    return row


def _opens(row: Row, digest: str, now: float) -> bool:
    if row["revoked_at"] or (row["expires_at"] and row["expires_at"] <= now):
        return False
    if hmac.compare_digest(row["digest"], digest):
        return True
    in_grace = row["old_digest"] and row["old_until"] and now < row["old_until"]
    return bool(in_grace and hmac.compare_digest(row["old_digest"], digest))


def _caller(row: Row) -> Caller:
    limits = Limits(**{**row["limits"], "shadow": tuple(row["limits"].get("shadow", ()))})
    return Caller(row["id"], key_subject(row["id"]), limits, tuple(row["models"]))


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _letters(digest: bytes, length: int) -> str:
    return "".join(_ALPHABET[byte & 31] for byte in digest[:length])


# --- callers without a key

_WITH_PORT = re.compile(r"\[(.+)\](?::\d+)?|([0-9.]+):\d+")


def network(address: str | None) -> str:
    """Whom an address stands for: an IPv6 caller owns a /64; a unix socket has no address. Some proxies add a port."""
    with_port = _WITH_PORT.fullmatch(address or "")
    try:
        found = ipaddress.ip_address((with_port[1] or with_port[2]) if with_port else address or "")
    except ValueError:
        return "-"
    mapped = getattr(found, "ipv4_mapped", None)
    if mapped or found.version == 4:
        return str(mapped or found)
    return str(ipaddress.ip_network((found, 64), strict=False).network_address) + "/64"


def is_local(address: str | None, host: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a program on this machine, and not through a proxy or a foreign web page."""
    if not _is_loopback(address or "") or any(name in headers for name in FORWARDING):
        return False
    # A page elsewhere can point its own name at 127.0.0.1 (DNS rebinding), or post across sites.
    origin = headers.get("Origin")
    return _names_loopback("//" + host) and (origin is None or _names_loopback(origin))


@lru_cache(1024)
def _names_loopback(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


@lru_cache(1024)
def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
        mapped = getattr(found, "ipv4_mapped", None)  # how a socket for both families shows IPv4 callers
        return (mapped or found).is_loopback
    except ValueError:
        return False
