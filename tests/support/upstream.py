"""A real HTTP server that plays Hugging Face: its three skins, its errors and its worst days.

    with Upstream() as up:
        requests.post(up.url + "/v1/chat/completions", json={"model": "test/cut", "stream": True, ...})
        assert up.calls_for("test/cut")[0].finished is False

What it does is chosen by the model id: the body's `model`, the id in the classic path, or a path prefix
`/at/{org}/{name}` which makes one server look like many endpoints of one's own. `BEHAVIOURS` holds the
built-in ids (`test/...`); `Upstream.behave` and `Upstream.sequence` add more. Everything is deterministic.
The texts are Hugging Face's own, as recorded; "HF" in a comment cites the wire-protocol reference.
"""

from __future__ import annotations

import dataclasses
import json
import re
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from itertools import count
from typing import Any, BinaryIO, NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from support.faults import QUIRKS, REFUSALS, Quirk

Behaviour: TypeAlias = "Callable[[Exchange], None] | Fault"

PIECES = ("Hel", "lo", " from", " up", "stream", ".")
TEXT = "".join(PIECES)
JSON, PLAIN, HTML, SSE = "application/json", "text/plain; charset=utf-8", "text/html", "text/event-stream"
# POLLRDHUP tells a peer's FIN even when pipelined bytes are waiting; where it is missing POLLIN must do.
PEER_LEFT = getattr(select, "POLLRDHUP", select.POLLIN)
RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Gone(Exception):
    """The client has left, or the behaviour has dropped the connection: nothing more can be written."""


# ---------------------------------------------------------------- one request, one connection


class Headers(dict[str, str]):
    """Request headers; names in any case."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


@dataclasses.dataclass
class Call:
    """One request as it was read. `at` and `client_closed_at` are time.monotonic() seconds."""

    method: str
    path: str
    headers: Headers
    raw_body: bytes
    connection: int
    body: Any = None
    at: float = dataclasses.field(default_factory=time.monotonic)
    model: str | None = None  # the id that chose the behaviour, without its :suffix
    status: int | None = None  # the status sent, if any was
    finished: bool = False  # the whole answer was written
    client_closed_at: float | None = None  # during the answer, or after it when `finished`


class Connection:
    """A client's TCP connection."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.number, self.open = sock, number, True
        self.reader: BinaryIO = sock.makefile("rb")
        self.poller = select.poll()
        self.poller.register(sock, PEER_LEFT)

    def peer_left(self, within_s: float) -> bool:
        return bool(self.poller.poll(max(0, within_s) * 1000))

    def drop(self, reset: bool = False) -> None:
        """Close with FIN, or with RST; may be called again."""
        if self.open:
            self.open = False
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            self.reader.close()
            self.sock.close()

    def read_call(self) -> Call | None:
        """The next request, or None when the client closes or talks nonsense."""
        try:
            method, target, _ = self.reader.readline().decode("latin-1").split(" ", 2)
            headers = Headers()
            while line := self.reader.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = b"".join(self._body(headers))
        except (ValueError, OSError):
            return None
        return Call(method, unquote(urlsplit(target).path), headers, body, self.number)

    def _body(self, headers: Headers) -> Iterator[bytes]:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            yield self.reader.read(int(headers.get("content-length", 0)))
            return
        while size := int(self.reader.readline().split(b";")[0], 16):
            yield self.reader.read(size)
            self.reader.readline()
        self.reader.readline()


