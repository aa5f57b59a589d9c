"""The legacy route as this process sees it: its schedule, what operators have changed of it, and who calls it."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial

from ..accounting import legacy
from ..accounting.statements import Tx
from ..accounting.store import Store
from ..accounting.tables import day_of
from ..caller import Caller
from ..chat import Json
from ..errors import StoreUnavailable
from ..telemetry import metrics
from . import callers
from .callers import CLIENTS, DAY_S, NONE, OTHER, Callers, Count, Place
from .rewrite import Rewritten
from .schedule import Interval, Stage, stage_at

log = logging.getLogger(__name__)

CHECK_S = 2.0  # what operators change is heard of everywhere after at most so long
KEPT_DAYS = 400
Reading = Callable[[Sequence[str]], Iterable[str]]


class LegacyRoute:
    """Judges and counts calls of the legacy route. `clock` gives Unix seconds."""

    def __init__(
        self,
        store: Store,
        sunset: float | None,
        brownouts: Sequence[Interval],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self._store = store
        self._sunset = sunset
        self._brownouts = brownouts
        self._switched_off = False
        self._extensions: Mapping[str, float] = {}
        self._check_at = 0.0
        self.callers = Callers(self._save, clock)
        metrics.legacy_sunset(sunset)

    def stage(self, key_id: str | None) -> Stage:
        """Where the route stands now for a key."""
        self._check()
        extended = self._extensions.get(key_id or "")
        return stage_at(self.clock(), self._sunset, self._brownouts, extended, self._switched_off)

    def _check(self) -> None:
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + CHECK_S
        try:
            self._switched_off, self._extensions = self._store.read(legacy.state, fresh=False)
        except StoreUnavailable as error:
            log.warning("the legacy route's switch cannot be read: the database is away (%s)", error.cause)

    def serves(self, key_id: str, at: float | None = None) -> bool:
        """Whether a key would be served `at` a moment, by default the sunset; without one, as if that were now."""
        self._check()
        sunset = self._sunset or self.clock()
        extended = self._extensions.get(key_id)
        stage = stage_at(sunset if at is None else at, sunset, self._brownouts, extended, self._switched_off)
        return stage.name == "announced"

    # --- for operators

    def extend(self, key_id: str, ends_at: float) -> None:
        """Serve a key until then, whatever its date was before."""
        self._store.write(lambda tx: legacy.put_extension(tx, key_id, ends_at))
        self._check_at = 0.0

    def switch(self, off: bool) -> None:
        """Switch the route off for everybody, or take that back."""
        self._store.write(lambda tx: legacy.put_switch(tx, off))
        self._check_at = 0.0

    # --- who calls

    def count(self, caller: Caller, user_agent: str | None, refused: bool, rewritten: Rewritten | None) -> None:
        """One more call; `rewritten` is None where its body could not be read."""
        metrics.legacy_called(caller.key_name)
        self.callers.count(caller.key_id, user_agent, refused, rewritten)

    def _save(self, counts: Mapping[Place, Count]) -> None:
        names = [field.name for field in fields(Count)]  # asdict would count the uses' pairs
        rows = [place._asdict() | {name: getattr(count, name) for name in names} for place, count in counts.items()]

        def save(tx: Tx) -> None:
            legacy.add_callers(tx, rows, CLIENTS, OTHER, frozenset((NONE, OTHER)))
            legacy.drop_callers(tx, day_of(self.clock() - KEPT_DAYS * DAY_S))

        self._store.write(save)

    def report(self, default_model: str, since: str | None = None, reading: Reading = list) -> list[Json]:
        """Who called from the day `since` on, by default in the last two weeks: see `callers.report`.

        `reading` is given the days, and gives back each when it is to be read.
        """
        now = self.clock()
        trend_since = day_of(now - callers.TREND_S)
        since = trend_since if since is None else since
        rows = self.calls(min(since, trend_since), reading)
        return callers.report(rows, now, self.key_names(), default_model, since)

    def calls(self, since: str, reading: Reading = list) -> Iterator[tuple[Place, Count]]:
        """The counts of all days (ISO 8601) from `since` on, one day after the other."""
        for day in reading(self._store.read(lambda tx: legacy.caller_days(tx, since))):
            for row in self._store.read(partial(legacy.callers, day=day)):
                counts = dict(row)
                place = Place(*map(counts.pop, Place._fields))
                yield place, Count(uses=Counter(counts.pop("uses")), **counts)

    def key_names(self) -> dict[str, str]:
        """The name of every key, by its id."""
        return self._store.read(legacy.key_names)
