"""Every behaviour by the id of the model that has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any

from support.upstream import answers
from support.upstream.answers import PIECES, TEXT, TOKEN, chat_whole, chunk, play, say, script, whole
from support.upstream.exchange import HTML, JSON, PLAIN, Exchange, payload
from support.upstream.refusals import ERRORS, EVERY, WINDOW, Behaviour, Fault, fault, model_kwargs, page, text_fault
from support.upstream.streams import STREAMS, data_lines, send_packets

BEHAVIOURS: dict[str, Behaviour] = {f"test/err-{slug}": row for slug, row in ERRORS.items()}


def built_in(name: str) -> Behaviour:
    """A behaviour by its id, with or without `test/`."""
    return BEHAVIOURS.get(name) or SEEDS.get(name) or BEHAVIOURS[f"test/{name}"]


def behaviour(name: str) -> Callable[[Behaviour], Behaviour]:
    def add(function: Behaviour) -> Behaviour:
        BEHAVIOURS[f"test/{name}"] = function
        return function

    return add


def saying(text: str, pause: float = 0) -> Behaviour:
    """A behaviour that says this, a word at a time."""
    return lambda x: say(x, TOKEN.findall(text), pause=pause)


def loading(estimated_time: float) -> Behaviour:
    return lambda x: fault(503, f"Model {x.model} is currently loading", estimated_time=estimated_time).send(x)


def once(first: Behaviour, times: int = 1) -> Behaviour:
    """The fault for the first attempts, then a good answer."""
    return lambda x: first(x) if x.attempt <= times else say(x)


def counted(number: int) -> list[str]:
    return [f"tok{i} " for i in range(number)]


@behaviour("echo")
def echo(x: Exchange) -> None:
    say(x, TOKEN.findall(answers.last_user_text(x)))


@behaviour("paced")
def paced(x: Exchange) -> None:
    say(x, counted(answers.limit_of(x) or 20), pause=0.05)


@behaviour("continue")
def carry_on(x: Exchange) -> None:
    """Continues a last assistant message that begins the known answer, as TGI does; else says it whole."""
    last = (x.body.get("messages") or [{}])[-1]
    begun = answers.spoken(last.get("content")) if last.get("role") == "assistant" else ""
    say(x, TOKEN.findall(TEXT.removeprefix(begun)))


@behaviour("rate-retry-after-date")
def retry_after_date(x: Exchange) -> None:
    rate({"Retry-After": formatdate(time.time() + 2, usegmt=True)}).send(x)


def rate(headers: dict[str, str]) -> Fault:
    return fault(429, "Too many requests", EVERY, headers)


def whole_body(x: Exchange) -> bytes:
    return payload(chat_whole(x, PIECES, "stop") if x.skin == "chat" else [{"generated_text": TEXT}])


@behaviour("body-truncated")
def body_truncated(x: Exchange) -> None:
    body = whole_body(x)
    x.wire(x.head(200, {"Content-Type": JSON, "Content-Length": str(len(body) + 100)}) + body[: len(body) // 2])
    x.sleep(0.02)
    x.close()


@behaviour("silent")
def silent(x: Exchange) -> None:
    x.sleep(600)


@behaviour("headers-only")
def headers_only(x: Exchange) -> None:
    if x.stream:
        x.start_stream()
    else:
        x.wire(x.head(200, {"Content-Type": JSON, "Content-Length": "400"}))
    x.sleep(600)


@behaviour("header-dribble")
def header_dribble(x: Exchange) -> None:
    x.wire(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while x.sleep(0.1):
        x.wire(b"a")


@behaviour("body-dribble")
def body_dribble(x: Exchange) -> None:
    if x.stream:
        body = b"".join(data_lines(script(x).whole()))
        x.start_stream()
    else:
        body = whole_body(x)
        x.wire(x.head(200, {"Content-Type": JSON, "Content-Length": str(len(body))}))
    for i in range(len(body)):
        x.raw(body[i : i + 1])
        x.sleep(0.1)
    if x.stream:
        x.end()
    x.call.finished = x.call.client_closed_at is None


@behaviour("slow-first")
def slow_first(x: Exchange) -> None:
    if x.stream:
        x.start_stream()
        x.sleep(1.5)
        return send_packets(x, data_lines(script(x).whole()))
    x.sleep(1.5)
    return whole(x)


@behaviour("keepalive-then-ok")
def keepalive_then_ok(x: Exchange) -> None:
    if not x.stream:
        return say(x)
    x.start_stream()
    for _ in range(10):
        x.raw(b":\n\n")
        x.sleep(0.1)
    return send_packets(x, data_lines(script(x).whole()))


@behaviour("no-stream-support")
def no_stream_support(x: Exchange) -> None:
    if x.stream:
        ERRORS["stream-unsupported"].send(x)
    else:
        whole(x)


@behaviour("close-delimited")
def close_delimited(x: Exchange) -> None:
    """A stream without chunks: it ends when the connection does."""
    if not x.stream:
        return whole(x)
    x.start_stream(chunked=False)
    return send_packets(x, data_lines(script(x).whole()))


@behaviour("tool-calls")
def tool_calls(x: Exchange) -> None:
    if x.skin != "chat":
        return say(x)
    arguments = ('{"city":', '"Belém"}')
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    if not x.stream:
        told = {**call, "function": {"name": "weather", "arguments": "".join(arguments)}}
        return x.send_json(200, chat_whole(x, (), "tool_calls", content=None, tool_calls=[told]))
    later = [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in arguments]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None, "tool_calls": [call]}, *later]
    ending = script(x, (), "tool_calls")
    return play(x, [chunk(x, d) for d in deltas] + ending.closing + ending.usage + ending.done)


@behaviour("reasoning")
def reasoning(x: Exchange) -> None:
    if x.skin != "chat":
        return say(x)
    if not x.stream:
        return x.send_json(200, chat_whole(x, PIECES, "stop", reasoning_content="Let me think."))
    thoughts = [chunk(x, {"role": "assistant", "reasoning_content": t}) for t in ("Let me", " think.")]
    return play(x, thoughts + script(x).whole())


SIMPLE: dict[str, Behaviour] = {
    "ok": say,
    "slow": lambda x: say(x, counted(40), pause=0.05),
    "loading": loading(20.0),
    "loading-2": once(loading(0.2), times=2),
    "waking": ERRORS["waking"],
    "gone": ERRORS["deprecated"],
    "rate-ratelimit": rate({**WINDOW, "RateLimit": '"api";r=0;t=1'}),
    "rate-retry-after": rate({"Retry-After": "1"}),
    "rate-bare": rate({}),
    "overloaded": ERRORS["overloaded"],
    "http500": fault(500, "Internal Server Error"),
    "http502": ERRORS["bad-gateway"],
    "http503": text_fault(503, "upstream connect error or disconnect/reset before headers"),
    "http504": ERRORS["gateway-timeout"],
    "reset": lambda x: x.reset(),
    "close": lambda x: x.close(),
    "content-filter": ERRORS["content-filter"],
    "context-length": ERRORS["context-length"],
    "context-length-tgi": ERRORS["context-length-tgi"],
    "gated": ERRORS["gated"],
    "body-empty": text_fault(200, "", EVERY, JSON),
    "body-html": text_fault(200, page("Welcome"), EVERY, HTML),
    "body-bad-json": text_fault(200, '{"id": "chatcmpl-1", "choices": [', EVERY, JSON),
    "body-200-error": fault(200, "Something went wrong"),
    "body-list-error": fault(400, ["First thing wrong", "second thing wrong"]),
    "body-detail": text_fault(400, '{"detail": "Body needs an inputs key"}', EVERY, JSON),
    "body-no-choices": lambda x: x.send_json(200, answers.chat_object(x, "chat.completion", [])),
    "redirect": Fault(302, PLAIN, "Found", {"Location": "/redirected"}, EVERY),
    "whole-for-stream": whole,
}
BEHAVIOURS |= {f"test/{name}": function for name, function in {**SIMPLE, **STREAMS}.items()}

# What another attempt may help.
ONCE = (
    *("rate-ratelimit", "rate-retry-after", "rate-retry-after-date", "rate-bare", "overloaded", "waking", "reset"),
    *("close", "http500", "http502", "http503", "http504", "body-200-error"),
)
BEHAVIOURS |= {f"test/{name}-once": once(BEHAVIOURS[f"test/{name}"]) for name in ONCE}


# -- classic replies


def text_reply(shape: Callable[[Exchange, str], Any]) -> Behaviour:
    """A reply of this shape to an `inputs` request; chat and streams are answered as usual."""

    def reply(x: Exchange) -> None:
        if x.skin == "chat" or x.stream:
            return say(x)
        return x.send_json(200, shape(x, TEXT), {"x-compute-type": "cpu"})

    return reply


CLASSIC_REPLIES: dict[str, Callable[[Exchange, str], Any]] = {
    "classic-list": lambda x, text: [{"generated_text": text}],
    "classic-nested": lambda x, text: [[{"generated_text": text}], [{"generated_text": "another"}]],
    "classic-empty-text": lambda x, text: [{"generated_text": ""}],
    "classic-empty-list": lambda x, text: [],
}
BEHAVIOURS |= {f"test/{name}": text_reply(shape) for name, shape in CLASSIC_REPLIES.items()}

CLASSIC_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (1, 10**9),
    "repetition_penalty": (0, 100),
    "max_time": (0, 120),
    "num_return_sequences": (1, 10),
}


def range_error(parameters: dict[str, Any]) -> Fault | None:
    """The old validator's words (HF 2.2), its errors in a list."""
    for name, (low, high) in CLASSIC_RANGES.items():
        value = parameters.get(name)
        if value is not None and not low <= value <= high:
            side = f"less than or equal to {high}" if value > high else f"greater than or equal to {low}"
            return fault(400, [f"Input should be {side}: received `{name}` in `parameters`"])
    return None


