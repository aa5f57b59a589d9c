"""Clients spell one thing in many ways: keys, paths, fields that ask for nothing, and what may come back as history."""

import hashlib
import json
from dataclasses import replace

import pytest
from support.dialects import LEGACY, NEW, RESPONSES, V1, asking
from support.upstream import TEXT

from chatapi import create_app

KEY = "sk-spelled"
HELLO = {"role": "user", "content": "hi there"}
CALL = {"id": "a1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ROUTES = (LEGACY, NEW, V1, RESPONSES)


def sent(upstream):
    """The last body that a model was sent."""
    return posts(upstream)[-1].body


def posts(upstream):
    """What models were asked; the list of them is fetched on the side."""
    return [call for call in upstream.calls if call.method == "POST"]


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
        assert not any(KEY in value for value in posts(upstream)[-1].headers.values()), "none goes upstream"
    for path in ("/v1/models", "/v1/usage"):
        assert guarded.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key"])
def test_a_wrong_key_is_wrong_in_whichever_header(upstream, guarded, name):
    value = "Bearer sk-wrong" if name == "Authorization" else "sk-wrong"
    for route in ROUTES:
        answer = guarded.post(route, json=asking(route, "test/ok"), headers={name: value})
        assert (answer.status_code, answer.json["error"]["code"]) == (401, "invalid_api_key")
    assert posts(upstream) == []


# ---------------------------------------------------------------- what asks for nothing


@pytest.mark.parametrize("route", [NEW, V1])
@pytest.mark.parametrize("stream", [False, True])
def test_one_limit_goes_out(upstream, client, route, stream):
    fields = {"max_tokens": 5, "max_completion_tokens": 3, "stream": stream}
    assert client.post(route, json=asking(route, "test/ok", **fields)).status_code == 200
    assert (sent(upstream)["max_tokens"], "max_completion_tokens" in sent(upstream)) == (3, False)


NOTHING = {
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "functions": [],
    "function_call": "none",
    "stop": [],
    "logit_bias": {},
    "response_format": {"type": "text"},
    "n": 1,
    "logprobs": False,
    "top_logprobs": 3,
    "stream_options": {"include_usage": True},
    "metadata": {},
    "stream": False,
    "seed": None,
}


@pytest.mark.parametrize("route", [NEW, V1])
def test_what_asks_for_nothing_is_not_sent(upstream, client, route):
    assert client.post(route, json=asking(route, "test/ok", **NOTHING)).status_code == 200
    assert sent(upstream).keys() == {"model", "messages"}


def test_none_beside_tools_forbids_them(upstream, client):
    tools = [{"type": "function", "function": {"name": "f"}}]
    client.post(V1, json=asking(V1, "test/ok", tools=tools, tool_choice="none"))
    assert (sent(upstream)["tools"], sent(upstream)["tool_choice"]) == (tools, "none")


# ---------------------------------------------------------------- messages

PARTS = [
    {"type": "video_url", "video_url": {"url": "https://example.org/v.mp4"}, "fps": 2},
    {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
    {"type": "image_url", "image_url": {"url": "https://example.org/i.png"}, "uuid": "7"},
    {"type": "of tomorrow", "anything": [1, None]},
]


@pytest.mark.parametrize("stream", [False, True])
def test_parts_nobody_knows_arrive_as_they_are(upstream, client, stream):
    body = {"model": "test/ok", "messages": [{"role": "user", "content": PARTS}], "stream": stream}
    assert client.post(V1, json=body).status_code == 200
    assert sent(upstream)["messages"][0]["content"] == PARTS


def test_a_part_without_a_type_is_refused_by_its_place(upstream, client):
    body = {"model": "test/ok", "messages": [{"role": "user", "content": [*PARTS, {"text": "x"}]}]}
    answer = client.post(V1, json=body)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "messages.0.content.4.type")
    assert posts(upstream) == []


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}], ids=json.dumps)
def test_a_tools_result_may_be_of_no_words(upstream, client, content):
    said = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "a1", **content}
    assert client.post(V1, json={"model": "test/ok", "messages": [HELLO, said, result]}).status_code == 200
    assert sent(upstream)["messages"][1:] == [said, result]


@pytest.mark.parametrize("id", [{}, {"tool_call_id": ""}, {"tool_call_id": None}], ids=json.dumps)
def test_a_tools_result_says_of_which_call_it_is(upstream, client, id):
    body = {"model": "test/ok", "messages": [HELLO, {"role": "tool", "content": "x", **id}]}
    answer = client.post(V1, json=body)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "messages.1.tool_call_id")
    assert posts(upstream) == []


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
