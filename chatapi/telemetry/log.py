"""What we log: a line for each call, whatever its ending, and warnings. Never a prompt, an answer or a key."""

import json
import logging
import sys
import time

from ..call import Call

calls = logging.getLogger("chatapi.calls")

_SHOWN = (
    "request_id",
    "route",
    "dialect",
    "trace_id",
    "address",
    "key_id",
    "model",
    "served",
    "stream",
    "status",
    "code",
    "attempts",
    "fallbacks",
    "prompt_tokens",
    "completion_tokens",
    "usage_source",
    "malformed_events",
    "shadowed",
    "auth_ms",
    "limit_ms",
    "gateway_ms",
    "first_token_ms",
    "total_ms",
    "ending",
)


def write(call: Call) -> None:
    """Log a call that has ended."""
    calls.info("", extra={"call": call})


class CallFormatter(logging.Formatter):
    """JSON for machines; for a person at a terminal, the few words that matter."""

    def __init__(self, person: bool) -> None:
        super().__init__()
        self._person = person

    def format(self, record: logging.LogRecord) -> str:
        """The line of one call."""
        call: Call = record.__dict__["call"]
        if self._person:
            at = time.strftime("%H:%M:%S", time.localtime(record.created))
            what = f"{call.served or call.model or '-'} {call.ending} {call.total_ms:.0f} ms"
            tokens = f", {call.prompt_tokens}+{call.completion_tokens} tokens" if call.completion_tokens else ""
            return f"{at} {call.route} {call.status} {what}{tokens}{f' ({call.code})' if call.code else ''}"
        shown = {name: value for name in _SHOWN if (value := getattr(call, name)) is not None}
        return json.dumps({"time": round(record.created, 3), **shown})


_TIME = "%Y-%m-%d %H:%M:%S %z"


def configure(level: str) -> None:
    """Send what we log at `level` and above to stderr, and the calls' lines to stdout. Safe to call again."""
    ours = logging.getLogger("chatapi")
    ours.setLevel(level.upper())
    if not ours.handlers:
        handler = logging.StreamHandler()
        # As gunicorn writes its own lines: when, which process, how bad.
        handler.setFormatter(logging.Formatter("[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s", _TIME))
        ours.addHandler(handler)
    if not calls.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(CallFormatter(person=sys.stdout.isatty()))
        calls.addHandler(handler)
        calls.propagate = False
