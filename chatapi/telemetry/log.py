"""What we log: a line for each call, whatever its ending, and warnings. Never a prompt, an answer or a key."""

import logging
import sys
import time
from contextlib import suppress

from ..call import Call
from ..compact_json import ascii_pieces
from .batch import batch

calls = logging.getLogger("chatapi.calls")  # only its level counts: a record for each call cost as much as the line

ATOMIC = 4096  # bytes: what several workers write to one pipe is not mixed up to here (PIPE_BUF)
_SHOWN = (
    *("request_id", "route", "dialect", "trace_id", "address", "key_id"),
    *("model", "served", "stream", "status", "code", "attempts", "fallbacks"),
    *("prompt_tokens", "completion_tokens", "usage_source", "malformed_events", "shadowed"),
    *("auth_ms", "limit_ms", "gateway_ms", "first_token_ms", "total_ms", "ending"),
)


class _Lines:
    def __init__(self) -> None:
        self.gathered: list[str] = []
        self.for_person = False

    def flush(self) -> None:
        lines, self.gathered = self.gathered, []
        together = ""
        # Who reads our output may have gone, or the disk be full: no reason not to answer.
        with suppress(OSError, ValueError):
            for text in [*lines, ""]:
                if together and (not text or len(together) + len(text) > ATOMIC):
                    sys.stdout.write(together)
                    sys.stdout.flush()
                    together = ""
                together += text


_lines = _Lines()
batch.writers.append(_lines.flush)


def write(call: Call) -> None:
    """Log a call that has ended, to stdout: JSON for machines, for a person at a terminal the few words that matter."""
    if calls.isEnabledFor(logging.INFO):
        _lines.gathered.append(line_for_person(call) if _lines.for_person else line(call))


batch.observers.append(write)


def line(call: Call) -> str:
    """One JSON object, and the line's end."""
    shown: dict[str, object] = {"time": round(call.ended_at, 3)}
    for name in _SHOWN:
        if (value := getattr(call, name)) is not None:
            shown[name] = round(value, 1) if type(value) is float else value
    return "".join((*ascii_pieces(shown), "\n"))


def line_for_person(call: Call) -> str:
    """Time, route, status, what became of it."""
    at = time.strftime("%H:%M:%S", time.localtime(call.ended_at))
    what = f"{call.served or call.model or '-'} {call.ending} {call.total_ms:.0f} ms"
    tokens = f", {call.prompt_tokens}+{call.completion_tokens} tokens" if call.completion_tokens else ""
    return f"{at} {call.route} {call.status} {what}{tokens}{f' ({call.code})' if call.code else ''}\n"


_TIME = "%Y-%m-%d %H:%M:%S %z"


def configure(level: str) -> None:
    """Log at `level` and above; warnings to stderr, as gunicorn's look. Safe to call again."""
    _lines.for_person = sys.stdout.isatty()
    ours = logging.getLogger("chatapi")
    ours.setLevel(level.upper())
    if not ours.handlers:
        handler = logging.StreamHandler()
        # As gunicorn writes its own lines: when, which process, how bad.
        handler.setFormatter(logging.Formatter("[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s", _TIME))
        ours.addHandler(handler)
