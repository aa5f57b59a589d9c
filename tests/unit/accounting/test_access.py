"""CHATAPI_AUTH and the keys: who is let in without one, whose key opens and for how long, what a refusal says."""

import hashlib
import inspect
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import requests
import sqlalchemy as sa
from support.dialects import LEGACY, V1, asking
from support.dialects import NEW as CHAT
from support.gateways import clean_environment, serve
from support.heard import wait_until
from support.openai_schema import ERROR, check

from chatapi import create_app
from chatapi.accounting import keys as keys_module
from chatapi.accounting import tables
from chatapi.accounting.access import FORWARDING, Access, is_local, network
from chatapi.accounting.journal import FOLD_S
from chatapi.accounting.keys import Keys
from chatapi.accounting.store import Store
from chatapi.caller import NO_LIMITS, Caller, Limits
from chatapi.errors import AccessError, InvalidApiKey, MissingApiKey, StoreUnavailable
from chatapi.settings import Settings

KEY = "sk-the-right-one"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
KNOWN = Caller(key_id=DIGEST[:12], subject=f"key:{DIGEST[:12]}")
HERE, THERE = "127.0.0.1", "203.0.113.9"
RIGHT = f"Bearer {KEY}"
WRONG = "Bearer sk-another"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A database without a key in it."""
    with closing(f"sqlite:///{tmp_path_factory.mktemp('untouched')}/chatapi.db") as of:
        yield of


@contextmanager
def closing(url):
    of = Store(url)
    try:
        yield of
    finally:
        of.close()


def request_of(authorization, host="localhost:8000", **headers):
    """The headers of a request, as WSGI has them."""
    given = {"HTTP_HOST": host, "HTTP_AUTHORIZATION": authorization, **headers}
    return {name: value for name, value in given.items() if value is not None}


def nobody(address):
    return Caller(subject=f"address:{address}")


# --- the rule


@pytest.mark.parametrize(
    "auth, local, authorization, outcome",
    [
        ("auto", True, None, nobody(HERE)),
        ("auto", True, WRONG, nobody(HERE)),
        ("auto", True, "Basic dXNlcjp3b3Jk", nobody(HERE)),
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
        ("off", True, None, nobody(HERE)),
        ("off", False, None, nobody(THERE)),
        ("off", False, WRONG, nobody(THERE)),
        ("off", False, RIGHT, KNOWN),
    ],
)
def test_who_is_let_in(untouched, auth, local, authorization, outcome):
    access = Access(auth, frozenset({DIGEST}), Keys(untouched), NO_LIMITS)
    asked, address = request_of(authorization), HERE if local else THERE
    if isinstance(outcome, Caller):
        assert access.authenticate(asked, address) == outcome
    else:
        with pytest.raises(outcome):
            access.authenticate(asked, address)


@pytest.mark.parametrize("auth", ["auto", "required"])
def test_without_any_key_configured_nobody_from_outside_gets_in(untouched, auth):
    for authorization in (
        None,
        "Bearer ",
        WRONG,
        f"Bearer {DIGEST}",
        f"Bearer {hashlib.sha256(b'').hexdigest()}",
    ):
        with pytest.raises(AccessError):
            Access(auth, frozenset(), Keys(untouched), NO_LIMITS).authenticate(request_of(authorization), THERE)


@pytest.fixture
def required(untouched):
    return Access("required", frozenset({DIGEST}), Keys(untouched), NO_LIMITS)


@pytest.mark.parametrize("authorization", [f"bearer {KEY}", f"BEARER {KEY}", f"Bearer   {KEY}", f" Bearer {KEY}  "])
def test_the_scheme_has_any_case_and_spaces_do_not_count(required, authorization):
    assert required.authenticate(request_of(authorization), THERE) == KNOWN


@pytest.mark.parametrize(
    "authorization", [f"Bearer {KEY.upper()}", f"Bearer {KEY}x", f"Bearer {KEY} {KEY}", f"Bearer {KEY},"]
)
def test_a_key_is_compared_exactly(required, authorization):
    with pytest.raises(InvalidApiKey):
        required.authenticate(request_of(authorization), THERE)


@pytest.mark.parametrize("error", [MissingApiKey, InvalidApiKey])
def test_refusals_name_the_scheme_and_are_401_in_every_dialect(untouched, error):
    with pytest.raises(error) as caught:
        access = Access("required", frozenset(), Keys(untouched), NO_LIMITS)
        access.authenticate(request_of(None if error is MissingApiKey else WRONG), HERE)
    assert caught.value.headers["WWW-Authenticate"].startswith("Bearer ")
    assert (caught.value.status, caught.value.api_status) == (401, 401)
    assert "sk-another" not in caught.value.message


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
    assert is_local(address, request_of(None)) is local


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
        ("x@127.0.0.1", False),
        ("evil.example@localhost:8000", False),
        ("[::1", False),
        ("[", False),
    ],
)
def test_local_is_a_loopback_host(host, local):
    """Or a page could have its own name point at 127.0.0.1."""
    assert is_local("127.0.0.1", {"HTTP_HOST": host}) is local


@pytest.mark.parametrize(
    "origin, local",
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:8000", True),
        ("https://[::1]", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("https://evil.example:8000/localhost", False),
        ("http://evil.example@127.0.0.1", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_local_is_a_loopback_origin(origin, local):
    assert is_local("127.0.0.1", request_of(None, HTTP_ORIGIN=origin)) is local


MARKS = [*FORWARDING, *(f"X-Forwarded-{what}" for what in ("For", "Host", "Proto", "Port", "Server", "Prefix", "By"))]


@pytest.mark.parametrize("name", MARKS)
@pytest.mark.parametrize("value", ["127.0.0.1", ""])
def test_what_came_through_a_proxy_is_not_local(name, value):
    asked = request_of(None, **{"HTTP_" + name.upper().replace("-", "_"): value})
    assert is_local("127.0.0.1", asked) is False


@pytest.mark.parametrize(
    "site, local", [("cross-site", False), ("same-site", False), ("same-origin", True), ("none", True)]
)
def test_a_page_of_another_site_is_not_local(site, local):
    assert is_local("127.0.0.1", request_of(None, HTTP_SEC_FETCH_SITE=site)) is local


@pytest.mark.parametrize(
    "headers, key",
    [
        ({"HTTP_X_API_KEY": KEY}, True),
        ({"HTTP_API_KEY": KEY}, True),
        ({"HTTP_X_API_KEY": f" {KEY} "}, True),
        ({"HTTP_AUTHORIZATION": "Basic dXNlcjp3b3Jk", "HTTP_X_API_KEY": KEY}, True),
        ({"HTTP_AUTHORIZATION": WRONG, "HTTP_X_API_KEY": KEY}, False),
        ({"HTTP_X_API_KEY": "sk-another"}, False),
        ({"HTTP_API_KEY": DIGEST}, False),
    ],
)
def test_a_key_may_come_in_any_of_three_headers(required, headers, key):
    if key:
        assert required.authenticate(headers, THERE) == KNOWN
    else:
        with pytest.raises(InvalidApiKey):
            required.authenticate(headers, THERE)


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
    "only a scheme": "Bearer",
    "no scheme": KEY,
    "10 kB": "Bearer " + "x" * 10_000,
    "bytes": "Bearer \xff\xfe\x80",
    "controls": "Bearer \x00\x01\x7f",
    "a comma": "Bearer a, Bearer b",
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_odd_authorizations_are_refused_and_break_nothing(gateways, value):
    assert post(gateways["required"], HTTP_AUTHORIZATION=value).status_code == 401
    assert post(gateways["auto"], HTTP_AUTHORIZATION=value).status_code == LET_IN
    assert post(gateways["off"], HTTP_AUTHORIZATION=value).status_code == LET_IN


# --- whom an address stands for


@pytest.mark.parametrize(
    "address, stands_for",
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "-"),
        (None, "-"),
        ("unix:", "-"),
        ("203.0.113.9:443", "203.0.113.9"),
        ("' OR 1=1 --", "-"),
    ],
)
def test_whom_an_address_stands_for(address, stands_for):
    assert network(address) == stands_for


# --- keys from the database

SECRET = slice(19, 51)  # of a key's text: `chatapi_` + id + `_` + secret + tag


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/chatapi.db"


@pytest.fixture
def keys(url, sql):
    with closing(url) as of:
        yield Keys(of)


@pytest.fixture
def other(url):
    """The same keys as another process has them: what `keys` remembers is unknown here."""
    with closing(url) as of:
        yield Keys(of)


def holder(keys, text):
    """Whom a key's text belongs to."""
    found = keys.holder(text)
    return found[0] if found else None


