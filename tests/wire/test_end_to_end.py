"""The whole thing, as `make run` starts it without a token: real requests, a real model, its own count of tokens."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests
from support.dialects import LEGACY, V1
from support.dialects import NEW as COMPLETIONS
from support.embedded_gateway import MODEL_ID, serve_embedded
from support.gateways import ROOT
from support.openai_schema import COMPLETION, ERROR, check, check_stream
from support.s1 import S1_EXAMPLE_1, S1_EXAMPLE_2, S1_EXAMPLE_3, S1_FORMAT

# The documented request and its three examples, to the letter.
DOCUMENTED = {
    "request": S1_FORMAT,
    "plain-text": S1_EXAMPLE_1,
    "structured": S1_EXAMPLE_2,
    "with-context": S1_EXAMPLE_3,
}
EXAMPLES = pytest.mark.parametrize("name", DOCUMENTED)
LONG_S = 300  # a slow machine with two cores, and other tests beside this one
QUESTION = {
    "model": "microsoft/DialoGPT-medium",
    "messages": [{"role": "user", "content": "What is the capital of Brazil?"}],
    "temperature": 0,
    "max_tokens": 24,
}


@pytest.fixture(scope="module")
def gateway():
    with serve_embedded(CHATAPI_MAX_TIME=str(LONG_S)) as running:
        yield running


@pytest.fixture(scope="module")
def engine_url(gateway):
    """Where the model's own server listens."""
    children = psutil.Process(gateway.process.pid).children(recursive=True)
    engine = next(child for child in children if "--serve" in child.cmdline())
    port = next(c.laddr.port for c in engine.net_connections() if c.status == psutil.CONN_LISTEN)
    return f"http://127.0.0.1:{port}"


def post_text(gateway, path, text):
    """POST `text` as it stands."""
    headers = {"Content-Type": "application/json"}
    return gateway.request("POST", path, data=text.encode(), headers=headers, timeout=LONG_S)


def ask(gateway, path, body):
    return gateway.post(path, body, timeout=LONG_S)


@pytest.fixture(scope="module")
def documented_answers(gateway):
    """The whole answers to the documented requests, sent to the letter and side by side: they are long."""
    with ThreadPoolExecutor(len(DOCUMENTED)) as callers:
        answers = callers.map(lambda body: post_text(gateway, COMPLETIONS, body), DOCUMENTED.values())
        return dict(zip(DOCUMENTED, answers, strict=True))


def streamed(body):
    """`body` as a stream, and a short one."""
    return json.dumps({**json.loads(body), "stream": True, "max_tokens": 32})


