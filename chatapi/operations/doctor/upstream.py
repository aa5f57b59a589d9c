"""What the gateway asks: the upstream, whether the token is accepted there, each model of the catalogue."""

import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import replace
from email.utils import parsedate_to_datetime

from ...call import Call
from ...catalogue import Catalogue
from ...chat import ChatJob
from ...components import Components
from ...errors import (
    ChatError,
    ModelLoading,
    ModelNotFound,
    UpstreamAuth,
    UpstreamError,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRejected,
)
from ...huggingface import Transport
from ...huggingface.successors import successors
from ...huggingface.transport import Request
from ...languages import N_, _
from ...settings import ROUTER_URL
from . import reaching
from .findings import AGENT, CREDIT, DOCTOR, TOKEN, Finding, Progress, Result, setting
from .machine import check_clock

MODEL_S = 20.0  # for one model to say one token
SIDE_BY_SIDE = 8
LIST_S = 5.0  # for the upstream's list of models
SUCCESSORS = 3  # proposed for a model that is gone
TRIED = 3  # of its models, until one tells whether the token is accepted
# Whether a model goes on from a beginning: a list of which everybody knows how it goes on, and how it began.
QUESTION = "Count from one to ten in words, separated by commas. Write nothing else."
BEGUN, BEGUN_TOKENS = "one, two, three, four, five,", 16
_ON, _ANEW = re.compile(r"\b(?:six|6)\b", re.IGNORECASE), re.compile(r"\b(?:one|1)\b", re.IGNORECASE)


