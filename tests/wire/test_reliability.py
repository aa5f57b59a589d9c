"""Every fault of the fault server in every dialect, whole and streamed: status, code, attempts, time.

What really happens is also the table of docs/reliability.md and its Portuguese twin, which this renews:

    PYTHONPATH=tests python tests/wire/test_reliability.py --write
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from support import portuguese
from support.callers import choices
from support.dialects import ENVELOPE_KEYS, NEW
from support.faults import CODES, FAULTS
from support.gateways import LIMITS, MAX_TIME_S, ROOT, entry, over, serve
from support.heard import DIALECTS, ON_V1, all_at_once, check_failed_stream, check_one_answer, hear
from support.openai_schema import CHUNK, ERROR, check
from support.upstream import BEHAVIOURS, PIECES, TEXT, U2028_TEXT, UTF8_TEXT, Upstream

PAGES = {"en": ROOT / "docs/reliability.md", "pt-BR": ROOT / "docs/reliability.pt-BR.md"}
SLACK_S = 2.0  # less than a limit that is waited for without need

# ---------------------------------------------------------------- the table


# Healthy answers of unusual looks, with their text and finish reason.
PLAIN = (
    *("ok", "continue", "reasoning", "close-delimited", "null-content", "finish-with-text", "usage-in-finish"),
    *("usage-every-chunk", "usage-nowhere", "stop-sequence", "eos-token", "no-space", "crlf", "crlf-split", "comments"),
    *("event-fields", "several-data-lines", "role-only", "no-final-blank", "packed", "bytewise"),
)
HEALTHY = {
    **dict.fromkeys(PLAIN, (TEXT, "stop")),
    "finish-length": (TEXT, "length"),
    "utf8-split": (UTF8_TEXT, "stop"),
    "u2028": (U2028_TEXT, "stop"),
    "echo": ("hi there", "stop"),
    "paced": ("".join(f"tok{i} " for i in range(20)), "stop"),
    "slow": ("".join(f"tok{i} " for i in range(40)), "stop"),
    "tool-calls": ("", "tool_calls"),
    "finish-only": ("", "stop"),
}
COUNTED = ("ok", "usage-in-finish", "usage-every-chunk")  # with the upstream's own usage
ONE_PIECE = ("no-stream-support", "whole-for-stream")
# Of what TGI itself does, as a stream, a part is enough: all of it is in its unit tests.
OF_TGI = [name for name in HEALTHY if name not in ("tool-calls", "finish-only")]
OF_TGI += ["cut", "cut-mid-event", "reset-mid", "eof-no-finish", "error-then-done", "error-then-close", "stall-after-3"]
OF_TGI += ["error-first", "tgi-error-first", "eof-at-once", "gated", "body-html", "no-done", "malformed-event"]
OF_TGI += ["malformed-first", "slow-first", "keepalive-then-ok", *ONE_PIECE]


def test_the_table_names_every_fault():
    behaviours = {id.removeprefix("test/") for id in BEHAVIOURS}
    assert FAULTS.keys() == {id for id in behaviours - HEALTHY.keys() if not id.startswith(("classic-", "quirk-"))}


# ---------------------------------------------------------------- what really happens


class Outcome(NamedTuple):
    """What the caller heard, and how often the upstream was asked."""

    heard: object
    attempts: int


MODES = ("whole", "stream")
SDK_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_error"}
WITHOUT_A_HINT = ("rate-bare", "reset", "silent", "error-first-429")
CASES = [(fault, dialect, mode) for fault in [*FAULTS, *HEALTHY] for dialect in DIALECTS for mode in MODES]
FAULTY = len(FAULTS) * len(DIALECTS) * len(MODES)  # so many of them
CASES += [(name, "tgi", "stream") for name in OF_TGI]
ROUTES = DIALECTS | {"tgi": NEW}  # a text model's server, asked by /api


def outcomes_of(upstream):
    """Every case, through one gateway."""
    with TemporaryDirectory() as home:
        at = f'url = "{upstream.url}/at/matrix'
        entries = [entry(f"tgi/{name}", 'task = "text-generation"', f'{at}/{name}-tgi-stream"') for name in OF_TGI]
        with serve(over(upstream, Path(home), entries) | LIMITS) as gateway:

            def ask(case):
                return outcome(gateway, upstream, *case)

            return all_at_once(ask, CASES[:FAULTY]) | all_at_once(ask, CASES[FAULTY:], 30)


def outcome(gateway, upstream, fault, dialect, mode):
    model = f"matrix/{fault}-{dialect}-{mode}"  # each case its own, and so its own circuit
    upstream.behave(model, fault)
    asked = f"tgi/{fault}" if dialect == "tgi" else model
    heard = hear(gateway, ROUTES[dialect], asked, stream=mode == "stream")
    return Outcome(heard, len(upstream.calls_for(model)))


@pytest.fixture(scope="module")
def outcomes(upstream_server):
    upstream_server.reset()
    return outcomes_of(upstream_server)


@pytest.mark.parametrize("fault, dialect, mode", CASES, ids=lambda part: part)
def test_the_matrix(outcomes, fault, dialect, mode):
    heard, attempts = outcomes[fault, dialect, mode]
    if fault in HEALTHY:
        check_answered(heard, fault, dialect, mode)
        assert attempts == 1
        return
    row = FAULTS[fault]
    code = row.code_of(mode)
    if code is None:
        check_answered(heard, fault, dialect, mode)
    elif row.mid:
        assert heard.status == 200
        check_failed_stream(heard, code)
        check_said(heard, code, dialect)
        assert heard.text == (TEXT if fault == "done-no-finish" else "".join(PIECES[:3]))
    else:
        check_refused(heard, code, dialect)
        assert fault not in WITHOUT_A_HINT or "Retry-After" not in heard.headers
    assert attempts == row.attempts_of(mode)
    assert heard.seconds < (row.within_s or 0.5) + SLACK_S


def check_answered(heard, name, dialect, mode):
    text, finish = HEALTHY.get(name, (TEXT, "stop"))
    assert heard.status == 200, heard.body
    if mode == "whole":
        assert (heard.text or "") == (TEXT if name == "finish-only" else text)
    else:
        assert heard.headers["Content-Type"].startswith("text/event-stream")
        assert "no-cache" in heard.headers["Cache-Control"]
        assert heard.headers["X-Accel-Buffering"] == "no"
        check_one_answer(heard, text, "stop" if (dialect, finish) == ("responses", "tool_calls") else finish)
        assert len(heard.models) == 1
        assert dialect == "responses" or all(check(CHUNK, chunk) for chunk in heard.told.chunks)
        pieces = [c["delta"]["content"] for c in choices(heard.told) if c["delta"].get("content")]
        assert pieces == [text] or name not in ONE_PIECE or dialect == "tgi"
    assert heard.tokens == (2, len(PIECES)) or name not in COUNTED


def check_refused(heard, code, dialect):
    """A plain HTTP error in the route's dialect."""
    api_status, v1_status, _ = CODES[code]
    assert (heard.code, heard.status) == (code, v1_status if dialect in ON_V1 else api_status), heard.body
    assert heard.headers["Content-Type"] == "application/json"
    check_said(heard, code, dialect)
    if dialect in ON_V1:
        check_what_sdks_act_on(heard, v1_status)
    else:
        assert ENVELOPE_KEYS <= heard.error.keys() <= ENVELOPE_KEYS | {"details", "upstream_status"}
        assert len(heard.error["message"]) > 10
    if code == "model_loading":
        assert int(heard.headers["Retry-After"]) == 20


