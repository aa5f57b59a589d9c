"""The most tokens that a request can cause, whatever it calls them; and a request without what could cause more."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..caller import Limits
from ..chat import ChatJob, Message, estimate_tokens, text_of

UNSAID = 1024  # tokens held back for an answer whose caller named no limit
MOST = 10**9  # tokens: more no request can cause, and no upstream can mean
MOST_UNSAID = 1_000_000  # tokens of one answer without a limit: the largest contexts there are
TURN = 4  # tokens that a chat template adds to a message
TEMPLATE = 4096  # tokens that a server may put around a conversation
IMAGE = 100_000  # tokens of a picture
BYTES = 4  # of a character in UTF-8; a token has at least one

# Engines have many words for the length of an answer and for how many of them there are; what we do not know goes to
# the engine as it is. A field is taken for one of these by what its name has in it, and a number as its value.
_AMOUNTS: tuple[str, ...] = ("token", "length", "predict", "budget", "genlen", "seqlen", "maxlen", "minlen")
_AMOUNTS += ("bestof", "beam", "sequence", "candidate", "completions", "generations", "samples", "choices", "outputs")
_OTHERS = ("penalty", "prediction", "prompt", "logprob")  # in a name that has one of the above, and is none
_ENDLESS = "ignoreeos"
# What describes the answer's form, in whose names nothing is an amount.
_FORMS = ("json", "schema", "grammar", "regex", "guided", "structured", "metadata", "prediction")
_DEPTH = 8  # within a field; what lies deeper no engine reads


class Most(NamedTuple):
    """The most tokens that a call can use."""

    held: int  # of prompt, as estimated, and answers: what is held back
    completion: int  # what no true count of its answers exceeds


def most(job: ChatJob, limits: Limits) -> Most:
    """What `job` can cause, under whatever names. Where it names no length, no more is held than `limits` allow at all;
    without limits of tokens nothing is.
    """
    lengths = [_amount(job.options[name]) for name in _LENGTHS if job.options.get(name) is not None]
    answers = max(1, _amount(job.options.get("n") or 1))
    completion = min(max(lengths, default=MOST_UNSAID) * answers, MOST)
    if not limits.of_tokens:
        return Most(0, completion)
    prompt = _estimated_prompt(job)
    if lengths:
        return Most(min(prompt + completion, MOST), completion)
    allowed = min(limit for _name, limit in limits.of_tokens)
    return Most(min(max(prompt + 1, min(prompt + UNSAID * answers, allowed)), MOST), completion)


def most_of_prompt(job: ChatJob) -> int:
    """What no true count of the tokens of `job`'s prompt exceeds."""
    characters = sum(map(_characters, job.messages))
    characters += sum(len(str(job.options[name])) for name in _TOOLS & job.options.keys())
    return min(BYTES * characters + TEMPLATE, MOST)


def bounded(job: ChatJob, limits: Limits) -> ChatJob:
    """`job` without the fields that could cause more tokens than are held back for it; they are named in `ignored`.

    Callers without limits of tokens lose nothing.
    """
    if not (job.extra and limits.of_tokens):
        return job
    dropped = {name: None for name, value in job.extra.items() if _is_amount(name, value)}  # a body may have thousands
    if not dropped:
        return job
    extra = {name: value for name, value in job.extra.items() if name not in dropped}
    return replace(job, extra=extra, ignored=(*job.ignored, *dropped))


_LENGTHS = ("max_tokens", "max_completion_tokens")
_TOOLS = frozenset(("tools", "functions", "response_format"))


def _amount(value: Any) -> int:
    return min(max(value, 0), MOST) if isinstance(value, int) else 0


def _characters(message: Message) -> int:
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return len(content)
    parts = content if isinstance(content, list) else ()
    images = sum(1 for part in parts if isinstance(part, dict) and part.get("type") != "text")
    said = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    beside = [value for name, value in message.items() if name not in ("role", "content")]
    whole = content if isinstance(content, str) else ""
    return len(whole) + sum(map(len, said)) + sum(len(str(value)) for value in beside) + images * IMAGE // BYTES


def _estimated_prompt(job: ChatJob) -> int:
    tokens = 0
    for message in job.messages:
        tokens += TURN + estimate_tokens(text_of(message))
        if calls := message.get("tool_calls"):
            tokens += estimate_tokens(str(calls))
    for name in _TOOLS & job.options.keys():
        tokens += estimate_tokens(str(job.options[name]))
    return tokens


def _is_amount(name: str, value: Any, depth: int = 0) -> bool:
    """Whether a field that we do not know says how much is to be answered, itself or by something within it."""
    squashed = re.sub(r"[^a-z]", "", name.lower()) if len(name) <= 64 else ""
    if isinstance(value, Mapping):
        inner = [] if any(word in squashed for word in _FORMS) or depth >= _DEPTH else list(value.items())
        return any(_is_amount(str(key), item, depth + 1) for key, item in inner)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return depth < _DEPTH and any(_is_amount("", item, depth + 1) for item in value if isinstance(item, Mapping))
    if squashed == _ENDLESS:
        return True
    if isinstance(value, bool) or not _is_number(value) or any(word in squashed for word in _OTHERS):
        return False
    return any(word in squashed for word in _AMOUNTS)


def _is_number(value: Any) -> bool:
    # Some engines read "5000" as 5000.
    return isinstance(value, int | float) or (isinstance(value, str) and value.strip()[:1].isdigit())
