"""The sixteen faults of a failover bench: a first model that fails in each of them, and a fallback that is well.

Each case has models of its own, and is asked whole and streamed where it is not about a stream alone.
"""

import re
from typing import NamedTuple

import pytest
from support.dialects import V1
from support.gateways import entry, serve
from support.heard import all_at_once, check_failed_stream, check_one_answer, hear, wait_until
from support.upstream import ERRORS, PIECES, TEXT, rate, say, saying

from chatapi.engine.circuit import FAILURES

FIRST_TOKEN_S, IDLE_S = 4.0, 0.8  # two waits between attempts take 2 s
LONG_WAIT, LATE_S = rate({"Retry-After": "30"}), 7.0
SECOND = "The second one."
MODES = ("whole", "stream")


class Case(NamedTuple):
    """What the first and the second model do, who answers, how often each is asked; or the code of the failure."""

    first: list
    second: list
    models: tuple
    asked: tuple
    text: str = TEXT
    code: str = ""
    modes: tuple = MODES


def late(x):
    x.sleep(LATE_S)
    say(x)


FIRST, OTHER, BOTH, STREAM = ("first",), ("second",), ("first", "second"), ("stream",)
ANOTHER = [saying(SECOND)]
CASES = {
    "429 with a wait": Case([LONG_WAIT], ANOTHER, OTHER, (1, 1), SECOND),
    "429 without one": Case(["rate-bare"], ANOTHER, OTHER, (3, 1), SECOND),
    "500 once": Case(["http500", "ok"], ANOTHER, FIRST, (2, 0)),
    "503 always": Case(["http503"], ANOTHER, OTHER, (3, 1), SECOND),
    "reset": Case(["reset"], ANOTHER, OTHER, (3, 1), SECOND),
    "silence": Case(["silent"], ANOTHER, OTHER, (1, 1), SECOND),
    "slow first token": Case([late], ANOTHER, OTHER, (1, 1), SECOND, modes=STREAM),
    "cut": Case(["cut"], ["continue"], BOTH, (1, 1), modes=STREAM),
    "stall": Case(["stall-after-3"], ["continue"], BOTH, (1, 1), modes=STREAM),
    "bad event": Case(["malformed-event"], ANOTHER, FIRST, (1, 0), modes=STREAM),
    "no [DONE]": Case(["no-done"], ANOTHER, FIRST, (1, 0), modes=STREAM),
    "context length": Case(["context-length"], ANOTHER, OTHER, (1, 1), SECOND),
    "content filter": Case(["content-filter"], ANOTHER, (), (1, 0), code="content_filter"),
    "refused prefill": Case(["cut"], [ERRORS["validation"], "ok"], BOTH, (1, 2), modes=STREAM),
    "flapping": Case(["http500", "reset", "ok"], ANOTHER, FIRST, (3, 0)),
    "another answer": Case(["cut"], ANOTHER, (), (1, 1), code="upstream_unavailable", modes=STREAM),
}
ASKED = [(name, mode) for name, case in CASES.items() for mode in case.modes]


def models_of(name, mode):
    slug = re.sub(r"\W+", "-", name).strip("-")
    return f"bench/{slug}-{mode}", f"spare/{slug}-{mode}"


@pytest.fixture(scope="module")
def gateway(upstream_server, tmp_path_factory):
    upstream_server.reset()
    catalogue = tmp_path_factory.mktemp("failover") / "catalogue.toml"
    chat, entries = 'task = "chat-completion"', []
    for name, mode in ASKED:
        first, second = models_of(name, mode)
        entries += [entry(first, chat), entry(second, chat, f"prefill = {str(name != 'another answer').lower()}")]
    catalogue.write_text("\n".join(entries))
    env = {"HUGGINGFACE_API_KEY": "hf_test", "HUGGINGFACE_BASE_URL": upstream_server.url}
    env |= {"CHATAPI_CATALOGUE": str(catalogue), "CHATAPI_MAX_TIME": "20", "CHATAPI_HEARTBEAT": "30"}
    env |= {"CHATAPI_FIRST_TOKEN_TIMEOUT": f"{FIRST_TOKEN_S:g}", "CHATAPI_REPLY_TIMEOUT": f"{FIRST_TOKEN_S:g}"}
    with serve({**env, "CHATAPI_IDLE_TIMEOUT": f"{IDLE_S:g}"}) as running:
        yield running


