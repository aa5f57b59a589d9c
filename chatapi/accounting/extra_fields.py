"""A job without the fields, unknown to us, that could make an engine answer at greater length than the job says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..caller import Limits
from ..chat import ChatJob

# Engines have many words for the length of an answer and for how many of them there are; what we do not know goes to
# the engine as it is. A field is taken for one of these by what its name has in it, and a number as its value.
_AMOUNTS: tuple[str, ...] = ("token", "length", "predict", "budget", "genlen", "seqlen", "maxlen", "minlen")
_AMOUNTS += ("bestof", "beam", "sequence", "candidate", "completions", "generations", "samples", "choices", "outputs")
_OTHERS = ("penalty", "prediction", "prompt", "logprob")  # in a name that has one of the above, and is none
_ENDLESS = "ignoreeos"
# What describes the answer's form, in whose names nothing is an amount.
_FORMS = ("json", "schema", "grammar", "regex", "guided", "structured", "metadata", "prediction")
_DEPTH = 8  # within a field; what lies deeper no engine reads


def bounded(job: ChatJob, limits: Limits) -> ChatJob:
    """`job` without the fields that could cause more tokens than are held back for it; they are named in `ignored`.

    Callers without limits of tokens lose nothing.
    """
    if not limits.of_tokens:
        return job
    dropped = {name: None for name, value in job.extra.items() if _is_amount(name, value)}  # a body may have thousands
    if not dropped:
        return job
    extra = {name: value for name, value in job.extra.items() if name not in dropped}
    return replace(job, extra=extra, ignored=(*job.ignored, *dropped))


def _is_amount(name: str, value: Any, depth: int = 0) -> bool:
    """Whether a field that we do not know says how much is to be answered, itself or by something within it."""
    squashed = re.sub(r"[^a-z]", "", name.lower()) if len(name) <= 64 else ""
    if isinstance(value, Mapping):
        inner = [] if any(word in squashed for word in _FORMS) or depth >= _DEPTH else list(value.items())
        return any(_is_amount(str(key), item, depth + 1) for key, item in inner)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return depth < _DEPTH and any(_is_amount("", item, depth + 1) for item in value if isinstance(item, Mapping))
    if squashed == _ENDLESS:
        return True
    if isinstance(value, bool) or not _is_number(value) or any(word in squashed for word in _OTHERS):
        return False
    return any(word in squashed for word in _AMOUNTS)


def _is_number(value: Any) -> bool:
    # Some engines read "5000" as 5000.
    return isinstance(value, int | float) or (isinstance(value, str) and value.strip()[:1].isdigit())
