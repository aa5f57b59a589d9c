"""What has gone out of a stream, and how a model goes on from there after another one broke off."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

from ..catalogue import ModelCard
from ..chat import ChatJob, Choice, Chunk, StreamItem, Usage, estimate_tokens, text_of
from ..errors import UpstreamUnavailable
from ..languages import _

LENGTHS = ("max_tokens", "max_completion_tokens")


class Continuation:
    """Passes one answer on, whatever models had to write it."""

    def __init__(self, job: ChatJob) -> None:
        self._one = job.options.get("n", 1) == 1
        self.plain = True  # so far nothing but text of one choice: what another model can go on from
        self._pieces: list[bytes] = []  # JSON-escaped; the text is put together where it is needed
        self._begun = False  # a chunk has gone out, and the role with it
        self._continues = False  # the model at hand is not the one that began
        self._awaited = ""  # what it must repeat before it says anything new
        self._prompt_tokens = 0  # of the caller's own messages, at least
        self._self_continued = False
        self._before: int | None = None  # tokens sent before it began, where they were part of its prompt

    @property
    def text(self) -> str:
        """What has gone out."""
        return _text(self._pieces)

    def ways(self, card: ModelCard) -> list[Callable[[ChatJob], ChatJob]]:
        """How to ask `card`: as the caller did; once text is out, where it can, from that text on first."""
        return [self._from_here, self._afresh] if self.can_go_on(card) else [self._afresh]

    def can_go_on(self, card: ModelCard) -> bool:
        """Whether `card` can write on from the text that is out."""
        return bool(self._pieces) and self.plain and card.prefill and card.is_chat

    def again(self, card: ModelCard) -> list[Callable[[ChatJob], ChatJob]]:
        """How to ask `card` to go on after itself, once for an answer."""
        may, self._self_continued = self.can_go_on(card) and not self._self_continued, True
        return [self._from_here] if may else []

    def _afresh(self, job: ChatJob) -> ChatJob:
        self._continues, self._awaited, self._before = self._begun, self.text, None
        return job

    def _from_here(self, job: ChatJob) -> ChatJob:
        text = self.text
        # A piece is a token as a rule; an upstream that sends few and large ones has sent more tokens than pieces.
        self._before = max(len(self._pieces), estimate_tokens(text) // 2)
        self._prompt_tokens = sum(estimate_tokens(text_of(m)) for m in job.messages)
        self._continues, self._awaited = True, ""
        limits = {k: max(1, v - self._before) for k, v in job.options.items() if k in LENGTHS}
        begun = {"role": "assistant", "content": text}
        return replace(job, messages=[*job.messages, begun], options={**job.options, **limits}, prefill=True)

    def relay(self, items: Iterator[StreamItem]) -> Iterator[StreamItem]:
        """Pass on what is new. Raises UpstreamUnavailable when a fresh answer is not the one begun."""
        named = not self._continues  # a chunk has said whose the pieces behind it are
        last = Chunk(model="")
        with closing(items):  # type: ignore[type-var]
            for item in items:
                if isinstance(item, list):
                    if named and not self._awaited:
                        self._pieces += item
                        yield item
                        continue
                    choice = {"index": 0, "delta": {"content": _text(item)}, "logprobs": None, "finish_reason": None}
                    item = replace(last, choices=[choice])
                last = item
                if item.usage:
                    yield replace(item, usage=self._joined(item.usage))
                elif choices := [new for choice in item.choices if (new := self._new_in(choice))]:
                    self._begun = named = True
                    yield replace(item, choices=choices)

    def _new_in(self, choice: Choice) -> Choice | None:
        delta = dict(choice["delta"])
        content = delta.pop("content", None) or ""
        if self._continues:
            delta.pop("role", None)
        if self._awaited:
            if delta.keys() & {"tool_calls", "function_call"}:
                raise _other_answer()
            # What it thinks before it has repeated the beginning belongs to another answer's beginning.
            delta, content = {}, self._after_awaited(content, choice["finish_reason"])
        self.plain = self.plain and self._one and delta.keys() <= {"role"}
        if content:
            self._pieces.append(_piece(content))
        if not self._continues:
            return choice
        delta |= {"content": content} if content else {}
        return {**choice, "delta": delta} if delta or choice["finish_reason"] else None

    def _after_awaited(self, content: str, finish_reason: str | None) -> str:
        both = min(len(content), len(self._awaited))
        if finish_reason or content[:both] != self._awaited[:both]:
            raise _other_answer()
        self._awaited = self._awaited[both:]
        return content[both:]

    def _joined(self, usage: Usage) -> Usage:
        # The text a model was to go on from was prompt to it; to the caller it is part of the answer.
        if self._before is None:
            return usage
        prompt = max(usage.prompt_tokens - self._before, min(self._prompt_tokens, usage.prompt_tokens))
        return Usage(prompt, usage.completion_tokens + self._before, source="estimate")


def _text(pieces: list[bytes]) -> str:
    text: str = json.loads(b'"' + b"".join(pieces) + b'"')
    return text


def _piece(text: str) -> bytes:
    return json.dumps(text).encode()[1:-1]


def _other_answer() -> UpstreamUnavailable:
    return UpstreamUnavailable(_("The answer was cut, and no other model could go on from where it ended."))
