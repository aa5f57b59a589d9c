"""Which rule a request has: what is remembered of it is what a look would find."""

import pytest

from chatapi import create_app
from chatapi.schemas import DIALECTS
from chatapi.web.errors import dialect_of


@pytest.fixture
def client(monkeypatch, tmp_path):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'chatapi.db'}")
    return create_app().test_client()


def test_a_second_request_is_answered_as_the_first(client):
    for _again in range(2):
        assert client.get("/healthz").json == {"status": "ok"}
        assert client.get("/v1/models/a/b").json["error"]["code"] == "model_not_found"
        assert client.get("/v1/models/c/d").json["error"]["message"].count("c/d") == 1
        refused = client.get("/v1/chat/completions")
        assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
        assert client.get("/no/such").status_code == 404


def test_what_a_route_allows_is_told_again(client):
    for _again in range(2):
        allowed = client.options("/v1/chat/completions").headers["Allow"]
        assert set(allowed.split(", ")) == {"POST", "OPTIONS"}


def test_errors_of_a_route_are_told_in_its_own_dialect():
    assert [dialect_of(dialect.path) for dialect in DIALECTS] == list(DIALECTS)
    assert [dialect_of(f"/{dialect.path}//") for dialect in DIALECTS] == list(DIALECTS)
