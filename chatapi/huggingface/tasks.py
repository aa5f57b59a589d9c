"""What is sent and how answers are read, per task of a model. Pure: sending is the transport's job.

A task offers `request(card, job, stream)` and `reply(card, job, body, headers)`; `events(card, job)` gives the
reader of its stream, or None where the upstream cannot stream and its whole answer is used instead.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeGuard
from urllib.parse import quote

from ..catalogue import ModelCard
from ..chat import (
    ChatJob,
    Choice,
    Chunk,
    Json,
    Message,
    Reply,
    Usage,
    estimate_tokens,
    estimated,
    has_image,
    text_of,
)
from ..errors import BadRequest, UpstreamRejected, UpstreamUnavailable
from .prompts import Prompt, prompt_for
from .transport import Request

FINISH_REASONS: dict[Any, str] = {  # leaks to OpenAI's words (HF§4.3)
    "stop_sequence": "stop",
    "eos_token": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "max_tokens": "length",
    "function_call": "function_call",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "length": "length",
    "stop": "stop",
}


class EventReader(Protocol):
    """Reads one stream's events."""

    usage: Usage | None

    @property
    def complete(self) -> bool:
        """Whether the answer has been finished."""
        ...

    def feed(self, event: Json) -> Chunk | None:
        """The chunk that `event` makes, or None when it has nothing for the caller."""
        ...

    def end(self) -> Chunk:
        """The finish chunk."""
        ...


class Task(Protocol):
    """One way of asking a model."""

    def request(self, base: str, card: ModelCard, job: ChatJob, stream: bool) -> Request:
        """The POST that asks `job` of `card`."""
        ...

    def reply(self, card: ModelCard, job: ChatJob, body: Any, headers: Mapping[str, str]) -> Reply:
        """The answer in a whole body's JSON. Raises UpstreamUnavailable when there is none."""
        ...

    def events(self, card: ModelCard, job: ChatJob) -> "EventReader | None":
        """The reader of this task's stream, or None where it cannot stream."""
        ...


def task_for(card: ModelCard) -> Task:
    """How `card`'s model is asked."""
    if card.is_chat:
        return CHAT
    return GENERATE if card.url else CLASSIC


# --- chat-completion: {base}/v1/chat/completions


class Chat:
    """OpenAI's dialect, as the router, TGI, vLLM and llama.cpp speak it."""

    def request(self, base: str, card: ModelCard, job: ChatJob, stream: bool) -> Request:
        refuse_impossible(card, job)
        _refuse_parts(card, job)
        messages = job.messages
        if _unread_images(card, job):
            messages = [{**m, "content": text_of(m)} if has_image(m) else m for m in messages]
        # `model` goes first: a router can then read it from a small prefix of the body.
        payload: Json = {"model": card.id, "messages": messages}
        payload |= {card.renames.get(k, k): v for k, v in job.options.items()}
        if card.own_fields:
            payload |= job.extra
        if stream:
            payload |= {
                "stream": True,
                "stream_options": {**job.stream_options, "include_usage": True},
            }
        return Request(f"{card.url or base}/v1/chat/completions", payload)

    def reply(self, card: ModelCard, job: ChatJob, body: Any, headers: Mapping[str, str]) -> Reply:
        choices = body.get("choices") if isinstance(body, dict) else None
        if not isinstance(choices, list) or not choices or not all(map(_has_message, choices)):
            raise UpstreamUnavailable(f"The upstream of '{card.id}' sent an answer without choices. Try again.")
        choices = [_whole_choice(i, choice) for i, choice in enumerate(choices)]
        if len(choices) < (job.options.get("n") or 1):
            raise UpstreamRejected(
                f"The upstream of '{card.id}' gave {len(choices)} of {job.options['n']} answers. Ask for n=1.",
                details={"n": ["more than this upstream can do"]},
            )
        texts = "".join(_said(choice["message"]) for choice in choices)
        return Reply(
            model=card.id,
            choices=choices,
            usage=usage_in(body) or estimated(job.messages, texts),
            system_fingerprint=_fingerprint(body),
            extra={"service_tier": body["service_tier"]} if body.get("service_tier") else {},
            ignored=_unsent(card, job),
        )

    def events(self, card: ModelCard, job: ChatJob) -> "ChatEvents":
        return ChatEvents(card, job.options.get("n") or 1, _unsent(card, job))


