"""Bodies → jobs: strict JSON, the three dialects' fields and bounds, and every fault named in one answer."""

import json
import time
from math import nextafter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.s1 import S1_EXAMPLE_1, S1_EXAMPLE_2, S1_EXAMPLE_3, S1_FORMAT
from support.tables import rows

from chatapi.catalogue import ModelCard
from chatapi.chat import ChatJob
from chatapi.errors import BadRequest, ChatError
from chatapi.huggingface.abilities import check
from chatapi.huggingface.tasks import task_for
from chatapi.schemas import COMPLETIONS, LEGACY, OPENAI
from chatapi.schemas.strict_json import parse_json

DEFAULT_MODEL = "default/model"
PNG = "https://x.test/a.png"
USER = {"role": "user", "content": "Hi"}
BUILD = {"s1": COMPLETIONS.load, "openai": OPENAI.load, "legacy": LEGACY.load}
MINIMAL = {
    "s1": {"messages": [USER], "model": "org/name"},
    "openai": {"messages": [USER], "model": "org/name"},
    "legacy": {"message": "Hi"},
}
DIALECTS = list(BUILD)


def job_of(dialect, **fields):
    return BUILD[dialect]({**MINIMAL[dialect], **fields}, DEFAULT_MODEL)


def job_of_literal(dialect, field, literal):
    """The job of a minimal body with `field` spelled as `literal`, JSON that json.dumps would not write."""
    text = json.dumps({**MINIMAL[dialect], field: "HERE"}).replace('"HERE"', literal)
    return BUILD[dialect](parse_json(text.encode()), DEFAULT_MODEL)


def refused(load, *args, **fields):
    with pytest.raises(BadRequest) as caught:
        load(*args, **fields)
    return caught.value


def refusal_of(dialect, **fields):
    return refused(job_of, dialect, **fields)


def faults_of(dialect, **fields):
    """The paths that are named as faulty."""
    return list(refusal_of(dialect, **fields).details)


def value_in(job, field):
    return {"stream": job.stream, "max_time": job.max_time_s}.get(field, job.options.get(field))


# --- S1's fields: bounds, types

TOP_P = ("top_p", 0.0, 1.0, nextafter(0, -1), nextafter(1, 2))
TEMPERATURE = ("temperature", 0.0, 2.0, nextafter(0, -1), nextafter(2, 3))
MAX_TIME = ("max_time", 1, 120, 0, 121)
BOUNDS = [
    *(TEMPERATURE, ("max_tokens", 1, 4096, 0, 4097), TOP_P, ("top_k", 1, 100, 0, 101), MAX_TIME),
    ("repetition_penalty", 0.1, 2.0, nextafter(0.1, 0), nextafter(2, 3)),
]
ON_V1 = [
    *(TEMPERATURE, TOP_P, MAX_TIME, ("top_logprobs", 0, 20, -1, 21)),
    *((f"{kind}_penalty", -2, 2, nextafter(-2, -3), nextafter(2, 3)) for kind in ("presence", "frequency")),
]
FIELDS = [row[0] for row in BOUNDS]
INTEGERS = ["max_tokens", "top_k", "max_time"]
FLOATS = ["temperature", "top_p", "repetition_penalty"]
ENVELOPES = ["s1", "legacy"]


BOUNDS_IN = [(dialect, *row) for dialect in ("s1", "legacy") for row in BOUNDS] + [("openai", *row) for row in ON_V1]


@pytest.mark.parametrize("dialect, field, low, high, below, above", BOUNDS_IN)
def test_bounds_are_inclusive(dialect, field, low, high, below, above):
    assert value_in(job_of(dialect, **{field: low}), field) == low
    assert value_in(job_of(dialect, **{field: high}), field) == high
    for value in (below, above, -(10**30), 10**30):
        assert faults_of(dialect, **{field: value}) == [field]


