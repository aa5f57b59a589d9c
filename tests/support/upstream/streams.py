"""Streams as they should not be: odd events, odd bytes, and ends amid them. Whole answers of these models are good."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from support.faults import QUIRKS, Quirk
from support.upstream.answers import PIECES, TOKEN, Script, chat_object, chunk, play, say, script, usage, whole
from support.upstream.exchange import JSON, Exchange, payload
from support.upstream.refusals import FAILED, INVALID, Behaviour

# -- streams whose events are unusual; asked for a whole answer these models simply give one

Edit = Callable[[Exchange, Script], list[Any]]


def streamed(edit: Edit, finish: str = "stop") -> Behaviour:
    return lambda x: play(x, edit(x, script(x, finish=finish))) if x.stream else whole(x, finish=finish)


def error_event(x: Exchange) -> dict[str, Any]:
    """TGI's failure in the middle of a stream: on its chat route it says 422 whatever the cause (HF 4.3)."""
    if x.skin == "chat":
        return {"error": {"message": INVALID, "http_status_code": 422}}
    return {"error": FAILED, "error_type": "generation"}


def with_usage(x: Exchange, events: list[Any], tokens: Iterable[int]) -> list[Any]:
    return [{**event, "usage": usage(x, number)} for event, number in zip(events, tokens, strict=True)]


def usage_every_chunk(x: Exchange, s: Script) -> list[Any]:
    if x.skin != "chat":
        return s.whole()
    tokens = with_usage(x, s.tokens, range(1, len(s.tokens) + 1))
    return tokens + with_usage(x, s.closing, [len(tokens)] * len(s.closing)) + s.done


def usage_in_finish(x: Exchange, s: Script) -> list[Any]:
    if x.skin != "chat":
        return s.whole()
    return s.tokens + with_usage(x, s.closing, [len(s.tokens)] * len(s.closing)) + s.done


def role_only(x: Exchange, s: Script) -> list[Any]:
    return [chunk(x, {"role": "assistant", "content": ""}), *s.whole()] if x.skin == "chat" else s.whole()


def null_content(x: Exchange, s: Script) -> list[Any]:
    if x.skin != "chat":
        return s.whole()
    nothing = [chunk(x, {"role": "assistant", "content": None}), chunk(x, {})]
    return [chat_object(x, "chat.completion.chunk", []), *nothing, *s.tokens, *nothing, *s.closing, *s.usage, *s.done]


def finish_with_text(x: Exchange, s: Script) -> list[Any]:
    """The last token's text and the finish reason share a frame."""
    if x.skin != "chat":
        return script(x, finish="stop_sequence").whole()
    said, finish = s.tokens[-1]["choices"][0], s.closing[0]["choices"][0]["finish_reason"]
    return [*s.tokens[:-1], chunk(x, said["delta"], finish), *s.usage, *s.done]


FAILURE = {"message": "The provider hung up", "type": "server_error", "code": 500}
EDITS: dict[str, Edit] = {
    "no-done": lambda x, s: s.tokens + s.closing + s.usage,
    "usage-in-finish": usage_in_finish,
    "usage-every-chunk": usage_every_chunk,
    "usage-nowhere": lambda x, s: s.tokens + s.closing + s.done,
    "error-then-done": lambda x, s: [*s.tokens[:3], error_event(x), "[DONE]"],
    "error-then-close": lambda x, s: [*s.tokens[:3], {"error": FAILURE}],
    "error-first": lambda x, s: [{"error": {"message": INVALID, "http_status_code": 422}}, "[DONE]"],
    "error-first-bare": lambda x, s: [{"error": {"message": "Something went wrong"}}],
    "error-first-429": lambda x, s: [{"error": {"message": "Rate limit exceeded", "code": 429}}],
    "error-first-status": lambda x, s: [{"error": {"message": "No capacity", "status": 503}}],
    "tgi-error-first": lambda x, s: [{"error": FAILED, "error_type": "generation"}],
    "tgi-error-first-validation": lambda x, s: [{"error": INVALID, "error_type": "validation"}],
    "done-only": lambda x, s: ["[DONE]"],
    "done-no-finish": lambda x, s: [*s.tokens, "[DONE]"],
    "eof-no-finish": lambda x, s: s.tokens[:3],
    "eof-at-once": lambda x, s: [],
    "finish-only": lambda x, s: s.closing + s.usage + s.done,
    "malformed-event": lambda x, s: [*s.tokens[:3], '{"choices": [{"del', *s.tokens[3:], *s.closing, *s.done],
    "malformed-first": lambda x, s: ["not json at all", *s.whole()],
    "role-only": role_only,
    "null-content": null_content,
    "finish-with-text": finish_with_text,
}
STREAMS: dict[str, Behaviour] = {name: streamed(edit) for name, edit in EDITS.items()}
FINISHES = {"stop-sequence": "stop_sequence", "eos-token": "eos_token", "finish-length": "length"}
STREAMS |= {name: streamed(lambda x, s: s.whole(), word) for name, word in FINISHES.items()}