class ChatEvents:
    """chat.completion.chunk events → chunks: role once per choice, no empty deltas, finish and usage held back.

    The finish goes out only when the stream has ended well: an error event may still follow it (TGI).
    """

    def __init__(self, card: ModelCard, n: int, ignored: tuple[str, ...]) -> None:
        self._model = card.id
        self._n = n
        self._ignored = ignored
        self._begun: set[int] = set()
        self._finished: dict[int, Choice] = {}
        self._fingerprint: str | None = None
        self.usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether every choice asked for or begun has given its finish reason."""
        return len(self._finished) >= self._n and self._begun <= self._finished.keys()

    def feed(self, event: Json) -> Chunk | None:
        self.usage = usage_in(event) or self.usage  # cumulative where it is in every chunk: the last one counts
        self._fingerprint = _fingerprint(event) or self._fingerprint
        given = event.get("choices")
        choices = [c for c in map(self._choice, given) if c] if isinstance(given, list) else []
        return self._chunk(choices) if choices else None

    def end(self) -> Chunk:
        """The finish chunk."""
        for index in self._finished.keys() - self._begun:
            self._finished[index]["delta"] = {"role": "assistant", "content": ""}
        return self._chunk([self._finished[index] for index in sorted(self._finished)])

    def _chunk(self, choices: list[Choice]) -> Chunk:
        return Chunk(model=self._model, choices=choices, system_fingerprint=self._fingerprint, ignored=self._ignored)

    def _choice(self, given: Any) -> Choice | None:
        if not isinstance(given, dict):
            return None
        index = _index(given, 0)
        reason = finish_reason(given.get("finish_reason"))
        delta = given.get("delta")
        # Role is ours to say, once; null, "" and [] are how providers write "nothing".
        delta = {k: v for k, v in delta.items() if v and k != "role"} if isinstance(delta, dict) else {}
        if not isinstance(delta.get("content", ""), str):
            del delta["content"]
        if reason and index not in self._finished:
            self._finished[index] = {
                "index": index,
                "delta": {},
                "logprobs": None,
                "finish_reason": reason,
            }
        logprobs = given.get("logprobs")
        if index not in self._begun and (delta or not reason):
            self._begun.add(index)
            delta = {"role": "assistant", "content": None if "tool_calls" in delta else "", **delta}
        elif not delta and not logprobs:
            return None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def finish_reason(given: Any) -> str | None:
    """OpenAI's word for an upstream's, or None where it has not finished."""
    return FINISH_REASONS.get(given, "stop") if isinstance(given, str) and given else None


def _has_message(choice: Any) -> bool:
    message = choice.get("message") if isinstance(choice, dict) else None
    return isinstance(message, dict) and isinstance(message.get("content"), str | None)


def _index(choice: Json, place: int) -> int:
    index = choice.get("index")
    return index if type(index) is int and index >= 0 else place


def _fingerprint(body: Json) -> str | None:
    given = body.get("system_fingerprint")
    return given if isinstance(given, str) and given else None


def _whole_choice(place: int, choice: Json) -> Choice:
    message = {"role": "assistant", "content": None, "refusal": None, **choice["message"]}
    for key in ("tool_calls", "function_call"):
        if not message.get(key, True):
            del message[key]  # some providers send null or [] for "none"
    return {
        "index": _index(choice, place),
        "message": message,
        "logprobs": choice.get("logprobs"),
        "finish_reason": finish_reason(choice.get("finish_reason")) or "stop",
    }


def _said(message: Message) -> str:
    calls = message.get("tool_calls")
    return text_of(message) + (json.dumps(calls) if calls else "")


def _unsent(card: ModelCard, job: ChatJob) -> tuple[str, ...]:
    return (*(() if card.own_fields else job.extra), *_unread_images(card, job))


def _refuse_parts(card: ModelCard, job: ChatJob) -> None:
    """Raises BadRequest where a model that reads text only is sent sound, files or what nobody knows."""
    if card.images is not False:
        return
    paths = [
        f"messages.{i}.content.{j}.type"
        for i, message in enumerate(job.messages)
        if isinstance(message.get("content"), list)
        for j, part in enumerate(message["content"])
        if part.get("type") not in ("text", "refusal", "image_url")
    ]
    if paths:
        raise BadRequest(
            f"{', '.join(paths[:10])}: '{card.id}' reads text only. Remove these, or ask a model that reads them.",
            details={path: ["this model reads text only"] for path in paths[:10]},
        )


def _unread_images(card: ModelCard, job: ChatJob) -> tuple[str, ...]:
    """The paths of the images that `card` cannot read. Raises BadRequest where leaving them out is no answer."""
    if (card.is_chat and card.images is not False) or not any(map(has_image, job.messages)):
        return ()
    images = tuple(
        f"messages.{i}.content.{j}"
        for i, message in enumerate(job.messages)
        if has_image(message)
        for j, part in enumerate(message["content"])
        if part.get("type") == "image_url"
    )
    if job.strict or not any(m["role"] == "user" and text_of(m).strip() for m in job.messages):
        raise BadRequest(
            f"{', '.join(images)}: '{card.id}' reads text only. Remove the images, or ask a model that reads them.",
            details={path: ["this model reads text only"] for path in images},
        )
    return images


# --- text-generation, text2text-generation: hf-inference, or an own server's /generate


class Classic:
    """Hugging Face's classic task API: `{"inputs", "parameters"}`, whole answers only (HF§2)."""

    def request(self, base: str, card: ModelCard, job: ChatJob, stream: bool) -> Request:
        refuse_impossible(card, job)
        _unheeded(card, job)
        parameters = sampling(job)
        if card.task == "text-generation":
            parameters["return_full_text"] = False  # text2text models refuse it, and never echo
        url = f"{base}/hf-inference/models/{quote(card.id, safe='/:')}"
        return Request(url, {"inputs": _prompt(card, job).text, "parameters": parameters})

    def reply(self, card: ModelCard, job: ChatJob, body: Any, headers: Mapping[str, str]) -> Reply:
        prompt = _prompt(card, job)
        text = generated_text(body)
        if text is None:
            raise UpstreamUnavailable(f"The upstream of '{card.id}' sent an answer without generated text. Try again.")
        if card.task == "text-generation" and (card.url is None or len(prompt.text.split()) > 2):
            # An echo: not every backend honours return_full_text. TGI does, so that there a word or two at the
            # beginning of an answer are the answer's own.
            text = text.removeprefix(prompt.text)
        text, cut = _cut_at_stop(text, _stops(prompt, job))
        details = _details(body)
        reason = "stop" if cut else finish_reason(details.get("finish_reason")) or "stop"
        return Reply(
            model=card.id,
            choices=[text_choice(text, reason)],
            usage=_generate_usage(details, headers, prompt.text, text),
            ignored=_unheeded(card, job),
        )

    def events(self, card: ModelCard, job: ChatJob) -> "EventReader | None":
        return None