NO_NUMBERS = ["0.7", "1", "", True, False, None, [], [1], {}, {"value": 1}]
NO_IDS = ["..", "a/../b", "a/b\r\nX: y", "", "a%2fb", "http://a/b", "a" * 5000]  # all of them: test_catalogue
OTHER_KINDS = {
    **{(dialect, field): NO_NUMBERS for dialect in ENVELOPES for field in FIELDS},
    **{(dialect, "stream"): ["true", 1, 0, [], {}, "yes"] for dialect in DIALECTS},
    **{(dialect, "model"): [*NO_IDS, None, 5, True, [], {}, ["a/b"]] for dialect in DIALECTS},
}


@pytest.mark.parametrize("kind, values", OTHER_KINDS.items(), ids=[" ".join(kind) for kind in OTHER_KINDS])
def test_a_value_of_another_kind_is_named_by_its_field(kind, values):
    dialect, field = kind
    for value in values:
        error = refusal_of(dialect, **{field: value})
        assert (list(error.details), error.param) == ([field], field), value


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("field", INTEGERS)
def test_a_fraction_or_exponent_is_no_integer(dialect, field):
    for literal in ("5.0", "5e0", "1E1", "5.5"):
        assert list(refused(job_of_literal, dialect, field, literal).details) == [field]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("field", FLOATS)
def test_an_integer_is_fine_for_a_float(dialect, field):
    assert value_in(job_of_literal(dialect, field, "1"), field) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_not_sent_is_not_in_the_job(dialect):
    job = job_of(dialect)
    assert (job.options, job.extra, job.ignored, job.max_time_s, job.fallbacks) == ({}, {}, (), None, None)
    assert (job.strict, job.include_usage) == ((True, False) if dialect == "openai" else (False, True))
    assert job.stream is job_of(dialect, stream=False).stream is False
    assert job_of(dialect, stream=True).stream is True


# --- S1's example bodies, verbatim


@pytest.mark.parametrize("build", [COMPLETIONS.load, OPENAI.load])
@pytest.mark.parametrize("text", [S1_FORMAT, S1_EXAMPLE_1, S1_EXAMPLE_2, S1_EXAMPLE_3])
def test_s1s_own_bodies_load(build, text):
    body, job = json.loads(text), build(parse_json(text.encode()))
    options = {name: value for name, value in body.items() if name not in ("model", "messages", "stream")}
    assert (job.model, list(job.messages), job.options, job.stream) == (body["model"], body["messages"], options, False)
    assert options.keys() <= {"temperature", "max_tokens"} and "temperature" in options


# --- messages


@pytest.mark.parametrize("dialect", ["s1", "openai"])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_s1s_roles(dialect, role):
    job = job_of(dialect, messages=[{"role": role, "content": "x"}, USER])
    assert list(job.messages) == [{"role": role, "content": "x"}, USER]


@pytest.mark.parametrize("role", ["developer", "tool", "function"])
def test_openais_further_roles_are_openais_only(role):
    messages = [USER, {"role": role, "content": "x", "tool_call_id": "1", "name": "f"}]
    assert faults_of("s1", messages=messages) == ["messages.1.role"]


def user(content):
    return [USER, {"role": "user", "content": content}]


def part(**fields):
    return user([{"type": "text", **fields}])


FAULTY_MESSAGES = {
    "messages": [None, "Hi", {}, USER, []],
    "messages.1": [[USER, item] for item in (None, "Hi", [], [USER])],
    "messages.1.role": [
        [USER, {"content": "x"}],
        *([USER, {"role": r, "content": "x"}] for r in ("robot", "User", "user ", "", None, 1, True, [], {})),
    ],
    "messages.1.content": [[USER, {"role": "user"}], user(None), user(5), user({"type": "text", "text": "x"})],
    "messages.1.content.0": [user(["x"])],
    "messages.1.content.0.type": [user([{"text": "x"}]), part(type="", text="x"), part(type=["text"], text="x")],
    "messages.1.content.0.text": [part(), part(text=5)],
    "messages.1.content.0.image_url": [
        part(type="image_url"),
        *(part(type="image_url", image_url=i) for i in ("", " ", None, 5, [], {"url": ""}, {"url": 5}, {"href": PNG})),
    ],
    "messages.1.content.1.image_url": [user([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}])],
}


