"""Keys on the wire: who is let in, what refusals say, whose models may be asked, how soon a revocation is heard of."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import requests
from support import keys as shared
from support.dialects import LEGACY, RESPONSES, V1, asking, check_error
from support.dialects import NEW as CHAT
from support.gateways import flask, serve
from support.keys import DIGEST, KEY, RIGHT, WRONG, asked, away, bearer, closing, flood, made
from support.openai_schema import ERROR, check

from chatapi import create_app
from chatapi.accounting.keys import Keys
from chatapi.accounting.local_ledger import FOLD_S
from chatapi.settings import Settings

# Fixtures, under the names that tests ask for them by.
at_once = shared.at_once
keys = shared.keys
sql = shared.sql
url = shared.url


# --- through the application


@pytest.fixture(scope="module")
def gateways(tmp_path_factory):
    """A client for each CHATAPI_AUTH. An empty object gets as far as validation, and no further."""
    url = f"sqlite:///{tmp_path_factory.mktemp('gateways')}/chatapi.db"
    return {
        auth: create_app(Settings(auth=auth, keys=frozenset({DIGEST}), database_url=url)).test_client()
        for auth in ("auto", "required", "off")
    }


def post(client, **environ):
    return client.post(CHAT, json={}, environ_overrides=environ)


LET_IN = 400  # the empty object was looked at


@pytest.mark.parametrize(
    "auth, environ, status",
    [
        ("auto", {}, LET_IN),
        ("auto", {"REMOTE_ADDR": "203.0.113.9"}, 401),
        ("auto", {"HTTP_HOST": "chat.example"}, 401),
        ("auto", {"HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_AUTHORIZATION": RIGHT}, LET_IN),
        ("required", {"HTTP_AUTHORIZATION": WRONG}, 401),
        ("off", {"HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_AUTHORIZATION": WRONG}, LET_IN),
    ],
)
def test_the_rule_holds_on_the_wire(gateways, auth, environ, status):
    response = post(gateways[auth], **environ)
    assert response.status_code == status
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


def test_who_may_not_call_does_not_learn_about_the_body(gateways):
    assert gateways["required"].post(CHAT, data=b"{", content_type="text/plain").status_code == 401


SPELLED = [
    {"Authorization": RIGHT},
    {"Authorization": f"bearer  {KEY} "},
    {"x-api-key": KEY},
    {"api-key": KEY},
    {"X-API-KEY": RIGHT},
    {"Authorization": "Bearer ", "api-key": KEY},
]
MISSPELT = [{"Authorization": WRONG}, {"x-api-key": "sk-another"}, {"api-key": "sk-another"}]


@pytest.mark.parametrize("headers", [*SPELLED, *MISSPELT], ids=str)
def test_a_key_is_right_or_wrong_in_whichever_header(settings, upstream, headers):
    client = create_app(replace(settings, auth="required", keys=frozenset({DIGEST}))).test_client()
    for route in (CHAT, LEGACY, V1, RESPONSES):
        answer = client.post(route, json=asking(route, "test/ok"), headers=headers)
        assert answer.status_code == (200 if headers in SPELLED else 401), route
        if headers in MISSPELT:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            if route in (CHAT, LEGACY):
                check_error(answer, 401, "invalid_api_key", retryable=False)
            else:
                assert check(ERROR, answer.json)["error"]["code"] == "invalid_api_key"
    for path in ("/v1/models", "/v1/usage"):
        assert client.get(path, headers=headers).status_code == (200 if headers in SPELLED else 401)
    assert len(upstream.posts) == (4 if headers in SPELLED else 0)
    assert not any(KEY in value for call in upstream.posts for value in call.headers.values()), "none goes upstream"


# --- floods


def test_a_flood_of_bad_keys_over_http_asks_the_database_nothing(settings, url, sql):
    app = create_app(replace(settings, auth="required", database_url=url))
    client = app.test_client()
    _, text = made(app.extensions["chatapi"].keys)
    assert client.post(CHAT, json={}, headers={"Authorization": f"Bearer {text}"}).status_code == LET_IN
    assert sql
    time.sleep(2 * FOLD_S)  # that call is taken into the ledger
    app.extensions["chatapi"].accounts.flush()
    sql.clear()
    for guess in flood(text):
        if guess.isascii() and guess.strip() != text:
            for method, path in (("GET", "/v1/models"), ("GET", "/v1/usage"), ("GET", "/metrics"), ("POST", CHAT)):
                answer = client.open(path, method=method, headers={"Authorization": f"Bearer {guess}"})
                assert answer.status_code == 401
    assert sql == []


# --- the database is away


def test_a_call_while_the_database_is_away(settings, url, tmp_path, at_once):
    app = create_app(replace(settings, auth="required", database_url=url))
    parts, client = app.extensions["chatapi"], app.test_client()
    (_, known), (_, unknown) = made(parts.keys), made(parts.keys)
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {known}"}).status_code == 200
    with away(parts.store, tmp_path / "chatapi.db"):
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {known}"}).status_code == 200
        for path in (V1, CHAT, LEGACY):
            answer = client.post(path, json={}, headers={"Authorization": f"Bearer {unknown}"})
            assert (answer.status_code, answer.json["error"]["code"]) == (503, "store_unavailable")
            assert "WWW-Authenticate" not in answer.headers, "the key may be a good one"
        assert client.get("/v1/models", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {unknown}"}).status_code == 200


# --- models


@pytest.fixture
def limited(settings, url, upstream):
    """A client with a key for some models, and its headers."""
    app = create_app(replace(settings, auth="required", database_url=url))
    _, text = made(app.extensions["chatapi"].keys, models=["test/o*", "own/ok"])
    return app.test_client(), {"Authorization": f"Bearer {text}"}


FORBIDDEN = [
    {"model": "tgi/ok"},
    {"model": "TEST/ok"},
    {"model": "own/ok:fastest"},
    {"model": "tgi/ok", "stream": True},
    {"model": "test/ok", "fallbacks": ["tgi/ok"]},
    {"model": "test/ok", "fallbacks": ["own/ok", "nobody/nothing"], "stream": True},
]


@pytest.mark.parametrize("path", [CHAT, LEGACY, V1])
def test_other_models_are_forbidden_in_each_dialects_shape(limited, upstream, path):
    client, headers = limited
    for fields in FORBIDDEN:
        answer = client.post(path, json=asking(path, **fields), headers=headers)
        error = answer.json["error"]
        assert (answer.status_code, error["code"], error["retryable"]) == (403, "forbidden_model", False)
        named = fields.get("fallbacks", [fields["model"]])[-1]
        assert f"'{named}'" in error["message"]
        if path == V1:
            check(ERROR, answer.json)
            assert (error["type"], error["param"]) == ("permission_error", "model")
            assert answer.headers["x-should-retry"] == "false"
        else:
            assert answer.json["success"] is False
            assert error["details"].keys() == {"model"}
    assert upstream.calls == []


@pytest.mark.parametrize("path", [CHAT, LEGACY, V1])
def test_its_own_models_are_not(limited, path):
    client, headers = limited
    for fields in ({"model": "test/ok"}, {"model": "own/ok", "fallbacks": ["test/ok"]}):
        assert client.post(path, json=asking(path, **fields), headers=headers).status_code == 200


def test_the_default_model_is_no_way_around(limited):
    client, headers = limited
    assert client.post(LEGACY, json={"message": "hi"}, headers=headers).status_code == 403


def test_the_list_shows_what_the_key_may_use(limited):
    client, headers = limited
    shown = {model["id"] for model in client.get("/v1/models", headers=headers).json["data"]}
    assert "own/ok" in shown
    assert {id for id in shown if id != "own/ok" and not id.startswith("test/o")} == set()
    assert client.get("/v1/models/own/ok", headers=headers).status_code == 200
    for id in ("tgi/ok", "nobody/nothing"):  # whether it exists is not told
        answer = client.get(f"/v1/models/{id}", headers=headers)
        assert (answer.status_code, answer.json["error"]["code"]) == (403, "forbidden_model")


# --- in other processes


def test_a_revocation_reaches_every_worker_within_five_seconds(gateway_env, url, tmp_path):
    """Connections stay open, each at its worker: whose is whose is in the ledger."""
    env = {**gateway_env, "CHATAPI_AUTH": "required", "DATABASE_URL": url, "CHATAPI_KEYS": DIGEST}
    with closing(url) as of, serve(env, "-w", "2") as gateway:
        id, text = made(Keys(of))
        workers = set(map(str, gateway.workers()))
        sessions = {}

        def ask(number):
            session = sessions[number] = requests.Session()
            session.trust_env = False
            body = {"json": {}, "headers": bearer(text, f"n-{number}"), "timeout": 10}
            return session.post(gateway.url + CHAT, **body).status_code

        with ThreadPoolExecutor(8) as pool:  # side by side, or one quick worker might take them all
            for first in range(0, 160, 8):
                assert set(pool.map(ask, range(first, first + 8))) == {LET_IN}
                if {pid for pid, _ in asked(of)} == workers:
                    break
        at = dict(asked(of))
        assert at.keys() == workers, "a connection to each worker"
        revoked = flask(tmp_path, "keys", "revoke", id, "--json", **env)
        assert json.loads(revoked.stdout)["state"] == "revoked", revoked.stderr
        deadline = time.monotonic() + 5
        waiting = {pid: sessions[int(name.removeprefix("n-"))] for pid, name in at.items()}
        while waiting:
            for pid, session in list(waiting.items()):
                if session.post(gateway.url + CHAT, json={}, headers=bearer(text), timeout=10).status_code == 401:
                    del waiting[pid]
            assert time.monotonic() < deadline, f"{len(waiting)} workers still admit it"
            time.sleep(0.05)
        assert gateway.post(CHAT, {}, headers=bearer(KEY)).status_code == LET_IN, "keys of CHATAPI_KEYS are not touched"
        for session in sessions.values():
            session.close()
