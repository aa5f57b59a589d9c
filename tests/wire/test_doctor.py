"""The doctor: everything that can be wrong is made wrong, for real, and must be told with the line that mends it."""

import json
import os
import sqlite3
import ssl
import time
import tomllib
from contextlib import closing, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple

import pytest
import redis as redis_client
from click.testing import CliRunner
from flask.cli import FlaskGroup
from support.fronts import certificate_in, socket_path
from support.fronts import front as shipped_front
from support.gateways import ROOT, TOKEN, entry, flask, free_port, keyed, over, serve, side_by_side
from support.servers import needs, nginx, postgres, redis
from support.sockets import Quiet, serving_http
from support.upstream import ERRORS, Upstream, say

from chatapi import create_app, languages
from chatapi.accounting import statements, store, tables
from chatapi.components import build
from chatapi.embedded import MODEL_ID
from chatapi.huggingface import connect
from chatapi.operations import doctor
from chatapi.operations.doctor import front, reaching
from chatapi.operations.doctor.machine import Machine
from chatapi.operations.doctor.upstream import Upstream as Asked
from chatapi.settings import FIELDS, Settings

KEY = "chatapi_doctors-own-key"
ENV_LINE = ".env: "
FIRST = "aaa/first"  # the first in the upstream's list


@pytest.fixture
def settings(upstream, tmp_path):
    """The fault server behind it, a catalogue with one model that works, a database of its own."""
    upstream.behave(FIRST, "ok")
    overlay = tmp_path / "catalogue.toml"
    overlay.write_text(entry("test/ok", 'task = "chat-completion"'))
    return Settings(
        huggingface_api_key=TOKEN,
        huggingface_base_url=upstream.url,
        default_model="test/ok",
        catalogue=overlay,
        database_url=f"sqlite:///{tmp_path}/chatapi.db",
        heartbeat_s=0.3,
    )


