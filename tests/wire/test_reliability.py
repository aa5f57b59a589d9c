"""Every fault of the fault server in every dialect, whole and streamed: status, code, attempts, time.

What really happens is also the table of docs/reliability.md; `python tests/test_reliability.py --write` renews it.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support.gateways import ROOT, serve
from support.heard import DIALECTS, all_at_once, check_failed_stream, check_one_answer, hear
from support.upstream import BEHAVIOURS, ERRORS, TEXT, Upstream
from test_verdicts import ATTEMPTED_AGAIN, CODES, ROWS

PAGE = ROOT / "docs" / "reliability.md"
MAX_TIME_S, IDLE_S, SLACK_S = 5.0, 0.5, 1.0
BACKOFF_S = 2.0  # both waits between three attempts, at their longest
LIMITS = {
    "CHATAPI_MAX_TIME": f"{MAX_TIME_S:g}",
    "CHATAPI_IDLE_TIMEOUT": f"{IDLE_S:g}",
    "CHATAPI_FIRST_TOKEN_TIMEOUT": "0.4",
    "CHATAPI_REPLY_TIMEOUT": "0.6",
    "CHATAPI_HEARTBEAT": "30",  # the status waits for the first event, or the failure
}

# ---------------------------------------------------------------- the table


class Row(NamedTuple):
    """What a fault comes to.

    `whole` and `stream` are the codes of either answer, None for a good one; `attempts` is how often the upstream is
    asked, `whole_attempts` too where a whole answer differs. `mid`: the stream fails after tokens have gone out.
    """

    words: str
    whole: str | None
    stream: str | None
    attempts: int = 1
    mid: bool = False
    within_s: float = 0.0
    whole_attempts: int | None = None

    def asked(self, mode):
        return self.whole_attempts if mode == "whole" and self.whole_attempts else self.attempts


GONE, AWAY, LATE, LIMITED = "model_not_found", "upstream_unavailable", "upstream_timeout", "upstream_rate_limited"
REJECTED, LONG, FILTERED, ASLEEP = "upstream_rejected", "context_length_exceeded", "content_filter", "model_loading"


def refusal(slug):
    """An answer in Hugging Face's own words: their code is test_verdicts' business, what is asked again is ours."""
    fault, code = ERRORS[slug], ROWS[slug][0]
    if slug == "waking":
        code = AWAY  # only a server of one's own is woken
    if slug == "stream-unsupported":
        return Row("400, streaming is not supported (nor is anything else)", code, code, 2, whole_attempts=1)
    again = fault.status in ATTEMPTED_AGAIN and slug not in PATIENCE
    return Row(f"{fault.status}, {said(fault)}", code, code, *((3, False, BACKOFF_S) if again else ()))


# Refusals worth no second attempt: an anonymous caller stays one; the others ask for more patience than there is.
PATIENCE = ("anonymous-429", "ratelimit", "loading")


def said(fault):
    """The first words of a refusal."""
    if fault.body.startswith("<"):
        return "an HTML page"
    try:
        body = json.loads(fault.body)
    except ValueError:
        body = fault.body
    words = body.get("error", body.get("message")) if isinstance(body, dict) else body
    words = words.get("message") if isinstance(words, dict) else words
    words = " ".join(words) if isinstance(words, list) else words
    return f"“{words[:48].strip()}{'…' if len(words) > 48 else ''}”" if words else "an empty body"


def before(words, code, attempts=1, within_s=0.0):
    """Whole or streamed, it fails before the first token."""
    return Row(words, code, code, attempts, within_s=within_s)


def only_streams(words, code, attempts=1, within_s=0.0):
    """A stream that fails at its first event; asked for a whole answer the upstream gives one."""
    return Row(words, None, code, attempts, within_s=within_s, whole_attempts=1)


def mid(words, code=AWAY, within_s=0.0):
    """A stream that fails after tokens have gone out."""
    return Row(words, None, code, 1, True, within_s)


def healed(words, attempts, within_s=BACKOFF_S):
    """A good answer, after all."""
    return Row(words, None, None, attempts, within_s=within_s)


AGAIN = {"attempts": 3, "within_s": BACKOFF_S}
OTHERS = {
    "silent": before("accepts and never answers", LATE, within_s=MAX_TIME_S),
    "headers-only": before("headers and nothing more", LATE, within_s=MAX_TIME_S),
    "header-dribble": before("headers, a byte at a time", LATE, within_s=MAX_TIME_S),
    "body-dribble": before("a body, a byte at a time", LATE, within_s=MAX_TIME_S),
    "reset": before("connection reset before the status", AWAY, **AGAIN),
    "close": before("connection closed before the status", AWAY, **AGAIN),
    "http500": before("500, always", AWAY, **AGAIN),
    "http502": before("502, always", AWAY, **AGAIN),
    "http503": before("503 of a proxy, always", AWAY, **AGAIN),
    "http504": before("504, always", AWAY, **AGAIN),
    "overloaded": before("429 of an overloaded TGI, always", LIMITED, **AGAIN),
    "rate-bare": before("429 without a hint, always", LIMITED, **AGAIN),
    "rate-retry-after": before("429 with Retry-After: 1, always", LIMITED, **AGAIN),
    "rate-retry-after-date": before("429 with Retry-After as a date, always", LIMITED, 3, 2 * 2.0),
    "rate-ratelimit": before("429 with RateLimit: t=1, always", LIMITED, 3, 2 * 2.0),
    "loading": before("503, loading for another 20 s", ASLEEP),
    "waking": before("503 of a waking endpoint, asked through the router", AWAY, **AGAIN),
    "gone": before("410, retired", GONE),
    "gated": before("403, gated", "upstream_auth"),
    "content-filter": before("the content filter's verdict", FILTERED),
    "context-length": before("the prompt is too long", LONG),
    "context-length-tgi": before("the prompt is too long, as TGI says it", LONG),
    "redirect": before("a redirect, which is not followed", AWAY),
    "body-empty": before("200 with an empty body", AWAY),
    "body-html": before("200 with an HTML page", AWAY),
    "body-bad-json": before("200 with half a JSON", AWAY),
    "body-truncated": before("200, the body cut", AWAY),
    "body-200-error": before("200 with an error in it", AWAY, **AGAIN),
    "body-no-choices": before("200 without choices", AWAY),
    "body-list-error": before("400 with a list of errors", REJECTED),
    "body-detail": before("400 with `detail`", REJECTED),
    "error-first": only_streams("first event: an error that says 422", REJECTED),
    "error-first-bare": only_streams("first event: an error without a status", AWAY, **AGAIN),
    "error-first-429": only_streams("first event: an error that says 429", LIMITED, **AGAIN),
    "error-first-status": only_streams("first event: an error that says 503", AWAY, **AGAIN),
    "tgi-error-first": only_streams("first event: TGI's generation error", AWAY, **AGAIN),
    "tgi-error-first-validation": only_streams("first event: TGI's validation error", REJECTED),
    "done-only": only_streams("a lone [DONE]", AWAY),
    "eof-at-once": only_streams("a stream without an event", AWAY),
    "cut": mid("connection closed"),
    "cut-mid-event": mid("connection closed in the middle of an event"),
    "reset-mid": mid("connection reset"),
    "stall-after-3": mid("silence", LATE, IDLE_S),
    "error-then-done": mid("TGI's error event, then [DONE]"),
    "error-then-close": mid("an error event, then the end"),
    "done-no-finish": mid("[DONE] without a finish"),
    "eof-no-finish": mid("a clean end without a finish"),
    "malformed-event": healed("an event that is no JSON is skipped", 1),
    "malformed-first": healed("a first event that is no JSON is skipped", 1),
    "no-done": healed("no [DONE] after the finish", 1),
    "slow-first": healed("1.5 s of silence, then the answer", 1),
    "keepalive-then-ok": healed("comments for 1 s, then the answer", 1),
    "no-stream-support": Row("refuses to stream, answers whole", None, None, 2, whole_attempts=1),
    "whole-for-stream": healed("asked for a stream, answers whole", 1),
    "loading-2": healed("503 twice, loading for 0.2 s", 3),
    "rate-ratelimit-once": healed("429 once, RateLimit: t=1", 2, 2.0),
    "rate-retry-after-once": healed("429 once, Retry-After: 1", 2),
    "rate-retry-after-date-once": healed("429 once, Retry-After as a date", 2, 2.0),
    "rate-bare-once": healed("429 once, without a hint", 2),
    "overloaded-once": healed("429 of an overloaded TGI, once", 2),
    "http500-once": healed("500 once", 2),
    "http502-once": healed("502 once", 2),
    "http503-once": healed("503 once", 2),
    "http504-once": healed("504 once", 2),
    "body-200-error-once": healed("200 with an error in it, once", 2),
    "reset-once": healed("connection reset before the status, once", 2),
    "close-once": healed("connection closed before the status, once", 2),
    # Told once is told: these are not asked again, so the good second answer is never seen.
    "silent-once": before("silent once: not asked twice", LATE, within_s=MAX_TIME_S),
    "waking-once": healed("503 of a waking endpoint, once", 2),
    "gone-once": before("410 once", GONE),
    "gated-once": before("403 once", "upstream_auth"),
    "content-filter-once": before("the content filter's verdict, once", FILTERED),
    "context-length-once": before("too long, once", LONG),
    "context-length-tgi-once": before("too long as TGI says it, once", LONG),
    "body-empty-once": before("200 with an empty body, once", AWAY),
    "body-html-once": before("200 with an HTML page, once", AWAY),
    "body-bad-json-once": before("200 with half a JSON, once", AWAY),
    "body-truncated-once": before("200, the body cut, once", AWAY),
    "body-list-error-once": before("400 with a list of errors, once", REJECTED),
    "body-detail-once": before("400 with `detail`, once", REJECTED),
    "redirect-once": before("a redirect, once", AWAY),
}
TABLE = {**{f"err-{slug}": refusal(slug) for slug in ERRORS}, **OTHERS}
# Healthy answers of unusual looks: test_streams, test_openai and test_tasks hold them.
HEALTHY = {
    "ok",
    "slow",
    "echo",
    "paced",
    "continue",
    "tool-calls",
    "reasoning",
    "close-delimited",
    "finish-only",
    "role-only",
}
HEALTHY |= {
    "null-content",
    "finish-with-text",
    "usage-in-finish",
    "usage-every-chunk",
    "usage-nowhere",
    "stop-sequence",
}
HEALTHY |= {
    "eos-token",
    "finish-length",
    "no-space",
    "crlf",
    "crlf-split",
    "comments",
    "event-fields",
    "several-data-lines",
}
HEALTHY |= {"no-final-blank", "utf8-split", "u2028", "packed", "bytewise"}


def test_the_table_names_every_fault():
    behaviours = {id.removeprefix("test/") for id in BEHAVIOURS}
    assert TABLE.keys() == {id for id in behaviours - HEALTHY if not id.startswith("classic-")}


# ---------------------------------------------------------------- what really happens


class Outcome(NamedTuple):
    """What the caller heard, and how often the upstream was asked."""

    heard: object
    attempts: int


MODES = ("whole", "stream")
CASES = [(fault, dialect, mode) for fault in TABLE for dialect in DIALECTS for mode in MODES]


def model_for(fault, dialect, mode):
    """Each case its own model, and so its own circuit."""
    return f"matrix/{fault}-{dialect}-{mode}"


def outcomes_of(upstream):
    """Every case, through one gateway."""
    with serve({"HUGGINGFACE_API_KEY": "hf_test", "HUGGINGFACE_BASE_URL": upstream.url, **LIMITS}) as gateway:
        return all_at_once(lambda case: outcome(gateway, upstream, *case), CASES)


def outcome(gateway, upstream, fault, dialect, mode):
    model = model_for(fault, dialect, mode)
    upstream.behave(model, fault)
    heard = hear(gateway, DIALECTS[dialect], model, stream=mode == "stream")
    return Outcome(heard, len(upstream.calls_for(model)))


@pytest.fixture(scope="module")
def outcomes(upstream_server):
    upstream_server.reset()
    return outcomes_of(upstream_server)


def expected_code(fault, mode):
    row = TABLE[fault]
    return row.whole if mode == "whole" else row.stream


@pytest.mark.parametrize("fault, dialect, mode", CASES, ids=lambda part: part)
def test_the_matrix(outcomes, fault, dialect, mode):
    (heard, attempts), row, code = outcomes[fault, dialect, mode], TABLE[fault], expected_code(fault, mode)
    if code is None:
        assert heard.status == 200, heard.body
        assert heard.text == TEXT
        if mode == "stream":
            check_one_answer(heard, TEXT)
    elif row.mid:
        assert heard.status == 200
        check_failed_stream(heard, code)
    else:
        check_refused(heard, code, dialect)
    assert attempts == row.asked(mode)
    assert heard.seconds < (row.within_s or 0.5) + SLACK_S


def check_refused(heard, code, dialect):
    """A plain HTTP error in the route's dialect."""
    api_status, v1_status, retryable = CODES[code]
    assert (heard.code, heard.status) == (code, v1_status if dialect == "v1" else api_status), heard.body
    assert heard.headers["Content-Type"] == "application/json"
    assert heard.error["retryable"] is retryable
    assert heard.error["request_id"] == heard.headers["X-Request-Id"]
    if code == ASLEEP:
        assert int(heard.headers["Retry-After"]) == 20


