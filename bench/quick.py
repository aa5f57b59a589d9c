"""The figures that tuning is about, in under a minute: `bench/run.py quick`."""

import contextlib
from functools import partial

import profiler
import servers
from load import Measured, calls, fast_streams, paced_streams, warm_pair
from report import ratio
from rounds import Subjects, Values, in_turns, medians
from servers import Server


def run(rounds: int, profile: bool) -> None:
    """Measure and print; with `profile`, also where the worker's time goes, in rounds of their own."""
    with contextlib.ExitStack() as stack:
        gateway, hello = warm_pair(stack)
        many = {server.name: partial(calls, server, 32, 2) for server in (gateway, hello)}
        one = {server.name: partial(calls, server, 1, 1) for server in (gateway, hello)}
        fast = {"gateway": partial(fast_streams, gateway, 32, 2)}
        paced = {"gateway": partial(paced_streams, gateway, 300, 100)}
        if profile:
            for title, measure in {
                "whole calls": partial(calls, gateway, 32, 8),
                "fast streams": partial(fast_streams, gateway, 32, 8),
                "live streams, an event": paced["gateway"],
            }.items():
                profiler.profile(gateway.worker().pid, title, measure)
        for clients, subjects in ((32, many), (1, one)):
            print(whole(clients, in_turns(subjects, rounds)))
        print(streams(_only(fast, 2), _only(paced, 1), gateway))


def _only(subjects: Subjects, rounds: int) -> Measured:
    return medians(in_turns(subjects, rounds)["gateway"])


def whole(clients: int, found: dict[str, Values]) -> str:
    """What a whole call costs beside hello's."""
    ours, bare = medians(found["gateway"]), medians(found["hello"])
    share = ratio(found["gateway"], found["hello"], "calls_per_s")
    return (
        f"whole calls, {clients:2} clients: {share:.3f} of hello's calls/s;"
        f" CPU {ours['cpu_us']:.0f} µs a call, hello {bare['cpu_us']:.0f}: {bare['cpu_us'] / ours['cpu_us']:.3f}"
    )


def streams(fast: Measured, paced: Measured, gateway: Server) -> str:
    """What streams cost."""
    return (
        f"fast streams of {servers.EVENTS} events: {fast['cpu_us']:.0f} µs a stream ({fast['calls_per_s']:.0f}/s)\n"
        f"300 paced streams at once: {paced['cpu_us']:.1f} µs an event; lost {paced['lost']:.0f},"
        f" first token p50 {paced['first_p50_s'] * 1000:.0f} ms, gap p99 {paced['gap_p99_s'] * 1000:.0f} ms\n"
        f"worker: {paced['rss_mb']:.0f} MB with 300 streams, {gateway.rss_mb():.0f} after"
    )
