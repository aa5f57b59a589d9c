"""What is read at a glance is what a closer look reads, in whatever form an answer comes."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from chatapi.catalogue import ModelCard
from chatapi.chat import ChatJob
from chatapi.errors import UpstreamError
from chatapi.huggingface.chat import Chat
from chatapi.huggingface.failures import failure_in
from chatapi.huggingface.ordinary import ordinary_usage
from chatapi.huggingface.usage import usage_in

CARD = ModelCard(id="acme/chat")
NOTHING = st.sampled_from([None, None, [], "", {}])
KEYS = st.sampled_from(
    [
        *("tool_calls", "toolCalls", "function_call", "refusal", "reasoning_content", "annotations", "audio", "text"),
        *("message", "delta", "messages", "error", "errors", "stop_reason", "done", "prompt_logprobs", "candidates"),
        *("service_tier", "provider", "output", "data", "index", "id"),
    ]
)
QUIET = st.dictionaries(KEYS, NOTHING | st.sampled_from([True, "x", 7, {"content": "b"}]), max_size=2)
USAGES = st.sampled_from([None, {}, 5, [{"prompt_tokens": 3, "completion_tokens": 2}]]) | st.dictionaries(
    st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "input_tokens"]),
    st.sampled_from([3, 2, 0, -1, True, "4", 2.0, 2**60, None, {"cached_tokens": 1}]),
)
MESSAGES = st.builds(
    lambda content, more: {"role": "assistant", "content": content, **more},
    st.sampled_from(["Oi.", "Oi.", "Oi.", "", None, ["Oi."], {"text": "Oi."}, 5]),
    QUIET,
)
CHOICES = st.builds(
    lambda message, reason, more: {"index": 0, "message": message, "finish_reason": reason, **more},
    MESSAGES | st.sampled_from([None, "Oi."]),
    st.sampled_from(["stop", "stop", "length", "content_filter", "tool_calls", "eos", "abort", None, "", ["stop"]]),
    QUIET | st.just({"logprobs": None}) | st.just({"logprobs": {"content": []}}),
)
BODIES = st.builds(
    lambda choices, usage, more: {"id": "x", "object": "chat.completion", "choices": choices, "usage": usage, **more},
    st.lists(CHOICES, min_size=1, max_size=1) | st.lists(CHOICES, max_size=2) | st.sampled_from([None, {}]),
    USAGES,
    QUIET | st.just({"system_fingerprint": "fp1"}),
)


def looked_at(job, body):
    """The answer, or what it failed with."""
    try:
        assert failure_in(body) is None
        return Chat().reply(CARD, job, body, {})
    except (UpstreamError, AssertionError) as error:
        return error


@settings(max_examples=300)
@given(body=BODIES, n=st.sampled_from([1, 1, 1, 2]))
def test_a_glance_and_a_closer_look_read_the_same(body, n):
    job = ChatJob(model=CARD.id, messages=[{"role": "user", "content": "Oi?"}], options={"n": n} if n > 1 else {})
    glanced = Chat().glance(CARD, job, json.dumps(body).encode())
    assert glanced is None or glanced == looked_at(job, body)


def test_what_nearly_all_servers_send_is_read_at_a_glance():
    message = {"role": "assistant", "content": "Oi.", "refusal": None, "tool_calls": [], "reasoning_content": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    job = ChatJob(model=CARD.id, messages=[{"role": "user", "content": "Oi?"}])
    assert ordinary_usage(usage)
    raw = json.dumps({**body, "service_tier": None}).encode()
    assert Chat().glance(CARD, job, raw) == looked_at(job, body) is not None


@given(usage=USAGES)
def test_usage_of_the_ordinary_form_is_what_a_closer_look_counts(usage):
    glanced = ordinary_usage(usage)
    assert glanced is None or glanced == usage_in({"usage": usage})
