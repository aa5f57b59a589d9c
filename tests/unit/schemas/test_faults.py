"""What is wrong with a body is named by its path, in every dialect, and all of it in one answer."""

import time

import pytest
from support.jobs import DEFAULT_MODEL, LOAD, MINIMAL, USER, WRONG_KINDS, refusal_of
from support.responses_schema import CALL, RESULT, WEATHER
from support.tables import raised, rows

from chatapi.errors import BadRequest

FLOATS, INTEGERS = ("temperature", "top_p", "repetition_penalty"), ("max_tokens", "top_k", "max_time")
NO_NUMBERS = ["0.7", "1", "", True, False, None, [], [1], {}, {"value": 1}]
NO_IDS = ["..", "a/../b", "a/b\r\nX: y", "", "a%2fb", "http://a/b", "a" * 5000]  # all of them: test_catalogue
SYSTEM, ASSISTANT = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Hello."}


def user(*content):
    return {"role": "user", "content": list(content)}


def text(**fields):
    return [USER, user({"type": "text", **fields})]


def image(**fields):
    return text(type="image_url", **fields)


def items(*items):
    """Each of them after one that is right."""
    return [[user({"type": "input_text", "text": "x"}), item] for item in items]


def allowed(tools, mode="auto"):
    return {"type": "allowed_tools", "mode": mode, "tools": tools}


def function(**fields):
    return {"type": "function", "name": "f", **fields}


def forms(*forms):
    return [{"format": form} for form in forms]


