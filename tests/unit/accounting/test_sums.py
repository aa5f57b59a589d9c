"""What was used, by day: sums that limits of days and months begin with."""

from datetime import UTC, datetime

import pytest

from chatapi.accounting import sums, tables
from chatapi.accounting.store import Store

DAYS = {"2026-10-31": 1, "2026-11-01": 20, "2026-11-15": 300, "2026-11-16": 4000}


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/chatapi.db")
    rows = [
        {"key_id": key, "day": day, "model": "m", "ending": "completed", "calls": 1}
        | {"prompt_tokens": tokens - 1, "completion_tokens": 1}
        for key in ("k1", "k2")
        for day, tokens in DAYS.items()
    ]
    store.write(lambda tx: tx.execute(tables.usage.insert(), rows))
    yield store
    store.close()
    store.journal.close()


@pytest.mark.parametrize("limit, used", [("tpd", 4000), ("tpmonth", 4320)])
def test_a_period_begins_with_its_first_day(store, limit, used):
    now = datetime(2026, 11, 16, 12, tzinfo=UTC).timestamp()
    assert sums.read_used(store, "k1", limit, now) == used
    assert sums.read_used(store, "k3", limit, now) == 0
    assert sums.read_used(store, None, limit, now) == 0