class Exchange:
    """What a behaviour holds: the request, and the means to answer it byte by byte."""

    def __init__(self, upstream: Upstream, connection: Connection, call: Call) -> None:
        self.upstream, self.connection, self.call = upstream, connection, call
        self.skin = "chat"  # "chat", "classic" or "generate"
        self.own = False  # reached by /at/ or a bare TGI route: an endpoint of one's own
        self.path = call.path  # without the /at/ prefix
        self.stream = False
        self.attempt = 1  # which request for this model this is, since behave() or reset()
        self.chunked = False

    @property
    def model(self) -> str:
        return self.call.model or "tgi"

    @property
    def body(self) -> dict[str, Any]:
        return self.call.body if isinstance(self.call.body, dict) else {}

    @property
    def parameters(self) -> dict[str, Any]:
        """Sampling parameters, wherever this skin keeps them."""
        return self.body if self.skin == "chat" else self.body.get("parameters") or {}

    # -- whole answers

    def send_json(self, status: int, obj: Any, headers: dict[str, str] | None = None) -> None:
        self.send_raw(status, json.dumps(obj, ensure_ascii=False).encode(), JSON, headers)

    def send_raw(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        fields = {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}
        self.wire(self.head(status, {k: v for k, v in fields.items() if v}) + body, last=True)

    # -- streams

    def start_stream(
        self, headers: dict[str, str] | None = None, chunked: bool = True, content_type: str = SSE
    ) -> None:
        """Send the head of a 200 stream; without chunked its end is the end of the connection."""
        self.chunked = chunked
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
        fields = {"Content-Type": content_type, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self.wire(self.head(200, {**fields, **framing, **(headers or {})}))

    def event(self, item: Any) -> None:
        """Send one SSE event: an object as JSON, a string as it is."""
        self.raw(b"data: " + payload(item) + b"\n\n")

    def raw(self, data: bytes) -> None:
        """Send bytes of the body, as one chunk if the answer is chunked."""
        self.wire(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)

    def end(self) -> None:
        """End a stream as its framing asks."""
        if self.chunked:
            self.wire(b"0\r\n\r\n", last=True)
        else:
            self.call.finished = True
            self.connection.drop()

    # -- the wire itself

    def head(self, status: int, headers: dict[str, str]) -> bytes:
        self.call.status = status
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def wire(self, data: bytes, last: bool = False) -> None:
        """Send bytes as they are, with no framing added; `last` marks the call as finished."""
        if self.call.client_closed_at or not self.connection.open:
            raise Gone
        self.call.finished = last  # before sending: a client who has read it all must find it said
        try:
            self.connection.sock.sendall(data)
        except OSError:
            self.call.finished = False
            self.mark_left()
            raise Gone from None

    def close(self) -> None:
        """Close with FIN, whatever has been sent: a chunked body stays without its end."""
        self.connection.drop()

    def reset(self) -> None:
        """Close with RST."""
        self.connection.drop(reset=True)

    def sleep(self, seconds: float) -> bool:
        """Wait; False, at once, when the client has left. Later writes then end the behaviour."""
        if self.call.client_closed_at is None and self.connection.peer_left(seconds):
            self.mark_left()
        return self.call.client_closed_at is None

    def mark_left(self) -> None:
        self.call.client_closed_at = self.call.client_closed_at or time.monotonic()


def payload(item: Any) -> bytes:
    return (item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)).encode()


# ---------------------------------------------------------------- the server


class Upstream:
    """The server. `token`, when set, is the only one accepted, beside hf_noperm (403) and hf_broke (402)."""

    def __init__(self, token: str | None = None, port: int = 0) -> None:
        self.token = token
        self.calls: list[Call] = []
        self.failures: list[Exception] = []  # bugs in behaviours; the context manager raises the first
        self._lock = threading.Lock()
        self._special: dict[str, list[Behaviour]] = {}
        self._attempts: Counter[str] = Counter()
        self._connections: dict[int, Connection] = {}
        self._numbers = count(1)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._accept, name="upstream", daemon=True).start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.stop()
        if self.failures and kind is None:
            raise self.failures[0]

    def stop(self) -> None:
        for sock in [self._listener, *(c.sock for c in list(self._connections.values()))]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    # -- for tests

    def calls_for(self, model: str) -> list[Call]:
        return [call for call in list(self.calls) if call.model == model]

    def reset(self) -> None:
        """Forget calls, attempts and what behave() and sequence() said; no token."""
        with self._lock:
            self.calls.clear()
            self._special.clear()
            self._attempts.clear()
        self.token = None

    def behave(self, model: str, behaviour: Behaviour | str) -> None:
        """Answer for a model; a string borrows a built-in behaviour by its id, with or without `test/`."""
        self.sequence(model, [behaviour])

    def sequence(self, model: str, behaviours: Sequence[Behaviour | str]) -> None:
        """One behaviour per attempt; the last repeats."""
        with self._lock:
            self._special[model] = [built_in(b) if isinstance(b, str) else b for b in behaviours]
            self._attempts[model] = 0

    def wait_for(self, predicate: Callable[[], Any], timeout: float = 5) -> Any:
        """The predicate's first true value; AssertionError when it stays false."""
        deadline = time.monotonic() + timeout
        while not (value := predicate()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout} s; calls: {self.calls}")
            time.sleep(0.005)
        return value

    # -- connections

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(sock, next(self._numbers))
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        self._connections[connection.number] = connection
        exchange = None
        while connection.open and (call := connection.read_call()):
            exchange = Exchange(self, connection, call)
            self._answer(exchange)
            if not call.finished or call.headers.get("connection", "").lower() == "close":
                break
        if exchange and connection.open:
            exchange.sleep(0)
            if exchange.call.finished:
                exchange.mark_left()
        connection.drop()
        self._connections.pop(connection.number, None)

    def _answer(self, x: Exchange) -> None:
        handler = route(x)
        with self._lock:
            self.calls.append(x.call)
        try:
            handler(x)
        except Gone:
            pass
        except Exception as error:  # a bug of ours: the test must see it, the client a dead upstream
            self.failures.append(error)

    def behaviour_for(self, x: Exchange) -> Behaviour | None:
        """What this attempt shall do, or None for an unknown model; counts the attempt."""
        with self._lock:
            self._attempts[x.model] += 1
            x.attempt = self._attempts[x.model]
            if special := self._special.get(x.model):
                return special[min(x.attempt, len(special)) - 1]
        if x.skin == "chat" and not x.own and x.model in SEEDS:
            return None  # the router serves none of them as chat (HF 1.8)
        return BEHAVIOURS.get(x.model) or SEEDS.get(x.model)

    def served(self) -> list[str]:
        return sorted({*BEHAVIOURS, *self._special})


