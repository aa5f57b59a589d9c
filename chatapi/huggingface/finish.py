"""How an answer ended: every server's own word for it → OpenAI's, by what it means. Pure."""

import re
from typing import Any

from ..chat import Json
from ..languages import _
from .failures import said_badly
from .values import terms, unlisted

FINISH = terms("finish_reason finishReason stop_reason stopReason done_reason doneReason stop_type incomplete_details")
FINISHED = ("done", "is_finished", "finished", "stop")  # true says no more than that it has ended
# By meaning: the first group that has a word of a finish reason decides. Words are those of OpenAI, TGI, vLLM, SGLang,
# llama.cpp, Ollama, LM Studio, Anthropic, Gemini, Cohere, Mistral, Bedrock, DeepSeek, Zhipu, MiniMax.
_UNSAID = terms("null none unspecified")
_NOT_YET = terms("progress continue running generating unfinished not")
_FILTERED = terms(
    "filter filtered filters safety recitation blocklist blocked prohibited spii moderation moderated policy toxic "
    "sensitive refusal guardrail contentfilter"
)
_BROKEN = terms(
    "abort aborted error errors cancel canceled cancelled fail failed failure timeout timed time rate quota usage "
    "network interrupted disconnected killed insufficient incomplete unknown other malformed invalid exception "
    "unavailable overloaded evicted lost shutdown preempted unexpected user"
)
_TOOLS = terms("tool tools toolcall toolcalls tooluse function functions functioncall")
# These mean something only where nothing else is said: an "emergency_stop" is no end that we know.
_LENGTH = terms("length max limit truncated truncation window maxtokens maxlength budget out")
_ENDED = terms(
    "stop stops eos eot end ended endturn endoftext complete completed completion done finish finished success normal "
    "normally natural stopsequence stopped word s"
)
_FILLERS = terms(
    "token tokens sequence sequences string str word words text of turn id found reached hit exceeded message output "
    "new context model predicted im total content size out generation response the at by completion maximum"
)
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
    given = unlisted(given)
    if isinstance(given, dict):  # SGLang's own: {"type": "length", "length": 16}
        given = next((v for key in ("type", "reason", "name", "value") if isinstance(v := given.get(key), str)), given)
    if isinstance(given, str):
        words = [word.lower() for word in _WORD.findall(given[:100])]
        if words[:2] in (["finish", "reason"], ["stop", "reason"]):
            words = words[2:]
        if not given.strip() or set(words).intersection(_UNSAID if whole else _UNSAID + _NOT_YET):
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
    if words.intersection(_FILTERED):
        return "content_filter"
    if words.intersection(_BROKEN):
        return None
    if words.intersection(_TOOLS):
        return "tool_calls"
    if words.intersection(_LENGTH) and words.issubset(_LENGTH + _FILLERS):
        return "length"
    return "stop" if words.intersection(_ENDED) and words.issubset(_ENDED + _FILLERS) else None


def finish_reason_with(reason: str, calls: bool, called: bool) -> str:
    """The finish reason of an answer that calls tools is that it does, unless it was cut."""
    if is_cut(reason):
        return reason
    return "tool_calls" if calls else "function_call" if called else reason


def is_cut(reason: str | None) -> bool:
    """Whether a finish reason says that the answer, and a call in it, may be incomplete."""
    return reason in ("length", "content_filter")
