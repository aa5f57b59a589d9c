"""A legacy body and the two new ones ask the same; what reads differently is named."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import legacy_bodies
from support.fuzz import json_values
from support.gateways import LEGACY_BODIES
from support.tables import raised

from chatapi.chat import ChatJob
from chatapi.errors import BadRequest
from chatapi.migration.rewrite import describe_change, describe_changes, preview, rewrite
from chatapi.schemas import envelope
from chatapi.schemas.envelope import LEGACY_SPELLINGS, load_completions, load_legacy
from chatapi.schemas.openai import load_job

DEFAULT = "test/default"
CHAT, V1 = "/api/chat/completions", "/v1/chat/completions"


def renamed(body):
    """Field → what becomes of it."""
    return {one["field"]: one["becomes"] for one in describe_changes(rewrite(body, DEFAULT))}


def saying(text, model="m", **fields):
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


OF_PARAMETERS = {"parameters.max_new_tokens": "max_tokens", "parameters.temperature": "temperature"}
NO_EFFECT = dict.fromkeys(("parameters", "fallbacks", "options", "do_sample"))
KEPT = {"stream": False, "max_time": 9, "fallbacks": ["x/y"]}


@pytest.mark.parametrize(
    "body, new, differences",
    [
        ({"message": "Oi", "model": "org/name"}, saying("Oi", "org/name"), {"message": "messages"}),
        (
            {"inputs": " Oi\n", "parameters": {"max_new_tokens": 50, "temperature": 0}},
            saying(" Oi\n", DEFAULT, max_tokens=50, temperature=0),
            {"inputs": "messages", **OF_PARAMETERS, "model": "model"},
        ),
        (
            {"prompt": "a", "message": "b", "max_length": 3, "parameters": {"max_tokens": 4}, "model": "m"},
            saying("b", max_tokens=3),
            {"prompt": None, "message": "messages", "max_length": "max_tokens", "parameters.max_tokens": None},
        ),
        (
            {"message": "a", "parameters": {"model": "m", "message": "b", "top_k": 7}, "top_k": 5, "top_p": 0.5},
            saying("a", top_k=5, top_p=0.5),
            {"message": "messages", "parameters.model": "model", "parameters.message": None, "parameters.top_k": None},
        ),
        (
            {"message": "a", "model": "m", "parameters": {}, "fallbacks": None, "options": {}, "do_sample": True},
            saying("a"),
            {"message": "messages", **NO_EFFECT},
        ),
        ({"message": "a", "model": "m", **KEPT}, saying("a", **KEPT), {"message": "messages"}),
    ],
)
def test_the_new_bodies_hold_what_took_effect(body, new, differences):
    found = rewrite(body, DEFAULT)
    assert found.completions == found.openai == new
    assert renamed(body) == differences


def test_a_stream_on_v1_asks_for_its_usage():
    found = rewrite({"message": "a", "stream": True}, DEFAULT)
    assert "stream_options" not in found.completions
    assert found.openai == found.completions | {"stream_options": {"include_usage": True}}


def test_what_is_invalid_is_refused_as_the_legacy_route_does():
    body = {"prompt": "", "parameters": {"max_length": 0}}
    ours, the_routes = (raised(BadRequest, read, body, DEFAULT) for read in (rewrite, load_legacy))
    assert ours.details == the_routes.details


def test_every_change_has_a_note_and_what_stays_is_not_named():
    body = {"prompt": "a", "message": "b", "max_length": 3, "parameters": {"top_k": 4, "max_new_tokens": 1}, "x": 1}
    assert all(one["note"] for one in describe_changes(rewrite(body, DEFAULT)))
    assert [describe_change(path) for path in ("model", "temperature", "stream")] == [None] * 3


def test_a_preview_holds_both_requests_and_how_to_send_them():
    shown = preview({"message": "Oi"}, DEFAULT, "http://127.0.0.1:8000")
    assert shown["same_upstream_request"] is True
    assert [shown["completions"]["path"], shown["openai"]["path"]] == [CHAT, V1]
    for request in (shown["completions"], shown["openai"]):
        assert list(request) == ["path", "body", "curl", "python", "javascript"]
        assert all("CHATAPI_API_KEY" in request[language] for language in ("curl", "python", "javascript"))
        body = request["curl"].partition("<<'JSON'\n")[2].partition("\nJSON\n")[0]
        assert json.loads(body) == request["body"]


# --- any body

texts = st.text(st.characters(codec="utf-8"), max_size=30)
anything = json_values(st.integers(-10, 5000) | st.floats(-3, 3) | texts, texts, most=3, leaves=5)
valid = {
    "message": texts.map(lambda text: text + "."),
    "model": st.sampled_from(["org/name", "gpt2", "org/name:fastest"]),
    "stream": st.booleans(),
    "temperature": st.integers(0, 2) | st.floats(0, 2),
    "max_tokens": st.integers(1, 4096),
    "top_p": st.integers(0, 1) | st.floats(0, 1),
    "top_k": st.integers(1, 100),
    "repetition_penalty": st.floats(0.1, 2),
    "max_time": st.integers(1, 120),
    "fallbacks": st.none() | st.lists(st.sampled_from(["a/b", "c/d"]), max_size=3),
}
spellings = [*valid, *LEGACY_SPELLINGS]


@st.composite
def fields(draw):
    """Fields in any of their spellings, with others between them."""
    found = {}
    for name in draw(st.lists(st.sampled_from([*spellings, "do_sample", "options"]), max_size=8)):
        found[name] = draw(valid.get(LEGACY_SPELLINGS.get(name, name), anything))
    return found | draw(st.dictionaries(texts, anything, max_size=2))


@st.composite
def bodies(draw):
    body = draw(fields())
    if draw(st.booleans()):
        body["parameters"] = draw(fields())
    if not draw(st.integers(0, 9)):
        body |= {name: draw(anything) for name in draw(st.lists(st.sampled_from(spellings), max_size=2))}
    return body if "message" in body or not draw(st.integers(0, 4)) else body | {"message": draw(valid["message"])}


def asked(job: ChatJob):
    """All that the engine reads of a job."""
    reported = job.stream and job.include_usage
    return (job.model, job.messages, job.options, job.extra, job.stream, reported, job.max_time_s, job.fallbacks)


@given(bodies())
def test_any_legacy_body_asks_the_same_on_the_new_routes(body):
    before = json.dumps(body)
    try:
        job = load_legacy(body, DEFAULT)
    except BadRequest:
        raised(BadRequest, rewrite, body, DEFAULT)
        return
    found = rewrite(body, DEFAULT)
    assert found.same_request
    moved, on_v1 = load_completions(found.completions), load_job(found.openai)
    assert asked(job) == asked(moved) == asked(on_v1)
    assert moved.ignored == on_v1.ignored == ()  # nothing went along that has no effect
    # Every field is accounted for: it stays under its name, or is named once.
    named = [one["field"] for one in describe_changes(found)]
    assert len(named) == len(set(named))
    written = {name for name in body if name != "parameters"} | {f"parameters.{n}" for n in body.get("parameters", ())}
    for path in written - set(named):
        assert found.completions[path] == body[path]
    assert set(named) <= written | {"model", "parameters"}
    assert json.dumps(body) == before


def test_each_legacy_body_of_the_suite_is_held_against_the_preview():
    legacy_bodies.check_all_heard()
    for body in ({"message": "heard"}, {"inputs": "heard", "parameters": {"max_length": 3}}, {"heard": 5}):
        with suppress(BadRequest):
            envelope.load_legacy(body, DEFAULT)
    LEGACY_BODIES.append({"message": "heard from another process"})
    assert legacy_bodies.check_all_heard() == 4
    assert legacy_bodies.check_all_heard() == 0