# ---------------------------------------------------------------- routes


SUFFIX = re.compile(
    "|fastest|cheapest|preferred|baseten|cerebras|cohere|deepinfra|fal-ai|featherless-ai|fireworks-ai|groq|"
    "hf-inference|novita|nscale|ovhcloud|publicai|replicate|scaleway|together|wavespeed|zai-org"
)
MAX_TGI_BODY, MAX_INPUT, MAX_TOTAL = 2_000_000, 1024, 2048


def route(x: Exchange) -> Callable[[Exchange], None]:
    """Read the path: skin, stream and model into the exchange; who shall answer is returned."""
    if prefix := re.match(r"/at/([^/]+/[^/]+)(/.*|$)", x.path):
        x.own, x.call.model, x.path = True, prefix[1], prefix[2] or "/"
    try:
        x.call.body = json.loads(x.call.raw_body)
    except ValueError:
        x.call.body = None
    for method, pattern, skin, handler in ROUTES:
        if method == x.call.method and (match := re.fullmatch(pattern, x.path)):
            x.skin, x.own = skin, x.own or skin == "generate"
            named = match.groupdict().get("id") or x.body.get("model")
            if x.call.model is None and isinstance(named, str):
                x.call.model = named.partition(":")[0]
            streams = skin == "chat" or x.path == "/"
            x.stream = x.path == "/generate_stream" or (streams and x.body.get("stream") is True)
            return handler
    return lambda x: x.send_raw(404, b"Not Found", PLAIN)


def completion(x: Exchange) -> None:
    """Any generation: who asks, what is asked, and only then the behaviour."""
    for check in (refuse_caller, refuse_media, refuse_model):
        if answer := check(x):
            return answer.send(x)
    if x.skin == "generate" and refuse_generate(x):
        return None
    behaviour = x.upstream.behaviour_for(x)
    return behaviour(x) if behaviour else unknown_model(x).send(x)


