"""A call: what interrupts it while it waits, what becomes of it, and its one end."""

import time
from contextvars import copy_context

import gevent
import pytest
from support.tables import raised, rows

from chatapi import errors
from chatapi.call import Call, call_id
from chatapi.chat import Usage
from chatapi.errors import ClientLeft, ModelNotFound, UpstreamTimeout, UpstreamUnavailable, WorkerStopped

LEFT = ClientLeft("gone")


@pytest.fixture
def call():
    return Call("id-1", "/v1/chat/completions", "openai", seconds=5)


def wait(call, seconds):
    """As an exchange does, and `pause` under gunicorn."""
    call.waiting = gevent.getcurrent()
    try:
        gevent.sleep(seconds)
    finally:
        call.waiting = None


def waiting(call, seconds=5.0):
    """A greenlet in which `call` waits."""
    greenlet = gevent.spawn(wait, call, seconds)
    gevent.sleep(0)
    return greenlet


def test_a_call_has_its_seconds(call):
    assert 4.9 < call.deadline - time.monotonic() <= 5
    assert call.lease_ends_at == pytest.approx(time.time() + 5, abs=0.1)


def test_an_interruption_ends_what_waits(call):
    greenlet, began = waiting(call), time.monotonic()
    call.interrupt(LEFT)
    raised(ClientLeft, greenlet.get, timeout=1)
    assert time.monotonic() - began < 0.5


def test_the_first_interruption_counts_and_is_raised_at_the_next_wait(call):
    call.interrupt(WorkerStopped("stop"))
    call.interrupt(LEFT)
    raised(WorkerStopped, call.pause, 0)


@pytest.mark.parametrize("language, begins", [("en", "The gateway is being"), ("pt-BR", "O gateway está sendo")])
def test_a_stop_is_told_in_the_language_of_each_call(app, call, language, begins):
    call.language = language
    engine = app.extensions["chatapi"].engine
    engine.begin_probe(call, 5)
    copy_context().run(engine.stop)
    assert raised(WorkerStopped, call.pause, 0).message.startswith(begins)


def test_what_does_not_wait_is_not_interrupted(call):
    done = []

    def work():
        wait(call, 0)
        gevent.sleep(0.02)  # as a write to the ledger would
        done.append(True)

    greenlet = gevent.spawn(work)
    gevent.sleep(0.01)
    call.interrupt(LEFT)
    greenlet.get(timeout=1)
    assert done == [True]


def test_what_has_ended_is_not_interrupted(call):
    call.end()
    call.interrupt(LEFT)
    call.pause(0)


def test_a_caller_who_left_is_read_on_for_where_the_model_says_so(call):
    call.drain_s = 0.05
    greenlet, began = waiting(call), time.monotonic()
    call.leave()
    call.leave()
    raised(ClientLeft, greenlet.get, timeout=1)
    assert 0.04 < time.monotonic() - began < 0.5
    assert call.deadline <= began + 0.06


ENDINGS = {
    "completed": [None],
    "refused": [
        errors.BadRequest("no"),
        errors.MissingApiKey("no"),
        errors.UpstreamRejected("no"),
        ModelNotFound("no"),
    ],
    "client_left": [ClientLeft("gone")],
    "deadline": [UpstreamTimeout("late")],
    "upstream_cut": [UpstreamUnavailable("cut")],
    "worker_lost": [WorkerStopped("stop")],
    "failed": [errors.InternalError("ours")],
}


@pytest.mark.parametrize("error, ending", rows(ENDINGS))
def test_a_calls_ending(call, error, ending):
    if error:
        call.fail(error)
    call.end("completed")
    assert (call.ending, call.code) == (ending, error.code if error else None)


def test_a_model_that_an_upstream_does_not_know_is_its_failure(call):
    call.asked.append("a/b")
    call.fail(ModelNotFound("no"))
    assert call.ending == "upstream_cut"


def test_a_failure_does_not_keep_what_stood_where_it_was_raised(call):
    try:
        try:
            raise OSError
        except OSError:
            raise UpstreamUnavailable("cut") from None
    except UpstreamUnavailable as error:
        call.fail(error)
        assert error.__traceback__ is None and error.__context__.__traceback__ is None


def test_those_who_keep_account_hear_of_the_end_once_and_the_first_failure_counts(call):
    heard = []
    call.observers = (lambda c: heard.append(c.ending), lambda c: heard.append(c.total_ms))
    call.fail(UpstreamTimeout("late"))
    call.fail(LEFT)
    call.end()
    call.end("failed")
    assert heard == ["deadline", call.total_ms]


def test_what_is_read_on_for_a_caller_who_left_ends_as_left(call):
    call.left = True
    call.fail(UpstreamUnavailable("cut"))
    call.end()
    assert (call.ending, call.code) == ("client_left", None)


def test_the_first_model_that_answered_has_the_first_tokens_time_and_usage_is_counted(call):
    call.answered_by("a/b")
    call.answered_by("c/d")
    assert (call.served, call.first_token_model) == ("c/d", "a/b")
    assert call.first_token_ms is not None
    call.count(Usage(3, 4, "estimate"))
    assert (call.prompt_tokens, call.completion_tokens, call.usage_source) == (3, 4, "estimate")


def test_ids_of_calls_sort_by_time_and_fit_63_bits():
    assert call_id(1_800_000_000.0, 0) < call_id(1_800_000_000.001, 0)
    assert call_id(0, 0) == 0
    assert call_id(1e12) < 2**63
