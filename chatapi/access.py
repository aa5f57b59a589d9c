"""Who calls: API keys and the loopback rule of `CHATAPI_AUTH`."""

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from .errors import InvalidApiKey, MissingApiKey

BEARER = {"WWW-Authenticate": 'Bearer realm="chatapi"'}
# Whoever adds one of these is a proxy: the connection's own address is not the caller's.
FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a call; `key_id` is None for callers without a key."""

    key_id: str | None = None


class Access:
    """Admits callers. `digests` are SHA-256 digests of the keys, in hex; no key is ever held in clear."""

    def __init__(self, auth: str, digests: frozenset[str]) -> None:
        self._auth = auth
        self._digests = digests

    def admit(self, authorization: str | None, local: bool) -> Caller:
        """The caller behind an `Authorization` header. Raises MissingApiKey or InvalidApiKey.

        `local` callers (see `is_local`) need no key under `auto`, and may send any: SDKs insist on one.
        """
        scheme, _, key = (authorization or "").strip().partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        # A digest is looked up, not a key compared: timing tells nothing about keys that exist.
        if scheme.lower() == "bearer" and digest in self._digests:
            return Caller(key_id=digest[:12])
        if self._auth == "off" or (self._auth == "auto" and local):
            return Caller()
        if scheme.lower() == "bearer" and key.strip():
            raise InvalidApiKey("The API key is not known here. Check it, or ask whoever runs this.", headers=BEARER)
        raise MissingApiKey("An API key is needed. Send it as 'Authorization: Bearer YOUR_KEY'.", headers=BEARER)


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
