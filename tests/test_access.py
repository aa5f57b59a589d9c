"""CHATAPI_AUTH: who is let in without a key, whose key is known, and what a refusal says."""

import hashlib

import pytest

from chatapi import create_app
from chatapi.access import FORWARDING, Access, Caller, is_local
from chatapi.errors import AccessError, InvalidApiKey, MissingApiKey
from chatapi.settings import Settings

KEY = "sk-the-right-one"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
KNOWN = Caller(key_id=DIGEST[:12])
RIGHT = f"Bearer {KEY}"
WRONG = "Bearer sk-another"
CHAT = "/api/chat/completions"


# --- the rule


@pytest.mark.parametrize(
    "auth, local, authorization, outcome",
    [
        ("auto", True, None, Caller()),
        ("auto", True, WRONG, Caller()),
        ("auto", True, "Basic dXNlcjp3b3Jk", Caller()),
        ("auto", True, RIGHT, KNOWN),
        ("auto", False, None, MissingApiKey),
        ("auto", False, "Basic dXNlcjp3b3Jk", MissingApiKey),
        ("auto", False, WRONG, InvalidApiKey),
        ("auto", False, RIGHT, KNOWN),
        ("required", True, None, MissingApiKey),
        ("required", True, WRONG, InvalidApiKey),
        ("required", True, RIGHT, KNOWN),
        ("required", False, None, MissingApiKey),
        ("required", False, RIGHT, KNOWN),
        ("off", True, None, Caller()),
        ("off", False, None, Caller()),
        ("off", False, WRONG, Caller()),
        ("off", False, RIGHT, KNOWN),
    ],
)
def test_who_is_let_in(auth, local, authorization, outcome):
    access = Access(auth, frozenset({DIGEST}))
    if isinstance(outcome, Caller):
        assert access.admit(authorization, local) == outcome
    else:
        with pytest.raises(outcome):
            access.admit(authorization, local)


@pytest.mark.parametrize("auth", ["auto", "required"])
def test_without_any_key_configured_nobody_from_outside_gets_in(auth):
    for authorization in (
        None,
        "Bearer ",
        WRONG,
        f"Bearer {DIGEST}",
        f"Bearer {hashlib.sha256(b'').hexdigest()}",
    ):
        with pytest.raises(AccessError):
            Access(auth, frozenset()).admit(authorization, local=False)


def test_a_digest_is_not_a_key():
    with pytest.raises(InvalidApiKey):
        Access("required", frozenset({DIGEST})).admit(f"Bearer {DIGEST}", local=False)


@pytest.mark.parametrize("authorization", [f"bearer {KEY}", f"BEARER {KEY}", f"Bearer   {KEY}", f" Bearer {KEY}  "])
def test_the_scheme_has_any_case_and_spaces_do_not_count(authorization):
    assert Access("required", frozenset({DIGEST})).admit(authorization, local=False) == KNOWN


@pytest.mark.parametrize(
    "authorization", [f"Bearer {KEY.upper()}", f"Bearer {KEY}x", f"Bearer {KEY} {KEY}", f"Bearer {KEY},"]
)
def test_a_key_is_compared_exactly(authorization):
    with pytest.raises(InvalidApiKey):
        Access("required", frozenset({DIGEST})).admit(authorization, local=False)


@pytest.mark.parametrize("error", [MissingApiKey, InvalidApiKey])
def test_refusals_name_the_scheme_and_are_401_in_every_dialect(error):
    with pytest.raises(error) as caught:
        Access("required", frozenset()).admit(None if error is MissingApiKey else WRONG, local=True)
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer ")
    assert (caught.value.status, caught.value.api_status) == (401, 401)
    assert "sk-another" not in caught.value.message


def test_a_key_is_not_kept_in_clear():
    caller = Access("required", frozenset({DIGEST})).admit(RIGHT, local=False)
    assert KEY not in repr(caller)


# --- who is local


@pytest.mark.parametrize(
    "address, local",
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),  # a loopback client of a server that listens on [::]
        ("10.0.0.5", False),
        ("192.168.1.2", False),
        ("203.0.113.9", False),
        ("::ffff:10.0.0.5", False),
        ("fe80::1", False),
        ("0.0.0.0", False),
        ("", False),
        (None, False),
        ("unix:", False),
        ("localhost", False),
        ("127.0.0.1, 10.0.0.5", False),
    ],
)
def test_local_is_a_loopback_address(address, local):
    assert is_local(address, "localhost:8000", {}) is local


@pytest.mark.parametrize(
    "host, local",
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LocalHost:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("chat.example", False),
        ("chat.example:8000", False),
        ("localhost.evil.example", False),
        ("evil.example/localhost", False),
        ("evil.example#@localhost", False),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.5:8000", False),
        ("0.0.0.0:8000", False),
        ("", False),
        ("[::1", False),
        ("[", False),
    ],
)
def test_local_is_a_loopback_host(host, local):
    """Or a page could have its own name point at 127.0.0.1."""
    assert is_local("127.0.0.1", host, {}) is local


