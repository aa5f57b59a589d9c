"""Clients of `/v1/responses`, unmodified and with their own settings: what each of them does there, done."""

import json
from pathlib import Path

import pytest
from support.clients import MODELS, run_node, run_python

pytestmark = pytest.mark.clients

PROGRAMS = Path(__file__).with_name("programs")
HELLO, BELEM, CITY = "Hello from upstream.", {"city": "Belém"}, {"city": "Belém", "degrees": 32}


@pytest.fixture
def models(upstream):
    for model, behaviour in MODELS.items():
        upstream.behave(model, behaviour)
    return upstream


@pytest.fixture
def env(gateway, models):
    """What every client of OpenAI's reads; no more is set."""
    return {
        "OPENAI_BASE_URL": f"{gateway.url}/v1",
        "OPENAI_API_BASE": f"{gateway.url}/v1",  # LiteLLM's name for it
        "OPENAI_API_KEY": "none",
    }


def source(name):
    return (PROGRAMS / name).read_text()


def run(name, env, tmp_path):
    shown = (
        run_node(source(name), env, tmp_path)
        if name.endswith("mjs")
        else run_python("openai-3", source(name), env, tmp_path)
    )
    return json.loads(shown)


def test_openai_python(env, tmp_path):
    both = run("openai_responses.py", env, tmp_path)
    tokens = both["sync"].pop("tokens")
    assert tokens >= 6
    assert both["sync"] == {
        "created": HELLO,
        "streamed": HELLO,
        "last": "response.completed",
        "parsed": CITY,
        "called": BELEM,
        "answered": HELLO,
    }
    assert both["async"] == {"created": HELLO, "parsed": CITY, "called": BELEM, "last": "response.completed"}


def test_openai_agents(env, tmp_path):
    shown = run("openai_agents.py", env, tmp_path)
    assert shown.pop("deltas") >= 5
    assert shown == {"whole": HELLO, "streamed": HELLO, "asked": ["Belém", "Belém"], "typed": CITY}


def test_pydantic_ai(env, tmp_path):
    assert run("pydantic_ai.py", env, tmp_path) == {
        "model": "OpenAIResponsesModel",
        "whole": HELLO,
        "asked": ["Belém"],
        "streamed": HELLO,
        "typed": CITY,
    }


def test_langchain_openai(env, tmp_path):
    shown = run("langchain_openai.py", env, tmp_path)
    assert shown.pop("tokens") > 0
    assert shown == {"called": BELEM, "answered": HELLO, "streamed": HELLO, "typed": CITY}


def test_litellm(env, tmp_path):
    shown = run("litellm_responses.py", env, tmp_path)
    assert shown.pop("tokens") > 0
    assert shown == {"whole": HELLO, "streamed": HELLO, "last": "response.completed", "async": HELLO}


def test_openai_node(env, tmp_path):
    assert run("openai_node.mjs", env, tmp_path) == {
        "created": HELLO,
        "streamed": HELLO,
        "last": "response.completed",
        "parsed": CITY,
        "called": BELEM,
        "answered": HELLO,
    }


def test_ai_sdk(env, tmp_path):
    shown = run("ai_sdk.mjs", env, tmp_path)
    assert shown.pop("tokens") > 0
    assert shown.pop("refused").startswith("The request is invalid: input.1.type: ")
    assert shown == {"answered": HELLO, "asked": ["Belém"], "again": HELLO, "streamed": HELLO, "typed": CITY}
