"""How the answers of text models are read, whole and streamed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import (
    CLASSIC,
    GENERATE,
    HI,
    NEO,
    TEXT2TEXT,
    TEXTS,
    ask,
    chunks,
    counted,
    deltas,
    finishes,
    id_of,
    last,
    payload,
    reply,
    text,
    token,
    with_stops,
)

from chatapi.errors import UpstreamUnavailable
from chatapi.huggingface.tasks import task_for
from chatapi.schemas.openai import counts

# ---------------------------------------------------------------- whole answers

SHAPES = {
    "list": [{"generated_text": "hello"}],
    "dict": {"generated_text": "hello"},
    "nested": [[{"generated_text": "hello"}], [{"generated_text": "other"}]],
    "several": [{"generated_text": "hello"}, {"generated_text": "other"}],
    "conversational": {"generated_text": "hello", "conversation": {"generated_responses": ["x"]}, "warnings": ["y"]},
    "translation": [{"translation_text": "hello"}],
    "summary": [{"summary_text": "hello"}],
    "summary-beside-nothing": [{"generated_text": "", "summary_text": "hello"}],
    "details": {"generated_text": "hello", "details": {"finish_reason": "eos_token", "generated_tokens": 2}},
}


@pytest.mark.parametrize("card", TEXTS, ids=id_of)
@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES)
def test_every_shape_of_a_text_answer(card, body):
    answer = reply(card, body)
    assert answer.text == "hello"
    assert answer.model == card.id
    [choice] = answer.choices
    assert choice["message"]["role"] == "assistant"
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")


def test_an_empty_text_is_an_answer():
    assert reply(CLASSIC, [{"generated_text": ""}]).text == ""


@pytest.mark.parametrize("body", [[], {}, None, "hello", 5, [[]], [{"generated_text": None}], [None]], ids=str)
@pytest.mark.parametrize("card", [CLASSIC, GENERATE], ids=id_of)
def test_answers_without_text(card, body):
    with pytest.raises(UpstreamUnavailable):
        reply(card, body)


@pytest.mark.parametrize("shape", [lambda t: [{"generated_text": t}], lambda t: {"generated_text": t}])
@pytest.mark.parametrize("card", [CLASSIC, GENERATE], ids=id_of)
@pytest.mark.parametrize(
    "generated, text",
    [
        ("What is up? Not much.", " Not much."),
        ("What is up?", ""),
        ("What is up?What is up?", "What is up?"),
        ("what is up? Not much.", "what is up? Not much."),
        (" What is up?", " What is up?"),
        ("Well. What is up?", "Well. What is up?"),
    ],
)
def test_an_echoed_prompt_is_stripped_once(card, shape, generated, text):
    job = ask([{"role": "user", "content": "What is up?"}])
    assert reply(card, shape(generated), job).text == text


@pytest.mark.parametrize("generated", ["Hi", "Hi, how are you?"])
def test_text2text_answers_are_never_an_echo(generated):
    """HF§2.4, §7: these models don't repeat the prompt; an answer may well begin with the caller's word."""
    assert reply(TEXT2TEXT, [{"generated_text": generated}]).text == generated


TALK = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}, *HI]


def test_a_rendered_conversation_is_stripped_too():
    prompt = payload(NEO, ask(TALK))["inputs"]
    assert reply(NEO, [{"generated_text": prompt + " Three."}], ask(TALK)).text.strip() == "Three."


@pytest.mark.parametrize("said", [" Yes.\nUser: And?", " Yes.\nSystem: be", " Yes.\nUser:\nSystem:"])
def test_a_conversation_ends_where_the_model_goes_on_as_the_user(said):
    assert reply(NEO, [{"generated_text": said}], ask(TALK)).text == " Yes."


def test_a_stop_inside_the_prompt_is_no_end():
    job = ask([{"role": "user", "content": "Count: one, two"}], stop=[","])
    assert reply(CLASSIC, [{"generated_text": "Count: one, two three, four"}], job).text == " three"


def details(**given):
    return {"generated_text": "hello you", "details": {"finish_reason": "length", **given}}


HEADERS = {"x-prompt-tokens": "9", "x-generated-tokens": "4"}
TEXT_USAGE = {  # HF§6: body before headers before an estimate
    "none": ([{"generated_text": "hello you"}], {}, None),
    "details-and-headers": (details(generated_tokens=2), HEADERS, (9, 2)),
    "prefill": (details(generated_tokens=2, prefill=[{"id": 1}, {"id": 2}, {"id": 3}]), {}, (3, 2)),
    "input-length": (details(generated_tokens=2, input_length=11), HEADERS, (11, 2)),
    "headers-only": ({"generated_text": "hello you"}, HEADERS, (9, 4)),
    "half": ({"generated_text": "hello you"}, {"x-generated-tokens": "4"}, None),
    "odd-headers": ({"generated_text": "hello you"}, {"x-prompt-tokens": "x", "x-generated-tokens": "-1"}, None),
    "characters": ([{"generated_text": "hello you"}], {"x-compute-characters": "2"}, None),
}


@pytest.mark.parametrize("body, headers, counts", TEXT_USAGE.values(), ids=TEXT_USAGE)
def test_usage_of_text_answers(body, headers, counts):
    usage = reply(GENERATE, body, headers=headers).usage
    if counts:
        assert (usage.prompt_tokens, usage.completion_tokens, usage.source) == (*counts, "upstream")
    else:
        assert usage.source == "estimate"
        assert 1 <= usage.prompt_tokens <= 3
        assert 2 <= usage.completion_tokens <= 6


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("card", [CLASSIC, TEXT2TEXT], ids=id_of)
def test_hf_inference_does_not_stream(card):
    assert task_for(card).events(card, ask()) is None


@pytest.mark.parametrize(
    "events",
    [
        [token(" Bl"), last("", " Blue")],
        [token(" Bl"), last("u", " Blue")],
        [token(" Bl"), last("</s>", " Blue", True)],
        [token(" Bl"), token("ue"), last("</s>", "Q: colour? Blue", True)],
        [{"generated_text": " Blue"}],
        [token("<s>", True), token(" Blue"), token("<unk>", True), last("</s>", " Blue", True)],
    ],
    ids=["nothing", "a token", "a special one", "the prompt before it", "alone", "special ones between"],
)
def test_of_the_whole_text_at_the_end_what_no_token_said_is_said(events):
    made, reader = chunks(GENERATE, events)
    assert (text(made), finishes(made), reader.count().source) == (" Blue", [(0, "stop")], "estimate")


def test_a_generate_stream_may_say_its_end_beside_the_text():
    reader = task_for(GENERATE).events(GENERATE, ask())
    reader.feed(token(" Bl"))
    with pytest.raises(UpstreamUnavailable, match="abort"):
        reader.feed({**last("ue", " Blue"), "finish_reason": "abort"})


def test_a_generate_stream():
    events = [token(" Bl"), token("ue"), last("</s>", " Blue", True, finish_reason="eos_token")]
    made, _ = chunks(GENERATE, events)
    assert deltas(made) == [{"role": "assistant", "content": " Bl"}, {"content": "ue"}, {}]
    assert finishes(made) == [(0, "stop")]
    assert {chunk.model for chunk in made} == {"acme/tgi"}


def test_usage_of_a_generate_stream():
    end = last("b", "ab", finish_reason="length", generated_tokens=2, input_length=9)
    assert counts(chunks(GENERATE, [token("a"), end])[1].count()) == counted(9, 2)


# A stop string may come in one token, over several, or with text after it; what comes after is never seen.
STREAM_CUTS = {
    "none": (["one", " two"], ["###"], "one two"),
    "one-token": (["one", "###"], ["###"], "one"),
    "over-tokens": (["one", "#", "#", "#"], ["###"], "one"),
    "over-tokens-with-more": (["one#", "##tail"], ["###"], "one"),
    "text-after": (["one", "###", " more", " and more"], ["###"], "one"),
    "text-after-in-its-token": (["one### more", " and more"], ["###"], "one"),
    "nearly": (["one##", " two", "#"], ["###"], "one## two#"),
    "nearly-at-the-end": (["one", "##"], ["###"], "one##"),
    "again": (["one", "##", "#", "two", "###"], ["###"], "one"),
    "earliest": (["a", "b", "c", "d"], ["cd", "bc"], "a"),
    "the-fifth": (["a", "E", "b"], ["1", "2", "3", "4", "E"], "a"),
    "at-once": (["###", "one"], ["###"], ""),
    "beyond-ascii": (["olá", "🎉", "ação"], ["🎉"], "olá"),
    "newline": (["Yes.", "\n", "User", ":", " And", "?"], ["\nUser:"], "Yes."),
}


@pytest.mark.parametrize("tokens, stops, said", STREAM_CUTS.values(), ids=STREAM_CUTS)
def test_stops_are_cut_from_streams_and_whole_answers_alike(tokens, stops, said):
    end = last("</s>", "".join(tokens), True, finish_reason="eos_token", generated_tokens=len(tokens))
    made, _ = chunks(GENERATE, [*map(token, tokens), end], ask(stop=stops))
    assert text(made) == said
    assert finishes(made) == [(0, "stop")]
    assert deltas(made)[0]["role"] == "assistant"
    for card in TEXTS:
        answer = reply(card, {"generated_text": "".join(tokens)}, ask(stop=stops))
        assert (answer.text, answer.choices[0]["finish_reason"]) == (said, "stop")


def test_what_cannot_be_a_stop_is_not_held_back():
    reader = task_for(GENERATE).events(GENERATE, with_stops("###"))
    sent = [text([chunk]) if (chunk := reader.feed(token(piece))) else "" for piece in ("one two", "three four")]
    assert "".join(sent).startswith("one twothree fo")


@settings(max_examples=200)
@given(
    st.lists(st.text("ab#", min_size=1, max_size=3), max_size=8),
    st.lists(st.text("ab#", min_size=2, max_size=2), max_size=3),  # of one length: who is first is plain
)
def test_any_cut_is_the_same_streamed_and_whole(tokens, stops):
    joined = "".join(tokens)
    end = last("</s>", joined, True, finish_reason="eos_token", generated_tokens=len(tokens))
    made, _ = chunks(GENERATE, [*map(token, tokens), end], ask(stop=stops))
    assert text(made) == reply(GENERATE, {"generated_text": joined}, ask(stop=stops)).text
    assert text(made) == min((joined.partition(stop)[0] for stop in stops), key=len, default=joined)
