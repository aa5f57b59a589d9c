"""`/v1` as an OpenAI client sees it, the app under gunicorn and a real HTTP server in Hugging Face's place.

Every body and every chunk is validated against OpenAI's schemas (`openai_schema`).
"""

import json
import time
from contextlib import contextmanager

import pytest
from support.gateways import serve
from support.openai_schema import COMPLETION, ERROR, MODEL, MODEL_LIST, check, check_stream
from support.upstream import TEXT, Upstream, chat_object, chat_whole, chunk, play

from chatapi import create_app
from chatapi.huggingface import Transport
from chatapi.huggingface.models import Listing
from chatapi.settings import Settings

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather in a city — 天気",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "city", "strict": True, "schema": TOOL["function"]["parameters"]},
}


@pytest.fixture(scope="module")
def gateway(gateway_env):
    # One of our own: circuits that other tests open, and large bodies, are no concern here.
    # No heartbeat either, so that a failing stream's status is its own.
    with serve({**gateway_env, "CHATAPI_MAX_BODY": "20971520", "CHATAPI_HEARTBEAT": "15"}) as running:
        yield running


def ask(gateway, model="test/ok", messages=HELLO, headers=None, **fields):
    return gateway.post(PATH, {"model": model, "messages": messages, **fields}, headers=headers)


def whole(gateway, model="test/ok", messages=HELLO, **fields):
    response = ask(gateway, model, messages, **fields)
    assert response.status_code == 200, response.text
    return check(COMPLETION, response.json())


