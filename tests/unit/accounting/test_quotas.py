"""Limits as arithmetic: what is admitted is never over, and what is said about waiting is true."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import at, raised, rows

from chatapi.accounting import quotas
from chatapi.accounting.quotas import CELLS, COUNT, HELD, MINUTE_S, PERIODS, SKEW_S, Decision, refusal
from chatapi.caller import LIMIT_NAMES, Limits

NOW = at("2026-11-22T12:00:00.25")
DAY_S = 86_400
FAR = at("2100-01-01")
MS = 0.001


class Caller:
    """One caller's numbers, used as a store does; what a ledger would know of a day or month is in `in_ledger`."""

    def __init__(self, limits, now=NOW):
        self.limits, self.now, self.number = limits, now, 0
        self.cells, self.open, self.in_ledger = [0] * CELLS, {}, []

    def copy(self, limits=None, now=None):
        other = Caller(limits or self.limits, self.now if now is None else now)
        other.cells, other.open, other.number = list(self.cells), dict(self.open), self.number
        other.in_ledger = list(self.in_ledger)
        return other

    def arrive(self):
        decision = quotas.admit(self.cells, self.limits, self.now)
        if decision.refused is None:
            self.number += 1
            self.open[self.number] = self.now, 0
        return decision

    def hold(self, tokens):
        for name in quotas.unknown(self.cells, self.limits, self.now):
            period = PERIODS[name]
            number = period.number(self.now)
            period.begin(self.cells, sum(n for t, n in self.in_ledger if period.number(t) == number), self.now)
        decision = quotas.hold(self.cells, self.limits, tokens, self.now)
        if decision.refused is None:
            self.open[self.number] = self.open[self.number][0], tokens
        return decision

    def ask(self, tokens=0):
        """Arrive, and hold back `tokens`; whoever is refused then leaves again."""
        decision = self.arrive()
        if decision.refused or not self.limits.of_tokens:
            return decision
        held = self.hold(tokens)
        if held.refused:
            self.end(self.number)
        shadowed = tuple(dict.fromkeys((*decision.shadowed, *held.shadowed)))
        return held._replace(shadowed=shadowed)

    def end(self, call, tokens=0):
        began, held = self.open.pop(call)
        quotas.settle(self.cells, held, tokens if self.limits.of_tokens else 0, self.now, began)
        self.in_ledger.append((began, tokens))

    def use(self, tokens=0):
        """A call that is made and ends at once."""
        decision = self.ask(tokens)
        assert decision.refused is None
        self.end(self.number, tokens)


# ---------------------------------------------------------------- whatever happens

STARTS = [
    *(NOW, at("2026-11-22T23:59:30.5"), at("2026-12-31T23:58:59.999"), at("2027-02-28T23:59:00")),
    *(at("2028-02-28T23:59:59"), at("2028-02-29T12:00:00.001")),
]
STEPS = [0.0, 0.001, 0.3, 0.999, 1.0, 7.5, 29.0, 59.0, 59.999, 60.0, 60.5, 61.0, 200.0, 3600.0, float(DAY_S)]
SOME = st.none() | st.integers(1, 6)
MORE = st.none() | st.integers(1, 300)
LIMITS = st.builds(Limits, rpm=SOME, tpm=MORE, concurrency=SOME, tpd=MORE, tpmonth=MORE).filter(bool)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(STEPS),
        st.sampled_from(["ask", "ask", "use", "use", "use", "end"]),
        st.integers(0, 120),  # tokens held, or which open call ends
        st.integers(0, 80),  # how much of them was used (per cent, at most 80)
    ),
    min_size=5,
    max_size=40,
)
SEQUENCES = {"limits": LIMITS, "start": st.sampled_from(STARTS), "actions": ACTIONS}


