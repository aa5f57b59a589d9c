"""Values: what is asked (ChatJob) and what comes back (Reply, Chunk, Usage), in OpenAI's words.

Nobody changes one: `dataclasses.replace` makes another. They are not frozen, for that triples what making one costs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]
Message = Json  # {"role": …, "content": str | [parts] | None, …}, OpenAI's shape, already validated
Choice = Json  # {"index", "message" | "delta", "finish_reason", "logprobs"}, OpenAI's shape


_ORDINARY = {"temperature", "top_p", "max_tokens", "max_completion_tokens", "stop"}


@dataclass(slots=True, kw_only=True)
class ChatJob:
    """One request, the same for all dialects.

    `options` holds only what the caller set, under OpenAI's names (`max_tokens`, `stop` as a list, `tools` …) and
    S1's (`top_k`, `repetition_penalty`); `extra` is what we do not know and a chat upstream may. A `strict` job
    is refused where a lenient one names in `ignored` what its model cannot use.
    """

    model: str
    messages: Sequence[Message]
    options: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    include_usage: bool = False
    stream_options: Mapping[str, Any] = field(default_factory=dict)
    max_time_s: float | None = None
    fallbacks: tuple[str, ...] | None = None
    strict: bool = False
    ignored: tuple[str, ...] = ()
    echo: Mapping[str, Any] = field(default_factory=dict)  # what its dialect keeps for the answer; nobody else's
    # A field's path here → the path under which its dialect's callers write it.
    caller_path: Callable[[str], str] = field(default=str, repr=False, compare=False)
    prefill: bool = False  # the last message is the beginning of the answer, to be continued

    @property
    def max_tokens(self) -> int | None:
        """The answer's limit in tokens, under either of its names."""
        limit: int | None = self.options.get("max_completion_tokens", self.options.get("max_tokens"))
        return limit

    @property
    def is_ordinary(self) -> bool:
        """Whether nothing but plain text and the usual sampling is asked for: a healthy server answers this."""
        texts = (isinstance(m.get("content"), str) and m.keys() <= {"role", "content", "name"} for m in self.messages)
        return self.options.keys() <= _ORDINARY and not self.extra and all(texts)


@dataclass(slots=True)
class Usage:
    """Tokens of one call. `source` says who counted; `details` are the upstream's own further keys."""

    prompt_tokens: int
    completion_tokens: int
    source: Literal["upstream", "tokenizer", "estimate"] = "upstream"
    details: Mapping[str, Any] = field(default_factory=dict)
    # What an estimate was made from: the texts of prompt and answer, and the tokens that a chat template adds.
    texts: tuple[str, str] | None = field(default=None, repr=False, compare=False)
    overhead: int = field(default=0, repr=False, compare=False)


@dataclass(slots=True, kw_only=True)
class Reply:
    """A whole answer. `model` is the id under which we asked; `ignored` names request fields without effect."""

    model: str
    choices: Sequence[Choice]
    usage: Usage
    system_fingerprint: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The first choice's text; empty when it has none (tool calls)."""
        return self.choices[0]["message"].get("content") or ""


@dataclass(slots=True, kw_only=True)
class Chunk:
    """One piece of a stream: choices with deltas, or (the last one) the usage with no choices.

    `extra` is what the upstream adds at the top level of its chunk.
    """

    model: str
    choices: Sequence[Choice] = ()
    usage: Usage | None = None
    system_fingerprint: str | None = None
    ignored: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)  # what the upstream added beside them


# A stream is made of chunks and, for speed, of runs of plain text: pieces of choice 0 from the model of the last chunk,
# each the JSON-escaped UTF-8 between the quotes of a string.
StreamItem = Chunk | list[bytes]


def text_of(message: Message) -> str:
    """The text of a message: its string content, or its text parts joined by newlines."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if part.get("type") == "text" and part.get("text"))


def has_image(message: Message) -> bool:
    """Whether a message carries an image part."""
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") == "image_url" for part in content)


def estimate_tokens(text: str) -> int:
    """How many tokens `text` may be, for upstreams that do not say (HF§6: words·1.3 or chars/4; CJK near 1 each)."""
    if not text:
        return 0
    wide = 0 if text.isascii() else sum(1 for c in text if "\u2e80" <= c <= "\ud7ff" or c >= "\uf900")
    return max(1, wide + math.ceil(max(len(text.split()) * 1.3 - (wide > 0), (len(text) - wide) / 4)))


def estimated(messages: Sequence[Message], text: str) -> Usage:
    """Usage nobody reported, estimated from the texts; a chat template adds about four tokens a message."""
    prompts, overhead = [text_of(m) for m in messages], 4 * len(messages)
    prompt = sum(map(estimate_tokens, prompts)) + overhead
    return Usage(prompt, estimate_tokens(text), "estimate", texts=("\n".join(prompts), text), overhead=overhead)