class Upstream:
    """The upstream of the settings, or the engine on this machine in its place."""

    def __init__(self, parts: Components) -> None:
        self._engine = parts.engine
        self._catalogue = parts.engine.catalogue
        self._settings = parts.settings
        self._url = parts.settings.embedded_url or parts.settings.base_url
        self._is_reached = False
        self._token_works = False
        self._stand_in = "org/name"  # a model that has answered

    def check_server(self) -> Iterator[Finding]:
        """Whether it can be reached, and what time it is there. Asked without the token, at no cost."""
        transport = Transport(None, AGENT)
        try:
            answer = reaching.fetch(transport, Request(f"{self._url}/v1/models"))
            wrong = reaching.check_protocol(self._url, answer, transport)
        except UpstreamError as error:
            wrong = reaching.explain(self._url, error, transport)
        if wrong:
            message, instead = wrong
            fix = reaching.fix_address(instead, setting("HUGGINGFACE_BASE_URL", "{}"), self._fix_way())
            yield Finding("upstream", False, f"{self._url}: {message}", fix)
            return
        self._is_reached = True
        yield Finding("upstream", True, _("{url} answers", url=self._url))
        if (date := answer.headers.get("Date")) and not self._settings.embedded_url:
            yield from check_clock("upstream", parsedate_to_datetime(date).timestamp())

    def _fix_way(self) -> str:
        if self._settings.embedded_url:
            return "make run"
        if self._settings.base_url == ROUTER_URL:
            return _("let this machine reach {url} (DNS, firewall, HTTPS_PROXY)", url=ROUTER_URL)
        return setting("HUGGINGFACE_BASE_URL", ROUTER_URL)

    # --- the token

    def check_token(self) -> Iterator[Finding]:
        """One token asked of a model that the upstream knows."""
        if self._settings.wants_embedded and not self._settings.embedded_url:
            text = N_(
                "HUGGINGFACE_API_KEY is not set, and the router refuses calls without it; only `make run` has a model "
                "of its own"
            )
            yield Finding("token", False, _(text), TOKEN)
        elif self._is_reached:
            for model in self._models_to_ask():
                ok, message, fix = self._judge_token(error := self._ask(model))
                if error is None:
                    self._stand_in = model
                if ok is not None:
                    break
            self._token_works = ok is not False
            yield Finding("token", ok, message, fix)

    def _models_to_ask(self) -> list[str]:
        """A few models of the upstream's own list; where there is none, one that the catalogue leaves to it."""
        if self._catalogue.embedded:
            return [self._catalogue.embedded.id]
        deadline = time.monotonic() + LIST_S
        while time.monotonic() < deadline:
            # The engine's own model objects, those of the catalogue, name a task.
            if listed := [model["id"] for model in self._engine.models().values() if "task" not in model]:
                return listed[:TRIED]
            time.sleep(0.5)
        cards = map(self._catalogue.find, self._catalogue.cards)
        return [next((card.id for card in cards if not card.url), self._settings.default_model)]

    def _ask(self, model: str) -> ChatError | None:
        """What is wrong with one call for one token."""
        hello = {"role": "user", "content": "Hi"}
        answer = self._answer(ChatJob(model=model, messages=[hello], options={"max_tokens": 1}))
        return answer if isinstance(answer, ChatError) else None

    def _answer(self, job: ChatJob) -> str | ChatError:
        """The text that `job` is answered with by its own model, or why it is not."""
        call, job = Call("-"), replace(job, max_time_s=MODEL_S, fallbacks=())
        try:
            self._engine.begin(job, call)
            return self._engine.reply(job, call).text
        except ChatError as error:
            return error

    def _judge_token(self, error: ChatError | None) -> Result:
        if error is None:
            return True, _("is accepted") if self._settings.huggingface_api_key else _("none is needed"), ""
        text = _coded(error)
        if isinstance(error, UpstreamQuota):
            return False, text, _(CREDIT)
        if isinstance(error, UpstreamError) and not error.is_gated and "HUGGINGFACE_API_KEY" in error.message:
            return False, text, TOKEN
        if isinstance(error, ModelLoading) or (error.upstream_status or 500) < 500:
            return True, _("is accepted ({code} for the model asked)", code=error.code), ""
        return None, _("was not refused, but no answer came ({error})", error=text), DOCTOR

    # --- the models

    def check_models(self, progress: Progress) -> Iterator[Finding]:
        """One token asked of each model of the catalogue, side by side."""
        every = {*self._catalogue.cards, self._settings.default_model}
        ids = [id for id in every if self._can_ask(id)]
        if not self._token_works:
            text = N_("{count} were not asked: first the upstream and the token have to be right")
            yield Finding("models", None, _(text, count=len(every) - len(ids)), DOCTOR)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            asked = {pool.submit(copy_context().run, self._ask, id): id for id in sorted(ids)}
            for count, done in enumerate(as_completed(asked), 1):
                progress(_("models: {count} of {all}", count=count, all=len(asked)))
                yield Finding(f"model {asked[done]}", *self._judge_model(asked[done], done.result()))

    def _can_ask(self, id: str) -> bool:
        # A token that is refused is told once, not of each model; what the engine here answers was asked with it.
        try:
            card = self._catalogue.find(id)
        except ModelNotFound:
            return True
        return card is not self._catalogue.embedded and bool(card.url or self._token_works)

    def _judge_model(self, id: str, error: ChatError | None) -> Result:
        if error is None:
            return self._judge_answering(id)
        if isinstance(error, ModelLoading | UpstreamRateLimited):
            return None, _coded(error), DOCTOR
        # The documented models are shipped although nobody serves them any more; and nobody has to use them.
        unused = Catalogue.load().cards.get(id) == self._catalogue.cards.get(id) and id != self._settings.default_model
        ok = None if unused and isinstance(error, ModelNotFound) else False
        return ok, _coded(error), self._fix_model(id, error)

    def _judge_answering(self, id: str) -> Result:
        card = self._catalogue.cards.get(id)
        if card is not None and card.prefill and card.is_chat and not card.serve_as:
            return self._check_prefill(id)
        if card is None or not card.shutdown_date or card.serve_as:
            return True, _("answers"), ""
        message = _("answers, until {day}", day=card.shutdown_date)
        return None, message, self._catalogue_lines(id, self._successor_lines(id))

    def _check_prefill(self, id: str) -> Result:
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": BEGUN}]
        options = {"max_tokens": BEGUN_TOKENS, "temperature": 0}
        answer = self._answer(ChatJob(model=id, messages=messages, options=options, strict=True, prefill=True))
        lines = ("prefill = false", "# " + _("or the fields by which its server is told to go on: prefill_with = {…}"))
        fix = self._catalogue_lines(id, lines)
        if isinstance(answer, ChatError):
            text = N_("answers, but not where the beginning of its answer is given ({error})")
            return False if isinstance(answer, UpstreamRejected) else None, _(text, error=_coded(answer)), fix
        goes_on = _goes_on(answer)
        if goes_on:
            return True, _("answers, and goes on from a given beginning"), ""
        text = N_("begins anew where it is given a beginning: a rescued stream would be two answers in one")
        if goes_on is None:
            text = N_("answers; whether it goes on from a given beginning could not be told")
        return goes_on, _(text), fix

    def _fix_model(self, id: str, error: ChatError) -> str:
        """The lines of the catalogue, or the setting."""
        if isinstance(error, UpstreamError) and error.is_gated:
            return _("accept its conditions with the token's account: {page}", page=f"https://huggingface.co/{id}")
        if isinstance(error, UpstreamAuth):
            return TOKEN
        if isinstance(error, UpstreamQuota):
            return _(CREDIT)
        if self._catalogue.embedded and isinstance(error, ModelNotFound):
            return setting("CHATAPI_DEFAULT_MODEL", self._catalogue.embedded.id)
        return self._catalogue_lines(id, self._entry_lines(id, error))

    def _catalogue_lines(self, id: str, lines: Iterable[str]) -> str:
        own = _("{line}, and in that file", line=setting("CHATAPI_CATALOGUE", "catalogue.toml"))
        return "\n".join((f'{self._settings.catalogue or own}: [models."{id}"]', *lines))

    def _entry_lines(self, id: str, error: ChatError) -> tuple[str, ...]:
        card = self._catalogue.find(id)
        task = f'task = "{card.task}"'
        if card.url and (isinstance(error, ModelNotFound) or error.upstream_status is None):
            return task, 'url = "https://…"'
        if isinstance(error, ModelNotFound):
            return self._successor_lines(id)
        if isinstance(error, UpstreamRejected):
            return (f'task = "{"text-generation" if card.is_chat else "chat-completion"}"',)
        return task, f'fallbacks = ["{self._stand_in}"]'

    def _successor_lines(self, id: str) -> tuple[str, ...]:
        """The best of the listed models in its place, and the next ones as comments."""
        offers = successors(id, self._engine.models().values())[:SUCCESSORS]
        lines = [f'serve_as = "{offer.model}"  # {offer}' for offer in offers] or [f'serve_as = "{self._stand_in}"']
        return lines[0], *(f"# {line}" for line in lines[1:])


def _coded(error: ChatError) -> str:
    return f"{error.code}: {error.message}"


def _goes_on(answer: str) -> bool | None:
    """Whether a model went on from BEGUN; None where its answer does not tell."""
    on, anew = _ON.search(answer), _ANEW.search(answer)
    if on is None:
        return False if anew else None
    return anew is None or on.start() < anew.start()
