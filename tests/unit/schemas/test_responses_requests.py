"""OpenAI's Responses format: bodies → jobs."""

import time

import pytest
from support.responses_schema import CALL, RESULT, WEATHER, load, nested
from support.tables import rows

from chatapi.errors import BadRequest
from chatapi.schemas import RESPONSES


def messages(*items, **fields):
    return list(load(input=list(items), **fields).messages)


def refusal(**fields):
    with pytest.raises(BadRequest) as caught:
        load(**fields)
    return caught.value


def param(**fields):
    return refusal(**fields).param


def item_fault(*items):
    return param(input=list(items))


# --- input → messages


def input_text(words):
    return {"type": "input_text", "text": words}


def tool(content="32 °C", call_id="c1"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


OI, THERE = {"role": "user", "content": "Oi"}, {"role": "assistant", "content": "There."}
SECOND, REASONING = {**CALL, "id": None, "call_id": "c2"}, {"type": "reasoning", "id": "rs_1", "summary": []}
IN_PARTS = [{"type": "output_text", "text": "Eu", "annotations": []}, {"type": "refusal", "refusal": "não"}]
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low", "file_id": None}
ANOTHER = {"type": "input_image", "image_url": "https://a.example/b.png", "detail": None}
BY_URL = {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [nested()]}
CONVERSATIONS = {
    "a string is a user message": ("Oi", [OI]),
    "text in parts is text": (
        [
            {"role": "user", "content": [input_text("Um"), input_text("dois")]},
            {"role": "assistant", "content": IN_PARTS, "id": "msg_1", "status": "completed", "phase": "final_answer"},
        ],
        [{"role": "user", "content": "Um\ndois"}, {"role": "assistant", "content": "Eu\nnão"}],
    ),
    "a picture goes along as chat writes it": (
        [{"role": "user", "content": [input_text("What is this?"), PICTURE, ANOTHER]}],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                    BY_URL,
                ],
            }
        ],
    ),
    "what an assistant said and the calls after it are one message": (
        [
            {"role": "assistant", "content": [{"type": "output_text", "text": "There."}]},
            *(REASONING | {"encrypted_content": "zzz"}, CALL, REASONING, SECOND, RESULT, {**RESULT, "call_id": "c2"}),
        ],
        [{**THERE, "tool_calls": [nested(), nested("c2")]}, tool(), tool(call_id="c2")],
    ),
    "calls alone are a message without text": (
        [OI, CALL, RESULT, SECOND],
        [OI, CALLING, tool(), {**CALLING, "tool_calls": [nested("c2")]}],
    ),
    "a call before the text is of the same message": (
        [CALL, THERE, RESULT],
        [{**THERE, "tool_calls": [nested()]}, tool()],
    ),
    "of two texts the second is another message": (
        [CALL, THERE, THERE, RESULT],
        [{**THERE, "tool_calls": [nested()]}, THERE, tool()],
    ),
    "calls belong to no message of somebody else": ([THERE, OI, CALL], [THERE, OI, CALLING]),
    "a result in parts is text": ([CALL, {**RESULT, "output": [input_text("32 °C")]}], [CALLING, tool()]),
    "or has its picture": (
        [CALL, {**RESULT, "output": [input_text("32 °C"), ANOTHER]}],
        [CALLING, tool([{"type": "text", "text": "32 °C"}, BY_URL])],
    ),
}


