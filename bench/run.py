"""Measure the gateway beside a bare Flask hello, and print medians and ratios.

    .venv/bin/python bench/run.py quick              under a minute: what to look at while tuning
    .venv/bin/python bench/run.py quick --profile    the same, and where the worker's time goes (needs py-spy)

CPU is that of the server's processes by the scheduler's statistics: true also while others use the machine. Calls per
second are not; their ratios are of rounds taken in turns.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable
from functools import partial

import servers
from load import Measured, calls, fast_streams, paced_streams
from profiler import profiled

Subjects = dict[str, Callable[[], Measured]]


def in_turns(subjects: Subjects, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Every subject once per round, A B A B: subject → what was measured → a value for each round."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in subjects}
    for _ in range(rounds):
        for name, measure in subjects.items():
            for what, value in measure().items():
                found[name].setdefault(what, []).append(value)
    return found


def quick(rounds: int, profile: bool) -> None:
    """The figures that tuning is about."""
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(servers.upstream())
        gateway, hello = stack.enter_context(servers.gateway(up)), stack.enter_context(servers.hello())
        for server in (gateway, hello):
            calls(server, 32, 1)  # warm
        median = partial(_median, stack, gateway if profile else None)
        many = median("whole calls, 32 clients", rounds, _whole(gateway, hello, 32, 2))
        one = median("whole calls, 1 client", rounds, _whole(gateway, hello, 1, 1))
        fast = median("fast streams", 2, {"gateway": partial(fast_streams, gateway, 32, 2)})["gateway"]
        paced = median("300 paced streams", 1, {"gateway": partial(paced_streams, gateway, 300, 100)})["gateway"]
        idle_mb = gateway.rss_mb()
    for clients, found in ((32, many), (1, one)):
        ours, bare = found["gateway"], found["hello"]
        print(
            f"whole calls, {clients:2} clients: {ours['calls_per_s'] / bare['calls_per_s']:.3f} of hello's calls/s;"
            f" CPU {ours['cpu_us']:.0f} µs a call, hello {bare['cpu_us']:.0f}: {bare['cpu_us'] / ours['cpu_us']:.3f}"
        )
    print(f"fast streams of {servers.EVENTS} events: {fast['cpu_us']:.0f} µs a stream ({fast['calls_per_s']:.0f}/s)")
    print(
        f"300 paced streams at once: {paced['cpu_us']:.1f} µs an event; lost {paced['lost']:.0f},"
        f" first token p50 {paced['first_p50_s'] * 1000:.0f} ms, gap p99 {paced['gap_p99_s'] * 1000:.0f} ms"
    )
    print(f"worker: {paced['rss_mb']:.0f} MB with 300 streams, {idle_mb:.0f} after")


def _whole(gateway: servers.Server, hello: servers.Server, clients: int, seconds: float) -> Subjects:
    return {server.name: partial(calls, server, clients, seconds) for server in (gateway, hello)}


def _median(
    stack: contextlib.ExitStack, profile: servers.Server | None, title: str, rounds: int, subjects: Subjects
) -> dict[str, Measured]:
    """The medians; with `profile`, that server is profiled in one more round, which does not count."""
    found = in_turns(subjects, rounds)
    if profile:
        with profiled(profile.worker().pid, title):
            subjects[profile.name]()
    return {name: {what: statistics.median(v) for what, v in measured.items()} for name, measured in found.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["quick"])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--profile", action="store_true", help="print the functions that the worker's time goes to")
    given = arguments.parse_args()
    quick(given.rounds, given.profile)


if __name__ == "__main__":
    main()
