"""OpenAI's Responses format: bodies → jobs; what is wrong with them: test_faults."""

import time

import pytest
from support.responses_schema import CALL, RESULT, WEATHER, load, nested

from chatapi.errors import BadRequest
from chatapi.schemas import RESPONSES


def input_text(words):
    return {"type": "input_text", "text": words}


def tool(content="32 °C", call_id="c1"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


# --- input → messages

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
    **{
        f"a message of {role} comes with a type or without": (
            [{"role": role, "content": "Oi"}, {"type": "message", "role": role, "content": "Oi"}],
            [{"role": role, "content": "Oi"}] * 2,
        )
        for role in ("user", "assistant", "system", "developer")
    },
}


@pytest.mark.parametrize("given, sent", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_input_becomes_messages(given, sent):
    brief = {"role": "system", "content": "Be brief."}
    assert list(load(input=given).messages) == list(load(input=given, instructions="").messages) == sent
    assert list(load(input=given, instructions="Be brief.").messages) == [brief, *sent]
    assert list(load(input=[], instructions="Be brief.").messages) == [brief]


# --- fields → options, and the settings that the answer repeats

SAME = (
    {"temperature": 0, "top_p": 0.9, "stop": ["x"], "seed": 0, "presence_penalty": 0.5, "user": "alice"}
    | {"frequency_penalty": -0.5, "logit_bias": {"42": 1}, "top_k": 4, "repetition_penalty": 1.1}
    | {"service_tier": "flex"}
)
RENAMED = {"max_output_tokens": 100, "reasoning": {"effort": "low", "summary": "auto"}}
RENAMED |= {"text": {"verbosity": "high", "format": {"type": "text"}}}
UNSENT = {"safety_identifier": "s", "prompt_cache_key": "k", "truncation": "auto", "store": True, "background": False}
UNSENT |= {"metadata": {"run": "7"}, "include": ["reasoning.encrypted_content"]}
NOTHING = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "stop": [], "metadata": {}, "text": {}}
LOGPROBS = {"include": ["message.output_text.logprobs"]}
SCHEMA = {"name": "city", "schema": {"type": "object", "properties": {}}}
STRICT = {"strict": True, "description": "A city."}
FUNCTION, NAMED = {"type": "function", "name": "f"}, {"type": "function", "name": "weather"}
SENT = {"type": "function", "function": {k: v for k, v in WEATHER.items() if k != "type"}}
ALLOWED = {"type": "allowed_tools", "mode": "required", "tools": [NAMED]}


def formatted(**form):
    return {"text": {"format": form}}


def choosing(choice, sent):
    return (
        {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False},
        {"tools": [SENT], "tool_choice": sent, "parallel_tool_calls": False},
    )


OPTIONS = {
    "chat has other names": (
        {**SAME, **RENAMED, **UNSENT},
        {**SAME, "max_tokens": 100, "reasoning_effort": "low", "verbosity": "high"},
    ),
    "what asks for nothing is not sent": (NOTHING | {"reasoning": {}}, {}),
    "logprobs are asked for by include": (LOGPROBS, {"logprobs": True}),
    "and the top ones too": (LOGPROBS | {"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    "of what is not asked for there are no top ones": ({"top_logprobs": 2}, {}),
    "text": (formatted(type="text"), {}),
    "an object": (formatted(type="json_object"), {"response_format": {"type": "json_object"}}),
    "a schema": (
        formatted(type="json_schema", **SCHEMA, strict=None),
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    ),
    "a strict schema": (
        formatted(type="json_schema", **SCHEMA, **STRICT),
        {"response_format": {"type": "json_schema", "json_schema": {**SCHEMA, **STRICT}}},
    ),
    "a function is nested with what was given": ({"tools": [WEATHER]}, {"tools": [SENT]}),
    "and nothing else": (
        {"tools": [{**FUNCTION, "description": None, "defer_loading": True}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ),
    **{f"a choice of {word}": choosing(word, word) for word in ("none", "auto", "required")},
    "a choice by name": choosing(NAMED, {"type": "function", "function": {"name": "weather"}}),
    "allowed tools are sent alone": (
        {"tools": [FUNCTION, WEATHER], "tool_choice": ALLOWED},
        {"tools": [SENT], "tool_choice": "required"},
    ),
}


@pytest.mark.parametrize("fields, options", OPTIONS.values(), ids=OPTIONS)
def test_fields_reach_an_upstream_as_chat_has_them(fields, options):
    job = load(**fields)
    assert (job.options, job.extra, job.ignored, job.include_usage) == (options, {}, (), True)


WHOLE = [WEATHER, {**FUNCTION, "description": None, "parameters": None, "strict": None}]
ECHOED = {
    **{f"format {n}": (OPTIONS[n][0],) * 2 for n in ("text", "an object", "a schema", "a strict schema")},
    "a function has every key": ({"tools": [WEATHER, FUNCTION]}, {"tools": WHOLE}),
    "and all of them are told beside a choice": (
        {"tools": [WEATHER, FUNCTION], "tool_choice": ALLOWED},
        {"tools": WHOLE, "tool_choice": ALLOWED},
    ),
}


@pytest.mark.parametrize("fields, settings", ECHOED.values(), ids=ECHOED)
def test_settings_are_echoed(fields, settings):
    found = load(**fields).echo["settings"]
    assert {name: found[name] for name in settings} == settings


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


def test_a_field_that_nobody_knows_is_named_and_not_sent():
    job = load(client_metadata={"installation": "secret"}, stream_options={"include_obfuscation": False}, n=2)
    assert job.ignored == ("client_metadata", "stream_options", "n")
    assert (job.options, job.extra) == ({}, {})
    assert len(load(**{f"f{i}": 1 for i in range(1000)}).ignored) == 50


def test_tools_of_openais_servers_are_left_out_beside_a_function():
    job = load(tools=[{"type": "web_search"}, WEATHER, {"type": "custom", "name": "apply_patch"}])
    assert job.ignored == ("tools.0", "tools.2")
    assert len(job.options["tools"]) == len(job.echo["settings"]["tools"]) == 1


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


def test_only_fields_are_renamed_in_what_is_said_of_them():
    error = BadRequest(
        "messages_limit: 9 of messages, max_tokens and messages.0.content.", details={"messages": ["too long"]}
    )
    error.name_fields(load(input="Oi").caller_path)
    assert error.message == "messages_limit: 9 of input, max_output_tokens and input."
    assert error.details == {"input": ["too long"]}