@pytest.mark.parametrize("dialect", ["s1", "openai"])
@pytest.mark.parametrize("messages, path", rows(FAULTY_MESSAGES), ids=str)
def test_a_faulty_message_is_named_by_its_path(dialect, messages, path):
    error = refusal_of(dialect, messages=messages)
    assert list(error.details) == [path]
    assert error.param == path
    assert path in error.message


@pytest.mark.parametrize("dialect", ["s1", "openai"])
@pytest.mark.parametrize("field", ["messages", "model"])
def test_messages_and_model_are_required(dialect, field):
    body = {name: value for name, value in MINIMAL[dialect].items() if name != field}
    assert list(refused(BUILD[dialect], body, DEFAULT_MODEL).details) == [field]


@pytest.mark.parametrize("dialect", ["s1", "openai"])
@pytest.mark.parametrize(
    "spelling", [{"image_url": {"url": PNG}}, {"image_url": PNG}, {"text": PNG}], ids=["object", "string", "S1's text"]
)
def test_an_image_has_three_spellings_and_one_shape(dialect, spelling):
    text = {"type": "text", "text": "What is this?"}
    job = job_of(dialect, messages=[{"role": "user", "content": [text, {"type": "image_url", **spelling}]}])
    assert job.messages[0]["content"] == [text, {"type": "image_url", "image_url": {"url": PNG}}]


SYSTEM = {"role": "system", "content": "Be brief."}
ASSISTANT = {"role": "assistant", "content": "Hello."}


@pytest.mark.parametrize(
    "messages",
    [
        *([SYSTEM], [SYSTEM, ASSISTANT]),
        *([{"role": "user", "content": c}] for c in ("", " \n\t", [], [{"type": "text", "text": " "}])),
    ],
)
def test_some_user_message_has_text_or_an_image(messages):
    assert refusal_of("s1", messages=messages).param == "messages"
    assert list(job_of("openai", messages=messages).messages) == messages, "for the model to judge"
    assert set(refusal_of("s1", messages=messages, temperature=9).details) == {"messages", "temperature"}


@pytest.mark.parametrize("task", ["text-generation", "text2text-generation"])
@pytest.mark.parametrize("url", [None, "http://own.test"])
@pytest.mark.parametrize("messages", [[SYSTEM], [SYSTEM, ASSISTANT], [{"role": "user", "content": " "}]])
def test_a_text_model_on_v1_needs_a_user_message_too(task, url, messages):
    card = ModelCard(id="org/name", task=task, url=url)
    assert refused(check, card, job_of("openai", messages=messages)).param == "messages"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "image_url", "image_url": "https://x.test/a.png"}]}],
        [{"role": "user", "content": ""}, ASSISTANT, USER],
        [SYSTEM, {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "x"}]}],
    ],
)
def test_one_user_message_with_text_or_an_image_is_enough(messages):
    assert len(job_of("s1", messages=messages).messages) == len(messages)


@pytest.mark.parametrize("tool_calls", ["x", {}, 5, [5], ["x"]])
def test_tool_calls_are_an_array_of_objects(tool_calls):
    messages = [USER, {"role": "assistant", "content": "x", "tool_calls": tool_calls}]
    for dialect in ("s1", "openai"):
        assert refusal_of(dialect, messages=messages).param.startswith("messages.1.tool_calls")


@pytest.mark.parametrize("dialect", ["s1", "openai"])
def test_ten_thousand_messages_load(dialect):
    """Plain ones, and ones that need the schema."""
    parts = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    messages = [USER, ASSISTANT, parts, SYSTEM] * 2500
    began = time.perf_counter()
    job = job_of(dialect, messages=messages)
    assert list(job.messages) == messages
    assert time.perf_counter() - began < 5


# --- all faults at once

