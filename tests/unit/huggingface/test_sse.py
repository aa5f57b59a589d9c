"""Bytes, split anywhere → the data of each event."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzz import in_packets
from support.tables import raised, rows

from chatapi.huggingface import sse
from chatapi.huggingface.sse import ErrorEvent, Events, EventTooLarge, are_events, listed_events


def read(*packets, end=True):
    """The data of every event in `packets`."""
    events = Events()
    found = [data for packet in packets for data in events.feed(events.lines(packet))]
    return found + (list(events.end()) if end else [])


UNICODE = '{"a":"é\u2028\u2029\u0085\x0b\x0c\x1c😀"}'.encode()
ENDS = [(b"\r\n\r\n", b"\r\n\r\n"), (b"\r\n\n", b"\n\r\n"), (b"\r\n\r", b"\n\r")]
STREAMS = [
    *((b"", []), (b"\n\n\n", []), (b"data: a\n\n", [b"a"]), (b"data:a\n\n", [b"a"]), (b"data:  a\n\n", [b" a"])),
    (b'data:{"a":1}\n\ndata: [DONE]\n\n', [b'{"a":1}', b"[DONE]"]),
    *((b"data: a" + one + b"data: b" + two, [b"a", b"b"]) for one, two in ENDS),
    (b"data: a\ndata: b\ndata:c\n\n", [b"a\nb\nc"]),
    *((b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]), (b"data: a\ndata:\ndata: b\n\n", [b"a\n\nb"])),
    (b": a comment\n\ndata: a\n\n:\n\n", [b"a"]),
    (b":data: no\ndata: a\n: within\ndata: b\n\n", [b"a\nb"]),
    (b"event: token\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
    *((b"event: ping\n\ndata: a\n\n", [b"a"]), (b"data: a\r\rdata: b\rdata: c\r\r", [b"a", b"b\nc"])),
    *((b"data\n\ndata: a\n\n", [b"", b"a"]), (b"\xef\xbb\xbfdata: a\n\n", [b"a"])),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: no\ndata: a\n\n", [b"a"]),
    (b"data: \xef\xbb\xbfa\n\n", [b"\xef\xbb\xbfa"]),
    (b"DATA: no\ndatas: no\n data: no\ndata: a\n\n", [b"a"]),
    *((b"\n\n\ndata: a\n\n\n\n", [b"a"]), (b"data: " + UNICODE + b"\n\n", [UNICODE])),
]


@pytest.mark.parametrize(
    "stream, data", STREAMS, ids=lambda value: ascii(value)[:32] if isinstance(value, bytes) else ""
)
def test_events(stream, data):
    assert read(stream, end=False) == data
    assert read(stream) == data
    assert read(*(bytes([byte]) for byte in stream)) == data


@pytest.mark.parametrize(
    "tail", [b"data: a", b"data: a\n", b"data: a\r", b"data: a\r\n", b"data: a\n\n", b"data: a\r\n\r", b"data: a\n\r\n"]
)
def test_the_last_event_may_lack_its_end(tail):
    assert read(b"data: x\n\n" + tail) == [b"x", b"a"]
    assert read(b"data: x\n\n", tail) == [b"x", b"a"]


def test_an_event_waits_for_its_end_and_for_no_lf_after_a_cr():
    events = Events()
    for packet, data in [
        *((b"data: a\n", []), (b"\n", [b"a"])),
        *((b"data: a\r\r", [b"a"]), (b"\ndata: b\r", []), (b"\n\r", [b"b"]), (b"\n\n", [])),
    ]:
        assert list(events.feed(events.lines(packet))) == data
    assert list(events.end()) == []


def test_errors_are_known_by_their_name():
    events = Events()
    found = list(events.feed(events.lines(b"event: error\ndata: no\n\ndata: a\n\nevent:error\n\ndata: b\n\n")))
    assert [(data, isinstance(data, ErrorEvent)) for data in found] == [(b"no", True), (b"a", False), (b"b", False)]


@given(
    events=st.lists(
        st.lists(st.text(max_size=8).filter(lambda text: not set("\r\n") & set(text)), min_size=1, max_size=3),
        max_size=5,
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.booleans(),
    space=st.booleans(),
    comments=st.lists(st.sampled_from([": keep-alive", ":", "event: token", "id: 1"]), max_size=2),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    closed=st.booleans(),
)
def test_any_split_gives_the_same_events(events, end, mark, space, comments, cuts, closed):
    lines = []
    for event in events:
        lines += comments
        lines += [f"data:{' ' if space or line.startswith(' ') else ''}{line}" for line in event]
        lines.append("")
    stream = "".join(line + end for line in lines).encode()
    if not closed:
        stream = stream[: -len(end)] if stream else stream
    stream = b"\xef\xbb\xbf" + stream if mark else stream
    assert read(*in_packets(stream, cuts)) == ["\n".join(event).encode() for event in events]


@given(packets=st.lists(st.binary(max_size=12)))
def test_any_bytes_can_be_fed(packets):
    assert read(*packets) == read(b"".join(packets))


# --- too much


MEGABYTE = 1024 * 1024
MOST = 4 * MEGABYTE
ENDLESS = {  # many lines and never a blank one: each is kept, and costs memory even when there is nothing in it
    "one line": (b"data: ", b"x" * MEGABYTE),
    "large lines": (b"", b"data: " + b"x" * MEGABYTE + b"\n"),
    **{f"lines of {line}": (b"", line * (MEGABYTE // 7)) for line in (b"data: x\n", b"data:\n")},
}
MANY = {  # the limit is an event's, not the stream's
    "whole": (b"", b"data: " + b"x" * MEGABYTE + b"\n\n", 0),
    "each ends one event and begins the next": (b"data: ", b"x" * MEGABYTE + b"\n\ndata: begun\ndata: ", 1),
}


@pytest.fixture
def small(monkeypatch):
    assert sse.MAX_EVENT == 4 * MOST
    monkeypatch.setattr(sse, "MAX_EVENT", MOST)


def test_a_large_event_is_fine():
    data = b"x" * (sse.MAX_EVENT // 2)
    assert read(b"data: " + data + b"\n\n") == [data]


@pytest.mark.parametrize("first, packet", ENDLESS.values(), ids=ENDLESS)
def test_an_event_that_does_not_end_is_refused(small, first, packet):
    raised(EventTooLarge, read, first, *[packet] * (MOST // len(packet) + 2))


@pytest.mark.parametrize("first, packet, more", MANY.values(), ids=MANY)
def test_many_events_may_be_more_than_one_may(small, first, packet, more):
    packets = [packet] * (MOST // len(packet) + 2)
    assert len(read(first, *packets)) == len(packets) + more


@pytest.mark.parametrize("packet", [b"x" * 1400, b"data: x\n" * 175], ids=["one line", "many lines"])
def test_a_long_event_in_small_packets_is_not_quadratic(packet):
    began = time.process_time()
    assert len(read(b"data: ", *[packet] * 1000, b"\n\n")) == 1
    assert time.process_time() - began < 1


FIRST_BYTES = {
    None: [(b"", False), (b"\xef\xbb", False), (b"dat", False)],
    True: [
        *((b"\xef\xbb\xbfdata: a", False), (b": hello", False), (b"retry: 10\n", False)),
        (b"x-stream: 1\ndata: a", True),
    ],
    False: [
        *((b"x-stream: 1\ndata: a", False), (b"Error: busy", False)),
        *((b'{"data": 1}', True), (b"<html>", True), (b'"text"', True)),
    ],
}


@pytest.mark.parametrize("begun, labelled, events", rows(FIRST_BYTES))
def test_the_first_bytes_say_whether_a_body_is_events(begun, labelled, events):
    assert are_events(begun, labelled) is events


LISTED = [
    (b'{"a": 1}\n{"b": 2}\n', [b'{"a": 1}', b'{"b": 2}']),
    (b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"b": 2}', [b'{"a": 1}', b'{"b": 2}']),
    (b'[{"choices": []}, {"choices": [1]}]', [b'{"choices": []}', b'{"choices": [1]}']),
    *((body, []) for body in (b'{\n"a": {}\n}', b'[{"choices": []}]', b'{"a": 1}', b'{"a": 1}\nx', b"")),
]


@pytest.mark.parametrize("body, events", LISTED)
def test_a_body_that_lists_events(body, events):
    assert listed_events(body) == events
