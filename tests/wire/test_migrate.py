"""`flask migrate`: who still calls, what their requests become, and the route's switch."""

import csv
import io
import json
from dataclasses import replace

import pytest
from support.gateways import printed

from chatapi import create_app
from chatapi.caller import NO_LIMITS
from chatapi.migration.rewrite import rewrite
from chatapi.migration.schedule import DAY_S, check_brownouts, parse_brownouts

SUNSET = 1_814_313_600.0  # 2027-06-30
NOW = SUNSET - 5 * DAY_S
DEFAULT = "microsoft/DialoGPT-medium"


@pytest.fixture
def app(settings, tmp_path):
    """A gateway five days before the sunset."""
    own = {"database_url": f"sqlite:///{tmp_path}/chatapi.db", "legacy_sunset": SUNSET}
    app = create_app(replace(settings, **own))
    app.extensions["chatapi"].legacy.clock = lambda: NOW
    return app


@pytest.fixture
def parts(app):
    return app.extensions["chatapi"]


@pytest.fixture
def run(app):
    """What a command prints, and its status."""

    def invoke(*args, **kwargs):
        result = app.test_cli_runner().invoke(args=["migrate", *args], **kwargs)
        return result.stdout, result.exit_code

    return invoke


def told(shown):
    out, status = shown
    assert status == 0
    return json.loads(out)


def called(parts, key_id, agent, times=1, days_ago=0, refused=False, body=None):
    route = parts.legacy
    route.callers._clock = lambda: NOW - days_ago * DAY_S
    for _time in range(times):
        route.callers.count(key_id, agent, refused, rewrite(body or {"message": "a"}, DEFAULT))
    route.callers.flush()


@pytest.fixture
def billing(parts):
    return new_key(parts, "billing")


def new_key(parts, name):
    return parts.keys.create(name, NO_LIMITS, [], None)[0]["id"]


# --- report


def test_a_report_is_a_table_or_csv_and_may_begin_later(run, parts, billing):
    called(parts, billing, "okhttp/4.12", 3)
    table, status = run("report")
    assert status == 0
    assert table.splitlines()[0].split()[:4] == ["key_id", "key_name", "client", "calls"]
    assert table.splitlines()[1].split()[:4] == [billing, "billing", "okhttp", "3"]
    (row,) = csv.DictReader(io.StringIO(run("report", "--csv")[0]))
    assert list(row) == list(told(run("report", "--json"))[0])
    assert (row["key_name"], row["calls"], row["uses"]) == ("billing", "3", "message=3")
    called(parts, billing, "okhttp/4.12", 2, days_ago=8)
    (one,) = told(run("report", "--since", "2027-06-20", "--json"))
    assert (one["calls"], one["last_week"]) == (3, 2)
    assert told(run("report", "--since", "2027-06-26", "--json")) == []


# --- rehearse


def test_a_rehearsal_names_who_would_be_refused_at_the_sunset(run, parts, billing):
    search = new_key(parts, "search")
    called(parts, billing, "okhttp/4.12", 3)
    called(parts, search, "curl/8", 2, days_ago=6)
    called(parts, None, "old/1", 2, days_ago=7)
    assert [one["key_name"] for one in told(run("rehearse", "--json"))] == ["billing", "search"]
    assert [one["client"] for one in told(run("rehearse", "--json", "--days", "8"))] == ["okhttp", "old", "curl"]
    run("extend", billing, "--until", "2027-08-01")
    assert told(run("rehearse", "--json")) == [
        {"key_id": search, "key_name": "search", "client": "curl", "calls": 2, "last_seen": "2027-06-19T00:00:00+00:00"}
    ]
    assert [one["key_name"] for one in told(run("rehearse", "--at", "2027-08-01", "--json"))] == ["billing", "search"]
    assert told(run("rehearse", "--at", "2027-06-29", "--json")) == []
    assert "would be refused" in run("rehearse", "--at", "2027-06-29")[0]


def test_a_rehearsal_without_a_sunset_is_as_if_retired(settings, tmp_path):
    app = create_app(replace(settings, database_url=f"sqlite:///{tmp_path}/chatapi.db"))
    called_now = app.extensions["chatapi"].legacy.callers
    called_now.count(None, "curl/8", False, None)
    called_now.flush()
    assert [one["client"] for one in json.loads(printed(app, "migrate", "rehearse", "--json"))] == ["curl"]


