"""The nouns: tokens estimated, texts found, and a call's life."""

import math
import threading
import time
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.chat import (
    BEAT,
    Call,
    ChatJob,
    Reply,
    Usage,
    estimate_tokens,
    finish,
    has_image,
    text_of,
)
from chatapi.errors import ClientLeft, UpstreamTimeout

IMAGE = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}


# --- tokens


@pytest.mark.parametrize(
    "text, least, most",
    [
        ("", 0, 0),
        (" ", 1, 1),
        ("a", 1, 2),
        ("Hello", 1, 3),
        ("Hello, world!", 3, 5),
        ("The quick brown fox jumps over the lazy dog. " * 10, 100, 140),
        ("Qual é a capital do Brasil?", 6, 10),
        ("supercalifragilisticexpialidocious", 8, 10),
        ("x" * 4000, 1000, 1000),
        ("https://example.test/a/long/path?with=parameters&and=more", 12, 16),
        ("人工知能とは何ですか", 10, 15),
        ("机器学习", 4, 6),
        ("한국어 문장입니다", 8, 12),
        ("😀" * 10, 10, 15),
        ("\u3000" * 8, 8, 8),
    ],
)
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
    began = time.perf_counter()
    assert estimate_tokens("words and 漢字 " * 80_000) > 100_000
    assert time.perf_counter() - began < 2


# --- messages


@pytest.mark.parametrize(
    "content, text",
    [
        ("Hi", "Hi"),
        ("", ""),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "Hi"}], "Hi"),
        ([{"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "text", "text": ""}, {"type": "text", "text": "b"}], "b"),
        ([IMAGE], ""),
        ([{"type": "image_url", "text": "https://x.test"}], ""),
        ([{"type": "refusal", "refusal": "No."}], ""),
    ],
)
def test_the_text_of_a_message(content, text):
    assert text_of({"role": "user", "content": content}) == text


def test_a_message_without_content_has_no_text():
    assert text_of({"role": "assistant"}) == ""
    assert not has_image({"role": "assistant"})


@pytest.mark.parametrize(
    "content, found",
    [
        ("image_url", False),
        (None, False),
        ([], False),
        ([{"type": "text", "text": "x"}], False),
        ([IMAGE], True),
    ],
)
def test_whether_a_message_has_an_image(content, found):
    assert has_image({"role": "user", "content": content}) is found


# --- jobs, replies, usage


def test_usage_adds_up():
    usage = Usage(25, 50)
    assert usage.total_tokens == 75
    assert usage.counts() == {"prompt_tokens": 25, "completion_tokens": 50, "total_tokens": 75}
    assert usage.source == "upstream"
    assert usage.details == {}


def test_counts_are_the_three_keys_whatever_else_the_upstream_said():
    usage = Usage(1, 2, source="estimate", details={"prompt_tokens_details": None})
    assert list(usage.counts()) == ["prompt_tokens", "completion_tokens", "total_tokens"]


def test_the_nouns_do_not_change():
    with pytest.raises(FrozenInstanceError):
        Usage(1, 2).prompt_tokens = 3
    with pytest.raises(FrozenInstanceError):
        ChatJob(model="a/b", messages=[]).model = "c/d"


@pytest.mark.parametrize(
    "options, limit",
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
    ],
)
def test_a_jobs_limit_goes_by_either_name(options, limit):
    assert ChatJob(model="a/b", messages=[], options=options).max_tokens == limit


@pytest.mark.parametrize("message, text", [({"content": "Hi"}, "Hi"), ({"content": None}, ""), ({}, "")])
def test_a_replys_text_is_its_first_choices(message, text):
    choices = [{"index": 0, "message": message}, {"index": 1, "message": {"content": "other"}}]
    assert Reply(model="a/b", choices=choices, usage=Usage(1, 1)).text == text


# --- a call's life


def soon(seconds=0.05):
    return time.monotonic() + seconds


def test_a_call_ends_when_its_seconds_are_over():
    began = time.monotonic()
    call = Call(30)
    assert began + 30 <= call.ends_at <= time.monotonic() + 30


def test_what_a_sender_put_is_received_in_order():
    call, sender = Call(5), object()
    for item in (b"a", None, b"", ValueError()):
        call.inbox.put((sender, item))
    assert call.receive(sender, soon()) == b"a"
    assert call.receive(sender, soon()) is None
    assert call.receive(sender, soon()) == b""
    assert isinstance(call.receive(sender, soon()), ValueError)


def test_what_another_sender_put_is_passed_over():
    call, sender = Call(5), object()
    call.inbox.put((object(), b"stale"))
    call.inbox.put((sender, b"mine"))
    assert call.receive(sender, soon()) == b"mine"


def test_nothing_by_then_is_none_and_takes_no_longer():
    call, began = Call(5), time.monotonic()
    call.inbox.put((object(), b"stale"))
    assert call.receive(object(), soon(0.05)) is None
    assert 0.04 <= time.monotonic() - began < 0.5


def test_what_is_there_is_received_even_when_the_time_is_over():
    call, sender = Call(5), object()
    call.inbox.put((sender, b"late"))
    assert call.receive(sender, time.monotonic() - 1) == b"late"
    assert call.receive(sender, time.monotonic() - 1) is None


