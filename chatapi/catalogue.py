"""The catalogue: what we know of each model, from `catalogue.toml` and the operator's file over it."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from .errors import ModelNotFound
from .settings import SettingsError, is_model_id, server_url

TASKS = ("chat-completion", "text-generation", "text2text-generation")
CONTEXTS = ("first-user", "conversation")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model: how it is asked, where, and what it can take.

    `renames` are its server's own parameter names; `own_fields` is whether it is sent fields that are not OpenAI's.
    """

    id: str
    task: str = "chat-completion"
    url: str | None = None
    serve_as: str | None = None
    fallbacks: tuple[str, ...] = ()
    context: str = "first-user"
    images: bool | None = None
    cannot: tuple[str, ...] = ()
    prefill: bool = False
    context_tokens: int | None = None
    drain_s: int = 0
    renames: Mapping[str, str] = field(default_factory=dict)
    own_fields: bool = True

    @property
    def is_chat(self) -> bool:
        """Whether it takes a conversation as messages rather than one text."""
        return self.task == "chat-completion"


class Catalogue:
    """Model ids → cards. With an `embedded` card, every id that has no server of its own is answered by it."""

    def __init__(self, cards: Mapping[str, ModelCard], embedded: ModelCard | None = None) -> None:
        self.cards = dict(cards)
        self.embedded = embedded

    @classmethod
    def load(cls, overlay: Path | None = None, embedded: ModelCard | None = None) -> Self:
        """The shipped catalogue with the operator's laid over it. Raises SettingsError naming every mistake."""
        cards: dict[str, ModelCard] = {}
        mistakes: list[str] = []
        for path in filter(None, (Path(__file__).with_name("catalogue.toml"), overlay)):
            for model, entry in _tables(path, mistakes).items():
                card = _card(model, entry, f"{path.name}: models.{model!r}", mistakes)
                cards[model] = card
        mistakes += _loops(cards)
        if mistakes:
            raise SettingsError(mistakes)
        return cls(cards, embedded)

    def find(self, model: str) -> ModelCard:
        """The card that answers for `model`, its `serve_as` followed. Raises ModelNotFound."""
        card = self.cards.get(model)
        while card and card.serve_as:
            model, card = card.serve_as, self.cards.get(card.serve_as, ModelCard(id=card.serve_as))
        if self.embedded is None or (card and card.url):
            return card or ModelCard(id=model)
        if card or model == self.embedded.id:
            return self.embedded
        raise ModelNotFound(
            f"The model '{model}' is not served here: this gateway runs {self.embedded.id} on its own machine, which "
            f"answers for the ids of its catalogue ({', '.join(self.cards)}). Use one of them, or set "
            "HUGGINGFACE_API_KEY to reach Hugging Face's models.",
            details={"model": ["not served"]},
        )


def _tables(path: Path, mistakes: list[str]) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        mistakes.append(f"{path}: {error}")
        return {}
    models = document.pop("models", {})
    if not isinstance(models, dict):
        mistakes.append(f'{path.name}: models must be tables; write [models."org/name"]')
    mistakes += [f'{path.name}: unknown table {name!r}; write [models."org/name"]' for name in document]
    return models if isinstance(models, dict) else {}


def _card(model: str, entry: Any, where: str, mistakes: list[str]) -> ModelCard:
    if not is_model_id(model):
        mistakes.append(f"{where}: not a model id of the form org/name")
    if not isinstance(entry, dict):
        mistakes.append(f"{where}: must be a table")
        return ModelCard(id=model)
    values: dict[str, Any] = {}
    for key, value in entry.items():
        rule = _RULES.get(key)
        if rule is None:
            mistakes.append(f"{where}: unknown key {key!r}; known are {', '.join(_RULES)}")
        elif not rule[0](value):
            mistakes.append(f"{where}: {key} must be {rule[1]}")
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    if not ({"task", "serve_as"} & entry.keys()):
        mistakes.append(f"{where}: needs a task, one of {', '.join(TASKS)}")
    if url := values.get("url"):
        values["url"] = server_url(url)
    return replace(ModelCard(id=model), **values)


def _is_url(value: Any) -> bool:
    try:
        return bool(server_url(value))
    except (TypeError, ValueError, AttributeError):
        return False


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and is_model_id(value)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": (lambda v: v in TASKS, f"one of {', '.join(TASKS)}"),
    "url": (_is_url, "an http:// or https:// URL without query or password"),
    "serve_as": (_is_id, "a model id"),
    "fallbacks": (lambda v: isinstance(v, list) and all(map(_is_id, v)), "a list of model ids"),
    "context": (lambda v: v in CONTEXTS, f"one of {', '.join(CONTEXTS)}"),
    "images": (lambda v: isinstance(v, bool), "true or false"),
    "cannot": (
        lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v),
        "a list of request fields",
    ),
    "prefill": (lambda v: isinstance(v, bool), "true or false"),
    "drain_s": (lambda v: type(v) is int and 0 <= v <= 600, "a whole number of seconds, at most 600"),
    "context_tokens": (lambda v: type(v) is int and v > 0, "a whole number above 0"),
}


def _loops(cards: Mapping[str, ModelCard]) -> list[str]:
    mistakes = []
    for card in cards.values():
        seen, at = {card.id}, card
        while at.serve_as and (after := cards.get(at.serve_as)):
            if after.id in seen:
                mistakes.append(f"models.{card.id!r}: serve_as goes round in a circle")
                break
            seen.add(after.id)
            at = after
    return mistakes
