"""Another model in place of one that fails: when it is asked, what the caller hears, and streams that are rescued."""

import re
import time

import pytest
from support.callers import choices
from support.dialects import NEW, V1
from support.gateways import entry, over, serve
from support.heard import DIALECTS, all_at_once, check_failed_stream, check_one_answer, hear, records_of, wait_until
from support.upstream import ERRORS, PIECES, TEXT, chat_object, chunk, play, rate, say, saying, script

from chatapi.engine.circuit import FAILURES

FIRST_TOKEN_S, REPLY_S, IDLE_S, MAX_TIME_S, SLACK_S = 0.8, 1.0, 0.6, 5.0, 1.0
THREADS = 16  # few enough that such short limits mean the upstream, not this machine
SECOND = "The second one."
MODES = ("whole", "stream")
CASES = [(dialect, mode) for dialect in DIALECTS for mode in MODES]

SIZES = {"small": 1000, "smaller": 500, "same": 1000, "larger": 4000}
BREAKS = {
    "cut": "upstream_unavailable",
    "cut-mid-event": "upstream_unavailable",
    "reset-mid": "upstream_unavailable",
    "stall-after-3": "upstream_timeout",
    "error-then-done": "upstream_unavailable",
    "error-then-close": "upstream_unavailable",
    "eof-no-finish": "upstream_unavailable",
}
RESCUES = [
    (fault, way, dialect) for fault in BREAKS for way in ("prefill", "refused", "same", "other") for dialect in DIALECTS
]
ODD = ("tools", "silent", "again", "limit", "begun-tools", "two", "third")


@pytest.fixture(scope="module")
def gateway(upstream_server, tmp_path_factory):
    """One gateway for all: each case has models, and so circuits, of its own."""
    upstream_server.reset()
    chat, prefill = 'task = "chat-completion"', "prefill = true"
    entries = [entry(f"size/{name}", chat, f"context_tokens = {size}") for name, size in SIZES.items()]
    entries += [entry(f"{way}/{fault}-{dialect}", chat, prefill) for fault, way, dialect in RESCUES if way[0] in "pr"]
    entries += [entry(f"odd/{name}", chat, prefill) for name in ODD]
    entries += [entry("named/first", chat, 'fallbacks = ["named/second", "named/third"]')]
    entries += [entry("own/tgi", 'task = "text-generation"', f'url = "{upstream_server.url}/at/own/tgi"')]
    entries += [entry("alias/second", 'serve_as = "named/heir"')]
    limits = {"MAX_TIME": MAX_TIME_S, "FIRST_TOKEN_TIMEOUT": FIRST_TOKEN_S, "REPLY_TIMEOUT": REPLY_S}
    limits |= {"IDLE_TIMEOUT": IDLE_S, "HEARTBEAT": 30}
    with serve(over(upstream_server, tmp_path_factory.mktemp("fallbacks"), entries, **limits)) as running:
        yield running


# ---------------------------------------------------------------- when another model is asked

ASKED = ["http500", "http502", "http503", "http504", "reset", "close", "body-truncated", "body-empty", "body-html"]
ASKED += ["body-200-error", "redirect", "silent", "headers-only", "header-dribble", "body-dribble", "slow-first"]
ASKED += ["loading", "rate-bare", "rate-retry-after", "rate-ratelimit", "overloaded", "gone", "context-length"]
ASKED += ["context-length-tgi", *(f"err-{slug}" for slug in ("provider-unsupported", "model-not-found", "depleted"))]
NOT_ASKED = {
    "content-filter": "content_filter",
    "gated": "upstream_auth",
    "body-list-error": "upstream_rejected",
    "body-detail": "upstream_rejected",
    "err-validation": "upstream_rejected",
    "err-wrong-shape": "upstream_rejected",
    "err-tgi-413": "upstream_rejected",
    "err-no-token": "upstream_auth",
    "err-bad-token": "upstream_auth",
    "err-no-permission": "upstream_auth",
}
LATE = ("silent", "headers-only", "header-dribble", "body-dribble", "slow-first")


@pytest.fixture(scope="module")
def answers(gateway, upstream_server):
    """(fault, dialect, mode) → what is heard where a healthy model stands behind the failing one."""

    def ask(case):
        fault, dialect, mode = case
        first, second = models_of(case)
        upstream_server.behave(first, fault)
        upstream_server.behave(second, saying(SECOND))
        return hear(gateway, DIALECTS[dialect], first, stream=mode == "stream", fallbacks=[second])

    return all_at_once(ask, [(fault, *case) for fault in (*ASKED, *NOT_ASKED) for case in CASES], THREADS)