def test_a_whole_and_a_streamed_failure_have_the_same_status(outcomes):
    for fault, row in TABLE.items():
        if row.whole and not row.mid:
            for dialect in DIALECTS:
                pair = [outcomes[fault, dialect, mode].heard for mode in MODES]
                assert len({(heard.status, heard.code) for heard in pair}) == 1, (fault, dialect)


def test_the_dialects_agree(outcomes):
    for fault in TABLE:
        for mode in MODES:
            assert len({outcomes[fault, dialect, mode].heard.code for dialect in DIALECTS}) == 1, (fault, mode)


# ---------------------------------------------------------------- after a heartbeat the failure is an event

AFTER_A_BEAT = ("silent", "headers-only", "http500", "rate-retry-after", "body-200-error", "error-first-429")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_after_a_heartbeat_the_failure_is_an_event(upstream, dialect, beaten):
    for fault, heard in beaten[dialect].items():
        assert heard.status == 200
        assert heard.told.comments
        check_failed_stream(heard, TABLE[fault].stream)


@pytest.fixture(scope="module")
def beaten(upstream_server):
    """dialect → fault → what is heard where a heartbeat has sent the status."""
    env = {"HUGGINGFACE_API_KEY": "hf_test", "HUGGINGFACE_BASE_URL": upstream_server.url, **LIMITS}
    cases = [(dialect, fault) for dialect in DIALECTS for fault in AFTER_A_BEAT]
    with serve({**env, "CHATAPI_HEARTBEAT": "0.2"}) as gateway:

        def ask(case):
            dialect, fault = case
            upstream_server.behave(f"beaten/{fault}-{dialect}", fault)
            return hear(gateway, DIALECTS[dialect], f"beaten/{fault}-{dialect}", stream=True)

        heard = all_at_once(ask, cases)
    return {dialect: {fault: heard[dialect, fault] for fault in AFTER_A_BEAT} for dialect in DIALECTS}