OF_SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {}}}
FAULTS = {  # dialects → path → what its field may not be
    "s1 legacy": dict.fromkeys((*FLOATS, *INTEGERS), NO_NUMBERS),
    "s1 openai legacy": {
        **{name: [5.0, 10.0, 5.5] for name in INTEGERS},
        "stream": ["true", 1, 0, [], {}, "yes"],
        "model": [*NO_IDS, None, 5, True, [], {}, ["a/b"]],
        "fallbacks": ["a/b", ["a/b"] * 17],
    },
    "s1 openai": {
        "messages": [None, "Hi", {}, USER, []],
        "messages.1": [[USER, item] for item in (None, "Hi", [], [USER])],
        "messages.1.role": [
            [USER, {"content": "x"}],
            *([USER, {"role": r, "content": "x"}] for r in ("robot", "User", "user ", "", None, 1, True, [], {})),
        ],
        "messages.1.content": [
            [USER, {"role": "user"}],
            *([USER, {"role": "user", "content": c}] for c in (None, 5, {"type": "text", "text": "x"})),
        ],
        "messages.1.content.0": [[USER, user("x")]],
        "messages.1.content.0.type": [
            *([USER, user({"text": "x"})], text(type="", text="x"), text(type=["text"], text="x")),
        ],
        "messages.1.content.0.text": [text(), text(text=5)],
        "messages.1.content.0.image_url": [
            image(),
            *(image(image_url=i) for i in ("", " ", None, 5, [], {"url": ""}, {"url": 5}, {"href": "https://x.test"})),
        ],
        "messages.1.content.1.image_url": [
            [USER, user({"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}})],
        ],
        "messages.1.tool_calls": [[USER, {**ASSISTANT, "tool_calls": calls}] for calls in ("x", {}, 5)],
        "messages.1.tool_calls.0": [[USER, {**ASSISTANT, "tool_calls": calls}] for calls in ([5], ["x"])],
        **WRONG_KINDS,
    },
    "s1": {
        "messages.1.role": [
            [USER, {"role": role, "content": "x", "tool_call_id": "1", "name": "f"}]
            for role in ("developer", "tool", "function")
        ],
        "messages": [
            *([SYSTEM], [SYSTEM, ASSISTANT], [{"role": "user", "content": ""}], [{"role": "user", "content": " \n\t"}]),
            *([user()], [user({"type": "text", "text": " "})]),
        ],
        "messages.1.content.0.type": [text(type="video_url", video_url={"url": "x"}, uuid=1)],
    },
    "legacy": {"parameters": [None, 5, "x", [], True]},
    "openai": {
        "top_k": [0],
        "n": [0],
        "repetition_penalty": [0, -1],
        **{name: [0, -1, -(10**400)] for name in ("max_tokens", "max_completion_tokens")},
        "messages.1.tool_call_id": [
            [USER, {"role": "tool", "content": "x", **id}] for id in ({}, {"tool_call_id": ""}, {"tool_call_id": None})
        ],
    },
    "responses": {
        "input": [None, 5, [], [{"type": "reasoning", "id": "rs_1", "summary": []}]],
        "input.1": items(5, None),
        "input.1.role": items(*({**role, "content": "x"} for role in ({}, {"role": "tool"}, {"role": ["user"]}))),
        "input.1.content": items(
            {"role": "user"}, *({"role": "user", "content": c} for c in (None, {"type": "input_text", "text": "x"}))
        ),
        "input.1.content.0": items(user("x")),
        "input.1.content.0.type": items(
            *(user({"text": "x"}), user({"type": ["input_text"], "text": "x"}), user({"type": "input_audio"})),
            user({"type": "input_file", "file_url": "x"}),
        ),
        "input.1.content.0.text": items(user({"type": "input_text"})),
        "input.1.content.0.refusal": items({"role": "assistant", "content": [{"type": "refusal", "text": "x"}]}),
        "input.1.content.0.file_id": items(user({"type": "input_image", "file_id": "f"})),
        "input.1.content.0.image_url": items(
            *(user({"type": "input_image", **url}) for url in ({}, {"image_url": {"url": "x"}}))
        ),
        "input.1.call_id": items({**CALL, "call_id": ""}, {**RESULT, "call_id": None}),
        "input.1.name": items({**CALL, "name": 5}),
        "input.1.arguments": items({**CALL, "arguments": {"city": "Belém"}}),
        "input.1.output": items({**RESULT, "output": 32}),
        "input.1.output.0.type": items({**RESULT, "output": [{"type": "input_file"}]}),
        "input.1.type": items(
            *({"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}, {"type": "web_search_call", "id": "ws_1"}),
            *({"type": ["message"]}, {"type": 5, "role": "user", "content": "x"}),
        ),
        "text.format": forms("text"),
        "text.format.type": forms({}, {"type": "grammar"}),
        "text.format.name": forms({k: v for k, v in OF_SCHEMA.items() if k != "name"}),
        "text.format.schema": forms({"type": "json_schema", "name": "x"}),
        "text.format.strict": forms({**OF_SCHEMA, "strict": "yes"}),
        "text.format.description": forms({**OF_SCHEMA, "description": 1}),
        "text.verbosity": [{"verbosity": 1}],
        "reasoning.effort": [{"effort": 1}],
        "metadata.run": [{"run": 1}],
        "tool_choice": [
            *("any", 5, {}, {"type": "web_search_preview"}, {"type": "mcp", "server_label": "x"}),
            *({"type": "custom", "name": "x"}, allowed([{"type": "web_search"}])),
            *(allowed([{"type": "function", "name": name}]) for name in ("f", ["x"])),
        ],
        "tool_choice.name": [{"type": "function"}],
        "tool_choice.mode": [allowed([], "none")],
        "tool_choice.tools": [allowed("x")],
        "tool_choice.tools.0": [allowed(["x"])],
        "tools.1": [[WEATHER, 5]],
        "tools.1.type": [[WEATHER, {}], [WEATHER, {"type": 5}]],
        "tools.1.name": [
            [WEATHER, {"type": "function", **named}] for named in ({}, {"function": {"name": "f"}}, {"name": ""})
        ],
        **{f"tools.1.{key}": [[WEATHER, function(**{key: 5})]] for key in ("parameters", "description", "strict")},
        "stream": [1],
        "max_output_tokens": [0, 16.0, True],
        "temperature": [2.1, "0.7"],
        "top_p": [-0.1],
        "top_logprobs": [21],
        "presence_penalty": [3],
        "repetition_penalty": [0],
        "instructions": [["x"]],
        "truncation": ["middle"],
        "store": ["false"],
        "include": ["message.output_text.logprobs"],
        "metadata": ["x"],
        "user": [5],
        "tools": [{}],
        "text": ["json"],
        "reasoning": ["low"],
        "max_time": [121],
        "fallbacks.0": [["a b"]],
    },
}
BESIDE = {"responses": {"tools": [WEATHER]}}  # which a choice is made of


@pytest.mark.parametrize(
    "dialect, path, values",
    [
        pytest.param(dialect, path, values, id=f"{dialect} {path}")
        for dialects, paths in FAULTS.items()
        for dialect in dialects.split()
        for path, values in paths.items()
    ],
)
def test_what_is_wrong_is_named_by_its_path_and_nothing_else_is(dialect, path, values):
    for value in values:
        error = refusal_of(dialect, **{**BESIDE.get(dialect, {}), path.partition(".")[0]: value})
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
ALL_AT_ONCE = {
    **{dialect: (dialect, FAULTY, FAULTY_FIELDS) for dialect in ("s1", "openai")},
    "no words for anybody": ("s1", {"messages": [SYSTEM], "temperature": 9}, {"messages", "temperature"}),
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
