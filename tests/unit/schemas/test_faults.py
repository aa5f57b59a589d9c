"""What is wrong with a body is named by its path, in every dialect, and all of it in one answer."""

import time

import pytest
from support.faulty_bodies import IDS, ROWS, faulty
from support.jobs import DEFAULT_MODEL, LOAD, MINIMAL, USER, refusal_of
from support.tables import raised, rows

from chatapi.errors import BadRequest


@pytest.mark.parametrize("dialect, path, values", ROWS, ids=IDS)
def test_what_is_wrong_is_named_by_its_path_and_nothing_else_is(dialect, path, values):
    for value in values:
        error = raised(BadRequest, LOAD[dialect], faulty(dialect, path, value), DEFAULT_MODEL)
        assert (list(error.details), error.param) == ([path], path), value
        assert path in error.message, value


@pytest.mark.parametrize("dialect, name", [(dialect, name) for dialect, body in MINIMAL.items() for name in body])
def test_a_message_is_required_and_where_there_is_no_default_a_model(dialect, name):
    body = {given: value for given, value in MINIMAL[dialect].items() if given != name}
    assert list(raised(BadRequest, LOAD[dialect], body, DEFAULT_MODEL).details) == [name]


FAULTY = (
    {"model": "no model", "stream": "yes", "temperature": 2.1, "max_tokens": "5", "top_p": -1, "top_k": 0.5}
    | {"repetition_penalty": True, "max_time": 1000, "stop": [1, "x", None], "fallbacks": ["a/b", "../c", 5, None]}
    | {"messages": [USER, {"role": "robot", "content": [{"type": 5, "text": "x"}, {"type": "text"}, 5]}, 5]}
    | {"tools": [{}, 5, "x"], "functions": [{}, 5, "x"]}
)
FAULTY["messages"] += [{"role": "user"}, {"role": "user", "content": 7}]
FAULTY_FIELDS = {
    *("messages.1.role", "messages.1.content.0.type", "messages.1.content.1.text", "messages.1.content.2"),
    *("messages.2", "messages.3.content", "messages.4.content", "model", "stream", "temperature", "max_tokens"),
    *("top_p", "top_k", "repetition_penalty", "max_time", "stop.0", "stop.2", "fallbacks.1", "fallbacks.2"),
    *("fallbacks.3", "tools.1", "tools.2", "functions.1", "functions.2"),
}
NOBODYS = {"role": "system", "content": "Be brief."}
ALL_AT_ONCE = {
    **{dialect: (dialect, FAULTY, FAULTY_FIELDS) for dialect in ("s1", "openai")},
    "no words for anybody": (
        "s1",
        {"messages": [{**USER, "role": "system"}], "temperature": 9},
        {"messages", "temperature"},
    ),
    "more than are counted at once": (
        "s1",
        {"messages": [{"role": "robot", "content": "x"}] * 60},
        {f"messages.{i}.role" for i in range(60)},
    ),
    "legacy spellings": (
        "legacy",
        {"inputs": 5, "model": "..", "top_k": 0, "parameters": {"max_length": 0, "top_p": 2}, "fallbacks": ["a/b", 5]},
        {"inputs", "model", "top_k", "parameters.max_length", "parameters.top_p", "fallbacks.1"},
    ),
    "parameters that are none": (
        "legacy",
        {"parameters": 5, "message": 5, "temperature": 9},
        {"parameters", "message", "temperature"},
    ),
    "responses": (
        "responses",
        {"input": [{"role": "bot", "content": "x"}, {"type": "item_reference", "id": "x"}, {}], "temperature": "0.7"}
        | {"previous_response_id": "resp_1", "tools": [{"type": "function"}]},
        {"input.0.role", "input.1.type", "input.2.role", "input.2.content", "temperature"}
        | {"previous_response_id", "tools.0.name"},
    ),
    "tools of OpenAI's servers": (
        "responses",
        {"tools": [{"type": "web_search"}, {"type": "local_shell"}]},
        {"tools.0.type", "tools.1.type"},
    ),
}


@pytest.mark.parametrize("dialect, body, paths", ALL_AT_ONCE.values(), ids=ALL_AT_ONCE)
def test_all_faults_are_reported_in_one_answer(dialect, body, paths):
    minimal = {} if "inputs" in body else MINIMAL[dialect]
    error = raised(BadRequest, LOAD[dialect], {**minimal, **body}, DEFAULT_MODEL)
    assert (error.code, set(error.details)) == ("invalid_request", paths)
    assert all(said and all(isinstance(words, str) for words in said) for said in error.details.values())
    assert [path for path in paths if path not in error.message] == []
    assert error.param == next(iter(error.details))
    places = {path: error.message.index(path) for path in error.details}
    assert min(places, key=places.get) == error.param, "`param` is the first that the message names"


MANY = [1] * 1_000_000
OF_MANY = {  # how many of them are told → the dialect and its body
    100: [
        *(("openai", {field: MANY}) for field in ("tools", "stop", "functions")),
        *(("responses", {field: MANY}) for field in ("input", "tools", "include")),
        ("responses", {"input": [{"role": "user", "content": [{"type": "x"}] * 1_000_000}]}),
        ("responses", {"metadata": {str(i): 1 for i in range(100_000)}}),
    ],
    101: [("openai", {"messages": MANY})],  # the last says that the others were not checked
    1: [
        ("openai", {"fallbacks": MANY}),
        ("responses", {"text": {str(i): 1 for i in range(100_000)}, "input": None}),
    ],
}


@pytest.mark.parametrize(
    "dialect, fields, told", rows(OF_MANY), ids=lambda value: "" if isinstance(value, dict) else str(value)
)
def test_of_a_million_faults_a_hundred_are_told_and_cost_little(dialect, fields, told):
    began = time.process_time()
    error = refusal_of(dialect, **fields)
    assert time.process_time() - began < 1
    assert len(error.details) == told
    assert len(error.message) < 10_000


@pytest.mark.parametrize(
    "field, value, advice",
    [
        ("previous_response_id", "resp_1", "items again in input"),
        *(("conversation", value, "items again in input") for value in ("conv_1", {"id": "conv_1"})),
        ("background", True, "Leave it out"),
        ("prompt", {"id": "pmpt_1"}, "instructions and input"),
        ("input", [{"type": "item_reference", "id": "msg_1"}], "store to false"),
        ("tools", [{"type": "web_search"}], "web_search"),
    ],
)
def test_what_is_kept_nowhere_is_refused_by_name_with_what_to_do_instead(field, value, advice):
    error = refusal_of("responses", **{field: value})
    assert error.param.partition(".")[0] == field
    assert advice in error.message