def events(response):
    assert response.headers["Content-Type"].startswith("text/event-stream")
    lines = [line for line in response.content.decode().split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def streamed(gateway, model="test/ok", messages=HELLO, **fields):
    """The chunks of a stream that ended well, without the usage chunk."""
    response = ask(gateway, model, messages, stream=True, **fields)
    assert response.status_code == 200, response.text
    *found, done = events(response)
    assert done == "[DONE]"
    usage = (fields.get("stream_options") or {}).get("include_usage", False)
    return check_stream([json.loads(e) for e in found], include_usage=usage, n=fields.get("n", 1))


def refused(response, status, code):
    assert response.status_code == status, response.text
    error = check(ERROR, response.json())["error"]
    assert error["code"] == code, error
    assert response.headers["X-Request-Id"] == error["request_id"]
    assert response.headers["x-should-retry"] == ("true" if error["retryable"] else "false")
    assert "Server-Timing" in response.headers
    return error


# --- what is answered reaches the caller


def test_several_choices_and_logprobs(gateway):
    body = whole(gateway, n=2, logprobs=True)
    assert [c["index"] for c in body["choices"]] == [0, 1]
    assert all(
        "".join(t["token"] for t in c["logprobs"]["content"]) == c["message"]["content"] == TEXT
        for c in body["choices"]
    )
    choices = [c for chunk in streamed(gateway, n=2, logprobs=True) for c in chunk["choices"]]
    for index in (0, 1):
        said = [c for c in choices if c["index"] == index]
        tokens = [t["token"] for c in said if c["logprobs"] for t in c["logprobs"]["content"]]
        assert "".join(tokens) == "".join(c["delta"].get("content", "") for c in said) == TEXT


DETAILS = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def detailed(x):
    head = {"usage": DETAILS, "system_fingerprint": "fp_44709d6fcb", "service_tier": "default"}
    if not x.stream:
        return x.send_json(200, {**chat_whole(x, ("Hi",), "stop"), **head})
    marked = [{**c, "system_fingerprint": "fp_44709d6fcb"} for c in (chunk(x, {"content": "Hi"}), chunk(x, {}, "stop"))]
    return play(x, [*marked, chat_object(x, "chat.completion.chunk", [], usage=DETAILS), "[DONE]"])


def test_fingerprint_tier_and_usage_with_details(gateway, upstream):
    upstream.behave("test/detailed", detailed)
    response = ask(gateway, "test/detailed")
    body = check(COMPLETION, response.json())
    assert (body["usage"], body["system_fingerprint"]) == (DETAILS, "fp_44709d6fcb")
    assert body["service_tier"] == "default"
    assert response.headers["X-Usage-Source"] == "upstream"
    response = ask(gateway, "test/detailed", stream=True, stream_options={"include_usage": True})
    chunks = [json.loads(event) for event in events(response)[:-1]]
    assert chunks[-1]["usage"] == DETAILS
    assert {c["system_fingerprint"] for c in chunks[:-1]} == {"fp_44709d6fcb"}


@pytest.mark.parametrize("model", ["test/ok", "own/ok", "tgi/ok", "classic/any", "test/usage-nowhere"])
def test_include_usage(gateway, upstream, model):
    upstream.behave("classic/any", "test/classic-list")
    chunks = streamed(gateway, model, stream_options={"include_usage": True})
    assert chunks[0]["model"] == model
    assert streamed(gateway, model, stream_options={"include_usage": False})


@pytest.mark.parametrize("model", ["test/ok", "tgi/ok"])
def test_ids_are_unique_and_times_are_now(gateway, model):
    bodies = [whole(gateway, model) for _ in range(3)] + [streamed(gateway, model)[0] for _ in range(3)]
    assert len({body["id"] for body in bodies}) == 6
    assert all(abs(body["created"] - time.time()) < 60 for body in bodies)
    assert {body["model"] for body in bodies} == {model}


def test_a_retired_model_is_listed_with_its_successor_and_its_last_day(gateway):
    model = gateway.request("GET", "/v1/models/old/retired").json()
    assert (model["served_by"], model["shutdown_date"]) == ("test/ok", "2026-06-30")
    assert "shutdown_date" not in gateway.request("GET", "/v1/models/tgi/ok").json()


def test_an_answer_can_come_back_as_history(gateway, upstream):
    """With what SDKs write for fields that are not set, which some servers refuse; what was said stays."""
    answer = whole(gateway)["choices"][0]["message"]
    unset = {"tool_calls": [], "function_call": None, "audio": None, "annotations": [], "reasoning_content": "Hm."}
    whole(gateway, messages=[*HELLO, {**answer, **unset}, *HELLO])
    back = upstream.posts[-1].body["messages"][1]
    assert back == {"role": "assistant", "content": TEXT, "annotations": [], "reasoning_content": "Hm."}


# --- text models: what each field becomes there is in test_compatibility

TEXT_MODELS = ["tgi/ok", "classic/any"]


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_the_refusal_of_tools_names_models_that_could(gateway, upstream, model):
    gateway.request("GET", "/v1/models")  # the list is there
    error = refused(ask(gateway, model, tools=[TOOL]), 400, "invalid_request")
    assert "test/" in error["message"], error["message"]


# --- errors

# What SDKs act on in each failure of an upstream is in test_reliability.


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", PATH, 405, "POST"),
        ("DELETE", "/v1/models", 405, "GET"),
        ("DELETE", "/v1/models/test/ok", 405, "GET"),
        ("POST", "/v1/completions", 404, None),
        ("POST", "/v1/embeddings", 404, None),
        ("GET", "/v1", 404, None),
        ("GET", "/v1/", 404, None),
        ("GET", "/v1/chat/completions/chatcmpl-1", 404, None),
    ],
)
def test_unknown_routes_and_methods_answer_in_openais_shape(gateway, method, path, status, allow):
    response = gateway.request(method, path)
    error = refused(response, status, "not_found" if status == 404 else "method_not_allowed")
    assert error["type"] == "invalid_request_error"
    assert response.headers.get("Allow") == allow


# --- models


class Router(Upstream):
    """The fault server with a model list of our choosing: rows, a status, or None to keep everybody waiting."""

    listed: "list | int | None" = None
    lists = 0

    def _answer(self, x):
        if x.call.path != "/v1/models":
            return super()._answer(x)
        self.lists += 1
        try:
            if self.listed is None:
                x.sleep(30)
            elif isinstance(self.listed, int):
                x.send_json(self.listed, {"error": "no"})
            else:
                x.send_json(200, {"object": "list", "data": self.listed})
        except Exception:
            x.close()


