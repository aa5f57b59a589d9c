"""CHATAPI_AUTH and the keys: who is let in without one, whose key opens and for how long, what a refusal says."""

import contextlib
import hashlib
import inspect
import re
import sqlite3
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
from support import keys as shared
from support.keys import DIGEST, KEY, NOT_QUITE, RIGHT, WRONG, away, closing, flood, made, nobody
from support.stores import files_of
from support.tables import raised, rows

from chatapi.accounting import access as access_module
from chatapi.accounting import keys as keys_module
from chatapi.accounting import tables
from chatapi.accounting.access import FORWARDING, Access, is_local, network
from chatapi.accounting.keys import Keys
from chatapi.caller import NO_LIMITS, Caller, Limits
from chatapi.errors import AccessError, InvalidApiKey, MissingApiKey, StoreUnavailable

KNOWN = Caller(key_id=DIGEST[:12], subject=f"key:{DIGEST[:12]}")
HERE, THERE = "127.0.0.1", "203.0.113.9"
# Fixtures, under the names that tests ask for them by.
at_once = shared.at_once
keys = shared.keys
required = shared.required
sql = shared.sql
untouched = shared.untouched
url = shared.url


def request_of(authorization, host="localhost:8000", **headers):
    """The headers of a request, as WSGI has them."""
    given = {"HTTP_HOST": host, "HTTP_AUTHORIZATION": authorization, **headers}
    return {name: value for name, value in given.items() if value is not None}


# --- the rule


BASIC = "Basic dXNlcjp3b3Jk"
LET_IN = {  # who calls, or the refusal → CHATAPI_AUTH, from where, with what
    KNOWN: [*((auth, address, RIGHT) for auth in ("auto", "required", "off") for address in (HERE, THERE))],
    nobody(HERE): [("auto", HERE, None), ("auto", HERE, WRONG), ("auto", HERE, BASIC), ("off", HERE, None)],
    nobody(THERE): [("off", THERE, None), ("off", THERE, WRONG)],
    MissingApiKey: [("required", HERE, None), ("required", THERE, None), ("auto", THERE, None), ("auto", THERE, BASIC)],
    InvalidApiKey: [("auto", THERE, WRONG), ("required", HERE, WRONG)],
}


@pytest.mark.parametrize("auth, address, authorization, outcome", rows(LET_IN))
def test_who_is_let_in(untouched, auth, address, authorization, outcome):
    access, asked = Access(auth, frozenset({DIGEST}), Keys(untouched), NO_LIMITS), request_of(authorization)
    if isinstance(outcome, Caller):
        assert access.authenticate(asked, address) == outcome
        return
    error = raised(outcome, access.authenticate, asked, address)
    assert error.headers["WWW-Authenticate"].startswith("Bearer ")
    assert (error.status, error.api_status) == (401, 401), "in every dialect"
    assert "sk-another" not in error.message


@pytest.mark.parametrize("auth", ["auto", "required"])
def test_without_any_key_configured_nobody_from_outside_gets_in(untouched, auth):
    access = Access(auth, frozenset(), Keys(untouched), NO_LIMITS)
    for authorization in (None, "Bearer ", WRONG, f"Bearer {DIGEST}", f"Bearer {hashlib.sha256(b'').hexdigest()}"):
        raised(AccessError, access.authenticate, request_of(authorization), THERE)


HEADERS = {
    "opens": [
        *({"HTTP_AUTHORIZATION": text} for text in (f"bearer {KEY}", f"BEARER {KEY}", f"Bearer   {KEY}")),
        *({"HTTP_AUTHORIZATION": f" Bearer {KEY}  "}, {"HTTP_X_API_KEY": KEY}, {"HTTP_API_KEY": KEY}),
        *({"HTTP_X_API_KEY": f" {KEY} "}, {"HTTP_AUTHORIZATION": BASIC, "HTTP_X_API_KEY": KEY}),
    ],
    "does not": [
        *({"HTTP_AUTHORIZATION": f"Bearer {text}"} for text in (KEY.upper(), f"{KEY}x", f"{KEY} {KEY}", f"{KEY},")),
        *({"HTTP_X_API_KEY": "sk-another"}, {"HTTP_API_KEY": DIGEST}),
        {"HTTP_AUTHORIZATION": WRONG, "HTTP_X_API_KEY": KEY},
    ],
}


