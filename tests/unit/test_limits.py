"""Limits as arithmetic: what is admitted is never over, and what is said about waiting is true to the second."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.accounting.ledger import refusal
from chatapi.accounting.quotas import LEASE_S, SKEW_S, WINDOW_S, Ask, State, Verdict, reserve, settle
from chatapi.caller import NAMES, Limits


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOW = at("2026-11-22T12:00:00.25")
DAY_S = 86_400
FAR = at("2100-01-01")


class Ledger:
    """One caller whose state goes through its text form before each use, as it does between processes."""

    def __init__(self, limits, now=NOW):
        self.limits, self.now, self.text, self.number = limits, now, State().dump(), 0

    @property
    def state(self):
        return State.load(self.text, self.now)

    def copy(self, limits=None, now=None):
        other = Ledger(limits or self.limits, self.now if now is None else now)
        other.text, other.number = self.text, self.number
        return other

    def ask(self, prompt_tokens=0, max_tokens=0, until=FAR, call=None):
        self.number += 1
        state = self.state
        ask = Ask(call or str(self.number), until, prompt_tokens, max_tokens)
        verdict = reserve(state, self.limits, ask, self.now)
        self.text = state.dump()
        return verdict

    def end(self, call, tokens=0):
        state = self.state
        settle(state, str(call), tokens, self.now)
        self.text = state.dump()

    def use(self, tokens, prompt_tokens=0):
        """A call that is made and ends at once."""
        verdict = self.ask(prompt_tokens, tokens)
        assert verdict.refused is None
        self.end(self.number, tokens)


# ---------------------------------------------------------------- whatever happens

STARTS = [
    NOW,
    at("2026-11-22T23:59:30.5"),
    at("2026-12-31T23:58:59.999"),
    at("2027-02-28T23:59:00"),
    at("2028-02-28T23:59:59"),
    at("2028-02-29T12:00:00.001"),
]
STEPS = [0.0, 0.001, 0.3, 0.999, 1.0, 7.5, 29.0, 59.0, 59.999, 60.0, 60.5, 61.0, 200.0, 3600.0, float(DAY_S)]
SOME = st.none() | st.integers(1, 6)
MORE = st.none() | st.integers(1, 300)
LIMITS = st.builds(Limits, rpm=SOME, tpm=MORE, concurrency=SOME, tpd=MORE, tpmonth=MORE).filter(bool)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(STEPS),
        st.sampled_from(["ask", "ask", "use", "use", "use", "end"]),
        st.integers(0, 40),  # prompt tokens, or which open call ends
        st.integers(0, 80),  # max_tokens, or how much of them was used (per cent, at most 80)
    ),
    min_size=5,
    max_size=40,
)
SEQUENCES = {"limits": LIMITS, "start": st.sampled_from(STARTS), "actions": ACTIONS}


def play(limits, start, actions):
    """After each action: the ledger before and after it, the call asked for, its verdict, and what truly happened."""
    ledger, happened, opened = Ledger(limits, start), [], {}
    for step, action, one, other in actions:
        ledger.now += step
        opened = {call: (held, until) for call, (held, until) in opened.items() if until + LEASE_S > ledger.now}
        before, asked, verdict = ledger.copy(), None, None
        if action in ("ask", "use"):
            asked = {"prompt_tokens": one, "max_tokens": other, "until": ledger.now + 300}
            verdict = ledger.ask(**asked)
            if verdict.refused is None:
                opened[ledger.number] = (one + other, asked["until"])
                happened.append((ledger.now, 1, 0))
            yield before, ledger, asked, verdict, happened, opened
            before = ledger.copy()
        call = None
        if action == "use" and verdict.refused is None:
            call = ledger.number
        elif action == "end" and opened:
            call = sorted(opened)[one % len(opened)]
        if call is not None:
            used = opened.pop(call)[0] * other // 80
            ledger.end(call, used)
            happened.append((ledger.now, 0, used))
            yield before, ledger, None, None, happened, opened


def day_of(now):
    return datetime.fromtimestamp(now, UTC).date()


def month_of(now):
    return day_of(now).replace(day=1)


@given(**SEQUENCES)
def test_never_more_than_the_limit(limits, start, actions):
    for _, ledger, _, _, happened, opened in play(limits, start, actions):
        now, held = ledger.now, sum(tokens for tokens, _ in opened.values())
        minute = [(calls, tokens) for moment, calls, tokens in happened if moment > now - 60]
        today = [tokens for moment, _, tokens in happened if day_of(moment) == day_of(now)]
        month = [
            tokens for moment, _, tokens in happened if day_of(moment).replace(day=1) == day_of(now).replace(day=1)
        ]
        assert sum(calls for calls, _ in minute) <= (limits.rpm or FAR)
        assert sum(tokens for _, tokens in minute) + held <= (limits.tpm or FAR)
        assert len(opened) <= (limits.concurrency or FAR)
        assert sum(today) + held <= (limits.tpd or FAR)
        assert sum(month) + held <= (limits.tpmonth or FAR)


@given(**SEQUENCES)
def test_a_refused_call_leaves_no_trace(limits, start, actions):
    for before, ledger, _, verdict, _, _ in play(limits, start, actions):
        if verdict and verdict.refused:
            assert ledger.state == before.state


@given(**SEQUENCES)
def test_a_refused_call_is_admitted_when_it_was_told_to_come_back_and_no_second_earlier(limits, start, actions):
    for before, _, asked, verdict, _, _ in play(limits, start, actions):
        if verdict is None or verdict.refused is None:
            continue
        wait = verdict.retry_after_s
        if wait is None:
            # In a century, with nothing used, nothing open.
            assert before.copy(now=FAR).ask(**asked).refused is not None
        elif not before.state.open:  # nobody knows when a call that is open will end
            assert wait > 0
            assert before.copy(now=before.now + wait).ask(**asked).refused is None
            assert before.copy(now=max(before.now, before.now + wait - 1)).ask(**asked).refused is not None


def all_of(name, amount):
    """Verdicts of asking a ledger for `amount` of limit `name`, and nothing else."""

    def ask(ledger):
        if name in ("rpm", "concurrency"):
            return [ledger.ask(call=f"probe-{n}").refused for n in range(amount)]
        return [ledger.ask(max_tokens=amount).refused] if amount else []

    return ask


@pytest.mark.parametrize("limits", ["rpm=3", "tpm=3"])
@pytest.mark.parametrize("fraction", [0, 0.001, 0.25, 0.5, 0.999])
def test_a_minute_is_sixty_seconds_wherever_it_begins(limits, fraction):
    used_at, admitted = NOW // 1 + fraction, []
    ledger = Ledger(Limits.parse(limits), used_at)
    for _ in range(1300):
        if ledger.ask(max_tokens=1).refused is None:
            ledger.end(ledger.number, 1)
            admitted.append(ledger.now)
        ledger.now += 0.1
    assert all(later - earlier > 60 for earlier, later in zip(admitted, admitted[3:], strict=False))
    assert len(admitted) >= 6  # three at once, and three when their minute is over


@given(**SEQUENCES)
def test_what_is_said_to_remain_remains_and_all_of_it_is_back_after_the_reset(limits, start, actions):
    for _, ledger, _, verdict, _, _ in play(limits, start, actions):
        for room in verdict.rooms if verdict else ():
            only = Limits(**{room.name: room.limit})
            assert room.limit == getattr(limits, room.name)
            assert set(all_of(room.name, room.remaining)(ledger.copy(only))) <= {None}
            assert room.name in all_of(room.name, room.remaining + 1)(ledger.copy(only))
            if ledger.state.open and room.name != "rpm":
                continue  # see the next test
            later = ledger.copy(only, ledger.now + room.reset_s)
            assert set(all_of(room.name, room.limit)(later)) <= {None}
            if room.name in ("rpm", "tpm") and room.remaining < room.limit:
                earlier = ledger.copy(only, ledger.now + room.reset_s - 1)
                assert room.name in all_of(room.name, room.limit)(earlier)


@given(**SEQUENCES)
def test_nothing_is_said_to_be_back_at_once_while_some_of_it_is_away(limits, start, actions):
    for _, _, _, verdict, _, _ in play(limits, start, actions):
        for room in verdict.rooms if verdict else ():
            assert room.remaining == room.limit or room.reset_s > 0


@given(**SEQUENCES)
def test_a_state_that_has_expired_holds_nothing_that_counts(limits, start, actions):
    for _, ledger, _, _, _, _ in play(limits, start, actions):
        then = max(ledger.now, ledger.state.expires_at(ledger.now))
        left = State.load(ledger.text, then)
        assert (left.requests, left.tokens, left.open, left.day[1], left.month[1]) == ({}, {}, {}, 0, 0)


@given(**SEQUENCES, shadow=st.sets(st.sampled_from(NAMES)))
def test_a_shadow_limit_refuses_nobody_and_is_named(limits, start, actions, shadow):
    shadowed_limits = replace(limits, shadow=tuple(shadow))
    for before, _, asked, verdict, _, _ in play(shadowed_limits, start, actions):
        if verdict is None:
            continue
        alone = {}
        for name in NAMES:
            if getattr(limits, name):
                alone[name] = before.copy(Limits(**{name: getattr(limits, name)})).ask(**asked).refused == name
        assert set(verdict.shadowed) == {name for name, over in alone.items() if over and name in shadow}
        assert (verdict.refused is not None) == any(over for name, over in alone.items() if name not in shadow)
        assert verdict.refused not in shadow
        assert {room.name for room in verdict.rooms} == alone.keys() - shadow


@given(**SEQUENCES)
def test_a_state_survives_its_text(limits, start, actions):
    for _, ledger, _, _, _, _ in play(limits, start, actions):
        state = ledger.state
        assert State.load(state.dump(), ledger.now) == state


# ---------------------------------------------------------------- single moments


@pytest.mark.parametrize(
    "limits, ask",
    [
        ("tpm=100", {"prompt_tokens": 1, "max_tokens": 100}),
        ("tpd=100", {"max_tokens": 101}),
        ("tpmonth=100", {"prompt_tokens": 101}),
        ("tpm=100", {"prompt_tokens": 100, "max_tokens": None}),
        ("rpm=1 tpm=100", {"max_tokens": 101}),
    ],
)
def test_a_call_that_is_larger_than_its_limit_is_told_never_to_come_back(limits, ask):
    ledger = Ledger(Limits.parse(limits))
    verdict = ledger.ask(**ask)
    assert verdict.refused
    assert verdict.retry_after_s is None
    error = refusal(verdict, ledger.limits)
    assert (error.retryable, error.retry_after_s) == (False, None)


def test_a_call_that_can_never_be_made_names_the_limit_it_is_too_large_for():
    ledger = Ledger(Limits.parse("rpm=1 tpm=100"))
    ledger.use(1)
    verdict = ledger.ask(max_tokens=101)
    assert verdict.retry_after_s is None
    assert verdict.refused == "tpm"
    assert "100 tokens per minute" in refusal(verdict, ledger.limits).message


def test_without_max_tokens_a_thousand_are_held_back_or_what_the_limit_allows():
    for limit, held in [(5000, 1034), (500, 500)]:
        ledger = Ledger(Limits(tpm=limit))
        assert ledger.ask(prompt_tokens=10, max_tokens=None).refused is None
        assert ledger.state.held == held


def test_to_settle_twice_is_to_settle_once():
    ledger = Ledger(Limits.parse("tpm=100 tpd=100 tpmonth=100 concurrency=2"))
    ledger.ask(max_tokens=60)
    ledger.end(1, 40)
    once = ledger.state
    ledger.end(1, 40)
    assert ledger.state == once
    assert (sum(once.tokens.values()), once.day[1], once.month[1], once.held) == (40, 40, 40, 0)


def test_what_was_held_back_and_not_used_is_there_again():
    ledger = Ledger(Limits(tpm=100))
    ledger.ask(max_tokens=100)
    assert ledger.ask(max_tokens=1).refused == "tpm"
    ledger.end(1, 10)
    assert ledger.ask(max_tokens=91).refused == "tpm"
    assert ledger.ask(max_tokens=90).refused is None


@pytest.mark.parametrize("limits", ["concurrency=1", "tpm=50", "tpd=50", "tpmonth=50"])
def test_a_call_that_was_never_settled_gives_its_place_back_when_its_lease_ends(limits):
    ledger = Ledger(Limits.parse(limits))
    assert ledger.ask(max_tokens=50, until=NOW + 100).refused is None
    ledger.now = NOW + 100 + LEASE_S - 0.5
    assert ledger.ask(max_tokens=50).refused is not None
    ledger.now += 0.5
    assert ledger.ask(max_tokens=50).refused is None


@pytest.mark.parametrize("back_s", [2, 30, 3600, DAY_S, 40 * DAY_S])
@pytest.mark.parametrize("limits", ["rpm=1", "tpm=50"])
def test_a_clock_set_back_blocks_nobody_for_longer_than_a_minute_and_its_skew(limits, back_s):
    ledger = Ledger(Limits.parse(limits))
    ledger.use(50)
    ledger.now -= back_s
    verdict = ledger.copy().ask(max_tokens=50)
    assert verdict.refused is None or verdict.retry_after_s <= WINDOW_S + SKEW_S
    assert ledger.copy(now=ledger.now + (verdict.retry_after_s or 0)).ask(max_tokens=50).refused is None


@pytest.mark.parametrize("limits, back_s", [("tpd=50", DAY_S), ("tpmonth=50", 31 * DAY_S)])
def test_a_clock_set_back_into_another_day_or_month_finds_nothing_used_there(limits, back_s):
    ledger = Ledger(Limits.parse(limits))
    ledger.use(50)
    assert ledger.copy().ask(max_tokens=50).refused is not None
    ledger.now -= back_s
    assert ledger.ask(max_tokens=50).refused is None


@pytest.mark.parametrize("forward_s", [62, DAY_S, 400 * DAY_S])
def test_a_clock_set_forward_is_time_that_has_passed(forward_s):
    ledger = Ledger(Limits.parse("rpm=1 tpm=50"))
    ledger.use(50)
    assert ledger.ask(max_tokens=50).refused == "rpm"
    ledger.now += forward_s
    assert ledger.ask(max_tokens=50).refused is None


@pytest.mark.parametrize("limits", ["rpm=3", "rpm=3 tpm=1000", "rpm=3 tpmonth=1000"])
@pytest.mark.parametrize("ahead_s", [0.4, 2, 4])
def test_two_machines_whose_clocks_differ_a_little_share_one_minute(limits, ahead_s):
    ledger, admitted = Ledger(Limits.parse(limits)), 0
    for n in range(20):
        ledger.now = NOW + n * 0.1 + (ahead_s if n % 2 else 0)
        admitted += ledger.ask(max_tokens=1).refused is None
    assert admitted == 3


@pytest.mark.parametrize("limits", ["tpd=50", "tpmonth=50"])
def test_a_machine_whose_clock_is_a_second_late_does_not_undo_what_the_new_day_has_used(limits):
    ledger = Ledger(Limits.parse(limits), at("2027-01-01T00:00:00.5"))
    ledger.use(50)
    ledger.now -= 1
    ledger.ask(max_tokens=50)
    ledger.end(ledger.number)
    ledger.now += 1.5
    assert ledger.ask(max_tokens=50).refused is not None


ROLLS = [
    ("tpd", "2026-11-22T23:59:59.5", 0.5),
    ("tpd", "2026-12-31T12:00:00", 12 * 3600),
    ("tpd", "2028-02-28T00:00:00", DAY_S),
    ("tpmonth", "2026-12-31T23:59:59", 1),
    ("tpmonth", "2026-12-01T00:00:00", 31 * DAY_S),
    ("tpmonth", "2026-11-30T23:00:00", 3600),
    ("tpmonth", "2027-01-31T00:00:00", DAY_S),
    ("tpmonth", "2027-02-28T18:00:00", 6 * 3600),
    ("tpmonth", "2028-02-28T18:00:00", DAY_S + 6 * 3600),
    ("tpmonth", "2028-02-29T18:00:00", 6 * 3600),
]


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "Pacific/Kiritimati"])
@pytest.mark.parametrize("name, moment, until_s", ROLLS)
def test_days_and_months_are_those_of_utc(monkeypatch, name, moment, until_s, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        ledger = Ledger(Limits(**{name: 50}), at(moment))
        ledger.use(50)
        refused = ledger.ask(max_tokens=50)
        assert (refused.refused, refused.retry_after_s) == (name, until_s)
        assert refused.rooms[0].reset_s == -int(-until_s // 1)
        assert ledger.copy(now=ledger.now + until_s - 0.001).ask(max_tokens=50).refused == name
        assert ledger.copy(now=ledger.now + until_s).ask(max_tokens=50).refused is None
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("months_end", ["2026-12-31T23:59:50", "2027-02-28T23:59:50"])
def test_a_minute_goes_on_over_the_end_of_the_month(months_end):
    ledger = Ledger(Limits.parse("rpm=2 tpmonth=1000 concurrency=1"), at(months_end))
    ledger.use(10)
    ledger.ask(max_tokens=10)
    assert ledger.state.expires_at(ledger.now) >= ledger.now + 60


# ---------------------------------------------------------------- what callers are told

LIMIT_WORDS = [
    ("", Limits()),
    ("rpm=60", Limits(rpm=60)),
    ("rpm=60 tpm=10000", Limits(rpm=60, tpm=10000)),
    ("rpm=60,tpm=10000, tpd=5", Limits(rpm=60, tpm=10000, tpd=5)),
    ("concurrency=1 tpmonth=7", Limits(concurrency=1, tpmonth=7)),
    ("rpm=1 shadow=rpm shadow=tpm", Limits(rpm=1, shadow=("rpm", "tpm"))),
    ("\trpm=007\n", Limits(rpm=7)),
]


@pytest.mark.parametrize("text, limits", LIMIT_WORDS)
def test_limits_are_words(text, limits):
    assert Limits.parse(text) == limits


BAD_WORDS = ["rpm", "rpm=", "rpm=0", "rpm=-1", "rpm=1.5", "rpm=1e3", "rpm=+1", "rpm=١", "rpm = 1", "RPM=1", "rps=1"]
BAD_WORDS += ["shadow", "shadow=", "shadow=rps", "shadow=shadow", "tokens=5", "=5", "rpm=1;tpm=2", "rpm=²", "rpm=1_000"]


@pytest.mark.parametrize("word", BAD_WORDS)
@pytest.mark.parametrize("before", ["", "tpm=5 "])
def test_a_word_that_is_no_limit_is_named(word, before):
    with pytest.raises(ValueError, match="must be words like rpm=60"):
        Limits.parse(before + word)


def test_limits_are_something_or_nothing():
    assert not Limits()
    assert not Limits(shadow=("rpm",))
    assert all(Limits(**{name: 1}) for name in NAMES)
    assert [name for name in NAMES if Limits(**{name: 1}).holds] == ["tpm", "concurrency", "tpd", "tpmonth"]
    assert [name for name in NAMES if Limits(**{name: 1}).of_tokens] == ["tpm", "tpd", "tpmonth"]


@pytest.mark.parametrize(
    "limits, used, tightest",
    [
        ("rpm=10 tpm=100", 50, "tpm"),
        ("rpm=2 tpm=100", 10, "rpm"),
        ("concurrency=1 tpd=100", 10, "tpd"),
        ("concurrency=1", 10, "concurrency"),
        ("rpm=1 tpd=100 shadow=rpm", 10, "tpd"),
        ("rpm=1 shadow=rpm", 1, None),
    ],
)
def test_the_tightest_limit_is_the_one_with_the_least_left(limits, used, tightest):
    verdict = Ledger(Limits.parse(limits)).ask(max_tokens=used)
    assert (verdict.tightest and verdict.tightest.name) == tightest


def test_the_tightest_limit_of_a_refused_call_is_the_one_that_refused():
    ledger = Ledger(Limits.parse("rpm=1000 concurrency=1 tpd=5"))
    ledger.ask(max_tokens=5)
    assert ledger.ask().tightest.name == "concurrency"
    assert Verdict(None, (), 0.0, ()).tightest is None