# ---------------------------------------------------------------- the page

INTRODUCTION = """# Reliability

What a caller hears when Hugging Face, or a server that speaks like it, fails. Every cell below is what happened when
`tests/test_reliability.py` last ran against real gunicorn, in all three dialects; the test holds this page to it.

- A failure before the first token is a plain HTTP error. Of two statuses the first is that of `/api/*`, the second
  that of `/v1`.
- A failure in mid-stream is the stream's last event, in the error shape of the dialect, and no `[DONE]` follows it.
  Where a fallback is left it takes over first, and the caller sees one complete answer.
- *Attempts* is how often the upstream was asked, without a fallback and with patience of {max_time:g} s in all.

| fault | whole answer | stream, before the first token | stream, after tokens | attempts |
|---|---|---|---|---|
"""


def page(found):
    """docs/reliability.md."""
    return INTRODUCTION.format(max_time=MAX_TIME_S) + "".join(line(fault, found) for fault in TABLE)


def line(fault, found):
    cells = {mode: {cell(found, fault, dialect, mode) for dialect in DIALECTS} for mode in MODES}
    statuses = {mode: status_of(found, fault, mode) for mode in MODES}
    whole, streamed = (" / ".join(sorted(cells[mode])) for mode in MODES)
    whole = f"{statuses['whole']}{whole}"
    streamed = f"{statuses['stream']}{streamed}"
    columns = ("–", streamed) if TABLE[fault].mid else (streamed, "–")
    asked = {found[fault, dialect, "stream"].attempts for dialect in DIALECTS}
    words = TABLE[fault].words.replace("|", "\\|")
    return f"| {words} | {whole} | {' | '.join(columns)} | {' or '.join(map(str, sorted(asked)))} |\n"


def cell(found, fault, dialect, mode):
    heard = found[fault, dialect, mode].heard
    if heard.code is None:
        return "answered"
    return f"`{heard.code}`" + (" event" if heard.is_stream else "")


def status_of(found, fault, mode):
    """`500 · 502 ` for a plain error, nothing for an answer or an event."""
    heard = {dialect: found[fault, dialect, mode].heard for dialect in DIALECTS}
    if heard["v1"].code is None or heard["v1"].is_stream:
        return ""
    statuses = dict.fromkeys((heard["s1"].status, heard["v1"].status))
    return f"{' · '.join(map(str, statuses))} "


def test_the_page_says_what_happens(outcomes):
    assert PAGE.read_text() == page(outcomes), "renew it: python tests/test_reliability.py --write"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(__doc__)
    with Upstream() as server:
        text = page(outcomes_of(server))
    Path(PAGE).parent.mkdir(exist_ok=True)
    PAGE.write_text(text)