def play(limits, start, actions):
    """After each action: the caller before and after it, the tokens asked for, the decision, and what truly happened:
    (when it was counted, calls, tokens, when its call began)."""
    caller, happened = Caller(limits, start), []
    for step, action, one, other in actions:
        caller.now += step
        before, decision = caller.copy(), None
        if action in ("ask", "use"):
            decision = caller.ask(one)
            if decision.refused not in ("rpm", "concurrency"):
                happened.append((caller.now, 1, 0, caller.now))
            yield before, caller, one, decision, happened
            before = caller.copy()
        call = None
        if action == "use" and decision.refused is None:
            call = caller.number
        elif action == "end" and caller.open:
            call = sorted(caller.open)[one % len(caller.open)]
        if call is not None:
            began, held = caller.open[call]
            used = held * other // 80 if limits.of_tokens else 0
            caller.end(call, used)
            happened.append((caller.now, 0, used, began))
            yield before, caller, None, None, happened


def day_of(now):
    return datetime.fromtimestamp(now, UTC).date()


def month_of(now):
    return day_of(now).replace(day=1)


@given(**SEQUENCES)
def test_never_more_than_the_limit(limits, start, actions):
    for _, caller, _, _, happened in play(limits, start, actions):
        now, held = caller.now, sum(tokens for _, tokens in caller.open.values())
        minute = [(calls, tokens) for moment, calls, tokens, _ in happened if moment > now - MINUTE_S + MS]
        today = [tokens for _, _, tokens, began in happened if day_of(began) == day_of(now)]
        month = [tokens for _, _, tokens, began in happened if month_of(began) == month_of(now)]
        assert sum(calls for calls, _ in minute) <= (limits.rpm or FAR)
        assert sum(tokens for _, tokens in minute) + held <= (limits.tpm or FAR)
        assert len(caller.open) <= (limits.concurrency or FAR)
        assert sum(today) + held <= (limits.tpd or FAR)
        assert sum(month) + held <= (limits.tpmonth or FAR)


@given(**SEQUENCES)
def test_who_is_refused_on_arrival_leaves_no_trace_and_later_only_a_request(limits, start, actions):
    for before, caller, _, decision, _ in play(limits, start, actions):
        if decision and decision.refused:
            plain = replace(limits, tpm=None, tpd=None, tpmonth=None)
            if decision.refused not in ("rpm", "concurrency") and plain:
                before = before.copy(plain)
                before.use()
            was = used_by(before.copy(limits))
            assert used_by(caller) | was == used_by(caller)


def used_by(caller):
    unknown = quotas.unknown(caller.cells, caller.limits, caller.now)  # of a day that is over
    for window in quotas.WINDOWS.values():
        window.roll(caller.cells, caller.now)
    return {
        n: w.used(caller.cells) for n, w in quotas.WINDOWS.items() if getattr(caller.limits, n) and n not in unknown
    }


@given(**SEQUENCES)
def test_who_is_refused_is_admitted_when_told_to_come_back_and_no_second_earlier(limits, start, actions):
    for _, after, asked, decision, _ in play(limits, start, actions):
        if decision is None or decision.refused is None:
            continue
        wait = decision.retry_after_s
        if wait is None:
            # In a century, with nothing used, nothing open.
            assert Caller(limits, FAR).ask(asked).refused is not None
        elif not after.open:  # nobody knows when a call that is open will end
            assert wait > 0
            # On arrival nobody knows yet how many tokens a call will want.
            ask = Caller.arrive if decision.refused in ("rpm", "concurrency") else partial(Caller.ask, tokens=asked)
            assert ask(after.copy(now=after.now + wait)).refused is None
            assert ask(after.copy(now=max(after.now, after.now + wait - 1))).refused is not None
        if decision.refused in ("rpm", "tpm") and wait and limits.tpd is limits.tpmonth is None:
            assert refusal(decision, limits).retry_after_s <= 60, "clients ignore more"


@pytest.mark.parametrize("limits", ["rpm=3", "tpm=3"])
@pytest.mark.parametrize("fraction", [0, 0.001, 0.25, 0.5, 0.999])
def test_a_minute_is_sixty_seconds_wherever_it_begins(limits, fraction):
    used_at, admitted = NOW // 1 + fraction, []
    caller = Caller(Limits.parse(limits), used_at)
    for _ in range(1300):
        if caller.ask(1).refused is None:
            caller.end(caller.number, 1)
            admitted.append(caller.now)
        caller.now += 0.1
    assert all(later - earlier >= 60 - MS for earlier, later in zip(admitted, admitted[3:], strict=False))
    assert len(admitted) >= 7  # three at once, three when their minute is over, and so on


