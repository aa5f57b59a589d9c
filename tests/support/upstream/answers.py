"""What a healthy model says, whole and as a stream, in each of Hugging Face's three skins."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from threading import Semaphore
from typing import Any

from support.upstream.exchange import Exchange

PIECES = ("Hel", "lo", " from", " up", "stream", ".")
TEXT = "".join(PIECES)
TOKEN = re.compile(r"\s?\w+|\s?[^\w\s]|\s+")


def count_tokens(text: str) -> int:
    """This server's own idea of a token: a word or a sign, with the space before it."""
    return len(TOKEN.findall(text))


def spoken(content: Any) -> str:
    """The text of a message's content: a string, an array of parts, or null."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return content or ""


def prompt_text(x: Exchange) -> str:
    if x.skin == "chat":
        return "\n".join(spoken(message.get("content")) for message in x.body.get("messages", []))
    return str(x.body.get("inputs") or "")


def last_user_text(x: Exchange) -> str:
    if x.skin != "chat":
        return prompt_text(x)
    said = [spoken(m.get("content")) for m in x.body.get("messages", []) if m.get("role") == "user"]
    return said[-1] if said else ""


def usage(x: Exchange, completion_tokens: int) -> dict[str, int]:
    prompt = count_tokens(prompt_text(x))
    total = prompt + completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion_tokens, "total_tokens": total}


def limit_of(x: Exchange) -> int | None:
    names = ("max_completion_tokens", "max_tokens") if x.skin == "chat" else ("max_new_tokens",)
    return next((x.parameters[name] for name in names if x.parameters.get(name)), None)


def limited(x: Exchange, pieces: Sequence[str], finish: str) -> tuple[Sequence[str], str]:
    """Cut the answer at the caller's token limit, as a model does."""
    limit = limit_of(x)
    return (pieces[:limit], "length") if limit and limit < len(pieces) else (pieces, finish)


def logprobs(x: Exchange, texts: Iterable[str]) -> dict[str, Any] | None:
    if not x.body.get("logprobs"):
        return None
    rows = [{"token": t, "logprob": -0.41, "bytes": list(t.encode()), "top_logprobs": []} for t in texts]
    return {"content": rows}


def chat_object(x: Exchange, kind: str, choices: list[Any], **extra: Any) -> dict[str, Any]:
    """TGI leaves `id` empty; a provider puts its own model name where the caller's was (HF 1.10)."""
    own_name = f"provider/{x.model.rpartition('/')[2]}"
    head = {"id": "" if x.own else "chatcmpl-9f1", "object": kind, "created": 1770000123, "model": own_name}
    return {**head, "choices": choices, **extra}


