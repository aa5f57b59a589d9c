"""No regression: `bench/run.py check` measures what a call and a token cost beside figures.json.

Costs are the worker's CPU (user and system) as a multiple of what hello's worker needs for a call in the same minute:
that is nearly the same on a slower machine, and on a busy one. `--update` writes what was found to figures.json.
"""

import contextlib
import json
from functools import partial
from pathlib import Path
from statistics import median

from load import Measured, calls, paced_streams, warm_pair
from rounds import in_turns, medians

FIGURES = Path(__file__).with_name("figures.json")
CALLS = 2_000  # at least
STREAMS, TOKENS = 250, 200  # 50,000 tokens
WORSE = 1.25  # more than that fails


def run(update: bool) -> int:
    """Measure, print and compare; 1 when a call or a token costs more than WORSE times what it did."""
    found = measure()
    committed: Measured = json.loads(FIGURES.read_text())
    print(f"{'CPU of the worker, µs':24}{'now':>10}{'beside hello':>14}{'committed':>12}{'change':>9}")
    for what in ("call", "token"):
        now, before = (figures[what] / figures["hello"] for figures in (found, committed))
        print(f"a {what:22}{found[what]:10.1f}{now:14.3f}{before:12.3f}{now / before - 1:+9.0%}")
    print(f"a call of hello         {found['hello']:10.1f}")
    if update:
        FIGURES.write_text(json.dumps({name: round(value, 1) for name, value in found.items()}, indent=1) + "\n")
        return 0
    if failed := worse(found, committed):
        print(f"More than {WORSE - 1:.0%} worse: {', '.join(failed)}. See `bench/run.py quick --profile`.")
    return int(bool(failed))


def worse(found: Measured, committed: Measured) -> list[str]:
    """What costs more than WORSE times what it did, beside hello's call."""
    return [
        what
        for what in ("call", "token")
        if found[what] / found["hello"] > WORSE * committed[what] / committed["hello"]
    ]


def measure() -> Measured:
    """CPU µs of a `call`, of a `token`, and of a call of `hello`."""
    with contextlib.ExitStack() as stack:
        gateway, hello = warm_pair(stack)
        subjects = {server.name: partial(calls, server, 32, 2) for server in (gateway, hello)}
        rounds = [in_turns(subjects, 1) for _ in range(3)]
        while sum(each["gateway"]["calls"][0] for each in rounds) < CALLS:
            rounds.append(in_turns(subjects, 1))
        found = {name: [each[name]["cpu_us"][0] for each in rounds] for name in subjects}
        # How many tokens come in one read is chance, and one measurement a fifth off another.
        tokens = [paced_streams(gateway, STREAMS, TOKENS)["cpu_us_stream"] / TOKENS for _ in range(3)]
    middle = medians(found)
    return {"call": middle["gateway"], "token": median(tokens), "hello": middle["hello"]}
