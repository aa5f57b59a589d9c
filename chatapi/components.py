"""Builds everything from Settings: the only place that names concrete classes."""

from collections.abc import Callable
from dataclasses import dataclass

from .accounting.access import Access
from .accounting.keys import Keys
from .accounting.ledger import Books, RedisStates, refusal
from .accounting.store import Store
from .call import Call
from .catalogue import Catalogue, ModelCard
from .chat import ChatJob
from .embedded import CONTEXT_TOKENS, check_health, model_id
from .engine import circuit
from .engine.engine import Engine, TimeLimits
from .huggingface import HuggingFace, Transport
from .huggingface.tokenizers import Tokenizers
from .migration.route import LegacyRoute
from .settings import VERSION, Settings
from .telemetry import log, metrics
from .telemetry.health import Health, Part


@dataclass(frozen=True, slots=True)
class Components:
    """What the web layer works with."""

    settings: Settings
    store: Store
    keys: Keys
    access: Access
    books: Books
    engine: Engine
    health: Health
    legacy: LegacyRoute
    accounts: "Accounts"
    observers: tuple[Callable[[Call], None], ...]  # of each call's end


class Accounts:
    """A call's limits and its row in the ledger."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def admit(self, call: Call) -> None:
        """Before the body is read."""
        assert call.caller is not None
        call.reservation = self._books.entry(call.caller, call)

    def begin(self, call: Call, job: ChatJob) -> ChatJob:
        """Reserve, and write the row. Raises AccessError, StoreUnavailable."""
        verdict = call.decision = call.reservation.begin(job, call.deadline - call.began)
        if verdict is not None:
            call.shadowed = verdict.shadowed or None
            if verdict.refused and call.caller:
                raise refusal(verdict, call.caller.limits)
        return job

    def end(self, call: Call) -> None:
        """Complete the row."""
        call.reservation.end()


def build(settings: Settings) -> Components:
    """All parts. Raises SettingsError when the catalogue cannot be used."""
    log.configure(settings.log_level)
    catalogue = Catalogue.load(settings.catalogue, _embedded_card(settings))
    transport = Transport(settings.huggingface_api_key, f"chatapi/{VERSION}", traced=bool(settings.otlp_endpoint))
    count = Tokenizers(settings.hf_home).count
    client = HuggingFace(transport, settings.base_url, settings.idle_timeout_s, count)
    limits = TimeLimits(settings.max_time_s, settings.reply_timeout_s, settings.first_token_timeout_s)
    # Under gunicorn the master made the board before it forked; alone, this process has its own.
    board = circuit.shared or circuit.Board()
    engine = Engine(catalogue, client, limits, circuit.Circuit(board))
    store = Store(settings.database_url)
    keys = Keys(store)
    access = Access(settings.auth, settings.keys, keys, settings.anonymous_limits)
    books = Books(store, RedisStates(settings.redis_url) if settings.redis_url else None)
    metrics.label_models(catalogue.cards)
    health = Health(_parts_of_health(settings, store, books, engine))
    legacy = LegacyRoute(store, settings.legacy_sunset, settings.legacy_brownouts)
    observers = (metrics.record, log.write)
    return Components(settings, store, keys, access, books, engine, health, legacy, Accounts(books), observers)


def _parts_of_health(settings: Settings, store: Store, books: Books, engine: Engine) -> dict[str, Part]:
    parts = {
        "database": Part(store.ping),
        "limits": Part(books.ping, required=False),  # without Redis they are held in the database
        "upstream": Part(engine.reachable, required=False),  # fallbacks answer, and other models
    }
    if settings.embedded_url:
        url = settings.embedded_url
        parts["engine"] = Part(lambda: check_health(url))
    return parts


def _embedded_card(settings: Settings) -> ModelCard | None:
    if settings.embedded_url is None:
        return None
    return ModelCard(
        id=model_id(settings.embedded_model),
        url=settings.embedded_url,
        images=False,
        # llama.cpp counts the tokens of one choice only, and not every template has a place for tools.
        cannot=("n",) if settings.embedded_tools else ("n", "tools", "tool_choice", "functions", "function_call"),
        prefill=True,
        context_tokens=CONTEXT_TOKENS,
        renames={"repetition_penalty": "repeat_penalty"},  # llama.cpp's word
        # Some would make it give more than max_tokens (n_predict), show what others have asked (cache_prompt) or fail.
        own_fields=False,
    )
