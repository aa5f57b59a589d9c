"""Bodies → jobs: the fields of each dialect, their bounds and spellings, and what is not known."""

import json
import re
from dataclasses import replace
from math import nextafter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.fuzz import json_values, some_of
from support.jobs import DEFAULT_MODEL, LOAD, MINIMAL, USER, WRONG_KINDS, faults_of, job_of
from support.models import BASE, CHAT, CHATS, CLASSIC, GENERATE, NEO, TEXT2TEXT, payload
from support.s1 import S1_EXAMPLE_1, S1_EXAMPLE_2, S1_EXAMPLE_3, S1_FORMAT
from support.tables import raised

from chatapi.chat import ChatJob
from chatapi.errors import BadRequest, ChatError
from chatapi.huggingface import task_for
from chatapi.schemas.loading import ModelId
from chatapi.schemas.strict_json import parse_json
from chatapi.settings import is_model_id

ENVELOPES, OF_MESSAGES = ("s1", "legacy"), ("s1", "openai")
OF_CHAT = (*OF_MESSAGES, "legacy")


# --- bounds

TOP_P = ("top_p", 0.0, 1.0, nextafter(0, -1), nextafter(1, 2))
TEMPERATURE = ("temperature", 0.0, 2.0, nextafter(0, -1), nextafter(2, 3))
MAX_TIME = ("max_time", 1, 120, 0, 121)
ENVELOPES_OWN = [
    *(TEMPERATURE, ("max_tokens", 1, 4096, 0, 4097), TOP_P, ("top_k", 1, 100, 0, 101), MAX_TIME),
    ("repetition_penalty", 0.1, 2.0, nextafter(0.1, 0), nextafter(2, 3)),
]
OLDER = {"max_new_tokens": "max_tokens", "max_length": "max_tokens"}
OF_LEGACY = [*ENVELOPES_OWN, *((name, 1, 4096, 0, 4097) for name in OLDER)]
PENALTIES = [(f"{kind}_penalty", -2, 2, nextafter(-2, -3), nextafter(2, 3)) for kind in ("presence", "frequency")]
BOUNDS = {
    "s1": ENVELOPES_OWN,
    "legacy": [*OF_LEGACY, *((f"parameters.{name}", *bounds) for name, *bounds in OF_LEGACY)],
    "openai": [TEMPERATURE, TOP_P, MAX_TIME, ("top_logprobs", 0, 20, -1, 21), *PENALTIES],
    "responses": [TEMPERATURE, TOP_P, MAX_TIME, *PENALTIES],
}
FIELDS = [row[0] for row in ENVELOPES_OWN]


def at(path, value):
    """The field at a path."""
    name, _, inner = path.partition(".")
    return {name: at(inner, value) if inner else value}


@pytest.mark.parametrize(
    "dialect, path, low, high, below, above", [(dialect, *row) for dialect, found in BOUNDS.items() for row in found]
)
def test_bounds_are_inclusive(dialect, path, low, high, below, above):
    field = path.rpartition(".")[2]
    for value in (low, high):
        job = job_of(dialect, **at(path, value))
        asked = {"max_time": job.max_time_s} if field == "max_time" else job.options
        assert asked == {OLDER.get(field, field): value}
    for value in (below, above, -(10**30), 10**30):
        assert faults_of(dialect, **at(path, value)) == [path]


@pytest.mark.parametrize("dialect", OF_CHAT)
def test_an_integer_is_fine_for_a_float(dialect):
    floats = {"temperature": 1, "top_p": 1, "repetition_penalty": 1}
    assert job_of(dialect, **floats).options == floats


@pytest.mark.parametrize("dialect", OF_CHAT)
def test_what_is_not_sent_is_not_in_the_job(dialect):
    job = job_of(dialect)
    assert (job.options, job.extra, job.ignored, job.max_time_s, job.fallbacks) == ({}, {}, (), None, None)
    assert (job.strict, job.include_usage) == ((True, False) if dialect == "openai" else (False, True))
    assert job.stream is job_of(dialect, stream=False).stream is False
    assert job_of(dialect, stream=True).stream is True