def test_an_item_that_comes_while_waiting_ends_the_wait():
    call, sender, began = Call(5), object(), time.monotonic()
    threading.Timer(0.05, call.inbox.put, [(sender, b"a")]).start()
    assert call.receive(sender, soon(5)) == b"a"
    assert time.monotonic() - began < 1


def test_beats_come_at_their_interval_until_the_time_is_over():
    call, began = Call(5, beat_s=0.05), time.monotonic()
    until, beats = soon(0.23), 0
    while call.receive(object(), until) is BEAT:
        beats += 1
    assert 1 <= beats <= 4
    assert 0.2 <= time.monotonic() - began < 1


def test_whole_answers_have_no_beats():
    assert Call(5).receive(object(), soon(0.05)) is None
    assert Call(5, math.inf).receive(object(), soon(0.05)) is None


def test_a_beat_is_due_a_whole_interval_after_something_was_sent():
    call = Call(5, beat_s=0.3)
    time.sleep(0.2)
    call.spoke()
    assert call.receive(object(), soon(0.15)) is None
    assert call.receive(object(), soon(1)) is BEAT


def test_an_item_goes_before_a_beat_that_is_overdue():
    call, sender = Call(5, beat_s=0.01), object()
    time.sleep(0.02)
    call.inbox.put((sender, b"a"))
    assert call.receive(sender, soon()) == b"a"
    assert call.receive(sender, soon()) is BEAT


def test_a_caller_who_leaves_ends_the_wait():
    call, began = Call(5), time.monotonic()
    threading.Timer(0.05, call.leave).start()
    with pytest.raises(ClientLeft):
        call.receive(object(), soon(5))
    assert time.monotonic() - began < 1


def test_who_has_left_gets_nothing_more():
    call, sender = Call(5), object()
    call.inbox.put((sender, b"a"))
    call.leave()
    with pytest.raises(ClientLeft):
        call.receive(sender, soon())


def test_who_has_left_stays_away():
    """Every later wait ends too, at once: whoever cleans up must not wait for its limit."""
    call, began = Call(5), time.monotonic()
    call.leave()
    call.leave()
    for _ in range(4):
        with pytest.raises(ClientLeft):
            call.receive(object(), soon(1))
    assert time.monotonic() - began < 0.9


def test_a_call_that_is_stopped_ends_every_wait_with_that_error():
    call, error = Call(5), UpstreamTimeout("The gateway stops.")
    threading.Timer(0.05, call.stop, [error]).start()
    for _ in range(3):
        with pytest.raises(UpstreamTimeout) as caught:
            call.receive(object(), soon(5))
        assert caught.value is error


def test_no_wait_is_longer_than_the_call():
    call, began = Call(0.05), time.monotonic()
    assert call.receive(object(), soon(5)) is None
    assert list(call.pause(5, "x")) == []
    assert time.monotonic() - began < 1


def test_an_eager_call_takes_what_is_there_and_does_not_wait():
    call, sender, began = Call(5), object(), time.monotonic()
    call.eager = True
    assert call.receive(sender, soon(5)) is BEAT
    call.inbox.put((sender, b"a"))
    assert call.receive(sender, soon(5)) == b"a"
    assert call.receive(sender, soon(5)) is BEAT
    assert time.monotonic() - began < 1


def test_an_answer_may_be_read_on_for_a_while_after_its_caller_has_left():
    call, sender, began = Call(5), object(), time.monotonic()
    call.drain_s = 0.1
    call.leave()
    call.inbox.put((sender, b"a"))
    assert call.receive(sender, soon(5)) == b"a"
    assert call.receive(sender, soon(5)) is None
    assert 0.08 <= time.monotonic() - began < 1


def test_a_pause_waits_with_a_comment_at_each_beat():
    call, began = Call(5, beat_s=0.05), time.monotonic()
    comments = list(call.pause(0.18, "next attempt"))
    assert set(comments) == {"next attempt"}
    assert 1 <= len(comments) <= 3
    assert 0.17 <= time.monotonic() - began < 1


def test_a_pause_of_a_whole_answer_is_silent():
    assert list(Call(5).pause(0.02, "x")) == []


def test_what_was_sent_meanwhile_does_not_cut_a_pause_short():
    call, began = Call(5), time.monotonic()
    call.inbox.put((object(), b"stale"))
    call.inbox.put((object(), BEAT))
    finish(call.pause(0.05, "x"))
    assert time.monotonic() - began >= 0.045


def test_a_caller_who_leaves_ends_a_pause():
    call, began = Call(5), time.monotonic()
    threading.Timer(0.05, call.leave).start()
    with pytest.raises(ClientLeft):
        finish(call.pause(5, "x"))
    assert time.monotonic() - began < 1


def test_finish_gives_the_result_and_passes_over_comments():
    def waiting():
        yield "one"
        yield "two"
        return 3

    assert finish(waiting()) == 3


def test_finish_lets_errors_through():
    def waiting():
        yield "one"
        raise ClientLeft("gone")

    with pytest.raises(ClientLeft):
        finish(waiting())
