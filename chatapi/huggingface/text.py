"""Text models: Hugging Face's classic task API, and TGI's `/generate` on an entry's own `url` (HF§2, §5). Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from ..catalogue import ModelCard
from ..chat import ChatJob, Chunk, Json, Reply, Usage, estimate_tokens
from ..languages import _
from .abilities import GENERATE_CAN, left_out
from .answers import answer_text, choices_in, extra_of
from .failures import cut, unreadable
from .finish import finish_of, finish_reason
from .prompts import Prompt, prompt_for
from .transport import Request
from .usage import believed, usage_in
from .values import count

_TEXTS = ("generated_text", "translation_text", "summary_text")


class Classic:
    """`{"inputs", "parameters"}`, whole answers only."""

    def request(self, base: str, card: ModelCard, job: ChatJob, stream: bool) -> Request:
        parameters = sampling(job)
        if card.task == "text-generation":
            parameters["return_full_text"] = False  # text2text models refuse it, and never echo
        url = f"{base}/hf-inference/models/{quote(card.id, safe='/:')}"
        return Request(url, {"inputs": _prompt(card, job).text, "parameters": parameters})

    def reply(self, card: ModelCard, job: ChatJob, body: Any, headers: Mapping[str, str]) -> Reply:
        prompt = _prompt(card, job)
        try:
            text = answer_text(body)
        except ValueError:
            text = None
        if text is None:
            raise unreadable(card.id, _("an answer without generated text"))
        if card.task == "text-generation" and (card.url is None or len(prompt.text.split()) > 2):
            # An echo: not every backend honours return_full_text. TGI does, so that there a word or two at the
            # beginning of an answer are the answer's own.
            text = text.removeprefix(prompt.text)
        text, cut = _cut_at_stop(text, _stops(prompt, job))
        body = _first_object(body)
        reason = finish_reason(card.id, _details(body).get("finish_reason"), whole=True)
        if reason is None and (choices := choices_in(body)):
            reason = finish_of(card.id, choices[0], whole=True)
        reason = "stop" if cut else reason
        message = {"role": "assistant", "content": text, "refusal": None}
        return Reply(
            model=card.id,
            choices=[{"index": 0, "message": message, "logprobs": None, "finish_reason": reason or "stop"}],
            usage=_usage(body, headers, prompt.text, text, job),
            extra={k: v for k, v in extra_of(body).items() if k not in (*_TEXTS, "details")},
            ignored=left_out(card, job),
        )

    def glance(self, card: ModelCard, job: ChatJob, raw: bytes) -> None:
        """Each answer takes a closer look."""

    def events(self, card: ModelCard, job: ChatJob) -> "GenerateEvents | None":
        return None


class Generate(Classic):
    """TGI's `/generate` and `/generate_stream`."""

    def request(self, base: str, card: ModelCard, job: ChatJob, stream: bool) -> Request:
        prompt = _prompt(card, job)
        parameters = {**sampling(job), "return_full_text": False, "details": True}
        if stops := _stops(prompt, job)[:4]:
            parameters["stop"] = stops  # at most four; `_cut_at_stop` sees to the others
        parameters |= {name: job.options[name] for name in GENERATE_CAN if name in job.options}
        path = "generate_stream" if stream else "generate"
        return Request(f"{card.url}/{path}", {"inputs": prompt.text, "parameters": parameters})

    def events(self, card: ModelCard, job: ChatJob) -> "GenerateEvents":
        prompt = _prompt(card, job)
        return GenerateEvents(card, job, prompt, _stops(prompt, job), left_out(card, job))


