"""The two `/api` routes: messages (or one message) in, `{"success", "data" | "error"}` out."""

from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from marshmallow import Schema, ValidationError

from ..chat import ChatJob, Json, Reply, has_image, text_of
from ..errors import ChatError, RouteRetired
from ..languages import N_, _
from .dialect import CONVERSATION, ERROR_FIELDS, MODEL, QUESTION, STRING, USAGE, Dialect, object_of
from .fields import Flag, Integer, ModelIds, Number
from .loading import Messages, ModelId, Text, job_of, load
from .openai import ChunkWriter, OpenAIFields, counts

ROLES = ("user", "assistant", "system")
MESSAGE_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id"}
MAX_NAMED = 50  # fields without effect that an answer names


def check_user_turn(messages: list[Json]) -> None:
    """Raises ValidationError unless some user message has text or an image."""
    if not any(m["role"] == "user" and (has_image(m) or text_of(m).strip()) for m in messages):
        raise ValidationError(_("at least one user message must have text or an image"))


class SamplingFields(Schema):
    """What both routes have, in S1's ranges."""

    stream = Flag()
    temperature = Number(0, 2)
    max_tokens = Integer(1, 4096)
    top_p = Number(0, 1)
    top_k = Integer(1, 100)
    repetition_penalty = Number(0.1, 2)
    max_time = Integer(1, 120)


class CompletionsSchema(SamplingFields, OpenAIFields):
    """`POST /api/chat/completions`."""

    messages = Messages(ROLES, ("text", "image_url"), required=True, validate=check_user_turn)
    model = ModelId(required=True)
    max_completion_tokens = Integer(1, 4096, allow_none=True)


class LegacySchema(SamplingFields):
    """`POST /api/huggingface-chat`: one message; sampling fields at the top level or in `parameters`."""

    message = Text(required=True, blank=False)
    model = ModelId()
    fallbacks = ModelIds(allow_none=True)


def load_completions(body: Json, default_model: str = "") -> ChatJob:
    """The S1 dialect's job. Raises BadRequest naming every faulty field; unknown fields are ignored, and named."""
    data = load(CompletionsSchema, body)
    messages, dropped = _known_message_keys(data["messages"])
    unknown = [name for name in body if name not in CompletionsSchema._declared_fields]
    return job_of(data, messages=messages, include_usage=True, ignored=(*unknown[:MAX_NAMED], *dropped))


def _known_message_keys(messages: list[Json]) -> tuple[list[Json], list[str]]:
    if all(message.keys() <= MESSAGE_KEYS for message in messages):
        return messages, []
    dropped = (f"messages.{i}.{key}" for i, m in enumerate(messages) for key in m if key not in MESSAGE_KEYS)
    return [{k: v for k, v in m.items() if k in MESSAGE_KEYS} for m in messages], list(islice(dropped, MAX_NAMED))


# --- the legacy route's spellings

LEGACY_SPELLINGS = {
    "prompt": "message",
    "inputs": "message",
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
}


LEGACY_FIELDS = frozenset(LegacySchema._declared_fields)


def load_legacy(body: Json, default_model: str) -> ChatJob:
    """The legacy dialect's job, its older spellings and `parameters` folded in."""
    values, paths, unused, errors = legacy_fields(body)
    data = load(LegacySchema, values, paths=paths, errors=errors)
    messages = [{"role": "user", "content": data["message"]}]
    data.setdefault("model", default_model)
    unknown = [paths[name] for name in values if name not in LEGACY_FIELDS]
    return job_of(data, messages=messages, include_usage=True, ignored=(*unknown[:MAX_NAMED], *unused[:MAX_NAMED]))


class LegacyFields(NamedTuple):
    """A legacy body with one spelling for each field.

    `values` has what was written under the documented names, `paths` where each was written, `unused` the paths of
    spellings that lost against another, `errors` what is wrong with `parameters`.
    """

    values: Json
    paths: dict[str, str]
    unused: list[str]
    errors: Json


def legacy_fields(body: Json) -> LegacyFields:
    """The fields of a legacy body; what is wrong with their values is found later."""
    parameters = body.get("parameters", {})
    errors: Json = {}
    if not isinstance(parameters, dict):
        parameters, errors = {}, {"parameters": [_("must be an object")]}
    values: Json = {}
    paths: dict[str, str] = {}
    unused: list[str] = []
    given = [(name, name, value) for name, value in body.items() if name != "parameters"]
    given += [(f"parameters.{name}", name, value) for name, value in parameters.items()]
    for path, name, value in given:
        # The documented spelling wins over an older one, the top level over `parameters`.
        canonical = LEGACY_SPELLINGS.get(name, name)
        wins = canonical not in values or (name == canonical and path == name)
        if canonical in values:
            unused.append(paths[canonical] if wins else path)
        if wins:
            values[canonical], paths[canonical] = value, path
    return LegacyFields(values, paths, unused, errors)


# --- out


def dump_reply(reply: Reply, job: ChatJob) -> Json:
    """A whole answer; one without text says why it has none."""
    data: Json = {"response": reply.text, "model": reply.model, "usage": counts(reply.usage)}
    if not reply.text:
        data["finish_reason"] = reply.choices[0]["finish_reason"]
        if refusal := reply.choices[0]["message"].get("refusal"):
            data["refusal"] = refusal
    return {"success": True, "data": data}


def dump_error(error: ChatError, request_id: str) -> Json:
    """An error's body, or the last event of a stream that failed."""
    body: Json = {"code": error.code, "message": error.message}
    if error.details:
        body["details"] = error.details
    body |= {"retryable": error.retryable, "request_id": request_id}
    if error.upstream_status is not None:
        body["upstream_status"] = error.upstream_status
    if isinstance(error, RouteRetired):
        body["migration"] = error.migration
    return {"success": False, "error": body}


_ANSWER = object_of(
    {"response": STRING, "model": STRING, "usage": USAGE},
    finish_reason=STRING,
    refusal=STRING,
)
_FAILURE = object_of(
    ERROR_FIELDS,
    details={"type": "object", "additionalProperties": {"type": "array", "items": STRING}},
    upstream_status={"type": "integer"},
    migration={"type": "object"},
)
COMPLETIONS = Dialect(
    path="/api/chat/completions",
    load=load_completions,
    dump=dump_reply,
    events=lambda job: ChunkWriter(job, dump_error),
    error=dump_error,
    status=lambda error: error.api_status,  # S1 documents 400 and 500
    headers=lambda error: {},
    request=("CompletionsRequest", CompletionsSchema),
    reply=("Envelope", object_of({"success": {"const": True}, "data": _ANSWER})),
    failure=("EnvelopeError", object_of({"success": {"const": False}, "error": _FAILURE})),
    summary=N_("Answer a conversation in an envelope."),
    details=N_('`{"success": true, "data": {"response", "model", "usage"}}`, or chunks where `stream` is true.'),
    example=CONVERSATION,
    label="chatapi",
)
LEGACY = replace(
    COMPLETIONS,
    path="/api/huggingface-chat",
    load=load_legacy,
    request=("LegacyRequest", LegacySchema),
    summary=N_("Answer one message. Deprecated: use `POST /api/chat/completions`."),
    details=N_(
        "In a brownout and after its sunset it answers 410, and `error.migration` has the same request rewritten."
    ),
    example={"message": QUESTION, "model": MODEL},
    label=N_("legacy"),
    also={"required": [], "anyOf": [{"required": [spelling]} for spelling in ("message", "prompt", "inputs")]},
    deprecated=True,
)
