"""The legacy route's stages, and the brownouts as they are written."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import at, raised, rows

from chatapi.migration.schedule import DAY_S, Stage, check_brownouts, parse_brownouts, stage_at, suggest

SUNSET = at("2027-06-30")
BROWNOUTS = parse_brownouts("2027-06-02T12:00Z/PT1H 2027-06-16T12:00Z/P1D")


STAGES = {
    ("announced", None): ["2026-11-22T00:00", "2027-06-02T11:59:59", "2027-06-02T13:00", "2027-06-29T23:59:59"],
    ("brownout", "2027-06-02T13:00"): ["2027-06-02T12:00", "2027-06-02T12:59:59"],
    ("brownout", "2027-06-17T12:00"): ["2027-06-16T20:00"],
    ("retired", None): ["2027-06-30T00:00", "2031-01-01T00:00"],
}


@pytest.mark.parametrize("now, name, until", rows(STAGES))
def test_the_stage_follows_the_schedule(now, name, until):
    assert stage_at(at(now), SUNSET, BROWNOUTS) == Stage(name, SUNSET, until and at(until))


@pytest.mark.parametrize("extended", [None, at("2027-02-01")])
def test_without_a_sunset_the_route_is_announced_for_ever(extended):
    for now in ("2027-01-01", "2999-01-01"):
        assert stage_at(at(now), None, (), extended) == Stage("announced")


OVERLAPPING = {  # windows → when the one that they are ends
    "2027-06-02T12:00Z/PT1H 2027-06-02T12:30Z/PT1H": "2027-06-02T13:30",
    "2027-06-02T12:30Z/PT1H 2027-06-02T12:00Z/PT1H": "2027-06-02T13:30",  # in any order
    "2027-06-02T12:00Z/PT1H 2027-06-02T13:00Z/PT1H": "2027-06-02T14:00",  # they touch
    "2027-06-02T11:00Z/PT9H 2027-06-02T12:00Z/PT1H": "2027-06-02T20:00",  # one within the other
    "2027-06-02T12:00Z/PT1H 2027-06-02T13:01Z/PT1H": "2027-06-02T13:00",
}


@pytest.mark.parametrize("windows, until", OVERLAPPING.items())
def test_windows_that_overlap_are_one(windows, until):
    stage = stage_at(at("2027-06-02T12:45"), SUNSET, parse_brownouts(windows))
    assert stage == Stage("brownout", SUNSET, at(until))


def test_a_brownout_that_lasts_to_the_sunset_promises_no_return():
    windows = parse_brownouts("2027-06-29T00:00Z/PT12H 2027-06-29T12:00Z/PT12H")
    assert stage_at(at("2027-06-29T01:00"), SUNSET, windows) == Stage("retired", SUNSET)


EXTENDED = {  # what is found → when it is looked for, and until when it is extended
    Stage("announced", at("2027-08-01")): [  # no brownout for it
        *(("2027-06-02T12:00", "2027-08-01"), ("2027-07-31T23:59:59", "2027-08-01")),
    ],
    Stage("retired", at("2027-08-01")): [("2027-08-01", "2027-08-01")],
    Stage("announced", SUNSET): [("2027-06-02T12:00", "2027-06-10")],
    Stage("brownout", SUNSET, at("2027-06-17T12:00")): [("2027-06-16T13:00", "2027-06-10")],
    Stage("retired", SUNSET): [("2027-06-30", "2027-06-10")],
}


@pytest.mark.parametrize("stage, moments", EXTENDED.items(), ids=str)
def test_an_extended_key_is_served_until_its_date(stage, moments):
    for now, extended in moments:
        assert stage_at(at(now), SUNSET, BROWNOUTS, at(extended)) == stage


@pytest.mark.parametrize("extended", [None, at("2027-08-01")])
def test_switched_off_the_route_is_retired_for_everybody(extended):
    stage = stage_at(at("2027-01-01"), SUNSET, BROWNOUTS, extended, switched_off=True)
    assert stage.name == "retired" and stage.resumes_at is None


moments = st.integers(int(SUNSET) - 100 * DAY_S, int(SUNSET) + 10 * DAY_S)
windows_before_the_sunset = st.lists(
    st.tuples(moments, st.integers(1, 20 * DAY_S)).map(lambda w: (w[0], w[0] + w[1])).filter(lambda w: w[1] <= SUNSET),
    max_size=6,
)


@given(moments, windows_before_the_sunset)
def test_the_end_of_a_brownout_is_when_the_route_is_served_again(now, windows):
    stage = stage_at(now, SUNSET, windows)
    if stage.name == "brownout":
        assert now < stage.resumes_at < SUNSET
        assert stage_at(stage.resumes_at, SUNSET, windows).name == "announced"
        assert all(stage_at(moment, SUNSET, windows) == stage for moment in (now, (now + stage.resumes_at) // 2))


# --- as they are written


INTERVALS = [
    ("2027-06-02T12:00Z/PT1H", "2027-06-02T12:00", "2027-06-02T13:00"),
    ("2027-06-02T12:00/PT1H", "2027-06-02T12:00", "2027-06-02T13:00"),  # UTC
    ("2027-06-02T12:00-03:00/PT1H", "2027-06-02T15:00", "2027-06-02T16:00"),
    ("2027-06-02/P1D", "2027-06-02", "2027-06-03"),
    ("20270602T1200Z/PT90M", "2027-06-02T12:00", "2027-06-02T13:30"),
    ("2027-06-02T12:00:30Z/P1DT2H3M4S", "2027-06-02T12:00:30", "2027-06-03T14:03:34"),
]


@pytest.mark.parametrize("text, start, end", INTERVALS)
def test_an_interval_is_read(text, start, end):
    assert parse_brownouts(f"  {text}\t") == ((at(start), at(end)),)


WRONG_WINDOWS = {
    "must be START/DURATION like": ["2027-06-02T12:00Z"],
    "must start at a time like": ["tomorrow/PT1H", "2027-13-02T12:00Z/PT1H", "/PT1H"],
    "must last": [
        f"2027-06-02T12:00Z/{length}"
        for length in ("2027-06-02T13:00Z", "", "P", "P1DT", "1H", "P1M", "P1W", "PT1.5H", "-PT1H", "PT1H/PT1H")
    ],
    "must last longer than nothing": ["2027-06-02T12:00Z/PT0S", "2027-06-02T12:00Z/P0DT0H"],
}


@pytest.mark.parametrize("window, words", rows(WRONG_WINDOWS))
def test_a_mistake_names_its_window_and_every_one_is_told(window, words):
    error = raised(ValueError, parse_brownouts, f"2027-06-02T12:00Z/PT1H {window} nonsense")
    assert error.args[0].startswith(f"{window}: {words}")
    assert [mistake.partition(": ")[0] for mistake in error.args] == [window, "nonsense"]


def test_a_brownout_needs_a_sunset_and_ends_by_it():
    text = "2027-06-29T12:00Z/PT12H 2027-06-29T12:00Z/PT12H1S 2027-07-02T12:00Z/PT1H"
    windows = parse_brownouts(text)
    assert check_brownouts((), "", None) == ()
    assert check_brownouts(windows[:1], text.split(maxsplit=1)[0], SUNSET) == ()
    assert "CHATAPI_LEGACY_SUNSET" in check_brownouts(windows, text, None)[0]
    late = check_brownouts(windows, text, SUNSET)
    assert [line.partition(": ")[0] for line in late] == text.split()[1:]
    assert all("must end by 2027-06-30" in line for line in late)


# --- a schedule to begin with


@given(st.integers(0, 40_000), st.integers(0, 400))
def test_a_suggestion_can_be_used_as_it_is(day, days_left):
    sunset = day * DAY_S
    now = sunset - days_left * DAY_S
    lines = suggest(now, sunset)
    windows = parse_brownouts(" ".join(lines))
    lengths = [end - start for start, end in windows]
    assert check_brownouts(windows, " ".join(lines), sunset) == ()
    assert lengths == sorted(set(lengths))
    assert all(now < start and end < following for (start, end), (following, _) in pairwise(windows))
    assert len(windows) == 5 or days_left < 64


def test_a_suggestion_for_a_given_day():
    days = ("05-04T12:00Z/PT1H", "05-18T12:00Z/PT4H", "06-01T12:00Z/PT12H", "06-15T12:00Z/P1D", "06-22T12:00Z/P2D")
    assert suggest(at("2027-03-01"), SUNSET) == [f"2027-{day}" for day in days]
