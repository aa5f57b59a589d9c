"""How the answers of text models are read, whole and streamed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import models
from support.models import HI, NEO, TEXTS, ask, chunks, counted, deltas, finishes, id_of, last, reply, text, token
from support.tables import raised

from chatapi.errors import UpstreamUnavailable
from chatapi.huggingface import task_for
from chatapi.schemas.openai import counts

CLASSIC, GENERATE, TEXT2TEXT = models.CLASSIC, models.GENERATE, models.TEXT2TEXT


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
    assert (answer.text, answer.model) == ("hello", card.id)
    [choice] = answer.choices
    assert (choice["index"], choice["message"]["role"], choice["finish_reason"]) == (0, "assistant", "stop")


@pytest.mark.parametrize("body", [[], {}, None, "hello", 5, [[]], [{"generated_text": None}], [None]], ids=str)
@pytest.mark.parametrize("card", [CLASSIC, GENERATE], ids=id_of)
def test_an_answer_has_text_or_an_empty_one(card, body):
    raised(UpstreamUnavailable, reply, card, body)
    assert reply(card, [{"generated_text": ""}]).text == ""


ECHOED_ONCE = {
    "What is up? Not much.": " Not much.",
    "What is up?": "",
    "What is up?What is up?": "What is up?",
    **{text: text for text in ("what is up? Not much.", " What is up?", "Well. What is up?")},
}


@pytest.mark.parametrize("shape", [lambda t: [{"generated_text": t}], lambda t: {"generated_text": t}])
@pytest.mark.parametrize("card", [CLASSIC, GENERATE], ids=id_of)
@pytest.mark.parametrize("generated, text", ECHOED_ONCE.items())
def test_an_echoed_prompt_is_stripped_once(card, shape, generated, text):
    job = ask([{"role": "user", "content": "What is up?"}])
    assert reply(card, shape(generated), job).text == text


TALK = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}, *HI]
COUNT = ask([{"role": "user", "content": "Count: one, two"}], stop=[","])
CUTS = {
    # HF§2.4, §7: these models don't repeat the prompt; an answer may well begin with the caller's word.
    **{f"no echo of text2text: {t}": (TEXT2TEXT, ask(), t, t) for t in ("Hi", "Hi, how are you?")},
    "a rendered conversation": (NEO, ask(TALK), "{prompt}Three.", "Three."),
    **{
        f"where the model goes on as {who}": (NEO, ask(TALK), f" Yes.\n{who}", " Yes.")
        for who in ("User: And?", "System: be", "User:\nSystem:")
    },
    "a stop inside the prompt is no end": (CLASSIC, COUNT, "Count: one, two three, four", " three"),
}


@pytest.mark.parametrize("card, job, generated, said", CUTS.values(), ids=CUTS)
def test_what_is_no_answer_is_cut_off(card, job, generated, said):
    generated = generated.replace("{prompt}", models.payload(card, job)["inputs"])
    assert reply(card, [{"generated_text": generated}], job).text == said


def details(**given):
    return {"generated_text": "hello you", "details": {"finish_reason": "length", **given}}


HEADERS = {"x-prompt-tokens": "9", "x-generated-tokens": "4"}
PLAIN, PREFILL = {"generated_text": "hello you"}, [{"id": number} for number in range(3)]
TEXT_USAGE = {  # HF§6: body before headers before an estimate
    "none": ([PLAIN], {}, None),
    "details-and-headers": (details(generated_tokens=2), HEADERS, (9, 2)),
    "prefill": (details(generated_tokens=2, prefill=PREFILL), {}, (3, 2)),
    "input-length": (details(generated_tokens=2, input_length=11), HEADERS, (11, 2)),
    "headers-only": (PLAIN, HEADERS, (9, 4)),
    "half": (PLAIN, {"x-generated-tokens": "4"}, None),
    "odd-headers": (PLAIN, {"x-prompt-tokens": "x", "x-generated-tokens": "-1"}, None),
    "characters": ([PLAIN], {"x-compute-characters": "2"}, None),
}


@pytest.mark.parametrize("body, headers, told", TEXT_USAGE.values(), ids=TEXT_USAGE)
def test_usage_of_text_answers(body, headers, told):
    usage = reply(GENERATE, body, headers=headers).usage
    assert usage.source == ("upstream" if told else "estimate")
    found = (usage.prompt_tokens, usage.completion_tokens)
    assert found == told if told else 1 <= found[0] <= 3 and 2 <= found[1] <= 6


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("card", [CLASSIC, TEXT2TEXT], ids=id_of)
def test_hf_inference_does_not_stream(card):
    assert task_for(card).events(card, ask()) is None


WHOLE_AT_THE_END = {
    "nothing": [token(" Bl"), last("", " Blue")],
    "a token": [token(" Bl"), last("u", " Blue")],
    "a special one": [token(" Bl"), last("</s>", " Blue", True)],
    "the prompt before it": [token(" Bl"), token("ue"), last("</s>", "Q: colour? Blue", True)],
    "alone": [{"generated_text": " Blue"}],
    "special ones between": [*(token(t, t[0] == "<") for t in ("<s>", " Blue", "<unk>")), last("</s>", " Blue", True)],
}


@pytest.mark.parametrize("events", WHOLE_AT_THE_END.values(), ids=WHOLE_AT_THE_END)
def test_of_the_whole_text_at_the_end_what_no_token_said_is_said(events):
    made, reader = chunks(GENERATE, events)
    assert (text(made), finishes(made), reader.count().source) == (" Blue", [(0, "stop")], "estimate")


def test_a_generate_stream_may_say_its_end_beside_the_text():
    reader = task_for(GENERATE).events(GENERATE, ask())
    reader.feed(token(" Bl"))
    error = raised(UpstreamUnavailable, reader.feed, {**last("ue", " Blue"), "finish_reason": "abort"})
    assert "abort" in error.message


def test_a_generate_stream():
    end = last("</s>", " Blue", True, finish_reason="eos_token", generated_tokens=2, input_length=9)
    made, reader = chunks(GENERATE, [token(" Bl"), token("ue"), end])
    assert deltas(made) == [{"role": "assistant", "content": " Bl"}, {"content": "ue"}, {}]
    assert (finishes(made), {chunk.model for chunk in made}) == ([(0, "stop")], {"acme/tgi"})
    assert counts(reader.count()) == counted(9, 2)


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
    reader = task_for(GENERATE).events(GENERATE, models.with_stops("###"))
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
