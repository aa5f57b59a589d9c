"""The operators' command line: every command for people and as JSON, failures in a line, and what is never said."""

import csv
import io
import itertools
import json
import re
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from support.gateways import flask, free_port, printed

from chatapi import create_app
from chatapi.accounting import statements, tables
from chatapi.accounting import store as store_module
from chatapi.call import call_id
from chatapi.operations.cli import usage as usage_commands

CHAT, V1 = "/api/chat/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def database(tmp_path):
    return tmp_path / "chatapi.db"


@pytest.fixture
def app(settings, database):
    app = create_app(replace(settings, auth="required", database_url=f"sqlite:///{database}"))
    yield app
    app.extensions["chatapi"].store.close()


@pytest.fixture(scope="module")
def idle(base_settings, tmp_path_factory):
    """What a command says where nothing comes of it, whatever it is: (run, the database)."""
    database = tmp_path_factory.mktemp("idle") / "chatapi.db"
    app = create_app(replace(base_settings, database_url=f"sqlite:///{database}"))
    app.extensions["chatapi"].store.upgrade()
    return lambda *words: app.test_cli_runner().invoke(args=words), database


@pytest.fixture
def parts(app):
    return app.extensions["chatapi"]


@pytest.fixture
def run(app):
    """What a command says, whatever comes of it."""
    return lambda *words: app.test_cli_runner().invoke(args=words)


@pytest.fixture
def say(app):
    """What a command that succeeds prints."""
    return partial(printed, app)


@pytest.fixture
def tell(say):
    """The same as JSON."""
    return lambda *words: json.loads(say(*words, "--json"))


def failed(result, status):
    """The line that tells of a failure: all there is besides click's own words on usage."""
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert (result.exit_code, result.stdout) == (status, "")
    *usage, line = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert bool(usage) == (status == 2)
    return line


def is_moment(text):
    return datetime.fromisoformat(text).utcoffset() == timedelta(0)


# --- keys

SHOWN = ["id", "name", "state", "limits", "models", "created_at", "expires_at", "revoked_at", "last_used_at"]
EVERYTHING = (
    *("--name", "Ação, Ltda", "--rpm", "5", "--tpm", "600", "--concurrency", "7", "--tpd", "8000"),
    *("--tpmonth", "90000", "--shadow", "tpm", "--shadow", "tpd", "--models", "test/*", "--models", "own/ok"),
    *("--expires", "2099-06-30"),
)
LIMITS = {"rpm": 5, "tpm": 600, "concurrency": 7, "tpd": 8000, "tpmonth": 90000, "shadow": ["tpm", "tpd"]}


def test_create_shows_the_key_once(tell, say):
    made = tell("keys", "create", *EVERYTHING)
    assert list(made) == ["id", "key", *SHOWN[1:]]
    assert re.fullmatch(r"chatapi_[a-z2-7]{10}_[a-z2-7]{42}", made["key"])
    assert made["key"].split("_")[1] == made["id"]
    assert (made["name"], made["state"], made["models"]) == ("Ação, Ltda", "active", ["test/*", "own/ok"])
    assert made["limits"] == LIMITS
    assert is_moment(made["created_at"])
    assert made["expires_at"] == "2099-06-30T00:00:00+00:00"
    assert (made["revoked_at"], made["last_used_at"]) == (None, None)
    del made["key"]
    assert tell("keys", "show", made["id"]) == made
    assert tell("keys", "list") == [made]


def test_a_key_of_an_administrator(tell, parts):
    made = tell("keys", "create", "--name", "operations", "--admin")
    assert made["admin"] is True
    assert tell("keys", "show", made["id"])["admin"] is True
    assert parts.keys.show(made["id"])["admin"]
    other = tell("keys", "create", "--name", "billing")
    assert "admin" not in other
    assert (other["limits"], other["models"], other["expires_at"]) == ({}, [], None)


