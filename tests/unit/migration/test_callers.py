"""Who still calls the legacy route: names of clients, counts, and what is told of them."""

from collections import Counter

import pytest
from support.tables import at, rows

from chatapi.errors import StoreUnavailable
from chatapi.migration.callers import CLIENTS, Callers, Count, Place, client_name, count_call, find_refused, report
from chatapi.migration.rewrite import rewrite

DEFAULT = "test/default"
NAMES = {"k1": "billing", "k2": "search"}


CLIENT_NAMES = {
    "-": [None, ""],
    "curl": ["curl/8.5.0", "curl"],
    "python-requests": ["python-requests/2.32.3"],
    "OpenAI": ["OpenAI/Python 1.51.0"],
    "Mozilla": ["Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"],
    "okhttp": ["okhttp (a comment)"],
    "billing-app": ["billing-app(beta)"],
    "a" * 64: ["a" * 64 + "/1"],
    "other": [
        *("a" * 65 + "/1", "(comment) curl/8", "/1.0", "naïve/1", "my;client/1", '"quoted"', "=cmd|' /C calc'!A0"),
    ],
}


@pytest.mark.parametrize("user_agent, name", rows(CLIENT_NAMES))
def test_a_client_is_the_first_product_of_its_user_agent(user_agent, name):
    assert client_name(user_agent) == name


class Saved(dict):
    """What was added up, as a store would."""

    def __call__(self, counts):
        for place, count in counts.items():
            self.setdefault(place, Count()).add(count)


def test_calls_are_counted_by_day_key_and_client():
    moments = map(at, ("2027-05-01T23:59:59", "2027-05-02", "2027-05-02T08:00", "2027-05-02T09:00"))
    callers = Callers(saved := Saved(), lambda: next(moments))
    callers.count("k1", "curl/8", False, rewrite({"prompt": "a", "x": 1}, DEFAULT))
    callers.count("k1", "curl/8", True, None)
    callers.count("k1", "curl/9", False, rewrite({"message": "a", "parameters": {"top_k": 1, "secret": 2}}, DEFAULT))
    callers.count(None, None, False, None)
    callers.flush()
    first = Count(1, 0, 1, 0, at("2027-05-01T23:59:59"), Counter({"prompt": 1, "other": 1}))
    uses = Counter({"message": 1, "parameters.top_k": 1, "other": 1})
    assert saved == {
        Place("2027-05-01", "k1", "curl"): first,
        Place("2027-05-02", "k1", "curl"): Count(2, 1, 1, 0, at("2027-05-02T08:00"), uses),
        Place("2027-05-02", "", "-"): Count(1, 0, 0, 0, at("2027-05-02T09:00")),
    }


def test_invented_clients_are_one():
    saved = Saved()
    callers = Callers(saved, lambda: at("2027-05-02"))
    for number in range(500):
        callers.count("k1", f"client-{number}/1", False, None)
        callers.count("k2", f"client-{number % 3}", False, None)
    callers.count("k1", None, False, None)
    callers.flush()
    clients = {place.client: count.calls for place, count in saved.items() if place.key_id == "k1"}
    assert len(clients) == CLIENTS + 2
    assert clients["other"] == 500 - CLIENTS and clients["-"] == 1
    assert sum(place.key_id == "k2" for place in saved) == 3


def test_what_the_store_does_not_take_is_kept():
    taken, away = Saved(), [True]

    def save(counts):
        if away:
            raise StoreUnavailable("no such file", "sqlite:///x")
        taken(counts)

    callers = Callers(save, lambda: at("2027-05-02"))
    callers.count("k1", "curl/8", False, None)
    callers.flush()
    callers.count("k1", "curl/8", False, None)
    away.clear()
    callers.flush()
    assert [count.calls for count in taken.values()] == [2]


def stored(*given):
    """(day, key, client, calls, refused) as the store has them."""
    return [
        (Place(day, key, client), Count(calls, refused, calls, 0, at(day), Counter({"message": calls})))
        for day, key, client, calls, refused in given
    ]


ROWS = stored(
    ("2027-04-01", "k1", "curl", 100, 0),
    ("2027-06-10", "k1", "curl", 7, 0),  # fourteen days before
    ("2027-06-11", "k1", "curl", 5, 0),
    ("2027-06-17", "k1", "curl", 3, 0),
    ("2027-06-18", "k1", "curl", 2, 1),
    ("2027-06-24", "k2", "python-requests", 900, 3),
    ("2027-06-24", "", "-", 1, 0),
)
NOW = at("2027-06-24T23:00")


def test_a_report_tells_each_keys_clients_the_busiest_first():
    told = report(ROWS, NOW, NAMES, DEFAULT)
    names = [(one["key_id"], one["key_name"], one["client"]) for one in told]
    assert names == [("k2", "search", "python-requests"), ("k1", "billing", "curl"), (None, None, "-")]
    curl = told[1]
    renamed = [(one["field"], one["becomes"]) for one in curl["changes"]]
    assert renamed == [("message", "messages"), ("model", "model")]
    expected = {"key_id": "k1", "key_name": "billing", "client": "curl", "calls": 117, "refused": 1}
    expected |= {"last_seen": "2027-06-18T00:00:00+00:00", "this_week": 2, "last_week": 8, "uses": {"message": 117}}
    expected |= {"changes": curl["changes"], "compared": 117, "differ": 0}
    assert list(curl.items()) == list(expected.items())


def test_a_report_since_a_day_has_the_same_trend():
    (curl,) = (one for one in report(ROWS, NOW, NAMES, DEFAULT, since="2027-06-18") if one["client"] == "curl")
    assert (curl["calls"], curl["this_week"], curl["last_week"]) == (2, 2, 8)
    assert report(ROWS, NOW, NAMES, DEFAULT, since="2027-06-25") == []


def test_what_will_change_follows_from_what_is_used():
    rewritten = rewrite({"inputs": "a", "model": "m", "parameters": {"max_new_tokens": 1}, "secret": 1}, DEFAULT)
    (told,) = report([(Place("2027-06-24", "", "-"), count_call(at("2027-06-24"), False, rewritten))], NOW, {}, DEFAULT)
    assert told["uses"] == {"inputs": 1, "model": 1, "parameters.max_new_tokens": 1, "other": 1}
    becomes = {one["field"]: one["becomes"] for one in told["changes"]}
    assert becomes == {"inputs": "messages", "parameters.max_new_tokens": "max_tokens", "other": None}


def test_a_rehearsal_names_those_who_would_be_refused():
    told = find_refused(ROWS, NAMES, served=lambda key_id: key_id == "k1")
    refused = [(one["key_id"], one["client"], one["calls"]) for one in told]
    assert refused == [("k2", "python-requests", 900), (None, "-", 1)]
    assert list(told[0]) == ["key_id", "key_name", "client", "calls", "last_seen"]
