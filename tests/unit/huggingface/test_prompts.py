"""Messages → the text a text model reads: the first user message, or HF§7's rendering of a conversation."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import rows

from chatapi.catalogue import Catalogue, ModelCard
from chatapi.chat import estimate_tokens, text_of
from chatapi.huggingface.prompts import prompt_for

FLAN, NEO, BLOOM = "google/flan-t5-base", "EleutherAI/gpt-neo-2.7B", "bigscience/bloom-560m"
DIALOGPT, BLENDERBOT = "microsoft/DialoGPT-medium", "facebook/blenderbot-400M-distill"
TASKS = dict.fromkeys((DIALOGPT, BLENDERBOT, FLAN, NEO, BLOOM), "text-generation")
TASKS |= dict.fromkeys((BLENDERBOT, FLAN), "text2text-generation")
STOPS = ("\nUser:", "\nSystem:")


def turns(*texts, system=None):
    """User and assistant in turn, after a system message if there is one."""
    found = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + found


def card_for(model, **fields):
    return ModelCard(id=model, task=TASKS.get(model, "text-generation"), context="conversation", **fields)


# --- the first user message


def user(*parts):
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


PICTURE = {"type": "image_url", "image_url": {}}
FIRST = {
    "Hi": [turns("Hi")],
    "One": [
        *(turns("One", "Two", "Three"), turns("One", "Two", system="Be brief.")),
        *([before, *turns("One")] for before in ({"role": "assistant", "content": "Two"}, user(), user(PICTURE))),
    ],
    "Three": [turns("", "Two", "Three"), turns(" \n", "Two", "Three")],
    "What?": [[user(PICTURE, "What?"), *turns("x")]],
    "a\nb": [[user("a", "b")]],
    "  kept as it is \n": [turns("  kept as it is \n")],
    "User: not a turn\nAssistant:": [turns("User: not a turn\nAssistant:")],
}


@pytest.mark.parametrize("model", [*TASKS, "org/other"])
@pytest.mark.parametrize("messages, text", rows(FIRST), ids=lambda value: str(value)[:60])
def test_a_text_model_is_asked_with_the_first_user_message(model, messages, text):
    assert prompt_for(ModelCard(id=model, task="text-generation"), messages) == (text, ())


# --- HF§7's renderings, verbatim


EOS = "<|endoftext|>"
TALK = turns("Hi", "Hello.", "How?", system="Be brief.")
GPT2S = [DIALOGPT, "microsoft/DialoGPT-large", "gpt2", "openai-community/gpt2", "a/gpt-neox-20b"]
RENDERED = {
    (f"Be brief.{EOS}Hi{EOS}Hello.{EOS}How?{EOS}", ()): [(model, TALK) for model in GPT2S],
    # Blenderbot counts its spaces.
    (" Hi, how are you?  I'm well.   Any plans?</s>", ()): [
        (BLENDERBOT, turns("Hi, how are you?", "I'm well.", "Any plans?")),
    ],
    ("Continue the dialogue.\nUser: Hi\nAssistant: Hello.\nUser: How?\nAssistant:", ()): [(FLAN, TALK[1:])],
    # A base model completes a dialogue, and stops before the next turn.
    ("Be brief.\nUser: Hi\nAssistant: Hello.\nUser: How?\nAssistant:", STOPS): [
        (NEO, TALK),
        ("bigscience/bloom-560m", TALK),
    ],
}


@pytest.mark.parametrize("model, messages, text, stop", rows(RENDERED), ids=lambda value: str(value)[:30])
def test_each_family_is_given_a_conversation_as_it_was_trained(model, messages, text, stop):
    assert prompt_for(card_for(model), messages) == (text, stop)


OTHERS = {
    ("text-generation", STOPS): ["org/other", "org/chat5-base", "org/gpt5-mini"],
    ("text2text-generation", ()): ["org/other", "bigscience/T0", "google/t5-small", "google/mt5-base"],
}


@pytest.mark.parametrize("model, task, stop", rows(OTHERS))
def test_other_models_are_rendered_by_their_task(model, task, stop):
    prompt = prompt_for(ModelCard(id=model, task=task, context="conversation"), turns("Hi"))
    assert prompt.text.endswith("User: Hi\nAssistant:")
    assert prompt.stop == stop


# --- trimming


def many(count, system=None):
    return turns(*(f"turn number {i} of them" for i in range(count)), system=system)


def fits(card, messages, answer_tokens=0):
    prompt = prompt_for(card, messages, answer_tokens)
    return estimate_tokens(prompt.text) + min(answer_tokens, card.context_tokens // 2) <= card.context_tokens


@pytest.mark.parametrize("model", TASKS)
def test_the_oldest_turns_are_dropped_until_it_fits(model):
    card = card_for(model, context_tokens=128)
    messages = many(41, system="Always be brief.")
    text = prompt_for(card, messages, 40).text
    assert all(words in text for words in ("Always be brief.", "turn number 40 of", "turn number 39 of"))
    assert "turn number 0 of" not in text
    assert fits(card, messages, 40)
    kept = [i for i in range(41) if f"number {i} of" in text]
    assert kept == list(range(kept[0], 41)), "what is kept has no holes"


@pytest.mark.parametrize("model", TASKS)
def test_what_fits_is_whole(model):
    messages = turns("One", "Two", "Three", system="Brief.")
    assert prompt_for(card_for(model, context_tokens=1024), messages, 50) == prompt_for(card_for(model), messages)


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("model", TASKS)
def test_the_system_turn_and_the_last_turn_stay_whatever_happens(model, role):
    messages = [{"role": role, "content": "Always be brief. " * 20}, *turns("first", "second", "last " * 50)]
    text = prompt_for(card_for(model, context_tokens=16), messages, 4096).text
    assert [words in text for words in ("Always be brief.", "last last", "first")] == [True, True, False]


def test_the_system_turn_takes_its_part_of_the_room():
    assert fits(card_for(NEO, context_tokens=200), many(41, system="Always be brief. " * 25))


def test_the_longer_the_answer_may_be_the_shorter_the_prompt_but_it_does_not_push_out_the_conversation():
    lengths = [len(prompt_for(card_for(NEO, context_tokens=256), many(101), answer).text) for answer in (0, 64, 128)]
    assert lengths == sorted(set(lengths), reverse=True)
    assert "second" in prompt_for(card_for(NEO, context_tokens=128), turns("first", "second", "third"), 4096).text


@pytest.mark.parametrize("model", TASKS)
@pytest.mark.parametrize("context_tokens", [None, 100, 10**9])
def test_ten_thousand_turns_take_no_time(model, context_tokens):
    card = card_for(model, context_tokens=context_tokens)
    messages = turns(*("some words of a turn" for _ in range(10_001)), system="Brief.")
    began = time.process_time()
    assert prompt_for(card, messages, 100).text
    assert time.process_time() - began < 1


# --- never empty


@given(
    texts=st.lists(st.text(max_size=12), max_size=6),
    asked=st.text(min_size=1, max_size=12).filter(str.strip),
    system=st.none() | st.text(max_size=12),
    model=st.sampled_from(list(TASKS)),
    context=st.sampled_from(["first-user", "conversation"]),
    context_tokens=st.none() | st.integers(1, 60),
    answer_tokens=st.integers(0, 4096),
)
def test_a_prompt_is_never_empty(texts, asked, system, model, context, context_tokens, answer_tokens):
    messages = [*turns(*texts, system=system), {"role": "user", "content": asked}]
    card = ModelCard(id=model, task=TASKS[model], context=context, context_tokens=context_tokens)
    prompt = prompt_for(card, messages, answer_tokens)
    assert prompt.text.strip()
    assert all(prompt.stop)
    if context == "conversation":
        assert asked in prompt.text
    else:
        assert prompt.text in [text_of(m) for m in messages]


@pytest.mark.parametrize("model", TASKS)
def test_the_catalogues_cards_make_a_prompt(model):
    assert prompt_for(Catalogue.load().find(model), turns("Hi"), 4096).text == "Hi"
