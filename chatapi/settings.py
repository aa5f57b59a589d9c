"""The only reader of the environment: `Settings.from_env()`, once per process.

A setting is one line of the class `Settings`, which knows its name, its reader and its default; every mistake is found,
and all of them are reported together.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values

from .caller import NO_LIMITS, Limits
from .languages import LANGUAGES, N_, _, from_environment, negotiate, use
from .migration.schedule import Interval, check_brownouts, parse_brownouts

VERSION = "0.1.0"
ROUTER_URL = "https://router.huggingface.co"
HUB_URL = "https://huggingface.co"
MOST_S = 3600  # of any limit in time


class SettingsError(Exception):
    """One or more settings cannot be used; the text names each with what it must be."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__(_("these settings cannot be used:") + "\n" + "\n".join(f"  {line}" for line in mistakes))
        self.mistakes = mistakes


class HubModel(NamedTuple):
    """A GGUF of the Hub's: its repository, and which of its files is meant (a quantisation, a file name, or "")."""

    repo: str
    choice: str = ""

    def __str__(self) -> str:
        return ":".join(filter(None, self))


# --- how they are read


def _token(text: str) -> str:
    # http.client would refuse such a header in the middle of a call, and show it in the traceback.
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(_("must be one word of printable ASCII, as copied from Hugging Face's settings"))
    return text


