"""What must not get out, and what must not get in: secrets, hostile headers, foreign pages, false proxies, bombs."""

import json
import re
import socket
import sqlite3
import time
from contextlib import closing

import pytest
from support.dialects import LEGACY, RESPONSES, V1, asking
from support.dialects import NEW as CHAT
from support.gateways import ROOT, free_port, keyed, serve, side_by_side
from support.stores import files_of
from support.upstream import Exchange, fault

from chatapi.accounting.keys import Keys
from chatapi.accounting.store import Store
from chatapi.caller import NO_LIMITS

ROUTES = [CHAT, LEGACY, V1]
TOKEN = "hf_test-token"  # the gateway's own, as conftest.py has it
CANARY = "zq7canary"  # in whatever must not be seen again
KEY = f"sk-{CANARY}-the-callers-own"
MODEL, REQUEST_ID = "known/model-3141", "known-request-2718"


def seen(text: str, *words: str) -> list[str]:
    """The lines with any of `words`."""
    return [line[:300] for line in text.splitlines() if any(word in line for word in words)]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """The folder of the gateway's database."""
    return tmp_path_factory.mktemp("ledger")


@pytest.fixture(scope="module")
def dark(gateway_env, ledger):
    """A gateway that tells all it ever tells, and wants a key."""
    own = {"CHATAPI_LOG_LEVEL": "debug", "DATABASE_URL": f"sqlite:///{ledger}/chatapi.db"}
    with serve({**gateway_env, **own, **keyed(KEY)}) as running:
        yield running


