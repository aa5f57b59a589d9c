"""How an answer ended: every server's own word for it → OpenAI's, by what it means. Pure."""

import re
from typing import Any

from ..chat import Json
from ..languages import _
from .failures import said_badly

FINISH: tuple[str, ...] = ("finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason", "doneReason")
FINISH += ("stop_type", "incomplete_details")
FINISHED = ("done", "is_finished", "finished", "stop")  # true says no more than that it has ended
# By meaning: the first group that has a word of a finish reason decides. Words are those of OpenAI, TGI, vLLM, SGLang,
# llama.cpp, Ollama, LM Studio, Anthropic, Gemini, Cohere, Mistral, Bedrock, DeepSeek, Zhipu, MiniMax.
_UNSAID = {"null", "none", "unspecified"}
_NOT_YET = {"progress", "continue", "running", "generating", "unfinished", "not"}
_FILTERED = {"filter", "filtered", "filters", "safety", "recitation", "blocklist", "blocked", "prohibited", "spii"}
_FILTERED |= {"moderation", "moderated", "policy", "toxic", "sensitive", "refusal", "guardrail", "contentfilter"}
_BROKEN = {"abort", "aborted", "error", "errors", "cancel", "canceled", "cancelled", "fail", "failed", "failure"}
_BROKEN |= {"timeout", "timed", "time", "rate", "quota", "usage", "network", "interrupted", "disconnected", "killed"}
_BROKEN |= {"insufficient", "incomplete", "unknown", "other", "malformed", "invalid", "exception", "unavailable"}
_BROKEN |= {"overloaded", "evicted", "lost", "shutdown", "preempted", "unexpected", "user"}
_TOOLS = {"tool", "tools", "toolcall", "toolcalls", "tooluse", "function", "functions", "functioncall"}
# These mean something only where nothing else is said: an "emergency_stop" is no end that we know.
_LENGTH = {"length", "max", "limit", "truncated", "truncation", "window", "maxtokens", "maxlength", "budget", "out"}
_ENDED = {"stop", "stops", "eos", "eot", "end", "ended", "endturn", "endoftext", "complete", "completed", "completion"}
_ENDED |= {
    "done",
    "finish",
    "finished",
    "success",
    "normal",
    "normally",
    "natural",
    "stopsequence",
    "stopped",
    "word",
    "s",
}
_FILLERS = {"token", "tokens", "sequence", "sequences", "string", "str", "word", "words", "text", "of", "turn", "id"}
_FILLERS |= {"found", "reached", "hit", "exceeded", "message", "output", "new", "context", "model", "predicted", "im"}
_FILLERS |= {"total", "content", "size", "out", "generation", "response", "the", "at", "by", "completion", "maximum"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_OPENAI = ("stop", "length", "content_filter", "tool_calls", "function_call")


def finish_of(model: str, choice: Json, whole: bool = False) -> str | None:
    """OpenAI's word for how a choice ended; None where it does not say. Raises UpstreamUnavailable if it broke off."""
    for place in (choice, choice.get("delta"), choice.get("message")):
        if isinstance(place, dict) and (given := next((place[k] for k in FINISH if place.get(k)), None)):
            return finish_reason(model, given, whole)
    return "stop" if any(choice.get(key) is True for key in FINISHED) else None


def finish_reason(model: str, given: Any, whole: bool = False) -> str | None:
    """OpenAI's word for an upstream's own; None where it says nothing (yet).

    Raises UpstreamUnavailable for one that says that the answer broke off, or is unknown, or says of a `whole` answer
    that it has not ended.
    """
    if not given:
        return None
    if given in _OPENAI:
        return str(given)
    if isinstance(given, list) and len(given) == 1:
        [given] = given
    if isinstance(given, dict):  # SGLang's own: {"type": "length", "length": 16}
        given = next((v for key in ("type", "reason", "name", "value") if isinstance(v := given.get(key), str)), given)
    if isinstance(given, str):
        words = [word.lower() for word in _WORD.findall(given[:100])]
        if words[:2] in (["finish", "reason"], ["stop", "reason"]):
            words = words[2:]
        if not given.strip() or set(words) & (_UNSAID if whole else _UNSAID | _NOT_YET):
            return None
        if (meaning := _meaning(set(words))) is not None:
            return "function_call" if given.lower() == "function_call" else meaning
    shown = " ".join(str(given)[:100].split())
    raise said_badly(
        _(
            "The upstream of '{model}' broke its answer off (finish reason: {reason}). Try again in a moment.",
            model=model,
            reason=shown,
        )
    )


def _meaning(words: set[str]) -> str | None:
    if words & _FILTERED:
        return "content_filter"
    if words & _BROKEN:
        return None
    if words & _TOOLS:
        return "tool_calls"
    if words & _LENGTH and words <= _LENGTH | _FILLERS:
        return "length"
    return "stop" if words & _ENDED and words <= _ENDED | _FILLERS else None


def ended(reason: str, calls: bool, called: bool) -> str:
    """The finish reason of an answer that calls tools is that it does, unless it was cut."""
    if is_cut(reason):
        return reason
    return "tool_calls" if calls else "function_call" if called else reason


def is_cut(reason: str | None) -> bool:
    """Whether a finish reason says that the answer, and a call in it, may be incomplete."""
    return reason in ("length", "content_filter")
