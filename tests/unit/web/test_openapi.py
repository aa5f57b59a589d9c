"""The OpenAPI document: valid, of every route, and true to schemas, views and errors."""

import json
import re

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from support.faulty_bodies import FAULTS, IDS, ROWS, faulty
from support.jobs import DIALECTS, MINIMAL

from chatapi.errors import error_classes

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


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_a_request_has_the_fields_and_ranges_of_its_schema(document, dialect):
    name, schema = dialect.request
    properties = document["components"]["schemas"][name]["properties"]
    fields = schema._declared_fields
    assert properties.keys() == fields.keys()
    temperature = properties["temperature"]
    assert (temperature["minimum"], temperature["maximum"]) == (fields["temperature"].low, fields["temperature"].high)
    assert all("type" in p for p in properties.values())


@pytest.fixture
def allows(document):
    """Whether the document allows a body of a dialect."""

    def allow(dialect, body):
        schema = document["components"]["schemas"][DIALECTS[dialect].request[0]]
        return Draft202012Validator({**schema, "components": document["components"]}).is_valid(body)

    return allow


def is_beyond(path, value):
    """What JSON Schema does not say: it takes 5.0 for an integer, and sees neither words nor other tools."""
    if path == "messages":
        return isinstance(value, list) and value != []
    if path == "tool_choice":
        return isinstance(value, dict) and value.get("type") == "allowed_tools"
    number = type(value) is float and value.is_integer()
    return number or path == "parameters"


@pytest.mark.parametrize("dialect, path, values", ROWS, ids=IDS)
def test_the_document_refuses_what_the_gateway_refuses(allows, dialect, path, values):
    for value in values:
        assert allows(dialect, faulty(dialect, path, value)) is is_beyond(path, value), value


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_the_document_allows_is_answered(client, upstream, allows, dialect):
    nulls = {path.partition(".")[0] for path in FAULTS["responses"]} - {"input"} if dialect == "responses" else ()
    for beside in ({}, dict.fromkeys(nulls)):
        body = {**MINIMAL[dialect], **beside, "model": "test/ok"}
        assert allows(dialect, body)
        assert client.post(DIALECTS[dialect].path, json=body).status_code == 200


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