def models_of(case):
    return [f"{place}/{'-'.join(case)}" for place in ("first", "second")]


@pytest.mark.parametrize("dialect, mode", CASES)
@pytest.mark.parametrize("fault", ASKED)
def test_the_fallback_answers(gateway, answers, upstream_server, fault, dialect, mode):
    heard, (first, second) = answers[fault, dialect, mode], models_of((fault, dialect, mode))
    assert (heard.status, heard.text) == (200, SECOND), heard.body
    assert heard.models == [second]
    assert heard.headers["X-Requested-Model"] == first
    assert heard.tokens == (2, 4), "the second model's alone"
    assert len(upstream_server.calls_for(second)) == 1
    assert heard.seconds < (FIRST_TOKEN_S if mode == "stream" else REPLY_S) + SLACK_S
    if fault in LATE:
        assert len(upstream_server.calls_for(first)) == 1, "a silent upstream is not asked twice"
    [record] = records_of(gateway, heard.headers["X-Request-Id"])
    asked = len(upstream_server.calls_for(first)) + 1
    assert (record["ending"], record["model"], record["served"]) == ("completed", first, second)
    assert record["attempts"] == asked, "failed attempts are attempts, not completions"
    assert (record["prompt_tokens"], record["completion_tokens"]) == (2, 4)


@pytest.mark.parametrize("dialect, mode", CASES)
@pytest.mark.parametrize("fault", NOT_ASKED)
def test_the_fallback_is_not_asked(answers, upstream_server, fault, dialect, mode):
    heard, (first, second) = answers[fault, dialect, mode], models_of((fault, dialect, mode))
    assert heard.code == NOT_ASKED[fault]
    assert len(upstream_server.calls_for(first)) == 1
    assert upstream_server.calls_for(second) == []


def test_never_two_requests_at_once(answers, upstream_server):
    """The next model is asked when the one before has been left: what was closed is seen a moment later."""
    for fault in LATE:
        for case in CASES:
            first, second = (upstream_server.calls_for(model)[0] for model in models_of((fault, *case)))
            assert first.client_closed_at is not None
            assert second.at > first.client_closed_at - 0.2


@pytest.mark.parametrize("dialect, mode", CASES)
def test_the_catalogue_names_fallbacks(gateway, upstream, dialect, mode):
    upstream.behave("named/first", "gone")
    upstream.behave("named/second", "gone")
    upstream.behave("named/third", saying(SECOND))
    heard = hear(gateway, DIALECTS[dialect], "named/first", stream=mode == "stream")
    assert (heard.text, heard.models) == (SECOND, ["named/third"])
    assert [call.model for call in upstream.posts] == ["named/first", "named/second", "named/third"]


