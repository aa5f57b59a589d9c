"""Every refusal of HF§3.2, in Hugging Face's own words, becomes the contract's error and says what to do."""

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from support.faults import ATTEMPTED_AGAIN, CODES, REFUSALS
from support.fuzz import json_values
from support.tables import rows
from support.upstream import CHAT, CLASSIC, EVERY, GENERATE, OWN, fault, model_error, text_fault

from chatapi.catalogue import ModelCard
from chatapi.errors import UpstreamError
from chatapi.huggingface.classify import classify
from chatapi.huggingface.failures import UpstreamFailure, event_failure, failure_in
from chatapi.huggingface.values import retry_after

TOO_LONG = json.loads(REFUSALS["context-length-tgi"].body)["error"]
ROUTED = ModelCard(id="acme/x")
CLASSIC_CARD = ModelCard(id="acme/x", task="text-generation")
OWN_CARD = ModelCard(id="acme/x", url="http://tgi.test")
GENERATE_CARD = ModelCard(id="acme/x", task="text-generation", url="http://tgi.test")


def cards_for(refusal):
    """The kinds of model at which this refusal was seen."""
    if refusal.skins == CHAT:
        return [ROUTED, OWN_CARD]
    by_skins = {CLASSIC: [CLASSIC_CARD], GENERATE: [GENERATE_CARD], OWN: [OWN_CARD, GENERATE_CARD]}
    return by_skins.get(refusal.skins, [ROUTED, CLASSIC_CARD] + [OWN_CARD] * (refusal.skins == EVERY))


def judged(refusal, card=ROUTED):
    headers = CaseInsensitiveDict(refusal.headers)
    return classify(card, UpstreamFailure.of(refusal.status, headers, refusal.body.encode()))


def outcome(error):
    return error.code, (error.api_status, error.status, error.retryable)


SEEN = [(slug, card) for slug, row in REFUSALS.items() for card in cards_for(row)]
NAMES = [f"{slug}-{card.task}-{'own' if card.url else 'hf'}" for slug, card in SEEN]


@pytest.mark.parametrize("slug, card", SEEN, ids=NAMES)
def test_refusals(slug, card):
    row = REFUSALS[slug]
    error = judged(row, card)
    assert outcome(error) == (row.code, CODES[row.code])
    assert error.upstream_status == row.status
    assert row.says in error.message
    assert "<h" not in error.message, "a page is no message"
    assert isinstance(error, UpstreamError)
    # HF§3.2: anonymous callers are not let in by waiting.
    again = row.status in ATTEMPTED_AGAIN and slug != "anonymous-429"
    assert judged(row, OWN_CARD).transient is again


WORDS = {  # wherever they stand
    "out of memória": [
        *({"error": {"message": "WORDS"}}, {"error": "WORDS"}, {"message": "WORDS"}, {"detail": "WORDS"}),
        *({"detail": [{"loc": ["body"], "msg": "WORDS"}]}, {"object": "error", "message": "WORDS"}, "WORDS"),
        {"error": "unknown error", "warnings": ["There was an inference error: WORDS"]},
    ],
    "first; second": [{key: ["first", "second"]} for key in ("error", "detail")],
    "x" * 100: ["x" * 10_000],
}


@pytest.mark.parametrize("body, words", rows(WORDS), ids=lambda value: str(value)[:60])
def test_the_upstreams_words_are_kept_and_cut(body, words):
    text = (body if isinstance(body, str) else json.dumps(body)).replace("WORDS", words)
    message = judged(text_fault(400, text)).message
    assert words in message
    assert len(message) < 1000


def other(status, text="", headers=None, card=ROUTED, **beside):
    return judged(fault(status, text, headers=headers, **beside), card)


BY_STATUS = {
    "upstream_rejected": [400, 413, 422],
    "upstream_auth": [401, 403],
    "upstream_quota": [402],
    "model_not_found": [404, 410],
    "upstream_rate_limited": [429],
    "upstream_unavailable": [301, 302, 307, 308, 408, 409, 424, 500, 501, 502, 503, 504, 520, 529],
}


@pytest.mark.parametrize("status, code", rows(BY_STATUS))
@pytest.mark.parametrize("text", ["Something went wrong", ""])
def test_statuses_alone(status, code, text):
    error = other(status, text)
    assert outcome(error) == (code, CODES[code])
    assert error.upstream_status == status
    assert error.transient is (status in ATTEMPTED_AGAIN)
    assert error.blames_upstream is (code == "upstream_unavailable" and status not in (408, 409))


