"""What a body says does not depend on how its chunks were cut into packets."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzz import in_packets
from support.tables import raised

from chatapi.huggingface.http1 import BadResponse, Response

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Arriving:
    """A socket on which packets arrive one by one."""

    def __init__(self, packets):
        self.packets = iter(packets)

    def settimeout(self, seconds):
        pass

    def recv(self, size):
        return next(self.packets, b"")


def read(packets):
    """All of a body."""
    response = Response(Arriving(packets), b"", time.monotonic() + 60)
    return b"".join(iter(response.read, b""))


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_the_rest_of_a_chunk_may_look_like_one():
    looks_like_one = b"XX" + chunk(b"hello, world")[:-2]
    whole = chunk(looks_like_one)
    assert read([HEAD, whole[:6], whole[6:], b"0\r\n\r\n"]) == looks_like_one


@given(
    datas=st.lists(st.sampled_from([b"a", b"data: b\n\n", b"c\r\nhello, world", b"0\r\n\r\n", b"x" * 300]), max_size=6),
    cuts=st.lists(st.integers(0, 700), max_size=6),
)
def test_chunks_are_the_same_in_any_packets(datas, cuts):
    body = b"".join(map(chunk, datas)) + b"0\r\n\r\n"
    assert read([HEAD, *in_packets(body, cuts)]) == b"".join(datas)
    assert read([HEAD, *map(chunk, datas), b"0\r\n\r\n"]) == b"".join(datas)


@pytest.mark.parametrize("packet", [b"zz\r\nhello, world\r\n", b"-c\r\nhello, world\r\n", b"b\r\nhello, world\r\n"])
def test_a_chunk_that_is_none_is_refused(packet):
    raised(BadResponse, read, [HEAD, packet, b"0\r\n\r\n"])
