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


OF_OPENAIS = {"created": HELLO, "streamed": HELLO, "last": "response.completed", "parsed": CITY, "called": BELEM}
# What each program tells of itself; a number is the least that it may be.
TOLD = {
    "openai_responses.py": {
        "sync": {**OF_OPENAIS, "answered": HELLO, "tokens": 6},
        "async": {"created": HELLO, "parsed": CITY, "called": BELEM, "last": "response.completed"},
    },
    "openai_agents.py": {"whole": HELLO, "streamed": HELLO, "asked": ["Belém", "Belém"], "typed": CITY, "deltas": 5},
    "pydantic_ai.py": {
        "model": "OpenAIResponsesModel",
        "whole": HELLO,
        "asked": ["Belém"],
        "streamed": HELLO,
        "typed": CITY,
    },
    "langchain_openai.py": {"called": BELEM, "answered": HELLO, "streamed": HELLO, "typed": CITY, "tokens": 1},
    "litellm_responses.py": {
        "whole": HELLO,
        "streamed": HELLO,
        "last": "response.completed",
        "async": HELLO,
        "tokens": 1,
    },
    "openai_node.mjs": {**OF_OPENAIS, "answered": HELLO},
    "ai_sdk.mjs": {
        "answered": HELLO,
        "asked": ["Belém"],
        "again": HELLO,
        "streamed": HELLO,
        "typed": CITY,
        "tokens": 1,
        "refused": "The request is invalid: input.1.type: ",
    },
}


@pytest.mark.parametrize("name", TOLD)
def test_what_a_client_does_there_it_does(env, tmp_path, name):
    shown = run(name, env, tmp_path)
    parts = [(shown, TOLD[name])] if "sync" not in shown else [(shown[part], TOLD[name][part]) for part in TOLD[name]]
    assert shown.keys() == TOLD[name].keys()
    for told, expected in parts:
        assert told.keys() == expected.keys()
        for what, value in expected.items():
            if type(value) is int:
                assert told[what] >= value
            elif what == "refused":
                assert told[what].startswith(value)
            else:
                assert told[what] == value
