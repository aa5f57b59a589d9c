"""Bytes of a stream → what goes on: the fast way says what the careful one says, whatever comes in whatever packets."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fuzz import in_packets, some_of

from chatapi.catalogue import ModelCard
from chatapi.chat import ChatJob
from chatapi.huggingface import relay as relays
from chatapi.huggingface import sse, task_for
from chatapi.huggingface.chat_events import ChatEvents
from chatapi.huggingface.relay import Relay

CARD = ModelCard(id="acme/chat")
HEAD = {"id": "chatcmpl-9f1", "object": "chat.completion.chunk", "created": 1770000123, "model": "provider/x"}


class Closely(ChatEvents):
    """Looks at each event closely."""

    __slots__ = ()

    def glance(self, event):
        return False


class Careful(Relay):
    """One that learns nothing, and looks at each event closely."""

    def __init__(self, card, reader, count):
        super().__init__(card, reader, count)
        reader.__class__ = Closely

    def _learn(self, *args):
        pass


def relayed(kind, packets, n=1):
    """Every item of a stream, and the failure it ended with."""
    job = ChatJob(model=CARD.id, messages=[{"role": "user", "content": "Oi?"}], options={"n": n} if n > 1 else {})
    relay = kind(CARD, task_for(CARD).events(CARD, job), lambda model, usage: usage)
    items = []
    for packet in packets:
        items += relay.take(packet)
        if relay.failure or relay.done:
            break
    else:
        items += relay.end()
    if not relay.failure:
        try:
            items += relay.finish()
        except Exception as error:
            return items, error
    return items, relay.failure


def meaning(items):
    """What a caller is told, piece by piece, whatever kind of item tells it."""
    told, of = [], None
    for item in items:
        if isinstance(item, list):
            told += [(*of, {"content": json.loads(b'"' + piece + b'"')}) for piece in item]
            continue
        of = (item.model, item.system_fingerprint, dict(item.extra))
        for choice in item.choices:
            delta = choice["delta"]
            rest = {k: v for k, v in choice.items() if k != "delta" and v is not None and (k, v) != ("index", 0)}
            told.append((*of, delta, *([rest] if rest else [])))
        if item.usage:
            told.append(item.usage)
    return told


def check_alike(packets, n=1):
    fast, failed = relayed(Relay, packets, n)
    careful, failed_carefully = relayed(Careful, packets, n)
    assert meaning(fast) == meaning(careful)
    assert repr(failed) == repr(failed_carefully)
    for item in fast:
        for piece in item if isinstance(item, list) else ():
            assert not any(end in piece for end in (b"\n", b"\r", b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85"))
            piece.decode()
    return fast


def event(delta=None, finish=None, dumps=json.dumps, **more):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    choice |= {key: more.pop(key) for key in ("index", "logprobs", "stop_reason") if key in more}
    return dumps({**HEAD, "choices": [choice], **more})


def framed(datas, before="data: ", after="\n\n"):
    return "".join(f"{before}{data}{after}" for data in datas).encode()


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# ---------------------------------------------------------------- what is fast


def test_events_that_differ_in_their_text_alone_are_passed_on_as_they_are():
    words = [" uma", " ação", ' "boa"', "\\n", " 🎉", "\u2028", " fim"]
    events = [event({"role": "assistant", "content": ""}), *[event({"content": w}, dumps=compact) for w in words]]
    stream = framed([*events, event({}, "stop"), "[DONE]"])
    fast = check_alike([stream])
    assert sum(len(item) for item in fast if isinstance(item, list)) >= len(words) - 3
    texts = [delta["content"] for *_, delta in meaning(fast)[1:-2]]
    assert texts == words


def test_what_an_event_without_a_choice_adds_goes_out_with_the_next_one():
    events = [event({"content": word}) for word in ("um", " dois", " três")]
    added = json.dumps({**HEAD, "choices": [], "provider": "Together"})
    fast = check_alike([framed([*events, added, *events, event({}, "stop"), "[DONE]"])])
    assert {"provider": "Together"} in [told[2] for told in meaning(fast) if isinstance(told, tuple)]


@pytest.mark.parametrize("after", ["\n\n", "\r\n\r\n", "\r\r"])
@pytest.mark.parametrize("before", ["data: ", "data:", ": beat\n\ndata: ", "event: message\ndata: "])
@pytest.mark.parametrize("size", [1, 7, 100, 1000, 10**6])
def test_every_framing_in_packets_of_any_size(before, after, size):
    events = [event({"content": f" tok{number}"}) for number in range(50)]
    stream = framed([*events, event({}, "stop"), "[DONE]"], before.replace("\n", after[: len(after) // 2]), after)
    fast = check_alike([stream[at : at + size] for at in range(0, len(stream), size)])
    texts = [t[3]["content"] for t in meaning(fast) if isinstance(t, tuple) and "content" in t[3]]
    assert texts == [f" tok{number}" for number in range(50)]
    if size > 1000 and before in ("data: ", "data:"):
        assert len(fast) == 4, "a chunk, a run, finish and usage"


def test_what_an_upstream_adds_to_every_event_stays_beside_the_pieces():
    events = [event({"content": word}, provider="Together", service_tier=None) for word in ("a", "b", "c")]
    fast = check_alike([framed([*events, event({}, "stop")])])
    assert any(isinstance(item, list) for item in fast)
    assert all(told[2] == {"provider": "Together"} for told in meaning(fast)[:3])


NOT_PLAIN = {  # how often asked, and what an event says beside its text
    "two-choices": (2, lambda at: {"index": at % 2}),
    "logprobs": (1, lambda at: {"logprobs": {"content": []}}),
    "stop-reason": (1, lambda at: {"stop_reason": "x"}),
    "usage": (1, lambda at: {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    "changing": (1, lambda at: {"nonce": str(at)}),
}
ODDLY_WRAPPED = {
    "an event in a list": lambda text: f"[{event({'content': text})}]",
    "a choice that is a text": lambda text: json.dumps({**HEAD, "choices": [text]}),
    "a choice that is a number": lambda text: json.dumps({**HEAD, "choices": [5]}),
    "a choice in a list": lambda text: json.dumps({**HEAD, "choices": [[{"delta": {"content": text}}]]}),
}
NOT_LEARNT = {how: (1, [wrap(f"t{at}") for at in range(3)]) for how, wrap in ODDLY_WRAPPED.items()}
NOT_LEARNT |= {
    how: (n, [event({"content": f"t{at}"}, **more(at)) for at in range(20)]) for how, (n, more) in NOT_PLAIN.items()
}


@pytest.mark.parametrize("n, events", NOT_LEARNT.values(), ids=NOT_LEARNT)
def test_what_is_not_plain_or_oddly_wrapped_is_read_and_not_learnt(n, events):
    ends = [event({}, "stop", index=index) for index in range(n)]
    fast = check_alike([framed([*events, *ends, "[DONE]"])], n)
    assert not any(isinstance(item, list) for item in fast)


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
LEARNT = [framed([event({"content": "a"}, dumps=compact)])]
NEXT = framed([event({"content": "b"}, dumps=compact)])
ENDED = framed([event({}, "stop"), "[DONE]"])
ESCAPED = '{"choices":[{"index":0,"delta":{"c\\u006fntent":"%s"},"finish_reason":null}],"x":{"content":"%s"}}'
LOOKS_ORDINARY = {
    "a failure beside usage": [*LEARNT, framed([json.dumps({"object": "error", "choices": [], "usage": USAGE})])],
    "a line end within a text": [*LEARNT, NEXT.replace(b'"b"', b'"b\nb"'), ENDED],
    "an event whose beginning came before": [*LEARNT, b"data: ", NEXT, ENDED],
    "an event called error": [*LEARNT, b"event: error\n", NEXT, ENDED],
    "a name that is escaped": [framed([ESCAPED % ("a", word) for word in "abc"]), ENDED],
    "a text in another place before": [framed([event({"text": "Oi"}), event({"content": "Oi, tudo"})]), ENDED],
    "two endings": [*LEARNT, framed([event({}, "length"), event({}, "stop"), "[DONE]"])],
    "another choice": [*LEARNT, framed([event({"content": "b"}, index=1), event({"content": "c"})]), ENDED],
}


@pytest.mark.parametrize("packets", LOOKS_ORDINARY.values(), ids=LOOKS_ORDINARY)
def test_what_only_looks_ordinary_is_read_closely(packets):
    check_alike(packets)


def test_the_cut_of_two_endings_is_told():
    assert meaning(relayed(Relay, LOOKS_ORDINARY["two endings"])[0])[-2][-1]["finish_reason"] == "length"


def test_an_event_is_as_large_as_it_is_whatever_came_before(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT", 1000)
    packets = [packet for _ in range(100) for packet in (b": still here\n\n", framed([event({"provider": "x"})]))]
    assert relayed(Relay, [*LEARNT, *packets, ENDED])[1] is None


# ---------------------------------------------------------------- alike, whatever comes

TEXTS = st.text(max_size=6) | st.sampled_from(
    ["\ud83d", "\ude00", "\u2028", "\u0085", '"', "\\", "\\u0041", "\x00", "\x1f", "🎉", '"},"logprobs":null', "\n\n"]
)
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, TEXTS),
    st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS),
    st.sampled_from(
        [
            *({}, None, {"content": None}, {"reasoning_content": "Hm."}, {"content": "a", "reasoning_content": "Hm."}),
            *({"content": [{"type": "text", "text": "part"}]}, {"content": "a", "tool_calls": []}, {"text": "a"}),
            {"tool_calls": [{"index": 0, "id": "a1", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "assistant", "content": "a", "refusal": None, "toolCalls": None, "text": None},
            {"role": "assistant", "content": "", "reasoning_content": ""},
            *({"content": "a", "audio": {"transcript": "b"}}, {"refusal": "No."}),
        ]
    ),
)
COUNTS = {"prompt_tokens": 3, "completion_tokens": 2}
BESIDE = {
    "index": [0, 0, 1, 2, None, "1"],
    "choices": [[], [], None, {}],
    "object": ["error", "chat.completion"],
    "done": [None, True],
    "message": [None, "fail"],
    "id": ["chatcmpl-9f1", "other", ""],
    "created": [1770000123, 1770000124],
    "provider": ["Together", 'a"content":"b'],
    "usage": [None, {}, COUNTS, {**COUNTS, "completion_tokens": -1}],
    "logprobs": [None, {"content": [{"token": "a", "logprob": -0.5}]}],
    "stop_reason": [None, 7],
    "error": [None, {}],
    "system_fingerprint": [None, "fp1"],
}
MORE = some_of(**{name: st.sampled_from(values) for name, values in BESIDE.items()})
DUMPS = st.sampled_from([json.dumps, compact])


def encoded(delta, finish, dumps, more):
    return event(delta, finish, dumps, **more).encode("utf-8", "backslashreplace")


PLAIN = st.builds(
    encoded, st.builds(lambda text: {"content": text}, TEXTS), st.none(), st.just(json.dumps), st.just({})
)
ODD = st.builds(encoded, DELTAS, st.sampled_from([None, None, None, "stop", "length", "abort"]), DUMPS, MORE)
WRONG = st.sampled_from(
    [b"zz", b"{}", b"[]", b"null", b'{"choices":[]}', b'{"error":{"message":"no","code":500}}', b"[DONE]", b'{"a":NaN}']
)
BYTES = PLAIN.map(lambda data: data.replace(b"c", b"\xff")) | PLAIN.map(lambda data: data[:-3])
EVENTS = st.lists(PLAIN | PLAIN | PLAIN | ODD | WRONG | BYTES, max_size=12)


@settings(max_examples=400)
@given(
    datas=EVENTS,
    end=st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\n: beat\n\n"]),
    before=st.sampled_from([b"data: ", b"data:", b"id: 1\ndata: ", b"event: error\ndata: ", b"\xef\xbb\xbfdata: "]),
    cuts=st.lists(st.integers(0, 4000), max_size=8),
    closed=st.booleans(),
    n=st.sampled_from([1, 1, 1, 2]),
)
def test_fast_and_careful_say_the_same(datas, end, before, cuts, closed, n):
    usual = b"data: "
    stream = b"".join((before if at == len(datas) // 2 else usual) + data + end for at, data in enumerate(datas))
    stream = stream if closed else stream[: -len(end)]
    check_alike(in_packets(stream, cuts), n)


# ---------------------------------------------------------------- ends, and no end


def test_an_error_on_a_line_of_its_own_says_why_a_stream_ended():
    stray = b'{"error": {"message": "the worker died", "code": 503}}\n\n'
    for packets in ([stray], [framed([event({"content": "a"})]), stray]):
        assert "the worker died" in relayed(Relay, packets)[1].message
    whole = framed([event({"content": "a"}), event({}, "stop")])
    assert relayed(Relay, [whole, stray])[1] is None, "the answer had ended"


def test_a_stream_without_events_says_what_came():
    items, failure = relayed(Relay, [b"data: Too many people here\n\n"])
    assert items == []
    assert "Too many people here" in failure.message


ENDLESS = {"empty-objects": b"data: {}\n\n", "no-json": b"data: zz\n\n", "comments": b": still here\n\n"}
ENDLESS["empty-deltas"] = framed([event({})])
ENDLESS["preludes"] = framed([json.dumps({**HEAD, "choices": []})])


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS)
def test_what_says_nothing_ends(data, monkeypatch):
    monkeypatch.setattr(relays, "MAX_SILENT_EVENTS", 2000)
    packets = itertools.chain([framed([event({"content": "a"})])], itertools.repeat(data * 100, 100))
    _, failure = relayed(Relay, packets)
    assert failure.code == "upstream_unavailable"
    assert "say nothing" in failure.message
    assert not failure.blames_upstream


def test_words_between_them_are_an_answer(monkeypatch):
    monkeypatch.setattr(relays, "MAX_SILENT_EVENTS", 200)
    quiet = b": hm\n\n" * 150
    packets = [part for _ in range(10) for part in (quiet, framed([event({"content": "a"})]))]
    items, failure = relayed(Relay, [*packets, framed([event({}, "stop"), "[DONE]"])])
    assert failure is None
    assert len(meaning(items)) == 12
