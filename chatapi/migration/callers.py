"""Who still calls the legacy route: counted in memory, and added up in the store by key, client and day."""

import logging
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..accounting.tables import day_of
from ..chat import Json
from ..errors import StoreUnavailable
from ..schemas.envelope import LEGACY_FIELDS, LEGACY_SPELLINGS
from .rewrite import Rewritten, describe_change, describe_model_change

log = logging.getLogger(__name__)

FLUSH_S = 2.0  # how long a call is in this process's memory alone
CLIENTS = 50  # with a name of their own, a key and day: callers invent as many as they like
OTHER, NONE = "other", "-"
MAX_NAME = 64
DAY_S = 86_400
TREND_S = 13 * DAY_S  # this week and the one before, from today back

# RFC 9110, 10.1.5: a product's name is a token; a version or a comment may follow.
_PRODUCT = re.compile(rf"([-!#$%&'*+.^_`|~0-9A-Za-z]{{1,{MAX_NAME}}})(?![^/\s(])")
_KNOWN = LEGACY_FIELDS | LEGACY_SPELLINGS.keys() | {"parameters"}


def client_name(user_agent: str | None) -> str:
    """The first product in a User-Agent, without version and comment; `-` for none, `other` for what is no product."""
    if not user_agent:
        return NONE
    found = _PRODUCT.match(user_agent)
    return found[1] if found else OTHER


class Place(NamedTuple):
    """What is counted apart: `key_id` is "" for callers without a key, `day` is ISO 8601's (UTC)."""

    day: str
    key_id: str
    client: str


@dataclass(slots=True)
class Count:
    """Calls of one place. `uses` counts the fields as they were written, all unknown ones as `other`."""

    calls: int = 0
    refused: int = 0
    compared: int = 0
    differ: int = 0
    last_seen: float = 0.0
    uses: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Count") -> None:
        """Take the calls of `other` in as well."""
        self.calls += other.calls
        self.refused += other.refused
        self.compared += other.compared
        self.differ += other.differ
        self.last_seen = max(self.last_seen, other.last_seen)
        self.uses.update(other.uses)


def count_call(now: float, refused: bool, rewritten: Rewritten | None) -> Count:
    """One call; `rewritten` is None where its body could not be read."""
    if rewritten is None:
        return Count(1, int(refused), last_seen=now)
    uses = Counter(path if path.removeprefix("parameters.") in _KNOWN else OTHER for path in rewritten.paths)
    return Count(1, int(refused), 1, int(not rewritten.same_request), now, uses)


class Callers:
    """This process's counts. `save` adds them to the store, and raises StoreUnavailable where it cannot."""

    def __init__(self, save: Callable[[Mapping[Place, Count]], None], clock: Callable[[], float] = time.time) -> None:
        self._save = save
        self._clock = clock
        self._counts: dict[Place, Count] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def count(self, key_id: str | None, user_agent: str | None, refused: bool, rewritten: Rewritten | None) -> None:
        """One more call; in the store FLUSH_S later at the latest."""
        now = self._clock()
        one = count_call(now, refused, rewritten)
        place = Place(day_of(now), key_id or "", client_name(user_agent))
        with self._lock:
            self._add(place, one)
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_S, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def _add(self, place: Place, count: Count) -> None:
        if place not in self._counts and place.client not in (NONE, OTHER):
            named = {p.client for p in self._counts if p[:2] == place[:2]} - {NONE, OTHER}
            if len(named) >= CLIENTS:
                place = place._replace(client=OTHER)
        self._counts.setdefault(place, Count()).add(count)

    def flush(self) -> None:
        """Add what was counted to the store; what it does not take is kept for the next time."""
        with self._lock:
            counts, self._counts, self._timer = self._counts, {}, None
        try:
            if counts:
                self._save(counts)
        except StoreUnavailable as error:
            log.warning("calls of the legacy route are kept in memory: the database is away (%s)", error.cause)
            with self._lock:
                for place, count in counts.items():
                    self._add(place, count)


# --- what is told of them

Client = tuple[str, str]  # its key's id, and its name


def report(
    rows: Iterable[tuple[Place, Count]], now: float, names: Mapping[str, str], default_model: str, since: str = ""
) -> list[Json]:
    """Each key's clients, the busiest first: how often from the day `since` on, how lately, and what will change."""
    week, fortnight = day_of(now - 6 * DAY_S), day_of(now - TREND_S)
    this_week, last_week = Counter[Client](), Counter[Client]()
    totals: defaultdict[Client, Count] = defaultdict(Count)
    for place, count in rows:
        if place.day >= fortnight:
            (this_week if place.day >= week else last_week)[place[1:]] += count.calls
        if place.day >= since:
            totals[place[1:]].add(count)
    return [
        _describe_client(client, total, names)
        | {"this_week": this_week[client], "last_week": last_week[client], "uses": dict(total.uses.most_common())}
        | {"changes": _describe_changes(total, default_model), "compared": total.compared, "differ": total.differ}
        for client, total in sorted(totals.items(), key=_busiest_first)
    ]


def find_refused(
    rows: Iterable[tuple[Place, Count]], names: Mapping[str, str], served: Callable[[str], bool]
) -> list[Json]:
    """Each key's clients that would be refused: those whose key is not `served`."""
    totals: defaultdict[Client, Count] = defaultdict(Count)
    for place, count in rows:
        totals[place[1:]].add(count)
    refused = [(client, total) for client, total in totals.items() if not served(client[0])]
    found = [_describe_client(client, total, names) for client, total in sorted(refused, key=_busiest_first)]
    return [{name: value for name, value in row.items() if name != "refused"} for row in found]


def _busiest_first(item: tuple[Client, Count]) -> tuple[int, Client]:
    return -item[1].calls, item[0]


def _describe_changes(total: Count, default_model: str) -> list[Json]:
    found = [describe_change(path, effective=path != OTHER) for path in total.uses]
    if total.uses["model"] + total.uses["parameters.model"] < total.compared:
        found.append(describe_model_change(default_model))
    return [one for one in found if one]


def _describe_client(client: Client, total: Count, names: Mapping[str, str]) -> dict[str, Any]:
    key_id, name = client
    return {
        "key_id": key_id or None,
        "key_name": names.get(key_id),
        "client": name,
        "calls": total.calls,
        "refused": total.refused,
        "last_seen": datetime.fromtimestamp(total.last_seen, UTC).isoformat(timespec="seconds"),
    }
