"""An upstream that answers as none should: what it answers a prompt with "case 17" in it is for ever the same."""

import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple

from support.mutations import ODD, chunked, mutated_bytes, mutated_tree, pieces, to_json

USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 1}}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": [72], "top_logprobs": []}], "refusal": None}
MESSAGE = {"role": "assistant", "content": "Hello there.", "refusal": None, "reasoning_content": "Hm."}
MESSAGE |= {"tool_calls": [CALL]}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop", "logprobs": LOGPROBS}
BODY = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "system_fingerprint": "fp", "usage": USAGE}
DETAILS = {"finish_reason": "eos_token", "generated_tokens": 3, "prefill": [{"id": 1, "text": "a"}], "seed": 1}
DETAILS |= {"tokens": []}
ERRORS: tuple[Any, ...] = (
    {"error": {"message": "Too many requests", "type": "rate_limit", "code": 429, "param": "messages"}},
    {"error": "Model x is currently loading", "estimated_time": 20.0, "warnings": ["w"]},
    {"error": "Input validation error: `inputs` must have less than 10 tokens", "error_type": "validation"},
    {
        "error": {"http_status_code": 503, "message": "SERVICE_UNAVAILABLE"},
        "error_type": "overloaded",
        "retry_after": 1,
    },
    {"detail": [{"loc": ["body", "n"], "msg": "bad", "type": "value_error"}]},
    {"object": "error", "message": "no", "code": 400, "base_resp": {"status_code": 1000, "status_msg": "x"}},
)
STATUSES = (
    *(200,) * 40,
    *(201, 204, 206, 304, 301, 307, 400, 401, 402, 403, 404, 408, 410, 413, 422, 424, 429, 500, 502, 503, 504, 599),
)
HEADERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Retry-After",
        ("1", "0", "-5", "9" * 400, "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "nan", "1e999", "\xff", ""),
    ),
    ("retry-after-ms", ("5", "9" * 5000, "inf", "x")),
    ("RateLimit", ('"a";r=0;t=1', "t=" + "9" * 30, "\xff")),
    ("x-prompt-tokens", ("5", "9" * 5000, "-1", "٣", "1e5")),
    ("x-generated-tokens", ("3", "0x3", " ", "9" * 20)),
    ("x-error-message", ("boom", "\xff" * 900)),
    (
        "Content-Type",
        ("application/json", "text/html", "text/event-stream; charset=x", "\xff", "", "application/json\t;"),
    ),
    ("Content-Encoding", ("gzip", "identity", "br", "deflate", "gzip, gzip")),
    ("Connection", ("close", "keep-alive", "upgrade", "\xff")),
    ("Location", ("http://127.0.0.1:1/", "/x", "\xff")),
    ("Set-Cookie", ("a=b", "a" * 5000)),
    ("Date", ("Mon, 01 Jan 0000 00:00:00 GMT", "9" * 300)),
    ("Content-Length", ("0", "5", "-1", "+5", "5, 5", "5, 6", "9" * 30, "0x5", "")),
    ("Transfer-Encoding", ("chunked", "gzip, chunked", "identity", "chunked, chunked", "x")),
)
LINES = (
    *(b" folded", b"no colon", b": v", b"na me: v", b"X: a\rb", b"X: a\nY: b", b"X:" + b"y" * 70_000, b"\0: \0"),
    b"A" * 9000,
)
STARTS = (
    *(b"HTTP/1.0 200 OK", b"HTTP/2 200", b"HTTP/1.1 20 OK", b"HTTP/1.1 99999 X", b"ICY 200 OK", b""),
    *(b"HTTP/1.1 200", b"\xff" * 80, b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 000 X"),
    *(b"HTTP/1.1 2\xb200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 600 X"),
)
INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 102 P\r\n\r\n" * 30,
)
FILLERS = (
    *(b": comment\n\n", b"event: ping\ndata: {}\n\n", b"id: 5\nretry: 9\n\n", b"\n\n\n", b"data: zz\n\n"),
    *(b"data:\n\n", b"event: error\ndata: boom\n\n", b"data: [DONE]\n\n", b"data: null\n\n"),
    *(b"data: " + b"x" * 3000 + b"\n\n", b"\xef\xbb\xbf", b"data"),
)