def refuse_caller(x: Exchange) -> Fault | None:
    if x.upstream.token is None:
        return None
    token = x.call.headers.get("authorization")
    slugs = {f"Bearer {x.upstream.token}": None, "Bearer hf_noperm": "no-permission", "Bearer hf_broke": "depleted"}
    slug = slugs.get(token, "endpoint-401" if x.own else "bad-token" if token else "no-token")
    return ERRORS[slug] if slug else None


def refuse_media(x: Exchange) -> Fault | None:
    if x.own and len(x.call.raw_body) > MAX_TGI_BODY:
        return ERRORS["tgi-413"]
    if not x.call.headers.get("content-type", "").startswith(JSON):
        return ERRORS["media-type"]
    return None if isinstance(x.call.body, dict) else ERRORS["bad-json"]


def refuse_model(x: Exchange) -> Fault | None:
    suffix = str(x.body.get("model", "")).partition(":")[2]
    if x.skin != "chat" or x.own or SUFFIX.fullmatch(suffix):
        return None
    message = f"the provider you attempted to explicitly specify '{suffix}' is not a valid provider."
    return model_error(message, "model_not_supported")


def unknown_model(x: Exchange) -> Fault:
    if x.own:
        slug = "vllm-not-found" if x.skin == "chat" else "does-not-exist"
        return ERRORS[slug]
    if x.skin == "classic":
        return ERRORS["provider-unsupported"]
    if "/" not in x.model:
        return model_error(f"The requested model '{x.model}' does not exist", "model_not_found")
    message = f"The requested model '{x.model}' is not supported by any provider you have enabled."
    return model_error(message, "model_not_supported")


def refuse_generate(x: Exchange) -> bool:
    """TGI's own checks (HF 2.2): a wrong type is a 422 always, a wrong value an event in a stream."""
    if text := deserialize_error(x.body):
        x.send_raw(422, f"Failed to deserialize the JSON body into the target type: {text}".encode(), PLAIN)
    elif text := validation_error(x):
        error = {"error": f"Input validation error: {text}", "error_type": "validation"}
        if x.stream:
            play(x, [error])
        else:
            x.send_json(422, error)
    else:
        return False
    return True


def deserialize_error(body: dict[str, Any]) -> str | None:
    if not isinstance(body.get("inputs"), str):
        return "missing field `inputs` at line 1 column 2"
    for name, value in (body.get("parameters") or {}).items():
        kind, expected = TGI_TYPES.get(name, (object, ""))
        wrong_bool = isinstance(value, bool) and kind is not bool and kind is not object
        if value is not None and (wrong_bool or not isinstance(value, kind)):
            shown = f"{type(value).__name__} {json.dumps(value)}".replace("str ", "string ")
            return f"parameters.{name}: invalid type: {shown}, expected {expected} at line 1 column 2"
    return None


def validation_error(x: Exchange) -> str | None:
    inputs, given = x.body["inputs"], x.parameters
    if not inputs:
        return "`inputs` cannot be empty"
    for name, valid, text in TGI_RULES:
        if given.get(name) is not None and not valid(given[name]):
            return text.format(len(given[name]) if name == "stop" else given[name])
    tokens, new = count_tokens(inputs), given.get("max_new_tokens") or 0
    if tokens + new > MAX_TOTAL:
        return (
            f"`inputs` tokens + `max_new_tokens` must be <= {MAX_TOTAL}. "
            f"Given: {tokens} `inputs` tokens and {new} `max_new_tokens`"
        )
    return f"`inputs` must have less than {MAX_INPUT} tokens. Given: {tokens}" if tokens > MAX_INPUT else None