@pytest.mark.parametrize("headers, does", rows(HEADERS), ids=str)
def test_a_key_may_come_in_any_of_three_headers_and_is_compared_exactly(required, headers, does):
    if does == "opens":
        assert required.authenticate(headers, THERE) == KNOWN
    else:
        raised(InvalidApiKey, required.authenticate, headers, THERE)


# --- who is local


MARKS = ["Forwarded", "Via", "X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP", "CF-Connecting-IP"]
MARKS += ["Fastly-Client-IP", "Fly-Client-IP", "X-Azure-ClientIP", "X-Azure-SocketIP", "X-Envoy-External-Address"]
MARKS += ["X-ProxyUser-IP", "X-Appengine-User-IP", "CDN-Loop", "X-Forwarded"]
MARKS += ["X-Original-For", "X-Original-Host", "X-Original-Forwarded-For"]
MARKS += [f"X-Forwarded-{what}" for what in ("For", "Host", "Proto", "Port", "Server", "Prefix", "By")]
IS_LOCAL = {  # of an address, or a header of a request from this machine → which are, and which are not
    "address": (
        ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"],  # the last: of a server that listens on [::]
        [
            *("10.0.0.5", "192.168.1.2", "203.0.113.9", "::ffff:10.0.0.5", "fe80::1", "0.0.0.0", "", None, "unix:"),
            *("localhost", "127.0.0.1, 10.0.0.5"),
        ],
    ),
    "Host": (  # or a page could have its own name point at 127.0.0.1
        ["localhost", "localhost:8000", "LocalHost:8000", "127.0.0.1:8000", "[::1]:8000"],
        [
            *("chat.example", "chat.example:8000", "localhost.evil.example", "evil.example/localhost", "10.0.0.5:8000"),
            *("evil.example#@localhost", "127.0.0.1.evil.example", "0.0.0.0:8000", "", "x@127.0.0.1", "[::1", "["),
            "evil.example@localhost:8000",
        ],
    ),
    "Origin": (
        ["http://localhost:3000", "http://127.0.0.1:8000", "https://[::1]"],
        [
            *("https://evil.example", "http://localhost.evil.example", "https://evil.example:8000/localhost"),
            *("http://evil.example@127.0.0.1", "null", "", "http://["),
        ],
    ),
    "Sec-Fetch-Site": (["same-origin", "none"], ["cross-site", "same-site"]),
    "X-Amzn-Trace-Id": (["1f3c"], []),  # huggingface_hub itself sends it
    **{mark: ([], ["127.0.0.1", ""]) for mark in MARKS},
}


@pytest.mark.parametrize("what, local, others", [(what, *of) for what, of in IS_LOCAL.items()])
def test_who_is_local_comes_from_a_loopback_address_through_no_proxy_and_from_no_other_page(what, local, others):
    assert {*FORWARDING} < {*MARKS}
    for value in (*local, *others):
        address = value if what == "address" else HERE
        headers = {} if what == "address" else {"HTTP_" + what.upper().replace("-", "_"): value}
        assert is_local(address, {"HTTP_HOST": "localhost:8000", **headers}) is (value in local), value


# --- whom an address stands for


STANDS_FOR = {
    "203.0.113.9": ["203.0.113.9", "::ffff:203.0.113.9", "203.0.113.9:443"],
    "2001:db8:1:2::/64": ["2001:db8:1:2:3:4:5:6", "2001:DB8:1:2::"],
    "2001:db8:1:3::/64": ["2001:db8:1:3::"],
    "::/64": ["::1"],
    "fe80::/64": ["fe80::1%eth0"],
    "-": ["", None, "unix:", "' OR 1=1 --"],
}


