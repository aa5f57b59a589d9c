"""Sending: what goes out, connections, attempts, waits and limits in every phase of an exchange."""

import gc
import gzip
import json
import weakref
import zlib
from contextlib import closing, contextmanager

import pytest
import requests
from support.sockets import sending, serving
from support.tables import raised, rows
from support.upstream import text_fault

from chatapi.call import Call
from chatapi.errors import UpstreamError
from chatapi.huggingface import Transport
from chatapi.huggingface.exchange import MAX_REPLY
from chatapi.huggingface.transport import Request

TOKEN = "hf_right"
MESSAGES = [{"role": "user", "content": "hi there"}]
PATH = "/v1/chat/completions"


def fetch(transport, url, payload=None, seconds=5, **call):
    made = Call("-", seconds=seconds, **call)
    return transport.fetch(Request(url, payload or {"model": "test/ok", "messages": MESSAGES}), made, made.deadline)


def test_what_an_exchange_held_is_free_when_it_ends(upstream, transport):
    call = Call("-", seconds=5)
    freed = weakref.ref(call)
    gc.disable()  # what lies in a circle stays until it looks
    try:
        transport.fetch(Request(upstream.url + PATH, {"model": "test/ok", "messages": MESSAGES}), call, call.deadline)
        del call
        assert freed() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("asked, requests_made", [(["a/b"], ["a/b", "a/b"]), ([], [])])
def test_a_kept_connection_that_its_server_closes_as_it_is_used_is_replaced_once(transport, asked, requests_made):
    heard = []

    def close_at_the_second_request(sock):
        for number in range(2):
            if not sock.recv(65536):
                return
            heard.append(number)
            if number == 0:
                sock.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")

    with serving(close_at_the_second_request) as port:
        url = f"http://127.0.0.1:{port}"
        fetch(transport, url)
        assert heard == [0]
        call = Call("-", seconds=5, asked=asked)
        assert transport.fetch(Request(url, {"model": "a/b", "messages": MESSAGES}), call, call.deadline).body == b"{}"
        assert (heard, call.asked) == ([0, 1, 0], requests_made)
        again = Call("-", seconds=5, asked=["a/b", "a/b"])
        request = Request(url, {"model": "a/b", "messages": MESSAGES})
        assert raised(UpstreamError, transport.fetch, request, again, again.deadline).transient
        assert (heard, again.asked) == ([0, 1, 0, 1], ["a/b", "a/b"]), "two were made for it already"


# ---------------------------------------------------------------- what goes out


def sent(upstream, transport, **how):
    fetch(transport, upstream.url + PATH, **how)
    return upstream.calls[-1]


def test_headers(upstream, transport):
    headers = sent(upstream, transport).headers
    ours = {
        "Authorization": "Bearer hf_right",
        "Content-Type": "application/json",
        "User-Agent": "chatapi/test",
        "Host": upstream.url.removeprefix("http://"),
        "Accept-Encoding": "identity",
    }
    assert {name: headers[name] for name in ours} == ours
    assert "X-Request-Id" not in headers
    assert "Authorization" not in sent(upstream, Transport(None, user_agent="chatapi/test")).headers


def test_what_goes_along_with_a_call_and_no_header_is_two(upstream, transport):
    given = {"X-Request-Id": "req-7", "tracestate": "a=\u00e9"}
    headers = sent(upstream, transport, headers=given).headers
    assert {name: headers[name] for name in given} == given
    headers = sent(upstream, transport, headers={"tracestate": "a=1\r\nX-Smuggled: yes", "X-Request-Id": "r"}).headers
    assert ("X-Smuggled" in headers, headers["X-Request-Id"]) == (False, "r")


def test_the_body_is_utf8_json_in_its_order(upstream, transport):
    payload = {"model": "test/ok", "messages": [{"role": "user", "content": "Olá 🎉 \u2028"}], "a": None}
    call = sent(upstream, transport, payload=payload)
    assert list(json.loads(call.raw_body).items()) == list(payload.items())
    assert "Olá 🎉".encode() in call.raw_body


@pytest.mark.parametrize("status", [200, 201, 301, 302, 303, 307, 308, 400, 401, 404, 429, 500, 503])
def test_every_status_is_handed_on(upstream, transport, status):
    """Redirects are not followed."""
    headers = {"Retry-After": "7", "Location": "/redirected"}
    upstream.behave("test/ok", text_fault(status, "as it is")._replace(headers=headers))
    answer = fetch(transport, upstream.url + PATH)
    assert (answer.status, answer.headers.get("retry-after")) == (status, "7")
    assert answer.body == b"as it is"
    assert len(upstream.calls) == 1


