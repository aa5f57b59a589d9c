"""The doctor: everything that can be wrong is made wrong, for real, and must be told with the line that mends it."""

import json
import sqlite3
import time
import tomllib
from contextlib import closing, nullcontext
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import redis as redis_client
from click.testing import CliRunner
from flask.cli import FlaskGroup
from support import doctor as shared
from support.doctor import ENV_LINE, FIRST, elsewhere, examined, parts_of, wrong
from support.fronts import certificate_in
from support.gateways import TOKEN, entry, flask, free_port
from support.servers import postgres, redis
from support.upstream import ERRORS, Upstream, say

from chatapi import create_app, languages
from chatapi.accounting import statements, store, tables
from chatapi.embedded import MODEL_ID
from chatapi.operations import doctor
from chatapi.operations.doctor.machine import Machine
from chatapi.operations.doctor.upstream import Upstream as Asked
from chatapi.settings import FIELDS, Settings

# Under these names tests ask for them.
settings, nobody_at_the_default_url = shared.settings, shared.nobody_at_the_default_url

# ---------------------------------------------------------------- the upstream, the token, the models


def test_all_is_well(settings):
    found = examined(settings)
    assert wrong(found) == set()
    for name in ("settings", "database", "schema", "permissions", "upstream", "token", "model test/ok", "clock"):
        assert found[name].ok, found[name]


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
