"""What is told of calls and of the gateway's health: the line of each, the numbers, the checks."""

import json
import sys
import threading
import time
from types import SimpleNamespace

from prometheus_client import Histogram
from support.heard import numbers, wait_until

from chatapi.call import Call
from chatapi.telemetry import health, log, metrics
from chatapi.telemetry.batch import Batch, batch
from chatapi.telemetry.health import Check, Health


def ended(**fields):
    call = Call("id-1", "/v1/chat/completions", "openai")
    call.address = "192.0.2.7"
    for name, value in {"model": "a/b", "status": 200, "ending": "completed", "total_ms": 12.0, **fields}.items():
        setattr(call, name, value)
    return call


def test_the_line_is_json_for_machines_and_short_for_people():
    call = ended(served="c/d", prompt_tokens=3, completion_tokens=5)
    shown = json.loads(log.line(call))
    assert {"model": "a/b", "served": "c/d", "ending": "completed", "address": "192.0.2.7"}.items() <= shown.items()
    assert "first_token_ms" not in shown
    assert "c/d completed 12 ms, 3+5 tokens" in log.line_for_person(call)


def test_lines_are_written_soon_and_together_whole_up_to_what_a_pipe_keeps_unmixed(monkeypatch):
    log.configure("info")
    written = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=written.append, flush=lambda: None))
    calls = [ended(request_id=f"id-{number}") for number in range(100)]
    for call in calls:
        batch.ended(call)
    assert written == []
    assert wait_until(lambda: len("".join(written).splitlines()) == 100, 1)
    assert len(written) < 20
    assert all(len(text) <= log.ATOMIC and text.endswith("}\n") for text in written)
    lines = [json.loads(line)["request_id"] for line in "".join(written).splitlines()]
    assert lines == [call.request_id for call in calls]


def test_what_fails_for_one_call_is_told_and_takes_no_other_with_it(caplog):
    told = []

    def observe(call):
        if call.request_id == "bad":
            raise ValueError(call.address)
        told.append(call.request_id)

    own = Batch()
    own.observers.append(observe)
    for name in ("good", "bad", "better"):
        own.ended(ended(request_id=name))
    own.flush()
    own.ended(ended(request_id="later"))
    assert wait_until(lambda: told == ["good", "better", "later"], 2)
    assert "ValueError" in caplog.text
    assert "192.0.2.7" not in caplog.text


def test_a_reader_of_lines_who_has_gone_disturbs_no_call(monkeypatch):
    def gone(text):
        raise BrokenPipeError

    log.configure("info")
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=gone, flush=lambda: None))
    batch.ended(ended())
    batch.flush()


def test_times_are_counted_as_prometheus_itself_would():
    ours, theirs = (Histogram("h", "h", buckets=metrics.SECONDS, registry=None) for _ in range(2))
    seconds = [0.0, 0.05, 0.0500001, 1.0, 7.5, 119.9, 120.0, 500.0, 7.5]
    metrics._observe_all(ours, seconds)
    for value in seconds:
        theirs.observe(value)
    [mine], [wanted] = ours.collect(), theirs.collect()
    without = [sample for sample in mine.samples if not sample.name.endswith("_created")]
    assert without == [sample for sample in wanted.samples if not sample.name.endswith("_created")]


def test_callers_cannot_make_labels(monkeypatch):
    monkeypatch.setattr(metrics, "_answered", set())
    for number in range(metrics.MODELS + 50):
        for ending, served in (("refused", None), ("completed", f"answered/{number}")):
            call = Call("id", "/bounded")
            call.observers, call.model, call.served = (metrics.record,), f"asked/{number}", served
            call.end(ending)
    labels = {
        line for line in numbers(metrics.metrics({}).decode()) if "chatapi_calls_total" in line and "/bounded" in line
    }
    assert len(labels) == metrics.MODELS + 2  # those that answered, and "other" with either ending


def test_a_slow_check_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(health, "PATIENCE_S", 0.2)
    asked, end = [], threading.Event()

    def slow():
        asked.append(1)
        end.wait(10)
        return "at last"

    checks = Health({"slow": Check(slow, "It is slow."), "quick": Check(lambda: "here", "")})
    found = [checks.report() for _ in range(3)]
    assert len(asked) == 1, "nobody asks again while somebody waits"
    assert [look["status"] for look in found] == ["not ready"] * 3
    assert found[0]["parts"]["quick"]["reason"] == "here"
    assert found[0]["parts"]["slow"]["reason"].startswith("no answer for ")
    end.set()


def test_a_finding_is_kept_for_a_while_and_no_older_one_is_told(monkeypatch):
    """Whoever asks seldom hears how it is, not how it was when somebody asked last."""
    words = iter(["full", "empty"])
    checks = Health({"disk": Check(lambda: next(words), "")})
    monkeypatch.setattr(health, "FRESH_S", 60)
    assert [checks.report()["parts"]["disk"]["reason"] for _ in range(3)] == ["full"] * 3
    time.sleep(0.3)
    kept = checks.report()["parts"]["disk"]
    monkeypatch.setattr(health, "FRESH_S", 0.2)
    part = checks.report()["parts"]["disk"]
    assert (kept["reason"], part["reason"], part["age_s"] < kept["age_s"]) == ("full", "empty", True)


def test_a_line_tells_whose_limits_would_have_refused():
    assert json.loads(log.line(ended(shadowed=("rpm",))))["shadowed"] == ["rpm"]
    assert "shadowed" not in json.loads(log.line(ended()))


def test_each_model_that_was_asked_in_place_of_another_is_counted():
    metrics.label_models(["counted/first"])
    name = 'chatapi_fallbacks_total{model="counted/first"}'
    before = numbers(metrics.metrics({}).decode()).get(name, 0)
    metrics.record(ended(model="counted/first", served="counted/third", fallbacks=2))
    assert numbers(metrics.metrics({}).decode())[name] == before + 2