FAULTY = (
    {"model": "no model", "stream": "yes", "temperature": 2.1, "max_tokens": "5", "top_p": -1, "top_k": 0.5}
    | {"repetition_penalty": True, "max_time": 1000, "stop": [1, "x", None], "fallbacks": ["a/b", "../c"]}
    | {"messages": [USER, {"role": "robot", "content": [{"type": 5, "text": "x"}, {"type": "text"}, 5]}, 5]}
)
FAULTY["messages"] += [{"role": "user"}, {"role": "user", "content": 7}]
FAULTS = {
    *("messages.1.role", "messages.1.content.0.type", "messages.1.content.1.text", "messages.1.content.2"),
    *("messages.2", "messages.3.content", "messages.4.content", "model", "stream", "temperature", "max_tokens"),
    *("top_p", "top_k", "repetition_penalty", "max_time", "stop.0", "stop.2", "fallbacks.1"),
}


@pytest.mark.parametrize("dialect", ["s1", "openai"])
def test_all_faults_are_reported_in_one_answer(dialect):
    error = refused(BUILD[dialect], FAULTY, DEFAULT_MODEL)
    assert error.code == "invalid_request"
    assert set(error.details) == FAULTS
    assert all(said and all(isinstance(words, str) for words in said) for said in error.details.values())
    assert [path for path in FAULTS if path not in error.message] == []
    assert error.param == next(iter(error.details))
    places = {path: error.message.index(path) for path in error.details}
    assert min(places, key=places.get) == error.param, "`param` is the first that the message names"


def test_a_message_names_every_field_however_many():
    error = refusal_of("s1", messages=[{"role": "robot", "content": "x"}] * 60)
    assert list(error.details) == [f"messages.{i}.role" for i in range(60)]
    assert all(path in error.message for path in error.details)


# --- model ids


@pytest.mark.parametrize("dialect", DIALECTS)
def test_models_and_fallbacks_are_model_ids(dialect):
    assert [job_of(dialect, model=id).model for id in ("gpt2", "A-1_b.c/D-2_e.f:g-3")] == [
        "gpt2",
        "A-1_b.c/D-2_e.f:g-3",
    ]
    assert job_of(dialect, fallbacks=["a/b", "c"]).fallbacks == ("a/b", "c")
    assert job_of(dialect, fallbacks=[]).fallbacks == ()
    assert job_of(dialect, fallbacks=None).fallbacks is None
    assert len(job_of(dialect, fallbacks=["a/b"] * 16).fallbacks) == 16
    assert faults_of(dialect, fallbacks=["a/b"] * 17) == faults_of(dialect, fallbacks="a/b") == ["fallbacks"]
    assert faults_of(dialect, fallbacks=["a/b", "a/..", 5, None]) == [f"fallbacks.{at}" for at in (1, 2, 3)]


# --- unknown fields


def test_s1_ignores_unknown_fields_and_names_them():
    job = job_of("s1", colour="red", top_a=1, messages=[{**USER, "mood": "good"}])
    assert sorted(job.ignored) == ["colour", "messages.0.mood", "top_a"]
    assert not job.extra
    assert not job.options
    assert list(job.messages) == [USER]


@pytest.mark.parametrize(
    "fields, ignored",
    [
        *(({"colour": "red"}, "colour"), ({"options": {"wait_for_model": True}}, "options")),
        *(
            ({"parameters": {"return_full_text": False}}, "parameters.return_full_text"),
            ({"messages": [USER]}, "messages"),
        ),
    ],
)
def test_legacy_ignores_unknown_fields_and_names_them(fields, ignored):
    job = job_of("legacy", **fields)
    assert (job.ignored, job.extra, job.options, list(job.messages)) == ((ignored,), {}, {}, [USER])


def test_v1_forwards_unknown_fields():
    message = {**USER, "name": "ana", "mood": "good"}
    job = job_of("openai", colour="red", min_p=0.1, deep={"a": [None]}, messages=[message])
    assert job.extra == {"colour": "red", "min_p": 0.1, "deep": {"a": [None]}}
    assert job.ignored == ()
    assert list(job.messages) == [message]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_unknown_fields_keep_the_order_in_which_they_came(dialect):
    """In the header that names them and in what goes upstream: the same request is always the same bytes."""
    job = job_of(dialect, **dict.fromkeys("qzamxbpckd", 1))
    assert "".join(job.extra or job.ignored) == "qzamxbpckd"


