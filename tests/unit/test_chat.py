"""Values: tokens estimated, texts found."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.chat import ChatJob, Reply, Usage, estimate_tokens, has_image, text_of

IMAGE = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}


# --- tokens


ESTIMATES = [
    *(("", 0, 0), (" ", 1, 1), ("a", 1, 2), ("Hello", 1, 3), ("Hello, world!", 3, 5)),
    *(("The quick brown fox jumps over the lazy dog. " * 10, 100, 140), ("Qual é a capital do Brasil?", 6, 10)),
    *(("supercalifragilisticexpialidocious", 8, 10), ("x" * 4000, 1000, 1000)),
    *(("https://example.test/a/long/path?with=parameters&and=more", 12, 16), ("人工知能とは何ですか", 10, 15)),
    *(("机器学习", 4, 6), ("한국어 문장입니다", 8, 12), ("😀" * 10, 10, 15), ("\u3000" * 8, 8, 8)),
]


@pytest.mark.parametrize("text, least, most", ESTIMATES)
def test_estimates_are_near_what_tokenizers_count(text, least, most):
    assert least <= estimate_tokens(text) <= most


@given(st.text(max_size=60), st.text(max_size=60))
def test_more_text_is_never_fewer_tokens(text, more):
    assert estimate_tokens(text + more) >= estimate_tokens(text)


@given(st.text(min_size=1))
def test_any_text_is_at_least_a_token_and_at_most_three_a_character(text):
    assert 1 <= estimate_tokens(text) <= 3 * len(text)
    assert type(estimate_tokens(text)) is int


def test_a_megabyte_is_estimated_at_once():
    began = time.process_time()
    assert estimate_tokens("words and 漢字 " * 80_000) > 100_000
    assert time.process_time() - began < 2


# --- messages


def text(words):
    return {"type": "text", "text": words}


TEXTS = [
    *(({"content": "Hi"}, "Hi"), ({"content": ""}, ""), ({"content": None}, ""), ({"content": []}, ""), ({}, "")),
    *(({"content": "image_url"}, "image_url"), ({"content": [text("Hi")]}, "Hi"), ({"content": [IMAGE]}, "")),
    *(({"content": [text("a"), IMAGE, text("b")]}, "a\nb"), ({"content": [text(""), text("b")]}, "b")),
    ({"content": [{"type": "image_url", "text": "https://x.test"}]}, ""),
    ({"content": [{"type": "refusal", "refusal": "No."}]}, ""),
]


@pytest.mark.parametrize("message, words", TEXTS)
def test_the_text_of_a_message_and_whether_it_has_an_image(message, words):
    assert text_of({"role": "user", **message}) == words
    images = [part for part in message.get("content") or () if isinstance(part, dict) and part["type"] == "image_url"]
    assert has_image({"role": "user", **message}) is bool(images)


# --- jobs, replies, usage


LIMITS = [
    *(({}, None), ({"max_tokens": 5}, 5), ({"max_completion_tokens": 6}, 6)),
    ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
]


@pytest.mark.parametrize("options, limit", LIMITS)
def test_a_jobs_limit_goes_by_either_name(options, limit):
    assert ChatJob(model="a/b", messages=[], options=options).max_tokens == limit


@pytest.mark.parametrize("message, text", [({"content": "Hi"}, "Hi"), ({"content": None}, ""), ({}, "")])
def test_a_replys_text_is_its_first_choices(message, text):
    choices = [{"index": 0, "message": message}, {"index": 1, "message": {"content": "other"}}]
    assert Reply(model="a/b", choices=choices, usage=Usage(1, 1)).text == text
