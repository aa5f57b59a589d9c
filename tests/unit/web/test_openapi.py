"""The OpenAPI document: valid, of every route, and true to schemas, views and errors."""

import json
import re

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from chatapi.errors import error_classes
from chatapi.schemas import DIALECTS

PAGES = {"/", "/docs", "/docs/<name>", "/dashboard", "/openapi.json"}
OURS = ("/static/", "/playground/", "/dashboard/data/", "/v1/responses/", "/v1/probe")  # for our own pages, or refused


@pytest.fixture
def document(client):
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json


def test_it_is_valid(document):
    validate(document)
    assert document["openapi"] == "3.1.0"


def test_it_has_every_route_for_programs(app, document):
    rules = {rule.rule for rule in app.url_map.iter_rules()} - PAGES
    routes = {rule.replace("<path:model>", "{model}") for rule in rules if not rule.startswith(OURS)}
    assert document["paths"].keys() == routes


def test_each_status_has_a_number(document):
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert all(status.isdigit() for status in operation["responses"]), path
            assert operation["summary"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)
def test_a_request_has_the_fields_and_ranges_of_its_schema(document, dialect):
    name, schema = dialect.request
    properties = document["components"]["schemas"][name]["properties"]
    fields = schema._declared_fields
    assert properties.keys() == fields.keys()
    temperature = properties["temperature"]
    assert (temperature["minimum"], temperature["maximum"]) == (fields["temperature"].low, fields["temperature"].high)
    assert all("type" in p for p in properties.values())


FUNCTION = {"type": "function", "name": "f"}


IMAGE = {"type": "input_image", "file_id": "f", "image_url": "data:,"}
TYPED = {"reasoning": {"effort": 1}, "include": [1], "metadata": {"a": 1}, "truncation": "most", "background": True}
REFUSED = [
    *({"input": items} for items in ([], [{"type": "nothing"}], [{"type": "reasoning"}])),
    *({"input": [{"role": "tool", "content": "x"}]}, {"input": [{"type": "item_reference", "id": "x"}]}),
    *({"input": [{"role": "user", "content": [part]}]} for part in ({"type": "input_text"}, IMAGE)),
    {"input": [{"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"}]},
    {"input": [{"type": "function_call_output", "output": "x"}]},
    *({"tool_choice": c, "tools": [FUNCTION]} for c in ("sometimes", {"type": "web_search"}, {"type": "function"})),
    {"tool_choice": {"type": "allowed_tools", "mode": "none", "tools": []}, "tools": [FUNCTION]},
    *({"tools": [{"type": "web_search"}]}, {"tools": [{"type": "function", "parameters": {}}]}),
    *({"text": {"format": {"type": "json_schema", "name": "n"}}}, {"text": {"verbosity": 1}}),
    *({name: value} for name, value in TYPED.items()),
    {"previous_response_id": "resp_1"},
]


@pytest.mark.parametrize("given", REFUSED, ids=json.dumps)
def test_the_document_refuses_of_responses_what_the_gateway_refuses(client, upstream, document, given):
    schema = {**document["components"]["schemas"]["ResponsesRequest"], "components": document["components"]}
    body = {"model": "test/ok", "input": "hi", **given}
    assert not Draft202012Validator(schema).is_valid(body)
    assert client.post("/v1/responses", json=body).status_code == 400
    without = {"input": "hi"} if "input" in given else dict.fromkeys(given)
    assert Draft202012Validator(schema).is_valid({**body, **without})
    assert client.post("/v1/responses", json={**body, **without}).status_code == 200


def test_every_code_says_when_it_is_met_and_what_to_do():
    for kind in error_classes():
        assert kind.meaning.endswith(".") and kind.cure.endswith("."), kind.code
    codes = [kind.code for kind in error_classes()]
    assert len(codes) == len(set(codes)) == 24


def test_it_speaks_portuguese(client):
    english = client.get("/openapi.json").json["info"]["description"]
    portuguese = client.get("/openapi.json", headers={"Accept-Language": "pt"})
    assert portuguese.headers["Content-Language"] == "pt-BR"
    assert portuguese.json["info"]["description"] != english


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat/completions"])
def test_its_examples_are_answered(client, upstream, document, path):
    example = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    upstream.behave(example["model"], "ok")
    answer = client.post(path, data=json.dumps(example), content_type="application/json")
    assert answer.status_code == 200
    declared = document["paths"][path]["post"]["responses"]["200"]["headers"]
    standard = {"Content-Type", "Content-Length"}
    assert {name.lower() for name in set(answer.headers.keys()) - standard} <= {name.lower() for name in declared}


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_the_pictures_of_a_guide_come_with_its_page(client, language):
    page = client.get("/docs/performance", headers={"Accept-Language": language}).text
    sources = re.findall(r'<img src="([^"]{30})[^"]*" alt="[^"]+"', page)
    assert sources == ["data:image/png;base64,iVBORw0K"]
