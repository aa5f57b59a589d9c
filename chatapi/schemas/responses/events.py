"""Chunks → the typed events of a response: items begin, grow and end one after the other, each under one id."""

import json
from collections.abc import Mapping, Sequence

from ...chat import ChatJob, Chunk, Json, Usage
from ...errors import ChatError
from ..strict_json import dumps
from .dump import (
    INCOMPLETE,
    begun,
    call_item,
    ended,
    message_item,
    new_id,
    reasoning_item,
    text_part,
    thought_in,
    tokens_of,
    tool_calls,
)

# What a part is called in the names of its events, and the key of its whole text in the last of them.
EVENTS = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning_text": ("response.reasoning_text", "text"),
    "arguments": ("response.function_call_arguments", "arguments"),
}


class Part:
    """One growing text: an item's content part, or a call's arguments.

    `pieces` is what came, escaped as inside of a JSON string; `before` and `after` is what each event of it has
    around a piece, up to its sequence number.
    """

    def __init__(self, kind: str, at: Mapping[str, object]) -> None:
        self.kind = kind
        self.at = at
        self.pieces: list[bytes] = []
        self.tokens: list[Json] = []
        name = f"{EVENTS[kind][0]}.delta"
        head = dumps({"type": name, **at})[:-1]
        self.before = b"event: " + name.encode() + b"\ndata: " + head + b',"delta":"'
        self.after = b'","logprobs":[],"sequence_number":' if kind == "output_text" else b'","sequence_number":'

    @property
    def text(self) -> str:
        """All of it; characters that two pieces share are whole here."""
        whole: str = json.loads(b'"' + b"".join(self.pieces) + b'"')
        return whole

    @property
    def value(self) -> Json:
        """The part as content of its item."""
        return text_part(self.kind, self.text, self.tokens)


class Item:
    """One output item and its parts, of which only the last may still grow. A call's one part is its arguments."""

    def __init__(self, kind: str, index: int, call_id: str = "", name: str = "") -> None:
        self.kind = kind
        self.index = index
        self.id = new_id({"reasoning": "rs", "message": "msg", "function_call": "fc"}[kind])
        self.call_id = call_id
        self.name = name
        self.parts: list[Part] = []
        self.finished: Json | None = None

    def value(self, status: str) -> Json:
        """The item as it stands."""
        if self.kind == "function_call":
            arguments = self.parts[0].text if self.parts else ""
            return call_item(self.id, self.call_id, self.name, arguments, status)
        make = reasoning_item if self.kind == "reasoning" else message_item
        return make(self.id, [part.value for part in self.parts], status)

    @property
    def is_whole(self) -> bool:
        """Whether a call's arguments are JSON that nothing can follow."""
        try:
            return isinstance(json.loads(self.parts[0].text), dict)
        except ValueError:
            return False