class Answer(NamedTuple):
    """What is written, piece by piece, and how the connection ends."""

    pieces: Sequence[bytes]
    end: str  # "keep", "close", "reset" or "silence"
    pause_s: float  # between the pieces


def answer(number: int, model: str, path: str, streams: bool) -> Answer:
    """The answer of this number to a request for `path`."""
    dice = Random(f"upstream {number} {model} {path} {streams}")
    if dice.random() < 0.02:
        return Answer([dice.randbytes(dice.choice((1, 50, 5000)))], "close", 0)
    status = dice.choice(STATUSES)
    if not 200 <= status < 300:
        body = _json(dice, dice.choice(ERRORS))
    elif streams and dice.random() < 0.9:
        body = _events(dice, _streamed(path))
    else:
        body = _json(dice, _whole(path))
    if dice.random() < 0.08:
        body = mutated_bytes(dice, body, dice.choice((1, 1, 3)))
    data = _head(dice, status, streams, body)
    if dice.random() < 0.05:
        data = mutated_bytes(dice, data, dice.choice((1, 2, 5)))
    end = dice.choice(("keep",) * 20 + ("close", "close", "reset", "silence"))
    if path.endswith("/v1/models"):
        end = "close"  # nobody waits for a list: who wants to see what becomes of it would
    return Answer(pieces(dice, data), end, dice.choice((0, 0, 0, 0.01, 0.1)))


def _whole(path: str) -> Any:
    if path.endswith("/v1/models"):
        able = {"provider": "p", "status": "live", "context_length": 4096, "supports_tools": True}
        return {
            "object": "list",
            "data": [{"id": f"fuzz/{i}", "created": 1, "owned_by": "o", "providers": [able]} for i in range(5)],
        }
    if path.endswith("/v1/chat/completions"):
        return BODY | {"choices": [CHOICE]}
    return [{"generated_text": "Hello there.", "details": DETAILS}]


