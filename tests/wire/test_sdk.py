"""Real clients against the app under gunicorn: openai-python, and curl with the documented request, verbatim.

Over the fault server, with a key required; what a real model does is in test_end_to_end and test_compatibility.
"""

import asyncio
import json
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from support.gateways import entry, keyed, ran, serve
from support.openai_schema import COMPLETION, ERROR, MODEL_LIST, check, check_stream
from support.upstream import TEXT, chunk, play, saying, script

KEY = "sk-test-of-the-sdk"
USER = [{"role": "user", "content": "Who is there?"}]


@pytest.fixture(scope="module")
def gateway(gateway_env, upstream_server, tmp_path_factory):
    catalogue = tmp_path_factory.mktemp("sdk") / "catalogue.toml"
    known = Path(gateway_env["CHATAPI_CATALOGUE"]).read_text()
    catalogue.write_text(known + "\n" + entry("amazonia-1", 'serve_as = "test/ok"'))
    with serve(
        {**gateway_env, **keyed(KEY), "CHATAPI_CATALOGUE": str(catalogue), "CHATAPI_HEARTBEAT": "15"}
    ) as running:
        yield running


@pytest.fixture
def client(gateway, upstream):
    with OpenAI(api_key=KEY, base_url=gateway.url + "/v1", timeout=30) as client:
        yield client


def ask(client, model="test/ok", messages=USER, **fields):
    return client.chat.completions.create(model=model, messages=messages, **fields)


# --- answers


def test_a_completion(client):
    completion = ask(client, temperature=0.2, max_tokens=100)
    assert completion.choices[0].message.content == TEXT
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion._request_id
    check(COMPLETION, json.loads(completion.to_json(exclude_unset=True)))