# What each model does, the first's fallbacks, who is asked, and the code.
WHO_IS_ASKED = {
    "none, whatever the catalogue says": ({"named/first": "gone"}, [], ["named/first"], "model_not_found"),
    "the request's own, in place of the catalogue's": (
        {"named/first": "gone", "other/one": "ok"}, ["other/one"], ["named/first", "other/one"], None
    ),
    "each once, and by the name that answers": (
        {"once/first": "gone", "named/heir": "gone"}, ["once/first", "alias/second", "named/heir"],
        ["once/first", "named/heir"], "model_not_found",
    ),
    "no other where none is larger": (
        {"size/small": "context-length"}, ["size/smaller", "size/same"], ["size/small"], "context_length_exceeded"
    ),
    "nobody after a verdict about the text, whoever gives it": (
        {"filter/first": "gone", "filter/second": "content-filter"}, ["filter/second", "filter/third"],
        ["filter/first", "filter/second"], "content_filter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("does, fallbacks, asked, code", WHO_IS_ASKED.values(), ids=WHO_IS_ASKED)
def test_who_is_asked(gateway, upstream, does, fallbacks, asked, code):
    for model, behaviour in does.items():
        upstream.behave(model, behaviour)
    assert hear(gateway, NEW, asked[0], fallbacks=fallbacks).code == code
    assert [call.model for call in upstream.posts] == asked


@pytest.mark.parametrize("dialect, mode", CASES)
def test_when_all_fail_the_error_is_that_of_the_model_asked_for(gateway, upstream, dialect, mode):
    first, second, third = (f"all-{place}/{dialect}-{mode}" for place in ("first", "second", "third"))
    upstream.behave(first, "loading")
    upstream.behave(second, "gated")
    upstream.behave(third, "http500")
    heard = hear(gateway, DIALECTS[dialect], first, stream=mode == "stream", fallbacks=[second, third])
    assert (heard.code, heard.headers["Retry-After"]) == ("model_loading", "20")
    assert first in heard.error["message"]
    assert {call.model for call in upstream.posts} == {first, second, third}


@pytest.mark.parametrize("mode", MODES)
def test_too_long_goes_to_larger_models_only(gateway, upstream, mode):
    upstream.behave("size/small", "context-length")
    upstream.behave("size/larger", saying(SECOND))
    fallbacks = ["size/smaller", "size/same", "size/larger"]
    heard = hear(gateway, NEW, "size/small", stream=mode == "stream", fallbacks=fallbacks)
    assert (heard.text, heard.models) == (SECOND, ["size/larger"])
    assert [call.model for call in upstream.posts] == ["size/small", "size/larger"]


@pytest.mark.parametrize("dialect, mode", CASES)
def test_the_callers_max_time_bounds_it_all(gateway, upstream, dialect, mode):
    models = [f"late-{i}/{dialect}-{mode}" for i in range(4)]
    for model in models:
        upstream.behave(model, "silent")
    heard = hear(gateway, DIALECTS[dialect], models[0], stream=mode == "stream", fallbacks=models[1:], max_time=1)
    assert heard.code == "upstream_timeout"
    assert 0.9 < heard.seconds < 1 + SLACK_S


# ---------------------------------------------------------------- how often each is asked

# What the first model does, who answers, and how often the first and the second are asked.
PATIENT = {
    "429 with a wait": ([rate({"Retry-After": "30"})], "second", (1, 1)),
    "429 without one": (["rate-bare"], "second", (3, 1)),
    "500 once": (["http500", "ok"], "first", (2, 0)),
    "503 always": (["http503"], "second", (3, 1)),
    "reset": (["reset"], "second", (3, 1)),
    "silence": (["silent"], "second", (1, 1)),
    "context length": (["context-length"], "second", (1, 1)),
    "bad event": (["malformed-event"], "first", (1, 0)),
    "no [DONE]": (["no-done"], "first", (1, 0)),
    "flapping": (["http500", "reset", "ok"], "first", (3, 0)),
}
TRIES = [(name, mode) for name in PATIENT for mode in MODES]


def pair_of(name, mode):
    return [f"{place}/{list(PATIENT).index(name)}-{mode}" for place in ("patient", "spare")]


@pytest.fixture(scope="module")
def patient(upstream_server, tmp_path_factory):
    """A gateway that waits long enough for two waits between attempts, and knows its models by name."""
    models = [model for case in TRIES for model in pair_of(*case)] + ["joined/first", "joined/second"]
    entries = [entry(model, 'task = "chat-completion"', "prefill = true") for model in models]
    limits = {"MAX_TIME": 20, "FIRST_TOKEN_TIMEOUT": 4, "REPLY_TIMEOUT": 4, "IDLE_TIMEOUT": 0.8, "HEARTBEAT": 30}
    with serve(over(upstream_server, tmp_path_factory.mktemp("patient"), entries, **limits)) as running:
        yield running


@pytest.fixture(scope="module")
def tried(patient, upstream_server):
    """What each case heard, and how often its models were asked."""

    def ask(case):
        first, second = pair_of(*case)
        upstream_server.sequence(first, PATIENT[case[0]][0])
        upstream_server.behave(second, saying(SECOND))
        heard = hear(patient, V1, first, stream=case[1] == "stream", fallbacks=[second])
        return heard, tuple(len(upstream_server.calls_for(model)) for model in (first, second))

    return all_at_once(ask, TRIES, 6)


@pytest.mark.parametrize("name, mode", TRIES, ids=lambda part: part)
def test_a_model_is_asked_again_before_another_is(tried, name, mode):
    (heard, asked), (_, who, times) = tried[name, mode], PATIENT[name]
    text, model = (TEXT, SECOND)[who == "second"], pair_of(name, mode)[who == "second"]
    assert (heard.text, heard.models, asked) == (text, [model], times)
    if mode == "stream":
        check_one_answer(heard, text)


def test_what_each_model_did_is_booked_on_it(patient, tried, upstream):
    """Attempts and first tokens by the model that made them."""

    def metric(kind, model):
        found = re.search(rf'^chatapi_{kind}{{model="{model}"}} (\S+)', patient.request("GET", "/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    for case in TRIES:
        for model, asked in zip(pair_of(*case), tried[case][1], strict=True):
            assert wait_until(lambda m=model, n=asked: metric("attempts_total", m) == n), model
    upstream.behave("joined/first", "cut")
    upstream.behave("joined/second", "continue")
    check_one_answer(hear(patient, V1, "joined/first", stream=True, fallbacks=["joined/second"]), TEXT)
    wait_until(lambda: metric("attempts_total", "joined/second") == 1)
    for (first, second), counted in (
        (("joined/first", "joined/second"), (1, 0)),  # the model whose words came first
        (pair_of("silence", "stream"), (0, 1)),
    ):
        pair = (first, second)
        assert wait_until(lambda p=pair, n=counted: tuple(metric("first_token_seconds_count", m) for m in p) == n)


def test_a_model_that_flaps_opens_no_circuit_and_one_that_fails_always_does(patient, upstream):
    """Every other request fails, a success between: never five in a row. Then fallbacks are asked at once."""
    for mode in MODES:
        upstream.sequence(f"flap/{mode}", ["http500", "ok"] * 6)
    upstream.behave("flap/down", "http500")
    upstream.behave("flap/spare", "ok")

    def six_times(mode):
        return {hear(patient, V1, f"flap/{mode}", stream=mode == "stream").text for _ in range(6)}

    assert all(texts == {TEXT} for texts in all_at_once(six_times, MODES).values())
    assert [len(upstream.calls_for(f"flap/{mode}")) for mode in MODES] == [12, 12]
    asked = 0
    for _ in range(FAILURES):
        assert hear(patient, V1, "flap/down", fallbacks=["flap/spare"]).models == ["flap/spare"]
        before, asked = asked, len(upstream.calls_for("flap/down"))
    assert asked == before, "its circuit is open"
    assert list(patient.request("GET", "/readyz").json()["circuit"]["open"]) == ["flap/down"]


# ---------------------------------------------------------------- rescue in mid-stream

REFUSED = ERRORS["validation"]  # a model that takes no assistant message at the end


def behave_for(upstream, way, model):
    """The fallback's behaviour for each way of going on."""
    ways = {"prefill": ["continue"], "refused": [REFUSED, "ok"], "same": ["ok"], "other": [saying("Something else.")]}
    upstream.sequence(model, ways[way])


@pytest.fixture(scope="module")
def rescues(gateway, upstream_server):
    """(fault, way, dialect) → what is heard of a stream that breaks after three tokens."""

    def ask(case):
        fault, way, dialect = case
        second = f"{way}/{fault}-{dialect}"
        upstream_server.behave(f"broken-{second}", fault)
        behave_for(upstream_server, way, second)
        return hear(gateway, DIALECTS[dialect], f"broken-{second}", stream=True, fallbacks=[second])

    return all_at_once(ask, RESCUES, THREADS)


@pytest.mark.parametrize("fault, way, dialect", RESCUES)
def test_a_stream_that_breaks(gateway, rescues, upstream_server, fault, way, dialect):
    heard, second = rescues[fault, way, dialect], f"{way}/{fault}-{dialect}"
    [record] = records_of(gateway, heard.headers["X-Request-Id"])
    if way == "other":
        check_failed_stream(heard, BREAKS[fault])
        assert heard.text == "".join(PIECES[:3]), "nothing of the other answer"
        assert record["ending"] == ("deadline" if fault == "stall-after-3" else "upstream_cut")
    else:
        check_one_answer(heard, TEXT)
        assert heard.models == [f"broken-{second}", second]
        assert record["ending"] == "completed"
        prompt, completion = heard.tokens
        assert completion == (5 if way == "prefill" else 6), "all tokens delivered"
        assert 2 <= prompt <= 4, "the caller's two, counted once"
    last = {"prefill": "assistant", "refused": "assistant", "same": "user", "other": "user"}[way]
    calls = upstream_server.calls_for(second)
    assert calls[0].body["messages"][-1]["role"] == last
    assert len(calls) == (2 if way == "refused" else 1)
    assert heard.seconds < IDLE_S + SLACK_S


def cut_after(*deltas):
    """These deltas (of choice 0, or with the index given), and then the connection closes."""

    def behaviour(x):
        x.start_stream()
        for delta in deltas:
            index, delta = delta if isinstance(delta, tuple) else (0, delta)
            x.event(chunk(x, delta, index=index))
        x.sleep(0.05)
        x.close()

    return behaviour


ROLE = {"role": "assistant", "content": ""}


def breaking_after(pieces):
    """These tokens, and then the connection closes."""
    return cut_after(ROLE, *({"content": piece} for piece in pieces))


def test_a_rescue_that_breaks_is_rescued(gateway, upstream):
    upstream.behave("chain/first", breaking_after(PIECES[:2]))
    upstream.behave("chain/second", breaking_after(PIECES[:4]))
    upstream.behave("odd/third", "continue")
    heard = hear(gateway, V1, "chain/first", stream=True, fallbacks=["chain/second", "odd/third"])
    check_one_answer(heard, TEXT)
    assert heard.models == ["chain/first", "chain/second", "odd/third"]
    assert upstream.calls_for("odd/third")[0].body["messages"][-1]["content"] == "".join(PIECES[:4])


JOINED = {  # what the first model does, what the second, and the second's id
    "of TGI by a chat model": ("own/tgi", "cut", "chat/after-tgi", "ok"),
    "of a chat model by TGI": ("chat/before-tgi", "cut", "own/tgi", "ok"),
    "by a whole answer": ("whole/first", "cut", "whole/second", "whole-for-stream"),
    "of which only the end was missing": ("ended/first", breaking_after(PIECES), "ended/second", "ok"),
}


@pytest.mark.parametrize("first, breaks, second, goes_on", JOINED.values(), ids=JOINED)
def test_the_rescue_of_a_stream(gateway, upstream, first, breaks, second, goes_on):
    upstream.behave(first, breaks)
    upstream.behave(second, goes_on)
    heard = hear(gateway, NEW, first, stream=True, fallbacks=[second])
    check_one_answer(heard, TEXT)
    assert heard.models == [first, second]


def test_the_token_limit_holds_over_both_parts(gateway, upstream):
    upstream.behave("limit/first", "cut")
    upstream.behave("odd/limit", "continue")
    heard = hear(gateway, NEW, "limit/first", stream=True, fallbacks=["odd/limit"], max_tokens=4)
    assert upstream.calls_for("odd/limit")[0].body["max_tokens"] == 1
    assert heard.told.done
    assert choices(heard.told)[-1]["finish_reason"] == "length"


def test_a_content_filter_in_mid_stream_is_told_with_its_reason(gateway, upstream):
    verdict = {"error": {"message": "Filtered by the content policy.", "code": "content_filter", "status": 400}}
    upstream.behave("filter/mid", lambda x: play(x, [*script(x).tokens[:3], verdict]))
    upstream.behave("filter/after", "ok")
    heard = hear(gateway, V1, "filter/mid", stream=True, fallbacks=["filter/after"])
    check_failed_stream(heard, "content_filter")
    assert "content policy" in heard.error["message"]
    assert upstream.calls_for("filter/after") == []


def test_a_rescue_in_time_or_not_at_all(gateway, upstream):
    """The caller's max_time holds for the rescue too."""
    upstream.behave("hurry/first", "stall-after-3")
    upstream.behave("hurry/second", "silent")
    heard = hear(gateway, NEW, "hurry/first", stream=True, fallbacks=["hurry/second"], max_time=1)
    check_failed_stream(heard, "upstream_timeout")
    assert heard.seconds < 1 + SLACK_S


# ---------------------------------------------------------------- what no other model can go on from

CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def calling_a_tool(x):
    """A good answer that is a tool call."""
    told = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    rest = {"tool_calls": [{"index": 0, "function": {"arguments": '"Belém"}'}}]}
    play(x, [chunk(x, told), chunk(x, rest), chunk(x, {}, "tool_calls"), "[DONE]"])


STUCK = {
    "tool-call": [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
    "text-then-tool-call": [{"role": "assistant", "content": "Well"}, {"tool_calls": [CALL]}],
    "two-choices": [(0, {"role": "assistant", "content": "Hel"}), (1, {"role": "assistant", "content": "Hel"})],
    "reasoning": [{"role": "assistant", "reasoning_content": "Let me think."}, {"content": "Hel"}],
}


@pytest.mark.parametrize("name", STUCK)
def test_more_than_text_is_not_continued(gateway, upstream, name):
    upstream.behave(f"stuck/{name}", cut_after(*STUCK[name]))
    upstream.behave("odd/begun-tools", "ok")
    fields = {"n": 2} if name == "two-choices" else {"tools": TOOLS}
    heard = hear(gateway, V1, f"stuck/{name}", stream=True, fallbacks=["odd/begun-tools"], **fields)
    check_failed_stream(heard, "upstream_unavailable")
    assert upstream.calls_for("odd/begun-tools") == []


def check_whole_or_failed(heard):
    """A stream that says it is finished holds all of what its finish reason promises."""
    if heard.told.error:
        return check_failed_stream(heard, "upstream_unavailable")
    assert heard.told.done
    finishes = {c["index"]: c["finish_reason"] for c in choices(heard.told) if c["finish_reason"]}
    for index, reason in finishes.items():
        mine = [choice for choice in choices(heard.told) if choice["index"] == index]
        said = "".join(choice["delta"].get("content") or "" for choice in mine)
        calls = [call for choice in mine for call in choice["delta"].get("tool_calls", [])]
        assert ["role" in choice["delta"] for choice in mine].count(True) == 1, mine
        if reason == "tool_calls":
            assert "".join(c["function"].get("arguments", "") for c in calls) == '{"city":"Belém"}', mine
        else:
            assert said == TEXT, (index, said)
    return None


BEGUN = {  # what was sent before the cut, the fallback, what that does, and what is asked for besides
    "the role, then a call of a tool": ([ROLE], "plain/tools", calling_a_tool, {"tools": TOOLS}),
    "text, then a call of a tool": ([ROLE, {"content": "Well"}], "odd/tools", calling_a_tool, {"tools": TOOLS}),
    "the role of the first of two": ([ROLE], "plain/two", "ok", {"n": 2}),
    "text of the first of two, afresh": ([ROLE, {"content": "Hel"}], "plain/two-begun", "ok", {"n": 2}),
    "text of the first of two, continued": ([ROLE, {"content": "Hel"}], "odd/two", "continue", {"n": 2}),
}


@pytest.mark.parametrize("sent, fallback, behaviour, fields", BEGUN.values(), ids=BEGUN)
def test_a_rescue_loses_nothing_of_a_call_and_cuts_no_choice(gateway, upstream, sent, fallback, behaviour, fields):
    upstream.behave(f"begun-{fallback}", cut_after(*sent))
    upstream.behave(fallback, behaviour)
    check_whole_or_failed(hear(gateway, V1, f"begun-{fallback}", stream=True, fallbacks=[fallback], **fields))


def test_a_fallback_that_is_silent_is_not_asked_twice(gateway, upstream):
    """With the text so far or afresh: silence is silence."""
    upstream.behave("begun/silent", "cut")
    upstream.behave("odd/silent", "silent")
    upstream.behave("plain/after-silent", "ok")
    heard = hear(gateway, NEW, "begun/silent", stream=True, fallbacks=["odd/silent", "plain/after-silent"])
    check_one_answer(heard, TEXT)
    assert len(upstream.calls_for("odd/silent")) == 1


def test_a_rescue_does_not_hammer(gateway, upstream):
    """At most four attempts in three seconds to one model, with and without the text so far."""
    upstream.behave("begun/again", "cut")
    upstream.behave("odd/again", "http503")
    heard = hear(gateway, NEW, "begun/again", stream=True, fallbacks=["odd/again"])
    check_failed_stream(heard, "upstream_unavailable")
    times = [call.at for call in upstream.calls_for("odd/again")]
    assert all(later - at > 3 for at, later in zip(times, times[4:], strict=False)), times


def test_a_shorter_answer_is_no_rescue(gateway, upstream):
    upstream.behave("shorter/first", breaking_after(PIECES))
    upstream.behave("shorter/second", saying("Hello"))
    heard = hear(gateway, NEW, "shorter/first", stream=True, fallbacks=["shorter/second"])
    check_failed_stream(heard, "upstream_unavailable")
    assert heard.text == TEXT


def test_an_own_name_in_the_upstreams_chunks_is_not_passed_on(gateway, upstream):
    upstream.behave("name/first", "gone")
    upstream.behave("name/second", lambda x: play(x, [chat_object(x, "chat.completion.chunk", []), *script(x).whole()]))
    assert hear(gateway, V1, "name/first", stream=True, fallbacks=["name/second"]).models == ["name/second"]


def test_a_slow_first_model_is_given_all_the_time_when_it_stands_alone(gateway, upstream):
    upstream.behave("alone/slow", lambda x: (x.sleep(1.5), say(x)))
    began = time.monotonic()
    assert hear(gateway, NEW, "alone/slow", stream=True).text == TEXT
    assert time.monotonic() - began > 1.4
