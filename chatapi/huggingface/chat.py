"""Chat completion: OpenAI's dialect as the router, TGI, vLLM, SGLang and llama.cpp speak it. Pure."""

from collections.abc import Mapping
from typing import Any

from ..catalogue import ModelCard
from ..chat import ChatJob, Json, Reply, has_image, text_of
from ..languages import _
from . import ordinary
from .abilities import asks_for_nothing, left_out
from .answers import choices_in, chosen, extra_of, whole_choice
from .chat_events import ChatEvents
from .failures import fewer, unreadable
from .ordinary import fingerprint_of, wanted_of
from .transport import Request
from .usage import believed, said_in, usage_in

# vLLM, SGLang and TGI begin a new answer after a trailing assistant message unless they are told.
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


class Chat:
    """`{base}/v1/chat/completions`, or an own server's."""

    def request(self, base: str, card: ModelCard, job: ChatJob, stream: bool) -> Request:
        messages = job.messages
        if card.images is False:
            messages = [{**m, "content": text_of(m)} if has_image(m) else m for m in messages]
        # `model` goes first: a router can then read it from a small prefix of the body.
        payload: Json = {"model": card.id, "messages": messages, **_options(card, job)}
        if job.prefill:
            payload |= _continuing(card)
        if card.own_fields:
            payload |= job.extra
        if stream:
            payload |= {"stream": True, "stream_options": {**job.stream_options, "include_usage": True}}
        return Request(f"{card.url or base}/v1/chat/completions", payload)

    glance = staticmethod(ordinary.glance)

    def reply(self, card: ModelCard, job: ChatJob, body: Any, headers: Mapping[str, str]) -> Reply:
        wanted = wanted_of(job)
        given = chosen(choices_in(body), wanted)
        if not given:
            raise unreadable(card.id, _("an answer without choices"))
        choices = [{**whole_choice(card.id, choice), "index": i} for i, choice in enumerate(given)]
        if len(choices) < wanted:
            raise fewer(card.id, len(choices), wanted)
        said = "".join(said_in(choice["message"]) for choice in choices)
        body = body if isinstance(body, dict) else {}
        return Reply(
            model=card.id,
            choices=choices,
            usage=believed(usage_in(body), job, len(said), lambda: said),
            system_fingerprint=fingerprint_of(body),
            extra=extra_of(body),
            ignored=left_out(card, job),
        )

    def events(self, card: ModelCard, job: ChatJob) -> "ChatEvents":
        return ChatEvents(card, job, () if card.takes_all else left_out(card, job))


def _options(card: ModelCard, job: ChatJob) -> Json:
    """What the caller set, but for what asks for nothing; of two spellings of one thing, one."""
    sent = {name: value for name, value in job.options.items() if not asks_for_nothing(name, job)}
    if "max_completion_tokens" in sent and "max_tokens" in sent:
        sent["max_tokens"] = sent.pop("max_completion_tokens")
    return {card.renames.get(name, name): value for name, value in sent.items()}


def _continuing(card: ModelCard) -> Json:
    """What tells a server to go on with a trailing assistant message instead of beginning another one after it."""
    if card.prefill_with is not None:
        return dict(card.prefill_with)
    return CONTINUE if card.url and card.own_fields else {}