class ResponseWriter:
    """The events of one response."""

    def __init__(self, job: ChatJob) -> None:
        self._id = new_id("resp")
        self._created_at: int = job.echo["created_at"]
        # The settings may be long (instructions, tools) and stand in at least three events: they are written once.
        self._settings = dumps(job.echo["settings"])[1:]
        self._logprobs: bool = job.echo["logprobs"]
        self._model = job.model
        self._number = 0  # of the next event
        self._items: list[Item] = []
        self._calls: dict[int, Item] = {}
        self._named: Item | None = None  # a call whose arguments have not begun: its name may still grow
        self._usage: Usage | None = None
        self._finish_reason = ""

    def chunk(self, chunk: Chunk) -> bytes:
        """What is new in choice 0. The finish and the usage are for the end."""
        self._model = chunk.model
        self._usage = chunk.usage or self._usage
        events = self._begin()
        for choice in chunk.choices:
            if choice["index"] == 0:
                events += self._delta(choice["delta"], tokens_of(choice) if self._logprobs else [])
                self._finish_reason = choice["finish_reason"] or self._finish_reason
        return events

    def pieces(self, pieces: list[bytes]) -> bytes:
        """An event for each piece of text."""
        opened, part = self._growing("message", "output_text")
        return opened + self._grow(part, pieces)

    def end(self) -> bytes:
        """The response as a whole, after the ends of what has one: what broke off has none."""
        events = self._begin() + self._open_named()
        if not self._items:
            events += self._growing("message", "output_text")[0]
        reason = INCOMPLETE.get(self._finish_reason)
        events += b"".join(map(self._finish, self._items[:-1] if reason else self._items))
        head = ended(self._id, self._created_at, self._model, self._output(), self._usage, reason)
        return events + self._lifecycle("response.incomplete" if reason else "response.completed", head)

    def error(self, error: ChatError, request_id: str) -> bytes:
        """The last event of a response that failed: what was sent is there, and nothing is said to be done."""
        events = self._begin() + self._open_named()
        head = begun(self._id, self._created_at, self._model, "failed")
        said = {
            "code": "rate_limit_exceeded" if error.status == 429 else "server_error",
            "message": error.message,
            "reason": error.code,
            "retryable": error.retryable,
            "request_id": request_id,
        }
        return events + self._lifecycle("response.failed", head | {"error": said, "output": self._output()})

    def _begin(self) -> bytes:
        """That the response has begun, before whatever comes first: it is known by then which model answers."""
        if self._number:
            return b""
        head = begun(self._id, self._created_at, self._model)
        return self._lifecycle("response.created", head) + self._lifecycle("response.in_progress", head)

    # --- growing

    def _delta(self, delta: Mapping[str, object], tokens: list[Json]) -> bytes:
        events = b""
        if thought := thought_in(delta):
            events += self._say("reasoning", "reasoning_text", thought)
        if delta.get("content") or tokens:
            events += self._say("message", "output_text", str(delta.get("content") or ""), tokens)
        if refusal := delta.get("refusal"):
            events += self._say("message", "refusal", str(refusal))
        for call in tool_calls(delta):
            events += self._call(call)
        return events

    def _say(self, kind: str, part_kind: str, text: str, tokens: Sequence[Json] = ()) -> bytes:
        opened, part = self._growing(kind, part_kind)
        piece = dumps(text)[1:-1]
        if not tokens:
            return opened + self._grow(part, [piece])
        part.pieces.append(piece)
        part.tokens += tokens
        fields = {**part.at, "delta": text, "logprobs": tokens}
        return opened + self._event(f"{EVENTS[part_kind][0]}.delta", fields)

    def _grow(self, part: Part, pieces: list[bytes]) -> bytes:
        part.pieces += pieces
        before, after, first = part.before, part.after, self._number
        self._number += len(pieces)
        return b"".join([b"%b%b%b%d}\n\n" % (before, piece, after, n) for n, piece in enumerate(pieces, first)])

    def _growing(self, kind: str, part_kind: str) -> tuple[bytes, Part]:
        """The part that grows, and the events by which it began where it did so now."""
        item = self._items[-1] if self._items else None
        if item and item.kind == kind and not item.finished:
            if item.parts[-1].kind == part_kind:
                return b"", item.parts[-1]
            events = self._finish_part(item)
        else:
            events = self._finish_former()
            item = Item(kind, len(self._items))
            events += self._open(item)
        part = Part(part_kind, {"item_id": item.id, "output_index": item.index, "content_index": len(item.parts)})
        item.parts.append(part)
        return events + self._event("response.content_part.added", {**part.at, "part": part.value}), part

    def _call(self, given: Json) -> bytes:
        """A call begins, or its arguments grow. Its item is added with its whole name: where the arguments begin."""
        function, index = given.get("function") or {}, given.get("index", 0)
        item, events = self._calls.get(index), b""
        if item is None:
            events = self._finish_former()
            call_id = given.get("id") or new_id("call")
            item = self._calls[index] = self._named = Item("function_call", len(self._items), call_id)
        if item is self._named:
            item.name += function.get("name") or ""
        if (arguments := function.get("arguments")) and not item.finished:
            events += self._open_named()
            events += self._grow(item.parts[0], [dumps(arguments)[1:-1]])
        return events

    def _open_named(self) -> bytes:
        """Add the call of which nothing but its name has come."""
        if (item := self._named) is None:
            return b""
        self._named = None
        events = self._open(item)
        item.parts.append(Part("arguments", {"item_id": item.id, "output_index": item.index}))
        return events

    def _open(self, item: Item) -> bytes:
        self._items.append(item)
        return self._begin() + self._event(
            "response.output_item.added", {"output_index": item.index, "item": item.value("in_progress")}
        )

    # --- ending

    def _finish_former(self) -> bytes:
        """Another item begins, and ends the one before it; but a call whose arguments are not whole may go on."""
        return self._open_named() + self._finish_last()

    def _finish_last(self) -> bytes:
        former = self._items[-1] if self._items else None
        if former is None or (former.kind == "function_call" and not former.is_whole):
            return b""
        return self._finish(former)

    def _finish(self, item: Item) -> bytes:
        if item.finished:
            return b""
        events = self._finish_part(item)
        item.finished = item.value("completed")
        return events + self._event("response.output_item.done", {"output_index": item.index, "item": item.finished})

    def _finish_part(self, item: Item) -> bytes:
        part = item.parts[-1]
        name, key = EVENTS[part.kind]
        fields = {**part.at, key: part.text}
        if part.kind == "arguments":
            return self._event(f"{name}.done", fields | {"name": item.name})
        if part.kind == "output_text":
            fields["logprobs"] = part.tokens
        events = self._event(f"{name}.done", fields)
        return events + self._event("response.content_part.done", {**part.at, "part": part.value})

    def _output(self) -> list[Json]:
        return [item.finished or item.value("incomplete") for item in self._items]

    # --- rendering

    def _event(self, name: str, fields: Mapping[str, object]) -> bytes:
        data = dumps({"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"

    def _lifecycle(self, name: str, head: Json) -> bytes:
        start = dumps({"type": name, "sequence_number": self._number})[:-1]
        self._number += 1
        response = dumps(head)[:-1] + b"," + self._settings
        return b"event: " + name.encode() + b"\ndata: " + start + b',"response":' + response + b"}\n\n"
