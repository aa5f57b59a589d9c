"""A streamed answer as it is written out."""

import gc
import weakref
from types import SimpleNamespace

import gevent
from flask import g, request
from support.heard import wait_until

from chatapi import create_app
from chatapi.call import Call
from chatapi.chat import ChatJob
from chatapi.schemas import OPENAI
from chatapi.web.response import event_stream
from chatapi.web.stream import MAX_WRITE, EventStream

PIECE = b"x" * 1000


def test_what_is_there_already_goes_out_together_and_no_more_at_once_than_a_write_takes():
    call = Call("-")
    call.more_ready = True
    items = iter([[PIECE] for _ in range(500)])
    job = ChatJob(model="a/b", messages=[])
    stream = EventStream(call, job, OPENAI.events(job), items, event_stream, 15.0)
    written = [next(stream) for _ in range(4)]
    assert all(MAX_WRITE <= len(data) < MAX_WRITE + 2 * len(PIECE) for data in written)


def test_what_is_read_on_for_the_ledger_is_read_once_however_often_it_is_closed():
    def items():
        for _ in range(5):
            gevent.sleep(0)
            yield [b"x"]

    call = Call("-")
    call.drain_s = 5
    job = ChatJob(model="a/b", messages=[])
    stream = EventStream(call, job, OPENAI.events(job), items(), event_stream, 15.0)
    next(stream)
    for _ in range(3):
        stream.close()
        gevent.sleep(0)
    assert wait_until(lambda: gevent.sleep(0.01) or call.ending, 5)
    assert (call.ending, call.completion_tokens) == ("client_left", 5)


def test_no_request_is_kept_while_its_answer_is_streamed_nor_the_stream_when_it_has_ended(settings):
    app = create_app(settings)
    gc.disable()  # what lies in a circle stays until it looks
    try:
        with app.test_request_context():
            g.call = call = Call("-")
            items = iter([[PIECE], [PIECE]])
            call.connection = SimpleNamespace(unwatch=lambda: None)
            job = ChatJob(model="test/ok", messages=[])
            stream = EventStream(call, job, OPENAI.events(job), items, event_stream, 15.0)
            asked = weakref.ref(request._get_current_object())
            stream.start()
        assert asked() is None
        assert PIECE in next(stream)
        stream.close()
        ended = weakref.ref(stream)
        del stream
        assert ended() is None
    finally:
        gc.enable()
