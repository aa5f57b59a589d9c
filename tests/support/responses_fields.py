"""What becomes of each field of `POST /v1/responses` at each kind of upstream: a table of docs/compatibility.md."""

import re

from support import portuguese

PATH, CHAT = "/v1/responses", "/v1/chat/completions"
HEADING = "## `POST /v1/responses`"
FORWARDED, TRANSLATED, REFUSED = "forwarded", "translated", "refused"
REPEATED, LEFT_OUT, HONOURED, IGNORED = "repeated", "left out", "honoured", "**ignored**"
QUESTION = "Who is there?"
ASKING = {PATH: {"input": QUESTION}, CHAT: {"messages": [{"role": "user", "content": QUESTION}]}}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
SAID = {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
CALLED = [
    {"role": "user", "content": QUESTION},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "32 °C"},
]

# Row → the fields that ask for it. The first field is the one that counts.
ROWS = {
    "`input`, a string": {"input": QUESTION},
    "`input`, items": {"input": [SAID]},
    "`input`, pictures": {"input": [{"role": "user", "content": [*SAID["content"], PICTURE]}]},
    "`input`, calls and their results": {"input": CALLED},
    "`instructions`": {"instructions": "Be brief."},
    "`max_output_tokens`": {"max_output_tokens": 3},
    "`temperature`": {"temperature": 0.5},
    "`top_p`": {"top_p": 0.9},
    "`top_k`": {"top_k": 40},
    "`repetition_penalty`": {"repetition_penalty": 1.2},
    "`stop`": {"stop": ["stream"]},
    "`seed`": {"seed": 7},
    "`presence_penalty`": {"presence_penalty": 0.5},
    "`frequency_penalty`": {"frequency_penalty": 0.5},
    "`logit_bias`": {"logit_bias": {"42": -100}},
    "`tools`, functions": {"tools": [WEATHER]},
    "`tools`, OpenAI's beside a function": {"tools": [WEATHER, {"type": "web_search"}]},
    "`tools`, OpenAI's alone": {"tools": [{"type": "web_search"}]},
    "`tool_choice`": {"tool_choice": "required", "tools": [WEATHER]},
    "`tool_choice`, `allowed_tools`": {
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "weather"}],
        },
        "tools": [WEATHER],
    },
    "`parallel_tool_calls`": {"parallel_tool_calls": False, "tools": [WEATHER]},
    "`max_tool_calls`": {"max_tool_calls": 3},
    "`text.format` json_object": {"text": {"format": {"type": "json_object"}}},
    "`text.format` json_schema": {"text": {"format": {"type": "json_schema", "name": "city", "schema": CITY}}},
    "`text.verbosity`": {"text": {"verbosity": "low"}},
    "`reasoning.effort`": {"reasoning": {"effort": "low"}},
    "`reasoning.summary`": {"reasoning": {"summary": "auto"}},
    "`include`, log probabilities": {"include": ["message.output_text.logprobs"]},
    "`include`, anything else": {"include": ["reasoning.encrypted_content"]},
    "`top_logprobs`": {"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
    "`metadata`": {"metadata": {"run": "7"}},
    "`user`": {"user": "alice"},
    "`safety_identifier`": {"safety_identifier": "alice"},
    "`prompt_cache_key`": {"prompt_cache_key": "k"},
    "`service_tier`": {"service_tier": "flex"},
    "`truncation`": {"truncation": "auto"},
    "`store`": {"store": True},
    "`stream`": {"stream": True},
    "`fallbacks`": {"fallbacks": ["own/echo"]},
    "`max_time`": {"max_time": 1},
    "`previous_response_id`": {"previous_response_id": "resp_1"},
    "`conversation`": {"conversation": "conv_1"},
    "`prompt`": {"prompt": {"id": "pmpt_1"}},
    "`background`": {"background": True},
    "any other field": {"min_p": 0.05},
}
# Accepted, and without effect: nothing is stored, and what is not there cannot be included.
WITHOUT_EFFECT = ("store", "include")
SECTION = f"""
{HEADING}

- **repeated**: the answer repeats it, as it does every setting; no upstream is sent it.
- **left out**: it is accepted and has no effect. The header `X-Ignored-Fields` has the path of each of `tools` that is
  left out, and the name of any other field.

"""
SECTION_IN_PORTUGUESE = f"""
{HEADING}

- **repetido**: a resposta o repete, como faz com toda configuração; nenhum servidor o recebe.
- **deixado de fora**: é aceito e não tem efeito. O cabeçalho `X-Ignored-Fields` traz o caminho de cada item de `tools`
  que ficou de fora, e o nome de qualquer outro campo.

"""