def check_what_sdks_act_on(heard, status):
    error = check(ERROR, json.loads(heard.body))["error"]
    assert error["type"] == SDK_TYPES.get(status, "upstream_error")
    assert error["param"] == ("model" if error["code"] == "model_not_found" else error["param"])
    assert heard.headers["x-should-retry"] == ("true" if error["retryable"] else "false")
    retry_s, retry_ms = (heard.headers.get(name) for name in ("Retry-After", "retry-after-ms"))
    assert (retry_s is None) == (retry_ms is None)
    if retry_s:
        assert error["retryable"]
        assert (int(retry_s) - 1) * 1000 < int(retry_ms) <= int(retry_s) * 1000


def check_said(heard, code, dialect):
    """What every failure says of itself, be it a whole answer or the last event of a stream."""
    assert heard.error["retryable"] is CODES[code].retryable
    assert heard.error["request_id"] == heard.headers["X-Request-Id"]
    if dialect == "v1":
        check(ERROR, {"error": heard.error})
        assert not heard.is_stream or all(check(CHUNK, chunk) for chunk in heard.told.chunks)
    elif dialect not in ON_V1:
        told = json.loads(heard.body.rstrip().rpartition(b"\n\n")[2].removeprefix(b"data: "))
        assert (told.keys(), told["success"]) == ({"success", "error"}, False)
        assert (code == "upstream_timeout") <= ("upstream_status" not in heard.error)


def test_a_whole_and_a_streamed_failure_have_the_same_status(outcomes):
    for fault, row in FAULTS.items():
        if row.code_of("whole") and not row.mid:
            for dialect in DIALECTS:
                pair = [outcomes[fault, dialect, mode].heard for mode in MODES]
                assert len({(heard.status, heard.code) for heard in pair}) == 1, (fault, dialect)


def test_the_dialects_agree(outcomes):
    for fault in FAULTS:
        for mode in MODES:
            assert len({outcomes[fault, dialect, mode].heard.code for dialect in DIALECTS}) == 1, (fault, mode)