def all_of(name, amount):
    """Decisions of asking for `amount` of limit `name`, and nothing else."""

    def ask(caller):
        if name in ("rpm", "concurrency"):
            return [caller.arrive().refused for n in range(amount)]
        return [caller.ask(amount).refused] if amount else []

    return ask


@given(**SEQUENCES)
def test_what_is_said_to_remain_remains_and_all_of_it_is_back_after_the_reset(limits, start, actions):
    for _, caller, _, decision, _ in play(limits, start, actions):
        for status in decision.statuses if decision else ():
            if status.name == "concurrency" and decision.refused in quotas.TOKENS:
                continue  # it had its own place still
            only = Limits(**{status.name: status.limit})
            assert status.limit == getattr(limits, status.name)
            assert set(all_of(status.name, status.remaining)(caller.copy(only))) <= {None}
            assert status.name in all_of(status.name, status.remaining + 1)(caller.copy(only))
            assert status.remaining == status.limit or status.reset_s > 0
            if caller.open and status.name != "rpm":
                continue  # nobody knows when they end
            later = caller.copy(only, caller.now + status.reset_s)
            assert set(all_of(status.name, status.limit)(later)) <= {None}
            if status.name in ("rpm", "tpm") and status.remaining < status.limit:
                assert status.reset_s <= 60
                earlier = caller.copy(only, caller.now + status.reset_s - 1 - MS)
                assert status.name in all_of(status.name, status.limit)(earlier)


@given(**SEQUENCES, shadow=st.sets(st.sampled_from(LIMIT_NAMES)))
def test_a_shadow_limit_refuses_nobody_and_is_named(limits, start, actions, shadow):
    shadowed_limits = replace(limits, shadow=tuple(shadow))
    for before, _, asked, decision, _ in play(shadowed_limits, start, actions):
        if decision is None:
            continue
        alone = {}
        for name in LIMIT_NAMES:
            if getattr(limits, name):
                alone[name] = before.copy(Limits(**{name: getattr(limits, name)})).ask(asked).refused == name
        on_arrival = {name: over for name, over in alone.items() if name in ("rpm", "concurrency")}
        hard = {name for name, over in alone.items() if over and name not in shadow}
        asked_about = on_arrival if hard & on_arrival.keys() else alone
        assert set(decision.shadowed) == {name for name, over in asked_about.items() if over and name in shadow}
        assert (decision.refused is not None) == bool(hard)
        assert decision.refused not in shadow
        assert {status.name for status in decision.statuses} <= alone.keys() - shadow


# ---------------------------------------------------------------- single moments


@pytest.mark.parametrize(
    "limits, used, words",
    [
        *(("tpm=100", 0, "100 tokens per minute"), ("tpd=100", 0, "100 tokens per day")),
        *(("tpmonth=100", 0, "100 tokens per month"), ("tpd=1000 tpm=100", 100, "100 tokens per minute")),
    ],
)
def test_a_call_that_can_never_be_made_names_the_limit_it_is_too_large_for(limits, used, words):
    caller = Caller(Limits.parse(limits))
    caller.use(used)
    decision = caller.ask(101)
    error = refusal(decision, caller.limits)
    assert (decision.retry_after_s, error.retryable, error.retry_after_s) == (None, False, None)
    assert words in error.message


def test_who_is_refused_for_tokens_is_told_to_wait_for_a_request_too():
    caller = Caller(Limits.parse("rpm=1 tpm=100"))
    caller.ask(90)
    caller.now += 60
    decision = caller.ask(20)
    assert (decision.refused, decision.retry_after_s) == ("tpm", pytest.approx(60, abs=0.01)), "this was a request"


def test_what_was_held_back_and_not_used_is_there_again():
    caller = Caller(Limits(tpm=100))
    caller.ask(100)
    assert caller.ask(1).refused == "tpm"
    caller.end(1, 10)
    assert caller.ask(91).refused == "tpm"
    assert caller.ask(90).refused is None
    assert (caller.cells[COUNT], caller.cells[HELD]) == (1, 90)


