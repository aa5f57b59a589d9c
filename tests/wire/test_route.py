"""The legacy route's switch, extensions and callers, in SQLite and PostgreSQL, for every process."""

import time
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from support.heard import wait_until

from chatapi.accounting import tables
from chatapi.accounting.store import Store
from chatapi.migration import route as routes
from chatapi.migration.callers import CLIENTS, FLUSH_S, Count, Place
from chatapi.migration.rewrite import rewrite
from chatapi.migration.route import KEPT_DAYS, LegacyRoute
from chatapi.migration.schedule import DAY_S, Stage

SUNSET = datetime(2027, 6, 30, tzinfo=UTC).timestamp()
BROWNOUT = (SUNSET - 7 * DAY_S, SUNSET - 6 * DAY_S)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now=SUNSET - 100 * DAY_S):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def route(database, clock):
    store = Store(database)
    yield LegacyRoute(store, SUNSET, [BROWNOUT], clock)
    store.close()


@pytest.fixture
def elsewhere(database, clock):
    """The same route in another process, as it were."""
    store = Store(database)
    yield LegacyRoute(store, SUNSET, [BROWNOUT], clock)
    store.close()


def counts(route):
    return dict(route.calls(""))


def test_an_extension_is_for_one_key_and_a_new_date_replaces_the_old_one(route, clock):
    clock.now = SUNSET
    route.extend("k1", SUNSET + 30 * DAY_S)
    assert route.stage("k1") == Stage("announced", SUNSET + 30 * DAY_S)
    assert route.stage("k2").name == route.stage(None).name == "retired"
    route.extend("k1", SUNSET + 3 * DAY_S)
    assert route.stage("k1").sunset == SUNSET + 3 * DAY_S


def test_switched_off_the_route_is_retired_and_switching_it_on_takes_back_no_more(route):
    route.extend("k1", SUNSET + DAY_S)
    route.switch(off=True)
    assert [route.stage(key).name for key in ("k1", "k2", None)] == ["retired"] * 3
    route.switch(off=False)
    assert route.stage("k1") == Stage("announced", SUNSET + DAY_S)
    assert route.stage("k2") == Stage("announced", SUNSET)


def test_what_operators_change_is_heard_of_in_every_process(route, elsewhere):
    assert elsewhere.stage("k1").name == "announced"
    route.switch(off=True)
    began = time.monotonic()
    wait_until(lambda: elsewhere.stage("k1").name == "retired", 5)
    assert time.monotonic() - began < routes.CHECK_S + 1


def test_a_call_is_in_the_store_within_seconds(route):
    route.callers.count("k1", "curl/8", False, rewrite({"message": "a", "top_k": 1}, "test/default"))
    wait_until(lambda: counts(route), FLUSH_S + 2)
    ((place, count),) = counts(route).items()
    assert place == Place("2027-03-22", "k1", "curl")
    assert count == Count(1, 0, 1, 0, SUNSET - 100 * DAY_S, count.uses)
    assert count.uses == {"message": 1, "top_k": 1}


def test_the_counts_of_all_processes_are_added_up(route, elsewhere, clock):
    for one in (route, elsewhere, route):
        clock.now += 1
        one.callers.count("k1", "curl/8", one is route, rewrite({"message": "a"}, "test/default"))
        one.callers.count(None, None, False, None)
        one.callers.flush()
    found = counts(elsewhere)
    assert found[Place("2027-03-22", "k1", "curl")] == Count(
        3, 2, 3, 0, clock.now, found["2027-03-22", "k1", "curl"].uses
    )
    assert found["2027-03-22", "k1", "curl"].uses == {"message": 3}
    assert found["2027-03-22", "", "-"].calls == 3


def test_invented_clients_are_bounded_over_all_processes(route, elsewhere):
    for number, one in enumerate([route, elsewhere] * 60):
        one.callers.count("k1", f"client-{number}", False, None)
    route.callers.count("k1", None, False, None)
    for one in (route, elsewhere):
        one.callers.flush()
    found = counts(route)
    assert len(found) == CLIENTS + 2
    assert sum(count.calls for count in found.values()) == 121
    assert found["2027-03-22", "k1", "other"].calls == 120 - CLIENTS


def test_days_are_kept_for_a_year_and_some(route, clock):
    for _month in range(30):
        route.callers.count("k1", "curl", False, None)
        route.callers.flush()
        clock.now += 30 * DAY_S
    days = [place.day for place, _count in route.calls("")]
    assert len(days) == KEPT_DAYS // 30 + 1
    assert [place.day for place, _count in route.calls(days[3])] == days[3:]


def test_an_older_database_gets_the_same_tables(database):
    with_all = Store(database)
    with_all.check()
    fresh = columns(with_all)
    with_all.write(lambda tx: [tx.execute(sa.text(f"DROP TABLE {name}")) for name in fresh])
    with_all.write(tables._add_legacy)
    assert columns(with_all) == fresh
    with_all.close()


def columns(store):
    def look(tx):
        inspector = sa.inspect(tx)
        return {
            table: (
                [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)],
                inspector.get_pk_constraint(table)["constrained_columns"],
            )
            for table in ("legacy_extensions", "legacy_callers")
        }

    return store.read(look)
