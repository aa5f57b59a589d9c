"""OpenAI's Responses format: bodies → jobs, replies → response objects, chunks → typed events."""

import json
import time

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from support.openai_schema import check
from support.responses_schema import RESPONSE, WEATHER, check_events, events_of, without_ids
from support.tables import rows

from chatapi.chat import Chunk, Reply, Usage
from chatapi.errors import BadRequest, RateLimited, UpstreamRateLimited, UpstreamUnavailable
from chatapi.schemas import RESPONSES

USAGE = Usage(
    7, 5, details={"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2}}
)
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": '{"city":"Belém"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "32 °C"}


def load(**fields):
    return RESPONSES.load({"model": "org/name", "input": "Hi", **fields}, "")


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


def nested(call_id="c1"):
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": '{"city":"Belém"}'}}


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


def test_an_answer_can_come_back_as_history():
    calls = [nested(), nested("c2")]
    message = {"content": "Let me see.", "reasoning_content": "Hm.", "tool_calls": calls}
    answer = dump(message, "tool_calls")
    again = messages({"role": "user", "content": "Hi"}, *answer["output"], RESULT)
    assert again[1] == {"role": "assistant", "content": "Let me see.", "tool_calls": calls}


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


# --- whole answers


def dump(message, finish_reason="stop", logprobs=None, usage=USAGE, **fields):
    message = {"role": "assistant", "content": None, "refusal": None, **message}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}
    answer = RESPONSES.dump(Reply(model="served/model", choices=[choice], usage=usage), load(**fields))
    check(RESPONSE, answer)
    Response.model_validate(answer)
    assert answer == json.loads(json.dumps(answer))
    return answer


def said(*parts, status="completed"):
    return {"type": "message", "status": status, "role": "assistant", "content": list(parts)}


def text(words, logprobs=()):
    return {"type": "output_text", "text": words, "annotations": [], "logprobs": list(logprobs)}


def thought(words, status="completed"):
    content = [{"type": "reasoning_text", "text": words}]
    return {"type": "reasoning", "status": status, "summary": [], "content": content}


def called(status="completed", **fields):
    made = {"type": "function_call", "status": status, "call_id": "c1", "name": "weather"}
    return {**made, "arguments": '{"city":"Belém"}', **fields}


