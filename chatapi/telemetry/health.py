"""Readiness checks, run in the background and cached: whoever asks waits a moment for what is stale, and no longer."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import StoreError
from ..languages import _

FRESH_S = 5.0  # a finding is good for so long
PATIENCE_S = 1.0  # how long whoever asks waits for a new one
SLOW_S = 3.0  # what has not answered for so long is not well


@dataclass(frozen=True, slots=True)
class Check:
    """`probe` says how something is in a few words, or raises.

    `failure` says the same in our words, for everybody: what was raised names hosts. Without what is `required` no
    call can be answered.
    """

    probe: Callable[[], str]
    failure: str
    required: bool = True


class Health:
    """What was found last."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = {name: _Checked(check) for name, check in checks.items()}
        self.stopping = False  # this process takes no new calls: others do

    def report(self, detailed: bool = False) -> dict[str, Any]:
        """`status` ("ok", "degraded", "not ready" or "stopping"), and for each part `ok`, `reason` and `age_s`.

        `detailed`: with a failure's own words, as `detail`.
        """
        deadline = time.monotonic() + PATIENCE_S
        for checked in self._checks.values():
            checked.refresh()
        for checked in self._checks.values():
            checked.done.wait(max(0.0, deadline - time.monotonic()))
        parts = {name: checked.found(detailed) for name, checked in self._checks.items()}
        return {"status": self._status(parts), "parts": parts}

    def _status(self, parts: Mapping[str, Mapping[str, Any]]) -> str:
        if self.stopping:
            return "stopping"
        ill = [name for name, part in parts.items() if not part["ok"]]
        if any(self._checks[name].check.required for name in ill):
            return "not ready"
        return "degraded" if ill else "ok"


class _Checked:
    """A check and its last finding."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.done = threading.Event()  # nobody is asking
        self.done.set()
        self._words: str | None = None  # of a finding that all is well
        self._detail = ""
        self._found_at: float | None = None
        self._asked_at = 0.0

    def refresh(self) -> None:
        """Ask again in the background, where the last finding is old and nobody is asking."""
        now = time.monotonic()
        if self.done.is_set() and (self._found_at is None or now - self._found_at > FRESH_S):
            self.done.clear()
            self._asked_at = now
            threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        try:
            self._words = self.check.probe()
        except Exception as error:
            self._words = None
            self._detail = (error.cause if isinstance(error, StoreError) else str(error)) or type(error).__name__
        # As old as the question: what happened since is not in the answer.
        self._found_at = self._asked_at
        self.done.set()

    def found(self, detailed: bool) -> dict[str, Any]:
        """`ok`, `reason`, `age_s`, and with `detailed` a failure's `detail`."""
        now = time.monotonic()
        if not self.done.is_set() and (self._found_at is None or now - self._asked_at > SLOW_S):
            waited_s = round(now - self._asked_at)
            return {"ok": False, "reason": _("no answer for {seconds} s", seconds=waited_s), "age_s": 0.0}
        age_s = round(now - (self._found_at or now), 1)
        if self._words is not None:
            return {"ok": True, "reason": self._words, "age_s": age_s}
        detail = {"detail": self._detail} if detailed else {}
        return {"ok": False, "reason": _(self.check.failure), **detail, "age_s": age_s}