@pytest.mark.parametrize("dialect", OF_MESSAGES)
@pytest.mark.parametrize("text", [S1_FORMAT, S1_EXAMPLE_1, S1_EXAMPLE_2, S1_EXAMPLE_3])
def test_s1s_own_bodies_load(dialect, text):
    body, job = json.loads(text), LOAD[dialect](parse_json(text.encode()), "")
    options = {name: value for name, value in body.items() if name not in ("model", "messages", "stream")}
    assert (job.model, list(job.messages), job.options, job.stream) == (body["model"], body["messages"], options, False)
    assert options.keys() <= {"temperature", "max_tokens"} and "temperature" in options


@pytest.mark.parametrize("dialect", MINIMAL)
def test_models_and_fallbacks_are_model_ids(dialect):
    for id in ("gpt2", "A-1_b.c/D-2_e.f:g-3"):
        assert job_of(dialect, model=id).model == id
    for ids, fallbacks in ((["a/b", "c"], ("a/b", "c")), ([], ()), (None, None), (["a/b"] * 16, ("a/b",) * 16)):
        assert job_of(dialect, fallbacks=ids).fallbacks == fallbacks


# --- what is not known

TEN = dict.fromkeys("qzamxbpckd", 1)
COLOURS = {"colour": "red", "min_p": 0.1, "deep": {"a": [None]}}
UNKNOWN = [  # the dialect and its fields, what is forwarded, and what is named as ignored
    ("s1", {"colour": "red", "top_a": 1, "messages": [{**USER, "mood": "good"}]}, {}, "colour top_a messages.0.mood"),
    ("s1", TEN, {}, " ".join(TEN)),
    ("legacy", {"colour": "red", "options": {"wait_for_model": True}, **TEN}, {}, f"colour options {' '.join(TEN)}"),
    ("legacy", {"parameters": {"return_full_text": False}, "messages": []}, {}, "messages parameters.return_full_text"),
    ("openai", {**COLOURS, **TEN}, {**COLOURS, **TEN}, ""),
]


@pytest.mark.parametrize("dialect, fields, extra, ignored", UNKNOWN, ids=str)
def test_unknown_fields_are_forwarded_or_named_in_the_order_in_which_they_came(dialect, fields, extra, ignored):
    """In the header that names them and in what goes upstream: the same request is always the same bytes."""
    job = job_of(dialect, **fields)
    assert (job.options, list(job.extra.items()), list(job.messages)) == ({}, list(extra.items()), [USER])
    assert " ".join(job.ignored) == ignored


# --- OpenAI's fields

FUNCTION = {"type": "function", "function": {"name": "f"}}
OPENAI_FIELDS = [
    *(("max_completion_tokens", 100), ("n", 2), ("seed", -7), ("presence_penalty", 0.5), ("frequency_penalty", -0.5)),
    *(("logprobs", True), ("top_logprobs", 5), ("logit_bias", {"50256": -100}), ("tools", [FUNCTION])),
    *(("tool_choice", "auto"), ("tool_choice", FUNCTION), ("parallel_tool_calls", False), ("user", "ana")),
    *(("response_format", {"type": "json_object"}), ("reasoning_effort", "low"), ("metadata", {"a": "b"})),
    *(("functions", [{"name": "f"}]), ("function_call", "none"), ("function_call", {"name": "f"})),
    *(("stop", ["\n"]), ("stop", ["a", "b"]), ("stop", list("abcde"))),
]
HIGH = {"max_tokens": 10**9, "max_completion_tokens": 4097, "n": 10**6, "top_k": 10**6, "repetition_penalty": 10**6}
LOW = {"max_tokens": 1, "max_completion_tokens": 1, "n": 1, "top_k": 1, "repetition_penalty": 0.0001}
WRONG = [(field, value) for field, values in WRONG_KINDS.items() for value in values]


@pytest.mark.parametrize(
    "dialect, field, value",
    [
        *((dialect, *row) for dialect in OF_MESSAGES for row in OPENAI_FIELDS),
        *(("openai", *row) for row in [*HIGH.items(), *LOW.items()]),
    ],
)
def test_openais_fields_are_accepted_and_forwarded_and_on_v1_a_model_judges_how_much_is_too_much(dialect, field, value):
    job = job_of(dialect, **{field: value})
    assert (job.options, job.extra, job.ignored) == ({field: value}, {}, ())


