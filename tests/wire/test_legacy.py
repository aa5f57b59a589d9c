"""The legacy route's life on the wire: its headers, brownouts, extensions, 410s, and previews of what it becomes."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from support.dialects import LEGACY, V1
from support.dialects import NEW as CHAT
from support.gateways import flask, printed, serve
from support.heard import wait_until

from chatapi import create_app
from chatapi.caller import NO_LIMITS, Limits
from chatapi.migration.schedule import DAY_S, parse_brownouts
from chatapi.telemetry import metrics

PREVIEW = "/api/migrate/preview"
SUNSET = datetime(2027, 6, 30, tzinfo=UTC).timestamp()
SCHEDULE = "2027-06-02T12:00Z/PT1H 2027-06-16T12:00Z/P1D 2027-06-17T00:00Z/P1D"
BROWNOUTS = parse_brownouts(SCHEDULE)
GUIDE = "http://localhost/docs/migration"
MODEL = "test/ok"
BODY = {"prompt": "Oi", "model": MODEL, "parameters": {"max_new_tokens": 5}, "do_sample": True}


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Gateway:
    """The app with a clock that is set by hand, and keys by name."""

    def __init__(self, settings):
        self.app = create_app(settings)
        self.parts = self.app.extensions["chatapi"]
        self.now = SUNSET - 365 * DAY_S
        self.parts.legacy.clock = lambda: self.now
        self.parts.legacy.callers._clock = lambda: self.now
        self.keys = {}
        self.ids = {}

    def key(self, name, limits=NO_LIMITS):
        if name not in self.keys:
            row, self.keys[name] = self.parts.keys.create(name, limits, [], None)
            self.ids[name] = row["id"]
        return self.keys[name]

    def post(self, path, body=None, key=None, **headers):
        if key:
            headers["Authorization"] = f"Bearer {self.key(key)}"
        content = {"json": body} if not isinstance(body, bytes) else {"data": body, "content_type": "application/json"}
        return self.app.test_client().post(path, headers=headers, **content)

    def run(self, *args):
        return json.loads(printed(self.app, "migrate", *args, "--json"))

    def ledger(self):
        return json.loads(printed(self.app, "usage", "report", "--by", "key", "--json"))


@pytest.fixture
def gateway(settings, tmp_path):
    own = {"database_url": f"sqlite:///{tmp_path}/chatapi.db", "legacy_sunset": SUNSET, "legacy_brownouts": BROWNOUTS}
    return Gateway(replace(settings, **own))


def links(response):
    return response.headers.getlist("Link")


# --- the stages


def test_an_announced_route_is_served_and_leads_to_its_successor(gateway):
    response = gateway.post(LEGACY, BODY)
    assert response.status_code == 200
    assert response.headers["Deprecation"] == "@1795305600"
    assert response.headers["Sunset"] == "Wed, 30 Jun 2027 00:00:00 GMT"
    assert links(response) == [
        '</api/chat/completions>; rel="successor-version"',
        '</docs/migration>; rel="deprecation"; type="text/html"',
        '</docs/migration>; rel="sunset"; type="text/html"',
    ]


@pytest.mark.parametrize(
    "now, until, seconds",
    [
        ("2027-06-02T12:00", "2027-06-02T13:00:00Z", "3600"),
        ("2027-06-02T12:59:59", "2027-06-02T13:00:00Z", "1"),
        ("2027-06-16T12:00", "2027-06-18T00:00:00Z", "129600"),  # two windows that overlap are one
    ],
)
def test_a_brownout_says_when_the_route_is_served_again(gateway, upstream, now, until, seconds):
    gateway.now = at(now)
    response = gateway.post(LEGACY, BODY)
    error = response.json["error"]
    assert (response.status_code, error["code"], error["retryable"]) == (410, "route_retired", True)
    assert response.headers["Retry-After"] == seconds
    assert until in error["message"] and "2027-06-30" in error["message"] and GUIDE in error["message"]
    assert response.headers["Deprecation"] and response.headers["Sunset"] == "Wed, 30 Jun 2027 00:00:00 GMT"
    assert len(links(response)) == 3
    assert upstream.calls_for(MODEL) == []
    gateway.now = at(now) + int(seconds)
    assert gateway.post(LEGACY, BODY).status_code == 200


def test_after_the_sunset_nothing_is_promised(gateway, upstream):
    gateway.now = SUNSET
    response = gateway.post(LEGACY, BODY)
    error = response.json["error"]
    assert (response.status_code, error["code"], error["retryable"]) == (410, "route_retired", False)
    assert "Retry-After" not in response.headers and "retry-after-ms" not in response.headers
    assert response.headers["Sunset"] == "Wed, 30 Jun 2027 00:00:00 GMT"
    assert upstream.calls_for(MODEL) == []


@pytest.mark.parametrize("now", [at("2027-06-02T12:30"), SUNSET])
def test_a_410_has_the_callers_own_request_for_the_new_routes(gateway, now):
    gateway.now = now
    migration = gateway.post(LEGACY, BODY).json["error"]["migration"]
    assert migration.pop("guide") == GUIDE
    assert migration == gateway.post(PREVIEW, BODY).json["data"]
    assert gateway.post(migration["completions"]["path"], migration["completions"]["body"]).status_code == 200
    assert gateway.post(migration["openai"]["path"], migration["openai"]["body"]).status_code == 200


@pytest.mark.parametrize(
    "body", [{}, {"message": ""}, {"message": "a", "top_k": "x"}, b"", b"{", b"[]", b'{"message": "a", "message": "b"}']
)
def test_what_would_have_been_invalid_is_410_too_with_the_guide_alone(gateway, body):
    gateway.now = SUNSET
    response = gateway.post(LEGACY, body)
    assert response.status_code == 410
    assert response.json["error"]["migration"] == {"guide": GUIDE}
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = gateway.app.test_client().post(LEGACY, data=b"hello", content_type=content_type)
        assert response.status_code == 410


@pytest.mark.parametrize("now", [SUNSET - 100 * DAY_S, at("2027-06-02T12:30"), SUNSET])
def test_the_key_comes_first(settings, tmp_path, now):
    own = {"database_url": f"sqlite:///{tmp_path}/chatapi.db", "legacy_sunset": SUNSET, "legacy_brownouts": BROWNOUTS}
    gateway = Gateway(replace(settings, auth="required", **own))
    gateway.now = now
    for headers in ({}, {"Authorization": "Bearer nobody's"}):
        response = gateway.post(LEGACY, BODY, **headers)
        assert response.status_code == 401
        assert response.headers["Sunset"] == "Wed, 30 Jun 2027 00:00:00 GMT"
        assert gateway.post(PREVIEW, BODY, **headers).status_code == 401
    assert gateway.run("report") == []
    assert gateway.post(LEGACY, BODY, key="billing").status_code in (200, 410)
    for path in (LEGACY, PREVIEW):
        assert gateway.key("billing") not in gateway.post(path, BODY, key="billing").text


def test_an_extended_key_is_served_and_told_its_own_day(gateway):
    gateway.now = SUNSET
    gateway.key("billing")
    told = {"key_id": gateway.ids["billing"], "key_name": "billing", "until": "2027-08-01T00:00:00+00:00"}
    assert gateway.run("extend", gateway.ids["billing"], "--until", "2027-08-01") == told
    response = gateway.post(LEGACY, BODY, key="billing")
    assert (response.status_code, response.headers["Sunset"]) == (200, "Sun, 01 Aug 2027 00:00:00 GMT")
    response = gateway.post(LEGACY, {}, key="billing")
    assert (response.status_code, response.headers["Sunset"]) == (400, "Sun, 01 Aug 2027 00:00:00 GMT")
    response = gateway.post(LEGACY, BODY, key="search")
    assert (response.status_code, response.headers["Sunset"]) == (410, "Wed, 30 Jun 2027 00:00:00 GMT")
    gateway.now = at("2027-08-01")
    response = gateway.post(LEGACY, BODY, key="billing")
    assert (response.status_code, response.headers["Sunset"]) == (410, "Sun, 01 Aug 2027 00:00:00 GMT")


def test_the_switch_is_for_everybody(gateway):
    gateway.key("billing")
    gateway.run("extend", gateway.ids["billing"], "--until", "2027-08-01")
    assert gateway.run("switch-off") == {"switched_off": True}
    response = gateway.post(LEGACY, BODY, key="billing")
    assert response.status_code == 410 and not response.json["error"]["retryable"]
    assert gateway.run("switch-on") == {"switched_off": False}
    assert gateway.post(LEGACY, BODY, key="billing").status_code == 200


# --- what is kept of calls


def test_a_410_is_a_refused_call_and_counts_against_the_requests_per_minute(gateway, upstream):
    gateway.now = SUNSET
    gateway.key("billing", Limits(rpm=3))
    statuses = [gateway.post(LEGACY, BODY, key="billing").status_code for _time in range(4)]
    assert statuses == [410, 410, 410, 429]
    (row,) = [row for row in gateway.ledger() if row["key_id"] == gateway.ids["billing"]]
    assert (row["calls"], row["endings"]) == (4, {"refused": 4})
    gateway.parts.legacy.callers.flush()
    (told,) = gateway.run("report")
    assert (told["calls"], told["refused"]) == (4, 3)  # the fourth was told to come back


def test_a_preview_is_no_call_but_counts_against_the_requests_per_minute(gateway, upstream):
    gateway.key("billing", Limits(rpm=3, concurrency=1))
    statuses = [gateway.post(PREVIEW, BODY, key="billing").status_code for _time in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert gateway.ledger() == []
    assert upstream.calls == []
    gateway.parts.legacy.callers.flush()
    assert gateway.run("report") == []


def test_calls_are_reported_by_key_and_client(gateway):
    gateway.post(LEGACY, BODY, key="billing", **{"User-Agent": "okhttp/4.12.0 (Android)"})
    gateway.post(LEGACY, b"{", key="billing", **{"User-Agent": "okhttp/4.11"})
    gateway.now = SUNSET
    gateway.post(LEGACY, {"message": "Oi", "secret-field": 1}, key="billing", **{"User-Agent": "okhttp/4"})
    gateway.parts.legacy.callers.flush()
    (one,) = gateway.run("report")
    assert (one["key_name"], one["client"], one["calls"], one["refused"]) == ("billing", "okhttp", 3, 1)
    assert (one["compared"], one["differ"]) == (2, 0)
    assert one["uses"] == {"prompt": 1, "model": 1, "parameters.max_new_tokens": 1, "other": 2, "message": 1}


# --- preview


@pytest.mark.parametrize("now", [SUNSET - 100 * DAY_S, at("2027-06-02T12:30"), SUNSET])
def test_a_preview_is_served_in_every_stage_without_the_legacy_headers(gateway, upstream, now):
    gateway.now = now
    response = gateway.post(PREVIEW, BODY)
    assert response.status_code == 200 and response.json["success"] is True
    assert response.headers["Content-Language"] == "en"
    assert not {"Deprecation", "Sunset", "Link"} & set(response.headers.keys())
    data = response.json["data"]
    assert list(data) == ["completions", "openai", "changes", "same_upstream_request"]
    assert {one["field"]: one["becomes"] for one in data["changes"]} == {
        "prompt": "messages",
        "parameters.max_new_tokens": "max_tokens",
        "do_sample": None,
    }
    assert "http://localhost/api/chat/completions" in data["completions"]["curl"]
    assert upstream.calls == []


@pytest.mark.parametrize("body", [{}, {"message": 1}, b"{", {"message": "a", "parameters": {"top_k": 0}}])
def test_a_body_that_cannot_be_translated_gets_the_legacy_routes_own_error(gateway, body):
    preview, legacy = gateway.post(PREVIEW, body), gateway.post(LEGACY, body)
    assert preview.status_code == legacy.status_code == 400
    told = [{k: v for k, v in r.json["error"].items() if k != "request_id"} for r in (preview, legacy)]
    assert told[0] == told[1]
    assert "Deprecation" not in preview.headers


def test_people_read_it_in_their_language_with_the_host_that_they_asked(gateway):
    response = gateway.post(PREVIEW, BODY, key="billing", Host="chat.example.com:8443")
    assert "http://chat.example.com:8443/v1" in response.json["data"]["openai"]["python"]
    response = gateway.post(PREVIEW, BODY, **{"Accept-Language": "pt-BR"})
    assert response.headers["Content-Language"] == "pt-BR"
    notes = {one["field"]: one["note"] for one in response.json["data"]["changes"]}
    assert notes["do_sample"].startswith("Não teve efeito")
    gateway.now = SUNSET
    response = gateway.post(LEGACY, BODY, **{"Accept-Language": "pt-BR"})
    assert response.headers["Content-Language"] == "pt-BR"
    assert "foi desativada" in response.json["error"]["message"]


# --- a year


class Client:
    """Calls once a day. `moves` decides, from an answer of the old route, whether to use the new one from then on."""

    def __init__(self, gateway, name, moves):
        self.gateway, self.name, self.moves = gateway, name, moves
        self.request = (LEGACY, BODY)
        self.statuses = []

    def call(self):
        response = self.gateway.post(*self.request, key=self.name, **{"User-Agent": f"{self.name}/1.0"})
        self.statuses.append((self.gateway.now, response.status_code))
        if self.request[0] == LEGACY and self.moves(response):
            if response.status_code == 410:
                new = response.json["error"]["migration"]["completions"]
            else:
                new = self.gateway.post(PREVIEW, BODY, key=self.name).json["data"]["openai"]
            self.request = (new["path"], new["body"])

    def days(self, status):
        return [now for now, given in self.statuses if given == status]


def test_a_year_of_three_clients_from_the_announcement_to_the_end(gateway):
    careful = Client(gateway, "careful", lambda response: "Sunset" in response.headers)
    late = Client(gateway, "late", lambda response: response.status_code == 410)
    stubborn = Client(gateway, "stubborn", lambda response: False)
    clients = (careful, late, stubborn)
    start = gateway.now
    rehearsed = {}
    for day in range(400):
        gateway.now = start + day * DAY_S + 12.5 * 3600  # within the brownouts' hours
        for client in clients:
            client.call()
        if day % 30 == 0 or day == 363:
            gateway.parts.legacy.callers.flush()
            rehearsed[day] = sorted(one["client"] for one in gateway.run("rehearse"))
        if day == 355:  # ten days before
            gateway.run("extend", gateway.ids["stubborn"], "--until", "2027-07-21")

    # Who reads headers moved on the first day, and was never refused.
    assert careful.days(410) == [] and careful.request[0] == V1
    # Who does not was refused once, in the first brownout, and went on with what the refusal held.
    assert late.days(410) == [at("2027-06-02T12:30")] and late.request[0] == CHAT
    # Who never moves was refused in each brownout before its extension, served through it, and refused from its end on.
    refused = stubborn.days(410)
    assert refused[:2] == [at("2027-06-02T12:30"), at("2027-06-16T12:30")]
    assert refused[2] == at("2027-06-17T12:30")
    assert refused[3] == at("2027-07-21T12:30") and len(refused) == 3 + (400 - 365 - 21)
    assert all(status in (200, 410) for client in clients for _now, status in client.statuses)

    # The operator saw it coming.
    assert rehearsed[0] == ["careful", "late", "stubborn"]
    assert rehearsed[330] == ["late", "stubborn"]
    assert rehearsed[363] == []  # extended
    gateway.parts.legacy.callers.flush()
    report = {one["client"]: one for one in gateway.run("report")}
    assert {name: one["calls"] for name, one in report.items()} == {"careful": 1, "late": 338, "stubborn": 400}
    assert {name: one["refused"] for name, one in report.items()} == {"careful": 0, "late": 1, "stubborn": len(refused)}
    assert all(one["differ"] == 0 and one["compared"] == one["calls"] for one in report.values())
    assert report["stubborn"]["this_week"] == 7 and report["late"]["this_week"] == 0


# --- every worker


def test_operators_reach_every_worker_within_five_seconds(gateway_env, tmp_path):
    env = {**gateway_env, "DATABASE_URL": f"sqlite:///{tmp_path}/chatapi.db"}
    with serve(env, "-w", "3") as running:

        def statuses():
            return {running.post(LEGACY, BODY).status_code for _time in range(30)}

        assert statuses() == {200}
        for command, wanted in (("switch-off", {410}), ("switch-on", {200})):
            assert flask(tmp_path, "migrate", command, **env).returncode == 0
            assert wait_until(lambda wanted=wanted: statuses() == wanted, 15), command
        assert 'chatapi_legacy_calls_total{key=""}' in running.request("GET", "/metrics").text


# --- counters


def test_a_counter_names_keys_and_only_so_many(gateway):
    gateway.post(LEGACY, BODY, key="billing")
    gateway.post(LEGACY, {}, key="billing")
    gateway.post(LEGACY, BODY)
    for number in range(metrics.KEYS + 50):
        metrics.legacy_called(f"key {number}")
    text = gateway.app.test_client().get("/metrics").text
    counted = {
        match[1]: float(match[2])
        for match in re.finditer(r'^chatapi_legacy_calls_total{key="(.*)"} (\S+)$', text, re.M)
    }
    assert counted["billing"] >= 2 and counted[""] >= 1 and counted["other"] >= 50
    assert len(counted) == metrics.KEYS + 2
    assert "chatapi_legacy_sunset_timestamp_seconds 1.8143136e+09" in text