def test_create_for_people(say, tell):
    *lines, blank, advice = say("keys", "create", *EVERYTHING).splitlines()
    shown = {line[:15].strip(): line[15:] for line in lines}
    assert list(shown) == ["id", "key", *SHOWN[1:]]
    assert shown["limits"] == "rpm=5 tpm=600 concurrency=7 tpd=8000 tpmonth=90000 shadow=tpm,tpd"
    assert shown["models"] == "test/*,own/ok"
    assert shown["last_used_at"] == "-"
    assert blank == ""
    assert "cannot be shown again" in advice
    assert tell("keys", "show", shown["id"])["name"] == "Ação, Ltda"


@pytest.mark.parametrize(
    "given, shown",
    [
        ("2099-06-30", "2099-06-30T00:00:00+00:00"),
        ("2099-06-30T12:00", "2099-06-30T12:00:00+00:00"),
        ("2099-06-30T12:00:00Z", "2099-06-30T12:00:00+00:00"),
        ("2099-06-30T12:00:00-03:00", "2099-06-30T15:00:00+00:00"),
    ],
)
def test_dates_are_utc_unless_they_say_otherwise(tell, given, shown):
    assert tell("keys", "create", "--name", "a", "--expires", given)["expires_at"] == shown


def test_list_for_people(say, tell):
    made = [tell("keys", "create", "--name", name) for name in ("first", "second")]
    tell("keys", "revoke", made[1]["id"])
    head, *lines = say("keys", "list").splitlines()
    assert head.split() == ["id", "name", "state", "limits", "models", "last_used_at"]
    assert [line.split() for line in lines] == [
        [made[0]["id"], "first", "active", "-", "-", "-"],
        [made[1]["id"], "second", "revoked", "-", "-", "-"],
    ]
    assert len({line.index("-") for line in lines}) == 1, "columns are straight"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x1b[2Jb", "a\x00b", "a\x85b", "a\u2028b", "\udcff"], ids=ascii)
def test_a_name_cannot_break_the_list(run, say, name):
    """It is refused, or shown in one line without what a terminal obeys."""
    made = run("keys", "create", "--name", name)
    if made.exit_code:
        failed(made, 2)
        return
    assert len(say("keys", "list").splitlines()) == 2
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", say("keys", "list"))


def test_show_says_what_has_happened_to_a_key(app, tell, say):
    made, unused = (tell("keys", "create", "--name", name, "--expires", "2099-01-01") for name in "ab")
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert app.test_client().post(V1, json={"model": "test/ok", "messages": HELLO}, headers=headers).status_code == 200
    shown = tell("keys", "show", made["id"])
    assert is_moment(shown["last_used_at"])
    assert datetime.fromisoformat(shown["last_used_at"]).timestamp() == pytest.approx(time.time(), abs=5)
    assert tell("keys", "show", unused["id"])["last_used_at"] is None
    assert f"last_used_at   {shown['last_used_at']}" in say("keys", "show", made["id"]).splitlines()


def test_an_expired_key_says_so(tell):
    soon = (datetime.now(UTC) + timedelta(seconds=0.4)).isoformat()
    id = tell("keys", "create", "--name", "a", "--expires", soon)["id"]
    assert tell("keys", "show", id)["state"] == "active"
    time.sleep(0.45)
    assert tell("keys", "show", id)["state"] == "expired"
    other = tell("keys", "create", "--name", "a")["id"]
    assert tell("keys", "update", other, "--expires", "2020-01-01")["state"] == "expired", "in the past"


@pytest.mark.parametrize("grace, seconds", [((), 86400), (("--grace", "90s"), 90), (("--grace", "7d"), 604800)])
def test_rotate(tell, parts, grace, seconds):
    made = tell("keys", "create", *EVERYTHING)
    turned = tell("keys", "rotate", made["id"], *grace)
    assert list(turned) == ["id", "key", *SHOWN[1:], "old_key_until"]
    assert turned["key"] != made["key"]
    until = datetime.fromisoformat(turned["old_key_until"]).timestamp()
    assert until == pytest.approx(time.time() + seconds, abs=5)
    assert {name: turned[name] for name in SHOWN} == {name: made[name] for name in SHOWN}
    assert parts.keys.holder(made["key"]) and parts.keys.holder(turned["key"])


def test_update_changes_what_is_given_and_leaves_the_rest(app, tell):
    made = tell("keys", "create", "--name", "a", "--rpm", "5", "--tpm", "9", "--shadow", "tpm", "--models", "test/*")
    changed = tell("keys", "update", made["id"], "--rpm", "7", "--tpm", "0", "--concurrency", "2")
    assert changed["limits"] == {"rpm": 7, "concurrency": 2, "shadow": ["tpm"]}
    assert (changed["name"], changed["models"], changed["expires_at"]) == ("a", ["test/*"], None)
    changed = tell("keys", "update", made["id"], "--name", "b", "--models", "*", "--expires", "2099-01-01")
    assert (changed["name"], changed["models"]) == ("b", ["*"])
    assert changed["expires_at"].startswith("2099-01-01")
    assert changed["limits"]["rpm"] == 7
    changed = tell("keys", "update", made["id"], "--shadow", "none", "--expires", "never")
    assert changed["limits"] == {"rpm": 7, "concurrency": 2}
    assert (changed["name"], changed["expires_at"], changed["state"]) == ("b", None, made["state"])
    headers = {"Authorization": f"Bearer {made['key']}"}
    body = {"model": "test/ok", "messages": [{"role": "user", "content": "hi"}]}
    assert app.test_client().post("/v1/chat/completions", json=body, headers=headers).headers["RateLimit-Limit"] == "7"


def test_rotate_for_people_and_revoke(say, tell):
    ids = [tell("keys", "create", "--name", "a")["id"] for _ in range(2)]
    told = say("keys", "rotate", ids[0], "--grace", "0s")
    assert "cannot be shown again" in told and "old_key_until" not in told
    gone = tell("keys", "revoke", ids[0])
    assert list(gone) == SHOWN
    assert gone["state"] == "revoked"
    assert is_moment(gone["revoked_at"])
    assert re.search(r"^state +revoked$", say("keys", "revoke", ids[1]), re.M)


def test_digests_and_secrets_are_never_shown(say, tell, database):
    made = tell("keys", "create", "--name", "a")
    id, first = made["id"], made["key"]
    second = tell("keys", "rotate", id)["key"]
    with closing(sqlite3.connect(database)) as connection:
        digests = connection.execute("SELECT digest, old_digest FROM keys").fetchone()
        secret = connection.execute("SELECT value FROM meta WHERE name = 'secret'").fetchone()
    words = [("keys", "show", id), ("keys", "list"), ("usage", "report"), ("db", "status"), ("db", "upgrade")]
    told = "".join(say(*command, *form) for command in words for form in ((), ("--json",)))
    told += say("keys", "revoke", id)
    for hidden in (*digests, *secret, first, second, first[19:51], second[19:51]):
        assert len(hidden) >= 32
        assert hidden not in told
    assert "digest" not in told.replace(str(database), "")


# --- usage


@pytest.fixture
def spent(parts, tell):
    """Two keys and a caller without one, on some days: (key, key)."""
    a, b = (tell("keys", "create", "--name", name) for name in ('Ana "A", Ltda', "Bia"))
    for day, key_id, model, ending, prompt, completion in (
        ("2026-10-30", a["id"], "test/ok", "completed", 10, 1),
        ("2026-10-30", a["id"], "test/ok", "completed", 20, 2),
        ("2026-10-30", a["id"], "test/ok", "client_left", 5, None),
        ("2026-10-31", a["id"], "own/ok", "completed", 100, 7),
        ("2026-10-31", b["id"], "test/ok", "refused", None, None),
        ("2026-11-01", b["id"], "test/ok", "completed", 1000, 50),
        ("2026-11-01", None, "test/ok", "completed", 3, 3),
    ):
        row = called(day, key_id=key_id, model=model, ending=ending, prompt_tokens=prompt, completion_tokens=completion)
        parts.store.write(lambda tx, row=row: statements.record(tx, [row]))
    return a, b


SALT = itertools.count()  # calls of one moment have ids of their own


def called(day, **fields):
    at = datetime.fromisoformat(day).replace(tzinfo=UTC, hour=12).timestamp()
    row = dict.fromkeys(tables.calls.c.keys()) | {
        "id": call_id(at, next(SALT)),
        "started_at": at,
        "until": at,
        "attempts": 1,
    }
    return row | {"request_id": "r", "dialect": "openai", "route": V1, "stream": False, "owner": "- - - - -"} | fields


FACTS = ["key_id", "key_name", "model", "day", "calls", "prompt_tokens", "completion_tokens", "endings"]


def briefly(rows):
    return [(row["day"], row["key_name"], row["model"], row["calls"], row["prompt_tokens"]) for row in rows]


ANA, BIA = 'Ana "A", Ltda', "Bia"


def test_the_report(spent, tell):
    rows = tell("usage", "report")
    assert all(list(row) == FACTS for row in rows)
    assert sorted(briefly(rows), key=str) == sorted(
        [
            ("2026-10-30", ANA, "test/ok", 3, 35),
            ("2026-10-31", ANA, "own/ok", 1, 100),
            ("2026-10-31", BIA, None, 1, 0),  # who is refused leaves no name
            ("2026-11-01", BIA, "test/ok", 1, 1000),
            ("2026-11-01", None, "test/ok", 1, 3),
        ],
        key=str,
    )
    first = next(row for row in rows if row["calls"] == 3)
    assert (first["key_id"], first["completion_tokens"]) == (spent[0]["id"], 3)
    assert first["endings"] == {"completed": 2, "client_left": 1}


def test_where_there_is_nothing_a_table_is_its_head(say, tell):
    assert say("keys", "list").split() == ["id", "name", "state", "limits", "models", "last_used_at"]
    assert tell("keys", "list") == tell("usage", "report") == []
    assert len(say("usage", "report").splitlines()) == 1
    assert len(say("usage", "report", "--csv").splitlines()) == 1


ADDED_UP = {
    ("key",): {(None, ANA, None, 4, 135), (None, BIA, None, 2, 1000), (None, None, None, 1, 3)},
    ("model",): {(None, None, "test/ok", 5, 1038), (None, None, None, 1, 0), (None, None, "own/ok", 1, 100)},
    ("day",): {(f"2026-{day}", None, None, *counts) for day, *counts in (
        ("10-30", 3, 35), ("10-31", 2, 100), ("11-01", 2, 1003)
    )},
    ("key", "model"): {(None, *row) for row in (
        (ANA, "test/ok", 3, 35), (ANA, "own/ok", 1, 100), (BIA, "test/ok", 1, 1000), (BIA, None, 1, 0),
        (None, "test/ok", 1, 3),
    )},
}  # fmt: skip


@pytest.mark.parametrize("by, wanted", ADDED_UP.items(), ids=map("-".join, ADDED_UP))
def test_by_adds_up_over_all_others(spent, tell, by, wanted):
    rows = tell("usage", "report", *(word for name in by for word in ("--by", name)))
    assert set(briefly(rows)) == wanted
    assert len(rows) == len(wanted)
    assert all(sum(row["endings"].values()) == row["calls"] for row in rows)


SPANS = [
    ((), 7),
    (("--since", "2026-10-31"), 4),
    (("--until", "2026-10-31"), 5),
    (("--since", "2026-10-31", "--until", "2026-10-31"), 2),
    (("--since", "2026-11-02"), 0),
    (("--since", "2026-11-01", "--until", "2026-10-01"), 0),
    (("--key", "nobody"), 0),
    (("--key", "' OR 1=1 --"), 0),
]


def test_since_until_and_key(spent, tell):
    for words, calls in SPANS:
        assert sum(row["calls"] for row in tell("usage", "report", *words)) == calls, words


def test_of_one_key(spent, tell):
    rows = tell("usage", "report", "--key", spent[1]["id"], "--since", "2026-11-01")
    assert briefly(rows) == [("2026-11-01", BIA, "test/ok", 1, 1000)]


NUMBERS = ["calls", "prompt_tokens", "completion_tokens"]
COLUMNS = ["day", "key_id", "key_name", "model", *NUMBERS]
ENDINGS = ["completed", "client_left", "upstream_cut", "deadline", "refused", "worker_lost", "failed"]


@pytest.mark.parametrize("by", [(), ("--by", "key"), ("--by", "model", "--by", "day")], ids=str)
def test_csv_says_what_json_says(spent, say, tell, by):
    reader = csv.DictReader(io.StringIO(say("usage", "report", "--csv", *by)))
    assert reader.fieldnames == [*COLUMNS, *ENDINGS]
    read = [
        {name: row[name] or None for name in COLUMNS[:4]}
        | {name: int(row[name]) for name in NUMBERS}
        | {"endings": {name: int(row[name]) for name in ENDINGS if row[name] != "0"}}
        for row in reader
    ]
    assert read == tell("usage", "report", *by)


def test_the_report_for_people_leaves_out_what_there_is_not(spent, say):
    head, *lines = say("usage", "report", "--by", "model").splitlines()
    assert head.split() == ["model", *NUMBERS, "completed", "client_left", "refused"]
    assert {tuple(line.split()) for line in lines} == {
        ("own/ok", "1", "100", "7", *"100"),
        ("test/ok", "5", "1038", "56", *"410"),
        ("-", "1", "0", "0", *"001"),
    }


def test_the_report_equals_what_the_key_itself_is_told(app, spent, tell):
    client = app.test_client()
    for key in spent:
        headers = {"Authorization": f"Bearer {key['key']}"}
        assert client.post(V1, json={"model": "test/ok", "messages": HELLO}, headers=headers).status_code == 200
        for span in ({}, {"since": "2026-10-31"}, {"since": "2026-10-31", "until": "2026-10-31"}):
            words = [word for name, day in span.items() for word in (f"--{name}", day)]
            told = client.get("/v1/usage", query_string=span, headers=headers).json
            assert told == {"object": "list", "data": tell("usage", "report", "--key", key["id"], *words)}
        today = {row["day"]: row for row in client.get("/v1/usage", headers=headers).json["data"]}
        assert today[datetime.now(UTC).date().isoformat()]["completion_tokens"] > 0


def test_a_key_and_a_caller_without_one_are_told_of_their_own_usage_only(app, settings, database, spent):
    client = app.test_client()
    for key in spent:
        for more in ({}, {"key": spent[0]["id"]}, {"key_id": spent[0]["id"]}):
            told = client.get("/v1/usage", query_string=more, headers={"Authorization": f"Bearer {key['key']}"}).json
            assert {row["key_id"] for row in told["data"]} == {key["id"]}
    app = create_app(replace(settings, auth="off", database_url=f"sqlite:///{database}"))
    told = app.test_client().get("/v1/usage").json["data"]
    assert [(row["key_id"], row["calls"]) for row in told] == [(None, 1)]


NO_DAYS = ["yesterday", "2026-13-01", "2026-11-31", "1", "-1", "0", "2026-11-01'", "\x00", "9" * 8000]


@pytest.mark.parametrize("name", ["since", "until"])
def test_a_day_that_is_none(app, spent, name):
    headers = {"Authorization": f"Bearer {spent[0]['key']}"}
    for given in NO_DAYS:
        answer = app.test_client().get("/v1/usage", query_string={name: given}, headers=headers)
        error = answer.json["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", name)
        assert len(error["message"]) < 500


# --- prune


def count(database, where="1"):
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(f"SELECT count(*) FROM calls WHERE {where}").fetchone()[0]


@pytest.mark.parametrize("words, deleted", [(("--before", "2026-10-31"), 3), (("--keep-days", "1"), 7)])
def test_prune_deletes_old_calls_and_no_number(spent, parts, tell, say, database, monkeypatch, words, deleted):
    monkeypatch.setattr(usage_commands, "PRUNE_AT_ONCE", 2)  # in several transactions
    parts.store.write(lambda tx: statements.record(tx, [called("2026-10-01", model="test/open")]))
    now = called("2026-10-01", ending="completed", model="test/new") | {"id": call_id(time.time())}
    parts.store.write(lambda tx: statements.record(tx, [now]))
    before = tell("usage", "report")
    told = tell("usage", "prune", *words)
    assert told["deleted"] == deleted
    assert is_moment(told["before"])
    assert count(database) == 9 - deleted
    assert count(database, "ending IS NULL") == 1, "a call that is still open stays"
    assert count(database, "model = 'test/new'") == 1
    assert tell("usage", "report") == before
    assert say("usage", "prune", *words).startswith("Deleted 0 calls from before 20")


def test_prune_can_delete_what_was_used_too(spent, tell, say):
    told = tell("usage", "prune", "--before", "2026-10-31", "--usage")
    assert (told["deleted"], told["usage_deleted"]) == (3, 2)
    assert {row["day"] for row in tell("usage", "report")} == {"2026-10-31", "2026-11-01"}
    assert "Deleted 0 rows of what was used" in say("usage", "prune", "--before", "2026-10-31", "--usage")


# --- the database


def test_status_and_upgrade(say, tell, database):
    needed = len(tables.STEPS)
    assert tell("db", "status") == {"database": f"sqlite:///{database}", "schema": 0, "needed": needed}
    assert say("db", "status") == f"sqlite:///{database}: schema 0, needed {needed}\n"
    assert tell("db", "upgrade") == {"schema": needed, "steps": needed}
    assert tell("db", "upgrade") == {"schema": needed, "steps": 0}
    assert say("db", "upgrade") == f"sqlite:///{database}: schema {needed} (steps taken: 0)\n"
    assert tell("db", "status")["schema"] == needed
    is_newer(database)
    assert tell("db", "status")["schema"] == 99


# --- failures

FORMS = ((), ("--json",))

LONG_AGO, EVER = "0001-01-01", "9999-12-31"
MISUSED = {
    "no name": ("keys", "create"),
    "no date": ("keys", "create", "--name", "a", "--expires", "tomorrow"),
    "no such day": ("keys", "create", "--name", "a", "--expires", "2099-02-30"),
    "past": ("keys", "create", "--name", "a", "--expires", "2020-01-01"),
    "long past": ("keys", "create", "--name", "a", "--expires", LONG_AGO),
    "after the last day": ("keys", "create", "--name", "a", "--expires", f"{EVER}T23:59:59-14:00"),
    "rpm 0": ("keys", "create", "--name", "a", "--rpm", "0"),
    "rpm -1": ("keys", "create", "--name", "a", "--rpm", "-1"),
    "tpd 1.5": ("keys", "create", "--name", "a", "--tpd", "1.5"),
    "a shadow limit and none": ("keys", "create", "--name", "a", "--shadow", "rpm", "--shadow", "none"),
    "shadow of nothing": ("keys", "create", "--name", "a", "--shadow", "requests"),
    "an unknown option": ("keys", "create", "--name", "a", "--rps", "1"),
    "no id": ("keys", "show"),
    "two ids": ("keys", "revoke", "a", "b"),
    "no unit": ("keys", "rotate", "a", "--grace", "90"),
    "another unit": ("keys", "rotate", "a", "--grace", "1w"),
    "a negative time": ("keys", "rotate", "a", "--grace", "-1h"),
    "nothing": ("keys", "rotate", "a", "--grace", ""),
    "a digit that is no number": ("keys", "rotate", "a", "--grace", "²h"),
    "since when": ("usage", "report", "--since", "yesterday"),
    "until when": ("usage", "report", "--until", "2026-11-31"),
    "by what": ("usage", "report", "--by", "colour"),
    "prune what": ("usage", "prune"),
    "prune twice": ("usage", "prune", "--before", "2026-01-01", "--keep-days", "5"),
    "prune all": ("usage", "prune", "--keep-days", "0"),
    "prune when": ("usage", "prune", "--before", "then"),
    "an unknown command": ("keys", "delete"),
}


def everything(database):
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize("words", MISUSED.values(), ids=MISUSED)
def test_misuse_is_told_in_a_line(idle, words):
    run, database = idle
    before = everything(database)
    for form in FORMS:
        failed(run(*words, *form), 2)
    assert everything(database) == before, "nothing was done"


EXTREMES = {
    "keep as long as can be": ("usage", "prune", "--keep-days", "1000000"),
    "keep longer": ("usage", "prune", "--keep-days", str(10**10)),
    "before anything": ("usage", "prune", "--before", LONG_AGO),
    "before 1970": ("usage", "prune", "--before", "1969-01-01"),
    "before 2042": ("usage", "prune", "--before", "2042-01-01"),
    "before the end": ("usage", "prune", "--before", EVER),
    "a report of all days": ("usage", "report", "--since", LONG_AGO, "--until", EVER),
    "a limit like none": ("keys", "create", "--name", "a", "--tpmonth", str(10**30)),
    "a key for ever": ("keys", "create", "--name", "a", "--expires", EVER),
}


@pytest.mark.parametrize("words", EXTREMES.values(), ids=EXTREMES)
def test_extremes_are_done_or_refused_in_a_line(spent, run, words):
    result = run(*words)
    if result.exit_code:
        failed(result, 2)


@pytest.mark.parametrize("grace", ["99999999d", "9" * 400 + "d"], ids=["too long", "endless"])
def test_a_grace_too_long_to_tell_changes_nothing(run, tell, parts, grace):
    made = tell("keys", "create", "--name", "a")
    failed(run("keys", "rotate", made["id"], "--grace", grace), 2)
    assert [key["id"] for key in tell("keys", "list")] == [made["id"]]
    assert parts.keys.show(made["id"])["old_digest"] is None


UNKNOWN = ["nobody", "", "' OR 1=1 --", "a\nb", "%s", "{}", "x" * 10_000]


@pytest.mark.parametrize("command", ["show", "rotate", "revoke"])
@pytest.mark.parametrize("id", UNKNOWN, ids=lambda id: ascii(id[:20]))
def test_an_unknown_key(idle, command, id):
    run, _ = idle
    for form in FORMS:
        assert "there is no key" in failed(run("keys", command, id, *form), 1)


@pytest.mark.parametrize("command", ["rotate", "revoke"])
def test_a_revoked_key_stays_so(run, tell, command):
    id = tell("keys", "create", "--name", "a")["id"]
    tell("keys", "revoke", id)
    for form in FORMS:
        line = failed(run("keys", command, id, *form), 1)
        assert id in line and "revoked" in line
    assert tell("keys", "show", id)["state"] == "revoked"


def is_locked(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    return connection


def is_no_database(path):
    path.write_bytes(b"these are minutes of a meeting\n" * 1000)


def is_a_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def is_newer(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")


READS = {"show": ("keys", "show", "ID"), "list": ("keys", "list"), "report": ("usage", "report")}
WRITES = {
    "create": ("keys", "create", "--name", "a"),
    "rotate": ("keys", "rotate", "ID"),
    "revoke": ("keys", "revoke", "ID"),
    "prune": ("usage", "prune", "--keep-days", "1"),
}
TROUBLE = {
    "locked": (is_locked, {**WRITES, "upgrade": ("db", "upgrade")}, "locked"),
    "not a database": (is_no_database, {**READS, **WRITES, "status": ("db", "status")}, "not a database"),
    "a folder": (is_a_folder, {**READS, **WRITES, "status": ("db", "status")}, "unable to open"),
    "newer": (is_newer, {**READS, **WRITES, "upgrade": ("db", "upgrade")}, "install a newer chatapi"),
}


@pytest.mark.parametrize("trouble, commands, cause", TROUBLE.values(), ids=TROUBLE)
def test_trouble_with_the_database_is_told_in_a_line(run, tell, parts, database, monkeypatch, trouble, commands, cause):
    monkeypatch.setattr(store_module, "LOCK_WAIT_S", 0.05)
    id = tell("keys", "create", "--name", "a")["id"]
    parts.store.close()
    connection = trouble(database)
    try:
        for words in commands.values():
            for form in FORMS:
                line = failed(run(*(id if word == "ID" else word for word in words), *form), 1)
                assert cause in line and str(database) in line, words
    finally:
        if connection:
            connection.close()


def test_who_only_reads_needs_no_lock(tell, parts, database):
    id = tell("keys", "create", "--name", "a")["id"]
    with closing(is_locked(database)):
        assert [key["id"] for key in tell("keys", "list")] == [id]
        assert tell("keys", "show", id)["id"] == id
        assert tell("usage", "report") == []
        assert tell("db", "status")["schema"] == len(tables.STEPS)


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:{}@{}/x", "postgresql+psycopg://u@{1}/x?password={0}"])
def test_the_databases_password_is_not_told(settings, url):
    app = create_app(replace(settings, database_url=url.format("hidden-word", f"127.0.0.1:{free_port()}")))
    for words in (("db", "status"), ("keys", "list"), ("keys", "create", "--name", "a")):
        for form in FORMS:
            line = failed(app.test_cli_runner().invoke(args=[*words, *form]), 1)
            assert "127.0.0.1" in line
            assert "hidden-word" not in line


# --- as operators start it


def test_as_a_process_of_its_own(settings, tmp_path):
    """In an empty folder, with no setting at all."""
    ended = flask(tmp_path, "keys", "create", "--name", "Ação", "--rpm", "9", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    made = json.loads(ended.stdout)
    assert (made["name"], made["limits"]["rpm"]) == ("Ação", 9)
    url = f"sqlite:///{tmp_path}/instance/chatapi.db"
    app = create_app(replace(settings, auth="required", database_url=url))
    body = {"model": "test/ok", "messages": HELLO}
    answer = app.test_client().post(CHAT, json=body, headers={"Authorization": f"Bearer {made['key']}"})
    assert answer.status_code == 200
    assert answer.headers["RateLimit-Limit"] == "9"
    ended = flask(tmp_path, "keys", "show", "nobody")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "Error: there is no key 'nobody'\n")


# --- languages


@pytest.mark.parametrize(
    "environ, language",
    [
        ({"LANG": "pt_BR.UTF-8"}, "pt"),
        ({"LC_ALL": "C", "LANG": "pt_BR.UTF-8"}, "en"),
        ({"LC_ALL": "POSIX", "CHATAPI_LANGUAGE": "pt-BR"}, "pt"),
    ],
    ids=str,
)
def test_commands_speak_the_language_of_the_locale(tmp_path, environ, language):
    """Which one that is: test_languages."""
    unset = dict.fromkeys(("LANG", "LC_ALL", "LC_CTYPE"), "")
    run = partial(flask, tmp_path, **unset | {"PYTHONUTF8": "1"} | environ)
    said = {
        "en": ("The API keys of callers.", "there is no key 'nobody'", "Keep the key now"),
        "pt": ("As chaves de API de quem chama.", "não existe", "Guarde a chave agora"),
    }[language]
    assert said[0] in run("keys", "--help").stdout
    assert said[1] in run("keys", "show", "nobody").stderr
    assert said[2] in run("keys", "create", "--name", "a").stdout
    mistake = run("keys", "create", "--name", "a", "--expires", "soon").stderr
    assert "Usage: " in mistake, "click's own words stay"
    assert ("is no date" in mistake) == (language == "en")