@pytest.mark.parametrize("model", ["test/ok", "own/ok", "tgi/ok", "test/no-stream-support"])
def test_a_stream(client, model):
    with ask(client, model, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    check_stream([json.loads(c.to_json(exclude_unset=True)) for c in chunks], include_usage=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-1].usage.completion_tokens >= 5


def test_async(gateway, upstream):
    async def both():
        async with AsyncOpenAI(api_key=KEY, base_url=gateway.url + "/v1", timeout=30) as client:
            whole = asyncio.gather(*(ask(client) for _ in range(5)))
            stream = await ask(client, stream=True)
            said = [c.choices[0].delta.content or "" async for c in stream]
            models = [model.id async for model in client.models.list()]
            return [c.choices[0].message.content for c in await whole], "".join(said), models

    whole, said, models = asyncio.run(both())
    assert (whole, said) == ([TEXT] * 5, TEXT)
    assert "test/ok" in models


def test_the_stream_helper(client):
    with client.chat.completions.stream(
        model="test/ok", messages=USER, stream_options={"include_usage": True}
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("content.delta") >= 5
    assert kinds[-1] == "chunk" or "content.done" in kinds
    assert final.choices[0].message.content == TEXT
    assert final.usage.completion_tokens == 6


def test_raw_response_headers(client):
    raw = client.chat.completions.with_raw_response.create(
        model="amazonia-1", messages=USER, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert raw.headers["X-Request-Id"] == raw.request_id == "mine-1"
    assert raw.headers["X-Requested-Model"] == "amazonia-1"
    assert raw.headers["X-Usage-Source"] == "upstream"
    assert raw.headers["Content-Type"] == "application/json"
    assert raw.parse().model == "test/ok"


def test_extra_body_and_several_choices(client, upstream):
    completion = ask(client, n=2, logprobs=True, top_logprobs=1, extra_body={"min_p": 0.1, "top_k": 4})
    assert [choice.message.content for choice in completion.choices] == [TEXT, TEXT]
    assert completion.choices[1].logprobs.content[0].token == "Hel"
    assert upstream.posts[-1].body.items() >= {"min_p": 0.1, "top_k": 4, "n": 2}.items()


def test_reasoning_content(client):
    assert ask(client, "test/reasoning").choices[0].message.reasoning_content == "Let me think."
    deltas = [c.choices[0].delta for c in ask(client, "test/reasoning", stream=True)]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "Let me think."
    assert "".join(d.content or "" for d in deltas) == TEXT


# --- tools and formats


class Weather(BaseModel):
    """The weather in a city."""

    city: str


TOOLS = [openai.pydantic_function_tool(Weather, name="weather")]


def test_tools_back_and_forth(client, upstream):
    completion = client.chat.completions.parse(model="test/tool-calls", messages=USER, tools=TOOLS)
    assert upstream.posts[-1].body["tools"] == TOOLS
    message = completion.choices[0].message
    assert completion.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls[0].function.parsed_arguments == Weather(city="Belém")
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "32 °C"}
    later = [*USER, message, result]
    assert ask(client, "test/ok", later, tools=TOOLS).choices[0].message.content == TEXT
    sent = upstream.posts[-1].body["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool"]
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"city": "Belém"}
    assert sent[2] == result


def test_tools_in_a_stream(client):
    with client.chat.completions.stream(model="test/tool-calls", messages=USER, tools=TOOLS) as stream:
        events = list(stream)
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [event.parsed_arguments for event in done] == [Weather(city="Belém")]
    assert stream.get_final_completion().choices[0].finish_reason == "tool_calls"


def two_calls(x):
    deltas = []
    for i, city in enumerate("AB"):
        function = {"name": "weather", "arguments": ""}
        deltas.append({"tool_calls": [{"index": i, "id": f"call_{i}", "type": "function", "function": function}]})
        for piece in ('{"city":', f'"{city}"}}'):
            deltas.append({"tool_calls": [{"index": i, "function": {"arguments": piece}}]})
    ending = script(x, (), "tool_calls")
    play(x, [*(chunk(x, d) for d in deltas), *ending.closing, *ending.usage, *ending.done])


def test_parallel_tool_calls_in_a_stream(client, upstream):
    upstream.behave("test/two-calls", two_calls)
    with client.chat.completions.stream(model="test/two-calls", messages=USER, tools=TOOLS) as stream:
        message = stream.get_final_completion().choices[0].message
    assert [call.function.parsed_arguments.city for call in message.tool_calls] == ["A", "B"]


def test_a_response_format(client, upstream):
    upstream.behave("test/json", saying('{"city": "Manaus"}'))
    parsed = client.chat.completions.parse(model="test/json", messages=USER, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(city="Manaus")
    assert upstream.posts[-1].body["response_format"]["json_schema"]["schema"]["required"] == ["city"]
    with client.chat.completions.stream(model="test/json", messages=USER, response_format=Weather) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Weather(city="Manaus")


def test_an_answer_that_is_cut_short_is_told_by_parse(client):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="test/finish-length", messages=USER, response_format=Weather)


# --- models


def test_models(client):
    ids = [model.id for model in client.models.list()]
    assert {"test/ok", "microsoft/DialoGPT-medium", "amazonia-1"} <= set(ids)
    model = client.models.retrieve("google/flan-t5-base")
    assert (model.id, model.object, model.owned_by) == ("google/flan-t5-base", "model", "google")
    assert client.models.retrieve("test/ok").providers[0]["provider"] == "together"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("acme/nope")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


# --- errors and retries

# The behaviour, further fields → the class that the SDK raises, our code, and how often the gateway was asked
# (one and `max_retries` more, or just once). The gateway's own attempts come on top where they are possible.
FAILURES = [
    ("test/err-model-not-supported", {}, openai.NotFoundError, "model_not_found", 1),
    ("test/err-bad-token", {}, openai.InternalServerError, "upstream_auth", 1),
    ("test/err-depleted", {}, openai.InternalServerError, "upstream_quota", 1),
    ("test/err-wrong-shape", {}, openai.BadRequestError, "upstream_rejected", 1),
    ("test/context-length", {}, openai.BadRequestError, "context_length_exceeded", 1),
    ("test/content-filter", {}, openai.BadRequestError, "content_filter", 1),
    ("test/rate-retry-after", {"max_time": 1}, openai.RateLimitError, "upstream_rate_limited", 2),
    ("test/err-generation", {}, openai.InternalServerError, "upstream_unavailable", 2),
    ("test/body-no-choices", {}, openai.InternalServerError, "upstream_unavailable", 2),
    ("test/silent", {"max_time": 1}, openai.InternalServerError, "upstream_timeout", 2),
    ("test/err-gated", {"stream": True}, openai.InternalServerError, "upstream_auth", 1),
    ("test/eof-at-once", {"stream": True}, openai.InternalServerError, "upstream_unavailable", 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "fields", "kind", "code", "asked"), FAILURES, ids=[f"{m}-{c}" for m, *_, c, _ in FAILURES]
)
def test_error_classes_and_retries(client, upstream, model, fields, kind, code, asked):
    body = {k: v for k, v in fields.items() if k == "max_time"}
    stream = {k: v for k, v in fields.items() if k != "max_time"}
    with pytest.raises(kind) as caught:
        ask(client.with_options(max_retries=1), model, extra_body=body, **stream)
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.request_id) == (code, error.body["request_id"])
    check(ERROR, {"error": error.body})
    assert len(upstream.calls_for(model)) == asked