def made(keys, name="a", limits=NO_LIMITS, models=(), expires_at=None):
    """A new key: (id, text)."""
    row, text = keys.create(name, limits, models, expires_at)
    return row["id"], text


@pytest.fixture
def at_once(monkeypatch):
    """Changes by others are looked for at every call. That it takes no longer than 5 s is shown under gunicorn."""
    monkeypatch.setattr(keys_module, "CHECK_S", 0.0)


@pytest.fixture
def sql():
    """All SQL that SQLite is given from here on: seen by SQLite itself, whichever layers it came through."""
    told = []

    def trace(connection, record):
        connection.set_trace_callback(told.append)

    sa.event.listen(sa.Engine, "connect", trace)
    yield told
    sa.event.remove(sa.Engine, "connect", trace)


def test_a_new_key_opens_with_its_limits_and_models(keys):
    limits = Limits(rpm=5, tpd=1000, shadow=("tpd",))
    id, text = made(keys, limits=limits, models=["test/*"])
    assert re.fullmatch(r"chatapi_[a-z2-7]{10}_[a-z2-7]{42}", text)
    assert holder(keys, text) == Caller(id, f"key:{id}", limits, ("test/*",), key_name="a")


def swapped(text, place):
    """`text` with another letter of the alphabet at `place`."""
    return text[:place] + ("a" if text[place] != "a" else "b") + text[place + 1 :]