def server_url(text: str) -> str:
    """The base URL of a server, without a trailing `/` or `/v1`. Raises ValueError."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a bad port, half an IPv6 address
        usable = False
    if not usable or set(text) & set(" ?#") or not text.isprintable():
        raise ValueError(_("must be an http:// or https:// URL without query, e.g. {url}", url=ROUTER_URL))
    if parts.username or parts.password:
        raise ValueError(_("must not carry a user name or password; use HUGGINGFACE_API_KEY"))
    # People paste the base URL of an OpenAI SDK; we add /v1 ourselves.
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


# Hugging Face's grammar for `[org/]name[:suffix]` (HF§1.2). No segment may start with a dot or hold two of them:
# an id becomes part of a URL's path, and "..", even when it is made of allowed characters, would change that path.
_SEGMENT = r"(?!\.)(?!.*\.\.)[A-Za-z0-9._-]{1,96}"
# Whether a text is `[org/]name[:suffix]` as Hugging Face writes ids.
is_model_id = re.compile(rf"(?:{_SEGMENT}/)?{_SEGMENT}(?::{_SEGMENT})?").fullmatch
# The same for the reference, without looking ahead: what makes values of patterns does not understand that.
_PLAIN = r"[A-Za-z0-9_\-](\.?[A-Za-z0-9_\-])*\.?"
MODEL_ID_PATTERN, MODEL_ID_LENGTH = f"^({_PLAIN}/)?{_PLAIN}(:{_PLAIN})?$", 3 * 96 + 2


def _model_id(text: str) -> str:
    if not is_model_id(text):
        raise ValueError(_("must be a model id of the form org/name"))
    return text


def _seconds(low: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= MOST_S:
            raise ValueError(_("must be a number of seconds from {low:g} to {high:g}", low=low, high=MOST_S))
        return value

    return parse


def _integer(low: int, high: float, wanted: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError(_(wanted))
        return int(text)

    return parse


_BYTES = _integer(1024, math.inf, N_("must be a whole number of bytes, at least 1024"))
_PROXIES = _integer(0, 10, N_("must be how many proxies stand in front, from 0 to 10"))


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        for word in words:
            if text.lower() == word.lower():
                return word
        raise ValueError(_("must be one of {words}", words=", ".join(words)))

    return parse


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError(_("no such file"))
    return path


_ON_THE_HUB = re.compile(rf"(?:(?:https://)?(?:huggingface\.co|hf\.co)/)?({_SEGMENT}/{_SEGMENT})(?::([^:]*))?")


def _weights(text: str) -> Path | HubModel:
    path = Path(text).expanduser()
    if path.is_file():
        return path
    named = _ON_THE_HUB.fullmatch(text)
    if not named or named[1].lower().endswith(".gguf"):
        raise ValueError(_("no such file; name a GGUF file, or one on the Hub as org/repo[:quantisation or file name]"))
    return HubModel(named[1], named[2] or "")


def _day(text: str) -> float:
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC).timestamp()
    except ValueError:
        raise ValueError(_("must be a date like 2027-06-30")) from None


def _origins(text: str) -> frozenset[str]:
    origins = frozenset(text.lower().replace(",", " ").split())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError(_("must be origins like https://app.example.com, without a path"))
    return origins


def _database(text: str) -> str:
    scheme, _colon, rest = text.partition("://")
    if scheme in ("postgres", "postgresql"):  # as hosts of PostgreSQL write it
        scheme = "postgresql+psycopg"
    named = len(rest) > 1 and rest.startswith("/") if scheme == "sqlite" else scheme == "postgresql+psycopg" and rest
    if not named or not _is_address(f"//{rest}"):
        raise ValueError(_("must be sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"))
    return f"{scheme}://{rest}"


def _is_address(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


def _redis(text: str) -> str:
    if not text.startswith(("redis://", "rediss://", "unix://")) or not _is_address(text):
        raise ValueError(_("must be redis://HOST:PORT/0"))
    return text


def _digests(text: str) -> frozenset[str]:
    digests = frozenset(text.lower().replace(",", " ").split())
    if any(len(d) != 64 or not set(d) <= set("0123456789abcdef") for d in digests):
        raise ValueError(_("must be SHA-256 digests of keys in hex (64 digits each), separated by commas"))
    return digests


# --- the settings


# Set by `make run`'s starter for the processes it starts, never by people.
INTERNAL = EMBEDDED_URL, EMBEDDED_TOOLS = "CHATAPI_EMBEDDED_URL", "CHATAPI_EMBEDDED_TOOLS"


def _setting(name: str, read: Callable[[str], Any], default: Any = None, *, secret: bool = False) -> Any:
    return field(default=default, metadata={"name": name, "read": read, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, checked, in the order of `.env.example`. Times are in seconds, sizes in bytes; None is not set."""

    huggingface_api_key: str | None = _setting("HUGGINGFACE_API_KEY", _token, secret=True)
    huggingface_base_url: str | None = _setting("HUGGINGFACE_BASE_URL", server_url)
    catalogue: Path | None = _setting("CHATAPI_CATALOGUE", _file)
    default_model: str = _setting("CHATAPI_DEFAULT_MODEL", _model_id, "microsoft/DialoGPT-medium")
    keys: frozenset[str] = _setting("CHATAPI_KEYS", _digests, frozenset(), secret=True)
    anonymous_limits: Limits = _setting("CHATAPI_ANONYMOUS_LIMITS", Limits.parse, NO_LIMITS)
    trusted_proxies: int = _setting("CHATAPI_TRUSTED_PROXIES", _PROXIES, 0)
    language: str = _setting("CHATAPI_LANGUAGE", _one_of(*LANGUAGES), LANGUAGES[0])
    auth: str = _setting("CHATAPI_AUTH", _one_of("auto", "required", "off"), "auto")
    database_url: str = _setting("DATABASE_URL", _database, "sqlite:///instance/chatapi.db", secret=True)
    redis_url: str | None = _setting("REDIS_URL", _redis, secret=True)
    max_time_s: float = _setting("CHATAPI_MAX_TIME", _seconds(1), 120.0)
    reply_timeout_s: float = _setting("CHATAPI_REPLY_TIMEOUT", _seconds(0.05), 45.0)
    first_token_timeout_s: float = _setting("CHATAPI_FIRST_TOKEN_TIMEOUT", _seconds(0.05), 10.0)
    idle_timeout_s: float = _setting("CHATAPI_IDLE_TIMEOUT", _seconds(0.05), 15.0)
    heartbeat_s: float = _setting("CHATAPI_HEARTBEAT", _seconds(0.05), 15.0)
    max_body: int = _setting("CHATAPI_MAX_BODY", _BYTES, 20_971_520)
    legacy_sunset: float | None = _setting("CHATAPI_LEGACY_SUNSET", _day)  # its midnight, in Unix seconds
    legacy_brownouts: tuple[Interval, ...] = _setting("CHATAPI_LEGACY_BROWNOUTS", parse_brownouts, ())
    cors_origins: frozenset[str] = _setting("CHATAPI_CORS_ORIGINS", _origins, frozenset())
    embedded_model: Path | HubModel | None = _setting("CHATAPI_EMBEDDED_MODEL", _weights)
    hf_endpoint: str = _setting("HF_ENDPOINT", server_url, HUB_URL)
    hf_token: str | None = _setting("HF_TOKEN", _token, secret=True)
    hf_home: Path = _setting("HF_HOME", Path, Path("~/.cache/huggingface"))
    log_level: str = _setting("CHATAPI_LOG_LEVEL", _one_of("debug", "info", "warning", "error"), "info")
    otlp_endpoint: str | None = _setting("OTEL_EXPORTER_OTLP_ENDPOINT", server_url)
    embedded_url: str | None = _setting(EMBEDDED_URL, server_url)
    embedded_tools: bool = _setting(EMBEDDED_TOOLS, bool, False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Settings from `environ` (default: the process environment laid over `.env`).

        Raises SettingsError naming every setting that cannot be used, in the language of the locale. An empty value
        means not set.
        """
        return copy_context().run(cls._read, environ)

    @classmethod
    def _read(cls, environ: Mapping[str, str] | None) -> Self:
        given = {
            name: text.strip()
            for name, text in (_environment() if environ is None else environ).items()
            if text.strip()
        }
        use(from_environment(given, negotiate(given.get("CHATAPI_LANGUAGE"), LANGUAGES[0])))
        values: dict[str, Any] = {}
        mistakes: dict[str, tuple[str, ...]] = {}
        for f in fields(cls):
            name, read = f.metadata["name"], f.metadata["read"]
            try:
                if name in given:
                    values[f.name] = read(given[name])
            except ValueError as mistake:
                mistakes[name] = mistake.args
        if (windows := values.get("legacy_brownouts")) and "CHATAPI_LEGACY_SUNSET" not in mistakes:
            text = given["CHATAPI_LEGACY_BROWNOUTS"]
            mistakes["CHATAPI_LEGACY_BROWNOUTS"] = check_brownouts(windows, text, values.get("legacy_sunset"))
        if any(mistakes.values()):
            raise SettingsError(
                [f"{name}={_shown(name, given[name])}: {text}" for name in FIELDS for text in mistakes.get(name, ())]
            )
        return cls(**values)

    @property
    def base_url(self) -> str:
        """Where Hugging Face's protocol is spoken: the router, unless told otherwise."""
        return self.huggingface_base_url or ROUTER_URL

    @property
    def wants_embedded(self) -> bool:
        """Whether nothing but a model on this machine can answer: the router without a token answers nobody."""
        return not self.huggingface_api_key and self.base_url == ROUTER_URL

    def __repr__(self) -> str:
        """As a dataclass prints, without the secrets."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        secret = {f.name: "***" for f in fields(self) if f.metadata["secret"] and shown[f.name]}
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in {**shown, **secret}.items())})"


# Name in the environment → field, in the order of `.env.example`.
FIELDS = {f.metadata["name"]: f.name for f in fields(Settings)}
_SECRETS = {f.metadata["name"] for f in fields(Settings) if f.metadata["secret"]}
_URLS = {f.metadata["name"] for f in fields(Settings) if f.metadata["read"] in (server_url, _database, _redis)}


def _shown(name: str, text: str) -> str:
    # What may hold a secret is not repeated: of URLs those that have a password or a token in them.
    is_secret = set(text) & set("@?") if name in _URLS else name in _SECRETS
    return "…" if is_secret else repr(text)


# Of those who call the gateway, and of deploy/compose.yaml: not settings of ours.
_OTHERS = {"CHATAPI_API_KEY", "CHATAPI_LISTEN"}


def find_misspelt() -> list[str]:
    """What looks like a setting and is none, in a few words each."""
    likely = [n for n in _environment() if n.startswith(("CHATAPI_", "HUGGINGFACE_")) and n not in (*FIELDS, *_OTHERS)]
    near, none = N_("there is no setting {name}; did you mean {close}?"), N_("there is no setting {name}")
    closest = {name: "".join(get_close_matches(name, FIELDS, 1)) for name in sorted(likely)}
    return [_(near if close else none, name=name, close=close) for name, close in closest.items()]


def command_language(default: str) -> str:
    """The language of a command that runs in this process's locale; `default` where that one is not spoken."""
    return from_environment(os.environ, default)


def process_environment(**changes: str) -> dict[str, str]:
    """The environment for a process that we start: our own, with `changes`."""
    return {**os.environ, **changes}


def _environment() -> dict[str, str]:
    # The real environment wins over `.env`, as python-dotenv does it by default.
    try:
        from_file = {k: v for k, v in dotenv_values(Path.cwd() / ".env").items() if v is not None}
    except UnicodeDecodeError:
        raise SettingsError([_(".env: not UTF-8; save it as UTF-8")]) from None
    return {**from_file, **os.environ}