# --- the OpenAI dialect

FUNCTION = {"type": "function", "function": {"name": "f"}}
OPENAI_FIELDS = [
    *(("max_completion_tokens", 100), ("n", 2), ("seed", -7), ("presence_penalty", 0.5), ("frequency_penalty", -0.5)),
    *(("logprobs", True), ("top_logprobs", 5), ("logit_bias", {"50256": -100}), ("tools", [FUNCTION])),
    *(("tool_choice", "auto"), ("tool_choice", FUNCTION), ("parallel_tool_calls", False), ("user", "ana")),
    *(("response_format", {"type": "json_object"}), ("reasoning_effort", "low"), ("metadata", {"a": "b"})),
    *(("functions", [{"name": "f"}]), ("function_call", "none"), ("function_call", {"name": "f"})),
]


@pytest.mark.parametrize("dialect", ["openai", "s1"])
@pytest.mark.parametrize("field, value", OPENAI_FIELDS)
def test_openais_fields_are_accepted_and_forwarded(dialect, field, value):
    job = job_of(dialect, **{field: value})
    assert job.options == {field: value}
    assert not job.extra
    assert job.ignored == ()


UNKNOWN = (
    {"service_tier": "flex", "store": False, "verbosity": "low", "web_search_options": {}, "min_p": 0.05}
    | {"chat_template_kwargs": {"deep": [1, 2.5, None, {"é": "ü"}]}, "big": 10**30, "null_of_unknown_name": None}
    | {"prediction": {"type": "content", "content": "Olá"}}
)
CHATS = [ModelCard(id="org/name"), ModelCard(id="org/name", url="https://own.test")]


def sent(card, dialect="openai", **fields):
    job = job_of(dialect, **fields)
    return task_for(card).request("http://base.test", card, job, job.stream).payload


@pytest.mark.parametrize("card", CHATS, ids=["routed", "own"])
def test_every_field_reaches_a_chat_model_as_it_was_sent(card):
    fields = dict(OPENAI_FIELDS) | UNKNOWN | {"temperature": 0, "top_p": 0.8, "top_k": 5000, "repetition_penalty": 3.5}
    fields |= {"stop": ["\n\n", "fim", "c", "d", "e"], "max_tokens": 5000, "max_completion_tokens": 6000}
    asked = {"model": "org/name", "messages": [USER], **fields, "max_tokens": 6000}
    del asked["max_completion_tokens"]  # two spellings of one thing go out as one
    assert sent(card, **fields) == asked
    assert next(iter(sent(card, **fields))) == "model"
    options = {"include_usage": True, "continuous_usage_stats": True}
    streaming = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    assert sent(card, **fields, **streaming) == asked | {"stream": True, "stream_options": options}
    assert sent(card) == sent(card, **dict.fromkeys(dict(OPENAI_FIELDS))) == {"model": "org/name", "messages": [USER]}


CALLS = [
    {"id": f"call_{i}", "type": "function", "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'}}
    for i, city in enumerate(("Belém", "São Paulo"))
]
CONVERSATIONS = {
    "tool results of parallel calls": [
        {"role": "developer", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "call_0", "content": "32 °C"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "18 °C"}]},
    ],
    "an assistant without content": [USER, {"role": "assistant", "tool_calls": CALLS}],
    "deprecated function messages": [
        USER,
        {"role": "assistant", "content": None, "function_call": CALLS[0]["function"]},
        {"role": "function", "name": "weather", "content": "32 °C"},
    ],
    "names, refusals and thoughts": [
        {"role": "system", "content": "S", "name": "boss"},
        {"role": "user", "content": "Oi", "name": "ana"},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "4", "reasoning_content": "2 + 2", "x-unknown": [None]},
        USER,
    ],
    "images as URL and as data URL": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Compare."},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png?x=1&y=2", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            ],
        }
    ],
    "audio, files and what we do not know": [
        {
            "role": "user",
            "content": [
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "video_url", "video_url": {"url": "x"}, "uuid": 1},
                {"type": "image_url", "image_url": {"url": "data:x"}, "uuid": "a", "cache_control": {}},
            ],
        }
    ],
    "empty contents": [{"role": "user", "content": ""}, {"role": "user", "content": []}],
    "no user turn": [{"role": "system", "content": "Say something."}],
}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("card", CHATS, ids=["routed", "own"])
def test_conversations_reach_a_chat_model_as_they_were_sent(card, messages):
    assert sent(card, messages=messages)["messages"] == messages