# ---------------------------------------------------------------- failures of the network


@contextmanager
def answering(*parts):
    """The url of a server that answers each connection with `parts`, as they are, and closes it."""
    with serving(sending(*parts)) as port:
        yield f"http://127.0.0.1:{port}"


def failure(transport, url, seconds=5):
    return raised(UpstreamError, fetch, transport, url, seconds=seconds)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ODD = {  # what is sent → words of the message, and whether another attempt may help
    ("closed the connection", True): [b""],
    ("cut", False): [HEAD, HEAD + b"Content-Length: 9\r\n\r\n{", CHUNKED + b"9\r\n{", CHUNKED + b"2\r\n{}\r\n"],
    ("could not be read", False): [
        *(
            b"220 smtp.test ESMTP\r\n\r\n",
            CHUNKED + b"zz\r\n",
            CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
            HEAD + b"Content-Length: -1\r\n\r\n",
        ),
        *(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", HEAD + b"Content-Encoding: br\r\n\r\nxx"),
        *(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, HEAD + b"X: y\r\n" * 50_000, CHUNKED + b"1\r\ny\r\n" * 300_000),
    ],
}


@pytest.mark.parametrize(
    "sent, words, transient", rows(ODD), ids=lambda value: ascii(value[-30:]) if isinstance(value, bytes) else ""
)
def test_what_is_no_answer(transport, sent, words, transient):
    with answering(sent) as url:
        error = failure(transport, url)
    assert (error.code, error.upstream_status) == ("upstream_unavailable", None)
    assert words in error.message
    assert error.transient is transient
    assert error.blames_upstream


NOBODY = {"http://nobody.invalid/": "cannot be resolved", "http://127.0.0.1:9/": "refused"}


@pytest.mark.parametrize("url, words", NOBODY.items())
def test_who_is_not_there(transport, url, words):
    error = failure(transport, url)
    assert words in error.message
    assert error.transient is (words == "refused")


def test_a_server_without_tls(transport):
    with serving(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        error = failure(transport, f"https://127.0.0.1:{port}")
    assert ("TLS" in error.message, error.transient) == (True, False)


READ = {  # how a final response may come → its body
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", HEAD, b"\r\n{}"),
    "bare-line-feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",),
    "folded": (HEAD + b"X-Long: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",),
    "extensions-and-trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",),
    "old": (b"HTTP/1.0 200 OK\r\n\r\n{}",),
    "no-reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}",),
    "gzip": (HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"{}"),),
    "deflate": (HEAD + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(b"{}"),),
    "the-same-length-twice": (HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",),
}


@pytest.mark.parametrize("parts", READ.values(), ids=READ)
@pytest.mark.parametrize("bytewise", [False, True])
def test_how_a_response_may_come(transport, parts, bytewise):
    sent = [bytes([byte]) for byte in b"".join(parts)] if bytewise else parts
    with answering(*sent) as url:
        assert fetch(transport, url).body == b"{}"


def test_what_unpacks_to_far_more_than_was_sent_is_read_whole(transport):
    body = b"x" * 3_000_000
    for pack in (gzip.compress, zlib.compress):
        packed = pack(body)
        head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        with answering(head + packed) as url:
            assert fetch(transport, url).body == body


PACKED = gzip.compress(b"x" * (MAX_REPLY + 1))


@pytest.mark.parametrize(
    "parts",
    [(HEAD + b"\r\n", *[b"[]," * 350_000] * 40), (HEAD + b"Content-Encoding: gzip\r\n\r\n" + PACKED,)],
    ids=["as it is sent", "unpacked"],
)
def test_an_answer_larger_than_any(transport, parts):
    with answering(*parts) as url:
        assert "larger" in failure(transport, url).message


@pytest.mark.parametrize("token", [TOKEN, None])
def test_netrc_neither_replaces_our_token_nor_stands_in_for_one(upstream, tmp_path, monkeypatch, token):
    for path in (tmp_path / name for name in (".netrc", "_netrc", "named")):
        path.write_text("machine 127.0.0.1 login other password secret\ndefault login other password secret\n")
        path.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "named"))
    assert requests.utils.get_netrc_auth(upstream.url) == ("other", "secret"), "the trap is set"
    upstream.token = token
    with closing(Transport(token, user_agent="chatapi/test")) as transport:
        assert fetch(transport, upstream.url + PATH).status == 200
    assert upstream.calls[-1].headers.get("Authorization") == (token and f"Bearer {token}")