def row(id, *providers, **more):
    owner = id.partition("/")[0]
    return {"id": id, "object": "model", "created": 1770000000, "owned_by": owner, "providers": list(providers), **more}


def provider(name, status="live", **abilities):
    return {"provider": name, "status": status, **abilities}


GROQ = provider("groq", context_length=8192, supports_tools=True, supports_structured_output=True,
                pricing={"input": 0.6, "output": 0.9}, first_token_latency_ms=612, throughput=41.5)  # fmt: skip
POOR = provider("together", context_length=1000, supports_tools=False, supports_structured_output=False)
ROWS = [
    row("acme/rich", GROQ, POOR),
    row("acme/poor", POOR, provider("groq", "error", supports_tools=True, context_length=10**6)),
    row("acme/vague", provider("novita"), POOR),
    row("acme/dead", provider("novita", "error", supports_tools=False)),
]


@contextmanager
def behind(router, catalogue, **env):
    given = {"HUGGINGFACE_API_KEY": "hf_x", "HUGGINGFACE_BASE_URL": router.url, "CHATAPI_CATALOGUE": str(catalogue)}
    with serve({**given, "CHATAPI_MAX_TIME": "5", **env}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def router():
    with Router() as running:
        running.listed = ROWS
        for model in ("acme/rich", "acme/poor", "acme/vague", "acme/dead"):
            running.behave(model, "test/ok")
        yield running


@pytest.fixture(scope="module")
def routed(router, wide_catalogue):
    with behind(router, wide_catalogue) as gateway:
        listed(gateway)
        yield gateway


def listed(gateway):
    response = gateway.request("GET", "/v1/models")
    assert response.status_code == 200
    return {m["id"]: m for m in check(MODEL_LIST, response.json())["data"]}


def test_the_list_is_the_catalogue_and_the_routers(routed):
    models = listed(routed)
    for entry in ROWS:
        assert models[entry["id"]] == entry
    assert {"microsoft/DialoGPT-medium", "google/flan-t5-base", "old/retired", "tgi/ok"} <= models.keys()
    assert len(models) == len(routed.request("GET", "/v1/models").json()["data"])


@pytest.mark.parametrize("model", ["acme/rich", "microsoft/DialoGPT-medium", "old/retired"])
def test_one_model_by_its_id(routed, model):
    for id in (model, model.replace("/", "%2F")):
        response = routed.request("GET", f"/v1/models/{id}")
        assert check(MODEL, response.json()) == listed(routed)[model]


@pytest.mark.parametrize("model", ["acme/nope", "nope", "a/b/c", "%00", "%C3%A9"])
def test_a_model_that_is_not_listed(routed, model):
    error = refused(routed.request("GET", f"/v1/models/{model}"), 404, "model_not_found")
    assert error["param"] == "model"


IMPOSSIBLE_HERE = [
    ("acme/poor", {"tools": [TOOL]}, "invalid_request", "tools"),
    ("acme/poor", {"response_format": SCHEMA_FORMAT}, "invalid_request", "response_format"),
    ("acme/rich:together", {"tools": [TOOL]}, "invalid_request", "tools"),
    ("acme/poor", {"messages": [{"role": "user", "content": "x" * 9000}]}, "context_length_exceeded", "messages"),
]


@pytest.mark.parametrize(("model", "fields", "code", "param"), IMPOSSIBLE_HERE)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_list_shows_to_be_impossible_is_not_sent(routed, router, model, fields, code, param, stream):
    before = len(router.calls)  # the list is there, and fresh
    error = refused(ask(routed, model, **fields, stream=stream), 400, code)
    assert error["param"] == param
    assert "acme/rich" in error["message"] and "acme/dead" not in error["message"]
    assert len(router.calls) == before


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("acme/rich", {"tools": [TOOL], "response_format": SCHEMA_FORMAT}),
        ("acme/rich:fastest", {"tools": [TOOL]}),
        ("acme/rich:groq", {"tools": [TOOL]}),
        ("acme/vague", {"tools": [TOOL]}),  # one of its providers does not say
        ("acme/dead", {"tools": [TOOL]}),  # no live provider: the router's own words are better
        ("acme/poor", {"tools": []}),
        ("acme/poor", {"response_format": {"type": "json_object"}}),
        ("acme/poor", {"messages": [{"role": "user", "content": "x" * 7000}]}),
    ],
)
def test_what_may_be_possible_is_sent(routed, router, model, fields):
    whole(routed, model, **fields)
    assert router.posts[-1].body["model"] == model


