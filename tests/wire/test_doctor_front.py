"""The doctor before a gateway: every mistake in a proxy is made, for real, and told with the line that mends it."""

import os
import time
from contextvars import copy_context
from dataclasses import replace

import pytest
from support import doctor as shared
from support.doctor import ENV_LINE, KEY, elsewhere, examined, parts_of, wrong
from support.fronts import front as shipped_front
from support.fronts import socket_path
from support.gateways import ROOT, free_port, keyed, over, serve, side_by_side
from support.servers import needs, nginx

from chatapi import create_app, languages
from chatapi.accounting import statements, tables
from chatapi.huggingface import connect
from chatapi.operations.doctor import front, reaching
from chatapi.settings import Settings

# Under these names tests ask for them.
settings, nobody_at_the_default_url = shared.settings, shared.nobody_at_the_default_url


# ---------------------------------------------------------------- through nginx

GOOD = {
    "proxy_pass": "http://127.0.0.1:{gateway}",
    "proxy_http_version": "1.1",
    "proxy_set_header Connection": '""',
    "proxy_set_header Host": "$http_host",
    "proxy_set_header X-Forwarded-For": "$remote_addr",
    "proxy_set_header X-Forwarded-Proto": "$scheme",
    "proxy_buffering": "off",
    "proxy_ignore_client_abort": "off",
    "proxy_read_timeout": "130s",
    "client_max_body_size": "25m",
}
HOLDING = {"proxy_buffering": "on", "proxy_ignore_headers": "X-Accel-Buffering"}
# Name: (what is changed, what is wrong then, the line)
BAD = {
    "buffering": ({**HOLDING, "proxy_http_version": "1.0"}, "streams", "nginx: proxy_buffering off;"),
    "compressing": (
        {**HOLDING, "gzip": "on", "gzip_types": "*"}, "streams", "nginx: proxy_buffering off;\nnginx: gzip off;"
    ),
    "hiding": ({"proxy_ignore_client_abort": "on"}, "aborts", "nginx: proxy_ignore_client_abort off;"),
    "small": ({"client_max_body_size": "1m"}, "bodies", "nginx: client_max_body_size 3m;"),
    "hasty": ({"proxy_read_timeout": "1s"}, "timeouts", "nginx: proxy_read_timeout 12s;"),
    "anonymous": (
        {"proxy_set_header X-Forwarded-For": '""', "proxy_set_header Host": "chat.example.com"}, "forwarding",
        "nginx: proxy_set_header X-Forwarded-For $remote_addr;",
    ),
    "plain": (
        {"proxy_set_header X-Forwarded-Proto": "https"}, "forwarding",
        "nginx: proxy_set_header X-Forwarded-Proto $scheme;",
    ),
    "chained": (
        {"proxy_set_header X-Forwarded-For": '"10.0.0.9, $remote_addr"'}, "forwarding",
        ".env: CHATAPI_TRUSTED_PROXIES=2",
    ),
    "lost": (
        {"proxy_pass": "http://127.0.0.1:9"}, "gateway",
        "systemctl status chatapi\nnginx: proxy_pass http://127.0.0.1:8000;",
    ),
    "elsewhere": ({"return": "204"}, "gateway", "nginx: location / { proxy_pass http://127.0.0.1:8000; }"),
    "moved": (
        {"return": "308 https://other.test$request_uri"}, "gateway",
        "flask --app wsgi doctor --url https://other.test",
    ),
}  # fmt: skip


def nginx_conf(servers):
    """One server for each (port, gateway's port, changes)."""
    blocks = []
    for port, gateway, changes in servers:
        lines = {**GOOD, **changes}
        body = "".join(f"{name} {value.replace('{gateway}', str(gateway))};\n" for name, value in lines.items())
        blocks.append(f"server {{ listen 127.0.0.1:{port}; location / {{\n{body}}} }}")
    return "events {}\nhttp {\naccess_log off;\n" + "\n".join(blocks) + "}\n"


