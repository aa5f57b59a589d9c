"""Requests that nobody should send: `request(number)` makes one of them as bytes, for ever the same."""

from random import Random
from typing import Any, NamedTuple

from support.mutations import ODD, chunked, mutated_bytes, mutated_tree, to_json

MODELS = (
    *("test/ok", "own/ok", "tgi/ok", "classic/any", "conversation/gpt2", "own/no-images", "old/retired"),
    "nobody/knows",
)
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
SAMPLING = {"temperature": 0.7, "max_tokens": 16, "top_p": 0.9, "max_time": 5, "fallbacks": ["own/ok"], "seed": 1}
CHAT: dict[str, Any] = {
    **SAMPLING,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, PICTURE]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "5"},
        {"role": "user", "content": "And now?"},
    ],
    "n": 1,
    "stop": ["\n", "END"],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "top_logprobs": 2,
    "stream_options": {"include_usage": True},
    "metadata": {"a": "b"},
    "user": "u",
    "reasoning_effort": "low",
    "min_tokens": 5,
    "best_of": 2,
}
PLAIN = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16, "temperature": 0.7}
LEGACY = {"message": "Hi", "parameters": {"max_new_tokens": 5, "temperature": 0.5, "max_length": 9}, "top_k": 5}
LEGACY |= {"max_time": 5}
PICTURED = [{"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": "data:,x"}]
SAID = [{"type": "output_text", "text": "Yes", "annotations": []}]
RESPONSES = {
    "input": [
        {"role": "user", "content": PICTURED},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "t"}]},
        {"type": "message", "role": "assistant", "content": SAID},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "5"}]},
    ],
    "instructions": "Be brief.",
    "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": False}, {"type": "web_search"}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "s", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "max_output_tokens": 16,
    "max_time": 5,
}
OF_S1 = CHAT | {"messages": [message for message in CHAT["messages"] if message["role"] != "tool"]}
BODIES: tuple[tuple[str, Any], ...] = (
    *(("/v1/chat/completions", CHAT), ("/v1/chat/completions", PLAIN), ("/api/chat/completions", OF_S1)),
    *(("/api/chat/completions", PLAIN), ("/api/huggingface-chat", LEGACY), ("/v1/responses", RESPONSES)),
    *(("/v1/responses", {"input": "Hi", "max_time": 5}), ("/api/migrate/preview", LEGACY)),
    ("/playground/snippets", {"path": "/v1/chat/completions", "body": PLAIN}),
)
PATHS = (
    *("/", "/healthz", "/readyz", "/metrics", "/docs", "/docs/models", "/openapi.json", "/dashboard", "/v1/models"),
    *(
        "/v1/models/test/ok",
        "/v1/usage?since=2026-01-01&until=2026-12-31",
        "/v1/probe?events=2&every_s=0.01&note=a",
        "/v1/probe?silence_s=0.1",
    ),
    *(
        "/dashboard/data/calls?from=1&to=9999999999&key=k&model=m",
        "/dashboard/data/tokens?from=nan&to=inf",
        "/static/1/css/docs.css",
    ),
    *("/v1/responses/resp_1", "/v1/embeddings", "/v1/v1/models", "/favicon.ico", "http://example.com/v1/models", "*"),
)
ODD_PATHS = (
    *("%00", "%ff%fe", "/../../etc/passwd", "%2e%2e/", "//", "?", "#x", "%", ";a=b", "é", "\\", "?from=1e999"),
    "?a=%F0%28",
    *("?from=9" + "9" * 400, "?every_s=nan", "?events=-1", "a" * 5000, "?language=pt", "%0d%0aX:%20y"),
    "?" + "a&" * 3000,
)
METHODS = (
    *("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "PRI", "A" * 300),
    "G\0T",
)
HEADERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Authorization",
        ("Bearer sk-x", "Bearer", "Bearer \xff\xfe", "Basic YTpi", "Bearer " + "k" * 5000, "", "Bearer  a b"),
    ),
    ("x-api-key", ("sk-x", "", "\x7f", "é")),
    (
        "Accept-Language",
        ("pt-BR", "pt;q=1e999", "*;q=0", "en;q=" + "9" * 500, ",;," * 500, "pt;q=nan, en;q=-1", "\xff"),
    ),
    ("X-Request-Id", ("fuzz-1", "a" * 500, "\xe9", "a b", "")),
    ("traceparent", ("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "ff-0-0-0", "00-" + "0" * 55)),
    ("tracestate", ("a=b", "\xff" * 600)),
    (
        "Content-Type",
        (
            *("application/json", "application/json; charset=utf-7", "text/plain", "a/b+json", "\xff", ""),
            "multipart/form-data",
        ),
    ),
    ("Content-Encoding", ("gzip", "identity", "br, gzip", "")),
    ("Expect", ("100-continue", "200-ok", "")),
    ("Connection", ("close", "keep-alive, close", "Upgrade", "Content-Length", "\x00")),
    ("Upgrade", ("h2c", "websocket")),
    ("Host", ("x@127.0.0.1", "[::1", "a" * 1000, "", "localhost:99999", "evil.example", "127.0.0.1:", "\xff", "a b")),
    ("Origin", ("null", "http://evil.example@127.0.0.1", "http://[", "x" * 3000)),
    ("X-Forwarded-For", ("1.2.3.4, 5.6.7.8", "x" * 3000, ",,,", "[::1]:80", "\xff")),
    ("Forwarded", ("for=1.2.3.4", 'for="[')),
    ("SCRIPT_NAME", ("/docs", "\xff")),
    ("Range", ("bytes=0-5", "bytes=5-0,9-", "bytes=" + "0-1," * 2000)),
    ("If-None-Match", ('"x"', "*", '"' * 1000)),
    ("If-Modified-Since", ("Mon, 01 Jan 99999999999999 00:00:00 GMT", "0", "yesterday")),
    ("Cookie", ("a=b; language=pt; session=" + "x" * 3000, '="', "\xff")),
    ("Accept-Encoding", ("gzip;q=nan", "br;q=1, *;q=0", "x" * 3000)),
    ("Access-Control-Request-Headers", ("a, b", "x\xff", "a" * 3000)),
    ("User-Agent", ("", "OpenAI/Python 1.0", "\xff" * 300, "a/b(" * 500)),
    ("Content-Length", ("0", "5", "-1", "+5", "5, 5", "0x10", "9" * 30, "", "5 5", "99999999999", "1e1")),
    ("Transfer-Encoding", ("chunked", "Chunked", "gzip, chunked", "chunked, chunked", "identity", "x", "chunked;a=b")),
)
ODD_LINES = (
    *(b" folded: x", b"no colon", b": no name", b"na me: x", b"Na\0me: x", b"Under_Score: x", b"A" * 9000 + b": b"),
    *(b"X: a\rb", b"X: a\nY: b", b"Content_Length: 5", b"X: \0", b"\xff: \xff", b"HTTP/1.1 200 OK"),
    b"X:" + b"y" * 7000,
)
VERSIONS = (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.", b"http/1.1", b"", b"HTTP/1.1 x", b"HTTP/11.1")


class Request(NamedTuple):
    """One case."""

    data: bytes
    is_head: bool  # so that its answer has no body


def request(number: int, seed: str = "requests") -> Request:
    """The case of this number."""
    dice = Random(f"{seed} {number}")
    if dice.random() < 0.02:
        return Request(dice.randbytes(dice.choice((1, 20, 3000))), False)
    if dice.random() < 0.25:
        method, path, body = _without_body(dice)
    else:
        method, path, body = _with_body(dice)
    lines = _head_lines(dice, body)
    framing = dice.random()
    if not body:
        pass
    elif framing < 0.7:
        lines.append(b"Content-Length: %d" % (len(body) + (dice.choice((-1, 1, 9)) if dice.random() < 0.05 else 0)))
    elif framing < 0.98:
        lines.append(b"Transfer-Encoding: chunked")
        body = chunked(dice, body, oddly=dice.random() < 0.4)
    dice.shuffle(lines)
    version = dice.choice(VERSIONS) if dice.random() < 0.05 else b"HTTP/1.1"
    data = b"\r\n".join((b" ".join((method, path, version)), *lines, b"", b"")) + body
    if dice.random() < 0.05:
        data = mutated_bytes(dice, data, dice.choice((1, 2, 5)))
    if dice.random() < 0.05:
        data += request(number + 1_000_000, seed).data
    return Request(data, data.startswith(b"HEAD "))


def _without_body(dice: Random) -> tuple[bytes, bytes, bytes]:
    path = dice.choice(PATHS)
    if dice.random() < 0.5:
        path = path[: dice.randrange(len(path) + 1)] + dice.choice(ODD_PATHS) + path[dice.randrange(len(path) + 1) :]
    method = dice.choice(METHODS) if dice.random() < 0.3 else "GET"
    return method.encode(), path.encode(), b""


def _with_body(dice: Random) -> tuple[bytes, bytes, bytes]:
    path, tree = dice.choice(BODIES)
    tree = {"model": dice.choice(MODELS), **tree, "stream": dice.random() < 0.4}
    names = [
        name for name in tree if name in ("model", "stream", "messages", "message", "input") or dice.random() < 0.4
    ]
    body = to_json(mutated_tree(dice, {name: tree[name] for name in names}, dice.choice((0, 1, 1, 1, 2, 4))))
    if dice.random() < 0.1:
        body = mutated_bytes(dice, body, dice.choice((1, 1, 3)))
    if dice.random() < 0.01:
        body = dice.choice((b"", b"[]", b"null", to_json(dice.choice(ODD)), body.decode("latin-1").encode("utf-16")))
    if dice.random() < 0.05:
        path += dice.choice(ODD_PATHS)
    return b"POST" if dice.random() < 0.97 else dice.choice(METHODS).encode(), path.encode(), body


def _head_lines(dice: Random, body: bytes) -> list[bytes]:
    lines = [b"Host: localhost"] if dice.random() < 0.97 else []
    if body and dice.random() < 0.97:
        lines.append(b"Content-Type: application/json")
    for _ in range(dice.choice((0, 0, 0, 0, 1, 1, 2, 5))):
        name, values = dice.choice(HEADERS)
        lines.append(f"{name}: {dice.choice(values)}".encode("latin-1"))
    if dice.random() < 0.05:
        lines.append(dice.choice(ODD_LINES))
    if dice.random() < 0.01:
        lines += [b"X-Many: %d" % number for number in range(dice.choice((90, 150, 3000)))]
    return lines