def chunks_of(response):
    """The chunks of a stream that ended well."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/event-stream")
    events = re.findall(r"^data: (.+)$", response.content.decode(), re.MULTILINE)
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def text_of(chunks):
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def assert_whole(response, asked_for):
    """The envelope of an answer by the embedded model to a caller who asked for another."""
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["success"] is True
    assert answer.keys() == {"success", "data"}
    data = answer["data"]
    assert data.keys() == {"response", "model", "usage"}
    assert data["response"].strip()
    assert data["model"] == MODEL_ID
    assert response.headers["X-Requested-Model"] == asked_for
    assert response.headers["X-Usage-Source"] == "upstream"
    assert_adds_up(data["usage"])


def assert_streamed(response, asked_for):
    """A stream by the embedded model: one id, the role first, then text, a finish, and the usage last."""
    chunks = chunks_of(response)
    assert response.headers["X-Requested-Model"] == asked_for
    assert {chunk["model"] for chunk in chunks} == {MODEL_ID}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(chunks).strip()
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["choices"] == []
    assert_adds_up(chunks[-1]["usage"])


def assert_adds_up(usage):
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def legacy_body(body):
    """The same question for the old route: its text as one message."""
    given = json.loads(body)
    content = next(m["content"] for m in given.pop("messages") if m["role"] == "user")
    given["message"] = content if isinstance(content, str) else content[0]["text"]
    return json.dumps(given)


@EXAMPLES
def test_the_documented_requests_are_answered_whole(documented_answers, name):
    asked = json.loads(DOCUMENTED[name])
    assert_whole(documented_answers[name], asked["model"])
    used = documented_answers[name].json()["data"]["usage"]["completion_tokens"]
    assert used <= asked.get("max_tokens", 1024)


@EXAMPLES
def test_the_documented_requests_are_answered_as_streams(gateway, name):
    body = DOCUMENTED[name]
    assert_streamed(post_text(gateway, COMPLETIONS, streamed(body)), json.loads(body)["model"])


def test_the_old_route_answers_whole_and_leads_to_the_new_one(gateway):
    response = post_text(gateway, LEGACY, legacy_body(S1_FORMAT))
    assert_whole(response, "microsoft/DialoGPT-medium")
    assert response.headers["Deprecation"].startswith("@")
    assert '</api/chat/completions>; rel="successor-version"' in response.headers["Link"]


def test_the_old_route_answers_as_a_stream(gateway):
    response = post_text(gateway, LEGACY, streamed(legacy_body(S1_FORMAT)))
    assert_streamed(response, "microsoft/DialoGPT-medium")
    assert response.headers["Deprecation"].startswith("@")


def test_the_old_route_needs_no_more_than_a_message(gateway):
    response = post_text(gateway, LEGACY, '{"message": "What is Brazil?", "parameters": {"max_new_tokens": 12}}')
    assert_whole(response, "microsoft/DialoGPT-medium")
    assert response.json()["data"]["usage"]["completion_tokens"] <= 12


def test_usage_is_the_engines_own_count(gateway, engine_url):
    own = requests.post(f"{engine_url}/v1/chat/completions", json=QUESTION, timeout=LONG_S).json()
    said = own["choices"][0]["message"]["content"]
    counts = {name: own["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    whole = ask(gateway, COMPLETIONS, QUESTION).json()["data"]
    assert (whole["response"], whole["usage"]) == (said, counts)
    chunks = chunks_of(ask(gateway, COMPLETIONS, {**QUESTION, "stream": True}))
    assert text_of(chunks) == said
    assert counts.items() <= chunks[-1]["usage"].items()
    legacy = {"message": QUESTION["messages"][0]["content"], "temperature": 0, "max_tokens": 24}
    assert ask(gateway, LEGACY, legacy).json()["data"] == whole
    openai = check(COMPLETION, ask(gateway, V1, QUESTION).json())
    assert openai["choices"][0]["message"]["content"] == said
    assert counts.items() <= openai["usage"].items()
    streaming = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = chunks_of(ask(gateway, V1, {**QUESTION, **streaming}))
    assert text_of(check_stream(chunks, include_usage=True)) == said
    assert counts.items() <= chunks[-1]["usage"].items()


def test_the_second_documents_request_is_answered_whole_and_as_a_stream(gateway):
    body = {"model": "amazonia-1", "top_p": 0.8, "messages": [{"role": "user", "content": "Quem é o rei do futebol?"}]}
    whole = check(COMPLETION, ask(gateway, V1, {**body, "stream": False, "max_tokens": 8}).json())
    assert whole["choices"][0]["message"]["content"]
    check_stream(chunks_of(ask(gateway, V1, {**body, "stream": True, "max_tokens": 8})))


def test_what_the_engine_does_not_take_is_the_callers_mistake(gateway):
    answer = ask(gateway, V1, {**QUESTION, "tools": [{"type": "mystery"}]})
    assert answer.status_code == 400, answer.text
    check(ERROR, answer.json())


@pytest.mark.parametrize("body", [S1_FORMAT, S1_EXAMPLE_3], ids=["one-turn", "conversation"])
def test_prompt_tokens_are_those_of_the_whole_conversation_as_the_tokenizer_sees_it(gateway, engine_url, body):
    asked = {**json.loads(body), "max_tokens": 2}
    prompt = requests.post(f"{engine_url}/apply-template", json=asked, timeout=LONG_S).json()["prompt"]
    given = {"content": prompt, "add_special": True, "parse_special": True}
    tokens = requests.post(f"{engine_url}/tokenize", json=given, timeout=LONG_S).json()["tokens"]
    usage = ask(gateway, COMPLETIONS, asked).json()["data"]["usage"]
    assert usage["prompt_tokens"] == len(tokens)
    assert usage["completion_tokens"] == 2


def test_callers_side_by_side_are_all_answered_each_with_its_own(gateway):
    ways = [
        (COMPLETIONS, QUESTION),
        (COMPLETIONS, {**QUESTION, "stream": True}),
        (LEGACY, {"message": "What is the capital of Brazil?", "temperature": 0, "max_tokens": 24}),
        (LEGACY, {"message": "What is the capital of Brazil?", "temperature": 0, "max_tokens": 24, "stream": True}),
    ] * 2
    with ThreadPoolExecutor(len(ways)) as callers:
        answers = list(callers.map(lambda way: ask(gateway, *way), ways))
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == len(ways)
    for (path, body), answer in zip(ways, answers, strict=True):
        check = assert_streamed if body.get("stream") else assert_whole
        check(answer, "microsoft/DialoGPT-medium")
        said = text_of(chunks_of(answer)) if body.get("stream") else answer.json()["data"]["response"]
        assert "Bras" in said, path


COMMANDS = re.compile(r"^curl (?P<flags>.*?)http://127\.0\.0\.1:8000(?P<path>/\S*)(?:.*? -d '(?P<body>[^']+)')?", re.M)


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_the_commands_of_the_pages_work_as_written(gateway, page):
    commands = list(COMMANDS.finditer((ROOT / page).read_text(encoding="utf-8")))
    assert commands
    for command in commands:
        path, body = command["path"], command["body"]
        response = post_text(gateway, path, body) if body else gateway.request("GET", path)
        shows_an_error = body and not any(f'"{name}"' in body for name in ("messages", "message", "input"))
        assert response.status_code == (400 if shows_an_error else 200), (path, response.text)
