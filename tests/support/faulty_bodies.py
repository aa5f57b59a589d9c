"""What is wrong with a body, in each dialect: the field that is, by its path, and what it may not be."""

from support.jobs import MINIMAL, USER, WRONG_KINDS
from support.responses_schema import CALL, RESULT, WEATHER

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
        "messages.1.content": [[USER, {"role": "function", "name": "weather"}]],
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
        "input.1.content.0.file_id": items(
            *(user({"type": "input_image", "file_id": "f", **url}) for url in ({}, {"image_url": "data:,"}))
        ),
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
        "tools.0.type": [[{"type": "web_search"}]],
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
        "previous_response_id": ["resp_1"],
        "conversation": ["conv_1", {"id": "conv_1"}],
        "background": [True],
        "prompt": [{"id": "pmpt_1"}],
        "fallbacks.0": [["a b"]],
    },
}
ROWS = [
    (dialect, path, values)
    for dialects, paths in FAULTS.items()
    for dialect in dialects.split()
    for path, values in paths.items()
]
IDS = [f"{dialect} {path}" for dialect, path, _ in ROWS]
_RIGHT = {**MINIMAL, "responses": {**MINIMAL["responses"], "tools": [WEATHER]}}  # which a choice is made of


def faulty(dialect, path, value):
    """A body in which nothing but this is wrong."""
    return {**_RIGHT[dialect], path.partition(".")[0]: value}