def test_an_assistant_that_calls_tools_may_be_silent():
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": CALLS}]
    assert list(job_of("s1", messages=messages).messages) == messages


WRONG_KINDS = [
    *(("max_completion_tokens", "100"), ("max_completion_tokens", 1.5), ("n", "2"), ("n", True), ("seed", 1.5)),
    *(("seed", "7"), ("presence_penalty", "0.5"), ("frequency_penalty", True), ("logprobs", 1), ("top_logprobs", "5")),
    *(("logit_bias", []), ("tools", {}), ("tool_choice", []), ("parallel_tool_calls", "no"), ("metadata", "x")),
    *(("response_format", "json"), ("stream_options", True), ("user", 5), ("reasoning_effort", 5), ("functions", {})),
    *(("function_call", 5), ("stop", 5), ("stop", {})),
]


@pytest.mark.parametrize("dialect", ["openai", "s1"])
@pytest.mark.parametrize("field, value", WRONG_KINDS)
def test_openais_fields_are_typed(dialect, field, value):
    assert faults_of(dialect, **{field: value}) == [field]


@pytest.mark.parametrize("dialect", ENVELOPES)
def test_no_field_of_an_envelope_dialect_breaks_a_text_models_server(dialect):
    card = ModelCard(id="org/own", task="text-generation", url="http://own.test")
    for field, value in [*OPENAI_FIELDS, *WRONG_KINDS]:
        try:
            job = job_of(dialect, **{field: value})
            check(card, job)
            task_for(card).request("http://base.test", card, job, stream=False)
        except BadRequest as error:
            assert error.details


@pytest.mark.parametrize("field, value", [*OPENAI_FIELDS, ("stop", ["x"]), *WRONG_KINDS])
def test_the_legacy_route_uses_a_field_or_calls_it_ignored_and_checks_what_it_uses(field, value):
    try:
        job = job_of("legacy", **{field: value})
    except BadRequest as error:
        assert (field, value) in WRONG_KINDS and list(error.details) == [field]
    else:
        assert (field in job.options) != (field in job.ignored)
        assert (field, value) not in WRONG_KINDS or field in job.ignored


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_faulty_tools_are_named_one_by_one(field):
    assert faults_of("openai", **{field: [{}, 5, "x"]}) == [f"{field}.1", f"{field}.2"]


@pytest.mark.parametrize(
    "field, least, below",
    [("top_k", 1, 0), ("n", 1, 0), ("repetition_penalty", 0.0001, 0), ("repetition_penalty", 5, -1)],
)
def test_s2s_fields_have_a_lower_bound_only(field, least, below):
    assert job_of("openai", **{field: least}).options == {field: least}
    assert job_of("openai", **{field: 10**6}).options == {field: 10**6}
    assert faults_of("openai", **{field: below}) == [field]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_on_v1_token_limits_above_zero_are_for_the_model_to_judge(field):
    assert [job_of("openai", **{field: value}).options[field] for value in (1, 4097, 10**9)] == [1, 4097, 10**9]
    assert [faults_of("openai", **{field: value}) for value in (0, -1, -(10**400))] == [[field]] * 3


def test_on_v1_null_means_not_set():
    for field in {field for field, _ in OPENAI_FIELDS} | {*FIELDS, "stop", "stream", "stream_options", "fallbacks"}:
        assert job_of("openai", **{field: None}) == job_of("openai"), field


