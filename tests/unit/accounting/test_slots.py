"""Limits in memory that the processes of a machine share: exact, through kills in the middle of a change."""

import os
import time
from contextlib import ExitStack
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gateways import python
from support.stores import full_disk
from support.tables import raised

from chatapi.accounting import slots as slots_module
from chatapi.accounting.processes import ProcessNumbers
from chatapi.accounting.quotas import LEASE_S, Reservation
from chatapi.accounting.slots import Slots
from chatapi.caller import Limits
from chatapi.errors import StoreUnavailable

NOW = time.time()
LIMITS = Limits.parse("rpm=100 concurrency=10 tpm=1000")


@pytest.fixture
def opened(folder):
    """Slots, each as another process would have them."""
    with ExitStack() as stack:

        def open_some(at=folder):
            slots = Slots(ProcessNumbers(at), lambda key_id, limit, now: 0)
            stack.callback(slots._processes.release)
            stack.callback(slots.close)
            return slots

        yield open_some


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "live"


@pytest.fixture
def slots(opened):
    return opened()


@pytest.fixture
def other(opened):
    return opened()


def asked(call=1, subject="key:k", limits=LIMITS, key_id="k", until=NOW + 60):
    return Reservation(call, subject, key_id, limits, NOW, until)


def left(slots, limits=LIMITS, subject="key:k"):
    """What is left of each limit, as a call is told that holds nothing back and leaves."""
    of = asked(0, subject, limits)
    assert slots.admit(of, NOW).refused is None
    decision = slots.hold(of, 0, NOW)
    slots.settle(of, 0, NOW)
    return {status.name: status.remaining for status in decision.statuses}


# ---------------------------------------------------------------- several processes


def test_what_one_has_counted_all_others_know(slots, other):
    of = asked()
    slots.admit(of, NOW)
    slots.hold(of, 300, NOW)
    assert left(other) == {"rpm": 98, "concurrency": 8, "tpm": 700}
    slots.settle(of, 50, NOW)
    assert left(other) == {"rpm": 97, "concurrency": 9, "tpm": 950}


def test_to_settle_twice_is_to_settle_once_and_gives_back_no_other_calls_place(slots):
    first, second = asked(1), asked(2)
    slots.admit(first, NOW)
    slots.hold(first, 300, NOW)
    slots.settle(first, 50, NOW)
    slots.admit(second, NOW)  # has the place that the first one had
    assert second.place == first.place
    slots.settle(first, 50, NOW)
    assert left(slots) == {"rpm": 97, "concurrency": 8, "tpm": 950}


def test_a_process_that_is_gone_gives_back_its_places_to_whoever_comes_next(slots, opened):
    gone, of = opened(), asked()
    gone.admit(of, NOW)
    gone.hold(of, 900, NOW)
    slots.sweep(NOW)
    assert left(slots)["tpm"] == 100, "it lives"
    gone._processes.release()  # what its end does
    slots.sweep(NOW)
    assert left(slots) == {"rpm": 97, "concurrency": 9, "tpm": 1000}


def test_who_takes_the_number_of_a_process_that_is_gone_gives_back_its_places(opened):
    gone = opened()
    gone.admit(asked(), NOW)
    gone._processes.release()
    assert left(opened())["concurrency"] == 9


def test_a_fork_has_places_of_its_own(slots):
    of = asked()
    slots.admit(of, NOW)
    child = os.fork()
    if child == 0:
        slots.admit(asked(2), NOW)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert left(slots)["concurrency"] == 7
    slots.sweep(NOW)
    assert left(slots)["concurrency"] == 8


def test_a_place_that_is_taken_long_after_its_deadline_is_given_back(slots):
    of = asked(until=NOW - LEASE_S + 1)
    slots.admit(of, NOW)
    slots.sweep(NOW)
    assert left(slots)["concurrency"] == 8
    slots.sweep(NOW + 2)
    assert left(slots)["concurrency"] == 9
    slots.settle(of, 10, NOW)
    assert left(slots)["concurrency"] == 9


# ---------------------------------------------------------------- kills

