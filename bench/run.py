"""Measure the gateway beside a bare Flask hello, nginx, LiteLLM and Portkey: medians, ratios, a file of all values.

    .venv/bin/python bench/run.py                      the default scenarios, some minutes
    .venv/bin/python bench/run.py calls-32 scale       these (all: every one)
    .venv/bin/python bench/run.py quick                under a minute: what to look at while tuning
    .venv/bin/python bench/run.py quick --profile      the same, and where the worker's time goes (needs py-spy)
    .venv/bin/python bench/run.py check                fails when a call or a token costs much more than last committed

What is measured has one core, the load and the upstream the other. CPU is that of the server's processes by the
scheduler's statistics: nearly true also while others use the machine. Calls per second are not; their ratios are of
rounds taken in turns.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import check
import quick
import servers
from report import table
from rounds import Values, in_turns
from scenarios import SCENARIOS, Bench
from servers import LOAD_CORE, ROOT


def bench(names: list[str], rounds: int | None, seconds: float, warm_s: float, out: Path, keep: bool) -> None:
    """Measure these scenarios, print their tables, and write all values to `out`/results.json."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results: dict[str, dict[str, Values]] = {}
    if keep and file.exists():
        results = json.loads(file.read_text())["scenarios"]
    with contextlib.ExitStack() as shared:
        bench = Bench(shared.enter_context(servers.upstream()), shared, seconds, warm_s)
        for name in names:
            scenario = SCENARIOS[name]
            with contextlib.ExitStack() as own:
                results[name] = in_turns(scenario.subjects(bench, own), rounds or scenario.rounds)
            print(f"\n### {scenario.title}\n\n{table(results[name], scenario.columns)}", flush=True)
            file.write_text(json.dumps({"machine": machine(), "scenarios": results}, indent=1) + "\n")
    print(f"\nAll values: {file}")


def machine() -> dict[str, str]:
    """Where and of what these figures are."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    return {
        "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit.stdout.strip(),
        "cpu": models[0].partition(": ")[2] if models else platform.machine(),
        "python": platform.python_version(),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["all", "quick", "check", *SCENARIOS]
    arguments.add_argument("what", nargs="*", metavar="SCENARIO", help=", ".join(names))
    arguments.add_argument("--rounds", type=int, help="how often each subject has its turn")
    arguments.add_argument("--seconds", type=float, default=2, help="of one measurement of calls")
    arguments.add_argument("--warm", type=float, default=10, help="seconds of calls before a server is measured")
    arguments.add_argument("--profile", action="store_true", help="quick: print what the worker's time goes to")
    arguments.add_argument("--update", action="store_true", help="check: commit what was found to figures.json")
    arguments.add_argument("--keep", action="store_true", help="keep what other scenarios had in results.json")
    arguments.add_argument("--out", type=Path, default=ROOT / ".bench/results")
    given = arguments.parse_args()
    if unknown := set(given.what) - set(names):
        arguments.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if missing := [program for program in ("wrk", "nginx", "taskset", "openssl") if not servers.find_program(program)]:
        sys.exit(f"These are needed, as Debian's packages of about the same name: {', '.join(missing)}")
    os.sched_setaffinity(0, {LOAD_CORE})
    if given.what == ["quick"]:
        quick.run(given.rounds or 3, given.profile)
    elif given.what == ["check"]:
        sys.exit(check.run(given.update))
    else:
        chosen = [name for name, scenario in SCENARIOS.items() if scenario.by_default]
        if given.what:
            chosen = list(SCENARIOS) if "all" in given.what else given.what
        bench(chosen, given.rounds, given.seconds, given.warm, given.out.resolve(), given.keep)


if __name__ == "__main__":
    main()