@pytest.fixture(autouse=True)
def nobody_at_the_default_url(monkeypatch):
    monkeypatch.setattr(front, "DEFAULT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.chdir(ROOT)


@contextmanager
def parts_of(settings, upgrade=True):
    parts = build(settings)
    if upgrade:
        parts.store.upgrade()
    try:
        yield parts
    finally:
        parts.store.close()


def examined(settings, *args, upgrade=True, **how):
    """Every finding, checked for secrets; by name, the last of each."""
    with parts_of(settings, upgrade) as parts:
        findings = list(doctor.check(parts, *args, **how))
    told = str(findings)
    assert TOKEN not in told and KEY not in told and "hf_" not in told.replace("hf_…", "")
    for finding in findings:
        assert finding.fix or finding.ok, "a finding that is not well says what to do"
    return {finding.name: finding for finding in findings}


def wrong(findings):
    return {name for name, finding in findings.items() if finding.ok is False}


# ---------------------------------------------------------------- the upstream, the token, the models


def test_all_is_well(settings):
    found = examined(settings)
    assert wrong(found) == set()
    for name in ("settings", "database", "schema", "permissions", "upstream", "token", "model test/ok", "clock"):
        assert found[name].ok, found[name]


class _Elsewhere(Quiet):
    """Servers that are none of Hugging Face's protocol, by the first part of the path; `v1` is one that is."""

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.answer()

    def answer(self):
        kind = self.server.kind or self.path.split("/")[1]
        if kind == "silent":
            self.close_connection = True
            return
        status, body = {
            "website": (200, b"<!doctype html><title>Welcome</title>"),
            "nothing": (404, b'{"detail":"Not Found"}'),
            "moved": (301, b""),
            "v1": (200, b'{"object":"list","data":[]}'),
        }.get(kind, (404, b"no such page"))
        self.send_response(status)
        if status == 301:
            self.send_header("Location", f"https://other.test{self.path.removeprefix('/moved')}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp=None):
        return formatdate(time.time() + self.server.off_s, usegmt=True)


@contextmanager
def elsewhere(certificate=None, kind="", off_s=0):
    """Such a server, whose clock is off; with a certificate it speaks TLS, with a `kind` it is that at every path.

    Gives its port.
    """
    with serving_http(_Elsewhere) as server:
        server.kind, server.off_s = kind, off_s
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_name("key.pem"))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server.server_port


@pytest.mark.parametrize(
    "kind, path, words, instead",
    [
        ("website", "", "a website", "https://router.huggingface.co"),
        ("nothing", "", "answers 404", "https://router.huggingface.co"),
        ("", "/moved", "https://other.test", "https://other.test"),
        ("", "/wrong/prefix", "nothing is at this path", "{origin}"),
        (None, "", "", "https://router.huggingface.co"),
    ],
    ids=["website", "nothing", "moved", "wrong-path", "nobody"],
)
def test_a_base_url_at_which_no_model_s_server_is(settings, kind, path, words, instead):
    with nullcontext(free_port()) if kind is None else elsewhere(kind=kind) as port:
        origin = f"http://127.0.0.1:{port}"
        found = examined(replace(settings, huggingface_base_url=origin + path))
    assert wrong(found) == {"upstream"} and "token" not in found
    assert found["models"].ok is None
    assert words in found["upstream"].message
    assert found["upstream"].fix == f".env: HUGGINGFACE_BASE_URL={instead.format(origin=origin)}"


def of_upstream(settings, url):
    return examined(replace(settings, huggingface_base_url=url), calls=False)["upstream"]


def of_gateway(settings, url):
    return examined(settings, url, calls=False)["gateway"]


BY_TLS = {
    "upstream": (of_upstream, ".env: HUGGINGFACE_BASE_URL="),
    "gateway": (of_gateway, "flask --app wsgi doctor --url "),
}


@pytest.mark.parametrize("found_of, use", BY_TLS.values(), ids=BY_TLS)
def test_tls_that_is_not_as_it_must_be_is_named_with_the_url_to_use(settings, tmp_path, monkeypatch, found_of, use):
    certificate = certificate_in(tmp_path)
    with elsewhere(certificate) as port:
        unknown = found_of(settings, f"https://localhost:{port}")
        plain = found_of(settings, f"http://localhost:{port}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        known = found_of(settings, f"https://localhost:{port}")
    with elsewhere() as other_port:
        no_tls = found_of(settings, f"https://localhost:{other_port}")
    assert "authority" in unknown.message and "REQUESTS_CA_BUNDLE=" in unknown.fix
    assert "speaks TLS" in plain.message and plain.fix.startswith(f"{use}https://localhost:")
    assert "authority" not in known.message and known.ok is (found_of is of_upstream)
    assert "plain http" in no_tls.message and no_tls.fix == f"{use}http://localhost:{other_port}"


@pytest.mark.parametrize("language", languages.LANGUAGES)
@pytest.mark.parametrize(
    "words, headers",
    [("Access to model test/ok is restricted.", {}), ("You shall not pass.", {"X-Error-Code": "GatedRepo"})],
)
def test_a_gated_model_says_where_its_conditions_are(settings, upstream, words, headers, language):
    context = copy_context()
    context.run(languages.use, language)
    upstream.behave("test/ok", lambda x: x.send_json(403, {"error": words}, headers))
    found = context.run(examined, settings)
    assert found["token"].ok
    assert found["model test/ok"].fix.endswith("https://huggingface.co/test/ok")


NEW_TOKEN = ".env: HUGGINGFACE_API_KEY=hf_…"


@pytest.mark.parametrize(
    "token, line",
    [
        *((token, NEW_TOKEN) for token in ("hf_wrong", None, "hf_noperm")),
        ("hf_broke", "add credit at https://huggingface.co/settings/billing"),
        ("hf_right", ""),
    ],
)
def test_a_token_is_accepted_or_refused_at_once(settings, token, line):
    with Upstream(token="hf_right") as strict:
        strict.behave(FIRST, "ok")
        found = examined(replace(settings, huggingface_api_key=token, huggingface_base_url=strict.url))
        assert wrong(found) == ({"token"} if line else set())
        assert found["token"].fix == line
        assert found["upstream"].ok
        assert len(strict.posts) == 1 or not line, "what is refused is not tried again"
        [listing, *_] = [call for call in strict.calls if call.method == "GET"]
        assert "authorization" not in listing.headers, "for the clock no token is needed"


@pytest.mark.parametrize(
    "slugs, ok",
    [
        (["gated"], True),  # the model asked cannot answer: the token is as good
        (["not-found"], True),
        (["loading"], True),
        (["provider-429"], True),
        (["bad-gateway"], None),  # what fails says nothing of it
        (["bad-gateway", None], True),  # another model does
    ],
    ids=str,
)
def test_what_a_models_answer_says_of_the_token(settings, upstream, monkeypatch, slugs, ok):
    monkeypatch.setattr("chatapi.operations.doctor.upstream.TRIED", len(slugs))
    for model, slug in zip((FIRST, "aaa/second"), slugs, strict=False):
        upstream.behave(model, f"err-{slug}" if slug else "ok")
    assert examined(settings)["token"].ok is ok


def test_the_engine_on_this_machine_is_asked_once(settings, upstream):
    upstream.behave(MODEL_ID, "ok")
    given = replace(settings, huggingface_api_key=None, huggingface_base_url=None, embedded_url=upstream.url)
    found = examined(replace(given, default_model="microsoft/DialoGPT-medium"))
    assert wrong(found) == set()
    assert found["token"].ok
    assert [call.body["model"] for call in upstream.posts] == [MODEL_ID]


def test_no_token_for_the_router(settings):
    with parts_of(replace(settings, huggingface_api_key=None, huggingface_base_url=None)) as parts:
        [finding] = Asked(parts).check_token()
    assert (finding.ok, finding.fix) == (False, NEW_TOKEN)


def test_a_token_that_the_upstream_repeats_is_not_shown(settings, upstream):
    upstream.behave("test/ok", lambda x: x.send_json(400, {"error": f"I do not like {TOKEN}"}))
    found = examined(settings)
    assert "I do not like ***" in found["model test/ok"].message


MODELS = [
    ("err-not-found", False, 'serve_as = "', "model_not_found"),
    ("err-bad-token", False, ".env: HUGGINGFACE_API_KEY=hf_…", "upstream_auth"),
    ("err-depleted", False, "add credit", "upstream_quota"),
    ("err-not-a-chat-model", False, "serve_as", "model_not_found"),
    ("err-validation", False, 'task = "text-generation"', "upstream_rejected"),
    ("err-unknown-error", False, "fallbacks = [", "upstream_unavailable"),
    ("silent", False, "fallbacks = [", "upstream_timeout"),
    ("err-loading", None, "", "model_loading"),
]


def test_each_model_of_the_catalogue(settings, upstream, monkeypatch):
    monkeypatch.setattr("chatapi.operations.doctor.upstream.MODEL_S", 2)
    upstream.behave("microsoft/DialoGPT-medium", "err-provider-unsupported")
    own = entry("own/away", 'task = "chat-completion"', f'url = "http://127.0.0.1:{free_port()}"')
    lines = [entry(f"test/{name}", 'task = "chat-completion"') for name, *_ in MODELS]
    settings.catalogue.write_text("\n".join([entry("test/ok", 'task = "chat-completion"'), own, *lines]))
    began = time.monotonic()
    found = examined(settings)
    assert time.monotonic() - began < 10, "they are asked side by side"
    for name, ok, line, code in MODELS:
        finding = found[f"model test/{name}"]
        assert finding.ok is ok, finding
        assert finding.message.startswith(code), finding
        assert line in finding.fix
        if "hf_" not in finding.fix and "credit" not in finding.fix and ok is False:
            assert finding.fix.startswith(f'{settings.catalogue}: [models."test/{name}"]\n')
    assert found["model own/away"].fix.endswith('task = "chat-completion"\nurl = "https://…"')
    assert found["model test/ok"].ok
    assert found["model microsoft/DialoGPT-medium"].ok is None, "shipped, not served, and nobody's default"
    assert all(call.body["max_tokens"] == 1 for call in upstream.calls_for("test/ok"))


WORDS = [f" {word}," for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")]


def counting(x):
    """A server that is asked to count: told to, it goes on from the beginning that it is given; else it begins anew."""
    last, told = x.body["messages"][-1], x.body.get("continue_final_message")
    say(x, WORDS[last["content"].count(",") :] if last["role"] == "assistant" and told else WORDS)


def refusing(x):
    """A server that wants the last message to be a user's."""
    say(x) if x.body["messages"][-1]["role"] == "user" else ERRORS["validation"].send(x)


# What an entry says besides, how its server answers, and what is found.
CONTINUATIONS = {
    "told": ("", counting, True, "goes on"),
    "told-otherwise": ("prefill_with = {}", counting, False, "begins anew"),
    "refusing": ("", refusing, False, "not where the beginning"),
    "unclear": ("", say, None, "could not be told"),
}


def test_a_model_that_is_said_to_continue_does(settings, upstream):
    entries = [entry("test/ok", 'task = "chat-completion"')]
    for name, (line, behaviour, *_) in CONTINUATIONS.items():
        upstream.behave(f"goes/{name}", behaviour)
        at = f'url = "{upstream.url}/at/goes/{name}"'
        entries.append(entry(f"goes/{name}", 'task = "chat-completion"', "prefill = true", at, line))
    settings.catalogue.write_text("\n".join(entries))
    found = examined(settings)
    for name, (_line, _behaviour, ok, words) in CONTINUATIONS.items():
        finding = found[f"model goes/{name}"]
        assert finding.ok is ok, finding
        assert words in finding.message
        assert ("prefill = false" in finding.fix) is (ok is not True)


def test_the_default_model_has_to_be_served(settings, upstream):
    upstream.behave("microsoft/DialoGPT-medium", "err-provider-unsupported")
    found = examined(replace(settings, default_model="microsoft/DialoGPT-medium", catalogue=None))
    assert wrong(found) == {"model microsoft/DialoGPT-medium"}
    assert "serve_as" in found["model microsoft/DialoGPT-medium"].fix


def test_a_model_that_is_gone_gets_successors_with_what_they_cost(settings, upstream):
    upstream.behave("test/err-not-found", "err-not-found")
    settings.catalogue.write_text(
        entry("test/ok", 'task = "chat-completion"', "shutdown_date = 2027-06-30")
        + entry("test/err-not-found", 'task = "chat-completion"')
        + entry("test/moved", 'serve_as = "test/ok"', "shutdown_date = 2027-06-30")
    )
    found = examined(settings, only="models")
    assert {name.split()[0] for name in found} <= {"upstream", "clock", "token", "model"}
    gone = found["model test/err-not-found"]
    head, best, *others = gone.fix.splitlines()
    assert head.endswith('[models."test/err-not-found"]')
    assert best.startswith('serve_as = "test/') and "per million tokens" in best and "tokens of context" in best
    assert len(others) == 2 and all(line.startswith('# serve_as = "test/') for line in others)
    assert tomllib.loads(best)["serve_as"] in best
    going = found["model test/ok"]
    assert going.ok is None and "2027-06-30" in going.message and "serve_as" in going.fix
    assert found["model test/moved"].ok is True


def test_without_calls_no_model_is_asked(settings, upstream):
    found = examined(settings, calls=False)
    assert found["token"].ok is None
    assert [call.method for call in upstream.calls] == ["GET"]


# ---------------------------------------------------------------- the machine


@pytest.fixture
def machine(settings, tmp_path, monkeypatch):
    """What is changed of a machine on which all is well: each method gives the settings then."""
    return Changes(settings, tmp_path, monkeypatch)


class Changes(NamedTuple):
    settings: Settings
    home: Path
    monkeypatch: pytest.MonkeyPatch

    def of_the_store(self, change=lambda tx: None):
        """With a database of ours, in which this was done."""
        with parts_of(self.settings) as parts:
            parts.store.write(change)
        return self.settings

    def schema(self, number):
        return self.of_the_store(lambda tx: statements.put_meta(tx, "schema", number))

    def open_call(self):
        row = {column.name: None for column in tables.calls.columns}
        row |= {"id": 1, "request_id": "r", "started_at": time.time() - 600, "until": time.time() - 480, "owner": "x"}
        row |= {"dialect": "openai", "route": "/v1/chat/completions", "stream": False, "attempts": 0}
        return self.of_the_store(lambda tx: statements.record(tx, [row]))

    def full_disk(self):
        self.of_the_store()
        for room in (store, doctor.machine):
            self.monkeypatch.setattr(room, "LEAST_FREE", 10**18)
        return self.settings

    def file(self, content):
        file = self.home / "chatapi.db"
        file.write_bytes(content)
        file.chmod(0o600)
        return self.settings

    def somebody_elses(self):
        with closing(sqlite3.connect(self.home / "chatapi.db")) as connection:
            connection.execute("CREATE TABLE theirs (a)")
        (self.home / "chatapi.db").chmod(0o600)
        return self.settings

    def a_folder(self):
        (self.home / "folder.db").mkdir(mode=0o755)
        return replace(self.settings, database_url=f"sqlite:///{self.home}/folder.db")

    def writable(self):
        self.of_the_store()
        (self.home / "chatapi.db").chmod(0o666)
        return self.settings

    def gunicorn(self, text):
        self.monkeypatch.chdir(self.home)
        (self.home / "gunicorn.conf.py").write_text(text)
        return self.settings

    def broken_check(self):
        def fail(self):
            raise RuntimeError("of no kind that was thought of")

        self.monkeypatch.setattr(Machine, "check_redis", fail)
        return self.settings


# Name: (what is changed, what is wrong then, how the line begins, words of the message)
WRONG = {
    "a file of garbage": (
        lambda m: m.file(b"This is no database at all. " * 200), "database", "mv {db} {db}.other", ""
    ),
    "somebody else's database": (Changes.somebody_elses, "database", ".env: DATABASE_URL", ""),
    "a folder in its place": (Changes.a_folder, "database", "", ""),
    "a disk without room": (Changes.full_disk, "database", "df -h {home}", "the disk is full"),
    "an older schema": (lambda m: m.schema("-1"), "schema", "flask --app wsgi db upgrade", ""),
    "a newer schema": (lambda m: m.schema("99"), "schema", "", "newer"),
    "a database that everybody may write": (Changes.writable, "permissions", "chmod o= {db}", ""),
    "a call that nobody has closed": (Changes.open_call, "open calls", "", "1 are open"),
    "workers of another class": (
        lambda m: m.gunicorn("worker_class = 'sync'\n"), "gunicorn",
        'gunicorn.conf.py: worker_class = "chatapi.operations.worker.Worker"', "",
    ),
    "a configuration that cannot be read": (
        lambda m: m.gunicorn("import nothing_of_that_name\n"), "gunicorn", "", "ModuleNotFoundError"
    ),
    "a check that fails itself": (Changes.broken_check, "redis", "", "RuntimeError"),
}  # fmt: skip


@pytest.mark.parametrize("change, what, line, words", WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_the_machine_is_found_and_nothing_else(machine, change, what, line, words):
    found = examined(change(machine), calls=False, upgrade=False)
    assert wrong(found) == {what}
    assert found[what].fix.startswith(line.format(home=machine.home, db=machine.home / "chatapi.db"))
    assert words in found[what].message


@pytest.mark.parametrize("off_s, way", [(3600, "slow"), (-60, "fast")])
def test_a_clock_that_is_off(settings, off_s, way):
    with elsewhere(kind="v1", off_s=off_s) as port:
        found = examined(replace(settings, huggingface_base_url=f"http://127.0.0.1:{port}"), calls=False)
    assert wrong(found) == {"clock"}
    assert way in found["clock"].message
    assert found["clock"].fix == "timedatectl set-ntp true"


def test_what_is_not_there_is_not_made_and_not_wrong(settings, tmp_path, monkeypatch):
    assert examined(settings, calls=False, upgrade=False)["gunicorn"].ok
    monkeypatch.chdir(tmp_path)
    found = examined(settings, calls=False, upgrade=False)
    assert (found["database"].ok, found["database"].fix) == (None, "flask --app wsgi db upgrade")
    assert not (tmp_path / "chatapi.db").exists()
    assert found["gunicorn"].ok is None


def test_postgresql(settings):
    with postgres() as server:
        url = server.url
        found = examined(replace(settings, database_url=url), calls=False)
    assert wrong(found) == set()
    assert found["database"].ok and found["schema"].ok
    away = examined(replace(settings, database_url=url), calls=False, upgrade=False)
    assert wrong(away) == {"database"}
    assert away["database"].fix.startswith("systemctl start postgresql")
    assert ENV_LINE + "DATABASE_URL=" in away["database"].fix


def test_redis(settings):
    with redis() as server:
        given = replace(settings, redis_url=server.url)
        assert examined(given, calls=False)["redis"].ok
        with redis_client.Redis.from_url(server.url) as connection:
            connection.config_set("maxmemory", "50mb")
            connection.config_set("maxmemory-policy", "allkeys-lru")
        found = examined(given, calls=False)
        assert wrong(found) == {"redis"}
        assert found["redis"].fix == "redis.conf: maxmemory-policy noeviction"
        server.stop()
        found = examined(given, calls=False)
    assert wrong(found) == {"redis"}
    assert found["redis"].fix.startswith(ENV_LINE + "REDIS_URL=")


@pytest.mark.parametrize("limit, enough", [(1024, False), (4200, True)])
def test_open_files(settings, limit, enough):
    with parts_of(settings) as parts:
        looked_at = Machine(parts)
        list(looked_at.check_gunicorn())
        [finding] = looked_at.check_open_files(limit)
    assert finding.ok is enough
    assert ("LimitNOFILE=65536" in finding.fix) is not enough


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


# ---------------------------------------------------------------- the command


def ended(folder, *words, **env):
    """The command's status and what it said."""
    done = flask(folder, "doctor", *words, **env)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def test_the_command(settings, tmp_path):
    env = {"HUGGINGFACE_API_KEY": TOKEN, "HUGGINGFACE_BASE_URL": settings.base_url}
    env |= {"CHATAPI_CATALOGUE": str(settings.catalogue), "CHATAPI_DEFAULT_MODEL": "test/ok"}
    status, said = ended(tmp_path, "--json", **env)
    found = json.loads(said)
    assert status == 0, said
    assert all(set(finding) == {"name", "ok", "message", "fix"} for finding in found)
    assert {"settings", "token", "gateway", "model test/ok"} <= {finding["name"] for finding in found}
    assert TOKEN not in said


def test_the_command_for_people(settings):
    runner = create_app(settings).test_cli_runner()
    ended = runner.invoke(args=["doctor"])
    assert ended.exit_code == 0
    assert "ok     token: is accepted\n" in ended.output
    broken = create_app(replace(settings, huggingface_base_url=f"http://127.0.0.1:{free_port()}"))
    ended = broken.test_cli_runner().invoke(args=["doctor", "--no-calls"])
    assert ended.exit_code == 1
    assert "WRONG  upstream: " in ended.output
    assert "\n       .env: HUGGINGFACE_BASE_URL=https://router.huggingface.co\n" in ended.output


def test_settings_that_cannot_be_used_are_findings(tmp_path):
    wrong = {"CHATAPI_KEYS": "secret-key", "CHATAPI_AUTH": "yes", "DATABASE_URL": "mysql://u:pass@host/x"}
    status, said = ended(tmp_path, "--json", **wrong)
    assert status == 1
    assert [finding["fix"] for finding in json.loads(said)] == [f".env: {name}=…" for name in wrong]
    assert "secret-key" not in said and "pass@" not in said


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """What Flask's own command line makes of some words, with this environment."""

    def type_in(*words, **env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(FlaskGroup(create_app=create_app), words)

    for name in FIELDS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return type_in


def test_a_catalogue_that_cannot_be_used_is_a_finding(typed, tmp_path):
    (tmp_path / "c.toml").write_text('[models."acme/x"]\ntask = "poetry"\n')
    ended = typed("doctor", CHATAPI_CATALOGUE=str(tmp_path / "c.toml"))
    assert ended.exit_code == 1
    assert ended.output.startswith("WRONG  catalogue: c.toml: ")
    assert 'c.toml: [models."acme/x"]' in ended.output
    (tmp_path / "c.toml").write_text("no TOML")
    assert "WRONG  settings: " in typed("doctor").output


def test_with_such_settings_the_other_commands_fail_in_one_line(typed):
    for words in (["keys", "list"], ["db", "upgrade"], ["usage", "report"], ["keys", "create", "--name", "x"], ["run"]):
        ended = typed(*words, CHATAPI_AUTH="yes", CHATAPI_MAX_TIME="0")
        assert ended.exit_code == 1
        assert ended.output.startswith("Error: these settings cannot be used: CHATAPI_AUTH='yes': ")
        assert "CHATAPI_MAX_TIME" in ended.output
        assert ended.output.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["--url", "chat.example.com"], ["--url", "https://u:pass@x.test"], ["--key", "secret\u00e9"]]
)
def test_an_option_that_cannot_be_used(settings, words):
    ended = create_app(settings).test_cli_runner().invoke(args=["doctor", *words])
    assert ended.exit_code == 2
    assert "must be" in ended.output
    assert "pass@" not in ended.output and "secret" not in ended.output
