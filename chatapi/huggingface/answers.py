"""How answers are read: choices, messages and their text, in whatever form and place. Pure.

An answer's text reaches the caller, once, or the call fails: what cannot be read raises UpstreamUnavailable that
does not blame the upstream, for what a caller asks for may have caused it.
"""

import json
from typing import Any

from ..chat import Choice, Json, Message
from ..languages import _
from .failures import unreadable, unreadable_form
from .finish import FINISH, ended, finish_of
from .tool_calls import whole_calls, whole_function_call
from .values import count

MAX_DEPTH = 12  # of parts within parts
_TEXT: tuple[str, ...] = (
    "text",
    "content",
    "output_text",
    "value",
    "parts",
    "generated_text",
    "response",
    "answer",
    "completion",
)
_TEXT += ("output", "translation_text", "summary_text", "transcript")
_THOUGHT = ("thinking", "reasoning", "reasoning_content", "thought", "summary")
# Places of a choice's text beside its message, in the order in which they count.
_BESIDE = ("text", "output_text", "generated_text", "response", "answer", "completion", "content", "output")
_CHOICE_LISTS = ("choices", "candidates")
_WRAPPERS = ("data", "result", "response", "body", "output")
_OF_A_CHOICE = {"index", "message", "delta", "logprobs", "error", *FINISH, *_BESIDE}
_ALONE = _OF_A_CHOICE - {"index", "logprobs", "error"}
_OF_A_BODY = {"id", "object", "created", "model", "usage", "system_fingerprint", "error", *_CHOICE_LISTS}
# Strings of a message that are not its text; any other one may be, where no text was found.
_ABOUT = {"role", "id", "name", "type", "object", "model", "status", "phase", "channel", "tool_call_id", "provider"}
_ABOUT |= {"refusal", *_THOUGHT}


# --- text


def read_content(content: Any, depth: int = 0) -> tuple[str | None, Json]:
    """The text of a message's content, whatever form it has, and what else stands in it, by the message's own keys.

    None where there is none. Raises ValueError beyond MAX_DEPTH.
    """
    if content is None or isinstance(content, str):
        return content, {}
    if depth > MAX_DEPTH:
        raise ValueError("content within content")
    if isinstance(content, dict):
        text, beside = _read_part(content, depth)
        return (_as_json(content), {}) if text is None and not beside and content else (text, beside)
    if not isinstance(content, list):
        return _as_json(content), {}
    texts: list[str] = []
    more: dict[str, list[Any]] = {}
    for part in content:
        text, beside = _read_part(part, depth) if isinstance(part, dict) else read_content(part, depth + 1)
        texts += [text] if text else []
        if text is None and not beside and part is not None:
            beside = {"content_parts": [part]}  # a picture, a sound: passed on as it is
        for key, value in beside.items():
            more.setdefault(key, []).extend([value] if isinstance(value, str) else value)
    joined = {key: "".join(found) if isinstance(found[0], str) else found for key, found in more.items() if found}
    return "".join(texts), joined


def _read_part(part: Json, depth: int) -> tuple[str | None, Json]:
    """As `read_content`, of one part; no text and nothing else where it says something that is not known here."""
    kind = str(part.get("type", ""))[:40].lower()
    if part.get("role") == "user":
        return "", {}  # a conversation: what was asked is no answer
    if kind in ("tool_use", "tool_call", "function_call") or "functionCall" in part:
        return "", {"tool_calls": [part]}
    if kind == "refusal":
        return "", {"refusal": _first_text(part, ("refusal", *_TEXT), depth)}
    if part.get("thought") is True or any(word in kind for word in ("think", "thought", "reason")):
        return "", {"reasoning_content": _first_text(part, (*_THOUGHT, *_TEXT), depth)}
    key = next((k for k in _TEXT if part.get(k) not in (None, "", [], {})), None)
    if key is not None:
        return read_content(part[key], depth + 1)
    known = any(k in part for k in _TEXT) or not any(value for k, value in part.items() if k not in _ABOUT)
    return ("" if known else None), {}


def _first_text(part: Json, keys: tuple[str, ...], depth: int) -> str:
    texts = (read_content(part[key], depth + 1)[0] for key in keys if part.get(key) not in (None, True))
    return next(filter(None, texts), "")


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def answer_text(body: Any) -> str | None:
    """The text of a text model's answer, in any of the shapes of HF§2.4, or None. Raises ValueError."""
    while isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return None
    for key in ("generated_text", "translation_text", "summary_text"):
        if (given := body.get(key)) is not None:
            return _last_said(given)
    if choices := choices_in(body):
        text: str | None = read_message(choices[0])[0]["content"]
        return text
    return None


def _last_said(given: Any) -> str | None:
    """A conversation given for a text ends with the answer."""
    if isinstance(given, list) and any(isinstance(turn, dict) and "role" in turn for turn in given):
        turns = [turn for turn in given if isinstance(turn, dict) and turn.get("role") not in ("user", "system")]
        given = turns[-1].get("content") if turns else None
    return read_content(given)[0]


# --- choices and messages


def choices_in(body: Any) -> list[Json]:
    """The choices of a whole answer or of an event, whatever they are called; empty where there are none."""
    while isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        return []
    for key in _CHOICE_LISTS:
        given = body.get(key)
        given = list(given.values()) if isinstance(given, dict) else given
        if isinstance(given, list) and given:
            return [c if isinstance(c, dict) else {"message": c} for c in given if c is not None]
    for key in _WRAPPERS:
        if isinstance(inner := body.get(key), dict) and (found := choices_in(inner)):
            return found
    # The body itself may be the choice (Ollama, Anthropic, llama.cpp); a mere string as its message is no answer.
    alone = {k: v for k, v in body.items() if k in _ALONE and not (k == "message" and isinstance(v, str))}
    return [alone] if alone else []