@pytest.mark.parametrize("dialect", OF_MESSAGES)
def test_stop_becomes_a_list(dialect):
    assert job_of(dialect, stop="END").options == {"stop": ["END"]}


@pytest.mark.parametrize("stream_options", [None, {}, {"include_usage": False}, {"include_usage": True}], ids=str)
def test_usage_on_a_v1_stream_is_asked_for_and_on_api_always_there(stream_options):
    job = job_of("openai", stream=True, stream_options=stream_options)
    assert (job.stream, "stream_options" in job.options) == (True, False)
    assert job.include_usage is (stream_options == {"include_usage": True})
    for dialect in ENVELOPES:
        assert job_of(dialect, stream=True, stream_options=stream_options or {}).include_usage is True


def test_on_v1_null_means_not_set():
    for field in {field for field, _ in OPENAI_FIELDS} | {*FIELDS, "stream", "stream_options", "fallbacks"}:
        assert job_of("openai", **{field: None}) == job_of("openai"), field


NOBODY_KNOWS = (
    {"service_tier": "flex", "store": False, "verbosity": "low", "web_search_options": {}, "min_p": 0.05}
    | {"chat_template_kwargs": {"deep": [1, 2.5, None, {"é": "ü"}]}, "big": 10**30, "null_of_unknown_name": None}
    | {"prediction": {"type": "content", "content": "Olá"}}
)


@pytest.mark.parametrize("card", CHATS, ids=["routed", "own"])
def test_every_field_reaches_a_chat_model_as_it_was_sent(card):
    def sent(**fields):
        return payload(card, job := job_of("openai", **fields), job.stream)

    fields = dict(OPENAI_FIELDS) | NOBODY_KNOWS
    fields |= {"temperature": 0, "top_p": 0.8, "top_k": 5000, "repetition_penalty": 3.5}
    fields |= {"max_tokens": 5000, "max_completion_tokens": 6000}
    asked = {"model": card.id, "messages": [USER], **fields, "max_tokens": 6000}
    del asked["max_completion_tokens"]  # two spellings of one thing go out as one
    assert sent(**fields) == asked
    assert next(iter(sent(**fields))) == "model"
    streaming = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    options = {"include_usage": True, "continuous_usage_stats": True}
    assert sent(**fields, **streaming) == asked | {"stream": True, "stream_options": options}
    assert sent() == sent(**dict.fromkeys(dict(OPENAI_FIELDS))) == {"model": card.id, "messages": [USER]}


NOTHING = (
    {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "functions": [], "function_call": "none"}
    | {"stop": [], "logit_bias": {}, "response_format": {"type": "text"}, "n": 1, "logprobs": False, "metadata": {}}
    | {"top_logprobs": 3, "stream_options": {"include_usage": True}, "stream": False}
)


@pytest.mark.parametrize("dialect", OF_MESSAGES)
@pytest.mark.parametrize(
    "fields, sent",
    [
        (NOTHING, {}),
        ({"max_tokens": 5, "max_completion_tokens": 3}, {"max_tokens": 3}),
        *(({"tools": [FUNCTION], "tool_choice": "none"},) * 2,),
    ],
    ids=["nothing", "a limit", "a choice of none"],
)
def test_what_asks_for_nothing_is_not_sent(dialect, fields, sent):
    body = payload(CHAT, job_of(dialect, **fields))
    assert {name: value for name, value in body.items() if name not in ("model", "messages")} == sent


@pytest.mark.parametrize("dialect", ENVELOPES)
def test_no_field_of_an_envelope_dialect_breaks_a_text_models_server(dialect):
    for field, value in [*OPENAI_FIELDS, *WRONG]:
        try:
            payload(GENERATE, job_of(dialect, **{field: value}))
        except BadRequest as error:
            assert error.details


# --- the legacy dialect


@pytest.mark.parametrize("field, value", [*OPENAI_FIELDS, *WRONG])
def test_the_legacy_route_uses_a_field_or_calls_it_ignored_and_checks_what_it_uses(field, value):
    try:
        job = job_of("legacy", **{field: value})
    except BadRequest as error:
        assert (field, value) in WRONG and list(error.details) == [field]
    else:
        assert (field in job.options) != (field in job.ignored)
        assert (field, value) not in WRONG or field in job.ignored