NOT_QUITE = {
    "another id": lambda a, b: b[:19] + a[19:],
    "another key's tail": lambda a, b: a[:19] + b[19:],
    "another key's tag": lambda a, b: a[:51] + b[51:],
    "one letter of the id": lambda a, b: swapped(a, 9),
    "one letter of the secret": lambda a, b: swapped(a, 30),
    "one letter of the tag": lambda a, b: swapped(a, 60),
    "cut": lambda a, b: a[:-1],
    "longer": lambda a, b: a + "a",
    "twice": lambda a, b: a + a,
    "without its tag": lambda a, b: a[:51],
    "without its name": lambda a, b: a.removeprefix("chatapi_"),
    "capitals": lambda a, b: a.upper(),
    "one capital": lambda a, b: a[:30] + re.sub("[a-z]", lambda found: found[0].upper(), a[30:], count=1),
    "a line break at its end": lambda a, b: a + "\n",
    "a blank inside": lambda a, b: a[:30] + " " + a[30:],
    "full-width letters": lambda a, b: a[:-1] + "ａ",
    "the id alone": lambda a, b: a[8:18],
    "the digest": lambda a, b: hashlib.sha256(a.encode()).hexdigest(),
    "none": lambda a, b: "",
}


@pytest.mark.parametrize("change", NOT_QUITE.values(), ids=NOT_QUITE)
def test_what_is_not_quite_a_key_does_not_open(keys, change):
    (_, a), (_, b) = made(keys), made(keys)
    assert holder(keys, a) and holder(keys, b)
    assert change(a, b) not in (a, b)
    assert holder(keys, change(a, b)) is None


def test_a_tag_made_for_another_database_does_not_open(keys, tmp_path):
    with closing(f"sqlite:///{tmp_path}/another.db") as of:
        _, text = made(Keys(of))
    assert holder(keys, text) is None


def test_a_key_with_a_right_tag_and_a_wrong_secret_does_not_open(keys):
    """Who has read the tag's secret from a stolen database can make tags, and still has no key."""
    id, text = made(keys)
    guess = "a" * 32
    forged = f"chatapi_{id}_{guess}{keys._tag(id, guess)}"
    assert holder(keys, text)
    assert holder(keys, forged) is None


def test_a_revoked_key_opens_nowhere(keys, other, at_once):
    id, text = made(keys)
    assert holder(keys, text) and holder(other, text)
    assert other.revoke(id)["revoked_at"] == pytest.approx(time.time(), abs=5)
    assert holder(keys, text) is None
    assert holder(other, text) is None
    for change in (keys.revoke, lambda id: keys.rotate(id, 60)):
        with pytest.raises(LookupError, match="revoked"):
            change(id)


def test_a_key_expires_while_it_is_remembered(keys):
    _, text = made(keys, expires_at=time.time() + 1.5)
    assert holder(keys, text)
    assert wait_until(lambda: holder(keys, text) is None)


def test_rotation_leaves_both_open_and_then_the_new_one(keys, other, at_once):
    limits = Limits(rpm=7, shadow=("rpm",))
    id, old = made(keys, limits=limits, models=["a/*"])
    before = holder(keys, old)
    row, new = other.rotate(id, 0.5)
    assert (row["id"], new[8:18]) == (id, id)
    assert new != old
    for text in (old, new):
        assert holder(keys, text) == before, "id, limits and models stay"
    time.sleep(0.55)
    assert holder(keys, old) is None
    assert holder(keys, new) == before