@pytest.fixture(scope="module")
def world(upstream_server, tmp_path_factory):
    """Gateways, and before them every nginx: (settings, urls by name). All share one database."""
    needs("nginx")
    home = tmp_path_factory.mktemp("doctor")
    limits = {"TRUSTED_PROXIES": 1, "MAX_TIME": 2, "HEARTBEAT": 1, "MAX_BODY": 2097152}
    own = {"DATABASE_URL": f"sqlite:///{home}/chatapi.db", "CHATAPI_AUTH": "auto"}
    env = over(upstream_server, **limits) | keyed(KEY) | own
    ports = {name: free_port() for name in ("good", *BAD)}
    changes = {"good": {}} | {name: changed for name, (changed, *_) in BAD.items()}
    with socket_path() as path, serve(env, "-b", f"unix:{path}") as gateway:
        conf = nginx_conf((ports[name], gateway.port, changed) for name, changed in changes.items())
        with nginx(conf, list(ports.values())), shipped_front(path) as shipped:
            ports |= {"shipped": shipped.port, "direct": gateway.port}
            urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
            yield Settings.from_env(env), urls


@pytest.fixture(scope="module")
def looked(world):
    """What is found at every URL, all looked at side by side, with --slow."""
    settings, urls = world
    os.chdir(ROOT)

    def look(name):
        return examined(settings, urls[name], KEY, calls=False, slow=True)

    return {name: found for (name,), found in side_by_side(look, [(name,) for name in urls]).items()}


@pytest.mark.parametrize("name", ["good", "shipped"])
def test_behind_a_good_nginx_all_is_well(looked, name):
    assert wrong(looked[name]) == set()
    for what in ("gateway", "worker", "auth", "forwarding", "streams", "aborts", "bodies", "timeouts", "open files"):
        assert looked[name][what].ok, looked[name][what]
    assert "127.0.0.1" in looked[name]["forwarding"].message


def test_without_a_proxy_all_is_well(looked):
    assert wrong(looked["direct"]) == set()
    assert looked["direct"]["forwarding"].ok is None, "CHATAPI_TRUSTED_PROXIES cannot be judged here"


@pytest.mark.parametrize("name", BAD)
def test_each_mistake_in_nginx_is_found_and_nothing_else(looked, name):
    _, what, line = BAD[name]
    assert wrong(looked[name]) == {what}, looked[name]
    assert looked[name][what].fix == line


def test_nothing_is_left_in_the_database(world, looked):
    with parts_of(world[0]) as parts:
        names = parts.store.read(lambda tx: list(tx.execute(tables.meta.select()).scalars()))
    assert not [name for name in names if name.startswith("probe:")]


def test_addresses_that_are_not_believed(world):
    settings, urls = world
    with parts_of(replace(settings, trusted_proxies=0)) as parts:
        found = {f.name: f for f in front.Front(parts, urls["good"], KEY).check(False, lambda text: None)}
    assert found["forwarding"].fix == ".env: CHATAPI_TRUSTED_PROXIES=1"
    assert found["timeouts"].ok is None
    assert found["timeouts"].fix.endswith("--slow")


def test_keys_that_are_needed_or_wrong(world):
    settings, urls = world
    found = examined(settings, urls["good"], calls=False)
    assert found["gateway"].ok is None
    assert found["gateway"].fix == f"flask --app wsgi doctor --url {urls['good']} --key KEY"
    assert "streams" not in found
    assert wrong(examined(settings, urls["good"], "another", calls=False)) == {"gateway"}


def test_another_database(world, settings):
    found = examined(replace(settings, trusted_proxies=1), world[1]["good"], KEY, calls=False)
    assert found["aborts"].ok is None
    assert found["aborts"].fix.startswith(ENV_LINE + "DATABASE_URL=")


def test_a_url_where_nobody_listens(settings):
    url = f"http://127.0.0.1:{free_port()}"
    assert wrong(examined(settings, url, calls=False)) == {"gateway"}
    assert examined(settings, calls=False)["gateway"].ok is None, "nobody said that it was running"