def test_a_fallback_answers_for_a_prompt_that_is_too_long(routed):
    long = [{"role": "user", "content": "x" * 9000}]
    assert whole(routed, "acme/poor", long, fallbacks=["acme/rich"])["model"] == "acme/rich"


def test_a_list_that_hangs_fails_or_is_not_there_delays_nobody(wide_catalogue):
    with Router() as router, behind(router, wide_catalogue) as gateway:
        for _ in range(2):
            began = time.monotonic()
            assert "microsoft/DialoGPT-medium" in listed(gateway)
            assert time.monotonic() - began < 4  # about one second, on a machine that is not busy
        began = time.monotonic()
        whole(gateway, "test/ok")
        assert time.monotonic() - began < 4
        assert "acme/rich" not in listed(gateway)


def client_of(router, catalogue):
    given = {"huggingface_api_key": "hf_x", "huggingface_base_url": router.url, "catalogue": catalogue}
    return create_app(Settings(**given, max_time_s=5)).test_client()


def list_of(client):
    return {m["id"]: m for m in check(MODEL_LIST, client.get("/v1/models").json)["data"]}


def test_the_list_is_fetched_once_outlives_the_router_and_is_the_catalogue_without_a_network(wide_catalogue):
    dead = Upstream()
    dead.stop()
    client = client_of(dead, wide_catalogue)
    assert "microsoft/DialoGPT-medium" in list_of(client)
    assert check(MODEL, client.get("/v1/models/google/flan-t5-base").json)
    with Router() as router:
        router.listed = ROWS
        client = client_of(router, wide_catalogue)
        before = list_of(client)
        for _ in range(20):
            list_of(client)
        assert router.lists == 1
        router.stop()
        assert list_of(client) == before
        assert client.post(PATH, json={"model": "acme/rich", "messages": HELLO}).status_code == 502


@pytest.mark.parametrize("answer", [401, 503, {"not": "a list"}])
def test_a_refresh_that_fails_leaves_the_last_good_list(answer):
    with Router() as router:
        router.listed = ROWS
        listing = Listing(Transport(None, "test"), router.url)
        assert listing.models() == ROWS
        router.listed = answer
        listing._due_at = 0.001  # long ago
        listing.models()
        router.wait_for(lambda: router.lists == 2 and not listing._fetching)
        assert listing.models() == ROWS


@pytest.mark.parametrize(
    "odd",
    [
        {"id": "acme/bare"},
        row("acme/odd", "not an object", {"status": "live"}, provider("x", context_length="many")),
        {**row("acme/odd"), "providers": "none"},
    ],
)
def test_odd_rows_of_the_router_do_not_spoil_the_list(wide_catalogue, odd):
    with Router() as router:
        router.listed = [*ROWS, odd]
        router.behave(odd["id"], "test/ok")
        client = client_of(router, wide_catalogue)
        assert odd["id"] in list_of(client)
        check(MODEL, client.get(f"/v1/models/{odd['id']}").get_json())
        body = {"model": odd["id"], "messages": HELLO, "tools": [TOOL]}
        check(COMPLETION, client.post(PATH, json=body).get_json())