def test_rotation_without_grace_closes_the_old_one_at_once(keys, at_once):
    id, old = made(keys)
    _, new = keys.rotate(id, 0)
    assert holder(keys, old) is None
    assert holder(keys, new)


def test_the_key_before_the_last_but_one_is_closed(keys, at_once):
    id, first = made(keys)
    _, second = keys.rotate(id, 60)
    _, third = keys.rotate(id, 60)
    assert [bool(holder(keys, text)) for text in (first, second, third)] == [False, True, True]


def test_revocation_closes_the_old_key_in_its_grace_too(keys, at_once):
    id, old = made(keys)
    _, new = keys.rotate(id, 60)
    keys.revoke(id)
    assert holder(keys, old) is None
    assert holder(keys, new) is None


def test_a_key_made_elsewhere_opens_at_once(keys, other):
    assert holder(keys, made(keys)[1])
    assert holder(keys, made(other)[1]), "without waiting for the next look at what was changed"


def test_a_revocation_is_not_undone_by_a_rotation_that_began_before_it(keys, tmp_path):
    """Two operators at once: the rotation has looked at the key, and before it writes, the other has revoked it."""
    id, _ = made(keys)
    with closing_sqlite(tmp_path / "chatapi.db") as revoking, ThreadPoolExecutor(1) as pool:
        revoking.execute("BEGIN IMMEDIATE")
        rotating = pool.submit(keys.rotate, id, 60)
        time.sleep(0.3)  # it waits for the lock
        revoking.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (time.time(), id))
        revoking.execute("UPDATE meta SET value = '99' WHERE name = 'keys_version'")
        revoking.execute("COMMIT")
        failure = rotating.exception(timeout=5)
    assert keys.show(id)["revoked_at"]
    with pytest.raises(LookupError, match="revoked"):
        raise failure or AssertionError("it was told that it has a new key")


@contextmanager
def closing_sqlite(path):
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


# --- floods


def flood(text):
    """Guesses of every kind that have no right tag."""
    made_up = [f"chatapi_{keys_module._random(10)}_{keys_module._random(42)}" for _ in range(50)]
    yield from made_up
    yield from (change(text, made_up[0]) for change in NOT_QUITE.values())


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


def test_a_flood_of_bad_keys_needs_no_database(keys, tmp_path):
    _, text = made(keys)
    assert holder(keys, text)
    with away(keys._store, tmp_path / "chatapi.db"):
        assert [guess for guess in flood(text) if holder(keys, guess)] == []


def test_a_key_that_was_deleted_is_remembered_as_gone(keys, sql):
    id, text = made(keys)
    keys._store.write(lambda tx: tx.execute(tables.keys.delete().where(tables.keys.c.id == id)))
    assert holder(keys, text) is None
    sql.clear()
    for _ in range(50):
        assert holder(keys, text) is None
    assert sql == []


def test_what_is_remembered_is_bounded(keys, monkeypatch):
    monkeypatch.setattr(keys_module, "REMEMBERED", 10)
    texts = [made(keys)[1] for _ in range(25)]
    for text in texts:
        assert holder(keys, text)
        assert len(keys._known) <= 10
    assert holder(keys, texts[0])


def test_digests_are_compared_in_constant_time():
    source = inspect.getsource(keys_module)
    assert source.count("hmac.compare_digest(") >= 3  # the tag, the digest, the digest before the rotation
    assert re.findall(r".*(?:digest|tag|secret|found)\w*[\"\])]* *[!=]= .*", source) == []


# --- what the database holds


def files_of(directory):
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file())


def test_neither_a_key_nor_its_secret_is_in_the_database(keys, tmp_path):
    id, old = made(keys, name="in-clear")
    _, new = keys.rotate(id, 60)
    assert holder(keys, old) and holder(keys, new)
    held = files_of(tmp_path)
    assert id.encode() in held and b"in-clear" in held, "this is where keys are"
    for text in (old, new):
        for part in (text, text[SECRET], text[19:], text[-10:]):
            for written in (part.encode(), part.encode().hex().encode()):
                assert written not in held
        for plain in (hashlib.sha256(text.encode()), hashlib.sha256(text[SECRET].encode())):
            assert plain.hexdigest().encode() not in held, "a digest without the database's own secret"


