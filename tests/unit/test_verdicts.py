"""Every refusal of HF§3.2, in Hugging Face's own words, becomes the contract's error and says what to do."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from support.upstream import CHAT, CLASSIC, ERRORS, EVERY, GENERATE, OWN, TOO_LONG, fault, model_error, text_fault

from chatapi.catalogue import ModelCard
from chatapi.errors import UpstreamError
from chatapi.huggingface.classify import classify as verdict
from chatapi.huggingface.failures import UpstreamFailure as Refusal
from chatapi.huggingface.failures import failure_in as error_in
from chatapi.huggingface.values import retry_after

ROUTED = ModelCard(id="acme/x")
CLASSIC_CARD = ModelCard(id="acme/x", task="text-generation")
OWN_CARD = ModelCard(id="acme/x", url="http://tgi.test")
GENERATE_CARD = ModelCard(id="acme/x", task="text-generation", url="http://tgi.test")

# The contract's table (§3): code → status on /api, status on /v1, retryable.
CODES = {
    "model_not_found": (500, 404, False),
    "upstream_auth": (500, 502, False),
    "upstream_quota": (500, 502, False),
    "upstream_rejected": (400, 400, False),
    "context_length_exceeded": (400, 400, False),
    "content_filter": (400, 400, False),
    "upstream_rate_limited": (500, 429, True),
    "model_loading": (500, 503, True),
    "upstream_unavailable": (500, 502, True),
    "upstream_timeout": (500, 504, True),
}

# ERRORS' row → our code, and words of the message: what to do, or what the upstream objects to.
ROWS = {
    "provider-unsupported": ("model_not_found", "model id"),
    "model-not-supported": ("model_not_found", "model id"),
    "not-a-chat-model": ("model_not_found", "not a chat model"),
    "model-not-found": ("model_not_found", "model id"),
    "list-field": ("upstream_rejected", "`inputs.context`: field required"),
    "list-range": ("upstream_rejected", "less than or equal to 100: received `temperature`"),
    "model-kwargs": ("upstream_rejected", "'watermark', 'stop'"),
    "stream-unsupported": ("upstream_rejected", "`stream` is not supported"),
    "endpoint-paused": ("model_not_found", "resume"),
    "token-invalid-400": ("upstream_auth", "HUGGINGFACE_API_KEY"),
    "pro-required": ("upstream_quota", "plan"),
    "bad-json": ("upstream_rejected", "Failed to parse the request body as JSON"),
    "no-token": ("upstream_auth", "HUGGINGFACE_API_KEY"),
    "bad-token": ("upstream_auth", "HUGGINGFACE_API_KEY"),
    "endpoint-401": ("upstream_auth", "HUGGINGFACE_API_KEY"),
    "tgi-401": ("upstream_auth", "HUGGINGFACE_API_KEY"),
    "depleted": ("upstream_quota", "credits"),
    "exceeded": ("upstream_quota", "credits"),
    "provider-credits": ("upstream_quota", "credits"),
    "no-permission": ("upstream_auth", "permission 'Make calls to Inference Providers'"),
    "gated": ("upstream_auth", "accept its terms"),
    "too-large": ("model_not_found", "Inference Endpoints"),
    "does-not-exist": ("model_not_found", "model id"),
    "not-found": ("model_not_found", "model id"),
    "not-found-text": ("model_not_found", "model id"),
    "vllm-not-found": ("model_not_found", "model id"),
    "vllm-not-found-old": ("model_not_found", "model id"),
    "deprecated": ("model_not_found", "model id"),
    "old-host": ("model_not_found", "HUGGINGFACE_BASE_URL"),
    "old-host-variant": ("model_not_found", "HUGGINGFACE_BASE_URL"),
    "tgi-413": ("upstream_rejected", "length limit exceeded"),
    "media-type": ("upstream_rejected", "Content-Type"),
    "wrong-shape": ("upstream_rejected", "expected a sequence"),
    "validation": ("upstream_rejected", "`temperature` must be strictly positive"),
    "no-template": ("upstream_rejected", 'task = "text-generation"'),
    "template-variable": ("upstream_rejected", "Missing template vatiable: tools"),
    "generation": ("upstream_unavailable", "again"),
    "overloaded": ("upstream_rate_limited", "later"),
    "ratelimit": ("upstream_rate_limited", "later"),
    "provider-429": ("upstream_rate_limited", "later"),
    "anonymous-429": ("upstream_rate_limited", "HUGGINGFACE_API_KEY"),
    "unknown-error": ("upstream_unavailable", "again"),
    "too-busy": ("upstream_unavailable", "again"),
    "incomplete": ("upstream_unavailable", "again"),
    "bad-gateway": ("upstream_unavailable", "again"),
    "loading": ("model_loading", "asleep"),
    "overloaded-503": ("upstream_unavailable", "again"),
    "waking": ("model_loading", "asleep"),
    "unhealthy": ("upstream_unavailable", "again"),
    "gateway-timeout": ("upstream_unavailable", "again"),
    "content-filter": ("content_filter", "filter"),
    "context-length": ("context_length_exceeded", "Shorten"),
    "context-length-tgi": ("context_length_exceeded", "Shorten"),
}
ATTEMPTED_AGAIN = {429, 500, 502, 503, 504}  # contract §4


def cards_for(fault):
    """The kinds of model at which this fault was seen."""
    if fault.skins == CHAT:
        return [ROUTED, OWN_CARD]
    by_skins = {CLASSIC: [CLASSIC_CARD], GENERATE: [GENERATE_CARD], OWN: [OWN_CARD, GENERATE_CARD]}
    return by_skins.get(fault.skins, [ROUTED, CLASSIC_CARD] + [OWN_CARD] * (fault.skins == EVERY))


def judged(fault, card=ROUTED):
    headers = CaseInsensitiveDict(fault.headers)
    return verdict(card, Refusal.of(fault.status, headers, fault.body.encode()))


def outcome(error):
    return error.code, (error.api_status, error.status, error.retryable)


SEEN = [(slug, card) for slug, row in ERRORS.items() for card in cards_for(row)]
NAMES = [f"{slug}-{card.task}-{'own' if card.url else 'hf'}" for slug, card in SEEN]


def test_the_table_is_whole():
    assert ROWS.keys() == ERRORS.keys()


@pytest.mark.parametrize("slug, card", SEEN, ids=NAMES)
def test_refusals(slug, card):
    code, word = ROWS[slug]
    error = judged(ERRORS[slug], card)
    assert outcome(error) == (code, CODES[code])
    assert error.upstream_status == ERRORS[slug].status
    assert word in error.message
    assert "<h" not in error.message, "a page is no message"
    assert isinstance(error, UpstreamError)


@pytest.mark.parametrize("slug", ERRORS)
def test_what_is_attempted_again(slug):
    # HF§3.2: anonymous callers are not let in by waiting.
    expected = ERRORS[slug].status in ATTEMPTED_AGAIN and slug != "anonymous-429"
    assert judged(ERRORS[slug], OWN_CARD).transient is expected


def test_the_upstreams_words_are_kept_and_cut():
    error = judged(fault(400, "x" * 10_000))
    assert "x" * 100 in error.message
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    "body, words",
    [
        ('{"error": {"message": "in an object"}}', "in an object"),
        ('{"error": "a string"}', "a string"),
        ('{"error": ["first", "second"]}', "first; second"),
        ('{"message": "beside"}', "beside"),
        ('{"detail": "hf-serve says"}', "hf-serve says"),
        ('{"detail": ["one", "two"]}', "one; two"),
        ('{"detail": [{"loc": ["body"], "msg": "field required"}]}', "field required"),
        ('{"object": "error", "message": "vLLM says"}', "vLLM says"),
        ("plain text", "plain text"),
        ("Ação inválida", "Ação inválida"),
    ],
)
def test_words_wherever_they_stand(body, words):
    assert words in judged(text_fault(400, body)).message


def other(status, text="", headers=None, card=ROUTED, **beside):
    return judged(fault(status, text, headers=headers, **beside), card)


@pytest.mark.parametrize(
    "status, code",
    [
        (301, "upstream_unavailable"),
        (302, "upstream_unavailable"),
        (307, "upstream_unavailable"),
        (308, "upstream_unavailable"),
        (400, "upstream_rejected"),
        (401, "upstream_auth"),
        (402, "upstream_quota"),
        (403, "upstream_auth"),
        (404, "model_not_found"),
        (408, "upstream_unavailable"),
        (409, "upstream_unavailable"),
        (410, "model_not_found"),
        (413, "upstream_rejected"),
        (422, "upstream_rejected"),
        (424, "upstream_unavailable"),
        (429, "upstream_rate_limited"),
        (500, "upstream_unavailable"),
        (501, "upstream_unavailable"),
        (502, "upstream_unavailable"),
        (503, "upstream_unavailable"),
        (504, "upstream_unavailable"),
        (520, "upstream_unavailable"),
        (529, "upstream_unavailable"),
    ],
)
@pytest.mark.parametrize("text", ["Something went wrong", ""])
def test_statuses_alone(status, code, text):
    error = other(status, text)
    assert outcome(error) == (code, CODES[code])
    assert error.upstream_status == status
    assert error.transient is (status in ATTEMPTED_AGAIN)


# Words that appear in one verdict and mean another.
CONFUSING = {
    "tokens-per-minute": (429, "Too many tokens per minute, please slow down", "upstream_rate_limited"),
    "not-a-model": (400, "Tool 'weather' does not exist in the list of tools", "upstream_rejected"),
    "quota-of-tokens": (402, "You have used too many tokens this month", "upstream_quota"),
    "model-in-500": (500, "Model not found in cache, worker restarting", "upstream_unavailable"),
}


@pytest.mark.parametrize("status, text, code", CONFUSING.values(), ids=CONFUSING)
def test_confusing_words(status, text, code):
    assert other(status, text).code == code


def test_a_model_named_like_a_verdict_is_just_not_found():
    message = "The requested model 'acme/content_filter' is not supported by any provider you have enabled."
    assert judged(model_error(message, "model_not_supported")).code == "model_not_found"


def test_an_overloaded_server_is_loading_only_where_it_may_sleep():
    assert judged(ERRORS["waking"], GENERATE_CARD).code == "model_loading"
    assert judged(ERRORS["waking"], ROUTED).code == "upstream_unavailable"


# ---------------------------------------------------------------- when to come back


def from_now(seconds):
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


WINDOW = {"RateLimit": '"api";r=0;t=55'}
HINTS = {
    "seconds": ({"Retry-After": "1"}, 1),
    "fraction": ({"Retry-After": "1.5"}, 1.5),
    "zero": ({"Retry-After": "0"}, 0),
    "blanks": ({"Retry-After": " 7 "}, 7),
    "lower-case": ({"retry-after": "3"}, 3),
    "ratelimit": (WINDOW, 56),
    "ratelimit-and-more": ({"RateLimit": '"api";r=0;t=1;pk=:dHJpYWw=:'}, 2),
    "both": ({"Retry-After": "2", **WINDOW}, 2),
    "past": ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    "old-date": ({"Retry-After": "Wednesday, 21-Oct-15 07:28:00 GMT"}, 0),
    "words": ({"Retry-After": "soon"}, None),
    "negative": ({"Retry-After": "-5"}, None),
    "infinite": ({"Retry-After": "inf"}, None),
    "empty": ({"Retry-After": ""}, None),
    "impossible-date": ({"Retry-After": "Wed, 99 Oct 99999 07:28:00 GMT"}, None),
    "no-window": ({"RateLimit": '"api";r=0'}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("headers, seconds", HINTS.values(), ids=HINTS)
def test_retry_after(headers, seconds):
    assert retry_after(CaseInsensitiveDict(headers)) == seconds


@pytest.mark.parametrize("given", [2, 60, 3600])
def test_retry_after_as_a_date(given):
    assert retry_after({"Retry-After": from_now(given)}) == pytest.approx(given, abs=1.5)


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_retry_after_never_fails(text):
    for name in ("Retry-After", "RateLimit"):
        seconds = retry_after({name: text})
        assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize("status, kept", [(429, True), (503, True), (500, True), (400, False), (401, False)])
def test_only_retryable_errors_say_when(status, kept):
    assert (other(status, "x", {"Retry-After": "4"}).retry_after_s == 4) is kept


@pytest.mark.parametrize("slug, seconds", [("ratelimit", 56), ("provider-429", None), ("loading", 20)])
def test_rows_that_say_when(slug, seconds):
    assert judged(ERRORS[slug]).retry_after_s == seconds


ESTIMATES = {
    "float": (20.0, "model_loading", 20),
    "long-float": (32.13720703125, "model_loading", 32.13720703125),
    "whole": (7, "model_loading", 7),
    "unreliable": (1809.0, "model_loading", 300),
    "zero": (0, "model_loading", 0),
    "below-zero": (-3.5, "model_loading", 0),
    "null": (None, "upstream_unavailable", None),
    "words": ("soon", "upstream_unavailable", None),
    "bool": (True, "upstream_unavailable", None),
    "nan": (float("nan"), "upstream_unavailable", None),
    "infinite": (float("inf"), "upstream_unavailable", None),
}


@pytest.mark.parametrize("estimate, code, seconds", ESTIMATES.values(), ids=ESTIMATES)
def test_estimated_time(estimate, code, seconds):
    error = other(503, "Model acme/x is currently loading", estimated_time=estimate)
    assert (error.code, error.retry_after_s) == (code, seconds)


def test_loading_says_when_to_come_back():
    assert "20 s" in other(503, "loading", estimated_time=19.2).message


def test_waking_says_when_to_come_back():
    error = judged(ERRORS["waking"], OWN_CARD)
    assert error.retry_after_s > 0
    assert other(503, "", {"Retry-After": "9"}, OWN_CARD, code="SERVICE_UNAVAILABLE").retry_after_s == 9


# ---------------------------------------------------------------- errors inside a 200

INSIDE = {
    "tgi-chat": ({"error": {"message": "m", "http_status_code": 422}}, 422, "upstream_rejected"),
    "code": ({"error": {"message": "m", "code": 429}}, 429, "upstream_rate_limited"),
    "code-as-text": ({"error": {"message": "m", "code": "429"}}, 429, "upstream_rate_limited"),
    "status": ({"error": {"message": "m", "status": 503}}, 503, "upstream_unavailable"),
    "word-and-status": (
        {"error": {"message": "m", "code": "overloaded", "status": 503}},
        503,
        "upstream_unavailable",
    ),
    "http-status-first": (
        {"error": {"message": "m", "http_status_code": 401, "code": 500}},
        401,
        "upstream_auth",
    ),
    "outside": ({"error": "m", "status": 429}, 429, "upstream_rate_limited"),
    "none": ({"error": {"message": "m"}}, 502, "upstream_unavailable"),
    "string": ({"error": "m"}, 502, "upstream_unavailable"),
    "list": ({"error": ["m"]}, 502, "upstream_unavailable"),
    "true": ({"error": True}, 502, "upstream_unavailable"),
    "success-as-code": ({"error": {"message": "m", "code": 200}}, 502, "upstream_unavailable"),
    "strange-code": ({"error": {"message": "m", "code": 99999}}, 502, "upstream_unavailable"),
    "bool-code": ({"error": {"message": "m", "code": True}}, 502, "upstream_unavailable"),
    "list-code": ({"error": {"message": "m", "code": [429]}}, 502, "upstream_unavailable"),
    "tgi-generation": ({"error": "m", "error_type": "generation"}, 502, "upstream_unavailable"),
    "tgi-validation": ({"error": "m", "error_type": "validation"}, 422, "upstream_rejected"),
    "tgi-too-long": ({"error": TOO_LONG, "error_type": "validation"}, 422, "context_length_exceeded"),
}


@pytest.mark.parametrize("body, status, code", INSIDE.values(), ids=INSIDE)
def test_errors_inside_an_answer(body, status, code):
    refusal = error_in(body)
    assert refusal is not None
    assert refusal.status == status
    error = verdict(ROUTED, refusal)
    assert (error.code, error.upstream_status) == (code, status)


@pytest.mark.parametrize("body", [{}, {"error": None}, {"choices": []}, [], "error", None, 3, {"errors": []}])
def test_answers_without_an_error(body):
    assert error_in(body) is None


KEYS = ("error", "errors", "message", "detail", "code", "type", "status", "error_type", "estimated_time")
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@given(st.integers(300, 599), JSON_VALUES)
def test_no_body_breaks_the_verdict(status, body):
    error = verdict(OWN_CARD, Refusal.of(status, CaseInsensitiveDict(), json.dumps(body).encode()))
    assert outcome(error) == (error.code, CODES[error.code])


@given(st.dictionaries(st.just("error"), JSON_VALUES))
def test_no_answer_breaks_the_search_for_an_error(body):
    if refusal := error_in(body):
        assert 400 <= refusal.status < 600
        assert verdict(ROUTED, refusal).code in CODES


@given(st.binary(max_size=200))
def test_no_bytes_break_the_verdict(raw):
    assert verdict(ROUTED, Refusal.of(502, CaseInsensitiveDict(), raw)).code in CODES