def _streamed(path: str) -> list[Any]:
    if not path.endswith("/v1/chat/completions"):
        tokens = [{"index": i, "token": {"id": i, "text": " a", "logprob": -1, "special": False}} for i in range(4)]
        return [*tokens, tokens[-1] | {"generated_text": " a a a a", "details": DETAILS}]
    deltas: list[Any] = [
        {"role": "assistant", "content": ""},
        *({"content": text} for text in ("Hel", "lo ", "there", ".")),
    ]
    deltas += [
        {"reasoning_content": "Hm."},
        {"tool_calls": [CALL]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]
    chunk = BODY | {"object": "chat.completion.chunk", "usage": None}
    events = [chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    end = chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": LOGPROBS}]}
    return [*events, end, chunk | {"choices": [], "usage": USAGE}, "[DONE]"]


def _json(dice: Random, tree: Any) -> bytes:
    return to_json(mutated_tree(dice, tree, dice.choice((0, 1, 1, 2, 4))))


def _events(dice: Random, events: list[Any]) -> bytes:
    end, colon = dice.choice((b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r")), dice.choice((b"data: ", b"data: ", b"data:"))
    out = b""
    mutated = mutated_tree(dice, events, 1)
    for event in dice.choice((events, events, mutated if isinstance(mutated, list) else [mutated])):
        odd = dice.random()
        if odd < 0.05:
            out += dice.choice(FILLERS)
        if odd > 0.97:
            event = dice.choice((*ERRORS, *ODD))
        elif odd > 0.85:
            event = mutated_tree(dice, event, dice.choice((1, 2)))
        for _ in range(dice.choice((1,) * 30 + (0, 2, 200))):
            out += colon + (b"[DONE]" if event == "[DONE]" else to_json(event)) + end
    return out


def _head(dice: Random, status: int, streams: bool, body: bytes) -> bytes:
    lines = [b"Content-Type: text/event-stream" if streams else b"Content-Type: application/json"]
    framing = dice.random()
    if status in (204, 304) and framing < 0.9:
        body = b""
    elif framing < 0.5:
        lines.append(b"Content-Length: %d" % (len(body) + (dice.choice((-1, 1, 900)) if dice.random() < 0.05 else 0)))
    elif framing < 0.95:
        lines.append(b"Transfer-Encoding: chunked")
        body = chunked(dice, body, oddly=dice.random() < 0.2)
    for _ in range(dice.choice((0, 0, 0, 1, 2))):
        name, values = dice.choice(HEADERS)
        lines.append(f"{name}: {dice.choice(values)}".encode())
    if dice.random() < 0.03:
        lines.append(dice.choice(LINES))
    if dice.random() < 0.01:
        lines += [b"X-Many: %d" % i for i in range(dice.choice((150, 3000)))]
    dice.shuffle(lines)
    start = dice.choice(STARTS) if dice.random() < 0.03 else b"HTTP/1.1 %d X" % status
    interim = dice.choice(INTERIM) if dice.random() < 0.05 else b""
    return interim + b"\r\n".join((start, *lines, b"", b"")) + body


class _Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(OSError, ValueError):
            while self._answered():
                pass

    def _answered(self) -> bool:
        """Answer one request; whether another may follow."""
        path = self.rfile.readline().split(b" ")[1:2]
        length = 0
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        body = self.rfile.read(length)
        if not path:
            return False
        number, model = re.search(rb"case (\d+)", body), re.match(rb'{"model":"([^"]*)"', body)
        streams = b"generate_stream" in path[0] or b'"stream":true' in body
        model_id = model[1].decode() if model else ""
        given = answer(int(number[1]) if number else 0, model_id, path[0].decode(), streams)
        for piece in given.pieces:
            self.connection.sendall(piece)
            time.sleep(given.pause_s)
        if given.end == "silence":
            self.connection.settimeout(10)
            self.connection.recv(1)
        if given.end == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return given.end == "keep"


class FuzzedUpstream(socketserver.ThreadingTCPServer):
    """The server, on a free port."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "FuzzedUpstream":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()


TEXT_MODELS = 200  # of each kind; chat models have an id for each case, so that no circuit opens


def catalogue(url: str) -> str:
    """The text models of `call`, as TOML."""
    kinds = (("tgi", f'url = "{url}"\n'), ("classic", ""))
    return "\n".join(
        f'[models."{kind}/{number}"]\ntask = "text-generation"\n{more}'
        for kind, more in kinds
        for number in range(TEXT_MODELS)
    )


def call(number: int) -> tuple[str, dict[str, Any]]:
    """The call that is answered by the case of this number: its route and body."""
    dice = Random(f"call {number}")
    kind = dice.choice(("fuzz", "fuzz", "fuzz", "tgi", "classic"))
    model = f"{kind}/{number if kind == 'fuzz' else number % TEXT_MODELS}"
    route = dice.choice(("/v1/chat/completions", "/v1/chat/completions", "/api/chat/completions", "/v1/responses"))
    text = f"case {number}."
    said = {"input": text} if route == "/v1/responses" else {"messages": [{"role": "user", "content": text}]}
    body: dict[str, Any] = {"model": model, **said, "stream": dice.random() < 0.6, "fallbacks": []}
    if dice.random() < 0.2:
        body["fallbacks"] = [f"fuzz/{number}-2"]
    if kind == "fuzz" and dice.random() < 0.2:
        tool = {"name": "f", "parameters": {}}
        body["tools"] = [{"type": "function", **tool} if "input" in said else {"type": "function", "function": tool}]
    if kind == "fuzz" and route == "/v1/chat/completions" and dice.random() < 0.2:
        body |= dice.choice(({"n": 2}, {"logprobs": True}, {"stop": ["."]}, {"max_tokens": 2}))
    return route, body