def chunk(x: Exchange, delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    texts = [delta["content"]] if delta.get("content") else []
    choice = {"index": index, "delta": delta, "logprobs": logprobs(x, texts), "finish_reason": finish}
    return chat_object(x, "chat.completion.chunk", [choice])


def usage_chunk(x: Exchange, tokens: int) -> dict[str, Any]:
    return chat_object(x, "chat.completion.chunk", [], usage=usage(x, tokens))


@dataclasses.dataclass
class Script:
    """A stream in four parts, for behaviours to cut and change."""

    tokens: list[Any]
    closing: list[Any]
    usage: list[Any] = dataclasses.field(default_factory=list)
    done: list[Any] = dataclasses.field(default_factory=list)

    def whole(self) -> list[Any]:
        return self.tokens + self.closing + self.usage + self.done


def script(x: Exchange, pieces: Sequence[str] = PIECES, finish: str = "stop") -> Script:
    pieces, finish = limited(x, pieces, finish)
    return (chat_script if x.skin == "chat" else generate_script)(x, pieces, finish)


def chat_script(x: Exchange, pieces: Sequence[str], finish: str) -> Script:
    choices = range(x.body.get("n") or 1)
    tokens = [chunk(x, {"content": piece}, index=i) for piece in pieces for i in choices]
    for first in tokens[: len(choices)]:
        delta = first["choices"][0]["delta"]
        first["choices"][0]["delta"] = {"role": "assistant", **delta}
    closing = [chunk(x, {}, finish, i) for i in choices]
    wanted = (x.body.get("stream_options") or {}).get("include_usage")
    return Script(tokens, closing, [usage_chunk(x, len(tokens))] if wanted else [], ["[DONE]"])


def generate_script(x: Exchange, pieces: Sequence[str], finish: str) -> Script:
    """TGI's frames (HF 4.2): no [DONE]; the last is a special token and carries the whole text."""
    tokens = [token_frame(i, piece) for i, piece in enumerate(pieces, start=1)]
    reason = TGI_FINISH.get(finish, finish)
    last = token_frame(len(tokens) + 1, "</s>", special=True) if reason == "eos_token" else tokens.pop()
    last["generated_text"] = "".join(pieces)
    if x.parameters.get("details"):
        counts = {"generated_tokens": len(pieces), "input_length": count_tokens(prompt_text(x))}
        last["details"] = {"finish_reason": reason, "seed": None, **counts}
    return Script(tokens, [last])


def token_frame(index: int, text: str, special: bool = False) -> dict[str, Any]:
    token = {"id": 300 + index, "text": text, "logprob": -0.41, "special": special}
    return {"index": index, "token": token, "generated_text": None, "details": None}


TGI_FINISH = {"stop": "eos_token"}


def chat_whole(x: Exchange, pieces: Sequence[str], finish: str, **message: Any) -> dict[str, Any]:
    told = {"role": "assistant", "content": "".join(pieces), **message}
    choices = [
        {"index": i, "message": told, "logprobs": logprobs(x, pieces), "finish_reason": finish}
        for i in range(x.body.get("n") or 1)
    ]
    return chat_object(x, "chat.completion", choices, usage=usage(x, len(pieces) * len(choices)))


def generate_whole(x: Exchange, pieces: Sequence[str], finish: str) -> Any:
    text = (prompt_text(x) if x.parameters.get("return_full_text") else "") + "".join(pieces)
    answer: dict[str, Any] = {"generated_text": text}
    if x.parameters.get("details"):
        reason = TGI_FINISH.get(finish, finish)
        answer["details"] = {"finish_reason": reason, "generated_tokens": len(pieces), "seed": None}
    return [answer] if x.path == "/" else answer


def answer_headers(x: Exchange, tokens: int) -> dict[str, str]:
    if x.skin == "chat" and not x.own:
        return {"x-inference-provider": "together", "x-request-id": "Root=1-66;1", "x-powered-by": "huggingface-moon"}
    prompt = prompt_text(x)
    headers = {"x-compute-type": "cpu", "x-compute-time": "0.120", "x-compute-characters": str(len(prompt))}
    if x.own:
        headers |= {"x-prompt-tokens": str(count_tokens(prompt)), "x-generated-tokens": str(tokens)}
    return headers


def whole(x: Exchange, pieces: Sequence[str] = PIECES, finish: str = "stop") -> None:
    """One answer in the skin's shape."""
    pieces, finish = limited(x, pieces, finish)
    shapes: dict[str, Callable[[], Any]] = {
        "chat": lambda: chat_whole(x, pieces, finish),
        "generate": lambda: generate_whole(x, pieces, finish),
        "classic": lambda: [{"generated_text": "".join(pieces)}],
    }
    x.send_json(200, shapes[x.skin](), answer_headers(x, len(pieces)))


def play(x: Exchange, events: Iterable[Any], pause: float = 0) -> None:
    """A stream of events from its head to its clean end."""
    x.start_stream({"x-inference-provider": "together"} if not x.own else None)
    for item in events:
        x.event(item)
        if pause:
            x.sleep(pause)
    x.end()


def say(x: Exchange, pieces: Sequence[str] = PIECES, finish: str = "stop", pause: float = 0) -> None:
    """Answer well, whole or as a stream, with a pause after each token."""
    if x.stream:
        return play(x, script(x, pieces, finish).whole(), pause)
    x.sleep(pause * len(limited(x, pieces, finish)[0]))
    return whole(x, pieces, finish)


def stepwise(steps: Semaphore) -> Callable[[Exchange], None]:
    """A good stream, each event when `steps` lets it go."""

    def behaviour(x: Exchange) -> None:
        x.start_stream()
        for item in script(x).whole():
            assert steps.acquire(timeout=10)
            x.event(item)
        x.end()

    return behaviour