CONFUSING = {  # words that appear in one verdict and mean another
    "upstream_rate_limited": [(429, "Too many tokens per minute, please slow down")],
    "upstream_rejected": [(400, "Tool 'weather' does not exist in the list of tools")],
    "upstream_quota": [(402, "You have used too many tokens this month")],
    "upstream_unavailable": [(500, "Model not found in cache, worker restarting")],
}


@pytest.mark.parametrize("status, text, code", rows(CONFUSING))
def test_confusing_words(status, text, code):
    assert other(status, text).code == code


def test_a_model_named_like_a_verdict_is_just_not_found():
    message = "The requested model 'acme/content_filter' is not supported by any provider you have enabled."
    assert judged(model_error(message, "model_not_supported")).code == "model_not_found"


# ---------------------------------------------------------------- when to come back


WINDOW = {"RateLimit": '"api";r=0;t=55'}
OLD_DATE = "Wednesday, 21-Oct-15 07:28:00 GMT"
USED_UP = {  # of two limits the one of which nothing remains
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "20ms",
    "x-ratelimit-remaining-tokens": "5",
    "x-ratelimit-reset-tokens": "9s",
}
HINTS = {
    None: [
        *({}, {"RateLimit": '"api";r=0'}, {"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}),
        *({"Retry-After": text} for text in ("soon", "-5", "inf", "", "9" * 5000)),
        {"Retry-After": "Wed, 99 Oct 99999 07:28:00 GMT"},
    ],
    0: [{"Retry-After": "0"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, {"Retry-After": OLD_DATE}],
    0.02: [USED_UP],
    1: [{"Retry-After": "1"}],
    1.5: [{"Retry-After": "1.5"}],
    1.6: [{"retry-after-ms": "1600"}, {"Retry-After": "2", "retry-after-ms": "1600"}],
    2: [{"RateLimit": '"api";r=0;t=1;pk=:dHJpYWw=:'}, {"Retry-After": "2", **WINDOW}],
    3: [{"retry-after": "3"}, {"RateLimit-Reset": "3"}],
    7: [{"Retry-After": " 7 "}],
    56: [WINDOW],
    62.5: [{"Retry-After": "1m2.5s"}],
    360: [{"x-ratelimit-reset-tokens": "6m0s"}],
    86_400: [{"Retry-After": "9" * 15}],
}


@pytest.mark.parametrize("headers, seconds", rows(HINTS), ids=lambda value: str(value)[:40])
def test_retry_after(headers, seconds):
    assert retry_after(CaseInsensitiveDict(headers)) == seconds
    in_a_while = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds or 1), usegmt=True)
    assert retry_after({"Retry-After": in_a_while}) == pytest.approx(seconds or 1, abs=1.5)


IN_A_BODY = {
    12: [{"error": {"message": "slow down", "retry_after": 12}}],
    1.5: [{"retry_after_ms": "1500"}, {"retryAfterMs": "1500ms"}, {"retryAfterMs": "1.5s"}],
    34.5: [{"error": {"details": [{"@type": "…/google.rpc.RetryInfo", "retryDelay": "34.5s"}]}}],
    86_400: [{"retry_after": 10**400}],
    None: [{"a": {"b": {"c": {"d": {"e": {"retry_after": 1}}}}}}, {"retry_after": [5], "retryDelay": "soon"}],
}


@pytest.mark.parametrize("body, seconds", rows(IN_A_BODY), ids=lambda value: str(value)[:40])
def test_a_wait_in_a_body(body, seconds):
    assert retry_after({}, body) == seconds


SAID = {
    "Please try again in 20s. Visit …": 20,
    "Please try again in 1m2.5s.": 62.5,
    "Please retry after 350 ms": 0.35,
    "wait for 2 minutes, 5 seconds": 125,
    "Rate limit of 20 a minute reached": None,
    "Try again later; 20s are no wait of ours": None,
    "try again in " + "9" * 5000 + "s": None,
}


@pytest.mark.parametrize("words, seconds", SAID.items(), ids=[words[:30] for words in SAID])
def test_a_wait_in_words(words, seconds):
    assert other(429, words).retry_after_s == (seconds and pytest.approx(seconds))


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_retry_after_never_fails(text):
    for name in ("Retry-After", "RateLimit"):
        seconds = retry_after({name: text})
        assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize("status, kept", [(429, True), (503, True), (500, True), (400, False), (401, False)])
def test_only_retryable_errors_say_when(status, kept):
    assert (other(status, "x", {"Retry-After": "4"}).retry_after_s == 4) is kept
    assert (other(status, "x", retry_after=12).retry_after_s == 12) is kept


@pytest.mark.parametrize("slug, seconds", [("ratelimit", 56), ("provider-429", None), ("loading", 20)])
def test_rows_that_say_when(slug, seconds):
    error = judged(REFUSALS[slug])
    assert error.retry_after_s == seconds
    assert slug != "loading" or "20 s" in error.message


ESTIMATES = {  # how long a model is said to load → what is told of it
    ("model_loading", 20): [20.0],
    ("model_loading", 20.5): ["20.5"],
    ("model_loading", 32.13720703125): [32.13720703125],
    ("model_loading", 7): [7],
    ("model_loading", 300): [1809.0, 10**401],
    ("model_loading", 0): [0, -3.5],
    ("upstream_unavailable", None): [None, "soon", True, float("nan"), float("inf")],
}


@pytest.mark.parametrize("estimate, code, seconds", rows(ESTIMATES), ids=lambda value: str(value)[:20])
def test_estimated_time(estimate, code, seconds):
    error = other(503, "Model acme/x is currently loading", estimated_time=estimate)
    assert (error.code, error.retry_after_s) == (code, seconds)


def test_waking_says_when_to_come_back_where_a_server_may_sleep():
    assert judged(REFUSALS["waking"], OWN_CARD).retry_after_s == 20
    assert other(503, "", {"Retry-After": "9"}, OWN_CARD, code="SERVICE_UNAVAILABLE").retry_after_s == 9
    assert judged(REFUSALS["waking"], ROUTED).code == "upstream_unavailable"


# ---------------------------------------------------------------- errors inside a 200

INSIDE = {
    (422, "upstream_rejected"): [{"message": "m", "http_status_code": 422}],
    (429, "upstream_rate_limited"): [{"message": "m", "code": 429}, {"message": "m", "code": "429"}],
    (503, "upstream_unavailable"): [
        *({"message": "m", "status": 503}, {"message": "m", "code": "overloaded", "status": 503}),
    ],
    (401, "upstream_auth"): [{"message": "m", "http_status_code": 401, "code": 500}],
    (502, "upstream_unavailable"): [
        *({"message": "m"}, "m", ["m"], True),
        *({"message": "m", "code": code} for code in (200, 99999, True, [429])),
    ],
}
BESIDE = {  # an error and what says of which kind it is
    (422, "upstream_rejected"): [{"error": "m", "error_type": "validation"}],
    (429, "upstream_rate_limited"): [{"error": "m", "status": 429}],
    (502, "upstream_unavailable"): [{"error": "m", "error_type": "generation"}],
    (422, "context_length_exceeded"): [{"error": TOO_LONG, "error_type": "validation"}],
}
FAILED = [({"error": error}, *outcome) for error, *outcome in rows(INSIDE)] + rows(BESIDE)


@pytest.mark.parametrize("body, status, code", FAILED, ids=str)
def test_errors_inside_an_answer(body, status, code):
    refusal = failure_in(body)
    assert refusal is not None and refusal.status == status
    error = classify(ROUTED, refusal)
    assert (error.code, error.upstream_status) == (code, status)


SUCCESSES = [
    *({}, [], "error", None, 3, {"errors": []}, {"error": None}, {"error": {}}, {"error": "none"}, {"choices": []}),
    *({"type": "ping"}, {"usage": {"prompt_tokens": 1}}, {"generated_text": "x", "warnings": ["slow"]}),
    *({"error": {"code": 0, "message": ""}}, {"code": 0, "message": "ok", "data": {}}),
    *({"choices": [], "code": 400, "message": "beside choices"}, {"choices": [{"delta": {}, "error": None}]}),
    {"status": "processing", "message": "in the queue"},
]


@pytest.mark.parametrize("body", SUCCESSES, ids=json.dumps)
def test_answers_without_an_error(body):
    assert failure_in(body) is None


def of_error(**fields):
    return {"error": {"message": "m", **fields}}


# What the caller got wrong is not "try again", whoever wraps it.
WRAPPED = {
    "a-400-in-a-500": (500, of_error(code=400), "upstream_rejected"),
    "by-its-type": (500, of_error(type="BadRequestError"), "upstream_rejected"),
    "of-another-proxy": (502, of_error(message=json.dumps(of_error(code="422"))), "upstream_rejected"),
    "a-limit": (503, of_error(type="rate_limit_error"), "upstream_rate_limited"),
    "its-own": (500, of_error(type="server_error", code=500), "upstream_unavailable"),
    "too-long": (500, {"detail": "maximum context length is 4096"}, "context_length_exceeded"),
}


@pytest.mark.parametrize("status, body, code", WRAPPED.values(), ids=WRAPPED)
def test_refusals_in_a_wrapping(status, body, code):
    error = judged(text_fault(status, json.dumps(body)))
    assert (error.code, error.upstream_status) == (code, status)
    assert error.blames_upstream is (code == "upstream_unavailable")
    assert "m" in error.message


def test_of_two_failures_of_servers_the_outer_one_counts():
    for outer, inner in ((500, 501), (501, 500)):
        assert judged(text_fault(outer, json.dumps(of_error(code=inner)))).transient is (outer == 500)


EVENTS = {
    ("upstream_unavailable", "gone wrong"): [({"message": "gone wrong"}, ""), (None, "gone wrong")],
    ("upstream_rejected", "no"): [({"error": {"message": "no", "code": 400}}, "")],
    ("upstream_unavailable", ""): [({"choices": []}, "")],
}


@pytest.mark.parametrize("data, text, code, words", rows(EVENTS))
def test_an_event_called_error(data, text, code, words):
    error = classify(ROUTED, event_failure(data, text))
    assert error.code == code
    assert words in error.message


# ---------------------------------------------------------------- nothing of ours is told

SECRET = "hf_abcdefghijklmnopqrstuvwxyz012345"
TELLING = [
    {"error": f"the token {SECRET} is not valid"},
    {"error": {"message": f"Bearer {SECRET}", "code": 401}},
    {"error": "no", "warnings": [f"{'x' * 450} {SECRET}"]},
    {"detail": [{"loc": [SECRET], "msg": SECRET}]},
    {"error": json.dumps({"error": SECRET})},
    {"error": " " * 4090 + SECRET},
]


@pytest.mark.parametrize("body", TELLING, ids=range(len(TELLING)))
@pytest.mark.parametrize("status", [200, 401, 500])
def test_our_token_is_not_told(body, status):
    raw = json.dumps(body).encode()
    failure = failure_in(body, SECRET) if status == 200 else UpstreamFailure.of(status, {}, raw, SECRET)
    message = classify(ROUTED, failure).message
    assert SECRET[:12] not in message
    assert UpstreamFailure.of(500, {"X-Error-Message": SECRET}, b"", SECRET).words == "***"
    assert UpstreamFailure.of(500, {}, SECRET.encode(), SECRET).words == "***"


def test_a_failure_of_many_values_is_read_fast():
    wide = [[[[["x"] * 20] * 20] * 20] * 20] * 20
    began = time.process_time()
    for body in ({"error": wide}, {"detail": wide}, wide, {"message": "x" * 10_000_000}):
        classify(ROUTED, UpstreamFailure.of(400, {}, json.dumps(body).encode()))
        failure_in(body)
    assert time.process_time() - began < 5


KEYS = ("error", "errors", "message", "detail", "code", "type", "status", "error_type", "estimated_time")
SCALARS = st.integers() | st.floats() | st.text(max_size=8)
JSON_VALUES = json_values(SCALARS, st.sampled_from(KEYS), leaves=8)


@given(st.integers(300, 599), JSON_VALUES.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=200))
def test_no_body_breaks_the_classification(status, raw):
    error = classify(OWN_CARD, UpstreamFailure.of(status, CaseInsensitiveDict(), raw))
    assert outcome(error) == (error.code, CODES[error.code])


@given(st.dictionaries(st.just("error"), JSON_VALUES))
def test_no_answer_breaks_the_search_for_an_error(body):
    if refusal := failure_in(body):
        assert 400 <= refusal.status < 600
        assert classify(ROUTED, refusal).code in CODES
