"""What a model cannot do: one check for every kind of model. Pure.

A field without which the answer would be another one is refused; one that only advises is left out and named, unless
the job is strict.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from ..catalogue import ModelCard
from ..chat import ChatJob, text_of
from ..errors import BadRequest
from ..languages import _

# What a text model cannot honour, with the values that ask for nothing.
_CANNOT: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
}
GENERATE_CAN = ("seed", "frequency_penalty")  # what TGI's /generate takes and the classic API does not
_ADVISORY: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "seed": (),
    "reasoning_effort": (),
    "verbosity": (),
    "parallel_tool_calls": (),
    "user": (),
    "metadata": ({},),
}
_NOTHING: dict[str, tuple[Any, ...]] = defaultdict(tuple, {**_CANNOT, **_ADVISORY, "stop": ([],)})
# What only makes sense beside another field, and is not sent without it.
_BESIDE = {"tool_choice": "tools", "parallel_tool_calls": "tools", "function_call": "functions"}


def left_out(card: ModelCard, job: ChatJob) -> tuple[str, ...]:
    """The request fields that `card`'s model is not sent."""
    return (*_unheeded(card, job), *_unread_images(card, job))


def _unheeded(card: ModelCard, job: ChatJob) -> tuple[str, ...]:
    if card.is_chat:
        return () if card.own_fields else tuple(job.extra)
    advisory = {k: v for k, v in _ADVISORY.items() if not (card.url and k in GENERATE_CAN)}
    return (*_asked(advisory, job.options), *job.extra)


def check(card: ModelCard, job: ChatJob, able: Callable[[str], str] = lambda ability: "") -> None:
    """Raises BadRequest for what `card`'s model cannot honour. `able` says in words which models have an ability."""
    if card.is_chat:
        if card.cannot:
            # Whatever a dialect does not know is passed on as it is, and as impossible here.
            _refuse(
                card, job, _asked({name: _NOTHING[name] for name in card.cannot}, {**job.extra, **job.options}), able
            )
        if card.images is False:
            _refuse_parts(card, job)
            _refuse_images(card, job)
        return
    _refuse(card, job, [*_asked(_CANNOT, job.options), *(_unheeded(card, job) if job.strict else ())], able)
    _refuse_images(card, job)
    if not _has_user_text(job):
        raise BadRequest(
            _(
                "messages: '{model}' is a {task} model and answers a user message; send one that has text.",
                model=card.id,
                task=card.task,
            ),
            details={"messages": [_("at least one user message must have text")]},
        )


def _refuse(card: ModelCard, job: ChatJob, fields: list[str], able: Callable[[str], str]) -> None:
    if not fields:
        return
    who = able("supports_tools") if {"tools", "functions"} & set(fields) else ""
    message = _(
        "{fields}: '{model}' is a {task} model that cannot honour this. Remove it, or ask a model that can. {who}",
        fields=", ".join(fields),
        model=card.id,
        task=card.task,
        who=who,
    )
    said = _("not possible with this {task} model", task=card.task)
    raise BadRequest(message.rstrip(), details={name: [said] for name in fields})


def asks_for_nothing(name: str, job: ChatJob) -> bool:
    """Whether an option that the caller set asks for nothing, or only makes sense beside one that is not asked for."""
    if (beside := _BESIDE.get(name)) and not job.options.get(beside):
        return True
    if name == "top_logprobs" and job.options.get("logprobs") is False:
        return True
    # The model's own choice is no other request than none, but "none" beside tools forbids them.
    return not beside and _is_one_of(job.options[name], _NOTHING.get(name, ()))


def _asked(fields: Mapping[str, tuple[Any, ...]], given: Mapping[str, Any]) -> list[str]:
    """Those of `fields` that are `given` as a value that asks for something."""
    return [name for name, nothing in fields.items() if name in given and not _is_one_of(given[name], nothing)]


def _is_one_of(value: Any, harmless: tuple[Any, ...]) -> bool:
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in harmless)


def _has_user_text(job: ChatJob) -> bool:
    return any(m["role"] == "user" and text_of(m).strip() for m in job.messages)


MAX_NAMED = 10  # parts that an error names


def _refuse_parts(card: ModelCard, job: ChatJob) -> None:
    """Raises BadRequest where a model that reads text only is sent sound, files or what nobody knows."""
    known = ("text", "refusal", "image_url")
    paths = [f"{path}.type" for path in _paths(job, lambda kind: kind not in known)][:MAX_NAMED]
    if paths:
        message = _(
            "{parts}: '{model}' reads text only. Remove these, or ask a model that reads them.",
            parts=", ".join(paths),
            model=card.id,
        )
        raise BadRequest(message, details={path: [_("this model reads text only")] for path in paths})


def _unread_images(card: ModelCard, job: ChatJob) -> tuple[str, ...]:
    """The paths of the images in a job for a model that reads text only."""
    return () if card.is_chat and card.images is not False else tuple(_paths(job, lambda kind: kind == "image_url"))


def _paths(job: ChatJob, wanted: Callable[[Any], bool]) -> list[str]:
    """Where the parts of the types that are `wanted` stand in a job's messages."""
    return [
        f"messages.{i}.content.{j}"
        for i, message in enumerate(job.messages)
        if isinstance(parts := message.get("content"), list)
        for j, part in enumerate(parts)
        if wanted(part.get("type"))
    ]


def _refuse_images(card: ModelCard, job: ChatJob) -> None:
    """Raises BadRequest where leaving the images out is no answer."""
    images = _unread_images(card, job)
    if images and (job.strict or not _has_user_text(job)):
        message = _(
            "{images}: '{model}' reads text only. Remove the images, or ask a model that reads them.",
            images=", ".join(images),
            model=card.id,
        )
        raise BadRequest(message, details={path: [_("this model reads text only")] for path in images})
