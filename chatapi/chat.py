"""The nouns: what is asked (ChatJob), what comes back (Reply, Chunk, Usage), and a call's life (Call)."""

import math
import queue
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from .errors import ChatError, ClientLeft

Json = dict[str, Any]
Message = Json  # {"role": …, "content": str | [parts] | None, …}, OpenAI's shape, already validated
Choice = Json  # {"index", "message" | "delta", "finish_reason", "logprobs"}, OpenAI's shape

T = TypeVar("T")
# What runs for a caller yields a comment (str) whenever a heartbeat is due, and returns its result.
Waiting = Generator[str, None, T]


@dataclass(frozen=True, slots=True, kw_only=True)
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

    @property
    def max_tokens(self) -> int | None:
        """The answer's limit in tokens, under either of its names."""
        limit: int | None = self.options.get("max_completion_tokens", self.options.get("max_tokens"))
        return limit


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `source` says who counted; `details` are the upstream's own further keys."""

    prompt_tokens: int
    completion_tokens: int
    source: Literal["upstream", "tokenizer", "estimate"] = "upstream"
    details: Mapping[str, Any] = field(default_factory=dict)
    # What an estimate was made from: the texts of prompt and answer, and the tokens that a chat template adds.
    texts: tuple[str, str] | None = field(default=None, repr=False, compare=False)
    overhead: int = field(default=0, repr=False, compare=False)

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def counts(self) -> Json:
        """The three keys that every dialect has."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
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


BEAT = object()
_WAKE = object()


class Call:
    """One call's life: its deadline, its caller's presence, and the one place where everything it waits for arrives.

    `beat_s` is the silence after which a comment is due (infinite for whole answers);
    `headers` go along to the upstream. Whoever works for the call
    puts `(sender, item)` into `inbox`; `leave()` and `stop()` may come from any thread or the event loop itself.
    `drain_s` is how long the answer of a caller who left is still read, for the books; as a rule it is not.
    """

    def __init__(
        self, seconds: float, beat_s: float = math.inf, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.headers = headers
        self.started_at = time.monotonic()
        self.ends_at = self.started_at + seconds
        # `queue.SimpleQueue` is looked up here, not imported: gevent replaces it when a worker starts.
        self.inbox: queue.SimpleQueue[tuple[object, Any]] = queue.SimpleQueue()
        self.heard_at: float | None = None  # when the first upstream that was asked began to answer
        self.attempts = 0
        self.fallbacks = 0  # models asked in place of the first
        self.malformed = 0  # events of upstreams that were no JSON objects, and were skipped
        self.drain_s = 0.0
        self.left = False
        self.answered = False  # a piece of the answer has gone out
        self._ended: ChatError | None = None
        self.eager = False  # set: `receive` does not wait, and gives BEAT when nothing is there
        self._beat_s = beat_s
        self._beat_at = self.started_at + beat_s

    def leave(self) -> None:
        """The caller has closed the connection: whatever waits for this call ends with ClientLeft."""
        self.left = True
        if self.drain_s:
            self.ends_at = min(self.ends_at, time.monotonic() + self.drain_s)
            self.inbox.put((_WAKE, None))
        else:
            self.stop(ClientLeft("The caller closed the connection."))

    def stop(self, error: ChatError) -> None:
        """Whatever waits for this call ends with `error`."""
        self._ended = error
        self.inbox.put((_WAKE, None))

    def spoke(self) -> None:
        """The caller has been sent something: the next comment is due a whole heartbeat later."""
        self._beat_at = time.monotonic() + self._beat_s

    def receive(self, sender: object, until: float) -> Any:
        """The next item from `sender`; BEAT when a comment is due; None when `until` (monotonic) has passed.

        Raises ClientLeft once the caller is gone, or the error of `stop`.
        """
        while True:
            if self._ended:
                raise self._ended
            until = min(until, self.ends_at)
            if self.eager and self.inbox.empty():
                return BEAT
            limit = min(until, self._beat_at)
            try:
                source, item = self.inbox.get(timeout=max(0.0, limit - time.monotonic()))
            except queue.Empty:
                if limit == until:
                    return None
                self.spoke()
                return BEAT
            if source is sender and not self._ended:
                return item

    def pause(self, seconds: float, comment: str) -> Waiting[None]:
        """Wait, yielding `comment` at each heartbeat. Raises ClientLeft once the caller is gone."""
        until = time.monotonic() + seconds
        while self.receive(None, until) is BEAT:
            yield comment


def finish(waiting: Waiting[T]) -> T:
    """Run to the result, for callers that get no comments."""
    while True:
        try:
            next(waiting)
        except StopIteration as done:
            result: T = done.value
            return result
