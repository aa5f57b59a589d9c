"""How answers are read: choices, messages and their text, in whatever form and place. Pure.

An answer's text reaches the caller, once, or the call fails: what cannot be read raises UpstreamUnavailable that
does not blame the upstream, for what a caller asks for may have caused it.
"""

import json
from typing import Any

from ..chat import Choice, Json, Message
from ..languages import _
from .failures import unreadable, unreadable_form
from .finish import FINISH, FINISHED, finish_of, finish_reason_with, is_cut
from .logprobs import read_logprobs
from .tool_calls import whole_calls, whole_function_call
from .values import MAX_ITEMS, count, terms, unlisted

MAX_DEPTH = 12  # of parts within parts
_TEXT = terms(
    "text content output_text value parts generated_text response answer completion output translation_text "
    "summary_text transcript"
)
_THOUGHT = ("thinking", "reasoning", "reasoning_content", "thought", "summary")
_CLASSIC = ("generated_text", "translation_text", "summary_text")
# Places of a choice's text beside its message, in the order in which they count.
_BESIDE = ("text", "output_text", "generated_text", "response", "answer", "completion", "content", "output")
_CHOICE_LISTS = ("choices", "candidates", "generations", "completions", "outputs", "results", "predictions")
_WRAPPERS = ("data", "result", "response", "body", "output")
_TURNS = "messages"  # a choice's conversation, that ends with the answer
CALLS = ("tool_calls", "toolCalls", "tool_call", "toolCall", "tool_uses", "tool_use", "function_calls")
_OF_A_CHOICE = {"index", "message", "delta", "logprobs", "error", "refusal", _TURNS}
_OF_A_CHOICE |= {*CALLS, *FINISH, *FINISHED, *_BESIDE}
_ALONE = _OF_A_CHOICE - {"index", "logprobs", "error", _TURNS}
_OURS = {"index", "message", "delta", "logprobs", "error", "finish_reason"}
_OF_A_BODY = {"id", "object", "created", "model", "usage", "system_fingerprint", "error", "choices"}
# Strings of a message that are not its text; any other one may be, where no text was found.
_FINISH_KEYS, _FLAGS = set(FINISH), set(FINISHED)
_ABOUT = {*terms("role id name type object model status phase channel tool_call_id provider refusal"), *_THOUGHT}
# Nor are those of a choice's or a part's, of whatever depth: what a filter found, a token, an address, a signature.
_NO_WORDS = {
    *_ABOUT,
    *terms(
        "content_filter_results stop_reason matched_stop native_finish_reason provider_specific_fields url uri data "
        "mime_type mimeType media_type format signature thoughtSignature event event_type created_at request_id "
        "service_tier finish_details annotations citations token_ids encrypted_content file_id "
    ),
}


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
    if isinstance(more := part.get("partial_json"), str):
        return "", {"tool_calls": [{"arguments": more}]}
    if kind == "refusal":
        return "", {"refusal": _first_text(part, ("refusal", *_TEXT), depth)}
    if part.get("thought") is True or any(word in kind for word in ("think", "thought", "reason")):
        return "", {"reasoning_content": _first_text(part, (*_THOUGHT, *_TEXT), depth)}
    key = next((k for k in _TEXT if part.get(k) not in (None, "", [], {})), None)
    if key is not None:
        return read_content(part[key], depth + 1)
    known = any(k in part for k in _TEXT) or not any(value for k, value in part.items() if k not in _ABOUT)
    words = [v for k, v in part.items() if k not in _NO_WORDS and isinstance(v, str) and v]
    if len(words) == 1 and not any(medium in kind for medium in ("image", "audio", "video", "file")):
        return words[0], {}  # whatever its name is
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
    said = [_last_said(body[key]) for key in _CLASSIC if body.get(key) is not None]
    if said:
        return next(filter(None, said), said[0])
    if choices := choices_in(body):
        text: str | None = read_message(choices[0])[0]["content"]
        return text
    return None