class Generate(Classic):
    """TGI's `/generate` and `/generate_stream`, on the entry's own `url` (HF§5)."""

    def request(self, base: str, card: ModelCard, job: ChatJob, stream: bool) -> Request:
        refuse_impossible(card, job)
        _unheeded(card, job)
        prompt = _prompt(card, job)
        parameters = {**sampling(job), "return_full_text": False, "details": True}
        if stops := _stops(prompt, job)[:4]:
            parameters["stop"] = stops  # at most four; `_cut_at_stop` sees to the others
        parameters |= {name: job.options[name] for name in GENERATE_CAN if name in job.options}
        path = "generate_stream" if stream else "generate"
        return Request(f"{card.url}/{path}", {"inputs": prompt.text, "parameters": parameters})

    def events(self, card: ModelCard, job: ChatJob) -> "GenerateEvents":
        prompt = _prompt(card, job)
        return GenerateEvents(card, prompt, _stops(prompt, job), _unheeded(card, job))


class GenerateEvents:
    """TGI token events → chunks; the last one is marked by its `generated_text` (HF§4.2)."""

    def __init__(self, card: ModelCard, prompt: Prompt, stops: Sequence[str], ignored: tuple[str, ...]) -> None:
        self._model = card.id
        self._ignored = ignored
        self._prompt = prompt
        self._stops = stops
        self._hold = max(map(len, stops), default=1) - 1
        self._held = ""  # what may be the beginning of a stop string
        self._sent: list[str] = []
        self._cut = False
        self._reason: str | None = None
        self.usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether the last token has come, or a stop string has ended the answer."""
        return self._reason is not None

    def feed(self, event: Json) -> Chunk | None:
        token = event.get("token")
        token = token if isinstance(token, dict) and not token.get("special") else {}
        if isinstance(token.get("text"), str) and not self._cut:
            self._held, self._cut = _cut_at_stop(self._held + token["text"], self._stops)
        details = _details(event)
        if self._cut:
            self._reason = "stop"
        elif details or event.get("generated_text") is not None:
            self._reason = finish_reason(details.get("finish_reason")) or "stop"
        upto = len(self._held) if self.complete else len(self._held) - self._hold
        piece, self._held = (self._held[:upto], self._held[upto:]) if upto > 0 else ("", self._held)
        role = {} if self._sent else {"role": "assistant"}
        if piece:
            self._sent.append(piece)
        if details or event.get("generated_text") is not None:
            self.usage = _generate_usage(details, {}, self._prompt.text, "".join(self._sent))
        choice = {"index": 0, "delta": {**role, "content": piece}, "logprobs": None, "finish_reason": None}
        return self._chunk(choice) if piece else None

    def end(self) -> Chunk:
        """The finish chunk."""
        role = {} if self._sent else {"role": "assistant", "content": ""}
        return self._chunk({"index": 0, "delta": role, "logprobs": None, "finish_reason": self._reason})

    def _chunk(self, choice: Choice) -> Chunk:
        return Chunk(model=self._model, choices=[choice], ignored=self._ignored)


CHAT, CLASSIC, GENERATE = Chat(), Classic(), Generate()


def sampling(job: ChatJob) -> Json:
    """S1's sampling parameters under the classic names, those that servers refuse translated (HF§2.2)."""
    given = job.options
    parameters: Json = {}
    if job.max_tokens is not None:
        parameters["max_new_tokens"] = job.max_tokens
    if "repetition_penalty" in given:
        parameters["repetition_penalty"] = given["repetition_penalty"]
    if given.get("temperature") == 0 or given.get("top_p") == 0:
        return {**parameters, "do_sample": False}  # zero means greedy, and both are refused as numbers
    for name in ("temperature", "top_k"):
        if name in given:
            parameters[name] = given[name]
    if given.get("top_p", 1) < 1:  # 1 means no limit, and TGI refuses it
        parameters["top_p"] = given["top_p"]
    return parameters