def raw(gateway, data: bytes, half_close: bool = False, within_s: float = 5.0) -> bytes:
    """All that is answered to these bytes. Half closed, nothing more can come from us, and the gateway knows it."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=within_s) as sock:
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        answered = b""
        try:
            while data := sock.recv(65_536):
                answered += data
        except ConnectionResetError:  # it closed with bytes of ours unread; what it said has arrived
            pass
    return answered


def request(method: str, path: str, *headers: bytes, body: bytes = b"", key: str = KEY) -> bytes:
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: localhost", b"Connection: close", *headers]
    if key:
        lines.append(f"Authorization: Bearer {key}".encode())
    return b"\r\n".join([*lines, b"", body])


def statuses(answered: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"^HTTP/1\.1 (\d+) ", answered, re.M)]


def head_of(answered: bytes) -> bytes:
    return answered.partition(b"\r\n\r\n")[0].lower()


# ---------------------------------------------------------------- canaries

ODD_HEADERS = {
    "Cookie": f"session={CANARY}",
    "X-Api-Key": CANARY,
    "Api-Key": CANARY,
    "Proxy-Authorization": f"Bearer {CANARY}",
    "User-Agent": f"client/{CANARY} ({CANARY})",  # of the old route's callers the name alone is kept
    "Referer": f"https://{CANARY}.example/{CANARY}?{CANARY}",
    "Origin": f"https://{CANARY}.example",
    "X-Forwarded-For": f"{CANARY}, 10.0.0.1",
    "X-Forwarded-Host": f"{CANARY}.example",
    "X-Forwarded-Prefix": f"/{CANARY}",
    "Forwarded": f"for={CANARY}",
    "X-Real-Ip": CANARY,
    "Via": f"1.1 {CANARY}",
    "traceparent": f"00-{CANARY}-{CANARY}-01",
    "tracestate": f"a={CANARY}",
    "X-Request-Id": f"{CANARY}, not sane",
    "OpenAI-Organization": CANARY,
    "Idempotency-Key": CANARY,
    "Accept-Language": CANARY,
}
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{CANARY}AAAA"}}
WORDS = [{"role": "system", "content": CANARY}, {"role": "user", "name": CANARY, "content": f"my password is {CANARY}"}]


def loaded(path, model, stream):
    """A body with a canary wherever one fits."""
    words = {LEGACY: {"message": f"my password is {CANARY}"}, RESPONSES: {"input": WORDS}}
    what = words.get(path, {"messages": WORDS})
    more = {"user": CANARY, "password": CANARY, CANARY: {CANARY: [CANARY]}, "stop": [CANARY], "max_time": 1}
    return {"model": model, **what, **more, "stream": stream}


def echoing(status):
    """An upstream that repeats all it was told, but for our token."""
    return lambda x: fault(status, f"cannot do {x.call.raw_body.decode()} {x.call.path}").send(x)


def misshapen(x: Exchange) -> None:
    choice = {"index": {CANARY: 1}, "message": [CANARY], "delta": CANARY, "finish_reason": [CANARY]}
    x.send_json(200, {"choices": [choice], "usage": CANARY, "model": [CANARY]})


UPSTREAMS = {
    "completed": "test/ok",
    "echoes": "test/echo",
    "refuses": echoing(400),
    "breaks": echoing(500),
    "misshapen": misshapen,
    "cut": "test/cut",
    "malformed": "test/malformed-event",
}
BODIES = {
    "invalid": lambda path, stream: loaded(path, MODEL, stream) | {"temperature": CANARY},
    "invalid model": lambda path, stream: loaded(path, f"{CANARY}/../{CANARY}", stream),
    "image": lambda path, stream: loaded(path, MODEL, stream) | {"messages": [{"role": "user", "content": [IMAGE]}]},
    "image for a text model": lambda path, stream: (
        loaded(path, "tgi/ok", stream) | {"messages": [{"role": "user", "content": [IMAGE]}]}
    ),
}


@pytest.fixture(scope="module")
def told(dark, ledger, upstream_server):
    """After every outcome on every route: the answers, and all that the gateway has told anybody else."""
    upstream_server.reset()
    for name, behaviour in UPSTREAMS.items():
        upstream_server.behave(f"known/{name}", behaviour)
    upstream_server.behave(MODEL, "test/ok")
    known = {**ODD_HEADERS, "Authorization": f"Bearer {KEY}"}

    def ask(path, stream, outcome):
        where = f"{path}?key={CANARY}&{CANARY}=1"
        if outcome == "unauthorized":
            headers = {**ODD_HEADERS, "Authorization": f"Bearer sk-{CANARY}-wrong"}
            return dark.post(where, loaded(path, MODEL, stream), headers=headers)
        if outcome in BODIES:
            return dark.post(where, BODIES[outcome](path, stream), headers=known)
        if outcome == "sane":
            return dark.post(where, loaded(path, MODEL, stream), headers=known | {"X-Request-Id": REQUEST_ID})
        return dark.post(where, loaded(path, f"known/{outcome}", stream), headers=known)

    outcomes = [*UPSTREAMS, *BODIES, "unauthorized", "sane"]
    answers = side_by_side(
        ask,
        [(path, stream, outcome) for path in (*ROUTES, RESPONSES) for stream in (False, True) for outcome in outcomes],
    )
    for path in (f"/{CANARY}", f"{V1}/{CANARY}?{CANARY}", f"/v1/models/{CANARY}/x", f"/docs/{CANARY}"):
        dark.request("GET", path, headers=known)
    dark.request("GET", f"/v1/usage?since={CANARY}", headers=known)
    dark.post(CHAT, data=CANARY.encode(), headers={**known, "Content-Type": "application/json"})
    dark.post(CHAT, data=b"{}", headers={**known, "Content-Type": f"text/{CANARY}"})
    dark.post(CHAT, data=b"{}", headers={**known, "Content-Encoding": CANARY})
    numbers = dark.request("GET", "/metrics", headers=known).text
    with closing(sqlite3.connect(ledger / "chatapi.db")) as connection:
        rows = connection.execute("SELECT request_id, model, ending, code FROM calls").fetchall()
    yield answers, dark.log_text(), numbers, rows
    assert upstream_server.failures == []


def test_every_outcome_was_there(told):
    answers, _, _, rows = told
    assert {answer.status_code for answer in answers.values()} >= {200, 400, 401, 500, 502}
    assert {ending for _, _, ending, _ in rows} >= {"completed", "refused", "upstream_cut"}


def test_log_numbers_and_ledger_hold_no_canary(told, ledger):
    _, log, numbers, _ = told
    assert seen(log, CANARY, TOKEN) == []
    assert MODEL in log and REQUEST_ID in log, "these two are what it is for"
    assert seen(numbers, CANARY, TOKEN, REQUEST_ID) == []
    assert MODEL in numbers
    held = files_of(ledger)
    assert MODEL.encode() in held and REQUEST_ID.encode() in held
    assert CANARY.encode() not in held and TOKEN.encode() not in held


def test_no_answer_holds_the_callers_key_or_the_gateways_token(told):
    for case, answer in told[0].items():
        whole = str(answer.headers) + answer.text
        assert TOKEN not in whole, case
        assert KEY not in whole, case
        repeated = {name for name, value in answer.headers.items() if CANARY in value}
        assert repeated <= {"X-Ignored-Fields"}, case  # which is there to repeat the names of fields
        if answer.status_code == 401:
            assert CANARY not in whole, case


def test_the_passwords_of_database_and_redis_are_told_nobody(gateway_env):
    nobody = f"127.0.0.1:{free_port()}"
    env = {
        "DATABASE_URL": f"postgresql://u:{CANARY}@{nobody}/x",
        "REDIS_URL": f"redis://u:{CANARY}@{nobody}/0",
        "CHATAPI_AUTH": "off",
        "CHATAPI_ANONYMOUS_LIMITS": "rpm=1000",
        "CHATAPI_LOG_LEVEL": "debug",
    }
    with serve({**gateway_env, **env}) as gateway:
        for path in ROUTES:
            answer = gateway.post(path, loaded(path, "test/ok", stream=path == V1), headers=ODD_HEADERS)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            assert CANARY not in answer.text
        assert gateway.request("GET", "/v1/usage").status_code == 503
        numbers, log = gateway.request("GET", "/metrics").text, gateway.log_text()
    assert "database is away" in log and "Redis is away" in log, "operators are told why"
    assert seen(log + numbers, CANARY) == []


# ---------------------------------------------------------------- faults of ours

FAULTY = """
from flask import g, request