@pytest.mark.parametrize("dialect", ["openai", "s1"])
@pytest.mark.parametrize("stop", ["END", ["\n"], ["a", "b"], list("abcde")], ids=str)
def test_stop_becomes_a_list(dialect, stop):
    assert job_of(dialect, stop=stop).options == {"stop": [stop] if isinstance(stop, str) else stop}


@pytest.mark.parametrize("stream_options", [None, {}, {"include_usage": False}, {"include_usage": True}], ids=str)
def test_usage_on_a_v1_stream_is_asked_for_and_on_api_always_there(stream_options):
    job = job_of("openai", stream=True, stream_options=stream_options)
    assert (job.stream, "stream_options" in job.options) == (True, False)
    assert job.include_usage is (stream_options == {"include_usage": True})
    for dialect in ENVELOPES:
        assert job_of(dialect, stream=True, stream_options=stream_options or {}).include_usage is True


# --- the legacy dialect


def test_a_legacy_message_becomes_a_user_turn_and_is_required_under_its_documented_name():
    job = LEGACY.load({"message": "Olá"}, DEFAULT_MODEL)
    assert (list(job.messages), job.model) == ([{"role": "user", "content": "Olá"}], DEFAULT_MODEL)
    assert LEGACY.load({"message": "Olá", "model": "a/b"}, DEFAULT_MODEL).model == "a/b"
    assert list(refused(LEGACY.load, {}, DEFAULT_MODEL).details) == ["message"]


@pytest.mark.parametrize("name", ["message", "prompt", "inputs"])
def test_legacy_spellings_of_message(name):
    assert list(LEGACY.load({name: "Hi"}, DEFAULT_MODEL).messages) == [USER]
    for wrong in (None, 5, True, "", "  ", ["Hi"], {"text": "Hi"}):
        error = refused(LEGACY.load, {name: wrong}, DEFAULT_MODEL)
        assert list(error.details) == [name]
        assert name in error.message


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "max_length"])
def test_legacy_spellings_of_max_tokens(name):
    assert job_of("legacy", **{name: 7}).options == {"max_tokens": 7}
    assert job_of("legacy", parameters={name: 7}).options == {"max_tokens": 7}
    assert faults_of("legacy", **{name: 0}) == [name]
    assert faults_of("legacy", parameters={name: 4097}) == [f"parameters.{name}"]


@pytest.mark.parametrize("field, low, high, below, above", BOUNDS, ids=FIELDS)
def test_legacy_fields_may_be_in_parameters(field, low, high, below, above):
    assert value_in(job_of("legacy", parameters={field: high}), field) == high
    error = refusal_of("legacy", parameters={field: below})
    assert list(error.details) == [f"parameters.{field}"]
    assert f"parameters.{field}" in error.message


def test_the_documented_spelling_wins_over_an_older_one():
    job = job_of("legacy", prompt="old", parameters={"max_new_tokens": 9, "temperature": 1.5}, temperature=0.5)
    assert list(job.messages) == [USER]
    assert job.options == {"max_tokens": 9, "temperature": 0.5}


@pytest.mark.parametrize("parameters", [None, 5, "x", [], True])
def test_parameters_is_an_object_and_other_faults_are_reported_with_it(parameters):
    assert set(refusal_of("legacy", parameters=parameters).details) == {"parameters"}
    error = refusal_of("legacy", parameters=parameters, message=5, temperature=9)
    assert set(error.details) == {"parameters", "message", "temperature"}


def test_legacy_faults_are_reported_together_under_the_paths_the_caller_wrote():
    body = {"inputs": 5, "model": "..", "top_k": 0, "parameters": {"max_length": 0, "top_p": 2}}
    faults = {"inputs", "model", "top_k", "parameters.max_length", "parameters.top_p"}
    assert set(refused(LEGACY.load, body, DEFAULT_MODEL).details) == faults


# --- any body at all