@pytest.mark.parametrize("back_s", [2, 30, 3600, DAY_S, 40 * DAY_S])
@pytest.mark.parametrize("limits", ["rpm=1", "tpm=50"])
def test_a_clock_set_back_blocks_nobody_for_longer_than_a_minute_and_its_skew(limits, back_s):
    caller = Caller(Limits.parse(limits))
    caller.use(50)
    caller.now -= back_s
    decision = caller.copy().ask(50)
    wait_s = decision.retry_after_s or 0
    assert decision.refused is None or wait_s <= MINUTE_S
    for _ in range(2):  # who comes back when told, and is told once more, is admitted then
        again = caller.copy(now=caller.now + wait_s).ask(50)
        wait_s += again.retry_after_s or 0
    assert again.refused is None
    assert wait_s <= MINUTE_S + SKEW_S


MOVED = [("tpd=50", -DAY_S), ("tpmonth=50", -31 * DAY_S), *(("rpm=1 tpm=50", s) for s in (62, DAY_S, 400 * DAY_S))]


@pytest.mark.parametrize("limits, seconds", MOVED)
def test_a_clock_set_into_another_day_or_month_or_forward_finds_nothing_used_there(limits, seconds):
    caller = Caller(Limits.parse(limits))
    caller.use(50)
    assert caller.copy().ask(50).refused == limits.partition("=")[0]
    caller.now += seconds
    assert caller.ask(50).refused is None


@pytest.mark.parametrize("limits", ["rpm=3", "rpm=3 tpm=1000", "rpm=3 tpmonth=1000"])
@pytest.mark.parametrize("ahead_s", [0.4, 2, 4])
def test_two_machines_whose_clocks_differ_a_little_share_one_minute(limits, ahead_s):
    caller, admitted = Caller(Limits.parse(limits)), 0
    for n in range(20):
        caller.now = NOW + n * 0.1 + (ahead_s if n % 2 else 0)
        admitted += caller.ask(1).refused is None
    assert admitted == 3


@pytest.mark.parametrize("limits", ["tpd=50", "tpmonth=50"])
def test_a_machine_whose_clock_is_a_second_late_does_not_undo_what_the_new_day_has_used(limits):
    caller = Caller(Limits.parse(limits), at("2027-01-01T00:00:00.5"))
    caller.use(50)
    caller.now -= 1
    caller.ask(50)
    caller.now += 1.5
    assert caller.ask(50).refused is not None


@pytest.mark.parametrize("limits", ["tpd=50", "tpmonth=50"])
def test_a_day_of_which_a_store_knows_nothing_begins_with_what_the_ledger_knows(limits):
    caller = Caller(Limits.parse(limits))
    caller.use(40)
    caller.cells = [0] * CELLS
    assert quotas.unknown(caller.cells, caller.limits, caller.now) == [limits.partition("=")[0]]
    assert caller.ask(11).refused is not None
    assert caller.ask(10).refused is None
    assert quotas.unknown(caller.cells, caller.limits, caller.now) == []


