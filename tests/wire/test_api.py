"""The two /api routes over the fault server: what reaches it, what comes back, every header and error."""

import json
import re
from dataclasses import replace

import pytest
from support.dialects import LEGACY, NEW, RESPONSES, ROUTES, V1, asking, check_error
from support.faults import CODES, REFUSALS
from support.openai_schema import ERROR, check
from support.s1 import S1_ANSWER, S1_EXAMPLE_1, S1_EXAMPLE_2, S1_EXAMPLE_3, S1_FORMAT
from support.upstream import ERRORS, TEXT

from chatapi import create_app

# ---------------------------------------------------------------- S1, word for word


# S1's text → model, `inputs` and `parameters` that reach Hugging Face.
DIALOGPT = "microsoft/DialoGPT-medium"
S1 = {
    "format": (
        S1_FORMAT, DIALOGPT, "Explique o que é inteligência artificial em uma frase.",
        {"temperature": 0.7, "max_new_tokens": 100},
    ),
    "example-1": (S1_EXAMPLE_1, DIALOGPT, "Qual é a capital do Brasil?", {"temperature": 0.7}),
    "example-2": (
        S1_EXAMPLE_2, "microsoft/DialoGPT-large", "Explique como funciona a inteligência artificial",
        {"temperature": 0.5, "max_new_tokens": 500},
    ),
    "example-3": (
        S1_EXAMPLE_3, DIALOGPT, "O que é machine learning?", {"temperature": 0.7, "max_new_tokens": 300}
    ),
}  # fmt: skip


def shape(value):
    """The keys of an object, all the way down, and the types of what they hold."""
    return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else type(value)


def check_reached(upstream, model, inputs, parameters):
    [call] = upstream.calls_for(model)
    assert call.path == f"/hf-inference/models/{model}"
    assert call.body == {"inputs": inputs, "parameters": {**parameters, "return_full_text": False}}
    assert call.headers["Authorization"] == "Bearer hf_test-token"


def check_answer(body, model):
    assert shape(body) == shape(json.loads(S1_ANSWER))
    assert body["success"] is True
    assert body["data"]["response"] == TEXT
    assert body["data"]["model"] == model
    counts = body["data"]["usage"]
    assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"] > 0