from chatapi import create_app
from chatapi.schemas import OPENAI
from chatapi.web.request import authenticate, components, read_json
from chatapi.web.response import answer

app = create_app()


@app.post("/v1/fault")
@app.post("/api/fault")
def fault():
    try:
        int(request.get_data(as_text=True))  # says what it was given
    except ValueError as error:
        raise LookupError({"all": request.get_data(as_text=True), **request.headers}) from error


@app.post("/v1/late")
@app.post("/api/late")
def late():
    authenticate(g.call)
    engine = components().engine
    stream = type(engine).stream

    def items(job, call):
        yield next(stream(engine, job, call))
        raise LookupError(job.messages)

    engine.stream = items
    return answer(OPENAI.load(read_json(), ""), OPENAI, components())
"""


@pytest.fixture(scope="module")
def faulty(gateway_env, tmp_path_factory):
    """A gateway with two more views, which fail as a mistake of ours would."""
    own = tmp_path_factory.mktemp("faulty")
    (own / "wsgi.py").write_text(FAULTY)
    with serve({**gateway_env, "PYTHONPATH": f"{own}:{ROOT}", "CHATAPI_LOG_LEVEL": "debug"}) as running:
        yield running


@pytest.mark.parametrize(
    "path, place",
    [("/v1/fault", "in fault"), ("/api/fault", "in fault"), ("/v1/late", "in items"), ("/api/late", "in items")],
)
def test_a_fault_of_ours_is_logged_without_what_it_says(faulty, upstream, path, place):
    """Type and place are what mends it; the words are the caller's."""
    id = f"fault-{path[1:].replace('/', '-')}"
    headers = {"X-Request-Id": id, "Cookie": CANARY, "User-Agent": "quiet"}
    body = {"model": "test/ok", "messages": [{"role": "user", "content": f"my password is {CANARY}"}], "stream": True}
    before = len(faulty.log_text())
    answer = faulty.post(path, body, headers=headers)
    assert '"internal_error"' in answer.text
    assert CANARY not in answer.text
    log = faulty.log_text()[before:]
    assert f"request {id}" in log
    assert "LookupError" in log
    assert "wsgi.py" in log and place in log
    assert seen(log, CANARY) == []


