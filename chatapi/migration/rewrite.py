"""A legacy body as the same request for the two routes that replace the legacy one."""

from typing import Any, NamedTuple

from ..chat import ChatJob, Json
from ..languages import N_, _
from ..schemas import COMPLETIONS, LEGACY, OPENAI
from ..schemas.envelope import LEGACY_FIELDS, LEGACY_SPELLINGS, legacy_fields
from .snippets import snippets

MAX_BYTES = 1024 * 1024  # bytes of a body that is translated: the answer has it twelve times


class Rewritten(NamedTuple):
    """The new bodies; `paths` are the legacy one's fields as they were written, and `effective` those that counted."""

    job: ChatJob
    completions: Json
    openai: Json
    paths: list[str]
    effective: frozenset[str]

    @property
    def same_request(self) -> bool:
        """Whether all three bodies ask the upstream for the same."""
        jobs = (self.job, COMPLETIONS.load(self.completions, ""), OPENAI.load(self.openai, ""))
        first, *others = map(_upstream_request, jobs)
        return all(other == first for other in others)


def rewrite(body: Json, default_model: str) -> Rewritten:
    """The new requests for a legacy body. Raises BadRequest as the legacy route itself would."""
    job = LEGACY.load(body, default_model)
    fields = legacy_fields(body)
    set_to = {name: value for name, value in fields.values.items() if name in LEGACY_FIELDS and value is not None}
    text, model = set_to.pop("message"), set_to.pop("model", default_model)
    new = {"model": model, "messages": [{"role": "user", "content": text}], **set_to}
    # The /api routes always end a stream with its usage; on /v1 that is asked for.
    usage = {"stream_options": {"include_usage": True}} if job.stream else {}
    effective = {fields.paths[name] for name in ("message", "model", *set_to) if name in fields.paths}
    return Rewritten(job, new, new | usage, _paths(body), frozenset(effective))


def _paths(body: Json) -> list[str]:
    """Every field as it was written; an empty `parameters` is one."""
    inner = body.get("parameters")
    paths = [name for name in body if name != "parameters" or not inner]
    return paths + [f"parameters.{name}" for name in inner or ()]


def _upstream_request(job: ChatJob) -> tuple[Any, ...]:
    """What of a job reaches an upstream, or decides which one is asked, and for how long."""
    sent = (job.model, list(job.messages), dict(job.options), dict(job.extra))
    return *sent, job.stream, job.stream and job.include_usage, job.max_time_s, job.fallbacks


def preview(body: Json, default_model: str, base_url: str) -> Json:
    """What a team needs to move one request to the new routes. Raises BadRequest."""
    return describe(rewrite(body, default_model), base_url)


def describe(found: Rewritten, base_url: str) -> Json:
    """Both new requests of a rewritten one, how to send them, and what changes."""
    requests = {"completions": (COMPLETIONS.path, found.completions), "openai": (OPENAI.path, found.openai)}
    return {
        name: {"path": path, "body": new, **snippets(path, new, base_url)} for name, (path, new) in requests.items()
    } | {"changes": describe_changes(found), "same_upstream_request": found.same_request}


# --- what reads differently


def describe_changes(found: Rewritten) -> list[Json]:
    """Each field that reads differently on the new routes, once; what stays is not named."""
    named = {path: describe_change(path, path in found.effective) for path in found.paths}
    if found.effective.isdisjoint(("model", "parameters.model")):
        named["model"] = describe_model_change(found.job.model)
    return [one for one in named.values() if one]


def describe_change(path: str, effective: bool = True) -> Json | None:
    """What becomes of the field at `path`; None for what stays as it is."""
    name = path.removeprefix("parameters.")
    becomes = LEGACY_SPELLINGS.get(name, name)
    if not effective:
        known = becomes in LEGACY_FIELDS or path == "parameters"
        return {"field": path, "becomes": None, "note": _(_UNUSED if known else _UNKNOWN)}
    if becomes == "message":
        return {"field": path, "becomes": "messages", "note": _(_MESSAGE)}
    if becomes == path:
        return None
    note = _MOVES if name == becomes else _RENAMED if name == path else _MOVES_RENAMED
    return {"field": path, "becomes": becomes, "note": _(note)}


def describe_model_change(default: str) -> Json:
    """What becomes of a model that was not given, and was this gateway's `default`."""
    note = _("Required on the new routes. Where it was not given, it was {model}.", model=default)
    return {"field": "model", "becomes": "model", "note": note}


_MESSAGE = N_(
    "The text becomes the one message of a conversation, with the role user; a system message and earlier turns can go "
    "before it. The answer of /api/chat/completions reads as before. On /v1/chat/completions the text is at "
    "choices[0].message.content, errors have OpenAI's form, and a failure of the model's has a status of its own where "
    "this route says 500."
)
_RENAMED = N_("Has this name on the new routes.")
_MOVES = N_("Moves out of parameters, to the top level.")
_MOVES_RENAMED = N_("Moves out of parameters, to the top level, and has this name there.")
_UNUSED = N_("Had no effect: another spelling of this field counted, or it was empty. Leave it out.")
_UNKNOWN = N_("Had no effect: this route does not know it. Leave it out; /v1 would pass it on to the model.")
