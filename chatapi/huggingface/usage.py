"""Tokens as an upstream counts them, under whichever name and in whichever place; an estimate where that cannot be.

Pure.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..chat import ChatJob, Json, Usage, estimated
from .values import MAX_NESTING, count, terms, unlisted

# Names without case, underscores and hyphens: OpenAI's, Anthropic's, Gemini's, Ollama's, llama.cpp's, TGI's.
_PROMPT = terms(
    "prompttokens inputtokens prompttokencount inputtokencount promptevalcount tokensevaluated inputlength "
    "ntokensprompt promptn"
)
_COMPLETION = terms(
    "completiontokens outputtokens completiontokencount outputtokencount candidatestokencount generatedtokens "
    "evalcount tokenspredicted ntokenscompletion tokensgenerated predictedn"
)
_TOTAL = ("totaltokens", "totaltokencount")
_SHORT = {"prompt": "prompt", "input": "prompt", "completion": "completion", "output": "completion", "total": "total"}
_LONG = dict.fromkeys(_PROMPT, "prompt") | dict.fromkeys(_COMPLETION, "completion") | dict.fromkeys(_TOTAL, "total")
_IN_USAGE = _LONG | _SHORT
_PLACES = terms("usage usageMetadata usage_metadata token_usage tokenUsage x_groq meta metrics timings")
# What nearly every event has, and nothing else: none of it counts tokens.
_SILENT = set(terms("id object created model system_fingerprint index delta logprobs finish_reason choices"))
_WITHIN = ("usage", "tokens", "billed_units")
_AROUND = ("message", "data", "result", "response", "body", "output")
UNSAID = -1  # of a count that tells only the other half
MAX_KEYS = 64


def usage_in(body: Json, known: Usage | None = None) -> Usage | None:
    """The upstream's own count in a body or an event, with its further keys but for nulls; else what was `known`.

    Where only half of it is told the other is what was known, or UNSAID.
    """
    found = _found_in(body, 0)
    if found is None or known is None or UNSAID not in (found.prompt_tokens, found.completion_tokens):
        return found or known
    prompt = known.prompt_tokens if found.prompt_tokens == UNSAID else found.prompt_tokens
    completion = known.completion_tokens if found.completion_tokens == UNSAID else found.completion_tokens
    return Usage(prompt, completion, details={**known.details, **found.details})


def _found_in(body: Json, depth: int) -> Usage | None:
    silent = body.keys() <= _SILENT
    for place in () if silent else _PLACES:
        given = unlisted(body.get(place))
        if isinstance(given, dict) and (found := _usage_of(given)):
            return found
    choices = body.get("choices")
    holders = choices[:1] if isinstance(choices, list) else []
    if not silent:
        holders += [body.get(place) for place in _AROUND]
    for holder in holders if depth < MAX_NESTING else ():
        if isinstance(holder, dict) and (found := _found_in(holder, depth + 1)):
            return found
    counts = None if silent else _counts(body, _LONG)
    return Usage(*counts) if counts else None


def _usage_of(given: Json) -> Usage | None:
    names = _IN_USAGE
    if not (counts := _counts(given, names)):
        inner = next((v for k in _WITHIN if isinstance(v := given.get(k), dict)), None)
        return _usage_of(inner) if inner else None
    others = {k: v for k, v in given.items() if v is not None and _plain(k) not in names}
    return Usage(*counts, details={k: v for k, given in others.items() if (v := _detail(k, given)) is not None})


def _detail(key: str, given: Any) -> Any:
    """A further key of usage; of those that have counts in them what is one, for SDKs read these as such."""
    if not key.endswith("_details"):
        return given
    inner = list(given.items())[:MAX_KEYS] if isinstance(given, dict) else []
    return {name: number for name, value in inner if (number := count(value)) is not None} or None


def _counts(given: Mapping[str, Any], names: Mapping[str, str]) -> tuple[int, int] | None:
    found: dict[str, int] = {}
    for key, value in list(given.items())[:MAX_KEYS]:
        if (kind := names.get(_plain(key))) and (number := count(value)) is not None:
            found.setdefault(kind, number)
    prompt, completion, total = (found.get(kind) for kind in ("prompt", "completion", "total"))
    if prompt is not None and completion is None and total is not None:
        completion = total - prompt
    if completion is not None and prompt is None and total is not None:
        prompt = total - completion
    if (prompt is None and completion is None) or (prompt or 0) < 0 or (completion or 0) < 0:
        return None
    return UNSAID if prompt is None else prompt, UNSAID if completion is None else completion


_plain_names: dict[str, str] = {}


def _plain(key: str) -> str:
    if (plain := _plain_names.get(key)) is None:
        plain = re.sub(r"[_\-. ]", "", key[:40]).lower()
        if len(_plain_names) < 500:  # an upstream that invents keys must not fill our memory
            _plain_names[key[:40]] = plain
    return plain


# --- what can be true

MOST_CHARACTERS_A_TOKEN = 100  # runs of blanks and signs; words have four
MOST_TOKENS_A_CHARACTER = 4  # a token is at least a byte, and UTF-8 has at most four for a character
HIDDEN_PROMPT = 131_072  # tokens that pictures, tools and a server's own system prompt may add
HIDDEN_ANSWER = 1024  # tokens of an answer that were not delivered, where nothing limited them to fewer


def believed(given: Usage | None, job: ChatJob, length: int, said: Callable[[], str]) -> Usage:
    """`given` where it can be true of `job` and of the `length` that was said, else an estimate of what cannot."""
    if given is None:
        return estimated(job.messages, said())
    prompt_fits = 0 < given.prompt_tokens <= HIDDEN_PROMPT or 0 < given.prompt_tokens <= _most_prompt(job)
    few, many = length / MOST_CHARACTERS_A_TOKEN, MOST_TOKENS_A_CHARACTER * length + HIDDEN_ANSWER
    completion_fits = few <= given.completion_tokens and (
        given.completion_tokens <= many or given.completion_tokens <= _most_completion(job)
    )
    if prompt_fits and completion_fits:
        return given
    guess = estimated(job.messages, said())
    if not (prompt_fits or completion_fits):
        return guess
    prompt = given.prompt_tokens if prompt_fits else guess.prompt_tokens
    return Usage(prompt, given.completion_tokens if completion_fits else guess.completion_tokens, "estimate")


def _most_prompt(job: ChatJob) -> int:
    characters = sum(map(_size, job.messages)) + _size(job.options.get("tools"))
    return HIDDEN_PROMPT + MOST_TOKENS_A_CHARACTER * characters


def _most_completion(job: ChatJob) -> int:
    # Reasoning that is not shown counts: without a limit it may be long, but no window is longer than this.
    limit = job.max_tokens
    return 2 * limit * (count(job.options.get("n")) or 1) if limit else 2**24


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _size(inner) for key, inner in value.items())
    return sum(map(_size, value)) if isinstance(value, list) else 8


_SAID = {"content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call"}


def said_in(message: Json) -> str:
    """All that a message delivers, of whatever kind, as one text to be counted."""
    said = [value for kind, value in message.items() if value and kind in _SAID]
    return "".join(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in said)
