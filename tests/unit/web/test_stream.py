"""A streamed answer as it is written out."""

from chatapi.call import Call
from chatapi.chat import ChatJob
from chatapi.schemas import OPENAI
from chatapi.web.stream import MAX_WRITE, EventStream

PIECE = b"x" * 1000


def test_what_is_there_already_goes_out_together_and_no_more_at_once_than_a_write_takes():
    call = Call("-")
    call.more_ready = True
    items = iter([[PIECE] for _ in range(500)])
    stream = EventStream(call, ChatJob(model="a/b", messages=[]), OPENAI, items, None)
    written = [next(stream) for _ in range(4)]
    assert all(MAX_WRITE <= len(data) < MAX_WRITE + 2 * len(PIECE) for data in written)
