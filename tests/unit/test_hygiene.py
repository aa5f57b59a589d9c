"""What an upstream repeats of our token, and whom a proxy's words let in: told in one process."""

from dataclasses import replace

import pytest
from support.dialects import LEGACY, V1, asking
from support.dialects import NEW as CHAT
from support.upstream import fault

from chatapi import create_app
from chatapi.caller import Limits

TOKEN = "hf_test-token"  # the gateway's own, as conftest.py has it


def whole(x):
    """As debug servers do, which answer with the request they got."""
    fault(401, f"not for you: Authorization: {x.call.headers['authorization']}").send(x)


def in_its_stream(x):
    x.start_stream()
    x.event({"choices": [{"index": 0, "delta": {"content": "a"}}]})
    x.event({"error": {"message": f"not for you: {x.call.headers['authorization']}", "code": 500}})
    x.end()


@pytest.mark.parametrize(
    "repeating, path, stream",
    [
        *((whole, CHAT, False), (whole, LEGACY, False), (whole, V1, True)),
        *((in_its_stream, CHAT, True), (in_its_stream, V1, True)),
    ],
)
def test_an_upstream_that_repeats_our_token_does_not_make_us_tell_it(upstream, client, repeating, path, stream):
    upstream.behave("test/telltale", repeating)
    answer = client.post(path, json=asking(path, "test/telltale", stream=stream, max_time=1))
    assert '"error"' in answer.text  # in a stream, perhaps after the status
    assert TOKEN not in answer.text


@pytest.fixture
def counted(settings, upstream, tmp_path):
    """The statuses of calls made one after the other, as (address, X-Forwarded-For): so many a minute are allowed."""

    def count(proxies, calls, rpm=2):
        own = {"database_url": f"sqlite:///{tmp_path}/chatapi.db", "anonymous_limits": Limits(rpm=rpm)}
        app, found = create_app(replace(settings, auth="off", trusted_proxies=proxies, **own)), []
        for address, said in calls:
            headers = {"X-Forwarded-For": said} if said is not None else {}
            made = {"json": asking(V1, "test/ok"), "headers": headers, "environ_base": {"REMOTE_ADDR": address}}
            found.append(app.test_client().post(V1, **made).status_code)
        app.extensions["chatapi"].store.close()
        return found

    return count


A, B = "203.0.113.1", "203.0.113.2"
PROXY = "10.0.0.1"


def through(*said):
    return [(PROXY, words) for words in said]


ALL, SHARED = [200, 200, 200], [200, 200, 429]
LONG = (f"192.0.2.1, {A}", f"192.0.2.2, {A}", f"192.0.2.3,192.0.2.4,{A}")
ADDRESSES = {
    "no proxy: its own address counts": (0, [(A, None)] * 3, SHARED),
    "no proxy: each has its own": (0, [(A, None), (A, None), (B, None)], ALL),
    "no proxy: what it says counts for nothing": (0, [(A, f"192.0.2.{last}") for last in (1, 2, 3)], SHARED),
    "no proxy: nor for others": (0, [(A, B), (A, B), (B, None)], ALL),
    "one proxy: the last entry counts": (1, through(A, A, A), SHARED),
    "one proxy: each has its own": (1, through(A, A, B), ALL),
    "one proxy: what stands before it is made up": (1, through(*LONG), SHARED),
    "one proxy: nobody can spend what is another's": (1, through(f"{B}, {A}", f"{B}, {A}", B), ALL),
    "one proxy, which says nothing": (1, through(None, None, None), SHARED),
    "two proxies: the last but one counts": (
        2,
        through(f"{A}, 10.0.0.2", f"{B}, {A}, 10.0.0.2", f"{A}, 10.0.0.3"),
        SHARED,
    ),
    "two proxies, and fewer entries: whoever connects counts": (2, through(A, B, "192.0.2.9"), SHARED),
}


@pytest.mark.parametrize("proxies, calls, wanted", ADDRESSES.values(), ids=ADDRESSES)
def test_whose_calls_are_counted(counted, proxies, calls, wanted):
    assert counted(proxies, calls) == wanted


GARBAGE = [
    "", ",", ", ,", "unknown", "_hidden", "fe80::1%eth0", "[2001:db8::1]:443", f"{A}:443", "999.1.1.1",
    "::ffff:999.1.1.1",
    "' OR 1=1 --", "é", "x" * 5000, ",".join(["1.1.1.1"] * 1000), "0x7f000001", "127.1", "%00", "\t",
]  # fmt: skip


@pytest.mark.parametrize("proxies", [0, 1, 10])
def test_garbage_from_a_proxy_breaks_nothing(counted, proxies):
    calls = [(PROXY, text) for said in GARBAGE for text in (said, f"{said}, {said}")]
    assert set(counted(proxies, calls, rpm=1000)) == {200}


@pytest.mark.parametrize("proxies", [0, 1, 2])
def test_nobody_behind_a_proxy_is_local(settings, proxies, tmp_path):
    url = f"sqlite:///{tmp_path}/chatapi.db"
    client = create_app(replace(settings, trusted_proxies=proxies, database_url=url)).test_client()
    assert client.post(V1, json={}).status_code == 400
    for said in ("127.0.0.1", "::1", "127.0.0.1, 127.0.0.1", "localhost"):
        assert client.post(V1, json={}, headers={"X-Forwarded-For": said}).status_code == 401
