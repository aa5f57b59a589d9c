"""`POST /v1/responses` over the app and over real gunicorn: every kind of model, whole and streamed, and its errors."""

import json

import pytest
from support.dialects import RESPONSES
from support.openai_schema import ERROR, check
from support.responses_schema import RESPONSE, WEATHER, check_events, events_of, without_ids
from support.upstream import TEXT

KINDS = ["test/ok", "own/ok", "tgi/ok", "classic/any"]
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
ASKED = {"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, PICTURE]}


def post(client, model="test/ok", headers=None, **fields):
    return client.post(RESPONSES, json={"model": model, "input": "Hi", **fields}, headers=headers)


def refused(answer, status, code, param=None):
    error = check(ERROR, answer.json)["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    return error["message"]


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("model", KINDS)
def test_a_whole_answer_of_every_kind_of_model(client, upstream, model):
    upstream.behave("classic/any", "ok")
    answer = post(client, model, instructions="Be brief.", max_output_tokens=50)
    body = check(RESPONSE, answer.json)
    assert answer.headers["X-Usage-Source"]
    assert (body["status"], body["model"]) == ("completed", model)
    assert body["output"][0]["content"][0]["text"] == TEXT
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] + body["usage"]["output_tokens"] > 0


@pytest.mark.parametrize("model", KINDS)
def test_the_last_event_has_the_whole_answer(gateway, upstream, model):
    upstream.behave("classic/any", "ok")
    fields = {"input": "Hi", "instructions": "Be brief.", "metadata": {"a": "b"}, "model": model}
    whole = gateway.post(RESPONSES, fields).json()
    streamed = check_events(events_of(gateway.post(RESPONSES, {**fields, "stream": True}).content))
    assert without_ids(streamed.pop("output")) == without_ids(whole.pop("output"))
    for own in ("id", "created_at", "completed_at"):
        assert type(streamed.pop(own)) is type(whole.pop(own))
    assert streamed == whole


def test_headers_say_where_the_answer_is_not_what_was_asked_for(client, upstream):
    answer = post(client, "old/retired", tools=[{"type": "web_search"}, WEATHER], client_metadata={"a": 1}, n=2)
    assert answer.headers["X-Requested-Model"] == "old/retired"
    assert answer.headers["X-Ignored-Fields"] == "client_metadata, n, tools.0"
    assert answer.json["model"] == "test/ok"


def test_reasoning_and_tools_come_as_items(gateway):
    for stream in (False, True):
        thinking = gateway.post(RESPONSES, {"model": "test/reasoning", "input": "Hi", "stream": stream})
        calling = gateway.post(
            RESPONSES, {"model": "test/tool-calls", "input": "Hi", "tools": [WEATHER], "stream": stream}
        )
        bodies = [check_events(events_of(a.content)) if stream else a.json() for a in (thinking, calling)]
        assert [item["type"] for item in bodies[0]["output"]] == ["reasoning", "message"]
        (call,) = bodies[1]["output"]
        assert (call["call_id"], json.loads(call["arguments"])) == ("call_1", {"city": "Belém"})


# ---------------------------------------------------------------- errors


def test_a_stored_response_is_not_to_be_had(client):
    assert "POST" in refused(client.get(RESPONSES), 405, "method_not_allowed")
    for method in (client.get, client.delete):
        assert "keeps no responses" in refused(method(f"{RESPONSES}/resp_123"), 404, "not_found")
    assert "keeps no responses" in refused(client.get(f"{RESPONSES}/resp_123/input_items"), 404, "not_found")


def test_what_is_wrong_is_said_in_openais_shape_and_the_callers_language(client):
    message = refused(post(client, previous_response_id="resp_1"), 400, "invalid_request", "previous_response_id")
    assert "items again in input" in message
    said = post(client, previous_response_id="resp_1", headers={"Accept-Language": "pt"}).json["error"]["message"]
    assert "Envie de novo os itens" in said


@pytest.mark.parametrize(
    "model, fields, param",
    [
        ("tgi/ok", {"text": {"format": {"type": "json_object"}}}, "text.format"),
        ("tgi/ok", {"reasoning": {"effort": "low"}}, "reasoning.effort"),
        ("tgi/ok", {"tools": [WEATHER]}, "tools"),
        ("tgi/ok", {"include": ["message.output_text.logprobs"]}, "include"),
        ("tgi/ok", {"input": [ASKED], "instructions": "Be brief."}, "input.0.content.1"),
        ("own/no-images", {"input": [{"role": "user", "content": "Hi"}, ASKED]}, "input.1.content.1"),
        ("tgi/ok", {"input": [{"role": "assistant", "content": "Hi"}]}, "input"),
    ],
)
def test_what_a_model_cannot_do_is_told_in_this_formats_fields(client, model, fields, param):
    message = refused(post(client, model, **fields), 400, "invalid_request", param)
    assert param in message
    assert not any(word in message for word in ("messages", "response_format", "reasoning_effort", "logprobs"))


def test_advice_speaks_of_this_formats_fields_and_an_upstream_of_its_own(client, upstream):
    upstream.behave("test/long", "context-length-tgi")
    message = refused(post(client, "test/long"), 400, "context_length_exceeded")
    assert "`max_new_tokens` must be" in message
    assert message.endswith("Shorten the input or lower max_output_tokens.")
