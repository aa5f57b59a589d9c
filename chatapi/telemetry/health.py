"""Is everything there that calls need? Asked in the background, so that whoever wants to know never waits for it."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

FRESH_S = 5.0  # a result is good for so long
SLOW_S = 3.0  # a part that has not answered for so long is not well
FIRST_S = 0.5  # how long the very first question waits for results


@dataclass(frozen=True, slots=True)
class Part:
    """`probe` says how it is in a few words, or raises; without a `required` part no call can be answered."""

    probe: Callable[[], str]
    required: bool = True


class Health:
    """The parts, as they were found last."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._watched = {name: _Watched(part) for name, part in parts.items()}
        self.stopping = False  # this process takes no new calls: others do

    def look(self) -> dict[str, Any]:
        """`status` ("ok", "degraded", "not ready" or "stopping"), and for each part `ok`, `reason` and `age_s`."""
        for watched in self._watched.values():
            watched.refresh()
        until = time.monotonic() + FIRST_S
        for watched in self._watched.values():
            watched.known.wait(max(0.0, until - time.monotonic()))
        parts = {name: watched.found() for name, watched in self._watched.items()}
        return {"status": self._status(parts), "parts": parts}

    def _status(self, parts: Mapping[str, Mapping[str, Any]]) -> str:
        if self.stopping:
            return "stopping"
        ill = [name for name, part in parts.items() if not part["ok"]]
        if any(self._watched[name].part.required for name in ill):
            return "not ready"
        return "degraded" if ill else "ok"


class _Watched:
    def __init__(self, part: Part) -> None:
        self.part = part
        self.known = threading.Event()
        self._ok, self._reason, self._at = False, "not asked yet", time.monotonic()
        self._asked_at: float | None = None

    def refresh(self) -> None:
        """Ask again in the background, where the last answer is old and nobody is asking."""
        if self._asked_at is None and (not self.known.is_set() or time.monotonic() - self._at > FRESH_S):
            self._asked_at = time.monotonic()
            threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        try:
            ok, reason = True, self.part.probe()
        except Exception as error:
            ok, reason = False, str(getattr(error, "cause", None) or error) or type(error).__name__
        self._ok, self._reason, self._at = ok, reason, time.monotonic()
        self._asked_at = None
        self.known.set()

    def found(self) -> dict[str, Any]:
        now, asked_at = time.monotonic(), self._asked_at
        if asked_at is not None and now - asked_at > SLOW_S:
            return {"ok": False, "reason": f"no answer for {now - asked_at:.0f} s", "age_s": 0.0}
        return {"ok": self._ok, "reason": self._reason, "age_s": round(now - self._at, 1)}
