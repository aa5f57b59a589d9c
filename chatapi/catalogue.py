"""The catalogue: what we know of each model, from `catalogue.toml` and the operator's file over it."""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from .errors import ModelNotFound
from .languages import N_, _
from .settings import SettingsError, is_model_id, server_url

TASKS = ("chat-completion", "text-generation", "text2text-generation")
CONTEXTS = ("first-user", "conversation")
MOST_FOUND = 1000  # models whose card is remembered, whether or not the catalogue has them


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model: how it is asked, where, and what it can take.

    `renames` are its server's own parameter names; `own_fields` is whether it is sent fields that are not OpenAI's;
    `shutdown_date` is the day (ISO 8601) from which it is no longer to be counted on.
    `prefill_with` are the fields that tell its server to go on with a trailing assistant message; None means those of
    vLLM, SGLang and TGI where it has its own `url`, and none at the router.
    """

    id: str
    task: str = "chat-completion"
    url: str | None = None
    serve_as: str | None = None
    shutdown_date: str | None = None
    fallbacks: tuple[str, ...] = ()
    context: str = "first-user"
    images: bool | None = None
    cannot: tuple[str, ...] = ()
    prefill: bool = False
    prefill_with: Mapping[str, Any] | None = None
    context_tokens: int | None = None
    drain_s: int = 0
    renames: Mapping[str, str] = field(default_factory=dict)
    own_fields: bool = True
    is_chat: bool = field(init=False, repr=False, compare=False)  # it takes a conversation as messages, not one text
    takes_all: bool = field(init=False, repr=False, compare=False)  # whatever a chat model may be asked for

    def __post_init__(self) -> None:
        is_chat = self.task == "chat-completion"
        object.__setattr__(self, "is_chat", is_chat)
        object.__setattr__(
            self, "takes_all", is_chat and self.own_fields and self.images is not False and not self.cannot
        )


class Catalogue:
    """Model ids → cards. With an `embedded` card, every id that has no server of its own is answered by it."""

    def __init__(self, cards: Mapping[str, ModelCard], embedded: ModelCard | None = None) -> None:
        self.cards = dict(cards)
        self.embedded = embedded
        self.find = lru_cache(MOST_FOUND)(self._find)

    @classmethod
    def load(cls, overlay: Path | None = None, embedded: ModelCard | None = None) -> Self:
        """The shipped catalogue with the operator's laid over it. Raises SettingsError naming every mistake."""
        cards: dict[str, ModelCard] = {}
        mistakes: list[str] = []
        for path in filter(None, (Path(__file__).with_name("catalogue.toml"), overlay)):
            for model, entry in _read_tables(path, mistakes).items():
                cards[model] = _read_card(model, entry, f"{path.name}: models.{model!r}", mistakes)
        mistakes += _find_loops(cards)
        if mistakes:
            raise SettingsError(mistakes)
        return cls(cards, embedded)

    def _find(self, model: str) -> ModelCard:
        """The card that answers for `model`, its `serve_as` followed. Raises ModelNotFound."""
        card = self.cards.get(model)
        while card and card.serve_as:
            model, card = card.serve_as, self.cards.get(card.serve_as, ModelCard(id=card.serve_as))
        if self.embedded is None or (card and card.url):
            return card or ModelCard(id=model)
        if card or model == self.embedded.id:
            return self.embedded
        text = _(
            "The model '{model}' is not served here: this gateway runs {embedded} on its own machine, which answers "
            "for the ids of its catalogue ({ids}). Use one of them, or set HUGGINGFACE_API_KEY to reach Hugging Face's "
            "models.",
            model=model,
            embedded=self.embedded.id,
            ids=", ".join(self.cards),
        )
        raise ModelNotFound(text, details={"model": [_("not served")]})


def _read_tables(path: Path, mistakes: list[str]) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        mistakes.append(f"{path}: {error}")
        return {}
    models = document.pop("models", {})
    if not isinstance(models, dict):
        mistakes.append(_('{file}: models must be tables; write [models."org/name"]', file=path.name))
    unknown = N_("{file}: unknown table '{name}'; write [models.\"org/name\"]")
    mistakes += [_(unknown, file=path.name, name=name) for name in document]
    return models if isinstance(models, dict) else {}


def _read_card(model: str, entry: Any, where: str, mistakes: list[str]) -> ModelCard:
    if not is_model_id(model):
        mistakes.append(_("{where}: not a model id of the form org/name", where=where))
    if not isinstance(entry, dict):
        mistakes.append(_("{where}: must be a table", where=where))
        return ModelCard(id=model)
    values: dict[str, Any] = {}
    for key, value in entry.items():
        fits, text = _RULES.get(key, (None, ""))
        if fits is None:
            known = ", ".join(_RULES)
            mistakes.append(_("{where}: unknown key '{key}'; known are {known}", where=where, key=key, known=known))
        elif not fits(value):
            rule = _(text, words=", ".join(_WORDS.get(key, ())))
            mistakes.append(_("{where}: {key} must be {rule}", where=where, key=key, rule=rule))
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    if not ({"task", "serve_as"} & entry.keys()):
        mistakes.append(_("{where}: needs a task, one of {tasks}", where=where, tasks=", ".join(TASKS)))
    if day := values.get("shutdown_date"):
        values["shutdown_date"] = str(day)
    if url := values.get("url"):
        values["url"] = server_url(url)
    return replace(ModelCard(id=model), **values)


def _is_url(value: Any) -> bool:
    try:
        return bool(server_url(value))
    except (TypeError, ValueError, AttributeError):
        return False


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and bool(is_model_id(value))


def _is_list(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_int(low: int, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


_WORDS = {"task": TASKS, "context": CONTEXTS}
_FLAG = (lambda value: isinstance(value, bool), N_("true or false"))
# Key → whether a value fits, and what it must be.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": (lambda value: value in TASKS, N_("one of {words}")),
    "url": (_is_url, N_("an http:// or https:// URL without query or password")),
    "serve_as": (_is_id, N_("a model id")),
    "shutdown_date": (lambda value: type(value) is date, N_("a date like 2027-06-30, without quotes")),
    "fallbacks": (_is_list(_is_id), N_("a list of model ids")),
    "context": (lambda value: value in CONTEXTS, N_("one of {words}")),
    "images": _FLAG,
    "cannot": (_is_list(lambda name: isinstance(name, str)), N_("a list of request fields")),
    "prefill": _FLAG,
    "prefill_with": (lambda value: isinstance(value, dict), N_("a table of request fields")),
    "drain_s": (_is_int(0, 600), N_("a whole number of seconds, at most 600")),
    "context_tokens": (_is_int(1, math.inf), N_("a whole number above 0")),
}


def _find_loops(cards: Mapping[str, ModelCard]) -> list[str]:
    mistakes = []
    for card in cards.values():
        seen, at = {card.id}, card
        while at.serve_as and (after := cards.get(at.serve_as)):
            if after.id in seen:
                mistakes.append(_("models.'{id}': serve_as goes round in a circle", id=card.id))
                break
            seen.add(after.id)
            at = after
    return mistakes
