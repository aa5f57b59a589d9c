"""OpenAI's chat completions, in and out: `POST /v1/chat/completions`."""

import os
import time
from typing import Any

from marshmallow import Schema, ValidationError

from ..chat import ChatJob, Chunk, Json, Reply, Usage
from ..errors import ChatError
from ..languages import N_, _
from .dialect import CONVERSATION, COUNT, ERROR_FIELDS, STRING, USAGE, Dialect, object_of, or_null
from .fields import Flag, Integer, ModelIds, Number, Object, Stop, TextOrObject
from .loading import Items, Messages, ModelId, Text, job_of, load
from .strict_json import dumps

ROLES = ("user", "assistant", "system", "developer", "tool", "function")


class StreamOptions(Object):
    """`include_usage` is true or false; what else is in it is for the model to judge."""

    keywords = {"properties": {"include_usage": or_null("boolean")}}

    def _checked(self, value: Json) -> Json:
        if not isinstance(value.get("include_usage"), bool | None):
            raise ValidationError({"include_usage": [_("must be true or false")]})
        return value


class OpenAIFields(Schema):
    """OpenAI's fields as openai-python sends them; null means not set, as it does there."""

    fallbacks = ModelIds(allow_none=True)
    max_completion_tokens = Integer(1, allow_none=True)
    stop = Stop(allow_none=True)
    n = Integer(1, allow_none=True)
    seed = Integer(allow_none=True)
    presence_penalty = Number(-2, 2, allow_none=True)
    frequency_penalty = Number(-2, 2, allow_none=True)
    logprobs = Flag(allow_none=True)
    top_logprobs = Integer(0, 20, allow_none=True)
    logit_bias = Object(allow_none=True)
    tools = Items(allow_none=True)
    tool_choice = TextOrObject(allow_none=True)
    parallel_tool_calls = Flag(allow_none=True)
    response_format = Object(allow_none=True)
    stream_options = StreamOptions(allow_none=True)
    user = Text(allow_none=True)
    reasoning_effort = Text(allow_none=True)
    metadata = Object(allow_none=True)
    functions = Items(allow_none=True)
    function_call = TextOrObject(allow_none=True)


class OpenAISchema(OpenAIFields):
    """OpenAI's printed ranges; the rest is for the model to judge."""

    messages = Messages(ROLES, None, required=True)
    model = ModelId(required=True)
    stream = Flag(allow_none=True)
    temperature = Number(0, 2, allow_none=True)
    max_tokens = Integer(1, allow_none=True)
    top_p = Number(0, 1, allow_none=True)
    top_k = Integer(1, allow_none=True)
    repetition_penalty = Number(above=0, allow_none=True)
    max_time = Integer(1, 120, allow_none=True)


def load_job(body: Json, default_model: str = "") -> ChatJob:
    """The job; fields nobody here knows go on to chat upstreams as they are. Raises BadRequest."""
    extra = {name: value for name, value in body.items() if name not in OpenAISchema._declared_fields}
    data = load(OpenAISchema, body)
    include_usage = (data.get("stream_options") or {}).get("include_usage") is True
    return job_of(data, messages=data["messages"], include_usage=include_usage, extra=extra, strict=True)


def dump_reply(reply: Reply, job: ChatJob) -> Json:
    """A chat.completion object; what the upstream added beside it comes last."""
    body: Json = {
        "id": completion_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": reply.model,
        "choices": reply.choices,
        "usage": {**counts(reply.usage), **reply.usage.details},
    }
    if reply.system_fingerprint:
        body["system_fingerprint"] = reply.system_fingerprint
    return {**reply.extra, **body} if reply.extra else body


def counts(usage: Usage) -> Json:
    """Tokens under OpenAI's names."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def dump_error(error: ChatError, request_id: str) -> Json:
    """OpenAI's error object."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "retryable": error.retryable,
            "request_id": request_id,
        }
    }


def error_headers(error: ChatError) -> dict[str, str]:
    """Whether an SDK should try again by itself."""
    return {"x-should-retry": "true" if error.retryable else "false"}


def completion_id() -> str:
    """A new id, of our own."""
    return f"chatcmpl-{os.urandom(16).hex()}"


class ChunkWriter:
    """chat.completion.chunk events; `dump_failure` is the dialect's error shape."""

    def __init__(self, job: ChatJob, dump_failure: Any = dump_error) -> None:
        self._include_usage = job.include_usage
        self._dump_failure = dump_failure
        self._id, self._created = completion_id(), int(time.time())
        self._of: tuple[Any, ...] | None = None
        self._prefix = b""  # of an event up to its choices: the same for all that one model sends
        self._text_prefix = b""
        self._text_suffix = b'"},"logprobs":null,"finish_reason":null}]'
        self._text_suffix += b',"usage":null}\n\n' if job.include_usage else b"}\n\n"

    def chunk(self, chunk: Chunk) -> bytes:
        """One event for each choice: clients read `choices[0]`; the usage's has none."""
        if self._of != (of := (chunk.model, chunk.system_fingerprint)) or chunk.extra:
            self._prefix = self._prefix_of(chunk)
            self._of = None if chunk.extra else of
            self._text_prefix = self._prefix + b'[{"index":0,"delta":{"content":"'
        if chunk.usage:
            if not self._include_usage:
                return b""
            usage = {**counts(chunk.usage), **chunk.usage.details}
            return b'%b[],"usage":%b}\n\n' % (self._prefix, dumps(usage))
        end = b',"usage":null}\n\n' if self._include_usage else b"}\n\n"
        return b"".join([b"%b[%b]%b" % (self._prefix, dumps(choice), end) for choice in chunk.choices])

    def pieces(self, pieces: list[bytes]) -> bytes:
        """An event for each piece."""
        prefix, suffix = self._text_prefix, self._text_suffix
        if len(pieces) == 1:
            return prefix + pieces[0] + suffix
        return prefix + (suffix + prefix).join(pieces) + suffix

    def end(self) -> bytes:
        """As OpenAI's streams end."""
        return b"data: [DONE]\n\n"

    def error(self, error: ChatError, request_id: str) -> bytes:
        """No [DONE] follows: nobody shall take it for a finished answer."""
        return b"data: " + dumps(self._dump_failure(error, request_id)) + b"\n\n"

    def _prefix_of(self, chunk: Chunk) -> bytes:
        head = {**chunk.extra, "id": self._id, "object": "chat.completion.chunk"}
        head |= {"created": self._created, "model": chunk.model}
        if chunk.system_fingerprint:
            head["system_fingerprint"] = chunk.system_fingerprint
        return b"data: " + dumps(head)[:-1] + b',"choices":'


OPENAI = Dialect(
    path="/v1/chat/completions",
    load=load_job,
    dump=dump_reply,
    events=ChunkWriter,
    error=dump_error,
    status=lambda error: error.status,
    headers=error_headers,
    request=("ChatCompletionRequest", OpenAISchema),
    reply=(
        "ChatCompletion",
        object_of(
            {
                "id": STRING,
                "object": {"const": "chat.completion"},
                "created": COUNT,
                "model": STRING,
                "choices": {"type": "array", "items": {"type": "object"}},
            },
            usage=USAGE,
        ),
    ),
    failure=(
        "OpenAIError",
        object_of({"error": object_of({**ERROR_FIELDS, "type": STRING, "param": or_null("string")})}),
    ),
    summary=N_("Answer a conversation in OpenAI's format."),
    details=N_("A `chat.completion` object, or `chat.completion.chunk` events and `[DONE]` where `stream` is true."),
    example=CONVERSATION,
    label="OpenAI",
)
