"""What a chart of the dashboard costs over a ledger of ten million calls: `python bench/dashboard.py`.

    .venv/bin/python bench/dashboard.py                        makes .bench/ledger.db once (2 GB, a minute or two)
    .venv/bin/python bench/dashboard.py --rows 1000000 --days 7

A hundred keys and eight models over so many days, most calls in the daytime, one in thirty an error. Each route is
asked for each range in turn, as the page asks for it; a time is that of the whole request, from this machine.
"""

import argparse
import math
import sqlite3
import statistics
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import servers
from servers import ROOT, SERVER_CORE

CHARTS = ("calls", "tokens", "first-token", "total-time", "errors", "keys", "models", "state")
RANGES_S = {"15 min": 900, "1 h": 3600, "1 day": 86_400, "7 days": 604_800, "30 days": 2_592_000, "1 year": 31_536_000}
FIRST_DAY = 1_767_225_600  # of chatapi.call.call_id
KEYS, MODELS = 100, 8
AT_ONCE = 250_000  # rows in a transaction

# A call `n` of `:rows` over `:span` seconds up to `:now`: a wave over each day, and what looks like chance.
ROWS = """
WITH RECURSIVE c(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM c WHERE n + 1 < :last),
t AS (SELECT n, :now - :span + :span * (n + 0.5) / :rows AS flat, (n * 2654435761) % 1000003 AS noise FROM c),
s AS (SELECT n, noise, flat - 13000 * sin(6.283185307 * flat / 86400) AS at FROM t)
INSERT INTO calls SELECT (CAST((at - :epoch) * 1e6 AS INTEGER) << 12) | (n % 4096), printf('%032x', n), at,
  'k' || (noise % :keys), 'openai', '/v1/chat/completions', 'org/model-' || (noise % :models),
  CASE noise % 30 WHEN 0 THEN NULL ELSE 'org/model-' || (noise % :models) END, noise % 2, 1,
  CASE noise % 30 WHEN 0 THEN 429 ELSE 200 END, CASE noise % 30 WHEN 0 THEN 'rate_limited' END,
  CASE noise % 30 WHEN 0 THEN 'refused' ELSE 'completed' END, noise % 900, noise % 300, 'upstream',
  100.0 + noise % 400, 500.0 + noise % 9000, '', 0 FROM s
"""
USAGE = """
INSERT INTO usage SELECT key_id, strftime('%Y-%m-%d', started_at, 'unixepoch'), coalesce(served, ''), ending, count(*),
  sum(prompt_tokens), sum(completion_tokens) FROM calls GROUP BY 1, 2, 3, 4
"""


def make(path: Path, rows: int, days: float) -> None:
    """A ledger that ends now, with its schema from the gateway itself."""
    for old in path.parent.glob(f"{path.name}*"):
        if old.is_file():
            old.unlink()
    servers.create_key({"DATABASE_URL": f"sqlite:///{path}", "PYTHONPATH": str(ROOT)})
    given = {"now": time.time(), "span": days * 86_400, "epoch": FIRST_DAY}
    given |= {"rows": rows, "keys": KEYS, "models": MODELS}
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.create_function("sin", 1, math.sin, deterministic=True)
        database.execute("PRAGMA synchronous = OFF")
        for first in range(0, rows, AT_ONCE):
            database.execute(ROWS, {**given, "first": first, "last": min(rows, first + AT_ONCE)})
        database.execute(USAGE)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def measure(path: Path, rounds: int, filters: str) -> None:
    """Print a table: of each chart and range the median and the worst of `rounds`, in milliseconds."""
    env = servers.environment(DATABASE_URL=f"sqlite:///{path}", PYTHONPATH=str(ROOT), HUGGINGFACE_API_KEY="hf_none")
    port = servers.free_port()
    now = path.stat().st_mtime  # when it was made
    command = [*servers.gunicorn(port), "wsgi:app"]
    with servers.running("gateway", command, port, SERVER_CORE, env):
        print(f"{'chart':12} " + " ".join(f"{name:>13}" for name in RANGES_S))
        for chart in CHARTS:
            cells = []
            for span in RANGES_S.values():
                times = []
                for round in range(rounds):  # no two requests are the same: nothing comes from a cache
                    to = now - round
                    times.append(
                        time_request(port, f"/dashboard/data/{chart}?from={to - span:.0f}&to={to:.0f}{filters}")
                    )
                cells.append(f"{statistics.median(times):5.0f} ({max(times):5.0f})")
            print(f"{chart:12} " + " ".join(f"{cell:>13}" for cell in cells), flush=True)


def time_request(port: int, path: str) -> float:
    """How long the answer took, in milliseconds."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        began = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        took = (time.perf_counter() - began) * 1000
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {body[:300]!r}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=float, default=365.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--filters", default="", help="what each request has besides: '&key=k7&model=org/model-3'")
    parser.add_argument("--again", action="store_true", help="make the ledger anew")
    given = parser.parse_args()
    path = ROOT / ".bench" / f"ledger-{given.rows}-{given.days:g}.db"
    path.parent.mkdir(exist_ok=True)
    if given.again or not path.exists():
        began = time.perf_counter()
        make(path, given.rows, given.days)
        size = path.stat().st_size / 1e9
        print(f"{path}: {given.rows} calls, {size:.2f} GB, made in {time.perf_counter() - began:.0f} s")
    measure(path, given.rounds, given.filters)


if __name__ == "__main__":
    main()
