"""Whether a model that is said to continue a given beginning does: a rescue would splice two answers into one."""

import re

from ...call import Call
from ...chat import ChatJob
from ...engine.engine import Engine
from ...errors import ChatError

# A list of which everybody knows how it goes on, and how it began.
QUESTION = "Count from one to ten in words, separated by commas. Write nothing else."
BEGUN = "one, two, three, four, five,"
_ON, _ANEW = re.compile(r"\b(?:six|6)\b", re.IGNORECASE), re.compile(r"\b(?:one|1)\b", re.IGNORECASE)
MOST_TOKENS = 16


def continues(engine: Engine, model: str, seconds: float) -> bool | ChatError | None:
    """Whether `model` goes on from a beginning, within `seconds`; its error, or None where its answer does not tell."""
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": BEGUN}]
    options = {"max_tokens": MOST_TOKENS, "temperature": 0}
    job = ChatJob(
        model=model, messages=messages, options=options, max_time_s=seconds, fallbacks=(), strict=True, prefill=True
    )
    call = Call("-")
    engine.begin(job, call)
    try:
        said = engine.reply(job, call).text
    except ChatError as error:
        return error
    on, anew = _ON.search(said), _ANEW.search(said)
    if on is None:
        return False if anew else None
    return anew is None or on.start() < anew.start()