# ---------------------------------------------------------------- hostile headers

INJECTIONS = [
    "' OR '1'='1",
    "'; DROP TABLE keys; --",
    '" OR 1=1 --',
    "chatapi_' OR 1=1 --aaaaaaaa",
    "chatapi_aaaaaaaaaa_' UNION SELECT value FROM meta --",
    "%' AND 1=(SELECT 1) --",
    "%s %d {0} {id} ${jndi:ldap://x}",
    "chatapi_%00%00%00",
]
AUTHORIZATIONS = {
    **{f"SQL {number}": (text.encode(), {401}) for number, text in enumerate(INJECTIONS)},
    "NUL": (b"chatapi_\x00aaaa", {400}),
    "a control character": (b"chatapi_\x01aaaa", {400}),
    "CR": (b"chatapi_a\rSet-Cookie: x=1", {400}),
    "LF": (b"chatapi_a\nSet-Cookie: x=1", {400}),
    "a folded line": (b"chatapi_a\r\n Set-Cookie: x=1", {400}),
    "latin-1": (b"chatapi_\xe9\xff\x80", {401}),
    "UTF-8": ("chatapi_ключ🔑".encode(), {401}),
    "half of UTF-8": ("🔑".encode()[:2], {401}),
    "4 KB": (b"k" * 4096, {401}),
    "8 KB": (b"k" * 8192, {431}),
    "60 KB": (b"k" * 60_000, {431}),
    "60 KB of quotes": (b"'" * 60_000, {431}),
}


@pytest.fixture(scope="module")
def key_in_the_ledger(dark, ledger):
    """A key of the database's, to see afterwards that it is still there."""
    dark.request("GET", "/v1/usage", headers={"Authorization": f"Bearer {KEY}"})
    with closing(Store(f"sqlite:///{ledger}/chatapi.db")) as of:
        return Keys(of).create("still here", NO_LIMITS, (), None)[1]