def extra_of(body: Json) -> Json:
    """What an upstream adds at the top level of an answer or an event."""
    if body.keys() <= _OF_A_BODY:
        return {}
    given = body.get("choices")
    known = _OF_A_BODY if isinstance(given, list) else _OF_A_BODY | _OF_A_CHOICE | set(_WRAPPERS)
    return {key: value for key, value in body.items() if key not in known and value is not None}


def extra_of_choice(choice: Json) -> Json:
    """What an upstream adds to a choice. Its text in a second place is no addition."""
    if choice.keys() <= _OF_A_CHOICE:
        return {}
    return {key: value for key, value in choice.items() if key not in _OF_A_CHOICE and value is not None}


def read_message(choice: Json, streamed: bool = False) -> tuple[Message, str]:
    """The message (or delta) of a choice, its `content` a string or None; and the place its text was found in.

    Tool calls are as they came. Raises ValueError for content within content within content.
    """
    places = ("delta", "message") if streamed else ("message", "delta")
    place = next((p for p in places if choice.get(p)), places[0])
    given = choice.get(place)
    if isinstance(given, list):  # a conversation, or parts
        given = {"content": _last_said(given)}
    message = dict(given) if isinstance(given, dict) else {"content": given}
    text, more = read_content(message.get("content"))
    for key, value in more.items():
        message[key] = message[key] if message.get(key) else value
    if not text:
        text, place = _text_beside(message, choice, place) or (text, place)
    message["content"] = text
    if not isinstance(message.get("refusal"), str | None):
        message["refusal"] = read_content(message["refusal"])[0]
    return message, place


def _text_beside(message: Json, choice: Json, place: str) -> tuple[str, str] | None:
    """A text that stands where another server puts it. It is taken from there: it reaches the caller once."""
    if isinstance(audio := message.get("audio"), dict) and isinstance(text := audio.get("transcript"), str) and text:
        return text, f"{place}.audio"
    for key in _TEXT:
        if key != "content" and key in message and (text := read_content(message[key])[0]):
            del message[key]
            return text, f"{place}.{key}"
    for key in _BESIDE:
        if text := read_content(choice.get(key))[0]:
            return text, key
    return None


def read_logprobs(given: Any) -> Json | None:
    """The logprobs of a choice in OpenAI's form: lists of whole tokens, or null; what else is with them stays."""
    if not isinstance(given, dict):
        return None
    return {**given, **{key: _tokens(given.get(key)) for key in ("content", "refusal")}}


def _tokens(given: Any) -> list[Json] | None:
    if not isinstance(given, list):
        return None
    tokens = [token for token in given if _is_token(token)]
    return [{**_token(token), "top_logprobs": [_token(t) for t in _top(token) if _is_token(t)]} for token in tokens]


def _is_token(given: Any) -> bool:
    return (
        isinstance(given, dict) and isinstance(given.get("token"), str) and type(given.get("logprob")) in (int, float)
    )


def _token(token: Json) -> Json:
    read = token.get("bytes")
    whole = isinstance(read, list) and all(type(byte) is int for byte in read)
    return token if whole else {**token, "bytes": None}


def _top(token: Json) -> list[Any]:
    given = token.get("top_logprobs")
    return given if isinstance(given, list) else []


def is_mute(message: Message) -> bool:
    """Whether a message says nothing that is known here, and yet holds a text that may be its answer."""
    if message.get("content") or any(message.get(k) for k in ("tool_calls", "function_call", "refusal", *_THOUGHT)):
        return False
    return any(isinstance(value, str) and value for key, value in message.items() if key not in _ABOUT)


def whole_choice(model: str, choice: Json) -> Choice:
    """A choice of a whole answer. Raises UpstreamUnavailable where it cannot be read, or broke off."""
    if not choice.keys() & _ALONE:
        raise unreadable(model, _("an answer without a message"))
    try:
        message, _place = read_message(choice)
        calls = whole_calls(message["tool_calls"]) if message.get("tool_calls") else []
        called = whole_function_call(message["function_call"]) if message.get("function_call") else None
    except ValueError as error:
        raise unreadable_form(model, error) from None
    if is_mute(message):
        raise unreadable(model, _("an answer in a form that cannot be read"))
    message = {"role": "assistant", "content": None, "refusal": None, **message} | {"role": "assistant"}
    for key, value in (("tool_calls", calls), ("function_call", called)):
        message.pop(key, None)  # some providers send null or [] for "none"
        message |= {key: value} if value else {}
    reason = finish_of(model, choice, whole=True) or "stop"
    if reason in ("tool_calls", "function_call") and not (calls or called or message["content"]):
        raise unreadable(model, _("an answer whose tool calls are missing"))
    return {
        "index": 0,
        "message": message,
        "logprobs": read_logprobs(choice.get("logprobs")),
        "finish_reason": ended(reason, bool(calls), called is not None),
        **extra_of_choice(choice),
    }


def chosen(choices: list[Json], wanted: int) -> list[Json]:
    """At most `wanted` of an upstream's choices, by their numbers where these are good, else as listed."""
    given = [count(choice.get("index")) for choice in choices]
    if None not in given and len(set(given)) == len(given):
        choices = sorted(choices, key=lambda choice: count(choice.get("index")) or 0)
    return choices[:wanted]