# -- odd forms of chat answers: the rows of the table


def odd(quirk: Quirk) -> Behaviour:
    """A row as it is sent; text models, which it is not about, answer well."""

    def send(x: Exchange) -> None:
        if x.skin != "chat":
            return say(x)
        return play(x, quirk.stream_data()) if x.stream else x.send_raw(200, quirk.whole_body().encode(), JSON)

    return send


STREAMS |= {f"quirk-{name}": odd(quirk) for name, quirk in QUIRKS.items()}


# -- streams that break after three tokens


def broken(ending: Callable[[Exchange], object]) -> Behaviour:
    def three_tokens(x: Exchange) -> None:
        if not x.stream:
            return whole(x)
        x.start_stream()
        for item in script(x).tokens[:3]:
            x.event(item)
        x.sleep(0.05)  # an RST must not overtake the tokens
        ending(x)
        return None

    return three_tokens


def cut_mid_event(x: Exchange) -> None:
    parts = script(x)
    event = b"data: " + payload((parts.tokens or parts.closing)[-1])
    x.raw(event[: len(event) // 2])
    x.sleep(0.02)
    x.close()


BREAKS: dict[str, Callable[[Exchange], object]] = {
    "cut": Exchange.close,
    "cut-mid-event": cut_mid_event,
    "reset-mid": Exchange.reset,
    "stall-after-3": lambda x: x.sleep(60),
}
STREAMS |= {name: broken(ending) for name, ending in BREAKS.items()}


# -- streams whose bytes are unusual


def data_lines(events: Iterable[Any], before: bytes = b"data: ", after: bytes = b"\n\n") -> list[bytes]:
    return [before + payload(item) + after for item in events]


def split_characters(events: list[Any]) -> list[bytes]:
    """A new packet before every continuation byte, so every multi-byte character is torn."""
    return re.findall(rb"[\x80-\xbf]?[^\x80-\xbf]*", b"".join(data_lines(events)))[:-1]


def several_data_lines(events: list[Any]) -> list[bytes]:
    texts = [item if isinstance(item, str) else json.dumps(item, indent=1) for item in events]
    return data_lines(text.replace("\n", "\ndata: ") for text in texts)


def send_packets(x: Exchange, packets: Iterable[bytes], pause: float = 0) -> None:
    for packet in packets:
        x.raw(packet)
        if pause:
            x.sleep(pause)
    x.end()


def framed(frame: Callable[[list[Any]], list[bytes]], pieces: Sequence[str] = PIECES, pause: float = 0) -> Behaviour:
    def send(x: Exchange) -> None:
        if not x.stream:
            return whole(x, pieces)
        x.start_stream()
        return send_packets(x, frame(script(x, pieces).whole()), pause)

    return send


UTF8_TEXT = "Olá, João — ação 🎉日本"
U2028_TEXT = "one\u2028two\u0085three"
STREAMS |= {
    "no-space": framed(lambda events: data_lines(events, b"data:")),
    "crlf": framed(lambda events: data_lines(events, after=b"\r\n\r\n")),
    "crlf-split": framed(lambda events: [p for e in data_lines(events) for p in (e[:-2] + b"\r", b"\n\r", b"\n")]),
    "comments": framed(lambda events: data_lines(events, b": keep-alive\n\ndata: ")),
    "event-fields": framed(lambda events: data_lines(events, b"event: message\nid: 1\nretry: 10\ndata: ")),
    "several-data-lines": framed(several_data_lines),
    "no-final-blank": framed(lambda events: [b"".join(data_lines(events)).rstrip(b"\n")]),
    "utf8-split": framed(split_characters, TOKEN.findall(UTF8_TEXT), pause=0.003),
    "u2028": framed(data_lines, ("one", "\u2028two", "\u0085three")),
    "packed": framed(lambda events: [b"".join(data_lines(events))]),
    "bytewise": framed(lambda events: [bytes([byte]) for byte in b"".join(data_lines(events))]),
}
