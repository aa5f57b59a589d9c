"""Clients spell one thing in many ways: keys, paths, fields that ask for nothing, and what may come back as history."""

import hashlib
from dataclasses import replace

import pytest
from support.dialects import LEGACY, NEW, RESPONSES, V1, asking, check_error
from support.openai_schema import ERROR, check
from support.upstream import TEXT

from chatapi import create_app

KEY = "sk-spelled"
HELLO = {"role": "user", "content": "hi there"}
ROUTES = (LEGACY, NEW, V1, RESPONSES)


def sent(upstream):
    """The last body that a model was sent."""
    return upstream.posts[-1].body


# ---------------------------------------------------------------- keys


@pytest.fixture
def guarded(settings):
    digests = frozenset({hashlib.sha256(KEY.encode()).hexdigest()})
    return create_app(replace(settings, auth="required", keys=digests)).test_client()


SPELLED = [
    {"Authorization": f"Bearer {KEY}"},
    {"Authorization": f"bearer  {KEY} "},
    {"x-api-key": KEY},
    {"api-key": KEY},
    {"X-API-KEY": f"Bearer {KEY}"},
    {"Authorization": "Bearer ", "api-key": KEY},
]


@pytest.mark.parametrize("headers", SPELLED, ids=" ".join)
def test_a_key_opens_in_whichever_header(upstream, guarded, headers):
    for route in ROUTES:
        assert guarded.post(route, json=asking(route, "test/ok"), headers=headers).status_code == 200, route
        assert not any(KEY in value for value in upstream.posts[-1].headers.values()), "none goes upstream"
    for path in ("/v1/models", "/v1/usage"):
        assert guarded.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key"])
def test_a_wrong_key_is_wrong_in_whichever_header(upstream, guarded, name):
    value = "Bearer sk-wrong" if name == "Authorization" else "sk-wrong"
    for route in ROUTES:
        answer = guarded.post(route, json=asking(route, "test/ok"), headers={name: value})
        if route in (LEGACY, NEW):
            check_error(answer, 401, "invalid_api_key", retryable=False)
        else:
            assert (answer.status_code, check(ERROR, answer.json)["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert upstream.posts == []


# ---------------------------------------------------------------- messages


def test_an_answer_can_come_back_as_history(upstream, client):
    """With what SDKs write for fields that are not set, which some servers refuse; what was said stays."""
    answer = client.post(V1, json={"model": "test/ok", "messages": [HELLO]}).json["choices"][0]["message"]
    unset = {"tool_calls": [], "function_call": None, "audio": None, "annotations": [], "reasoning_content": "Hm."}
    messages = [HELLO, {**answer, **unset}, HELLO]
    assert client.post(V1, json={"model": "test/ok", "messages": messages}).status_code == 200
    back = sent(upstream)["messages"][1]
    assert back == {"role": "assistant", "content": TEXT, "annotations": [], "reasoning_content": "Hm."}


# ---------------------------------------------------------------- pages of other origins


def test_a_preflight_allows_what_was_asked_for(settings):
    origin = "https://app.example.com"
    client = create_app(replace(settings, cors_origins=frozenset({origin}))).test_client()
    asked = "authorization,content-type,x-stainless-os,x-stainless-retry-count,api-key"
    wish = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    for route in ROUTES:
        given = client.options(route, headers={"Origin": origin, **wish}).headers
        assert given["Access-Control-Allow-Headers"] == asked
        assert given["Access-Control-Allow-Origin"] == origin
        other = client.options(route, headers={"Origin": "https://evil.example", **wish}).headers
        assert not [name for name, _ in other if name.startswith("Access-Control")]


def test_a_page_may_read_what_sdks_act_on(settings):
    origin = "https://app.example.com"
    client = create_app(replace(settings, cors_origins=frozenset({origin}))).test_client()
    answer = client.post(V1, json=asking(V1, "nobody/serves-this"), headers={"Origin": origin})
    shown = answer.headers["Access-Control-Expose-Headers"].lower()
    assert answer.headers["x-should-retry"] == "false"
    for name in ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "x-ratelimit-remaining-requests"):
        assert name in shown