def test_loading_is_retried_when_it_is_time(client, upstream):
    # The gateway itself waits and asks again; an SDK that gives it no time for that does so in its place.
    upstream.behave("test/wakes", "test/loading-2")
    assert ask(client.with_options(max_retries=0), "test/wakes").choices[0].message.content == TEXT
    assert len(upstream.calls_for("test/wakes")) == 3
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client.with_options(max_retries=0), "test/loading")
    assert (caught.value.status_code, caught.value.code) == (503, "model_loading")
    assert caught.value.response.headers["retry-after-ms"] == "20000"


def test_a_retry_succeeds_and_the_clients_own_timeout_ends_a_call(client, upstream):
    upstream.sequence("test/recovers", ["test/err-generation", "test/ok"])
    assert ask(client.with_options(max_retries=1), "test/recovers").choices[0].message.content == TEXT
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(max_retries=0, timeout=0.3), "test/slow-first")


BAD_BODIES = [
    ({"temperature": 3}, "temperature"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"messages": [*USER, {"role": "user"}]}, "messages.1.content"),
    ({"temperature": "0.7"}, "temperature"),
    ({"tools": [1]}, "tools.0"),
    ({"model": "no such id"}, "model"),
    ({"model": "tgi/ok", "tools": TOOLS}, "tools"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_BODIES, ids=[str(f) for f, _ in BAD_BODIES])
def test_bad_requests(client, upstream, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **fields)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert caught.value.type == "invalid_request_error"
    assert param in caught.value.message
    check(ERROR, {"error": caught.value.body})
    assert upstream.posts == []


def test_a_wrong_key(gateway):
    with OpenAI(api_key="sk-wrong", base_url=gateway.url + "/v1") as client:
        models = (client.models.list, lambda: client.models.retrieve("test/ok"))
        for call in (lambda: ask(client), lambda: ask(client, stream=True), *models):
            with pytest.raises(openai.AuthenticationError) as caught:
                call()
            assert caught.value.code == "invalid_api_key"
            check(ERROR, {"error": caught.value.body})


@pytest.mark.parametrize("model", ["test/error-then-done", "test/cut", "tgi/cut"])
def test_a_stream_that_breaks_raises(client, model):
    said = []
    with pytest.raises(openai.APIError) as caught:
        said += [c.choices[0].delta.content for c in ask(client, model, stream=True)]
    assert caught.value.code == "upstream_unavailable"


def test_a_client_that_leaves_a_stream(client, upstream):
    stream = ask(client, "test/slow", stream=True)
    next(iter(stream))
    stream.close()
    upstream.wait_for(lambda: upstream.calls_for("test/slow")[0].client_closed_at)


# --- curl

# The second document's example as it stands there, but for the host.
DOCUMENTED = """curl https://api.amazoniaia.com.br/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer $SUA_API_KEY" \\
  -d '{
    "model": "amazonia-1",
    "stream": false,
    "top_p": 0.8,
    "messages": [
      {
        "role": "user",
        "content": "Quem é o rei do futebol?"
      }
    ]
  }'"""
HOST = "https://api.amazoniaia.com.br"


def shell(command, **env):
    done = ran("sh", "-c", command, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documented(gateway, key, *changes):
    command = DOCUMENTED.replace(HOST, gateway.url)
    for old, new in changes:
        assert old in command
        command = command.replace(old, new)
    return shell(command, SUA_API_KEY=key)


def test_the_documented_curl(gateway, upstream):
    body = check(COMPLETION, json.loads(documented(gateway, KEY)))
    assert body["choices"][0]["message"]["content"] == TEXT
    assert upstream.posts[-1].body == {
        "model": "test/ok",
        "top_p": 0.8,
        "messages": [{"role": "user", "content": "Quem é o rei do futebol?"}],
    }
    assert upstream.posts[-1].headers["authorization"] != f"Bearer {KEY}"


def test_the_documented_curl_as_a_stream_with_every_optional_parameter_and_without_a_key(gateway, upstream):
    out = documented(gateway, KEY, ('"stream": false', '"stream": true'))
    *events, done = [line.removeprefix("data: ") for line in out.split("\n\n") if line]
    assert done == "[DONE]"
    chunks = check_stream([json.loads(event) for event in events])
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == TEXT
    optional = '"top_p": 0.8, "temperature": 0.5, "top_k": 40,'
    check(COMPLETION, json.loads(documented(gateway, KEY, ('"top_p": 0.8,', optional))))
    assert upstream.posts[-1].body.items() >= {"top_p": 0.8, "temperature": 0.5, "top_k": 40}.items()
    assert check(ERROR, json.loads(documented(gateway, "")))["error"]["code"] == "missing_api_key"


def test_curl_lists_the_models(gateway):
    out = shell(f'curl -sS {gateway.url}/v1/models -H "Authorization: Bearer {KEY}"')
    assert "amazonia-1" in [model["id"] for model in check(MODEL_LIST, json.loads(out))["data"]]