def generated_text(body: Any) -> str | None:
    """The text in any of the shapes of HF§2.4, or None."""
    while isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return None
    found = (body.get(key) for key in ("generated_text", "translation_text", "summary_text"))
    return next((text for text in found if isinstance(text, str)), None)


def text_choice(text: str, finish_reason: str) -> Choice:
    """A whole choice that holds only text."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}


# What a text model cannot honour, with the values that ask for nothing. The advisory ones may go unheeded when the
# job is lenient; without the others the answer would be a different one.
_CANNOT: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
}
GENERATE_CAN = ("seed", "frequency_penalty")  # what TGI's /generate takes and the classic API does not
_ADVISORY: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "seed": (),
    "reasoning_effort": (),
    "parallel_tool_calls": (),
    "user": (),
    "metadata": (),
}


def _unheeded(card: ModelCard, job: ChatJob) -> tuple[str, ...]:
    """The request fields that a text model leaves out. Raises BadRequest where there is nothing to ask it."""
    ignored = _unread_images(card, job)
    if not any(m["role"] == "user" and text_of(m).strip() for m in job.messages):
        raise BadRequest(
            f"messages: '{card.id}' is a {card.task} model and answers a user message; send one that has text.",
            details={"messages": ["at least one user message must have text"]},
        )
    can = GENERATE_CAN if card.url else ()
    return (*(name for name in _asked(_ADVISORY, job) if name not in can), *job.extra, *ignored)


def refuse_impossible(card: ModelCard, job: ChatJob, able: Callable[[str], str] = lambda ability: "") -> None:
    """Raises BadRequest where `card` cannot honour a field without which the answer would be another one.

    `able` says in words which models have an ability.
    """
    if card.is_chat:
        refused = _asked({name: _NOTHING[name] for name in card.cannot}, job)
    else:
        can = GENERATE_CAN if card.url else ()
        advisory = [name for name in _asked(_ADVISORY, job) if name not in can]
        refused = [*_asked(_CANNOT, job), *(advisory if job.strict else ()), *(job.extra if job.strict else ())]
    if refused:
        who = able("supports_tools") if {"tools", "functions"} & set(refused) else ""
        raise BadRequest(
            f"{', '.join(refused)}: '{card.id}' is a {card.task} model that cannot honour this. "
            f"Remove it, or ask a model that can. {who}".rstrip(),
            details={name: [f"not possible with this {card.task} model"] for name in refused},
        )


def _asked(fields: Mapping[str, tuple[Any, ...]], job: ChatJob) -> list[str]:
    """Those of `fields` that the caller set to a value that asks for something."""
    given = job.options
    return [name for name, nothing in fields.items() if name in given and not _is_one_of(given[name], nothing)]


_NOTHING: dict[str, tuple[Any, ...]] = defaultdict(tuple, {**_CANNOT, **_ADVISORY})


def _is_one_of(value: Any, harmless: tuple[Any, ...]) -> bool:
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in harmless)


def _prompt(card: ModelCard, job: ChatJob) -> Prompt:
    return prompt_for(card, job.messages, job.max_tokens or 0)


def _stops(prompt: Prompt, job: ChatJob) -> list[str]:
    return [*job.options.get("stop", ()), *prompt.stop]


def _cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _details(body: Any) -> Json:
    while isinstance(body, list) and body:
        body = body[0]
    details = body.get("details") if isinstance(body, dict) else None
    return details if isinstance(details, dict) else {}


# --- usage


def usage_in(body: Json) -> Usage | None:
    """The upstream's own count in a body or event, with its further keys, or None."""
    given = body.get("usage")
    if not isinstance(given, dict):
        return None
    prompt, completion = given.get("prompt_tokens"), given.get("completion_tokens")
    if not (_is_count(prompt) and _is_count(completion)):
        return None
    known = ("prompt_tokens", "completion_tokens", "total_tokens")
    return Usage(prompt, completion, details={k: v for k, v in given.items() if k not in known})


def _generate_usage(details: Json, headers: Mapping[str, str], prompt: str, text: str) -> Usage:
    prefill = details.get("prefill")
    read = len(prefill) if isinstance(prefill, list) and prefill else _number(headers.get("x-prompt-tokens"))
    given = details.get("input_length", read)
    completion = details.get("generated_tokens", _number(headers.get("x-generated-tokens")))
    if _is_count(given) and _is_count(completion):
        return Usage(given, completion)
    return Usage(estimate_tokens(prompt), estimate_tokens(text), source="estimate", texts=(prompt, text))


MOST_TOKENS = 2**40  # what claims more has not counted


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MOST_TOKENS


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