@pytest.mark.parametrize("name", ["message", "prompt", "inputs"])
def test_legacy_spellings_of_message(name):
    job = LOAD["legacy"]({name: "Hi"}, DEFAULT_MODEL)
    assert (list(job.messages), job.model) == ([USER], DEFAULT_MODEL)
    assert LOAD["legacy"]({name: "Hi", "model": "a/b"}, DEFAULT_MODEL).model == "a/b"
    for wrong in (None, 5, True, "", "  ", ["Hi"], {"text": "Hi"}):
        error = raised(BadRequest, LOAD["legacy"], {name: wrong}, DEFAULT_MODEL)
        assert list(error.details) == [name]
        assert name in error.message


def test_the_documented_spelling_wins_over_an_older_one():
    job = job_of("legacy", prompt="old", parameters={"max_new_tokens": 9, "temperature": 1.5}, temperature=0.5)
    assert list(job.messages) == [USER]
    assert job.options == {"max_tokens": 9, "temperature": 0.5}


# --- any body at all

SERVERS = [CHAT, CLASSIC, replace(NEO, url="http://own.test")]
SERVERS += [replace(TEXT2TEXT, context="conversation", context_tokens=20)]
SCALARS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
WORDS = st.sampled_from(["user", "text", "image_url", "a/b", "..", "0.7", 0, 1, 10**400, "\0", "_schema"])
VALUES = json_values(SCALARS | WORDS, st.text(max_size=8))
PARTS = some_of(
    type=st.sampled_from(["text", "image_url", "file", "refusal"]) | VALUES,
    text=st.text(max_size=5) | VALUES,
    image_url=st.just({"url": "https://x.test"}) | VALUES,
)
MESSAGES = some_of(
    role=st.sampled_from(["user", "assistant", "system", "tool", "developer"]) | VALUES,
    content=st.text(max_size=5) | st.lists(PARTS | VALUES, max_size=3) | VALUES,
    **dict.fromkeys(("tool_calls", "name", "_schema"), VALUES),
)
NAMES = sorted(
    {f for f, _ in OPENAI_FIELDS + WRONG}
    | {*FIELDS, "model", "message", "messages", "prompt", "inputs", "parameters", "max_length", "fallbacks", "stream"}
)
ANYTHING = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), VALUES, max_size=4)
NEARLY_VALID = st.builds(
    lambda base, wrong, given, nested: {**base, **wrong, **given, **nested},
    st.sampled_from([*MINIMAL.values(), {**MINIMAL["s1"], **MINIMAL["legacy"]}]),
    ANYTHING,
    some_of(messages=st.lists(MESSAGES | VALUES, max_size=3)),
    some_of(parameters=ANYTHING | VALUES),
)


@pytest.mark.parametrize("dialect", OF_CHAT)
@given(body=ANYTHING | NEARLY_VALID)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@example(body={"messages": [{"role": "user", "content": "x", "_schema": 1}], "model": "a/b", "_schema": 2})
def test_any_body_is_a_job_or_an_error_of_ours(dialect, body):
    try:
        job = LOAD[dialect](body, DEFAULT_MODEL)
    except ChatError as error:
        assert error.details
        assert all(path in error.message for path in list(error.details)[:20])
        assert all(isinstance(words, str) for said in error.details.values() for words in said)
    else:
        assert isinstance(job, ChatJob)
        for card in SERVERS:
            check_payload(card, job)


def check_payload(card, job):
    """What a job makes of itself for an upstream is JSON, or an error that names fields."""
    try:
        sent = task_for(card).request(BASE, card, job, job.stream).payload
        json.dumps(sent, ensure_ascii=False, allow_nan=False).encode()
    except BadRequest as error:
        assert error.details


MODEL_IDS = [
    "a",
    "a/b",
    "a/b:c",
    "A.b-c_d/e.f:g",
    "a.",
    "a./b",
    "a..b",
    ".a",
    "a/.b",
    "a/b:.c",
    "a//b",
    "a:b:c",
    "",
    "/a",
]


@pytest.mark.parametrize("id", [*MODEL_IDS, "a" * 300])
def test_a_model_ids_schema_takes_what_the_gateway_takes(id):
    pattern, longest = ModelId.keywords["pattern"], ModelId.keywords["maxLength"]
    assert bool(re.search(pattern, id) and len(id) <= longest) == bool(is_model_id(id))
