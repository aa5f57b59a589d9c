"""What the upstream lists as its chat models (HF§1.5): fetched in the background, kept, never waited for by a call."""

import _thread
import logging
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from ..call import Call
from ..catalogue import ModelCard
from ..chat import ChatJob, Json, text_of
from ..errors import BadRequest, ChatError, ContextLengthExceeded
from ..languages import _
from .transport import Request, Transport
from .values import count, read_json

FRESH_S = 300.0
RETRY_S = 30.0  # after a failed fetch; the last good list is served meanwhile
FETCH_S = 10.0
FIRST_WAIT_S = 1.0  # how long the very first reader of the list waits for it
# No tokenizer packs more of ordinary text into a token on average: a prompt that is too long by this measure is too
# long by any, so that nothing is refused which the model could have read.
CHARACTERS_A_TOKEN = 8
MOST_MODELS = 10_000
MAX_ID = 256  # characters of a model's id
NAMED = 5  # how many models an error names as able to serve

log = logging.getLogger(__name__)


class Listing:
    """The models at `{base}/v1/models`, by id. Empty until the first fetch, and where the upstream has no list."""

    def __init__(self, transport: Transport, base: str) -> None:
        self._transport = transport
        self._url = f"{base}/v1/models"
        self._models: dict[str, Json] = {}
        self._due_at = 0.0
        self._fetching = False

    def models(self) -> list[Json]:
        """Every model listed, waiting up to FIRST_WAIT_S if none has ever been fetched."""
        first = self._due_at == 0.0
        self.refresh()
        until = time.monotonic() + FIRST_WAIT_S
        while first and self._fetching and time.monotonic() < until:
            time.sleep(0.01)
        return list(self._models.values())

    def refresh(self) -> None:
        """Fetch the list in the background, if it is due."""
        if not self._fetching and time.monotonic() >= self._due_at:
            self._fetching = True
            _thread.start_new_thread(self._fetch, ())

    def check(self, card: ModelCard, job: ChatJob) -> None:
        """Raises BadRequest or ContextLengthExceeded for a job that the list shows to be impossible."""
        self.refresh()
        model, _colon, pinned = card.id.partition(":")
        if (entry := self._models.get(model)) is None:
            return
        providers = _providers(entry, pinned)
        for field, ability in (("tools", "supports_tools"), ("response_format", "supports_structured_output")):
            if _asks(job, field) and providers and all(p.get(ability) is False for p in providers):
                names = ", ".join(p["provider"] for p in providers)
                raise BadRequest(
                    _(
                        "{field}: no provider of '{model}' supports this. {who}",
                        field=field,
                        model=card.id,
                        who=self.able(ability),
                    ),
                    details={field: [_("not supported by {providers}", providers=names)]},
                )
        windows = [window for p in providers if (window := count(p.get("context_length"))) is not None]
        least = sum(len(text_of(m)) for m in job.messages) // CHARACTERS_A_TOKEN
        if windows and len(windows) == len(providers) and least > max(windows):
            raise ContextLengthExceeded(
                _(
                    "There are more than {least} tokens in messages; '{model}' reads {most}. Shorten them. {who}",
                    least=least,
                    model=card.id,
                    most=max(windows),
                    who=self.able("context_length", least),
                ),
                details={"messages": [_("too long for this model")]},
            )

    def able(self, ability: str, least: int = 1) -> str:
        """Which listed models have `ability`, in words for an error."""
        if not self._models:
            return _(
                "Chat models of Hugging Face's router can; with HUGGINGFACE_API_KEY set, GET /v1/models lists them."
            )
        able = (m["id"] for m in self._models.values() if any(_has(p, ability, least) for p in _providers(m)))
        if ids := ", ".join(islice(able, NAMED)):
            return _("Models that could serve it: {ids}.", ids=ids)
        return _("No listed model could serve it.")

    def _fetch(self) -> None:
        due_s = RETRY_S
        try:
            call = Call("-", seconds=FETCH_S)
            answer = self._transport.fetch(Request(self._url), call, call.deadline)
            listed = read_json(answer.body)["data"] if answer.status == 200 else None
            if isinstance(listed, list) and (models := dict(islice(_rows(listed), MOST_MODELS))):
                self._models = models
                due_s = FRESH_S
        except (ChatError, ValueError, KeyError, TypeError) as error:
            log.info("the upstream's model list could not be read: %s", type(error).__name__)
        finally:
            self._due_at = time.monotonic() + due_s
            self._fetching = False


def _rows(listed: list[Any]) -> Iterator[tuple[str, Json]]:
    """The usable rows, each a model object by OpenAI's rules whatever it came with."""
    for row in listed:
        if isinstance(row, dict) and isinstance(model := row.get("id"), str) and 0 < len(model) <= MAX_ID:
            owner = row["owned_by"] if isinstance(row.get("owned_by"), str) else model.partition("/")[0]
            created = count(row.get("created")) or 0
            yield model, {**row, "id": model, "object": "model", "created": created, "owned_by": owner}


def _providers(entry: Json, pinned: str = "") -> list[Json]:
    """The live providers of an entry; only the pinned one, if the id's suffix names one of them."""
    given: Any = entry.get("providers")
    live: Iterable[Json] = given if isinstance(given, list) else ()
    named = (p for p in live if isinstance(p, dict) and isinstance(p.get("provider"), str))
    providers = [p for p in named if p.get("status") == "live" and p["provider"]]
    return [p for p in providers if p["provider"] == pinned] or providers


def _has(provider: Json, ability: str, least: int) -> bool:
    value = provider.get(ability)
    return value if isinstance(value, bool) else (count(value) or 0) >= least


def _asks(job: ChatJob, field: str) -> bool:
    value = job.options.get(field)
    return value.get("type") == "json_schema" if field == "response_format" and value else bool(value)