def _last_said(given: Any) -> str | None:
    """A conversation given for a text ends with the answer."""
    if _is_conversation(given):
        turns = [turn for turn in given if isinstance(turn, dict) and turn.get("role") not in ("user", "system")]
        given = turns[-1].get("content") if turns else None
    return read_content(given)[0]


def _is_conversation(given: Any) -> bool:
    return isinstance(given, list) and any(isinstance(turn, dict) and "role" in turn for turn in given)


# --- choices and messages


def choices_in(body: Any) -> list[Json]:
    """The choices of a whole answer or of an event, whatever they are called; empty where there are none."""
    body = unlisted(body)
    if not isinstance(body, dict):
        return []
    for key in _CHOICE_LISTS:
        given = body.get(key)
        if isinstance(given, dict):  # the only one, or choices by their number
            given = [given] if given.keys() & _OF_A_CHOICE else list(given.values())
        if isinstance(given, list) and given:
            return _ending([c if isinstance(c, dict) else {"message": c} for c in given if c is not None], body)
    for key in _WRAPPERS:
        if isinstance(inner := body.get(key), dict) and (found := choices_in(inner)):
            return _ending(found, body)
    # The body itself may be the choice (Ollama, Anthropic, llama.cpp); a mere string as its message is no answer.
    alone = {k: v for k, v in body.items() if k in _ALONE and not (k == "message" and isinstance(v, str))}
    return [alone] if alone.keys() - _FLAGS else []


def _ending(choices: list[Json], around: Json) -> list[Json]:
    """The only choice, with how it ended where that stands `around` it."""
    if len(choices) == 1 and around.keys() & _FINISH_KEYS and not choices[0].keys() & _FINISH_KEYS:
        return [{**choices[0], **{key: around[key] for key in FINISH if around.get(key)}}]
    return choices


def extra_of(body: Json) -> Json:
    """What an upstream adds at the top level of an answer or an event."""
    if body.keys() <= _OF_A_BODY:
        return {}
    given = body.get("choices")
    known = _OF_A_BODY if isinstance(given, list) else {*_OF_A_BODY, *_OF_A_CHOICE, *_CHOICE_LISTS, *_WRAPPERS}
    return {key: value for key, value in body.items() if key not in known and value is not None}


def extra_of_choice(choice: Json, text: Any = None) -> Json:
    """What an upstream adds to a choice. Its `text` in a second place is no addition."""
    if choice.keys() <= _OURS:
        return {}
    added = {key: value for key, value in choice.items() if key not in _OURS and value is not None}
    if not choice.get("finish_reason"):
        added = {key: value for key, value in added.items() if key not in FINISH}
    if not choice.keys() & {"delta", "message"}:  # it is the message itself
        return {key: value for key, value in added.items() if key not in _OF_A_CHOICE}
    read = (_TURNS, "refusal", *CALLS)
    return {k: v for k, v in added.items() if k not in read and not (k in _BESIDE and (not v or v == text))}


def read_message(choice: Json, streamed: bool = False) -> tuple[Message, str]:
    """The message (or delta) of a choice, its `content` a string or None; and the place its text was found in.

    Tool calls are as they came. Raises ValueError for content within content within content.
    """
    places = ("delta", "message") if streamed else ("message", "delta")
    place = next((p for p in (*places, _TURNS) if choice.get(p)), places[0])
    given = choice.get(place)
    if given is None and not isinstance(choice.get("content"), str | None):
        place, given = "content", {"content": choice["content"]}
    if isinstance(given, list):  # a conversation, or parts
        given = {"content": _last_said(given) if _is_conversation(given) else given}
    message = dict(given) if isinstance(given, dict) else {"content": given}
    if isinstance(inner := message.get("message"), dict) and not message.get("content"):
        message = {**message, **inner}
        del message["message"]
    _gather(message, choice)
    text, more = read_content(message.get("content"))
    for key, value in more.items():
        message[key] = message[key] if message.get(key) else value
    if not text:
        text, place = _text_beside(message, choice, place) or (text, place)
    message["content"] = text
    if not isinstance(refusal := message.get("refusal"), str | None):
        message["refusal"] = None if isinstance(refusal, bool) else read_content(refusal)[0]
    return message, place


