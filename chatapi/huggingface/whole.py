"""A whole answer as a stream, and a stream as a whole answer, for upstreams that give the one for the other. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

from ..chat import Choice, Chunk, Json, Reply, StreamItem, Usage
from .values import read_json


def chunks_of(reply: Reply) -> Iterator[Chunk]:
    """The answer's text in one chunk a choice, then finish and usage."""
    for choice in reply.choices:
        delta = {key: value for key, value in choice["message"].items() if value is not None}
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
        yield _chunk(reply, {**choice, "delta": delta, "finish_reason": None})
    for choice in reply.choices:
        yield _chunk(reply, {**choice, "delta": {}, "logprobs": None})
    yield Chunk(model=reply.model, usage=reply.usage)


def _chunk(reply: Reply, choice: Choice) -> Chunk:
    del choice["message"]
    return Chunk(
        model=reply.model,
        choices=[choice],
        system_fingerprint=reply.system_fingerprint,
        ignored=reply.ignored,
        extra=reply.extra,
    )


def reply_of(model: str, items: Iterable[StreamItem]) -> Reply:
    """The answer that a stream's items are together, finish and usage included."""
    choices: dict[int, Choice] = {}
    extra: Json = {}
    last: Chunk | None = None
    usage = Usage(0, 0, "estimate")
    for item in items:
        if isinstance(item, list):
            text = read_json(b'"' + b"".join(item) + b'"')
            _add(choices[0]["message"], {"content": text})
            continue
        last, usage = item, item.usage or usage
        extra |= item.extra
        for streamed in item.choices:
            _add_choice(choices, streamed)
    return Reply(
        model=model,
        choices=[choices[number] for number in sorted(choices)],
        usage=usage,
        system_fingerprint=last.system_fingerprint if last else None,
        extra=extra,
        ignored=last.ignored if last else (),
    )


def _add_choice(choices: dict[int, Choice], streamed: Choice) -> None:
    message = {"role": "assistant", "content": None, "refusal": None}
    known = choices.setdefault(streamed["index"], {"index": streamed["index"], "message": message, "logprobs": None})
    _add(known["message"], streamed["delta"])
    if streamed.get("logprobs"):
        known["logprobs"] = _joined(known["logprobs"], streamed["logprobs"])
    known |= {key: value for key, value in streamed.items() if key not in ("index", "delta", "logprobs")}


def _add(message: Json, delta: Json) -> None:
    """Join a delta to what is there, as SDKs do: lists of calls by their index, strings one after another."""
    for key, value in delta.items():
        if key == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for piece in value:
                while len(calls) <= piece["index"]:
                    calls.append({})
                _add(calls[piece["index"]], {name: part for name, part in piece.items() if name != "index"})
        elif key in ("role", "id", "type"):
            message[key] = value
        elif value or message.get(key) is None:
            message[key] = _joined(message.get(key), value)


def _joined(known: Any, more: Any) -> Any:
    if isinstance(known, str) and isinstance(more, str):
        return known + more
    if isinstance(known, list) and isinstance(more, list):
        return known + more
    if isinstance(known, dict) and isinstance(more, dict):
        return {**known, **{key: _joined(known.get(key), value) for key, value in more.items()}}
    return more
