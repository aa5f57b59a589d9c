"""What a large ledger costs: the same calls on a ledger of N rows and on an empty one, in the same minute.

python bench/ledger.py [rows] [folder]
"""

import random
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chatapi.accounting import store
from chatapi.accounting.ledger import report
from chatapi.accounting.store import Row, Store

KEYS, MODELS, DAYS = 50, 8, 365
BYTES_A_ROW = 400  # a guess for the disk that is needed, with room to spare
AT_ONCE = 200_000
CALLS, PRUNE_AT_ONCE = 2000, 5_000


def call(number: int, rows: int, now: float) -> Row:
    """One of `rows` calls that ended, the last of them now."""
    at = now - DAYS * 86_400 * (rows - number) / rows
    row = dict.fromkeys(column.name for column in store.calls.columns)
    row |= {"id": store.call_id(at, number % 4096), "request_id": f"{number:032x}", "started_at": at, "stream": True}
    row |= {"key_id": f"key{number % KEYS:07}", "dialect": "openai", "route": "/v1/chat/completions", "attempts": 1}
    row |= {"model": f"org/model-{number % MODELS}", "served": f"org/model-{number % MODELS}", "status": 200}
    row |= {"ending": "completed", "prompt_tokens": number % 1000, "completion_tokens": number % 300}
    row |= {"usage_source": "upstream", "first_token_ms": 123.4, "total_ms": 2345.6}
    return row | {"owner": "gateway 0123456789abc pid:[4026531836] 12345 678901", "until": at + 120}


def fill(path: Path, rows: int) -> None:
    """Rows past the store's own statements: with those it would take an hour."""
    columns = [column.name for column in store.calls.columns]
    insert = f"INSERT INTO calls ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    now = time.time()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for first in range(0, rows, AT_ONCE):
            connection.execute("BEGIN")
            batch = (tuple(call(n, rows, now).values()) for n in range(first, min(first + AT_ONCE, rows)))
            connection.executemany(insert, batch)
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            print(f"\r{min(first + AT_ONCE, rows):,} rows", end="", file=sys.stderr, flush=True)
        connection.execute(
            "INSERT INTO usage SELECT date(started_at, 'unixepoch'), key_id, served, ending, count(*),"
            " sum(prompt_tokens), sum(completion_tokens) FROM calls GROUP BY 1, 2, 3, 4"
        )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    print(file=sys.stderr)


def measure(do: Callable[[], object], times: int) -> float:
    """The median, in milliseconds."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        do()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def opened_and_closed(books: Store) -> None:
    """What the ledger adds to one call: two transactions."""
    row = {**call(1, 1, time.time()), "id": store.call_id(time.time())}
    books.write(lambda tx: store.open_call(tx, {**row, "ending": None}))
    if not books.write(lambda tx: store.close_call(tx, row)):
        raise AssertionError("it was closed already")


def measured(books: list[Store]) -> dict[str, list[float]]:
    """What is measured → milliseconds on each ledger, taken in turns."""
    day, one_key = store.day_of(time.time()), "key0000001"
    oldest = time.time() - DAYS * 86_400 + 86_400 * 30
    what: dict[str, tuple[Callable[[Store], object], int]] = {
        "open + close a call": (opened_and_closed, CALLS),
        "find the open calls": (lambda b: b.read(store.open_calls), 200),
        "usage report, everything": (lambda b: report(b.read(store.used)), 5),
        "GET /v1/usage, one key, today": (lambda b: report(b.read(lambda t: store.used(t, day, day, one_key))), 200),
        "GET /v1/usage, one key, all days": (
            lambda b: report(b.read(lambda t: store.used(t, None, None, one_key))),
            20,
        ),
        f"prune {PRUNE_AT_ONCE} rows": (lambda b: b.write(lambda t: store.prune(t, oldest, PRUNE_AT_ONCE)), 10),
        "count what prune would delete": (lambda b: b.read(lambda t: store.count_before(t, oldest)), 5),
        "open + close a call, afterwards": (opened_and_closed, CALLS),
    }
    found = {}
    for name, (do, times) in what.items():
        found[name] = [measure(partial(do, one), times) for one in books]
    return found


def main() -> None:
    rows = int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else 10_000_000
    folder = sys.argv[2] if len(sys.argv) > 2 else None
    with TemporaryDirectory(prefix="ledger-", dir=folder) as scratch:
        free = shutil.disk_usage(scratch).free
        if free < rows * BYTES_A_ROW * 1.5:
            sys.exit(f"{scratch}: {free / 1e9:.1f} GB are free, and {rows * BYTES_A_ROW * 1.5 / 1e9:.1f} may be needed")
        paths = [Path(scratch, name) for name in ("empty.db", "full.db")]
        books = [Store(f"sqlite:///{path}") for path in paths]
        for one in books:
            one.check()
        began = time.monotonic()
        fill(paths[1], rows)
        print(f"filled in {time.monotonic() - began:.0f} s: {paths[1].stat().st_size / 1e9:.2f} GB", file=sys.stderr)
        print(f"{'milliseconds (median)':36}{'empty':>10}{f'{rows:,} rows':>18}{'ratio':>10}")
        for name, (empty, full) in measured(books).items():
            print(f"{name:36}{empty:10.3f}{full:18.3f}{full / empty:10.2f}")
        for one in books:
            one.close()


if __name__ == "__main__":
    random.seed(0)
    main()
