"""The circuit: shared by processes, never blocked by a dead one."""

import multiprocessing
import os
import signal
import threading
import time
from functools import partial

import pytest

from chatapi.engine.circuit import FAILURES, PROBE_EVERY_S, SLOTS, Board, Circuit, Slot

forked = multiprocessing.get_context("fork")  # as gunicorn does it: the board is made before
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def circuit():
    return Circuit(Board())


def in_children(function, number, *args):
    """function(*args) in that many processes at once; what each returned."""
    answers = forked.SimpleQueue()
    gate = forked.Barrier(number)

    def run():
        gate.wait(10)
        answers.put(function(*args))

    children = [forked.Process(target=run) for _ in range(number)]
    for child in children:
        child.start()
    found = [answers.get() for _ in children]
    for child in children:
        child.join(10)
    return found


def test_nothing_is_read_while_another_worker_sorts_the_slots(circuit):
    attempt = circuit.enter("ill")
    attempt.failed()
    reads = (partial(circuit.enter, "ill"), circuit.opened, lambda: attempt.is_open, attempt.succeeded)
    readers = [threading.Thread(target=read) for read in reads]
    with circuit.board.locked():
        for reader in readers:
            reader.start()
        time.sleep(0.05)
        assert all(reader.is_alive() for reader in readers)
    for reader in readers:
        reader.join(5)
        assert not reader.is_alive()


MODEL = "a/model"


def wait_s(circuit, caller="", name=MODEL):
    return circuit.enter(name, caller).wait_s


def succeed(circuit, caller=""):
    circuit.enter(MODEL, caller).succeeded()


def fail(circuit, times=1, name=MODEL, caller=""):
    for _ in range(times):
        circuit.enter(name, caller).failed()


def wind_back(circuit, seconds):
    """As if this much time had passed since."""
    board = circuit.board
    slots = board.read().values()
    board.write([s._replace(failed_at=s.failed_at - seconds, probe_at=s.probe_at - seconds) for s in slots])


def test_five_failures_in_a_row_open_it(circuit):
    assert (FAILURES, PROBE_EVERY_S) == (5, 10)
    fail(circuit, FAILURES - 1)
    assert (wait_s(circuit), circuit.opened()) == (0, {})
    fail(circuit)
    assert PROBE_EVERY_S - 1 < wait_s(circuit) <= PROBE_EVERY_S
    assert circuit.opened().keys() == {"a/model"}
    assert circuit.enter("another/model").wait_s == 0


def test_a_success_in_between_begins_anew(circuit):
    fail(circuit, FAILURES - 1)
    succeed(circuit)
    fail(circuit, FAILURES - 1)
    assert wait_s(circuit) == 0


def test_failures_of_any_process_count_for_all(circuit):
    in_children(fail, FAILURES, circuit)
    assert wait_s(circuit) > 0
    assert in_children(wait_s, 3, circuit) == pytest.approx([PROBE_EVERY_S] * 3, abs=1)
    in_children(succeed, 1, circuit)
    assert (wait_s(circuit), circuit.opened()) == (0, {})


def failures(circuit):
    return sum(slot.failures for slot in circuit.board.read().values())


def test_no_failure_is_lost_between_processes_and_threads(circuit):
    """A worker may have threads too."""
    in_children(fail, 8, circuit, 100)
    assert failures(circuit) == 800
    threads = [threading.Thread(target=fail, args=(circuit, 300)) for _ in range(8)]
    for do in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            do(thread)
    assert failures(circuit) == 800 + 2400


def test_one_probe_at_a_time(circuit):
    fail(circuit, FAILURES)
    wind_back(circuit, PROBE_EVERY_S + 1)
    waits = in_children(wait_s, 8, circuit)
    assert sum(wait == 0 for wait in waits) == 1
    assert min(wait for wait in waits if wait) > PROBE_EVERY_S - 1
    fail(circuit)
    assert wait_s(circuit) > PROBE_EVERY_S - 1, "a probe that failed leaves it open"
    wind_back(circuit, PROBE_EVERY_S + 1)
    assert wait_s(circuit) == 0
    succeed(circuit)
    assert [wait_s(circuit) for _ in range(3)] == [0, 0, 0]


def test_a_probe_that_showed_nothing_is_given_to_the_next_call(circuit):
    fail(circuit, FAILURES)
    wind_back(circuit, PROBE_EVERY_S + 1)
    probe = circuit.enter("a/model")
    assert wait_s(circuit) > 0
    probe.abandoned()
    assert wait_s(circuit) == 0


def hold(board, taken):
    with board.locked():
        taken.put(os.getpid())
        time.sleep(60)


def test_a_process_killed_with_the_lock_in_its_hand(circuit):
    taken = forked.SimpleQueue()
    holder = forked.Process(target=hold, args=(circuit.board, taken))
    holder.start()
    os.kill(taken.get(), signal.SIGKILL)
    done = threading.Event()
    worker = threading.Thread(target=lambda: (fail(circuit), done.set()), daemon=True)
    worker.start()
    assert done.wait(2), "the dead process's lock blocks the living"
    holder.join(5)


def test_when_all_places_are_taken_the_oldest_is_forgotten(circuit):
    fail(circuit, FAILURES, "the/first")
    for number in range(SLOTS):
        fail(circuit, FAILURES, f"later/{number}")
    assert len(circuit.opened()) == SLOTS
    assert "the/first" not in circuit.opened()
    assert circuit.enter("the/first").wait_s == 0
    assert circuit.enter(f"later/{SLOTS - 1}").wait_s > 0


def test_what_one_caller_alone_has_seen_fail_is_shut_for_that_caller_alone(circuit):
    fail(circuit, FAILURES, caller="key:mean")
    assert (wait_s(circuit, "key:mean") > 0, wait_s(circuit, "key:other")) == (True, 0)
    circuit.enter(MODEL, "key:other").abandoned()
    assert wait_s(circuit, "key:other") == 0
    fail(circuit, caller="key:other")
    assert all(wait_s(circuit, f"key:{name}") > 0 for name in ("mean", "other", "third"))
    succeed(circuit, "key:other")
    assert (wait_s(circuit, "key:mean"), circuit.opened()) == (0, {}), "a success of anybody opens it for all"


def test_long_names_and_strange_ones(circuit):
    names = ["a/" + "x" * 96 + ":" + "y" * 96, "a/" + "x" * 96 + ":" + "z" * 96, "ação/日本" * 20]
    for name in names:
        fail(circuit, FAILURES, name)
    assert all(circuit.enter(name).wait_s > 0 for name in names)
    assert len(circuit.opened()) == len(names), "each open circuit is shown"


def test_a_slot_fits_its_place():
    board = Board()
    slots = [Slot(bytes([i]) * 16, i + 1, i, i, b"name") for i in range(SLOTS)]
    board.write(slots)
    assert [slot._replace(name=b"name") for slot in board.read().values()] == slots