ROLLS = {  # the limit → when its day or month has so many seconds left
    "tpd": [("2026-11-22T23:59:59.5", 0.5), ("2026-12-31T12:00:00", 12 * 3600), ("2028-02-28T00:00:00", DAY_S)],
    "tpmonth": [
        *(("2026-12-31T23:59:59", 1), ("2026-12-01T00:00:00", 31 * DAY_S), ("2026-11-30T23:00:00", 3600)),
        *(("2027-01-31T00:00:00", DAY_S), ("2027-02-28T18:00:00", 6 * 3600), ("2028-02-29T18:00:00", 6 * 3600)),
        ("2028-02-28T18:00:00", DAY_S + 6 * 3600),
    ],
}


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "Pacific/Kiritimati"])
@pytest.mark.parametrize("moment, until_s, name", rows(ROLLS))
def test_days_and_months_are_those_of_utc(monkeypatch, name, moment, until_s, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        caller = Caller(Limits(**{name: 50}), at(moment))
        caller.use(50)
        refused = caller.ask(50)
        assert (refused.refused, refused.retry_after_s) == (name, until_s)
        assert refused.statuses[0].reset_s == -int(-until_s // 1)
        assert caller.copy(now=caller.now + until_s - MS).ask(50).refused == name
        assert caller.copy(now=caller.now + until_s).ask(50).refused is None
    finally:
        monkeypatch.undo()
        time.tzset()


# ---------------------------------------------------------------- what callers are told

LIMIT_WORDS = [
    *(("", Limits()), ("rpm=60", Limits(rpm=60)), ("rpm=60 tpm=10000", Limits(rpm=60, tpm=10000))),
    *(("rpm=60,tpm=10000, tpd=5", Limits(rpm=60, tpm=10000, tpd=5)), ("\trpm=007\n", Limits(rpm=7))),
    ("concurrency=1 tpmonth=7", Limits(concurrency=1, tpmonth=7)),
    ("rpm=1 shadow=rpm shadow=tpm", Limits(rpm=1, shadow=("rpm", "tpm"))),
]


@pytest.mark.parametrize("text, limits", LIMIT_WORDS)
def test_limits_are_words(text, limits):
    assert Limits.parse(text) == limits


BAD_WORDS = ["rpm", "rpm=", "rpm=0", "rpm=-1", "rpm=1.5", "rpm=1e3", "rpm=+1", "rpm=١", "rpm = 1", "RPM=1", "rps=1"]
BAD_WORDS += ["shadow", "shadow=", "shadow=rps", "shadow=shadow", "tokens=5", "=5", "rpm=1;tpm=2", "rpm=²", "rpm=1_000"]


@pytest.mark.parametrize("word", BAD_WORDS)
@pytest.mark.parametrize("before", ["", "tpm=5 "])
def test_a_word_that_is_no_limit_is_named(word, before):
    assert "must be words like rpm=60" in str(raised(ValueError, Limits.parse, before + word))


def test_limits_are_something_or_nothing():
    assert not Limits()
    assert not Limits(shadow=("rpm",))
    assert all(Limits(**{name: 1}) for name in LIMIT_NAMES)
    assert [name for name in LIMIT_NAMES if Limits(**{name: 1}).of_tokens] == ["tpm", "tpd", "tpmonth"]


TIGHTEST = {
    "tpm": [("rpm=10 tpm=100", 50)],
    "rpm": [("rpm=2 tpm=100", 10)],
    "tpd": [("concurrency=1 tpd=100", 10), ("rpm=1 tpd=100 shadow=rpm", 10)],
    "concurrency": [("concurrency=1", 10)],
    None: [("rpm=1 shadow=rpm", 1)],
}


@pytest.mark.parametrize("limits, used, tightest", rows(TIGHTEST))
def test_the_tightest_limit_is_the_one_with_the_least_left(limits, used, tightest):
    decision = Caller(Limits.parse(limits)).ask(used)
    assert (decision.tightest and decision.tightest.name) == tightest


def test_the_tightest_limit_of_a_refused_call_is_the_one_that_refused():
    caller = Caller(Limits.parse("rpm=1000 concurrency=1 tpd=5"))
    caller.ask(5)
    assert caller.ask().tightest.name == "concurrency"
    assert Decision(None, (), 0.0, ()).tightest is None


@pytest.mark.parametrize(
    "name, began, ended", [("tpd", "2026-11-22", "2026-11-23"), ("tpmonth", "2026-11-30", "2026-12-01")]
)
def test_a_call_counts_in_the_day_and_month_in_which_it_began_alone(name, began, ended):
    caller = Caller(Limits(**{name: 100}), at(f"{began}T23:59:00"))
    assert caller.arrive().refused is caller.hold(60).refused is None
    old = caller.now
    caller.now = at(f"{ended}T00:01:00")
    assert caller.arrive().refused is caller.hold(40).refused is None  # the new period is known from here on
    quotas.settle(caller.cells, 60, 60, caller.now, old)
    quotas.settle(caller.cells, 40, 40, caller.now, caller.now)
    assert PERIODS[name].used(caller.cells) == 40