def test_a_key_is_in_no_repr(keys):
    _, text = made(keys)
    shown = repr(holder(keys, text)) + repr(keys.list()) + repr(vars(keys))
    assert text[SECRET] not in shown


def test_last_use_is_recorded(settings, url, upstream):
    app = create_app(replace(settings, auth="required", database_url=url))
    keys = app.extensions["chatapi"].keys
    id, text = made(keys)
    unused, _ = made(keys)
    body = {"model": "test/ok", "messages": [{"role": "user", "content": "hi"}]}
    assert keys.show(id)["last_used_at"] is None
    assert app.test_client().post(V1, json=body, headers={"Authorization": f"Bearer {text}"}).status_code == 200
    assert keys.show(id)["last_used_at"] == pytest.approx(time.time(), abs=5)
    assert keys.show(unused)["last_used_at"] is None


# --- the database is away


@contextmanager
def away(of, path):
    """The database's file cannot be opened meanwhile; a folder in its place keeps SQLite from making a new one."""
    of.close()
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    try:
        yield
    finally:
        of.close()
        path.rmdir()
        path.with_suffix(".away").rename(path)


def test_known_keys_open_while_the_database_is_away(keys, at_once, tmp_path):
    (_, known), (_, unknown) = made(keys), made(keys)
    assert holder(keys, known)
    with away(keys._store, tmp_path / "chatapi.db"):
        assert holder(keys, known)
        with pytest.raises(StoreUnavailable):
            holder(keys, unknown)
        assert holder(keys, known), "still"
    assert holder(keys, unknown)


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


# --- many keys


def test_a_hundred_thousand_keys_cost_no_more_than_ten(keys, at_once, sql):
    texts = [made(keys)[1] for _ in range(10)]
    few = cost(keys, texts, sql)
    assert few, "or nothing was counted"
    names = ", ".join(column.name for column in tables.keys.c if column.name != "id")
    more = f"INSERT INTO keys (id, {names}) SELECT 'key' || i, {names} FROM numbers, keys WHERE id = ?"
    numbers = "WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 100000)"
    keys._store.write(lambda tx: tx.exec_driver_sql(f"{numbers} {more}", (texts[0][8:18],)))
    assert keys._store.read(lambda tx: tx.exec_driver_sql("SELECT count(*) FROM keys").scalar()) == 100_010
    keys._known.clear()
    assert cost(keys, texts, sql) == few
    for statement in few:
        plan = keys._store.read(lambda tx, of=statement: tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {of}").fetchall())
        assert re.fullmatch(r"SEARCH \w+ USING INDEX \S+ \(\w+=\?\)", plan[0][-1]), plan


def cost(keys, texts, sql):
    """The statements for the first and the second use of each key, and how often each of them is run."""
    sql.clear()
    for text in [*texts, *texts]:
        assert holder(keys, text)
    return Counter(re.sub(r"\s+", " ", statement) for statement in sql)


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
    """Connections stay open, each at its worker: whose is whose is in the books."""
    env = {**gateway_env, "CHATAPI_AUTH": "required", "DATABASE_URL": url, "CHATAPI_KEYS": DIGEST}
    with closing(url) as of, serve(env, "-w", "2") as gateway:
        id, text = made(Keys(of))
        workers = set(map(str, gateway.workers()))
        sessions = {}
        for number in range(100):
            session = sessions[number] = requests.Session()
            session.trust_env = False
            answer = session.post(gateway.url + CHAT, json={}, headers=bearer(text, f"n-{number}"), timeout=10)
            assert answer.status_code == LET_IN
            if {pid for pid, _ in asked(of)} == workers:
                break
        at = dict(asked(of))
        assert at.keys() == workers, "a connection to each worker"
        revoked = flask("keys", "revoke", id, "--json", cwd=tmp_path, env=env)
        assert json.loads(revoked)["state"] == "revoked"
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


def bearer(text, request_id="-"):
    return {"Authorization": f"Bearer {text}", "X-Request-Id": request_id}


def asked(store):
    """(process, request id) of every call in the books."""
    rows = store.read(lambda tx: tx.execute(sa.select(tables.calls.c.owner, tables.calls.c.request_id)).all())
    return [(owner.split(" ")[3], name) for owner, name in rows]


def flask(*words, cwd, env):
    """What the command line says, as operators start it."""
    command = [sys.executable, "-m", "flask", "--app", "wsgi", *words]
    env = {**clean_environment(str(cwd)), **env}
    return subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True, timeout=30).stdout
