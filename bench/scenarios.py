"""What is measured: each scenario names its subjects and how one round of each is measured."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import fixtures
import peers
import servers
from load import Measured, calls, fast_streams, measure_start, paced_streams
from mixed import bad_keys, measure_beside, slow_body
from rounds import Subjects
from servers import Server, Upstream

CALLS = ("calls_per_s", "cpu_us", "p50_ms", "p99_ms")
PACED = ("lost", "first_p50_s", "gap_p50_s", "gap_p99_s", "cpu_us", "rss_mb", "load_core")
EVERYBODY = ("gateway", "hello", "nginx", "litellm", "portkey")
GATEWAYS = ("gateway", "nginx", "litellm", "portkey")


@dataclass
class Bench:
    """The upstream, and the servers that several scenarios share, each started when it is first wanted."""

    up: Upstream
    stack: contextlib.ExitStack
    seconds: float  # of one measurement of calls
    warm_s: float  # of calls before the first measurement: Node compiles for so long
    servers: dict[str, Server] = field(default_factory=dict)

    def server(self, name: str) -> Server:
        """The server of this name, warm."""
        if name not in self.servers:
            started_by = {"gateway": servers.gateway, "hello": servers.hello, **peers.installed()}
            self.servers[name] = self.stack.enter_context(started_by[name](self.up))
            calls(self.servers[name], 32, self.warm_s)
        return self.servers[name]

    def present(self, names: Sequence[str]) -> list[Server]:
        """Those of `names` that are here: peers are where they have been installed."""
        here = {"gateway", "hello", *peers.installed()}
        return [self.server(name) for name in names if name in here]


@dataclass(frozen=True)
class Scenario:
    """One row group of the table. `subjects` may start servers of its own on the stack that it is given."""

    title: str
    columns: tuple[str, ...]
    subjects: Callable[[Bench, contextlib.ExitStack], Subjects]
    rounds: int = 3
    by_default: bool = True


def whole_calls(bench: Bench, stack: contextlib.ExitStack, clients: int, kb: int = 0) -> Subjects:
    """Whole calls of so many clients; `kb` of prompt."""
    fields = {"messages": [{"role": "user", "content": "word " * (kb * 1024 // 5)}]} if kb else {}
    # Calls that are open at the end of a measurement count in its CPU alone: more clients, more time.
    seconds = bench.seconds * (2 if clients > 100 else 1)
    return {server.name: partial(calls, server, clients, seconds, **fields) for server in bench.present(EVERYBODY)}


def canned_streams(bench: Bench, stack: contextlib.ExitStack) -> Subjects:
    """Streams as fast as they go, 8 clients; twice as long as calls, for LiteLLM ends few in a second."""
    return {server.name: partial(fast_streams, server, 8, 2 * bench.seconds) for server in bench.present(GATEWAYS)}


def live_streams(bench: Bench, stack: contextlib.ExitStack, count: int, names: Sequence[str]) -> Subjects:
    """So many streams of 100 tokens, 20 a second, opened at once."""
    return {server.name: partial(paced_streams, server, count, 100) for server in bench.present(names)}


def flood_of_bad_keys(bench: Bench, stack: contextlib.ExitStack) -> Subjects:
    """Four clients with a good key, beside sixteen with as many bad keys as they can send."""
    gateway = bench.server("gateway")
    good = partial(calls, gateway, 4, bench.seconds)
    return {
        "good traffic alone": good,
        "beside bad keys": partial(measure_beside, good, partial(bad_keys, gateway, 16, bench.seconds)),
    }


def slow_large_body(bench: Bench, stack: contextlib.ExitStack) -> Subjects:
    """Four clients with small calls, beside one that sends 20 MB over five seconds."""
    gateway = bench.server("gateway")
    good = partial(calls, gateway, 4, 6)
    return {
        "good traffic alone": good,
        "beside a slow 20 MB body": partial(measure_beside, good, partial(slow_body, gateway)),
    }


def starts(bench: Bench, stack: contextlib.ExitStack) -> Subjects:
    """From nothing to the first answer, and the memory of the idle worker."""
    found = {"gateway": servers.gateway, "hello": servers.hello, **peers.installed()}
    return {name: partial(measure_start, partial(start, bench.up)) for name, start in found.items()}


def large_ledger(bench: Bench, stack: contextlib.ExitStack) -> Subjects:
    """The same calls on a small database and on a large one."""
    sizes = {"10 keys, empty ledger": (10, 0), "1,000,000 keys, 10,000,000 calls": (1_000_000, 10_000_000)}
    found: Subjects = {}
    for name, (keys, rows) in sizes.items():
        database = stack.enter_context(fixtures.database(bench.up, keys, rows))
        server = stack.enter_context(servers.gateway(bench.up, DATABASE_URL=database))
        calls(server, 32, bench.warm_s)
        found[name] = partial(calls_and_usage, server, bench.seconds)
    return found


def calls_and_usage(server: Server, seconds: float) -> Measured:
    """Whole calls, and usage_ms of `GET /v1/usage`."""
    return {**calls(server, 32, seconds), "usage_ms": fixtures.usage_ms(server)}


def stores(bench: Bench, stack: contextlib.ExitStack, clients: int) -> Subjects:
    """Calls of one key, whose limits and ledger are in SQLite or PostgreSQL, without and with Redis."""
    found = stack.enter_context(fixtures.stores(bench.up))
    for server in found.values():
        calls(server, 32, 1)
    # All at once, calls end late: none of a thousand before the last has begun.
    seconds = bench.seconds * (4 if clients > 500 else 2)
    return {name: partial(calls, server, clients, seconds) for name, server in found.items()}


def behind_nginx(bench: Bench, stack: contextlib.ExitStack) -> Subjects:
    """Callers that reach the gateway through nginx on a unix socket. CPU is the gateway's and nginx's together."""
    direct, front = stack.enter_context(fixtures.behind_nginx(bench.up))
    calls(front, 8, 1)
    return {
        "direct": partial(calls, direct, 32, bench.seconds),
        "through nginx on a unix socket": partial(calls, front, 32, bench.seconds),
    }


def tls_upstream(bench: Bench, stack: contextlib.ExitStack) -> Subjects:
    """500 streams of 10 tokens opened at once to a plain and to an https upstream; a second burst finds connections."""
    tls = stack.enter_context(fixtures.tls_upstream(bench.up))
    found: Subjects = {}
    for name, model in (("http", "bench/paced"), ("https", "bench/tls")):
        server = stack.enter_context(servers.gateway(tls.up, REQUESTS_CA_BUNDLE=str(tls.authority)))
        calls(server, 8, 1)
        burst = partial(paced_streams, server, 500, 10, model)
        if name == "https":
            burst = partial(tls.count_handshakes, burst)
        found |= {f"{name}, first burst": burst, f"{name}, second burst": burst}
    return found


SCENARIOS = {
    "calls-1": Scenario("Whole calls, 1 client", CALLS, partial(whole_calls, clients=1)),
    "calls-32": Scenario("Whole calls, 32 clients", CALLS, partial(whole_calls, clients=32)),
    "calls-256": Scenario("Whole calls, 256 clients", CALLS, partial(whole_calls, clients=256)),
    "fast-streams": Scenario(f"Streams of {servers.EVENTS} events as fast as they go", CALLS, canned_streams),
    "streams-100": Scenario(
        "100 live streams opened at once", PACED, partial(live_streams, count=100, names=GATEWAYS), 1
    ),
    "streams-500": Scenario(
        "500 live streams opened at once", PACED, partial(live_streams, count=500, names=("gateway", "portkey")), 1
    ),
    "streams-1000": Scenario(
        "1,000 live streams opened at once",
        PACED,
        partial(live_streams, count=1000, names=("gateway", "nginx", "portkey")),
        2,
    ),
    "streams-2000": Scenario(
        "2,000 live streams opened at once", PACED, partial(live_streams, count=2000, names=("gateway", "nginx")), 2
    ),
    # After the streams, whose memory is measured: large bodies leave the process larger.
    "prompt-20k": Scenario("Prompts of 20 KB, 32 clients", CALLS, partial(whole_calls, clients=32, kb=20)),
    "prompt-200k": Scenario("Prompts of 200 KB, 32 clients", CALLS, partial(whole_calls, clients=32, kb=200)),
    "bad-keys": Scenario(
        "A flood of bad keys", ("calls_per_s", "p50_ms", "p99_ms", "other_per_s"), flood_of_bad_keys, 2
    ),
    "slow-body": Scenario(
        "A slow body of 20 MB", ("calls_per_s", "p50_ms", "p99_ms", "max_ms", "other_per_s"), slow_large_body, 1
    ),
    "start": Scenario("Start", ("ready_s", "rss_mb"), starts, 2),
    "https": Scenario(
        "500 streams opened at once, by the upstream's protocol",
        ("lost", "first_p50_s", "first_p99_s", "cpu_us_stream", "connections", "resumed"),
        tls_upstream,
        1,
    ),
    "nginx": Scenario("Behind nginx, 32 clients", CALLS, behind_nginx),
    "stores": Scenario(
        "Where limits and ledger are, 150 clients of one key",
        CALLS,
        partial(stores, clients=150),
        5,
        by_default=False,  # PostgreSQL and Redis must be installed
    ),
    "burst": Scenario("1,000 clients of one key at once", CALLS, partial(stores, clients=1000), 3, by_default=False),
    "scale": Scenario(
        "Keys and calls in the database, 32 clients", (*CALLS, "usage_ms"), large_ledger, 5, by_default=False
    ),
}