@pytest.mark.parametrize("given, sent", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_input_becomes_messages(given, sent):
    assert list(load(input=given).messages) == sent
    assert list(load(input=given, instructions="").messages) == sent
    assert list(load(input=given, instructions="Be brief.").messages) == [
        {"role": "system", "content": "Be brief."},
        *sent,
    ]


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer"])
def test_messages_come_with_a_type_or_without(role):
    short = {"role": role, "content": "Oi"}
    assert messages(short) == messages({"type": "message", **short}) == [short]


# --- what is wrong with it


def test_a_request_needs_a_model_and_input():
    with pytest.raises(BadRequest) as caught:
        RESPONSES.load({}, "default/model")
    assert set(caught.value.details) == {"model", "input"}
    assert param(input=None) == param(input=5) == "input"


def test_a_conversation_has_something_in_it():
    assert param(input=[]) == "input"
    assert item_fault({"type": "reasoning", "id": "rs_1", "summary": []}) == "input"
    assert [m["role"] for m in load(input=[], instructions="Say hello.").messages] == ["system"]


def by_user(*content):
    return {"role": "user", "content": list(content)}


ITEM_FAULTS = {
    "": [5, None],
    ".role": [{}, {"role": "tool", "content": "x"}, {"role": ["user"], "content": "x"}],
    ".content": [{"role": "user"}, *({"role": "user", "content": c} for c in (None, input_text("x")))],
    ".content.0": [by_user("x")],
    ".content.0.type": [
        *(by_user({"text": "x"}), by_user({"type": ["input_text"], "text": "x"}), by_user({"type": "input_audio"})),
        by_user({"type": "input_file", "file_url": "x"}),
    ],
    ".content.0.text": [by_user({"type": "input_text"})],
    ".content.0.refusal": [{"role": "assistant", "content": [{"type": "refusal", "text": "x"}]}],
    ".content.0.file_id": [by_user({"type": "input_image", "file_id": "f"})],
    ".content.0.image_url": [by_user({"type": "input_image", **url}) for url in ({}, {"image_url": {"url": "x"}})],
    ".call_id": [{**CALL, "call_id": ""}, {**RESULT, "call_id": None}],
    ".name": [{**CALL, "name": 5}],
    ".arguments": [{**CALL, "arguments": {"city": "Belém"}}],
    ".output": [{**RESULT, "output": 32}],
    ".output.0.type": [{**RESULT, "output": [{"type": "input_file"}]}],
    ".type": [
        *({"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}, {"type": "web_search_call", "id": "ws_1"}),
        *({"type": ["message"]}, {"type": 5, "role": "user", "content": "x"}),
    ],
}


@pytest.mark.parametrize("item, at", rows(ITEM_FAULTS), ids=str)
def test_an_item_that_cannot_be_used_is_named_by_its_place(item, at):
    assert item_fault({"role": "user", "content": "x"}, item) == f"input.1{at}"


def test_every_fault_is_told_at_once():
    items = [{"role": "bot", "content": "x"}, {"type": "item_reference", "id": "x"}]
    error = refusal(input=items, temperature="0.7", previous_response_id="resp_1", tools=[{"type": "function"}])
    faults = {"input.0.role", "input.1.type", "temperature", "previous_response_id", "tools.0.name"}
    assert set(error.details) == faults
    assert all(path in error.message for path in faults)


def test_a_million_faults_cost_little():
    began = time.process_time()
    for fields in ({"input": [1] * 1_000_000}, {"tools": [1] * 1_000_000}, {"include": [1] * 1_000_000}):
        assert len(refusal(**fields).details) == 100
    many = {"role": "user", "content": [{"type": "x"}] * 1_000_000}
    assert len(refusal(input=[many]).details) == 100
    assert len(refusal(metadata={str(i): 1 for i in range(100_000)}).details) == 100
    assert len(refusal(text={str(i): 1 for i in range(100_000)}, input=None).details) == 1
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize(
    "field, value, advice",
    [
        ("previous_response_id", "resp_1", "items again in input"),
        ("conversation", "conv_1", "items again in input"),
        ("conversation", {"id": "conv_1"}, "items again in input"),
        ("background", True, "Leave it out"),
        ("prompt", {"id": "pmpt_1"}, "instructions and input"),
    ],
)
def test_state_is_refused_by_name_with_what_to_do_instead(field, value, advice):
    error = refusal(**{field: value})
    assert error.param == field
    assert advice in error.message


def test_a_reference_to_an_item_says_to_set_store_to_false():
    assert "store to false" in refusal(input=[{"type": "item_reference", "id": "msg_1"}]).message


def test_null_is_not_set():
    names = [
        *("instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "max_output_tokens"),
        *("temperature", "top_p", "top_logprobs", "stream", "metadata", "user", "safety_identifier", "include"),
        *("prompt_cache_key", "service_tier", "truncation", "store", "stop", "seed", "presence_penalty"),
        *("frequency_penalty", "logit_bias", "top_k", "repetition_penalty", "fallbacks", "max_time", "max_tool_calls"),
        *("previous_response_id", "conversation", "prompt", "background", "stream_options", "prompt_cache_options"),
    ]
    job = load(**dict.fromkeys(names))
    assert (job.options, job.ignored, job.fallbacks) == ({}, (), None)
    assert job.echo["settings"] == load().echo["settings"]
    assert load(background=False).ignored == ()


@pytest.mark.parametrize(
    "field, value",
    [
        *(("stream", 1), ("max_output_tokens", 0), ("max_output_tokens", 16.0), ("max_output_tokens", True)),
        *(("temperature", 2.1), ("temperature", "0.7"), ("top_p", -0.1), ("top_logprobs", 21), ("presence_penalty", 3)),
        *(("repetition_penalty", 0), ("instructions", ["x"]), ("truncation", "middle"), ("store", "false")),
        *(("include", "message.output_text.logprobs"), ("metadata", "x"), ("user", 5), ("tools", {}), ("text", "json")),
        *(("reasoning", "low"), ("max_time", 121), ("fallbacks", ["a b"])),
    ],
)
def test_types_and_ranges_are_checked(field, value):
    assert param(**{field: value}).split(".")[0] == field


# --- fields → options


def test_fields_reach_an_upstream_under_chats_names():
    same = {"temperature": 0, "top_p": 0.9, "stop": ["x"], "seed": 0, "presence_penalty": 0.5, "user": "alice"}
    same |= {"frequency_penalty": -0.5, "logit_bias": {"42": 1}, "top_k": 4, "repetition_penalty": 1.1}
    same |= {"service_tier": "flex"}
    unsent = {"safety_identifier": "s", "prompt_cache_key": "k", "truncation": "auto", "store": True}
    unsent |= {"metadata": {"run": "7"}, "include": ["reasoning.encrypted_content"]}
    job = load(
        **same,
        **unsent,
        max_output_tokens=100,
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "high", "format": {"type": "text"}},
        fallbacks=["a/b"],
        max_time=30,
    )
    assert job.options == {**same, "max_tokens": 100, "reasoning_effort": "low", "verbosity": "high"}
    assert (job.extra, job.ignored, job.fallbacks, job.max_time_s) == ({}, (), ("a/b",), 30)
    assert job.include_usage


def test_what_asks_for_nothing_is_not_sent():
    job = load(tools=[], tool_choice="auto", parallel_tool_calls=True, stop=[], metadata={}, text={}, reasoning={})
    assert job.options == {}
    assert load(fallbacks=[]).fallbacks == (), "no fallbacks is not the catalogue's"


def test_a_field_that_nobody_knows_is_named_and_not_sent():
    job = load(client_metadata={"installation": "secret"}, stream_options={"include_obfuscation": False}, n=2)
    assert job.ignored == ("client_metadata", "stream_options", "n")
    assert (job.options, job.extra) == ({}, {})
    assert len(load(**{f"f{i}": 1 for i in range(1000)}).ignored) == 50


def test_logprobs_are_asked_for_by_include():
    assert load(include=["message.output_text.logprobs"]).options == {"logprobs": True}
    job = load(include=["message.output_text.logprobs"], top_logprobs=2)
    assert job.options == {"logprobs": True, "top_logprobs": 2}
    assert load(top_logprobs=2).options == {}, "of what is not asked for there are no top ones"


SCHEMA = {"type": "object", "properties": {}}


CITY = {"type": "json_schema", "name": "city", "schema": SCHEMA}
OF_CITY = {"name": "city", "schema": SCHEMA}
STRICT = {"strict": True, "description": "A city."}


@pytest.mark.parametrize(
    "given, sent",
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        ({**CITY, "strict": None}, {"type": "json_schema", "json_schema": OF_CITY}),
        ({**CITY, **STRICT}, {"type": "json_schema", "json_schema": {**OF_CITY, **STRICT}}),
    ],
)
def test_a_format_is_a_response_format(given, sent):
    assert load(text={"format": given}).options.get("response_format") == sent
    assert load(text={"format": given}).echo["settings"]["text"] == {"format": given}


NAMED = {"type": "json_schema", "name": "x", "schema": SCHEMA}
FORMAT_FAULTS = {
    "": ["text"],
    ".type": [{}, {"type": "grammar"}],
    ".name": [{"type": "json_schema", "schema": SCHEMA}],
    ".schema": [{"type": "json_schema", "name": "x"}],
    ".strict": [{**NAMED, "strict": "yes"}],
    ".description": [{**NAMED, "description": 1}],
}


@pytest.mark.parametrize("given, at", rows(FORMAT_FAULTS), ids=str)
def test_a_format_that_cannot_be_used_is_named(given, at):
    assert param(text={"format": given}) == f"text.format{at}"


@pytest.mark.parametrize("group, name", [("text", "verbosity"), ("reasoning", "effort"), ("metadata", "run")])
def test_settings_of_text_and_reasoning_and_metadata_are_strings(group, name):
    assert param(**{group: {name: 1}}) == f"{group}.{name}"


# --- tools


def test_a_function_is_nested_upstream_with_what_was_given():
    assert load(tools=[WEATHER]).options["tools"] == [
        {"type": "function", "function": {k: v for k, v in WEATHER.items() if k != "type"}}
    ]
    bare = {"type": "function", "name": "f", "description": None, "defer_loading": True}
    assert load(tools=[bare]).options["tools"] == [{"type": "function", "function": {"name": "f"}}]


def test_a_function_is_echoed_with_every_key():
    assert load(tools=[WEATHER, {"type": "function", "name": "f"}]).echo["settings"]["tools"] == [
        WEATHER,
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None},
    ]


WORDS = ("none", "auto", "required")
BY_NAME = {"type": "function", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("choice, sent", [*((word, word) for word in WORDS), BY_NAME], ids=str)
def test_a_choice_is_sent_as_chat_has_it(choice, sent):
    options = load(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False).options
    assert (options["tool_choice"], options["parallel_tool_calls"]) == (sent, False)


def test_allowed_tools_are_sent_alone():
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    job = load(tools=[{"type": "function", "name": "f"}, WEATHER], tool_choice=choice)
    assert [tool["function"]["name"] for tool in job.options["tools"]] == ["weather"]
    assert job.options["tool_choice"] == "required"
    assert job.echo["settings"]["tool_choice"] == choice
    assert len(job.echo["settings"]["tools"]) == 2


def allowed(tools, mode="auto"):
    return {"type": "allowed_tools", "mode": mode, "tools": tools}


CHOICE_FAULTS = {
    "": [
        *("any", 5, {}, {"type": "web_search_preview"}, {"type": "mcp", "server_label": "x"}),
        {"type": "custom", "name": "x"},
        *(allowed([{"type": "function", "name": name}]) for name in ("f", ["x"])),
        allowed([{"type": "web_search"}]),
    ],
    ".name": [{"type": "function"}],
    ".mode": [allowed([], "none")],
    ".tools": [allowed("x")],
    ".tools.0": [allowed(["x"])],
}


@pytest.mark.parametrize("choice, at", rows(CHOICE_FAULTS), ids=str)
def test_a_choice_that_cannot_be_made_is_refused(choice, at):
    assert param(tools=[WEATHER], tool_choice=choice) == f"tool_choice{at}"


def test_tools_of_openais_servers_are_left_out_beside_a_function():
    job = load(tools=[{"type": "web_search"}, WEATHER, {"type": "custom", "name": "apply_patch"}])
    assert job.ignored == ("tools.0", "tools.2")
    assert len(job.options["tools"]) == len(job.echo["settings"]["tools"]) == 1


def test_tools_of_openais_servers_alone_are_refused():
    error = refusal(tools=[{"type": "web_search"}, {"type": "local_shell"}])
    assert list(error.details) == ["tools.0.type", "tools.1.type"]
    assert "web_search" in error.message


TOOL_FAULTS = {
    "": [5],
    ".type": [{}, {"type": 5}],
    ".name": [{"type": "function", **named} for named in ({}, {"function": {"name": "f"}}, {"name": ""})],
    **{f".{key}": [{"type": "function", "name": "f", key: 5}] for key in ("parameters", "description", "strict")},
}


@pytest.mark.parametrize("tool, at", rows(TOOL_FAULTS), ids=str)
def test_a_tool_that_cannot_be_used_is_named_by_its_place(tool, at):
    assert param(tools=[WEATHER, tool]) == f"tools.1{at}"


# --- what it costs


def test_large_requests_are_read_in_no_time():
    item = {"role": "user", "content": [{"type": "input_text", "text": "x" * 150}]}
    tool = {**WEATHER, "description": "x" * 500}
    many = [{**tool, "name": f"f{i}"} for i in range(1000)]
    began = time.process_time()
    for fields in ({"input": [item] * 10_000}, {"input": "x" * 2_000_000}, {"tools": many}):
        writer = RESPONSES.events(load(**fields))
        writer.pieces([b"x"])
        writer.end()
    assert time.process_time() - began < 0.5