@pytest.mark.parametrize("address, network_of_it", rows(STANDS_FOR))
def test_whom_an_address_stands_for(address, network_of_it):
    assert network(address) == network_of_it


# --- keys from the database

SECRET = slice(19, 51)  # of a key's text: `chatapi_` + id + `_` + secret + tag


@pytest.fixture
def other(url):
    """The same keys as another process has them: what `keys` remembers is unknown here."""
    with closing(url) as of:
        yield Keys(of)


@cache
def remembering(keys):
    """Who remembers whose they are."""
    return Access("required", frozenset(), keys, NO_LIMITS)


def holder(keys, text):
    """Whom a key's text belongs to."""
    return remembering(keys)._holder(text)


def test_a_key_of_a_newer_version_opens_within_the_limits_known_here(keys):
    id, text = made(keys, limits=Limits(rpm=7))
    keys._change(id, lambda row: {"limits": {**row["limits"], "tpw": 5}})
    caller, _until = keys.holder(text)
    assert caller.limits == Limits(rpm=7)


def test_a_new_key_opens_with_its_limits_and_models(keys):
    limits = Limits(rpm=5, tpd=1000, shadow=("tpd",))
    id, text = made(keys, limits=limits, models=["test/*"])
    assert re.fullmatch(r"chatapi_[a-z2-7]{10}_[a-z2-7]{42}", text)
    assert holder(keys, text) == Caller(id, f"key:{id}", limits, ("test/*",), key_name="a")


@pytest.mark.parametrize("change", NOT_QUITE.values(), ids=NOT_QUITE)
def test_what_is_not_quite_a_key_does_not_open(keys, change):
    (_, a), (_, b) = made(keys), made(keys)
    assert holder(keys, a) and holder(keys, b)
    assert change(a, b) not in (a, b)
    assert holder(keys, change(a, b)) is None


def test_a_key_of_another_database_and_a_tag_on_a_guess_open_nothing(keys, tmp_path):
    """Who has read the tag's secret from a stolen database can make tags, and still has no key."""
    with closing(f"sqlite:///{tmp_path}/another.db") as of:
        assert holder(keys, made(Keys(of))[1]) is None
    id, text = made(keys)
    guess = "a" * 32
    assert holder(keys, text)
    assert holder(keys, f"chatapi_{id}_{guess}{keys._tag(id, guess)}") is None


def test_a_revoked_key_opens_nowhere(keys, other, at_once):
    id, text = made(keys)
    assert holder(keys, text) and holder(other, text)
    assert other.revoke(id)["revoked_at"] == pytest.approx(time.time(), abs=5)
    assert holder(keys, text) is None
    assert holder(other, text) is None
    for change in (lambda: keys.revoke(id), lambda: keys.rotate(id, 60)):
        assert "revoked" in str(raised(LookupError, change))


def test_a_key_that_is_configured_too_opens_though_the_database_has_revoked_it(keys):
    id, text = made(keys)
    keys.revoke(id)
    digest = hashlib.sha256(text.encode()).hexdigest()
    access = Access("required", frozenset({digest}), keys, NO_LIMITS)
    assert [access._holder(text).key_id for _ in range(2)] == [digest[:12]] * 2


@pytest.fixture
def later(monkeypatch):
    """So many seconds are over."""

    def go(seconds, real=time.time):
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return go


def test_a_key_expires_while_it_is_remembered(keys, later):
    _, text = made(keys, expires_at=time.time() + 60)
    for seconds, opens in ((0, True), (59, True), (61, False)):
        later(seconds)
        assert bool(holder(keys, text)) is opens


