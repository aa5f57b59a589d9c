"""The whole thing, as `make run` starts it without a token: real requests, a real model, its own count of tokens."""

import json
import re

import psutil
import pytest
import requests
from support.callers import choices
from support.dialects import LEGACY, V1
from support.dialects import NEW as COMPLETIONS
from support.embedded_gateway import MODEL_ID, serve_embedded
from support.gateways import ROOT
from support.heard import Heard, all_at_once, check_one_answer
from support.openai_schema import COMPLETION, ERROR, check, check_stream
from support.s1 import S1_EXAMPLE_1, S1_EXAMPLE_2, S1_EXAMPLE_3, S1_FORMAT

# The documented request and its three examples, to the letter.
DOCUMENTED = {
    "request": S1_FORMAT,
    "plain-text": S1_EXAMPLE_1,
    "structured": S1_EXAMPLE_2,
    "with-context": S1_EXAMPLE_3,
}
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


def send(gateway, path, body):
    """What is heard of a body, or of a text that is sent as it stands."""
    data = body if isinstance(body, str) else json.dumps(body)
    headers = {"Content-Type": "application/json"}
    answer = gateway.request("POST", path, data=data.encode(), headers=headers, timeout=LONG_S)
    return Heard(answer.status_code, answer.headers, answer.content, 0)


@pytest.fixture(scope="module")
def documented_answers(gateway):
    """The whole answers to the documented requests, sent to the letter and side by side: they are long."""
    return all_at_once(lambda name: send(gateway, COMPLETIONS, DOCUMENTED[name]), tuple(DOCUMENTED))


def streamed(body):
    """`body` as a stream, and a short one."""
    return json.dumps({**json.loads(body), "stream": True, "max_tokens": 32})


def chunks_of(heard):
    """The chunks of a stream that ended well."""
    assert heard.status == 200 and heard.is_stream and heard.told.done, heard.body
    return heard.told.chunks


def check_answer(heard, asked_for, stream=False):
    """An answer in the envelope, or a stream, by the embedded model to a caller who asked for another."""
    assert (heard.status, heard.is_stream) == (200, stream), heard.body
    assert heard.text.strip()
    assert heard.models == [MODEL_ID]
    assert heard.headers["X-Requested-Model"] == asked_for
    assert all(heard.tokens) and heard.usage["total_tokens"] == sum(heard.tokens)
    if stream:
        [finish] = [choice["finish_reason"] for choice in choices(heard.told) if choice["finish_reason"]]
        assert finish in ("stop", "length")
        check_one_answer(heard, heard.text, finish)
    else:
        answer = json.loads(heard.body)
        assert (answer.keys(), answer["success"]) == ({"success", "data"}, True)
        assert answer["data"].keys() == {"response", "model", "usage"}
        assert heard.headers["X-Usage-Source"] == "upstream"


def legacy_body(body):
    """The same question for the old route: its text as one message."""
    given = json.loads(body)
    content = next(m["content"] for m in given.pop("messages") if m["role"] == "user")
    given["message"] = content if isinstance(content, str) else content[0]["text"]
    return json.dumps(given)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_requests_are_answered_whole_and_as_streams(gateway, documented_answers, name):
    asked = json.loads(DOCUMENTED[name])
    check_answer(documented_answers[name], asked["model"])
    assert documented_answers[name].tokens[1] <= asked.get("max_tokens", 1024)
    check_answer(send(gateway, COMPLETIONS, streamed(DOCUMENTED[name])), asked["model"], stream=True)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_old_route_answers_and_leads_to_the_new_one(gateway, stream):
    body = legacy_body(S1_FORMAT)
    heard = send(gateway, LEGACY, streamed(body) if stream else body)
    check_answer(heard, "microsoft/DialoGPT-medium", stream)
    assert heard.headers["Deprecation"].startswith("@")
    assert '</api/chat/completions>; rel="successor-version"' in heard.headers["Link"]


def test_the_old_route_needs_no_more_than_a_message(gateway):
    heard = send(gateway, LEGACY, '{"message": "What is Brazil?", "parameters": {"max_new_tokens": 12}}')
    check_answer(heard, "microsoft/DialoGPT-medium")
    assert heard.tokens[1] <= 12