@pytest.mark.parametrize("value, allowed", AUTHORIZATIONS.values(), ids=AUTHORIZATIONS)
def test_no_authorization_harms_the_database(dark, ledger, key_in_the_ledger, value, allowed):
    before = len(dark.log_text())
    for method, path in (("GET", "/v1/usage"), ("POST", V1), ("GET", "/metrics")):
        length = [b"Content-Length: 0"] if method == "POST" else []
        answered = raw(dark, request(method, path, b"Authorization: Bearer " + value, *length, key=""))
        assert set(statuses(answered)) <= allowed and len(statuses(answered)) == 1
        assert b"set-cookie" not in head_of(answered)
    answered = raw(dark, request("GET", "/v1/usage", key=key_in_the_ledger))
    assert statuses(answered) == [200]
    with closing(sqlite3.connect(ledger / "chatapi.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT name FROM keys").fetchall() == [("still here",)]
    assert "Traceback" not in dark.log_text()[before:]


SPLITS = {
    "request id, CR": (b"X-Request-Id: a\rSet-Cookie: x=1", {400}),
    "request id, LF": (b"X-Request-Id: a\nSet-Cookie: x=1", {400}),
    "request id, folded": (b"X-Request-Id: a\r\n\tSet-Cookie: x=1", {400}),
    "request id, encoded": (b"X-Request-Id: a%0d%0aSet-Cookie:%20x=1", {200}),
    "request id, latin-1": (b"X-Request-Id: a\xe5\x98\x8a\xe5\x98\x8dSet-Cookie: x=1", {200}),
    "two request ids": (b"X-Request-Id: a\r\nX-Request-Id: b;Set-Cookie", {200}),
    "origin": (b"Origin: http://a%0d%0aSet-Cookie:%20x=1", {200}),
    "trace": (b"traceparent: 00-%0d%0aSet-Cookie:%20x=1", {200}),
    **{path: (b"", {404, 308}) for path in ("/docs%0d%0aX", "//docs%0d%0aX", "/v1//models%0d%0aX")},
}


@pytest.mark.parametrize("name", SPLITS)
def test_no_header_or_path_of_the_callers_becomes_a_header_of_ours(dark, name):
    header, allowed = SPLITS[name]
    path = name.replace("X", "Set-Cookie:x=1") if "/" in name else "/v1/usage"
    answered = raw(dark, request("GET", path, *([header] if header else [])))
    assert set(statuses(answered)) <= allowed and len(statuses(answered)) == 1
    assert b"\nset-cookie" not in head_of(answered)


TOO_MUCH = {
    "1 MB of headers": [b"X-Large-%d: " % number + b"x" * 8000 for number in range(128)],
    "1,000 headers": [b"X-%d: 1" % number for number in range(1000)],
    "a header of 100 KB": [b"X-Large: " + b"x" * 100_000],
    "a name of 100 KB": [b"x" * 100_000 + b": 1"],
}


@pytest.mark.parametrize("headers", TOO_MUCH.values(), ids=TOO_MUCH)
def test_too_much_of_headers_is_refused(dark, headers):
    before = len(dark.log_text())
    answered = raw(dark, request("GET", "/healthz", *headers))
    assert len(statuses(answered)) == 1
    assert statuses(answered)[0] in (400, 431)
    assert "Traceback" not in dark.log_text()[before:]
    assert statuses(raw(dark, request("GET", "/healthz"))) == [200]


BROKEN = {
    "a key without its colon": request("GET", "/v1/usage", f"Authorization Bearer {CANARY}".encode(), key=""),
    "a key with a blank before its colon": request(
        "GET", "/v1/usage", f"Authorization {CANARY}: Bearer".encode(), key=""
    ),
    "an address with a byte of latin-1": request("GET", "/v1/usage", key="").replace(
        b"usage", b"\xe9?k=" + CANARY.encode()
    ),
    "an address with a blank": request("GET", f"/v1/usage?key= {CANARY}", key=""),
    "a body before its head": f'{{"content": "{CANARY}"}} / HTTP/1.1\r\n\r\n'.encode(),
    "an expectation": request("POST", V1, f"Expect: {CANARY}".encode(), key=""),
    "a transfer coding": request("POST", V1, f"Transfer-Encoding: {CANARY}".encode(), key=""),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_http_is_refused_and_not_repeated(dark, data):
    """gunicorn's own refusals: what follows a slip may be anything, a key as well."""
    before = len(dark.log_text())
    answered = raw(dark, data)
    assert len(statuses(answered)) == 1
    assert 400 <= statuses(answered)[0] <= 501
    time.sleep(0.05)  # it answers first, and then writes the log
    error = json.loads(answered.partition(b"\r\n\r\n")[2])["error"]
    assert f"x-request-id: {error['request_id']}\r\n".encode() in head_of(answered)
    # The head's first line may be what cannot be read; `/v1` and its shape are then unknown.
    assert ("param" in error) == (b"/v1/" in data.split(b" ")[1] and b"\xe9" not in data)
    assert seen(dark.log_text()[before:], CANARY, "Traceback") == []
    assert CANARY.encode() not in answered


# ---------------------------------------------------------------- pages of others: rebinding, forms

FOREIGN = {"another name for this machine": {"Host": "evil.example:8000"}, "a sandbox": {"Origin": "null"}}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_page_reaches_nothing(gateway, headers):
    """Nothing it could read with, and nothing that would cost: the gateway asks no key of this machine only."""
    for path in ROUTES:
        answer = gateway.post(path, asking(path, "test/ok"), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
    for path in ("/v1/models", "/v1/models/test/ok", "/v1/usage", "/metrics"):
        assert gateway.request("GET", path, headers=headers).status_code == 401


JSON_TYPE = b"Content-Type: application/json"
UNREAD = [  # browsers post the first across sites without asking; the others are compressed, or hide that they are
    *([], [b"Content-Type: text/plain"], [b"Content-Type: text/plain; application/json"]),
    *([b"Content-Type: application/x-www-form-urlencoded"], [b"Content-Type: multipart/form-data; boundary=x"]),
    *([JSON_TYPE, b"Content-Encoding: " + coding] for coding in (b"gzip", b"GZIP", b"br", b"gzip, identity", b"x")),
    [JSON_TYPE, b"Content-Encoding: identity", b"Content-Encoding: gzip"],
    [JSON_TYPE, b"Content-Encoding: gzip", b"Content-Encoding: identity"],
]


@pytest.mark.parametrize("lines", UNREAD, ids=str)
@pytest.mark.parametrize("path", ROUTES)
def test_what_a_form_can_post_and_what_is_compressed_is_refused_before_it_is_read(gateway, path, lines):
    """A body that never comes shows that nobody waits for it."""
    answered = raw(gateway, request("POST", path, *lines, b"Content-Length: 50", key=""), within_s=3)
    assert statuses(answered) == [415]


# ---------------------------------------------------------------- who a proxy says it is


A, B = "203.0.113.1", "203.0.113.2"
SHARED = [200, 200, 429]


def test_underscores_do_not_make_a_forwarding_header(gateway_env, upstream):
    """WSGI has one name for `X-Forwarded-For` and `X_Forwarded_For`, and a proxy sets the first only."""
    env = {"CHATAPI_AUTH": "off", "CHATAPI_TRUSTED_PROXIES": "1", "CHATAPI_ANONYMOUS_LIMITS": "rpm=2"}
    with serve({**gateway_env, **env}) as gateway:
        found = [
            gateway.post(
                V1, asking(V1, "test/ok"), headers={"X-Forwarded-For": A, "X_Forwarded_For": f"192.0.2.{n}"}
            ).status_code
            for n in range(3)
        ]
        assert found == SHARED
        assert gateway.post(V1, asking(V1, "test/ok"), headers={"X-Forwarded-For": B}).status_code == 200


# ---------------------------------------------------------------- the headers of answers

KNOWN = {"Authorization": f"Bearer {KEY}"}
ANSWERS = {
    "whole": ("POST", V1, {"json": asking(V1, "test/ok"), "headers": KNOWN}, 200),
    "stream": ("POST", CHAT, {"json": asking(CHAT, "test/ok", stream=True), "headers": KNOWN}, 200),
    "legacy": ("POST", LEGACY, {"json": asking(LEGACY, "test/ok"), "headers": KNOWN}, 200),
    "invalid": ("POST", V1, {"json": {}, "headers": KNOWN}, 400),
    "no key": ("POST", CHAT, {"json": asking(CHAT, "test/ok")}, 401),
    "a wrong key": ("POST", V1, {"json": asking(V1, "test/ok"), "headers": {"Authorization": "Bearer x"}}, 401),
    "no key for usage": ("GET", "/v1/usage", {}, 401),
    "no key for numbers": ("GET", "/metrics", {}, 401),
    "no route": ("GET", "/nowhere", {}, 404),
    "no method": ("PUT", V1, {}, 405),
    "too large": ("POST", V1, {"data": b"x" * 100_001, "headers": {**KNOWN, "Content-Type": "application/json"}}, 413),
    "no json": ("POST", V1, {"data": b"x", "headers": {**KNOWN, "Content-Type": "text/plain"}}, 415),
    "upstream": ("POST", V1, {"json": asking(V1, "test/err-gated"), "headers": KNOWN}, None),
    "options": ("OPTIONS", V1, {}, 200),
    "health": ("GET", "/healthz", {}, 200),
    "ready": ("GET", "/readyz", {}, 200),
    "numbers": ("GET", "/metrics", {"headers": KNOWN}, 200),
    "models": ("GET", "/v1/models", {"headers": KNOWN}, 200),
    "usage": ("GET", "/v1/usage", {"headers": KNOWN}, 200),
    "page": ("GET", "/docs", {}, 200),
    "guide": ("GET", "/docs/migration", {}, 200),
    "no guide": ("GET", "/docs/nothing", {}, 404),
}


TIMING = r"[\w-]+;dur=\d+(\.\d+)?(, [\w-]+;dur=\d+(\.\d+)?)*"


@pytest.mark.parametrize("method, path, given, status", ANSWERS.values(), ids=ANSWERS)
def test_what_no_answer_is_without_and_none_has(dark, upstream, method, path, given, status):
    answer = dark.request(method, path, **given)
    headers = answer.headers
    assert status in (None, answer.status_code)
    assert headers["X-Request-Id"]
    assert re.fullmatch(TIMING, headers["Server-Timing"])
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"\d|python|flask|werkzeug", headers.get("Server", ""), re.I)
    assert not {"x-powered-by", "set-cookie", "x-aspnet-version"} & {name.lower() for name in headers}
    assert ("WWW-Authenticate" in headers) == (answer.status_code == 401)
    if answer.status_code == 200 and answer.content and "html" in headers["Content-Type"]:
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy


@pytest.mark.parametrize("path", ["/v1/usage", "/metrics", "/v1/models"])
def test_what_is_the_callers_alone_is_kept_by_no_cache(dark, upstream, path):
    kept = dark.request("GET", path, headers=KNOWN).headers.get("Cache-Control", "")
    assert "no-store" in kept or ("private" in kept and "max-age" not in kept) or "no-cache" in kept


# ---------------------------------------------------------------- bodies


NEXT = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
SMUGGLED = {
    "two lengths": ([b"Content-Length: 0", b"Content-Length: 44"], b""),
    "a list of lengths": ([b"Content-Length: 0, 44"], b""),
    "length and chunks": ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    "chunks and length": ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], b"0\r\n\r\n"),
    "chunks that are not last": ([b"Transfer-Encoding: chunked, identity"], b"0\r\n\r\n"),
    "chunks by another name": ([b"Transfer-Encoding: xchunked"], b"0\r\n\r\n"),
    "chunks twice": ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    "chunks after a tab": ([b"Transfer-Encoding: \x0bchunked"], b"0\r\n\r\n"),
    "a blank before the colon": ([b"Transfer-Encoding : chunked"], b"0\r\n\r\n"),
    "a length below zero": ([b"Content-Length: -1"], b""),
    "a length with a sign": ([b"Content-Length: +0"], b""),
    "a length in hex": ([b"Content-Length: 0x0"], b""),
    "a length with an underscore": ([b"Content-Length: 0_0"], b""),
    "a chunk's size below zero": ([b"Transfer-Encoding: chunked"], b"-1\r\n\r\n"),
    "a chunk's size with a sign": ([b"Transfer-Encoding: chunked"], b"+0\r\n\r\n"),
    "a chunk's size that is none": ([b"Transfer-Encoding: chunked"], b"zz\r\n\r\n"),
    "a chunk without its end": ([b"Transfer-Encoding: chunked"], b"2\r\n{}XX0\r\n\r\n"),
}


@pytest.mark.parametrize("headers, body", SMUGGLED.values(), ids=SMUGGLED)
def test_no_request_hides_in_another(gateway, headers, body):
    """Where two servers could read the end of a body in two ways, it is refused, and so is what follows."""
    before = len(gateway.log_text())
    lines = [b"POST " + V1.encode() + b" HTTP/1.1", b"Host: localhost", JSON_TYPE, *headers, b"", body + NEXT]
    answered = raw(gateway, b"\r\n".join(lines))
    assert len(statuses(answered)) == 1
    assert 400 <= statuses(answered)[0] <= 501
    assert b'{"status":"ok"}' not in answered
    assert "Traceback" not in gateway.log_text()[before:]


@pytest.mark.parametrize(
    "length, status, words",
    [
        (b"Content-Length: 50", 400, b"could not be read to its end"),
        (b"Content-Length: 5000000", 413, b"payload_too_large"),
    ],
)
def test_a_body_that_never_comes_is_not_waited_for(gateway, length, status, words):
    """gateway_env allows a second of silence; without a limit a few such callers would hold all connections."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answered = raw(gateway, head + length + b"\r\nConnection: close\r\n\r\n", within_s=10)
    assert statuses(answered) == [status]
    assert words in answered
