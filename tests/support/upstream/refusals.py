"""Errors, in Hugging Face's own words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from support.faults import REFUSALS
from support.upstream.answers import play
from support.upstream.exchange import JSON, PLAIN, Exchange


class Fault(NamedTuple):
    """A row of HF 3.2: what is sent, and the skins it was seen in. Callable, so it is a behaviour."""

    status: int
    content_type: str
    body: str
    headers: dict[str, str]
    skins: tuple[str, ...]

    def send(self, x: Exchange) -> None:
        if x.skin == "generate" and x.stream and '"validation"' in self.body:
            return play(x, [self.body])  # TGI's streams begin before it validates (HF 4.2)
        return x.send_raw(self.status, self.body.encode(), self.content_type, self.headers)

    def __call__(self, x: Exchange) -> None:
        self.send(x)


Behaviour: TypeAlias = Callable[[Exchange], object] | Fault  # a fault is one: it answers with itself

CHAT, CLASSIC, GENERATE = ("chat",), ("classic",), ("generate",)
OWN, EVERY = CHAT + GENERATE, CHAT + CLASSIC + GENERATE


def fault(
    status: int, error: Any, skins: tuple[str, ...] = EVERY, headers: dict[str, str] | None = None, **beside: Any
) -> Fault:
    """A JSON fault: `error` and whatever stands beside it."""
    return Fault(status, JSON, json.dumps({"error": error, **beside}, ensure_ascii=False), headers or {}, skins)


def text_fault(status: int, text: str, skins: tuple[str, ...] = EVERY, content_type: str = PLAIN) -> Fault:
    return Fault(status, content_type, text, {}, skins)


def model_error(message: str, code: str, param: str | None = "model") -> Fault:
    kind = "invalid_request_error"
    return fault(400, {"message": message, "type": kind, "param": param, "code": code}, CHAT)


def inference_error(status: int, text: str) -> Fault:
    """The transformers backend says everything twice."""
    return fault(status, text, CLASSIC, warnings=[f"There was an inference error: {text}"])


def model_kwargs(names: list[str]) -> Fault:
    text = "The following `model_kwargs` are not used by the model: %s"
    note = " (note: typos in the generate arguments will also show up in this list)"
    return inference_error(400, text % names + note)


def page(title: str) -> str:
    return f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body>\r\n</html>"


INVALID = "Input validation error: `temperature` must be strictly positive"
FAILED = "Request failed during generation: Server error: out of memory"
WINDOW = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}

ERRORS: dict[str, Fault] = {
    name: Fault(row.status, row.type, row.body, row.headers, row.skins) for name, row in REFUSALS.items()
}