class GenerateEvents:
    """TGI token events → chunks; the last one is marked by its `generated_text` (HF§4.2)."""

    plain = False  # every event has its own number: none is like another

    def __init__(
        self, card: ModelCard, job: ChatJob, prompt: Prompt, stops: Sequence[str], ignored: tuple[str, ...]
    ) -> None:
        self._model = card.id
        self._job = job
        self._ignored = ignored
        self._prompt = prompt
        self._stops = stops
        self._hold = max(map(len, stops), default=1) - 1
        self._held = ""  # what may be the beginning of a stop string
        self._read: list[str] = []  # all texts, whatever has been sent of them
        self._sent: list[str] = []
        self._cut = False
        self._reason: str | None = None
        self._usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether the last token has come, or a stop string has ended the answer."""
        return self._reason is not None

    ended = complete

    @property
    def begun(self) -> bool:
        """Whether a chunk has been made."""
        return bool(self._sent)

    def count(self) -> Usage:
        """The upstream's count where it can be true, else an estimate."""
        return self._usage or _estimate(self._prompt.text, "".join(self._sent))

    def passed_on(self, pieces: list[bytes]) -> None:
        """Nothing is."""

    def glance(self, data: bytes) -> Literal[False]:
        """Each event takes a closer look."""
        return False

    def feed(self, event: Json) -> Chunk | None:
        """The chunk that `event` makes, or None. Raises UpstreamUnavailable for one whose answer broke off."""
        details, generated = _details(event), event.get("generated_text")
        text = self._text_in(event, generated)
        if text:
            self._read.append(text)
        if text and not self._cut:
            self._held, self._cut = _cut_at_stop(self._held + text, self._stops)
        reason = finish_reason(self._model, details.get("finish_reason")) or finish_of(self._model, event)
        if self._cut:
            self._reason = "stop"
        elif details or generated is not None:
            self._reason = reason or "stop"
        elif choices := choices_in(event):
            self._reason = finish_of(self._model, choices[0]) or self._reason
        piece = self._release()
        if details or generated is not None or "usage" in event:
            self._usage = _usage(event, {}, self._prompt.text, "".join(self._sent), self._job)
        return self._chunk({"content": piece}) if piece else None

    def done(self) -> None:
        """The upstream said [DONE]: what it has said by then is the answer."""
        if self._sent or self._held:
            self._reason = self._reason or "stop"

    def end(self) -> Chunk:
        """The finish chunk, with what was held back of the text. Raises UpstreamUnavailable if it was cut."""
        if not self.complete:
            raise cut(self._model)
        piece = self._release()
        return self._chunk({"content": piece} if piece else {}, self._reason)

    def _text_in(self, event: Json, generated: object) -> str:
        token = event.get("token")
        if isinstance(token, dict) and not token.get("special") and isinstance(text := token.get("text"), str):
            return text + self._rest_of(generated, text)
        if token is not None and (generated is None or self._read):
            return self._rest_of(generated)  # a special token is no text
        # The whole text at the end is said once: what of it no token said. Other servers send choices.
        if self._read and generated is not None:
            return self._rest_of(generated)
        try:
            return answer_text(event) or ""
        except ValueError:
            raise unreadable(self._model, _("an answer in a form that cannot be read")) from None

    def _rest_of(self, generated: object, text: str = "") -> str:
        """What the whole text at the end has more than the tokens up to the one of this `text` have said."""
        said = "".join(self._read) + text if isinstance(generated, str) and generated else ""
        return generated[len(said) :] if said and isinstance(generated, str) and generated.startswith(said) else ""

    def _release(self) -> str:
        """What of the text read so far can be sent: all of it once the answer has ended."""
        upto = len(self._held) if self.complete else len(self._held) - self._hold
        if upto <= 0:
            return ""
        piece, self._held = self._held[:upto], self._held[upto:]
        return piece

    def _chunk(self, delta: Json, reason: str | None = None) -> Chunk:
        if not self._sent:
            delta = {"role": "assistant", "content": "", **delta}
        if delta.get("content"):
            self._sent.append(delta["content"])
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return Chunk(model=self._model, choices=[choice], ignored=self._ignored)


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


def _prompt(card: ModelCard, job: ChatJob) -> Prompt:
    return prompt_for(card, job.messages, job.max_tokens or 0)


def _stops(prompt: Prompt, job: ChatJob) -> list[str]:
    return [stop for stop in (*job.options.get("stop", ()), *prompt.stop) if stop]


def _cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _first_object(body: Any) -> Json:
    while isinstance(body, list) and body:
        body = body[0]
    return body if isinstance(body, dict) else {}


def _details(body: Json) -> Json:
    details = body.get("details")
    return details if isinstance(details, dict) else {}


def _usage(body: Json, headers: Mapping[str, str], prompt: str, text: str, job: ChatJob) -> Usage:
    """The upstream's own count, its details before its headers (HF§6), where it can be true, else an estimate."""
    if (given := usage_in(body)) is None:
        details = _details(body)
        prefill = details.get("prefill")
        read = len(prefill) if isinstance(prefill, list) and prefill else count(headers.get("x-prompt-tokens"))
        prompt_tokens = count(details.get("input_length", read))
        completion_tokens = count(details.get("generated_tokens", headers.get("x-generated-tokens")))
        if prompt_tokens is None or completion_tokens is None:
            return _estimate(prompt, text)
        given = Usage(prompt_tokens, completion_tokens)
    return given if believed(given, job, len(text), lambda: text) is given else _estimate(prompt, text)


def _estimate(prompt: str, text: str) -> Usage:
    # From the one text that was sent, not from the conversation.
    return Usage(estimate_tokens(prompt), estimate_tokens(text), source="estimate", texts=(prompt, text))