@pytest.mark.parametrize(
    "origin, local",
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:8000", True),
        ("https://[::1]", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("https://evil.example:8000/localhost", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_local_is_a_loopback_origin(origin, local):
    assert is_local("127.0.0.1", "localhost:8000", {"Origin": origin}) is local


@pytest.mark.parametrize("name", FORWARDING)
def test_what_came_through_a_proxy_is_not_local(name):
    assert is_local("127.0.0.1", "localhost:8000", {name: "127.0.0.1"}) is False


def test_every_usual_forwarding_header_is_known():
    assert {"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} <= set(FORWARDING)


# --- through the application


@pytest.fixture(scope="module")
def gateways():
    """A client for each CHATAPI_AUTH. An empty object gets as far as validation, and no further."""
    return {
        auth: create_app(Settings(auth=auth, keys=frozenset({DIGEST}))).test_client()
        for auth in ("auto", "required", "off")
    }


def post(client, **environ):
    return client.post(CHAT, json={}, environ_overrides=environ)


LET_IN = 400  # the empty object was looked at


@pytest.mark.parametrize(
    "auth, environ, status",
    [
        ("auto", {}, LET_IN),
        ("auto", {"HTTP_AUTHORIZATION": WRONG}, LET_IN),
        ("auto", {"REMOTE_ADDR": "203.0.113.9"}, 401),
        ("auto", {"REMOTE_ADDR": "203.0.113.9", "HTTP_AUTHORIZATION": RIGHT}, LET_IN),
        ("auto", {"HTTP_HOST": "chat.example"}, 401),
        ("auto", {"HTTP_HOST": ""}, 401),
        ("auto", {"HTTP_ORIGIN": "https://evil.example"}, 401),
        ("auto", {"HTTP_ORIGIN": "http://localhost:8000"}, LET_IN),
        ("auto", {"HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 401),
        ("auto", {"HTTP_X_FORWARDED_FOR": ""}, 401),
        ("auto", {"HTTP_FORWARDED": "for=127.0.0.1"}, 401),
        ("auto", {"HTTP_X_REAL_IP": "127.0.0.1"}, 401),
        ("auto", {"HTTP_VIA": "1.1 proxy"}, 401),
        ("auto", {"HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_AUTHORIZATION": RIGHT}, LET_IN),
        ("required", {}, 401),
        ("required", {"HTTP_AUTHORIZATION": WRONG}, 401),
        ("required", {"HTTP_AUTHORIZATION": RIGHT}, LET_IN),
        ("off", {"REMOTE_ADDR": "203.0.113.9", "HTTP_HOST": "chat.example"}, LET_IN),
        ("off", {"HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_AUTHORIZATION": WRONG}, LET_IN),
    ],
)
def test_the_rule_holds_on_the_wire(gateways, auth, environ, status):
    response = post(gateways[auth], **environ)
    assert response.status_code == status
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


@pytest.mark.parametrize("path", [CHAT, "/api/huggingface-chat"])
@pytest.mark.parametrize("authorization, code", [(None, "missing_api_key"), (WRONG, "invalid_api_key")])
def test_a_refusal_is_an_envelope(gateways, path, authorization, code):
    headers = {"Authorization": authorization} if authorization else {}
    response = gateways["required"].post(path, json={}, headers=headers)
    assert response.status_code == 401
    body = response.get_json()
    assert body["success"] is False
    assert body["error"]["code"] == code
    assert body["error"]["retryable"] is False
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_who_may_not_call_does_not_learn_about_the_body(gateways):
    assert gateways["required"].post(CHAT, data=b"{", content_type="text/plain").status_code == 401


def test_liveness_needs_no_key(gateways):
    assert gateways["required"].get("/healthz").status_code == 200


ODD = {
    "empty": "",
    "only a scheme": "Bearer",
    "only a scheme and a space": "Bearer ",
    "only spaces": "   ",
    "no scheme": KEY,
    "a tab": f"Bearer\t{KEY}x",
    "another scheme": "Basic dXNlcjp3b3Jk",
    "broken base64": "Basic ====",
    "digest": 'Digest username="a", realm="b"',
    "10 kB": "Bearer " + "x" * 10_000,
    "a 10 kB scheme": "x" * 10_000,
    "bytes": "Bearer \xff\xfe\x80",
    "UTF-8": "Bearer ключ".encode().decode("latin-1"),
    "controls": "Bearer \x00\x01\x7f",
    "a comma": "Bearer a, Bearer b",
    "quotes": 'Bearer "x"',
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_odd_authorizations_are_refused_and_break_nothing(gateways, value):
    assert post(gateways["required"], HTTP_AUTHORIZATION=value).status_code == 401
    assert post(gateways["auto"], HTTP_AUTHORIZATION=value).status_code == LET_IN
    assert post(gateways["off"], HTTP_AUTHORIZATION=value).status_code == LET_IN