@pytest.mark.parametrize("text, model, inputs, parameters", S1.values(), ids=S1)
def test_s1_word_for_word_whole_and_streamed(upstream, gateway, text, model, inputs, parameters):
    answer = gateway.post(NEW, data=text.encode(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.headers["X-Usage-Source"] == "estimate"
    check_answer(answer.json(), model)
    check_reached(upstream, model, inputs, parameters)
    upstream.reset()
    answer = gateway.post(NEW, {**json.loads(text), "stream": True})
    *chunks, done = [line[6:] for line in answer.text.split("\n\n") if line]
    assert done == "[DONE]"
    choices = [c for chunk in map(json.loads, chunks) for c in chunk["choices"]]
    assert "".join(c["delta"].get("content") or "" for c in choices) == TEXT
    check_reached(upstream, model, inputs, parameters)


@pytest.mark.parametrize(
    "model, refuses_return_full_text",
    [
        *((f"microsoft/DialoGPT-{size}", False) for size in ("medium", "large")),
        *((model, True) for model in ("facebook/blenderbot-400M-distill", "google/flan-t5-base")),
        *((model, False) for model in ("EleutherAI/gpt-neo-2.7B", "bigscience/bloom-560m")),
    ],
)
@pytest.mark.parametrize("route", ROUTES)
def test_s1s_six_models(upstream, client, route, model, refuses_return_full_text):
    every = {"temperature": 1.5, "max_tokens": 200, "top_p": 1.0, "top_k": 40, "repetition_penalty": 1.2}
    answer = client.post(route, json=asking(route, model, **every, max_time=5))
    check_answer(answer.json, model)
    expected = {"temperature": 1.5, "max_new_tokens": 200, "top_k": 40, "repetition_penalty": 1.2}
    [call] = upstream.calls_for(model)
    assert call.body["parameters"] == expected | ({} if refuses_return_full_text else {"return_full_text": False})


# ---------------------------------------------------------------- the legacy route


def test_a_legacy_body_in_older_words(upstream, client):
    answer = client.post(LEGACY, json={"inputs": "Olá!", "parameters": {"max_new_tokens": 7, "temperature": 0.5}})
    check_answer(answer.json, "microsoft/DialoGPT-medium")  # the default
    check_reached(upstream, "microsoft/DialoGPT-medium", "Olá!", {"max_new_tokens": 7, "temperature": 0.5})
    assert "X-Ignored-Fields" not in answer.headers


def test_the_operators_default_model(upstream, settings):
    client = create_app(replace(settings, default_model="tgi/ok")).test_client()
    check_answer(client.post(LEGACY, json={"message": "hi"}).json, "tgi/ok")


def check_legacy_headers(answer):
    assert re.fullmatch(r"@\d{9,10}", answer.headers["Deprecation"])
    links = ", ".join(answer.headers.get_all("Link"))
    assert '</api/chat/completions>; rel="successor-version"' in links
    assert 'rel="deprecation"' in links
    assert "Sunset" not in answer.headers


LEGACY_ANSWERS = {
    "a good answer": ({"json": {"message": "hi", "model": "test/ok"}}, 200),
    "a stream": ({"json": {"message": "hi", "model": "test/ok", "stream": True}}, 200),
    "an invalid body": ({"json": {"message": 5}}, 400),
    "an upstream's fault": ({"json": {"message": "hi", "model": "test/err-depleted"}}, 500),
    "a rejection": ({"json": {"message": "hi", "model": "test/err-validation"}}, 400),
    "another method": ({"method": "GET"}, 405),
    "another type": ({"data": "x"}, 415),
    "no JSON": ({"data": "{", "content_type": "application/json"}, 400),
    "too large a body": ({"json": {"message": "x" * 70_000}}, 413),
}


@pytest.mark.parametrize("asked, status", LEGACY_ANSWERS.values(), ids=LEGACY_ANSWERS)
def test_legacy_headers_on_every_answer(client, asked, status):
    answer = client.open(LEGACY, **{"method": "POST", **asked})
    assert answer.status_code == status
    check_legacy_headers(answer)


@pytest.mark.parametrize("path", [NEW, "/healthz", "/nowhere"])
def test_nothing_else_is_deprecated(client, path):
    answer = client.post(path, json=asking(NEW, "test/ok"))
    assert not {"Deprecation", "Sunset", "Link"} & set(answer.headers.keys())


# ---------------------------------------------------------------- what each kind of model gets


@pytest.mark.parametrize("model", ["test/ok", "own/ok", "tgi/ok", "classic/any"])
def test_what_every_upstream_is_sent_in_headers(upstream, client, model):
    upstream.behave("classic/any", "ok")
    answer = client.post(NEW, json=asking(NEW, model), headers={"X-Request-Id": "abc-1", "Cookie": "a=b"})
    [call] = upstream.posts
    assert call.headers["Authorization"] == "Bearer hf_test-token"
    assert call.headers["Content-Type"] == "application/json"
    assert call.headers["User-Agent"].startswith("chatapi")
    assert call.headers["X-Request-Id"] == answer.headers["X-Request-Id"] == "abc-1"
    assert "Cookie" not in call.headers


# ---------------------------------------------------------------- headers of answers


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked, answers", [("old/retired", "test/ok"), ("old/retired-text", "tgi/ok")])
def test_a_retired_model_lives_on(client, route, stream, asked, answers):
    answer = client.post(route, json=asking(route, asked, stream=stream))
    assert answer.headers["X-Requested-Model"] == asked
    if stream:
        chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
        assert {chunk["model"] for chunk in chunks} == {answers}
    else:
        check_answer(answer.json, answers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_ignored_fields_are_named(upstream, client, route, stream):
    fields = {"colour": None, "frobnicate": [1]}
    answer = client.post(route, json=asking(route, "test/ok", **fields, stream=stream))
    assert answer.status_code == 200
    assert answer.headers["X-Ignored-Fields"].split(", ") == list(fields)
    assert not fields.keys() & upstream.calls_for("test/ok")[0].body.keys()


NASTY = ["a\r\nSet-Cookie: x=1", "a, b", "ação", "日本", "a" * 5000, "\x00", "\x7f", "", " "]


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_no_fields_name_can_break_the_headers(gateway, name):
    answer = gateway.post(NEW, asking(NEW, "test/ok", **{name: 1}))
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert len(answer.headers["X-Ignored-Fields"]) < 1000


def test_many_ignored_fields(gateway):
    answer = gateway.post(NEW, asking(NEW, "test/ok", **{f"{'x' * 90}{i}": 1 for i in range(200)}))
    assert answer.status_code == 200
    names = answer.headers["X-Ignored-Fields"].split(", ")
    assert 1 <= len(names) <= 50 and all(len(name) <= 64 for name in names)


SANE = ["abc-123", "3f0c1c1e-6f0b-4b3e-9a59-7a0f3f5f2a10", "Root=1-66;1".replace(";", ":"), "a" * 128, "req_7.b:c/d+e"]
INSANE = ["", " ", "a b", "a" * 129, "<script>", "a;b", 'say "hi"', "a,b", "\\", "{}", "\xe9"]


@pytest.mark.parametrize("given", SANE)
@pytest.mark.parametrize("model", ["test/ok", "test/err-depleted"])
def test_a_sane_request_id_is_kept(client, given, model):
    answer = client.post(NEW, json=asking(NEW, model), headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] == given
    if answer.status_code != 200:
        assert answer.json["error"]["request_id"] == given


@pytest.mark.parametrize("given", INSANE, ids=ascii)
def test_an_insane_request_id_is_replaced(client, given):
    answer = client.post(NEW, json={}, headers={"X-Request-Id": given})
    made = answer.headers["X-Request-Id"]
    assert made != client.post(NEW, json={}, headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{8,128}", made)
    assert made != given
    assert answer.json["error"]["request_id"] == made


# ---------------------------------------------------------------- errors of the caller


def typed(data, content_type="application/json", **headers):
    return {"data": data, "headers": {"Content-Type": content_type, **headers}}


GOOD = json.dumps(asking(NEW, "test/ok")).encode()
BAD_BODIES = {
    "empty": (typed(b""), 400, "invalid_json"),
    "cut": (typed(GOOD[:-5]), 400, "invalid_json"),
    "nan": (typed(GOOD[:-1] + b', "temperature": NaN}'), 400, "invalid_json"),
    "array": (typed(b"[]"), 400, "invalid_request"),
    "object": (typed(b"{}"), 400, "invalid_request"),
    "plain-text": (typed(GOOD, "text/plain"), 415, "unsupported_media_type"),
    "form": (typed(b"model=x", "application/x-www-form-urlencoded"), 415, "unsupported_media_type"),
    "multipart": (typed(GOOD, "multipart/form-data; boundary=x"), 415, "unsupported_media_type"),
    "strange-type": (typed(GOOD, ";;;"), 415, "unsupported_media_type"),
    "no-json-type": (typed(GOOD, "application/notjson"), 415, "unsupported_media_type"),
    "no-type": ({"data": GOOD}, 415, "unsupported_media_type"),
    "compressed": (typed(GOOD, **{"Content-Encoding": "gzip"}), 415, "unsupported_media_type"),
    "too-large": (typed(GOOD[:-1] + b" " * 120_000 + b"}"), 413, "payload_too_large"),
}


@pytest.mark.parametrize("route", [*ROUTES, V1, RESPONSES])
@pytest.mark.parametrize("given, status, code", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_bodies(upstream, client, route, given, status, code):
    answer = client.post(route, **given)
    if route in ROUTES:
        check_error(answer, status, code, retryable=False)
    else:
        assert (answer.status_code, check(ERROR, answer.json)["error"]["code"]) == (status, code)
        assert answer.headers["x-should-retry"] == "false"
    assert upstream.calls == []


GOOD_BODIES = {
    "charset": typed(GOOD, "application/json; charset=utf-8"),
    "capitals": typed(GOOD, "Application/JSON"),
    "byte-order-mark": typed(b"\xef\xbb\xbf" + GOOD),
    "blanks": typed(b"\n\n " + GOOD + b" \n"),
    "identity": typed(GOOD, **{"Content-Encoding": "identity"}),
    "escapes": typed(GOOD.replace(b"hi there", b"\\ud83c\\udf89 \\u00e9 \\u2028")),
}


@pytest.mark.parametrize("given", GOOD_BODIES.values(), ids=GOOD_BODIES)
def test_good_bodies(client, given):
    assert client.post(NEW, **given).status_code == 200


@pytest.mark.parametrize("size", [150_000, 390_000, 2_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_and_the_connection_lives(gateway, size, chunked):
    body = GOOD[:-1] + b" " * size + b"}"
    parts = (body[i : i + 50_000] for i in range(0, len(body), 50_000))
    check_error(gateway.post(NEW, **typed(parts if chunked else body)), 413, "payload_too_large")
    assert gateway.post(NEW, asking(NEW, "test/ok")).ok


def test_a_chunked_body_is_as_good_as_any(gateway):
    answer = gateway.post(NEW, **typed(iter([GOOD[:20], GOOD[20:]])))
    check_answer(answer.json(), "test/ok")


def test_a_body_at_the_limit_is_taken(client, settings):
    body = GOOD[:-1] + b" " * (settings.max_body - len(GOOD)) + b"}"
    assert len(body) == settings.max_body
    assert client.post(NEW, **typed(body)).status_code == 200
    check_error(client.post(NEW, **typed(body + b" ")), 413, "payload_too_large")


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/nowhere", NEW + "/x", "/static/x"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_such_route(client, method, path):
    check_error(client.open(path, method=method, json={}), 404, "not_found", retryable=False)


@pytest.mark.parametrize(
    "path", [NEW + "/", "/api//chat/completions", "/v1//chat/completions", "/v1/chat/completions/"]
)
def test_a_doubled_or_trailing_slash_is_no_other_place(client, path):
    assert client.post(path, **typed(GOOD)).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_no_such_method(client, method, path):
    answer = client.open(path, method=method)
    assert "POST" in answer.headers["Allow"]
    if method == "HEAD":
        assert (answer.status_code, answer.data) == (405, b"")
    else:
        check_error(answer, 405, "method_not_allowed")


def test_every_fault_of_a_body_is_named(upstream, client):
    body = {
        "messages": [{"role": "user", "content": "hi"}, {"role": "robot", "content": [{"type": "sound"}]}],
        "temperature": 9,
        "max_tokens": "5",
        "stream": "yes",
    }
    faults = {"messages.1.role", "messages.1.content.0.type", "temperature", "max_tokens", "stream", "model"}
    error = check_error(client.post(NEW, json=body), 400, "invalid_request")
    assert error["details"].keys() == faults
    assert all(isinstance(texts, list) and texts for texts in error["details"].values())
    assert all(path in error["message"] for path in faults)
    assert upstream.calls == []


# ---------------------------------------------------------------- Hugging Face's refusals, end to end


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "stream"])
def wide(request, base_settings, wide_catalogue):
    """A client of an app that knows every behaviour, and whether to ask for streams.

    It lives for all the tests below, and no model is asked so often that its circuit opens.
    """
    settings = replace(base_settings, catalogue=wide_catalogue, heartbeat_s=9)
    return create_app(settings).test_client(), request.param


# All of them are classified in test_failures, and heard of in every dialect in test_reliability.
SEEN = ["test/err-gated", "classic/err-model-kwargs", "own/err-validation", "tgi/err-generation"]


@pytest.mark.parametrize("model", SEEN)
def test_a_refusal_at_each_kind_of_model(upstream, wide, model):
    (client, stream), slug = wide, model.partition("err-")[2]
    for asked_there in (model, f"test/err-{slug}"):
        upstream.behave(asked_there, ERRORS[slug])
    code, words = REFUSALS[slug].code, REFUSALS[slug].says
    api_status, v1_status, retryable = CODES[code]
    facts = {"upstream_status": ERRORS[slug].status, "retryable": retryable}
    for route in ROUTES:
        answer = client.post(route, json=asking(route, model, stream=stream))
        assert words in check_error(answer, api_status, code, **facts)["message"]
    answer = client.post(V1, json=asking(V1, model, stream=stream))
    assert (answer.status_code, answer.json["error"]["code"]) == (v1_status, code)
    assert answer.json["error"]["retryable"] is retryable
    assert answer.headers.get("x-should-retry") == ("true" if retryable else "false")