FLOATS = ("temperature", "top_p", "typical_p", "repetition_penalty", "frequency_penalty")
WHOLES = ("top_k", "max_new_tokens", "seed", "truncate", "best_of", "top_n_tokens")
BOOLS = ("do_sample", "return_full_text", "details", "watermark")
TGI_TYPES: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(FLOATS, ((int, float), "f32")),
    **dict.fromkeys(WHOLES, (int, "u32")),
    **dict.fromkeys(BOOLS, (bool, "bool")),
    "stop": (list, "a sequence"),
}
TGI_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("temperature", lambda v: v > 0, "`temperature` must be strictly positive"),
    ("top_p", lambda v: 0 < v < 1, "`top_p` must be > 0.0 and < 1.0"),
    ("typical_p", lambda v: 0 < v < 1, "`typical_p` must be > 0.0 and < 1.0"),
    ("top_k", lambda v: v > 0, "`top_k` must be strictly positive"),
    ("repetition_penalty", lambda v: v > 0, "`repetition_penalty` must be strictly positive"),
    ("frequency_penalty", lambda v: -2 <= v <= 2, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ("max_new_tokens", lambda v: v > 0, "`max_new_tokens` must be strictly positive"),
    ("stop", lambda v: len(v) <= 4, "`stop` supports up to 4 stop sequences. Given: {}"),
)


def models(x: Exchange) -> None:
    if x.own:
        one = {"id": x.model, "object": "model", "created": 0, "owned_by": x.model}
        return x.send_json(200, {"object": "list", "data": [one]})
    return x.send_json(200, {"object": "list", "data": [model_card(id) for id in x.upstream.served()]})


def model(x: Exchange) -> None:
    if x.model in x.upstream.served():
        return x.send_json(200, model_card(x.model))
    fault = model_error(f"The requested model '{x.model}' does not exist", "model_not_found")
    return fault._replace(status=404).send(x)


def model_card(id: str) -> dict[str, Any]:
    """A row of the router's list (HF 1.5): only `provider` and `status` are always there."""
    owner = id.partition("/")[0]
    return {"id": id, "object": "model", "created": 1770000000, "owned_by": owner, **json.loads(MODEL_FACTS)}


MODEL_FACTS = """{
"architecture":{"input_modalities":["text"],"output_modalities":["text"]},
"providers":[
 {"provider":"together","status":"live","context_length":131072,"pricing":{"input":0.6,"output":0.9},
  "supports_tools":true,"supports_structured_output":false,
  "first_token_latency_ms":612,"throughput":41.5,"is_model_author":false},
 {"provider":"featherless-ai","status":"live","context_length":32768,"is_model_author":false},
 {"provider":"novita","status":"error"}]}"""


def redirected(x: Exchange) -> None:
    """Where `test/redirect` points to. It answers well, so only `calls` tells that somebody followed."""
    x.send_json(200, chat_whole(x, PIECES, "stop"))


ROUTES: tuple[tuple[str, str, str, Callable[[Exchange], None]], ...] = (
    ("POST", r"/v1/chat/completions", "chat", completion),
    ("POST", r"/hf-inference/models/(?P<id>.+)/v1/chat/completions", "chat", completion),
    ("POST", r"/hf-inference/models/(?P<id>.+)", "classic", completion),
    ("POST", r"/generate|/generate_stream|/", "generate", completion),
    ("GET", r"/v1/models", "chat", models),
    ("GET", r"/v1/models/(?P<id>.+)", "chat", model),
    ("GET", r"/health", "generate", lambda x: x.send_raw(200, b"", "")),
    ("GET", r"/redirected", "chat", redirected),
    ("POST", r"/redirected", "chat", redirected),
)


# ---------------------------------------------------------------- what a healthy model says


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


def limited(x: Exchange, pieces: Sequence[str], finish: str) -> tuple[Sequence[str], str]:
    """Cut the answer at the caller's token limit, as a model does."""
    names = ("max_completion_tokens", "max_tokens") if x.skin == "chat" else ("max_new_tokens",)
    limit = next((x.parameters[name] for name in names if x.parameters.get(name)), None)
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