def test_a_whole_answer():
    before = int(time.time())
    answer = dump({"content": "Oi"})
    assert (answer["status"], answer["model"]) == ("completed", "served/model")
    assert before <= answer["created_at"] <= answer["completed_at"] <= time.time()
    assert without_ids(answer["output"]) == [said(text("Oi"))]
    assert answer["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }


@pytest.mark.parametrize(
    "details", [None, "x", [], {"cached_tokens": -1}, {"cached_tokens": "3"}, {"cached_tokens": True}]
)
def test_details_of_usage_that_cannot_be_true_are_unknown(details):
    usage = Usage(7, 5, details={"prompt_tokens_details": details, "completion_tokens_details": details})
    answer = dump({"content": "Oi"}, usage=usage)
    assert answer["usage"]["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}


def test_settings_that_were_not_set_have_openais_defaults():
    head = ("id", "object", "created_at", "completed_at", "model", "output", "usage", "status")
    unset = ("error", "incomplete_details", "instructions", "max_output_tokens", "max_tool_calls")
    unset += ("previous_response_id", "prompt_cache_key", "safety_identifier")
    assert {k: v for k, v in dump({"content": "Oi"}).items() if k not in head} == {
        **dict.fromkeys(unset),
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "temperature": 1,
        "top_p": 1,
        "top_logprobs": 0,
        "background": False,
        "store": False,
        "parallel_tool_calls": True,
        "metadata": {},
        "tools": [],
        "service_tier": "default",
        "tool_choice": "auto",
        "truncation": "disabled",
        "reasoning": {"effort": None, "summary": None},
        "text": {"format": {"type": "text"}},
    }


def test_every_setting_is_repeated():
    settings = (
        {"frequency_penalty": 0.5, "presence_penalty": -0.5, "temperature": 0, "top_p": 0.5, "top_logprobs": 2}
        | {"instructions": "Be brief.", "max_output_tokens": 100, "max_tool_calls": 3, "metadata": {"run": "7"}}
        | {"parallel_tool_calls": False, "prompt_cache_key": "k", "safety_identifier": "s", "service_tier": "flex"}
        | {"tool_choice": "required", "tools": [WEATHER], "truncation": "auto", "user": "alice"}
        | {"reasoning": {"effort": "low", "summary": "auto"}}
        | {"text": {"format": {"type": "json_object"}, "verbosity": "low"}}
    )
    answer = dump({"content": "Oi"}, **settings, store=True)
    assert {name: answer[name] for name in settings} == settings
    assert answer["store"] is False, "nothing is kept, whatever was asked"


def test_the_deprecated_single_call_gets_an_id():
    (item,) = dump({"function_call": nested()["function"]}, "function_call")["output"]
    assert item["call_id"].startswith("call_")


def test_a_custom_tools_call_is_an_item_too():
    call = {"id": "c1", "type": "custom", "custom": {"name": "weather", "input": "Belém"}}
    whole = without_ids(dump({"tool_calls": [call]}, "tool_calls")["output"])
    assert whole == [called(arguments="Belém")]
    assert outputs(Stream().delta(tool_calls=[{"index": 0, **call}]).end("tool_calls")) == whole


REFUSED = {"type": "refusal", "refusal": "No."}
ITEMS = {
    "thoughts, words and calls": (
        {"reasoning_content": "Hm.", "reasoning": "Hm.", "content": "Let me see.", "tool_calls": [nested()]},
        [thought("Hm."), said(text("Let me see.")), called()],
    ),
    "a refusal is a part": ({"refusal": "No."}, [said(REFUSED)]),
    "beside words it is another": ({"content": "Well.", "refusal": "No."}, [said(text("Well."), REFUSED)]),
    "a message is there where nothing else is": ({"content": ""}, [said(text(""))]),
    "thoughts alone": ({"reasoning_content": "Hm.", "content": ""}, [thought("Hm.")]),
    "a call alone": ({"content": "", "tool_calls": [nested()]}, [called()]),
}


@pytest.mark.parametrize("message, items", ITEMS.values(), ids=ITEMS)
def test_an_answer_is_made_of_items_whole_and_streamed(message, items):
    assert without_ids(dump(message, "stop")["output"]) == items
    stream = Stream().delta(role="assistant", content="")
    for name, value in message.items():
        if name != "reasoning":  # the same thoughts by another name
            stream.delta(**{name: [{"index": 0, **call} for call in value] if name == "tool_calls" else value})
    assert outputs(stream.delta(content="of another choice", index=1).end()) == items


@pytest.mark.parametrize("finish, reason", [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_incomplete_answer_says_why_and_where(finish, reason):
    answer = dump({"content": "Let", "reasoning_content": "Hm."}, finish)
    assert (answer["status"], answer["completed_at"]) == ("incomplete", None)
    assert answer["incomplete_details"] == {"reason": reason}
    assert without_ids(answer["output"]) == [thought("Hm."), said(text("Let"), status="incomplete")]
    empty = [said(text(""), status="incomplete")]
    assert without_ids(dump({"content": None}, finish)["output"]) == empty == outputs(Stream().end(finish))
    cut = Stream().calls(0, '{"ci', "c1").end(finish)
    assert outputs(cut) == [called("incomplete", arguments='{"ci')]


OI = {"token": "Oi", "logprob": -0.5, "bytes": [79, 105]}
E_ACUTE = {"token": "é", "logprob": 0, "bytes": [195, 169], "top_logprobs": []}
LOGPROBS = {"content": [{**OI, "bytes": None, "top_logprobs": [OI]}, {**E_ACUTE, "bytes": None, "extra": 1}]}
TOKENS = [{**OI, "top_logprobs": [OI]}, E_ACUTE]


def test_logprobs_are_there_when_they_were_asked_for():
    asked = dump({"content": "Oi"}, logprobs=LOGPROBS, include=["message.output_text.logprobs"])
    assert without_ids(asked["output"]) == [said(text("Oi", TOKENS))]
    assert without_ids(dump({"content": "Oi"}, logprobs=LOGPROBS)["output"]) == [said(text("Oi"))]
    none = dump({"content": "Oi"}, logprobs={"content": None}, include=["message.output_text.logprobs"])
    assert without_ids(none["output"]) == [said(text("Oi"))]


# --- streams

EVENT = TypeAdapter(ResponseStreamEvent)


class Stream:
    """One stream's events, as its writer makes them."""

    def __init__(self, **fields):
        self.writer = RESPONSES.events(load(stream=True, **fields))
        self.body = b""

    def delta(self, finish_reason=None, model="served/model", logprobs=None, index=0, **delta):
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        self.body += self.writer.chunk(Chunk(model=model, choices=[choice]))
        return self

    def calls(self, index, arguments, id=None):
        """A piece of a call; its first has an id."""
        begun = {"id": id, "function": {"name": "weather", "arguments": arguments}}
        return self.delta(tool_calls=[{"index": index, **(begun if id else {"function": {"arguments": arguments}})}])

    def pieces(self, *pieces):
        self.body += self.writer.pieces(list(pieces))
        return self

    def end(self, finish_reason="stop", usage=USAGE):
        self.delta(finish_reason)
        self.body += self.writer.chunk(Chunk(model="served/model", usage=usage)) + self.writer.end()
        return self.events()

    def fail(self, error):
        self.body += self.writer.error(error, "req-1")
        return self.events()

    def events(self):
        events = events_of(self.body)
        for event in events:
            EVENT.validate_python(event)
        return events


def kinds(events):
    return [event["type"].removeprefix("response.") for event in events]


def outputs(events):
    return without_ids(check_events(events)["output"])


BEGUN = ["created", "in_progress"]
OPENED = ["output_item.added", "content_part.added"]
CLOSED = ["content_part.done", "output_item.done"]


def test_a_stream_of_text():
    events = Stream().delta(role="assistant", content="").delta(content="Oi").pieces(b", ", b"tudo").end()
    assert kinds(events) == [*(*BEGUN, *OPENED, *["output_text.delta"] * 3, "output_text.done", *CLOSED, "completed")]
    assert outputs(events) == [said(text("Oi, tudo"))]
    assert [e["delta"] for e in events if "delta" in e] == ["Oi", ", ", "tudo"]


def test_the_last_object_of_a_stream_is_the_whole_answer():
    fields = {"instructions": "Be brief.", "tools": [WEATHER], "temperature": 0.5, "metadata": {"run": "7"}}
    message = {"content": "Let me see.", "reasoning_content": "Hm.", "tool_calls": [nested()]}
    whole = dump(message, "tool_calls", **fields)
    stream = Stream(**fields).delta(role="assistant", content="").delta(reasoning_content="Hm.")
    stream.pieces(b"Let me ", b"see.").delta(tool_calls=[{"index": 0, **nested()}])
    streamed = check_events(stream.end("tool_calls"))
    own = ("id", "created_at", "completed_at")
    assert without_ids(streamed["output"]) == without_ids(whole["output"])
    assert {k: v for k, v in streamed.items() if k not in (*own, "output")} == {
        k: v for k, v in whole.items() if k not in (*own, "output")
    }


def test_items_follow_each_other():
    stream = Stream().delta(reasoning="H").delta(reasoning="m.").delta(content="Let me see.")
    stream.calls(0, "", "c1").calls(0, '{"city":').calls(0, '"Belém"}')
    events = stream.calls(1, '{"city":"Belém"}', "c2").end("tool_calls")
    call = ["function_call_arguments.done", "output_item.done"]
    assert kinds(events) == [
        *BEGUN,
        *(*OPENED, *["reasoning_text.delta"] * 2, "reasoning_text.done", *CLOSED),
        *(*OPENED, "output_text.delta", "output_text.done", *CLOSED),
        *("output_item.added", *["function_call_arguments.delta"] * 2, *call),
        *("output_item.added", "function_call_arguments.delta", *call),
        "completed",
    ]
    assert outputs(events) == [thought("Hm."), said(text("Let me see.")), called(), called(call_id="c2")]


def test_a_call_that_is_not_whole_may_go_on_after_another_has_begun():
    events = Stream().calls(0, '{"city":', "c1").calls(1, "{}", "c2").calls(0, '"Belém"}').end("tool_calls")
    assert outputs(events) == [called(), called(call_id="c2", arguments="{}")]


def test_words_after_a_call_are_another_message():
    stream = Stream().delta(content="A").delta(tool_calls=[{"index": 0, **nested()}]).delta(content="B").pieces(b"C")
    assert outputs(stream.end("tool_calls")) == [said(text("A")), called(), said(text("BC"))]


def test_a_refusal_after_words_is_a_part_of_its_own():
    events = Stream().delta(content="Well.").delta(refusal="N").delta(refusal="o.").end()
    assert outputs(events) == [said(text("Well."), {"type": "refusal", "refusal": "No."})]
    assert kinds(events)[2:] == [
        *(*OPENED, "output_text.delta", "output_text.done", "content_part.done"),
        *("content_part.added", "refusal.delta", "refusal.delta", "refusal.done", *CLOSED, "completed"),
    ]


def test_text_is_put_together_across_pieces():
    """Half a character, what JSON escapes, and line ends that it does not."""
    events = Stream().pieces(b"\\ud83d", b'\\ude00 \\"x\\"\\n').delta(content="\u2028é").pieces("ã".encode()).end()
    assert outputs(events) == [said(text('😀 "x"\n\u2028éã'))]


def test_line_ends_of_unicode_go_out_escaped():
    stream = Stream(instructions="a\u2028b").delta(content="c\u2029d\u0085")
    stream.end()
    assert not set("\u2028\u2029\u0085") & set(stream.body.decode())


@pytest.mark.parametrize("finish, reason", [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_what_broke_off_is_never_said_to_be_done(finish, reason):
    events = Stream().delta(reasoning_content="Hm.").pieces(b"Let").end(finish)
    assert kinds(events)[-3:] == ["content_part.added", "output_text.delta", "incomplete"]
    last = check_events(events)
    assert last["incomplete_details"] == {"reason": reason}
    assert last["completed_at"] is None
    assert last["usage"]["total_tokens"] == 12
    assert outputs(events) == [thought("Hm."), said(text("Let"), status="incomplete")]


@pytest.mark.parametrize(
    "error, code",
    [
        (UpstreamUnavailable("It broke off. Try again."), "server_error"),
        (UpstreamRateLimited("Slower."), "rate_limit_exceeded"),
        (RateLimited("Slower."), "rate_limit_exceeded"),
    ],
)
def test_a_failure_is_the_last_event(error, code):
    events = Stream().delta(reasoning="Hm.").pieces(b"Let").fail(error)
    last = check_events(events)
    ours = {"reason": error.code, "retryable": error.retryable, "request_id": "req-1"}
    assert last["error"] == {"code": code, "message": error.message, **ours}
    assert last["status"] == "failed"
    assert last["completed_at"] is last["usage"] is last["incomplete_details"] is None
    assert outputs(events) == [thought("Hm."), said(text("Let"), status="incomplete")]


def test_a_failure_before_a_word_is_a_response_too():
    events = Stream().fail(UpstreamUnavailable("Nobody is there."))
    assert kinds(events) == [*BEGUN, "failed"]
    last = check_events(events)
    assert (last["output"], last["model"]) == ([], "org/name")


def test_the_model_is_the_one_that_wrote_the_end():
    stream = Stream().delta(content="A", model="first/model").delta(content="B", model="second/model")
    events = stream.delta(model="second/model").events()
    assert events[0]["response"]["model"] == "first/model"
    stream.body += stream.writer.end()
    last = check_events(stream.events())
    assert last["model"] == "second/model"
    assert without_ids(last["output"]) == [said(text("AB"))]


def test_logprobs_come_with_their_words():
    stream = Stream(include=["message.output_text.logprobs"]).delta(content="Oié", logprobs=LOGPROBS)
    events = stream.delta(content="!").end()
    assert outputs(events) == [said(text("Oié!", TOKENS))]
    assert [e["logprobs"] for e in events if e["type"] == "response.output_text.delta"] == [TOKENS, []]
    assert outputs(Stream().delta(content="Oié", logprobs=LOGPROBS).end()) == [said(text("Oié"))]


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


def test_many_calls_cost_no_more_each():
    stream, began = Stream(), time.process_time()
    for i in range(3000):
        call = {"index": i, "id": f"c{i}", "function": {"name": "f", "arguments": "{"}}
        choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
        stream.writer.chunk(Chunk(model="a/b", choices=[choice]))
    stream.writer.end()
    assert time.process_time() - began < 1
