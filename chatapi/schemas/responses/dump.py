"""A reply → a response object: its output items, what it used, and every setting repeated."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...chat import ChatJob, Choice, Json, Reply, Usage

# Why an answer is incomplete, by its finish reason.
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def dump_reply(reply: Reply, job: ChatJob) -> Json:
    """A response that has come to its end."""
    choice = reply.choices[0]
    output = list(_items(choice, job.echo["logprobs"]))
    if reason := INCOMPLETE.get(choice["finish_reason"]):
        output[-1]["status"] = "incomplete"
    head = ended(new_id("resp"), job.echo["created_at"], reply.model, output, reply.usage, reason)
    return {**head, **job.echo["settings"]}


def new_id(prefix: str) -> str:
    """A new id, of our own."""
    return f"{prefix}_{uuid.uuid4().hex}"


def begun(id: str, created_at: int, model: str, status: str = "in_progress") -> Json:
    """What a response says beside its settings; nothing has been said yet."""
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "status": status,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "usage": None,
    }


def ended(
    id: str, created_at: int, model: str, output: Sequence[Json], usage: Usage | None, reason: str | None
) -> Json:
    """The same of a response with all its `output`, incomplete for `reason` or completed."""
    head = begun(id, created_at, model, "incomplete" if reason else "completed")
    head |= {"output": output, "usage": usage and usage_of(usage)}
    return head | ({"incomplete_details": {"reason": reason}} if reason else {"completed_at": int(time.time())})


def usage_of(usage: Usage) -> Json:
    """Tokens under this format's names, with the details that it always has."""
    prompt, completion = (usage.details.get(f"{of}_tokens_details") for of in ("prompt", "completion"))
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": _count(prompt, "cached_tokens"),
            "cache_write_tokens": _count(prompt, "cache_write_tokens"),
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": _count(completion, "reasoning_tokens")},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _count(details: Any, name: str) -> int:
    given = details.get(name) if isinstance(details, Mapping) else None
    return given if type(given) is int and given >= 0 else 0


# --- output items


def _items(choice: Choice, logprobs: bool) -> Iterator[Json]:
    message = choice["message"]
    calls = tool_calls(message)
    if thought := thought_in(message):
        yield reasoning_item(new_id("rs"), [text_part("reasoning_text", thought)])
    text, refusal = message.get("content") or "", message.get("refusal")
    parts = []
    if text or not (refusal or thought or calls):
        parts.append(text_part("output_text", text, tokens_of(choice) if logprobs else []))
    if refusal:
        parts.append(text_part("refusal", refusal))
    if parts:
        yield message_item(new_id("msg"), parts)
    for call in calls:
        function = call["function"]
        call_id = call.get("id") or new_id("call")
        yield call_item(new_id("fc"), call_id, function["name"], function.get("arguments") or "")


def thought_in(message: Mapping[str, Any]) -> str:
    """The reasoning in a message or delta, under either of the names that servers give it."""
    given = message.get("reasoning_content") or message.get("reasoning")
    return given if isinstance(given, str) else ""


def tool_calls(message: Mapping[str, Any]) -> Sequence[Json]:
    """The calls in a message or delta; the deprecated single one has no id."""
    if (calls := message.get("tool_calls")) or not (call := message.get("function_call")):
        return [_as_function(call) for call in calls or ()]
    return [{"index": 0, "function": call}]


def _as_function(call: Json) -> Json:
    """A custom tool's call in the shape of a function's: nobody could ask for the tool here."""
    custom = call.get("custom")
    if not isinstance(custom, dict):
        return call
    name, given = custom.get("name"), custom.get("input")
    return {**call, "function": {"name": name if isinstance(name, str) else "", "arguments": str(given or "")}}


def reasoning_item(id: str, content: Sequence[Json], status: str = "completed") -> Json:
    """What a model thought."""
    return {"id": id, "type": "reasoning", "status": status, "summary": [], "content": content}


def message_item(id: str, content: Sequence[Json], status: str = "completed") -> Json:
    """What a model said."""
    return {"id": id, "type": "message", "status": status, "role": "assistant", "content": content}


def call_item(id: str, call_id: str, name: str, arguments: str, status: str = "completed") -> Json:
    """A function that the caller is to run."""
    return {
        "id": id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def text_part(kind: str, text: str, tokens: Sequence[Json] = ()) -> Json:
    """A part of an item's content: `output_text`, `refusal` or `reasoning_text`."""
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": tokens or []}
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}


def tokens_of(choice: Choice) -> list[Json]:
    """The log probabilities of a choice's tokens."""
    tokens = (choice.get("logprobs") or {}).get("content") or ()
    return [_token(token) | {"top_logprobs": list(map(_token, token["top_logprobs"]))} for token in tokens]


def _token(given: Json) -> Json:
    text, encoded = given["token"], given["bytes"]
    if encoded is None:
        encoded = list(text.encode(errors="surrogatepass"))
    return {"token": text, "logprob": given["logprob"], "bytes": encoded}
