"""Who calls: the key of a request, the loopback rule of `CHATAPI_AUTH`, and whom an address stands for."""

import hashlib
import ipaddress
import os
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from ..caller import Caller, Limits, key_subject
from ..errors import InvalidApiKey, MissingApiKey
from ..languages import _
from .keys import Keys

BEARER = {"WWW-Authenticate": 'Bearer realm="chatapi"'}
REMEMBERED = 10_000  # callers in memory
KEY_ID_LENGTH = 12  # of a configured key: so much of its digest
Environ = Mapping[str, Any]  # WSGI's: a header's name begins with HTTP_


class Access:
    """Tells callers. `digests` are SHA-256 digests of further keys, in hex; no key is ever held in clear."""

    def __init__(self, auth: str, digests: frozenset[str], keys: Keys, anonymous: Limits) -> None:
        self._auth = auth
        self._digests = digests
        self._keys = keys
        self._anonymous = anonymous
        self._secret = os.urandom(32)
        self._callers: dict[bytes, tuple[Caller | None, float]] = {}  # a key's digest → see Keys.holder
        self._generation = 0

    def authenticate(self, environ: Environ, address: str | None) -> Caller:
        """The caller who made a request from `address`. Raises MissingApiKey, InvalidApiKey or StoreUnavailable.

        A local caller (see `is_local`) needs no key under `auto`, and may send any: SDKs insist on one.
        """
        key = _given_key(environ)
        if key and (caller := self._holder(key)):
            return caller
        if self._auth == "off" or (self._auth == "auto" and is_local(address, environ)):
            return Caller(subject=f"address:{network(address)}", limits=self._anonymous)
        if key:
            raise InvalidApiKey(_("The API key is not known here. Check it, or ask whoever runs this."), headers=BEARER)
        raise MissingApiKey(_("An API key is needed. Send it as 'Authorization: Bearer YOUR_KEY'."), headers=BEARER)

    def _holder(self, key: str) -> Caller | None:
        """Whose key it is. Found again by a digest that this process alone can make."""
        if self._generation != (generation := self._keys.generation()):
            self._callers.clear()
            self._generation = generation
        text = key.encode("utf-8", "surrogateescape")
        mark = hashlib.blake2b(text, key=self._secret, digest_size=16).digest()
        if (found := self._callers.get(mark)) and time.time() < found[1]:
            return found[0]
        found = self._keys.holder(key)
        if found is None or found[0] is None:
            found = self._configured(text) or found
        if found and generation == self._generation:  # nothing was changed while the database was asked
            if len(self._callers) >= REMEMBERED:
                self._callers.clear()
            self._callers[mark] = found
        return found[0] if found else None

    def _configured(self, text: bytes) -> tuple[Caller, float] | None:
        # A digest is looked up, not a key compared: timing tells nothing about keys that exist.
        if self._digests and (digest := hashlib.sha256(text).hexdigest()) in self._digests:
            key_id = digest[:KEY_ID_LENGTH]
            return Caller(key_id=key_id, subject=key_subject(key_id)), float("inf")
        return None


def _given_key(environ: Environ) -> str:
    if key := _bearer(environ.get("HTTP_AUTHORIZATION", "")):
        return key
    given = str(environ.get("HTTP_X_API_KEY") or environ.get("HTTP_API_KEY") or "").strip()
    return _bearer(given) or given


def _bearer(field: str) -> str:
    scheme, _space, key = field.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


# --- callers without a key

# Who adds one of these, or any X-Forwarded-…, is a proxy: the connection's own address is not the caller's. Not
# X-Amzn-Trace-Id: huggingface_hub sends one of its own.
FORWARDING = (
    *("Forwarded", "Via", "CDN-Loop", "X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP"),
    *("CF-Connecting-IP", "Fastly-Client-IP", "Fly-Client-IP", "X-Azure-ClientIP", "X-Azure-SocketIP"),
    *("X-Envoy-External-Address", "X-ProxyUser-IP", "X-Appengine-User-IP"),
    *("X-Original-For", "X-Original-Host", "X-Original-Forwarded-For"),
)
_FORWARDING = tuple("HTTP_" + name.upper().replace("-", "_") for name in FORWARDING)
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


def is_local(address: str | None, environ: Environ) -> bool:
    """Whether a request comes from a program on this machine, and not through a proxy or a foreign web page."""
    if not _is_loopback(address or "") or any(name in environ for name in _FORWARDING):
        return False
    if any(name.startswith("HTTP_X_FORWARDED") for name in environ):
        return False
    # A page elsewhere can point its own name at 127.0.0.1 (DNS rebinding), or post across sites.
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return False
    origin = environ.get("HTTP_ORIGIN")
    return _names_loopback("//" + environ.get("HTTP_HOST", "")) and (origin is None or _names_loopback(origin))


@lru_cache(1024)
def _names_loopback(url: str) -> bool:
    try:
        parts = urlsplit(url)
        name = parts.hostname or ""
    except ValueError:
        return False
    # `evil.example@127.0.0.1` and `x@127.0.0.1` are nobody's own address for this machine.
    return "@" not in parts.netloc and (name == "localhost" or _is_loopback(name))


@lru_cache(1024)
def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
        mapped = getattr(found, "ipv4_mapped", None)  # how a socket for both families shows IPv4 callers
        return (mapped or found).is_loopback
    except ValueError:
        return False
