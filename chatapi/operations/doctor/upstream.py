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
from ...languages import _
from ...settings import ROUTER_URL
from . import reaching
from .findings import AGENT, CREDIT, DOCTOR, TOKEN, Finding, Progress, setting
from .machine import clock

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

    def reached(self) -> Iterator[Finding]:
        """Whether it can be reached, and what time it is there. Asked without the token, at no cost."""
        transport = Transport(None, AGENT)
        try:
            answer = reaching.asked(transport, Request(f"{self._url}/v1/models"))
            wrong = reaching.no_protocol(self._url, answer, transport)
        except UpstreamError as error:
            wrong = reaching.explained(self._url, error, transport) or (reaching.seen(error), "")
        if wrong:
            message, instead = wrong
            yield Finding("upstream", False, f"{self._url}: {message}", self._instead(instead))
            return
        self._is_reached = True
        yield Finding("upstream", True, _("{url} answers", url=self._url))
        if (date := answer.headers.get("Date")) and not self._settings.embedded_url:
            yield from clock("upstream", parsedate_to_datetime(date).timestamp())

    def _instead(self, url_or_line: str) -> str:
        if "://" in url_or_line:
            return setting("HUGGINGFACE_BASE_URL", url_or_line)
        return f"export {url_or_line}" if url_or_line else self._way()

    def _way(self) -> str:
        if self._settings.embedded_url:
            return "make run"
        if self._settings.base_url == ROUTER_URL:
            return _("let this machine reach {url} (DNS, firewall, HTTPS_PROXY)", url=ROUTER_URL)
        return setting("HUGGINGFACE_BASE_URL", ROUTER_URL)

    # --- the token

    def token(self) -> Iterator[Finding]:
        """One token asked of a model that the upstream knows."""
        if self._settings.wants_embedded and not self._settings.embedded_url:
            message = _(
                "HUGGINGFACE_API_KEY is not set, and the router refuses calls without it; only `make run` has a model "
                "of its own"
            )
            yield Finding("token", False, message, TOKEN)
        elif self._is_reached:
            for model in self._known():
                finding = self._judged(error := self._ask(model))
                if error is None:
                    self._stand_in = model
                if finding.ok is not None:
                    break
            self._token_works = finding.ok is not False
            yield finding

    def _known(self) -> list[str]:
        """A few models of the upstream's own list; where there is none, one that the catalogue leaves to it."""
        if self._catalogue.embedded:
            return [self._catalogue.embedded.id]
        until = time.monotonic() + LIST_S
        while time.monotonic() < until:
            # The engine's own model objects, those of the catalogue, name a task.
            if listed := [model["id"] for model in self._engine.models().values() if "task" not in model]:
                return listed[:TRIED]
            time.sleep(0.5)
        cards = map(self._catalogue.find, self._catalogue.cards)
        return [next((card.id for card in cards if not card.url), self._settings.default_model)]

    def _ask(self, model: str) -> ChatError | None:
        """What is wrong with one call for one token."""
        hello = {"role": "user", "content": "Hi"}
        said = self._answer(ChatJob(model=model, messages=[hello], options={"max_tokens": 1}))
        return said if isinstance(said, ChatError) else None

    def _answer(self, job: ChatJob) -> str | ChatError:
        """The text that `job` is answered with by its own model, or why it is not."""
        call, job = Call("-"), replace(job, max_time_s=MODEL_S, fallbacks=())
        try:
            self._engine.begin(job, call)
            return self._engine.reply(job, call).text
        except ChatError as error:
            return error

    def _judged(self, error: ChatError | None) -> Finding:
        if error is None:
            return Finding(
                "token", True, _("is accepted") if self._settings.huggingface_api_key else _("none is needed")
            )
        said = f"{error.code}: {error.message}"
        if isinstance(error, UpstreamQuota):
            return Finding("token", False, said, _(CREDIT))
        if isinstance(error, UpstreamError) and not error.is_gated and "HUGGINGFACE_API_KEY" in error.message:
            return Finding("token", False, said, TOKEN)
        answered = isinstance(error, ModelLoading) or (getattr(error, "upstream_status", None) or 500) < 500
        if not answered:
            return Finding("token", None, _("was not refused, but no answer came ({error})", error=said), DOCTOR)
        return Finding("token", True, _("is accepted ({code} for the model asked)", code=error.code))

    # --- the models

    def models(self, progress: Progress) -> Iterator[Finding]:
        """One token asked of each model of the catalogue, side by side."""
        every = {*self._catalogue.cards, self._settings.default_model}
        ids = [id for id in every if self._can_ask(id)]
        if not self._token_works:
            message = _(
                "{count} were not asked: first the upstream and the token have to be right", count=len(every) - len(ids)
            )
            yield Finding("models", None, message, DOCTOR)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            asked = {pool.submit(copy_context().run, self._ask, id): id for id in sorted(ids)}
            for count, done in enumerate(as_completed(asked), 1):
                progress(_("models: {count} of {all}", count=count, all=len(asked)))
                yield self._diagnosis(asked[done], done.result())

    def _can_ask(self, id: str) -> bool:
        # A token that is refused is told once, not of each model; what the engine here answers was asked with it.
        try:
            card = self._catalogue.find(id)
        except ModelNotFound:
            return True
        return card is not self._catalogue.embedded and bool(card.url or self._token_works)

    def _diagnosis(self, id: str, error: ChatError | None) -> Finding:
        name = f"model {id}"
        if error is None:
            return self._answering(id, name)
        said = f"{error.code}: {error.message}"
        if isinstance(error, ModelLoading | UpstreamRateLimited):
            return Finding(name, None, said, DOCTOR)
        # The documented models are shipped although nobody serves them any more; and nobody has to use them.
        unused = Catalogue.load().cards.get(id) == self._catalogue.cards.get(id) and id != self._settings.default_model
        return Finding(
            name, None if unused and isinstance(error, ModelNotFound) else False, said, self._mend(id, error)
        )

    def _answering(self, id: str, name: str) -> Finding:
        card = self._catalogue.cards.get(id)
        if card is not None and card.prefill and card.is_chat and not card.serve_as:
            return self._continuing(id, name)
        if card is None or not card.shutdown_date or card.serve_as:
            return Finding(name, True, _("answers"))
        message = _("answers, until {day}", day=card.shutdown_date)
        return Finding(name, None, message, self._in_the_catalogue(id, self._successors(id)))

    def _continuing(self, id: str, name: str) -> Finding:
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": BEGUN}]
        options = {"max_tokens": BEGUN_TOKENS, "temperature": 0}
        said = self._answer(ChatJob(model=id, messages=messages, options=options, strict=True, prefill=True))
        goes_on = None if isinstance(said, ChatError) else _goes_on(said)
        if goes_on:
            return Finding(name, True, _("answers, and goes on from a given beginning"))
        lines = ("prefill = false", "# " + _("or the fields by which its server is told to go on: prefill_with = {…}"))
        fix = self._in_the_catalogue(id, lines)
        if isinstance(said, ChatError):
            why = f"{said.code}: {said.message}"
            message = _("answers, but not where the beginning of its answer is given ({error})", error=why)
            return Finding(name, False if isinstance(said, UpstreamRejected) else None, message, fix)
        if goes_on is False:
            message = _("begins anew where it is given a beginning: a rescued stream would be two answers in one")
            return Finding(name, False, message, fix)
        return Finding(name, None, _("answers; whether it goes on from a given beginning could not be told"), fix)

    def _mend(self, id: str, error: ChatError) -> str:
        """The lines of the catalogue, or the setting."""
        if isinstance(error, UpstreamError) and error.is_gated:
            return _("accept its conditions with the token's account: {page}", page=f"https://huggingface.co/{id}")
        if isinstance(error, UpstreamAuth):
            return TOKEN
        if isinstance(error, UpstreamQuota):
            return _(CREDIT)
        if self._catalogue.embedded and isinstance(error, ModelNotFound):
            return setting("CHATAPI_DEFAULT_MODEL", self._catalogue.embedded.id)
        return self._in_the_catalogue(id, self._entry(id, error))

    def _in_the_catalogue(self, id: str, lines: Iterable[str]) -> str:
        own = _("{line}, and in that file", line=setting("CHATAPI_CATALOGUE", "catalogue.toml"))
        file = self._settings.catalogue or own
        return "\n".join((f'{file}: [models."{id}"]', *lines))

    def _entry(self, id: str, error: ChatError) -> tuple[str, ...]:
        card = self._catalogue.find(id)
        task = f'task = "{card.task}"'
        if card.url and (isinstance(error, ModelNotFound) or getattr(error, "upstream_status", None) is None):
            return task, 'url = "https://…"'
        if isinstance(error, ModelNotFound):
            return self._successors(id)
        if isinstance(error, UpstreamRejected):
            return (f'task = "{"text-generation" if card.is_chat else "chat-completion"}"',)
        return task, f'fallbacks = ["{self._stand_in}"]'

    def _successors(self, id: str) -> tuple[str, ...]:
        """The best of the listed models in its place, and the next ones as comments."""
        offers = successors(id, self._engine.models().values())[:SUCCESSORS]
        lines = [f'serve_as = "{offer.model}"  # {offer}' for offer in offers] or [f'serve_as = "{self._stand_in}"']
        return lines[0], *(f"# {line}" for line in lines[1:])


def _goes_on(said: str) -> bool | None:
    """Whether a model went on from BEGUN; None where its answer does not tell."""
    on, anew = _ON.search(said), _ANEW.search(said)
    if on is None:
        return False if anew else None
    return anew is None or on.start() < anew.start()