def test_rotation_leaves_both_open_and_then_the_new_one(keys, other, at_once, later):
    id, old = made(keys, limits=Limits(rpm=7, shadow=("rpm",)), models=["a/*"])
    before = holder(keys, old)
    row, new = other.rotate(id, 60)
    assert (row["id"], new[8:18]) == (id, id)
    assert new != old
    assert holder(keys, old) == holder(keys, new) == before, "id, limits and models stay"
    later(61)
    assert holder(keys, old) is None
    assert holder(keys, new) == before


ROTATED = {
    "without grace the old one is closed at once": ([0], False, [False, True]),
    "the one before the last but one is closed": ([60, 60], False, [False, True, True]),
    "a revocation closes the old one in its grace too": ([60], True, [False, False]),
}


@pytest.mark.parametrize("graces, revoked, opens", ROTATED.values(), ids=ROTATED)
def test_which_texts_of_a_rotated_key_open(keys, at_once, graces, revoked, opens):
    id, first = made(keys)
    texts = [first, *(keys.rotate(id, grace)[1] for grace in graces)]
    if revoked:
        keys.revoke(id)
    assert [bool(holder(keys, text)) for text in texts] == opens


def test_a_key_made_elsewhere_opens_at_once(keys, other):
    assert holder(keys, made(keys)[1])
    assert holder(keys, made(other)[1]), "without waiting for the next look at what was changed"


def test_a_revocation_is_not_undone_by_a_rotation_that_began_before_it(keys, tmp_path):
    """Two operators at once: the rotation has looked at the key, and before it writes, the other has revoked it."""
    id, _ = made(keys)
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "chatapi.db", isolation_level=None)) as revoking,
        ThreadPoolExecutor(1) as pool,
    ):
        revoking.execute("BEGIN IMMEDIATE")
        rotating = pool.submit(keys.rotate, id, 60)
        time.sleep(0.3)  # it waits for the lock
        revoking.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (time.time(), id))
        revoking.execute("UPDATE meta SET value = '99' WHERE name = 'keys_version'")
        revoking.execute("COMMIT")
        failure = rotating.exception(timeout=5)
    assert keys.show(id)["revoked_at"]
    assert isinstance(failure, LookupError) and "revoked" in str(failure), "it was told that it has a new key"


# --- floods


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
    monkeypatch.setattr(access_module, "REMEMBERED", 10)
    texts = [made(keys)[1] for _ in range(25)]
    for text in texts:
        assert holder(keys, text)
        assert 0 < len(remembering(keys)._callers) <= 10
    assert holder(keys, texts[0])


def test_digests_are_compared_in_constant_time():
    source = inspect.getsource(keys_module)
    assert source.count("hmac.compare_digest(") >= 3  # the tag, the digest, the digest before the rotation
    assert re.findall(r".*(?:digest|tag|secret|found)\w*[\"\])]* *[!=]= .*", source) == []


# --- what the database holds


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


def test_known_keys_open_while_the_database_is_away(keys, at_once, tmp_path):
    (_, known), (_, unknown) = made(keys), made(keys)
    assert holder(keys, known)
    with away(keys._store, tmp_path / "chatapi.db"):
        assert holder(keys, known)
        raised(StoreUnavailable, holder, keys, unknown)
        assert holder(keys, known), "still"
    assert holder(keys, unknown)


def test_a_hundred_thousand_keys_cost_no_more_than_ten(keys, at_once, sql):
    texts = [made(keys)[1] for _ in range(10)]
    few = cost(keys, texts, sql)
    assert few, "or nothing was counted"
    names = ", ".join(column.name for column in tables.keys.c if column.name != "id")
    more = f"INSERT INTO keys (id, {names}) SELECT 'key' || i, {names} FROM numbers, keys WHERE id = ?"
    numbers = "WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 100000)"
    keys._store.write(lambda tx: tx.exec_driver_sql(f"{numbers} {more}", (texts[0][8:18],)))
    assert keys._store.read(lambda tx: tx.exec_driver_sql("SELECT count(*) FROM keys").scalar()) == 100_010
    remembering(keys)._callers.clear()
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