def _gather(message: Json, choice: Json) -> None:
    """Calls and refusal under their own names in the message, whatever they were called and beside it."""
    for name in CALLS:
        if name != "tool_calls" and name in message:
            calls = message.pop(name)
            message["tool_calls"] = message.get("tool_calls") or calls
        if choice.get(name) and not message.get("tool_calls"):
            message["tool_calls"] = choice[name]
    if choice.get("refusal") and not message.get("refusal"):
        message["refusal"] = choice["refusal"]


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


def is_unread(message: Message, beside: Json, said_empty: bool) -> bool:
    """Whether a message says nothing that is known here, and yet holds a text that may be its answer.

    It may be of any depth, or in what stands `beside` it, unless the content was `said_empty` by an empty string.
    """
    if message.get("content") or any(message.get(k) for k in ("tool_calls", "function_call", "refusal", *_THOUGHT)):
        return False
    if any(isinstance(value, str) and value for key, value in message.items() if key not in _ABOUT):
        return True
    return not said_empty and (has_words(message) or has_words(beside))


def has_words(value: Any, depth: int = 0) -> bool:
    """Whether some text stands in a value, of whatever depth, under a name that may be a text's."""
    if isinstance(value, str):
        return bool(value)
    if depth > MAX_DEPTH:
        return False
    if isinstance(value, dict):
        return any(has_words(inner, depth + 1) for key, inner in value.items() if key not in _NO_WORDS)
    return isinstance(value, list) and any(has_words(inner, depth + 1) for inner in value[:MAX_ITEMS])


def said_empty(choice: Json) -> bool:
    """Whether a choice gives the empty string for its text."""
    return any(isinstance(m := choice.get(place), dict) and m.get("content") == "" for place in ("message", "delta"))


def whole_choice(model: str, choice: Json) -> Choice:
    """A choice of a whole answer. Raises UpstreamUnavailable where it cannot be read, or broke off."""
    if not choice.keys() & _ALONE:
        raise unreadable(model, _("an answer without a message"))
    try:
        message, _place = read_message(choice)
        reason = finish_of(model, choice, whole=True) or "stop"
        calls = whole_calls(message["tool_calls"], is_cut(reason)) if message.get("tool_calls") else []
        called = whole_function_call(message["function_call"], is_cut(reason)) if message.get("function_call") else None
    except ValueError as error:
        raise unreadable_form(model, error) from None
    beside = extra_of_choice(choice, message["content"])
    if is_unread(message, beside, said_empty(choice)):
        raise unreadable(model, _("an answer in a form that cannot be read"))
    message = {"role": "assistant", "content": None, "refusal": None, **message} | {"role": "assistant"}
    for key, value in (("tool_calls", calls), ("function_call", called)):
        message.pop(key, None)  # some providers send null or [] for "none"
        message |= {key: value} if value else {}
    if reason in ("tool_calls", "function_call") and not (calls or called or message["content"]):
        raise unreadable(model, _("an answer whose tool calls are missing"))
    return {
        "index": 0,
        "message": message,
        "logprobs": read_logprobs(choice.get("logprobs")),
        "finish_reason": finish_reason_with(reason, bool(calls), called is not None),
        **beside,
    }


def chosen(choices: list[Json], wanted: int) -> list[Json]:
    """At most `wanted` of an upstream's choices, by their numbers where these are good, else as listed."""
    given = [count(choice.get("index")) for choice in choices]
    if None not in given and len(set(given)) == len(given):
        choices = sorted(choices, key=lambda choice: count(choice.get("index")) or 0)
    return choices[:wanted]