# --- preview


def test_a_preview_needs_neither_database_nor_upstream(settings, tmp_path):
    nowhere = {
        "database_url": "postgresql+psycopg://u:p@127.0.0.1:1/none",
        "huggingface_base_url": "http://127.0.0.1:1",
    }
    app = create_app(replace(settings, **nowhere))
    file = tmp_path / "body.json"
    file.write_text('{\n  "prompt": "Olá",\n  "parameters": {"max_length": 5}\n}\n')
    found = json.loads(printed(app, "migrate", "preview", str(file), "--url", "https://chat.example.com", "--json"))
    messages = [{"role": "user", "content": "Olá"}]
    assert found["completions"]["body"] == {"model": DEFAULT, "messages": messages, "max_tokens": 5}
    assert "https://chat.example.com/v1" in found["openai"]["python"]
    assert found["same_upstream_request"] is True


def test_a_preview_for_people_names_the_changes_and_the_commands_and_lines_are_translated_one_by_one(run, tmp_path):
    out, status = run("preview", "-", input='{"prompt": "Oi"}')
    assert status == 0
    assert "prompt -> messages" in out and out.count("curl http://127.0.0.1:8000/") == 2
    file = tmp_path / "bodies.txt"
    file.write_text('{"message": "a"}\n\nno json\n{"message": ""}\n{"inputs": "b"}')
    out, status = run("preview", str(file))
    results = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert ["error" in result for result in results] == [False, True, True, False]
    assert results[1]["error"]["code"] == "invalid_json"
    assert results[2]["error"]["details"] == {"message": ["must have text"]}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"message": 1}', '{\n  "message": "a",\n}'])
def test_a_body_that_cannot_be_used_is_status_1(run, text):
    out, status = run("preview", "-", input=text)
    assert status == 1
    assert json.loads(out)["error"]["code"] in ("invalid_json", "invalid_request")


# --- the schedule


def test_a_suggested_schedule_can_be_pasted_into_the_settings(run, settings):
    out, status = run("suggest", "--sunset", "2027-12-31")
    assert status == 0
    lines = dict(line.split("=", 1) for line in out.splitlines())
    assert list(lines) == ["CHATAPI_LEGACY_SUNSET", "CHATAPI_LEGACY_BROWNOUTS"]
    windows = parse_brownouts(lines["CHATAPI_LEGACY_BROWNOUTS"])
    lengths = [end - start for start, end in windows]
    assert len(windows) == 5 and lengths == sorted(set(lengths))
    assert not check_brownouts(windows, lines["CHATAPI_LEGACY_BROWNOUTS"], SUNSET + 184 * DAY_S)
    assert told(run("suggest", "--sunset", "2027-12-31", "--json")) == lines


def test_a_configured_key_is_extended(settings, tmp_path):
    own = {"database_url": f"sqlite:///{tmp_path}/chatapi.db", "legacy_sunset": SUNSET, "keys": frozenset({"ab" * 32})}
    app = create_app(replace(settings, **own))
    extended = printed(app, "migrate", "extend", "ab" * 6, "--until", "2027-08-01", "--json")
    assert json.loads(extended)["key_id"] == "ab" * 6
    assert app.extensions["chatapi"].legacy.serves("ab" * 6, at=SUNSET)


@pytest.mark.parametrize(
    "args, status",
    [
        (["extend", "nobodyskey", "--until", "2027-08-01"], 1),
        (["extend", "nobodyskey"], 2),
        (["extend", "nobodyskey", "--until", "soon"], 2),
        (["suggest"], 2),
        (["suggest", "--sunset", "30/06/2027"], 2),
        (["suggest", "--sunset", "2027-06-25"], 2),  # today
        (["report", "--since", "yesterday"], 2),
        (["report", "--csv", "--json"], 2),
        (["rehearse", "--days", "0"], 2),
        (["rehearse", "--at", "?"], 2),
        (["preview", "/no/such/file"], 2),
        (["preview", "-", "--url", "ftp://x"], 2),
        (["switch-off", "now"], 2),
        (["retire"], 2),
    ],
)
def test_mistakes_have_their_status(run, args, status):
    assert run(*args)[1] == status
