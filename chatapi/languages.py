"""Which language a person reads, and the texts in it.

English is written in the code and is the key of each translation; `translations/` holds the others, as gettext's
catalogues. `make translations` (Babel) brings those up to date with the code.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache, lru_cache
from operator import itemgetter
from pathlib import Path

OWN_NAMES = {"en": "English", "pt-BR": "Português"}
LANGUAGES = tuple(OWN_NAMES)
_SOURCE = LANGUAGES[0]
_BY_SUBTAG = {tag.partition("-")[0]: tag for tag in LANGUAGES}

_language: ContextVar[str] = ContextVar("language", default=_SOURCE)


use = _language.set  # from here on the current request (or command) is answered in this one of LANGUAGES
current = _language.get  # the language of the current request or command


def _(message: str, /, **values: object) -> str:
    """`message` in the current language, its `{placeholders}` filled as by str.format."""
    language = _language.get()
    if language != _SOURCE:
        message = catalogue(language).get(message, message)
    return message.format(**values) if values else message


def N_(message: str, /) -> str:
    """`message` itself, marked for translation: a constant that `_` is given later."""
    return message


# --- which language

MAX_RANGES = 50  # a browser sends a handful
MAX_LENGTH = 100  # characters of one, its weight and spaces included: the longest tags have 35 (RFC 5646, 4.4.1)
_MAX_REMEMBERED = 100  # characters
# RFC 9110 (12.4.2, 12.5.4), RFC 4647 (2.1): a language range, and how much it is wanted.
_RANGE = re.compile(
    r"(?:([a-z]{1,8})(?:-[a-z0-9]{1,8})*|\*)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?", re.I | re.A
)


def negotiate(header: str | None, default: str) -> str:
    """The language that `Accept-Language` asks for, one of LANGUAGES; `default` where it says nothing of use.

    A tag counts by its language; `*` and languages that are not spoken here mean `default`. The highest weight
    wins, then the order. Weight 0 refuses a language, the default too. What cannot be read is skipped.
    """
    if not header:
        return default
    return (_remembered if len(header) <= _MAX_REMEMBERED else _negotiated)(header, default)


def _negotiated(header: str, default: str) -> str:
    parts = [part for part in header.split(",", MAX_RANGES)[:MAX_RANGES] if len(part) <= MAX_LENGTH]
    ranges = [_RANGE.fullmatch(part.strip(" \t")) for part in parts]
    # What we do not speak is "": it can be wanted, but refusing it refuses nothing.
    wishes = [(_language_of(found[1]), float(found[2] or 1)) for found in ranges if found]
    weights: dict[str, float] = {}
    for wish, weight in wishes:
        weights[wish] = max(weight, weights.get(wish, 0))
    left = [language for language in LANGUAGES if weights.get(language, weights.get("*", 1))]
    stand_in = default if default in left or not left else left[0]
    best, weight = max(wishes, key=itemgetter(1), default=("", 0))
    return best if weight and best in LANGUAGES else stand_in


def _language_of(subtag: str | None) -> str:
    return "*" if subtag is None else _BY_SUBTAG.get(subtag.lower(), "")


_remembered = lru_cache(1024)(_negotiated)


def from_environment(environ: Mapping[str, str], default: str) -> str:
    """The language of a command: POSIX's LC_ALL, else LC_MESSAGES, else LANG; `default` where it is not spoken."""
    locale = next(filter(None, map(environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return _BY_SUBTAG.get(re.split(r"[-_.@]", locale, maxsplit=1)[0].lower(), default)


# --- the texts in it

TRANSLATIONS = Path(__file__).parent / "translations"
_ENTRY_LINE = re.compile(r'^(msgid|msgstr|)\s*(".*")$', re.M)


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """English → the text in `language`, one of LANGUAGES; what is not in it stays English."""
    if language == _SOURCE:
        return {}
    path = TRANSLATIONS / language.replace("-", "_") / "LC_MESSAGES" / "messages.po"
    return dict(_entries(path.read_text(encoding="utf-8")))


def _entries(po: str) -> Iterator[tuple[str, str]]:
    # Read by hand: a compiled catalogue would be one more file that grows stale, and Babel is 10 MB to have it read.
    for block in po.split("\n\n"):
        texts = {"msgid": "", "msgstr": ""}
        keyword = ""
        for found in _ENTRY_LINE.finditer(block):
            keyword = found[1] or keyword
            texts[keyword] += ast.literal_eval(found[2])
        if texts["msgid"] and texts["msgstr"]:
            yield texts["msgid"], texts["msgstr"]