@pytest.fixture(scope="module")
def heard(gateway, upstream_server):
    """What each case heard, and how often its models were asked."""

    def ask(case):
        name, mode = case
        first, second = models_of(name, mode)
        upstream_server.sequence(first, CASES[name].first)
        upstream_server.sequence(second, CASES[name].second)
        answer = hear(gateway, V1, first, stream=mode == "stream", fallbacks=[second])
        return answer, tuple(len(upstream_server.calls_for(model)) for model in (first, second))

    return all_at_once(ask, ASKED, threads=6)


@pytest.mark.parametrize("name, mode", ASKED, ids=lambda part: part)
def test_a_fault_and_a_fallback(heard, name, mode):
    case, (answer, asked) = CASES[name], heard[name, mode]
    first, second = models_of(name, mode)
    if case.code and answer.is_stream:
        check_failed_stream(answer, case.code)
        assert answer.text == "".join(PIECES[:3]), "nothing of another answer"
    elif case.code:
        assert answer.code == case.code
    else:
        assert answer.text == case.text
        assert answer.models == [{"first": first, "second": second}[who] for who in case.models]
        if mode == "stream":
            check_one_answer(answer, case.text)
    assert asked == case.asked


def test_what_each_model_did_is_booked_on_it(gateway, heard):
    """Attempts and first tokens by the model that made them; the prompt of a joined answer counts once."""

    def metric(kind, model):
        found = re.search(rf'^chatapi_{kind}{{model="{model}"}} (\S+)', gateway.request("GET", "/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    for name, mode in ASKED:
        for model, asked in zip(models_of(name, mode), heard[name, mode][1], strict=True):
            assert wait_until(lambda m=model, n=asked: metric("attempts_total", m) == n), model
    first, second = models_of("cut", "stream")
    assert metric("first_token_seconds_count", first) == 1, "the model whose words came first"
    assert metric("first_token_seconds_count", second) == 0
    silent, spare = models_of("silence", "stream")
    assert (metric("first_token_seconds_count", silent), metric("first_token_seconds_count", spare)) == (0, 1)
    prompt, completion = heard["cut", "stream"][0].tokens
    assert (2 <= prompt <= 4, completion) == (True, 5), "three tokens of the first, and what the second went on with"


def test_a_model_that_flaps_opens_no_circuit_and_one_that_fails_always_does(gateway, upstream):
    """Every other request fails, a success between: never five in a row. Then fallbacks are asked at once."""
    for mode in MODES:
        upstream.sequence(f"flap/{mode}", ["http500", "ok"] * 6)
    upstream.behave("flap/down", "http500")
    upstream.behave("flap/spare", "ok")

    def six_times(mode):
        return {hear(gateway, V1, f"flap/{mode}", stream=mode == "stream").text for _ in range(6)}

    assert all(texts == {TEXT} for texts in all_at_once(six_times, MODES).values())
    assert [len(upstream.calls_for(f"flap/{mode}")) for mode in MODES] == [12, 12]
    asked = 0
    for _ in range(FAILURES):
        assert hear(gateway, V1, "flap/down", fallbacks=["flap/spare"]).models == ["flap/spare"]
        before, asked = asked, len(upstream.calls_for("flap/down"))
    assert asked == before, "its circuit is open"
    assert list(gateway.request("GET", "/readyz").json()["circuit"]["open"]) == ["flap/down"]