# ---------------------------------------------------------------- after a heartbeat the failure is an event

AFTER_A_BEAT = ("silent", "headers-only", "http500", "rate-retry-after", "body-200-error", "error-first-429")
UPSTREAM_STATUS = {"http500": 500, "rate-retry-after": 429, "body-200-error": 502, "error-first-429": 429}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_after_a_heartbeat_the_failure_is_an_event(upstream, dialect, beaten):
    for fault, heard in beaten[dialect].items():
        assert heard.status == 200
        assert heard.told.comments
        check_failed_stream(heard, FAULTS[fault].code_of("stream"))
        check_said(heard, heard.code, dialect)
        if dialect not in ON_V1:
            assert heard.error.get("upstream_status") == UPSTREAM_STATUS.get(fault), fault


@pytest.fixture(scope="module")
def beaten(upstream_server):
    """dialect → fault → what is heard where a heartbeat has sent the status."""
    cases = [(dialect, fault) for dialect in DIALECTS for fault in AFTER_A_BEAT]
    with serve(over(upstream_server) | LIMITS | {"CHATAPI_HEARTBEAT": "0.2"}) as gateway:

        def ask(case):
            dialect, fault = case
            upstream_server.behave(f"beaten/{fault}-{dialect}", fault)
            return hear(gateway, DIALECTS[dialect], f"beaten/{fault}-{dialect}", stream=True)

        heard = all_at_once(ask, cases)
    return {dialect: {fault: heard[dialect, fault] for fault in AFTER_A_BEAT} for dialect in DIALECTS}


# ---------------------------------------------------------------- the page

INTRODUCTION = {
    "en": """# Reliability

What a caller hears when Hugging Face, or a server that speaks like it, fails. Every cell below is what happened when
`tests/wire/test_reliability.py` last ran against real gunicorn, in all four dialects; the test holds this page to it.

- A failure before the first token is a plain HTTP error. Of two statuses the first is that of `/api/*`, the second
  that of `/v1`.
- A failure in mid-stream is the stream's last event, in the error shape of the dialect, and no `[DONE]` follows it (on
  `/v1/responses` it is `response.failed`).
  Where a fallback is left it takes over first, and the caller sees one complete answer.
- *Attempts* is how often the upstream was asked, without a fallback and with patience of {max_time:g} s in all.

""",
    "pt-BR": """# Confiabilidade

O que ouve quem chama quando o Hugging Face, ou um servidor que fala como ele, falha. Cada célula abaixo é o que
aconteceu na última vez em que `tests/wire/test_reliability.py` rodou contra um gunicorn de verdade, nos quatro
dialetos; o teste obriga esta página a dizer o mesmo.

- Uma falha antes do primeiro token é um erro HTTP comum. De dois status, o primeiro é o de `/api/*`, o segundo, o de
  `/v1`.
- Uma falha no meio do stream é o último evento dele, na forma de erro do dialeto, e nenhum `[DONE]` vem depois (em
  `/v1/responses` é `response.failed`).
  Onde resta um fallback, ele assume antes, e quem chama vê uma só resposta completa.
- *Tentativas* é quantas vezes o servidor foi chamado, sem fallback e com paciência de {max_time:g} s ao todo.

""",
}
HEAD = """| fault | whole answer | stream, before the first token | stream, after tokens | attempts |
|---|---|---|---|---|
"""


def page(found, language):
    """docs/reliability.md, or its twin."""
    text = HEAD + "".join(line(fault, found) for fault in FAULTS)
    text = text if language == "en" else portuguese.table(text)
    return INTRODUCTION[language].format(max_time=MAX_TIME_S) + text


def line(fault, found):
    cells = {mode: {cell(found, fault, dialect, mode) for dialect in DIALECTS} for mode in MODES}
    statuses = {mode: status_of(found, fault, mode) for mode in MODES}
    whole, streamed = (" / ".join(sorted(cells[mode])) for mode in MODES)
    whole = f"{statuses['whole']}{whole}"
    streamed = f"{statuses['stream']}{streamed}"
    columns = ("–", streamed) if FAULTS[fault].mid else (streamed, "–")
    asked = {found[fault, dialect, "stream"].attempts for dialect in DIALECTS}
    words = FAULTS[fault].words.replace("|", "\\|")
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


@pytest.mark.parametrize("language", PAGES)
def test_the_page_says_what_happens(outcomes, language):
    assert PAGES[language].read_text() == page(outcomes, language), (
        "renew it: PYTHONPATH=tests python tests/wire/test_reliability.py --write"
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(__doc__)
    with Upstream() as server:
        found = outcomes_of(server)
    for language, path in PAGES.items():
        path.write_text(page(found, language))