def test_usage_is_the_engines_own_count(gateway, engine_url):
    own = requests.post(f"{engine_url}/v1/chat/completions", json=QUESTION, timeout=LONG_S).json()
    said = own["choices"][0]["message"]["content"]
    counts = {name: own["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    legacy = {"message": QUESTION["messages"][0]["content"], "temperature": 0, "max_tokens": 24}
    for path, body in ((COMPLETIONS, QUESTION), (LEGACY, legacy)):
        whole = send(gateway, path, body)
        assert (whole.text, whole.usage) == (said, counts)
    streaming = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}
    for path, body in ((V1, QUESTION), (V1, streaming), (COMPLETIONS, {**QUESTION, "stream": True})):
        heard = send(gateway, path, body)
        assert heard.text == said
        assert counts.items() <= heard.usage.items()
        if path == V1 and not heard.is_stream:
            check(COMPLETION, json.loads(heard.body))
        elif path == V1:
            check_stream(chunks_of(heard), include_usage=True)


def test_the_second_documents_request_is_answered_whole_and_as_a_stream(gateway):
    body = {"model": "amazonia-1", "top_p": 0.8, "messages": [{"role": "user", "content": "Quem é o rei do futebol?"}]}
    whole = send(gateway, V1, {**body, "stream": False, "max_tokens": 8})
    assert check(COMPLETION, json.loads(whole.body))["choices"][0]["message"]["content"]
    check_stream(chunks_of(send(gateway, V1, {**body, "stream": True, "max_tokens": 8})))


def test_what_the_engine_does_not_take_is_the_callers_mistake(gateway):
    heard = send(gateway, V1, {**QUESTION, "tools": [{"type": "mystery"}]})
    assert heard.status == 400, heard.body
    check(ERROR, json.loads(heard.body))


@pytest.mark.parametrize("body", [S1_FORMAT, S1_EXAMPLE_3], ids=["one-turn", "conversation"])
def test_prompt_tokens_are_those_of_the_whole_conversation_as_the_tokenizer_sees_it(gateway, engine_url, body):
    asked = {**json.loads(body), "max_tokens": 2}
    prompt = requests.post(f"{engine_url}/apply-template", json=asked, timeout=LONG_S).json()["prompt"]
    given = {"content": prompt, "add_special": True, "parse_special": True}
    tokens = requests.post(f"{engine_url}/tokenize", json=given, timeout=LONG_S).json()["tokens"]
    assert send(gateway, COMPLETIONS, asked).tokens == (len(tokens), 2)


def test_callers_side_by_side_are_all_answered_each_with_its_own(gateway):
    legacy = {"message": QUESTION["messages"][0]["content"], "temperature": 0, "max_tokens": 24}
    ways = [(path, stream, n) for path in (COMPLETIONS, LEGACY) for stream in (False, True) for n in range(2)]

    def ask(way):
        path, stream, _ = way
        return send(gateway, path, {**(legacy if path == LEGACY else QUESTION), "stream": stream})

    answers = all_at_once(ask, ways)
    assert len({heard.headers["X-Request-Id"] for heard in answers.values()}) == len(ways)
    for (path, stream, _), heard in answers.items():
        check_answer(heard, "microsoft/DialoGPT-medium", stream)
        assert "Bras" in heard.text, path


COMMANDS = re.compile(r"^curl (?P<flags>.*?)http://127\.0\.0\.1:8000(?P<path>/\S*)(?:.*? -d '(?P<body>[^']+)')?", re.M)


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_the_commands_of_the_pages_work_as_written(gateway, page):
    commands = list(COMMANDS.finditer((ROOT / page).read_text(encoding="utf-8")))
    assert commands
    for command in commands:
        path, body = command["path"], command["body"]
        status = send(gateway, path, body).status if body else gateway.request("GET", path).status_code
        shows_an_error = body and not any(f'"{name}"' in body for name in ("messages", "message", "input"))
        assert status == (400 if shows_an_error else 200), path