# ---------------------------------------------------------------- errors, in Hugging Face's own words


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


# ---------------------------------------------------------------- behaviours


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


def counted(x: Exchange, number: int) -> list[str]:
    return [f"tok{i} " for i in range(number)]


@behaviour("echo")
def echo(x: Exchange) -> None:
    say(x, TOKEN.findall(last_user_text(x)))


@behaviour("paced")
def paced(x: Exchange) -> None:
    names = ("max_completion_tokens", "max_tokens", "max_new_tokens")
    number = next((x.parameters[name] for name in names if x.parameters.get(name)), 20)
    say(x, counted(x, number), pause=0.05)


@behaviour("continue")
def carry_on(x: Exchange) -> None:
    """Continues a last assistant message that begins the known answer, as TGI does; else says it whole."""
    last = (x.body.get("messages") or [{}])[-1]
    begun = spoken(last.get("content")) if last.get("role") == "assistant" else ""
    say(x, TOKEN.findall(TEXT.removeprefix(begun)))


@behaviour("rate-retry-after-date")
def retry_after_date(x: Exchange) -> None:
    rate({"Retry-After": formatdate(time.time() + 2, usegmt=True)}).send(x)


def rate(headers: dict[str, str]) -> Fault:
    return fault(429, "Too many requests", EVERY, headers)


@behaviour("body-truncated")
def body_truncated(x: Exchange) -> None:
    body = payload(chat_whole(x, PIECES, "stop") if x.skin == "chat" else [{"generated_text": TEXT}])
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
        body = payload(chat_whole(x, PIECES, "stop") if x.skin == "chat" else [{"generated_text": TEXT}])
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
    "slow": lambda x: say(x, counted(x, 40), pause=0.05),
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
    "body-no-choices": lambda x: x.send_json(200, chat_object(x, "chat.completion", [])),
    "redirect": Fault(302, PLAIN, "Found", {"Location": "/redirected"}, EVERY),
    "whole-for-stream": whole,
}
BEHAVIOURS |= {f"test/{name}": function for name, function in SIMPLE.items()}

ONCE = [name for name, function in SIMPLE.items() if isinstance(function, Fault)]
ONCE += ["rate-retry-after-date", "reset", "close", "silent", "body-truncated"]
BEHAVIOURS |= {f"test/{name}-once": once(BEHAVIOURS[f"test/{name}"]) for name in ONCE}


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
BEHAVIOURS |= {f"test/{name}": streamed(edit) for name, edit in EDITS.items()}
FINISHES = {"stop-sequence": "stop_sequence", "eos-token": "eos_token", "finish-length": "length"}
BEHAVIOURS |= {f"test/{n}": streamed(lambda x, s: s.whole(), word) for n, word in FINISHES.items()}


# -- odd forms of chat answers: the rows of the table


def odd(quirk: Quirk) -> Behaviour:
    """A row as it is sent; text models, which it is not about, answer well."""

    def send(x: Exchange) -> None:
        if x.skin != "chat":
            return say(x)
        return play(x, quirk.stream_data()) if x.stream else x.send_raw(200, quirk.whole_body().encode(), JSON)

    return send


BEHAVIOURS |= {f"test/quirk-{name}": odd(quirk) for name, quirk in QUIRKS.items()}


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
BEHAVIOURS |= {f"test/{name}": broken(ending) for name, ending in BREAKS.items()}


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
BYTES: dict[str, Behaviour] = {
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
BEHAVIOURS |= {f"test/{name}": function for name, function in BYTES.items()}


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
        pieces, _ = limited(x, PIECES, "stop")
        prompt = prompt_text(x) if echoes and x.parameters.get("return_full_text") is not False else ""
        return x.send_json(200, [{"generated_text": prompt + "".join(pieces)}], answer_headers(x, 0))

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


if __name__ == "__main__":  # play with it by hand: python -m support.upstream
    with Upstream(port=8081) as playing:
        print(playing.url, *playing.served(), sep="\n")
        threading.Event().wait()
