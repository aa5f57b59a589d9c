"""The only reader of the environment: `Settings.from_env()`, once per process.

`FIELDS` is the whole list, in the order of `.env.example`; each row knows its parser, so that every mistake
is found, and all of them are reported together.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values

from .caller import NO_LIMITS, Limits

VERSION = "0.1.0"
ROUTER_URL = "https://router.huggingface.co"
HUB_URL = "https://huggingface.co"


class SettingsError(Exception):
    """One or more settings cannot be used; the text names each with what it must be."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("these settings cannot be used:\n" + "\n".join(f"  {line}" for line in mistakes))
        self.mistakes = mistakes


class HubModel(NamedTuple):
    """A GGUF of the Hub's: its repository, and which of its files is meant (a quantisation, a file name, or "")."""

    repo: str
    choice: str = ""

    def __str__(self) -> str:
        return ":".join(filter(None, self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, checked. Times are in seconds, sizes in bytes; None means not set."""

    huggingface_api_key: str | None = None
    huggingface_base_url: str | None = None
    catalogue: Path | None = None
    default_model: str = "microsoft/DialoGPT-medium"
    auth: str = "auto"
    keys: frozenset[str] = frozenset()
    anonymous_limits: Limits = NO_LIMITS
    trusted_proxies: int = 0
    database_url: str = "sqlite:///instance/chatapi.db"
    redis_url: str | None = None
    max_time_s: float = 120.0
    reply_timeout_s: float = 45.0
    first_token_timeout_s: float = 10.0
    idle_timeout_s: float = 15.0
    heartbeat_s: float = 15.0
    max_body: int = 20_971_520
    legacy_sunset: date | None = None
    cors_origins: frozenset[str] = frozenset()
    embedded_model: Path | HubModel | None = None
    hf_endpoint: str = HUB_URL
    hf_token: str | None = None
    hf_home: Path = Path("~/.cache/huggingface")
    log_level: str = "info"
    otlp_endpoint: str | None = None
    embedded_url: str | None = None
    embedded_tools: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Settings from `environ` (default: the process environment laid over `.env`).

        Raises SettingsError naming every setting that cannot be used. An empty value means not set.
        """
        given = _environment() if environ is None else environ
        values: dict[str, Any] = {}
        mistakes: list[str] = []
        for name, (field, parse) in FIELDS.items():
            if not (text := given.get(name, "").strip()):
                continue
            try:
                values[field] = parse(text)
            except ValueError as mistake:
                # What may hold a secret is not repeated: a key, or a URL with a password or a token in it.
                is_secret = "KEY" in name or name == "HF_TOKEN" or ("URL" in name and set(text) & set("@?"))
                shown = "…" if is_secret else repr(text)
                mistakes.append(f"{name}={shown}: {mistake}")
        if mistakes:
            raise SettingsError(mistakes)
        return cls(**values)

    @property
    def base_url(self) -> str:
        """Where Hugging Face's protocol is spoken: the router, unless told otherwise."""
        return self.huggingface_base_url or ROUTER_URL

    @property
    def wants_embedded(self) -> bool:
        """Whether nothing but a model on this machine can answer: the router without a token answers nobody."""
        return not self.huggingface_api_key and self.base_url == ROUTER_URL

    def process_environment(self, embedded_url: str = "", embedded_tools: bool = False) -> dict[str, str]:
        """The environment for a process that we start, with the address and abilities of the embedded engine."""
        return {**os.environ, EMBEDDED_URL: embedded_url, EMBEDDED_TOOLS: "yes" if embedded_tools else ""}

    def __repr__(self) -> str:
        """As a dataclass prints, without the secrets."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        names = ("huggingface_api_key", "hf_token", "keys", "database_url", "redis_url")
        secret = {name: "***" for name in names if shown[name]}
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in {**shown, **secret}.items())})"


def _environment() -> dict[str, str]:
    # The real environment wins over `.env`, as python-dotenv does it by default.
    try:
        from_file = {k: v for k, v in dotenv_values(Path.cwd() / ".env").items() if v is not None}
    except UnicodeDecodeError:
        raise SettingsError([".env: not UTF-8; save it as UTF-8"]) from None
    return {**from_file, **os.environ}


def _token(text: str) -> str:
    # http.client would refuse such a header in the middle of a call, and show it in the traceback.
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be one word of printable ASCII, as copied from Hugging Face's settings")
    return text


def server_url(text: str) -> str:
    """The base URL of a server, without a trailing `/` or `/v1`. Raises ValueError."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a bad port, half an IPv6 address
        usable = False
    if not usable or set(text) & set(" ?#") or not text.isprintable():
        raise ValueError("must be an http:// or https:// URL without query, e.g. " + ROUTER_URL)
    if parts.username or parts.password:
        raise ValueError("must not carry a user name or password; use HUGGINGFACE_API_KEY")
    # People paste the base URL of an OpenAI SDK; we add /v1 ourselves.
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


# Hugging Face's grammar for `[org/]name[:suffix]` (HF§1.2). No segment may start with a dot or hold two of them:
# an id becomes part of a URL's path, and "..", even when it is made of allowed characters, would change that path.
_SEGMENT = r"(?!\.)(?!.*\.\.)[A-Za-z0-9._-]{1,96}"
_MODEL_ID = re.compile(rf"(?:{_SEGMENT}/)?{_SEGMENT}(?::{_SEGMENT})?")


def is_model_id(text: str) -> bool:
    """Whether `text` is `[org/]name[:suffix]` as Hugging Face writes ids."""
    return _MODEL_ID.fullmatch(text) is not None


def _model_id(text: str) -> str:
    if not is_model_id(text):
        raise ValueError("must be a model id of the form org/name")
    return text


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return value

    return parse


def _bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1024):
        raise ValueError("must be a whole number of bytes, at least 1024")
    return int(text)


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return parse


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError("no such file")
    return path


_ON_THE_HUB = re.compile(rf"(?:(?:https://)?(?:huggingface\.co|hf\.co)/)?({_SEGMENT}/{_SEGMENT})(?::([^:]*))?")


def _weights(text: str) -> Path | HubModel:
    path = Path(text).expanduser()
    if path.is_file():
        return path
    named = _ON_THE_HUB.fullmatch(text)
    if not named or named[1].lower().endswith(".gguf"):
        raise ValueError("no such file; name a GGUF file, or one on the Hub as org/repo[:quantisation or file name]")
    return HubModel(named[1], named[2] or "")


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a date like 2027-06-30") from None


def _origins(text: str) -> frozenset[str]:
    origins = frozenset(text.lower().replace(",", " ").split())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError("must be origins like https://app.example.com, without a path")
    return origins


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 10):
        raise ValueError("must be how many proxies stand in front, from 0 to 10")
    return int(text)


