"""A model from the Hub, served by the embedded engine: SmolLM2's own weights under another name."""

import json

import pytest
from support.embedded_gateway import require_engine, serve_embedded
from support.gguf import with_chat_template
from support.hub import Hub

from chatapi.embedded.weights import find_weights
from chatapi.settings import Settings

REPO = "acme/tiny-GGUF"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Belém", "Recife"]}}, "required": ["city"]},
    },
}
ASK = {"messages": [{"role": "user", "content": "What is the weather in Belém?"}], "max_tokens": 60, "temperature": 0}
# Hermes' way with tools, as Qwen's templates have it.
WITH_TOOLS = r"""
{%- if tools %}{{- '<|im_start|>system\n# Tools\n\n<tools>' }}
{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\n</tools>\n\nReturn a json object within <tool_call></tool_call> tags:\n<tool_call>\n' }}
{{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
{{- '\n<tool_call>\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}{{- call.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


@pytest.fixture(scope="module")
def smollm2():
    require_engine()
    return find_weights(Settings())[0].read_bytes()


@pytest.fixture(scope="module")
def gateway(smollm2, tmp_path_factory):
    """A gateway that serves the model of REPO whose template has a place for tools."""
    home = tmp_path_factory.mktemp("hf")
    with Hub({REPO: {"tiny-Q4_1.gguf": with_chat_template(smollm2, WITH_TOOLS)}}) as hub:
        settings = {"CHATAPI_EMBEDDED_MODEL": f"{REPO}:Q4_1", "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
        with serve_embedded(**settings) as running:
            yield running


def test_the_model_answers_under_its_repository_s_name(gateway):
    listed = gateway.request("GET", "/v1/models").json()["data"]
    assert listed[0]["id"] == REPO
    answer = gateway.post("/v1/chat/completions", {**ASK, "model": REPO})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == REPO
    assert REPO in gateway.log_text()


def test_tools_are_called_where_the_template_has_a_place_for_them(gateway):
    """A model this small does what it is told word for word; that the rest is a call of the tool is the engine's."""
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Recife"}}\n</tool_call>'
    messages = [{"role": "user", "content": f"Repeat this word for word: {call}"}]
    asked = {**ASK, "model": REPO, "messages": messages, "tools": [WEATHER]}
    answer = gateway.post("/v1/chat/completions", asked, timeout=90)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    [called] = choice["message"]["tool_calls"]
    assert called["function"]["name"] == "get_weather"
    assert json.loads(called["function"]["arguments"]) == {"city": "Recife"}
    assert choice["finish_reason"] == "tool_calls"
    result = {"role": "tool", "tool_call_id": called["id"], "content": "31 degrees"}
    messages += [{"role": "assistant", "content": None, "tool_calls": [called]}, result]
    answer = gateway.post("/v1/chat/completions", asked, timeout=90)
    assert answer.status_code == 200, answer.text


def test_tools_are_refused_where_it_has_none():
    with serve_embedded() as plain:
        answer = plain.post("/v1/chat/completions", {**ASK, "model": "microsoft/DialoGPT-medium", "tools": [WEATHER]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
