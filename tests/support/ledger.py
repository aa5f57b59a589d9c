"""A running gateway with its ledger, and what must be true of it."""

import re
import time
from contextlib import contextmanager

from chatapi.accounting import statements, sums, tables
from chatapi.accounting.keys import Keys
from chatapi.accounting.store import Store
from chatapi.caller import Limits
from support.dialects import NEW
from support.gateways import serve
from support.heard import BLUEPRINTS, DIALECTS, wait_until


class Kept:
    """A running gateway, and its database."""

    def __init__(self, gateway, url):
        self.gateway, self.url, self.store = gateway, url, Store(url)
        self.keys = Keys(self.store)

    def new_key(self, words="", models=()):
        row, text = self.keys.create("a caller", Limits.parse(words), models, None)
        return row["id"], {"Authorization": f"Bearer {text}"}

    def rows(self, **where):
        rows = self.store.read(lambda tx: statements.rows_of(tx.execute(tables.calls.select())))
        return [row for row in rows if all(row[name] == value for name, value in where.items())]

    def row(self, **where):
        """The one row, when it has ended."""
        assert wait_until(lambda: [r for r in self.rows(**where) if r["ending"]]), self.rows(**where)
        [row] = self.rows(**where)
        return row

    def used(self, key_id=None):
        return self.store.read(lambda tx: sums.used(tx, None, None, key_id))

    def metric(self, name, **labels):
        """The sum of a metric's samples with these labels."""
        text = self.gateway.request("GET", "/metrics").text
        found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        return sum(float(v) for of, v in found if all(f'{n}="{w}"' in of for n, w in labels.items()))


@contextmanager
def kept(env, url, *arguments, **settings):
    with serve({**env, "DATABASE_URL": url, **settings}, *arguments) as gateway:
        running = Kept(gateway, url)
        try:
            yield running
        finally:
            running.store.close()


def added_up(rows):
    totals = {}
    for row in rows:
        model = row["served"] or ("" if row["ending"] == "refused" else row["model"] or "")
        name = (tables.day_of(row["started_at"]), row["key_id"] or "", model)
        of = totals.setdefault((*name, row["ending"]), [0, 0, 0])
        of[0] += 1
        of[1] += row["prompt_tokens"] or 0
        of[2] += row["completion_tokens"] or 0
    return totals


def reported(used):
    names, counts = ("day", "key_id", "model", "ending"), ("calls", "prompt_tokens", "completion_tokens")
    return {tuple(row[n] for n in names): [row[c] for c in counts] for row in used}


def check_usage(running, key_id=""):
    """What is reported of a key is what its rows add up to."""
    assert reported(running.used(key_id)) == added_up(running.rows(key_id=key_id or None))


def check_row(row, heard, dialect, model, ending, code):
    """What the row of any call says that its caller has heard."""
    assert (row["ending"], row["code"], heard.code) == (ending, code, code)
    assert (row["route"], row["dialect"]) == (DIALECTS.get(dialect, NEW), BLUEPRINTS.get(dialect, "completions"))
    assert (row["request_id"], row["status"]) == (heard.headers["X-Request-Id"], heard.status)
    assert row["model"] == (None if code == "invalid_request" else model)
    assert abs(row["started_at"] - time.time()) < 300
    assert row["total_ms"] >= (row["first_token_ms"] or 0) >= 0
