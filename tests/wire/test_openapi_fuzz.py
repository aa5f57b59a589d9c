"""The OpenAPI document, held against the gateway: what it takes, what it answers, with which statuses and headers."""

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.gateways import keyed, serve

from chatapi.schemas import DIALECTS
from chatapi.settings import is_model_id
from chatapi.web.openapi import PREVIEW, READ

KEY = "sk-the-key"
KEYS = [KEY] * 9 + ["sk-wrong"]
# Whose behaviours at the upstream have an outcome each of their own; none of them waits.
MODELS = [
    *("test/ok", "test/ok", "test/echo", "test/tool-calls", "test/reasoning", "test/quirk-refusal"),
    *("test/err-bad-token", "test/err-gated", "test/err-depleted", "test/err-validation"),
    *("test/err-context-length", "test/err-too-large", "test/content-filter", "test/gone", "test/loading"),
    *("test/rate-bare", "test/http500", "test/reset", "test/body-html", "test/cut", "test/error-first"),
    *("nobody/has-this",),
]
EXAMPLES = 25  # of each operation
# A message's own, and the connection's.
STANDARD = {"content-type", "content-length", "connection", "date", "server", "transfer-encoding"}


@pytest.fixture(scope="module")
def locked(gateway_env):
    with serve({**gateway_env, **keyed(KEY)}) as running:
        yield running


@pytest.fixture(scope="module")
def document(locked):
    return schemathesis.openapi.from_dict(locked.request("GET", "/openapi.json").json())


def no_undocumented_header(ctx, response, case):
    """Every header is declared for its status."""
    found = case.operation.responses.find_by_status_code(response.status_code)
    declared = {name.lower() for name, _header in found.headers.items()} if found else set()
    unknown = set(response.headers) - STANDARD - declared
    assert not unknown, f"undocumented headers: {', '.join(sorted(unknown))}"


def no_fault_of_ours(ctx, response, case):
    """Whatever is asked, the code does not break: other 5xx tell of the upstream."""
    assert b'"internal_error"' not in response.content, response.text


CHECKS = [
    no_fault_of_ours,
    no_undocumented_header,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["taken", "refused"])
@pytest.mark.parametrize("path", [*(dialect.path for dialect in DIALECTS), PREVIEW, *READ])
def test_the_gateway_keeps_to_its_document(document, locked, upstream, path, mode):
    operation = document[path]["GET" if path in READ else "POST"]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
        pytest.skip("nothing can be wrong with it")

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES, phases=(hypothesis.Phase.generate,), suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode), st.sampled_from(MODELS), st.sampled_from(KEYS))
    def ask(case, model, key):
        body = case.body
        if isinstance(body, dict) and isinstance(named := body.get("model"), str) and is_model_id(named):
            body["model"] = model  # else nearly all would name a model that nobody has
        headers = {"Authorization": f"Bearer {key}"}
        case.call_and_validate(base_url=locked.url, headers=headers, checks=CHECKS, timeout=20)

    ask()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_body_that_fits_its_schema_is_taken(document, locked, upstream, path):
    operation = document[path]["POST"]

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES, phases=(hypothesis.Phase.generate,), suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    def ask(case):
        # The schema allows a millionth of a second, and a million choices; nobody answers in that.
        body = whole({**case.body, "model": "test/ok", "max_time": 20})
        body |= {"n": 2} if body.get("n") else {}
        if isinstance(body.get("tool_choice"), dict) and body["tool_choice"].get("type") == "allowed_tools":
            del body["tool_choice"]  # that it names some of the tools is more than a schema says
        answer = locked.post(path, body, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200, answer.text

    ask()


def whole(value):
    """For JSON Schema 5.0 is an integer; here it is none, which no schema can say."""
    if isinstance(value, dict):
        return {name: whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
