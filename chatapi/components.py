"""Builds everything from Settings: the only place that names concrete classes."""

from dataclasses import dataclass

from .accounting import Accounts
from .accounting.access import Access
from .accounting.keys import Keys
from .accounting.store import Store
from .catalogue import Catalogue, ModelCard
from .embedded import CONTEXT_TOKENS, check_health, model_id
from .engine import circuit
from .engine.engine import Engine, TimeLimits
from .huggingface import HuggingFace, Transport
from .huggingface.tokenizers import Tokenizers
from .languages import N_
from .migration.route import LegacyRoute
from .settings import VERSION, Settings
from .telemetry import log, metrics
from .telemetry.health import Check, Health


@dataclass(frozen=True, slots=True)
class Components:
    """What the web layer works with."""

    settings: Settings
    store: Store
    keys: Keys
    access: Access
    engine: Engine
    health: Health
    legacy: LegacyRoute
    accounts: Accounts


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
    accounts = Accounts(store, settings.redis_url, metrics.record_lost)
    metrics.label_models(catalogue.cards)
    health = Health(_checks(settings, store, accounts, engine))
    legacy = LegacyRoute(store, settings.legacy_sunset, settings.legacy_brownouts)
    return Components(settings, store, keys, access, engine, health, legacy, accounts)


def _checks(settings: Settings, store: Store, accounts: Accounts, engine: Engine) -> dict[str, Check]:
    checks = {
        "database": Check(store.ping, N_("It does not answer, or cannot be written to.")),
        "limits": Check(accounts.ping, N_("Redis does not answer; limits are held in the database."), required=False),
        # Fallbacks answer, and other models.
        "upstream": Check(engine.reachable, N_("Some models are failing."), required=False),
    }
    if settings.embedded_url:
        url = settings.embedded_url
        checks["engine"] = Check(lambda: check_health(url), N_("The embedded engine does not answer."))
    return checks


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