KILLED = """
import os, sys
from pathlib import Path
from chatapi.accounting import quotas, slots
from chatapi.accounting.processes import ProcessNumbers
from chatapi.caller import Limits
mine = slots.Slots(ProcessNumbers(Path(sys.argv[1])), lambda *of: 0)
step, now = sys.argv[2], float(sys.argv[3])
of = quotas.Reservation(7, "key:k", "k", Limits.parse("rpm=100 concurrency=10 tpm=1000"), now, now + 60)
counted = getattr(quotas, step)
def die(cells, *more):
    counted(cells, *more)
    for cell in range(4, 60):
        cells[cell] = 4711
    os.kill(os.getpid(), 9)
setattr(quotas, step, die)
mine.admit(of, now)
mine.hold(of, 300, now)
mine.settle(of, 50, now)
"""


@pytest.mark.parametrize("step, was", [("admit", 99), ("hold", 98), ("settle", 98)])
def test_a_process_killed_in_the_middle_of_a_change_leaves_what_was_before_it(slots, folder, step, was):
    assert left(slots) == {"rpm": 99, "concurrency": 9, "tpm": 1000}
    killed = python(KILLED, str(folder), step, str(NOW))
    assert killed.returncode == -9, killed.stderr
    slots.sweep(NOW)
    assert left(slots) == {"rpm": was - 1, "concurrency": 9, "tpm": 1000}


def test_a_fault_of_ours_in_the_middle_of_a_change_leaves_what_was_before_it(slots, monkeypatch):
    def broken(cells, *_):
        cells[5] = 4711
        raise KeyError("mine")

    of = asked()
    slots.admit(of, NOW)
    with monkeypatch.context() as patch:
        patch.setattr(slots_module.quotas, "hold", broken)
        with pytest.raises(KeyError):
            slots.hold(of, 300, NOW)
    assert left(slots) == {"rpm": 98, "concurrency": 8, "tpm": 1000}


def test_a_process_that_was_stopped_while_it_had_the_lock_stops_the_others_for_a_moment_only(slots, other, monkeypatch):
    monkeypatch.setattr(slots_module, "WAIT_S", 0.2)
    left(other)
    slots._lock()
    try:
        raised(StoreUnavailable, other.admit, asked(), NOW)
    finally:
        slots._unlock()
    assert left(other)["concurrency"] == 9


# ---------------------------------------------------------------- many callers


RUNS = count()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60))
def test_callers_do_not_count_for_each_other(slots, other, calls):
    counted, run = {}, next(RUNS)
    for number, first in calls:
        subject = f"key:{run}-{number}"
        counted[subject] = counted.get(subject, 0) + 1
        of = asked(number + 1, subject)
        (slots if first else other).admit(of, NOW)
        (slots if first else other).settle(of, 0, NOW)
    for subject, calls in counted.items():
        assert left(other, subject=subject)["rpm"] == 100 - calls - 1


def test_more_callers_than_there_is_room_for_forget_who_came_longest_ago_and_no_open_call(opened, monkeypatch):
    monkeypatch.setattr(slots_module, "CALLERS", 64)
    slots = opened()
    slots.admit(asked(1, "key:open"), NOW)
    for number in range(500):
        of = asked(number + 2, f"key:{number}")
        slots.admit(of, NOW + number / 100)
        slots.settle(of, 0, NOW + number / 100)
    assert left(slots, subject="key:open")["concurrency"] == 8
    assert left(slots, subject="key:499")["rpm"] == 98
    assert left(slots, subject="key:0")["rpm"] == 99, "forgotten"


def test_a_file_takes_no_more_room_than_its_callers_need(slots, folder):
    left(slots)
    taken = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    assert taken < 300_000


def test_a_disk_without_room_refuses_and_ends_nobody(opened, tmp_path):
    slots = opened(tmp_path / "small")
    left(slots)
    with full_disk(4096):
        for number in range(3):
            raised(StoreUnavailable, slots.admit, asked(number, f"key:new-{number}"), NOW)
    assert left(slots)["concurrency"] == 9
