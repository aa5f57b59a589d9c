"""The engine over a real upstream: who is waited for while another model is left, and what opens a circuit."""

import gzip
import json
from contextlib import suppress

import pytest
from support.sockets import sending, serving
from support.upstream import ERRORS, TEXT, fault, say

from chatapi.call import Call
from chatapi.catalogue import Catalogue, ModelCard
from chatapi.chat import ChatJob
from chatapi.engine.circuit import FAILURES, Board, Circuit
from chatapi.engine.engine import Engine, FallbackChain, TimeLimits
from chatapi.errors import ContextLengthExceeded, UpstreamUnavailable
from chatapi.huggingface import HuggingFace, Transport

HI = [{"role": "user", "content": "hi there"}]


@pytest.fixture
def engine(upstream, transport):
    return Engine(Catalogue({}), HuggingFace(transport, upstream.url, 1), TimeLimits(20, 20, 20), Circuit(Board()))


def reply(engine, **fields):
    call, job = Call("-", seconds=20), ChatJob(**{"messages": HI, "fallbacks": (), **fields})
    engine.begin(job, call)
    return engine.reply(job, call)


def test_a_stream_is_passed_on_as_its_packets_come(engine, upstream):
    upstream.behave("slow/model", lambda x: say(x, pause=0.02))
    call, job = Call("-", seconds=20), ChatJob(model="slow/model", messages=HI, fallbacks=(), stream=True)
    engine.begin(job, call)
    items = list(engine.stream(job, call))
    assert len(items) > 3
    said = [c["delta"].get("content") or "" for item in items if not isinstance(item, list) for c in item.choices]
    pieces = [json.loads(b'"' + piece + b'"') for item in items if isinstance(item, list) for piece in item]
    assert "".join(said + pieces) == TEXT


@pytest.mark.parametrize("retry_after, answered", [("1", "busy/model"), ("4", "other/model")])
def test_a_model_that_is_busy_for_long_is_not_waited_for_while_another_is_left(engine, upstream, retry_after, answered):
    upstream.sequence("busy/model", [fault(429, "slow down", headers={"Retry-After": retry_after}), "ok"])
    upstream.behave("other/model", "ok")
    answer = reply(engine, model="busy/model", fallbacks=("other/model",))
    assert (answer.model, answer.text) == (answered, TEXT)


@pytest.mark.parametrize("asked, opens", [({}, True), ({"options": {"tools": [{"type": "function"}]}}, False)])
def test_errors_that_a_request_itself_may_cause_open_no_circuit(engine, upstream, asked, opens):
    upstream.behave("ill/model", fault(501, "no"))
    for _ in range(FAILURES):
        with suppress(UpstreamUnavailable):
            reply(engine, model="ill/model", **asked)
    assert bool(engine.circuit.opened()) is opens


def test_a_whole_answer_that_comes_packed_in_one_packet_is_unpacked_to_its_end():
    said = "word " * 400_000
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    body = gzip.compress(json.dumps({"object": "chat.completion", "model": "a/x", "choices": [choice]}).encode())
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    transport = Transport("hf_test", "chatapi/test")
    with serving(sending(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)) as port:
        client = HuggingFace(transport, f"http://127.0.0.1:{port}", 1)
        engine = Engine(Catalogue({}), client, TimeLimits(20, 20, 20), Circuit(Board()))
        assert reply(engine, model="a/x").text == said
    transport.close()


def test_a_refused_continuation_of_its_own_hides_no_cut(upstream):
    upstream.sequence("a/x", ["cut", ERRORS["validation"]])
    transport = Transport("hf_test", "chatapi/test")
    catalogue = Catalogue({"a/x": ModelCard(id="a/x", prefill=True)})
    engine = Engine(catalogue, HuggingFace(transport, upstream.url, 1), TimeLimits(20, 20, 20), Circuit(Board()))
    call, job = Call("-", seconds=20), ChatJob(model="a/x", messages=HI, fallbacks=(), stream=True)
    engine.begin(job, call)
    with pytest.raises(UpstreamUnavailable) as cut:
        list(engine.stream(job, call))
    assert cut.value.retryable
    assert [asked.body["messages"][-1]["role"] for asked in upstream.calls_for("a/x")] == ["user", "assistant"]
    transport.close()


def test_models_no_larger_than_one_that_was_too_small_are_not_left():
    cards = [ModelCard(id=str(size), context_tokens=size) for size in (4096, 9000, 2000, 4096)]
    chain = FallbackChain(cards, Call("-", seconds=20))
    assert chain.next().context_tokens == 4096
    assert not chain.is_last
    chain.note(ContextLengthExceeded("too long"))
    assert chain.next().context_tokens == 9000
    assert chain.is_last
    assert chain.next() is None


def test_only_models_that_are_turned_to_count_as_fallbacks(engine, upstream):
    sizes = {"a/x": 8000, "b/x": 4000, "c/x": 99000}
    engine.catalogue = Catalogue({id: ModelCard(id=id, context_tokens=size) for id, size in sizes.items()})
    upstream.behave("a/x", "context-length")
    upstream.behave("c/x", "ok")
    call, job = Call("-", seconds=20), ChatJob(model="a/x", messages=HI, fallbacks=("b/x", "c/x"))
    engine.begin(job, call)
    assert engine.reply(job, call).model == "c/x"
    assert (call.asked, call.fallbacks) == (["a/x", "c/x"], 1)