def _database(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme in ("postgres", "postgresql"):  # as hosts of PostgreSQL write it
        scheme = "postgresql+psycopg"
    named = len(rest) > 1 and rest.startswith("/") if scheme == "sqlite" else scheme == "postgresql+psycopg" and rest
    if not named or not _is_address(f"//{rest}"):
        raise ValueError("must be sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME")
    return f"{scheme}://{rest}"


def _is_address(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


def _redis(text: str) -> str:
    if not text.startswith(("redis://", "rediss://", "unix://")) or not _is_address(text):
        raise ValueError("must be redis://HOST:PORT/0")
    return text


def _digests(text: str) -> frozenset[str]:
    digests = frozenset(text.lower().replace(",", " ").split())
    if any(len(d) != 64 or not set(d) <= set("0123456789abcdef") for d in digests):
        raise ValueError("must be SHA-256 digests of keys in hex (64 digits each), separated by commas")
    return digests


# Set by `make run`'s starter for the processes it starts, never by people.
INTERNAL = EMBEDDED_URL, EMBEDDED_TOOLS = "CHATAPI_EMBEDDED_URL", "CHATAPI_EMBEDDED_TOOLS"

# Environment name → (field, parser), in the order of `.env.example`.
FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "HUGGINGFACE_API_KEY": ("huggingface_api_key", _token),
    "HUGGINGFACE_BASE_URL": ("huggingface_base_url", server_url),
    "CHATAPI_CATALOGUE": ("catalogue", _file),
    "CHATAPI_DEFAULT_MODEL": ("default_model", _model_id),
    "CHATAPI_AUTH": ("auth", _one_of("auto", "required", "off")),
    "CHATAPI_KEYS": ("keys", _digests),
    "CHATAPI_ANONYMOUS_LIMITS": ("anonymous_limits", Limits.parse),
    "CHATAPI_TRUSTED_PROXIES": ("trusted_proxies", _count),
    "DATABASE_URL": ("database_url", _database),
    "REDIS_URL": ("redis_url", _redis),
    "CHATAPI_MAX_TIME": ("max_time_s", _seconds(1, 3600)),
    "CHATAPI_REPLY_TIMEOUT": ("reply_timeout_s", _seconds(0.05, 3600)),
    "CHATAPI_FIRST_TOKEN_TIMEOUT": ("first_token_timeout_s", _seconds(0.05, 3600)),
    "CHATAPI_IDLE_TIMEOUT": ("idle_timeout_s", _seconds(0.05, 3600)),
    "CHATAPI_HEARTBEAT": ("heartbeat_s", _seconds(0.05, 3600)),
    "CHATAPI_MAX_BODY": ("max_body", _bytes),
    "CHATAPI_LEGACY_SUNSET": ("legacy_sunset", _date),
    "CHATAPI_CORS_ORIGINS": ("cors_origins", _origins),
    "CHATAPI_EMBEDDED_MODEL": ("embedded_model", _weights),
    "HF_ENDPOINT": ("hf_endpoint", server_url),
    "HF_TOKEN": ("hf_token", _token),
    "HF_HOME": ("hf_home", Path),
    "CHATAPI_LOG_LEVEL": ("log_level", _one_of("debug", "info", "warning", "error")),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("otlp_endpoint", server_url),
    EMBEDDED_URL: ("embedded_url", server_url),
    EMBEDDED_TOOLS: ("embedded_tools", bool),
}