def cell(client, upstream, kind, fields):
    """What becomes of the first of `fields`."""
    name, value = next(iter(fields.items()))
    if name in GATEWAYS_OWN:
        return GATEWAYS_OWN[name](client, PATH, kind, fields)
    with_it = post(client, PATH, kind.model, fields)
    if with_it.status_code == 400:
        return refusal(with_it.json, fields)
    assert with_it.status_code == 200, with_it.text
    sent = upstream.posts[-1].body
    post(client, PATH, kind.model, {k: v for k, v in fields.items() if k != name})
    return " and ".join(outcomes(name, value, upstream.posts[-1].body, sent, with_it))


def refusal(answer, fields):
    error = answer["error"]
    assert error["code"] == "invalid_request", error
    assert set(fields) & set(re.split(r"\W+", f"{error['param']} {error['message'].partition(':')[0]}")), error
    return REFUSED


def outcomes(name, value, before, sent, answer):
    """Every outcome that is seen: of two tools one may be left out."""
    parameters = sent.get("parameters") or {}
    said = []
    if value in (sent.get(name), parameters.get(name)):
        said.append(FORWARDED)
    elif changed := sent if name == "input" else difference(before, sent):
        keys = [key for key in changed if key in ("messages", "inputs") or name != "input"]
        said.append(f"{TRANSLATED}: " + ", ".join(f"`{key}`" for key in keys))
    elif name == "instructions" and "inputs" in sent:
        said.append(f"{LEFT_OUT}: the first user message alone¹")
    named = answer.headers.get("X-Ignored-Fields", "").split(", ")
    if any(path.partition(".")[0] == name for path in named):
        said.append(LEFT_OUT)
    if name == "stop" and not said and '"text":"Hello from up"' in answer.get_data(as_text=True):
        said.append(HONOURED)
    if not said and contains(answer.json.get(name), value):
        said.append(REPEATED)
    return said or [LEFT_OUT if name in WITHOUT_EFFECT else IGNORED]


def contains(whole, part):
    """Whether an answer's setting has all that was set."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(contains(whole.get(key), value) for key, value in part.items())
    return whole == part and not isinstance(whole, list)


def difference(before, after):
    """The keys of a body that are new or other, with what they hold."""
    before, after = ({**body.get("parameters", {}), **body} for body in (before, after))
    return {k: v for k, v in after.items() if k != "parameters" and (k not in before or before[k] != v)}


def post(client, path, model, fields):
    return client.post(path, json={"model": model, **ASKING[path], **fields})


def streams(client, path, kind, fields):
    text = post(client, path, kind.model, fields).get_data(as_text=True)
    if path == PATH:
        return HONOURED if "event: response.completed\n" in text else IGNORED
    usage = '"total_tokens"' in text
    return HONOURED if text.endswith("data: [DONE]\n\n") and usage == ("stream_options" in fields) else IGNORED


def falls_back(client, path, kind, fields):
    answer = post(client, path, kind.failing, fields)
    return HONOURED if answer.status_code == 200 and answer.json["model"] == "own/echo" else IGNORED


def ends_in_time(client, path, kind, fields):
    return HONOURED if post(client, path, kind.silent, fields).status_code == 504 else IGNORED


# What the gateway does itself, whatever the upstream.
GATEWAYS_OWN = {"stream": streams, "stream_options": streams, "fallbacks": falls_back, "max_time": ends_in_time}


def column(client, upstream, kind):
    """Row → what happened at one kind of upstream."""
    return {row: cell(client, upstream, kind, fields) for row, fields in ROWS.items()}


def table(columns, rows, language):
    """A table of the page with `columns`, kind of upstream → row → cell."""
    head = ["Parameter", *columns]
    lines = [head, ["---"] * len(head), *([row, *(cells[row] for cells in columns.values())] for row in rows)]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return text if language == "en" else portuguese.table(text)


def section(columns, language):
    return (SECTION if language == "en" else SECTION_IN_PORTUGUESE) + table(columns, ROWS, language)