@pytest.mark.parametrize(
    "language, refused, closed",
    [
        ("en", "nobody accepts the connection", "the connection is closed without an answer"),
        ("pt-BR", "ninguém aceita a conexão", "a conexão é fechada sem resposta"),
    ],
)
def test_what_keeps_the_gateway_from_being_heard_is_told_in_the_reader_s_language(settings, language, refused, closed):
    context = copy_context()
    context.run(languages.use, language)
    url = f"http://127.0.0.1:{free_port()}"
    assert context.run(examined, settings, url, calls=False)["gateway"].message == f"{url}: {refused}"
    with elsewhere(kind="silent") as port:
        url = f"http://127.0.0.1:{port}"
        assert context.run(examined, settings, url, calls=False)["gateway"].message == f"{url}: {closed}"


def test_every_way_in_which_a_connection_fails_has_the_doctor_s_words():
    assert {row[1] for row in connect._CAUSES} == reaching._FAILED.keys()


def test_a_proxy_that_lets_everybody_in_and_a_worker_that_sees_nothing(settings, upstream):
    needs("nginx")
    env = {"DATABASE_URL": settings.database_url, "HUGGINGFACE_BASE_URL": upstream.url}
    port = free_port()
    hidden = {"proxy_set_header X-Forwarded-For": '""', "proxy_set_header Host": "127.0.0.1:8000"}
    hidden["proxy_set_header X-Forwarded-Proto"] = '""'
    with (
        serve(env, "-k", "sync") as gateway,
        nginx(nginx_conf([(port, gateway.port, hidden)]), [port]),
        parts_of(settings) as parts,
    ):
        findings = front.Front(parts, f"http://127.0.0.1:{port}", None).check(False, lambda text: None)
        found = {finding.name: finding for finding in findings}
    assert wrong(found) == {"auth", "worker", "forwarding"}
    assert found["auth"].fix == ".env: CHATAPI_AUTH=required"
    assert found["worker"].fix == 'gunicorn.conf.py: worker_class = "chatapi.operations.worker.Worker"'
    assert found["aborts"].ok, "a write that fails tells it too"


# ---------------------------------------------------------------- the probe itself


@pytest.mark.parametrize(
    "query",
    [
        *("events=101", "events=-1", "events=1.5", "events=x", "events=nan", "every_s=inf", "events=100&every_s=100"),
        *("silence_s=1000", "events=1&silence_s=1", "note=A'", "note=" + "a" * 65),
    ],
)
def test_a_probe_is_bounded(client, query):
    answer = client.get(f"/v1/probe?{query}")
    assert answer.status_code == 400
    assert answer.json["error"]["code"] == "invalid_request"


def test_a_probe_costs_nothing_and_looks_like_a_stream(client, upstream):
    answer = client.get("/v1/probe?events=3&every_s=0.01")
    assert answer.text.count("data: ") == 4
    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.mimetype == "text/event-stream"
    assert upstream.calls == []


def test_a_probe_sends_comments_in_long_pauses(client):
    assert ": waiting\n\n" in client.get("/v1/probe?events=2&every_s=0.8").text


def test_a_probe_wants_a_key_where_calls_do(settings):
    client = create_app(replace(settings, auth="required")).test_client()
    assert client.get("/v1/probe").status_code == 401


def test_notes_are_forgotten_when_the_next_is_made(app, client):
    ledger = app.extensions["chatapi"].store
    ledger.write(lambda tx: statements.put_meta(tx, "probe:old", str(int(time.time()) - 600)))
    with client.get("/v1/probe?events=9&every_s=0.1&note=new", buffered=False) as answer:
        next(answer.iter_encoded())
    assert ledger.read(lambda tx: statements.get_meta(tx, "probe:new"))
    assert ledger.read(lambda tx: statements.get_meta(tx, "probe:old")) is None