def pipeline(echoes: bool, refuses: Sequence[str] = ()) -> Behaviour:
    """A transformers pipeline behind the classic route: it may echo the prompt and refuse parameters."""

    def reply(x: Exchange) -> None:
        if x.skin != "classic":
            return say(x)
        unknown = [name for name in refuses if name in x.parameters]
        if refusal := model_kwargs(unknown) if unknown else range_error(x.parameters):
            return refusal.send(x)
        pieces, _ = answers.limited(x, PIECES, "stop")
        prompt = answers.prompt_text(x) if echoes and x.parameters.get("return_full_text") is not False else ""
        return x.send_json(200, [{"generated_text": prompt + "".join(pieces)}], answers.answer_headers(x, 0))

    return reply


TEXT2TEXT_REFUSES = ("return_full_text", "stop", "details", "watermark")
GPT2_REFUSES = ("stop", "watermark")
BEHAVIOURS["test/classic-strict"] = pipeline(True, GPT2_REFUSES)
SEEDS: dict[str, Behaviour] = {
    "microsoft/DialoGPT-medium": pipeline(True),
    "microsoft/DialoGPT-large": pipeline(True),
    "facebook/blenderbot-400M-distill": pipeline(False, TEXT2TEXT_REFUSES),
    "google/flan-t5-base": pipeline(False, TEXT2TEXT_REFUSES),
    "EleutherAI/gpt-neo-2.7B": pipeline(True),
    "bigscience/bloom-560m": pipeline(True),
    "tgi": say,  # a bare TGI route, and what clients of TGI put into `model`
}
