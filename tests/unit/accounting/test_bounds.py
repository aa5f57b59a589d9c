"""The most that a request can cause: no spelling of it, and no number in it, gets a caller more."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import rows

from chatapi import accounting
from chatapi.accounting import MAX_COMPLETION, MAX_TOKENS, TEMPLATE_TOKENS, prompt_bound, token_bounds
from chatapi.accounting.extra_fields import bounded
from chatapi.caller import NO_LIMITS, Limits
from chatapi.chat import ChatJob

HI = [{"role": "user", "content": "hi"}]
PROMPT = 6  # what that is taken to be
TOKENS = Limits(tpm=100_000)


def job(messages=HI, extra=None, **options):
    return ChatJob(model="a/b", messages=messages, options=options, extra=extra or {})


def tokens_to_hold(job, limits):
    return token_bounds(job, limits)[0]


def completion_bound(job):
    return token_bounds(job, NO_LIMITS)[1]


# ---------------------------------------------------------------- what is held back


HELD_BACK = {  # the longest answers → how they are asked for
    40: [
        *({"max_tokens": 40}, {"max_completion_tokens": 40}, {"max_tokens": 40, "max_completion_tokens": -(10**9)}),
        *({"max_tokens": 40, "n": None}, {"max_tokens": 40, "n": -5}),
    ],
    4000: [{"max_completion_tokens": 1, "max_tokens": 4000}, {"max_tokens": 1, "max_completion_tokens": 4000}],
    160: [{"max_tokens": 40, "n": 4}],
    1024: [{"max_tokens": None}, {}],
    3 * 1024: [{"n": 3}],
    0: [{"max_tokens": 0}, {"max_tokens": -(10**9)}],
    MAX_TOKENS - PROMPT: [{"max_tokens": 10**400}, {"max_tokens": 10**200, "n": 10**200}],
}


@pytest.mark.parametrize("options, answer", rows(HELD_BACK), ids=lambda value: str(value)[:40])
def test_the_longest_answers_that_any_spelling_allows_are_held_back(options, answer):
    assert tokens_to_hold(job(**options), TOKENS) == PROMPT + answer
    assert tokens_to_hold(job(**options), NO_LIMITS) == 0


def test_without_a_length_no_more_is_held_back_than_the_limits_allow_at_all():
    for limits, held in [
        (Limits(tpm=500), 500),
        (Limits(tpm=5000), PROMPT + accounting.DEFAULT_COMPLETION),
        (Limits(tpd=9, tpm=500), 9),
    ]:
        assert tokens_to_hold(job(), limits) == held
    assert tokens_to_hold(job(), Limits(tpm=1)) == PROMPT + 1, "which is refused, for ever"


def test_prompts_tools_and_calls_in_the_conversation_are_held_back_too():
    plain = tokens_to_hold(job(max_tokens=1), TOKENS)
    tool = {"type": "function", "function": {"name": "f", "description": "word " * 1000}}
    assert tokens_to_hold(job(max_tokens=1, tools=[tool]), TOKENS) > plain + 1000
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "word " * 1000}}]}
    assert tokens_to_hold(job([*HI, called], max_tokens=1), TOKENS) > plain + 1000
    assert tokens_to_hold(job([{"role": "user", "content": "word " * 1000}], max_tokens=1), TOKENS) > 1000


NUMBERS = st.none() | st.integers(-(10**30), 10**30) | st.integers(-5, 5000)


@given(a=NUMBERS, b=NUMBERS, n=NUMBERS, limit=st.integers(1, 10**12))
def test_no_number_adds_room_or_breaks_anything(a, b, n, limit):
    asked = job(max_tokens=a, max_completion_tokens=b, n=n)
    held, completion = token_bounds(asked, Limits(tpm=limit))
    assert 0 < held <= MAX_TOKENS
    assert 0 <= completion <= MAX_TOKENS
    for length in (a, b):
        if length is not None and 0 < length <= MAX_TOKENS:
            assert held >= min(length * max(1, n or 1), MAX_TOKENS - PROMPT)


# ---------------------------------------------------------------- what goes on to the model

MORE = {
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_length", "max_tokens_to_sample"), 4000),
    **dict.fromkeys(("maxOutputTokens", "MAX_NEW_TOKENS", "max_gen_len", "min_tokens", "min_length"), 4000),
    **dict.fromkeys(("best_of", "num_beams", "num_return_sequences", "candidateCount", "n_completions"), 8),
    "min_new_tokens": "5000",
    "max-output-tokens": 4000.0,
    "ignore_eos": True,
    "thinking_budget": 9000,
    "options": {"num_predict": 4000},
    "parameters": {"max_new_tokens": 4000},
    "reasoning": {"max_tokens": 9000},
    "generation_config": {"inner": [{"maxOutputTokens": 4000}]},
    "thinking": {"type": "enabled", "budget_tokens": 9000},
}
NOT_MORE = (
    {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "length_penalty": 2, "repeat_last_n": 64}
    | {"seed_offset": 7, "stop_token_ids": [1, 2], "skip_special_tokens": True, "return_tokens_as_token_ids": True}
    | {"user_token": "abc", "truncate_prompt_tokens": 100, "prompt_logprobs": 3, "metadata": {"token": "5"}}
    | {"reasoning": {"effort": "high"}}
    | {"guided_json": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5, "minLength": 1}}}}
    | {"structured_outputs": {"json": {"maxLength": 5}}, "prediction": {"type": "content", "content": "length 5"}}
    | {"chat_template_kwargs": {"enable_thinking": False}, "provider": {"order": ["a", "b"]}}
)


@pytest.mark.parametrize("name", MORE)
def test_an_engines_own_word_for_more_tokens_is_left_out_and_named(name):
    given = job(extra={name: MORE[name], "top_k": 5}, max_tokens=2)
    cut = bounded(given, TOKENS)
    assert (dict(cut.extra), cut.ignored) == ({"top_k": 5}, (name,))
    assert tokens_to_hold(cut, TOKENS) == tokens_to_hold(job(max_tokens=2), TOKENS)
    assert bounded(given, Limits(rpm=5, concurrency=1)) is given, "callers without token limits lose nothing"


@pytest.mark.parametrize("name", NOT_MORE)
def test_a_field_that_gives_no_more_tokens_stays(name):
    given = job(extra={name: NOT_MORE[name]})
    assert bounded(given, TOKENS) is given


def test_a_field_however_deep_takes_bounded_time():
    deep = value = {}
    for _ in range(5000):
        value["a"] = value = {}
    given = job(extra={"deep": deep, "long" * 5000: 5, "list": [[[]]] * 10_000})
    assert bounded(given, TOKENS) is given


# ---------------------------------------------------------------- counts


def test_no_true_count_of_a_prompt_is_more_than_its_bytes_and_what_a_server_puts_around_it():
    assert prompt_bound(job()) == TEMPLATE_TOKENS + 4 * len("hi")
    parts = [{"type": "text", "text": "word " * 1000}, {"type": "image_url", "image_url": {"url": "data:,x"}}]
    assert prompt_bound(job([{"role": "user", "content": parts}])) >= TEMPLATE_TOKENS + 4 * 5000 + 100_000
    long = [{"type": "text", "text": "x" * 10**6}] * 1000  # one text, a thousand times
    assert prompt_bound(job([{"role": "user", "content": long}])) == MAX_TOKENS


def test_without_a_length_an_answer_is_as_long_as_the_longest_context():
    assert completion_bound(job()) == MAX_COMPLETION
    assert completion_bound(job(max_tokens=10, n=2)) == 20


def test_names_by_the_hundred_thousand_take_a_moment():
    extra = {f"tokens{number}": 1 for number in range(100_000)}
    began = time.process_time()
    left = bounded(job(extra=extra), Limits(tpm=100))
    assert (left.extra, len(left.ignored)) == ({}, len(extra))
    assert time.process_time() - began < 5