SERVERS = [
    ModelCard(id="org/chat"),
    ModelCard(id="org/text", task="text-generation"),
    ModelCard(id="org/t5", task="text2text-generation", context="conversation", context_tokens=20),
    ModelCard(id="org/own", task="text-generation", context="conversation", url="http://own.test"),
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["user", "text", "image_url", "a/b", "..", "0.7", 0, 1, 10**400, "\0", "_schema"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
parts = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "image_url", "file", "refusal"]) | values,
        "text": st.text(max_size=5) | values,
        "image_url": st.just({"url": "https://x.test"}) | values,
    },
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "developer"]) | values,
        "content": st.text(max_size=5) | st.lists(parts | values, max_size=3) | values,
        "tool_calls": values,
        "name": values,
        "_schema": values,
    },
)
NAMES = sorted(
    {f for f, _ in OPENAI_FIELDS + WRONG_KINDS}
    | {*FIELDS, "model", "message", "messages", "prompt", "inputs", "parameters", "max_length", "fallbacks", "stream"}
)
anything = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), values, max_size=4)
nearly_valid = st.builds(
    lambda base, wrong, given, nested: {**base, **wrong, **given, **nested},
    st.sampled_from([*MINIMAL.values(), {**MINIMAL["s1"], **MINIMAL["legacy"]}]),
    anything,
    st.just({}) | st.builds(lambda found: {"messages": found}, st.lists(messages | values, max_size=3)),
    st.just({}) | st.builds(lambda found: {"parameters": found}, anything | values),
)
bodies = anything | nearly_valid


@pytest.mark.parametrize("dialect", DIALECTS)
@given(body=bodies)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@example(body={"messages": [{"role": "user", "content": "x", "_schema": 1}], "model": "a/b", "_schema": 2})
def test_any_body_is_a_job_or_an_error_of_ours(dialect, body):
    try:
        job = BUILD[dialect](body, DEFAULT_MODEL)
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
        payload = task_for(card).request("http://base.test", card, job, job.stream).payload
    except BadRequest as error:
        assert error.details
    else:
        json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()


def test_parts_of_a_type_we_do_not_know_are_v1s_only():
    parts = [{"type": "video_url", "video_url": {"url": "x"}, "uuid": 1}]
    assert faults_of("s1", messages=user(parts)) == ["messages.1.content.0.type"]


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}], ids=str)
def test_a_tools_result_may_be_of_no_words_but_names_its_call(content):
    silent = {"role": "tool", "tool_call_id": "a1", **content}
    assert job_of("openai", messages=[USER, silent]).messages[1] == silent
    for id in ({}, {"tool_call_id": ""}, {"tool_call_id": None}):
        wrong = {"role": "tool", "content": "x", **id}
        assert faults_of("openai", messages=[USER, wrong]) == ["messages.1.tool_call_id"]


NOTHING = (
    {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "functions": [], "function_call": "none"}
    | {"stop": [], "logit_bias": {}, "response_format": {"type": "text"}, "n": 1, "logprobs": False, "metadata": {}}
    | {"top_logprobs": 3, "stream_options": {"include_usage": True}, "stream": False}
)


@pytest.mark.parametrize("dialect", ["s1", "openai"])
def test_what_asks_for_nothing_is_not_sent(dialect):
    assert sent(CHATS[0], dialect, **NOTHING).keys() == {"model", "messages"}
    limits = sent(CHATS[0], dialect, max_tokens=5, max_completion_tokens=3)
    assert (limits["max_tokens"], "max_completion_tokens" in limits) == (3, False)
    forbidden = sent(CHATS[0], dialect, tools=[FUNCTION], tool_choice="none")
    assert (forbidden["tools"], forbidden["tool_choice"]) == ([FUNCTION], "none")


@pytest.mark.parametrize("field", ["messages", "tools", "stop", "functions", "fallbacks"])
def test_of_a_million_faults_a_hundred_are_told(field):
    error = refusal_of("openai", **{field: [1] * 1_000_000})
    assert 1 <= len(error.details) <= 101  # the last says that the others were not checked
    assert len(error.message) < 10_000
