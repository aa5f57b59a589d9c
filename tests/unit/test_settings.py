"""The environment → Settings: every setting, and every mistake at once."""

import os
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from support.tables import raised, rows

from chatapi import settings
from chatapi.caller import Limits
from chatapi.languages import current
from chatapi.settings import FIELDS, ROUTER_URL, HubModel, Settings, SettingsError, find_misspelt

EXAMPLE = Path(__file__).parents[2] / ".env.example"
INTERNAL = {"CHATAPI_EMBEDDED_URL", "CHATAPI_EMBEDDED_TOOLS"}  # set by the starter, never by people
DIGEST = "5E884898DA28047151D0E56F8DC6292773603D0D6AABBDD62A11EF721D1542D8"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty directory, and an environment without any setting of ours. Gives a setter for variables."""
    monkeypatch.chdir(tmp_path)
    for name in FIELDS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def mistakes_of(environ):
    return raised(SettingsError, Settings.from_env, environ)


# --- values


def test_the_defaults_are_the_contracts():
    given = Settings.from_env({})
    assert given.base_url == ROUTER_URL == "https://router.huggingface.co"
    assert given.default_model == "microsoft/DialoGPT-medium"
    assert (given.auth, given.log_level, given.max_body) == ("auto", "info", 20971520)
    assert (given.keys, given.cors_origins) == (frozenset(), frozenset())
    assert (given.max_time_s, given.reply_timeout_s, given.first_token_timeout_s) == (120, 45, 10)
    assert (given.idle_timeout_s, given.heartbeat_s) == (15, 15)
    unset = ("huggingface_api_key", "huggingface_base_url", "catalogue", "legacy_sunset", "embedded_model")
    assert [getattr(given, name) for name in unset] == [None] * len(unset)


BASE_URLS = {"https://x.test/team/v1": "https://x.test/team", "https://x.test/v10": "https://x.test/v10"}
BASE_URLS |= {f"http://x.test{path}": "http://x.test" for path in ("", "/", "/v1", "/v1/")}
QWEN = HubModel("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "Q4_K_M")
POSTGRES = "postgresql+psycopg://u:p@h/db"
PARSED = {  # setting → its words → their value
    "HUGGINGFACE_API_KEY": {"hf_abc": "hf_abc", "  hf_abc\n": "hf_abc"},
    "HUGGINGFACE_BASE_URL": BASE_URLS,
    "CHATAPI_CATALOGUE": {__file__: Path(__file__)},
    "CHATAPI_DEFAULT_MODEL": {"a/b:c": "a/b:c"},
    "CHATAPI_AUTH": {"required": "required", "OFF": "off"},
    "CHATAPI_KEYS": {DIGEST: {DIGEST.lower()}, f"{DIGEST}, {'0' * 64}": {DIGEST.lower(), "0" * 64}},
    "CHATAPI_ANONYMOUS_LIMITS": {
        "rpm=5 tpm=100": Limits(rpm=5, tpm=100),
        "rpm=5,shadow=rpm": Limits(rpm=5, shadow=("rpm",)),
    },
    "CHATAPI_TRUSTED_PROXIES": {"2": 2, "10": 10},
    "DATABASE_URL": {
        "sqlite:////var/lib/chatapi/x.db": "sqlite:////var/lib/chatapi/x.db",
        "postgres://u:p@h/db": POSTGRES,
        POSTGRES: POSTGRES,
    },
    "REDIS_URL": {"redis://h:6379/0": "redis://h:6379/0"},
    "HF_HOME": {"/models": Path("/models")},
    "CHATAPI_MAX_TIME": {"60": 60},
    "CHATAPI_REPLY_TIMEOUT": {"0.5": 0.5},
    "CHATAPI_FIRST_TOKEN_TIMEOUT": {"2.5": 2.5},
    "CHATAPI_IDLE_TIMEOUT": {"7": 7},
    "CHATAPI_HEARTBEAT": {"1": 1},
    "CHATAPI_MAX_BODY": {"1048576": 1048576},
    "CHATAPI_LEGACY_SUNSET": {"2027-06-30": 1814313600.0},
    "CHATAPI_LANGUAGE": {"pt-br": "pt-BR"},
    "CHATAPI_CORS_ORIGINS": {
        "https://a.test": {"https://a.test"},
        "https://a.test, http://localhost:3000": {"https://a.test", "http://localhost:3000"},
        "https://App.Test": {"https://app.test"},
    },
    "CHATAPI_LOG_LEVEL": {"Debug": "debug"},
    "CHATAPI_EMBEDDED_URL": {"http://127.0.0.1:9": "http://127.0.0.1:9"},
    "CHATAPI_EMBEDDED_TOOLS": {"yes": True},
    "CHATAPI_EMBEDDED_MODEL": {
        __file__: Path(__file__),
        "acme/x": HubModel("acme/x", ""),
        **{f"{at}{QWEN}": QWEN for at in ("", "https://huggingface.co/", "hf.co/")},
        "acme/x:q4/x-00001-of-00002.gguf": HubModel("acme/x", "q4/x-00001-of-00002.gguf"),
    },
}


@pytest.mark.parametrize("name, text, value", [(n, *row) for n, values in PARSED.items() for row in values.items()])
def test_a_setting_is_parsed(name, text, value):
    assert Settings.from_env({name: text}) == Settings(**{FIELDS[name]: value}), "and nothing else changes"


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_value_means_not_set(name, text):
    assert Settings.from_env({name: text}) == Settings()


def test_every_field_has_a_name_in_the_environment():
    assert list(FIELDS.values()) == [f.name for f in fields(Settings)]


def test_the_embedded_engine_is_for_machines_that_reach_nothing_else():
    for environ in ({"HUGGINGFACE_API_KEY": "hf_x"}, {"HUGGINGFACE_BASE_URL": "http://x.test"}):
        assert not Settings.from_env(environ).wants_embedded
    assert Settings().wants_embedded


# --- mistakes

MISTAKES = {
    "HUGGINGFACE_API_KEY": ["hf_a b", "hf_é", "hf_a\r\nX-Evil: 1"],
    "HUGGINGFACE_BASE_URL": [
        *("router.huggingface.co", "ftp://x.test", "https://", "https:///v1", "https://x.test?a=1", "https://x.test#a"),
        *("https://user:word@x.test", "http://[::1", "http://x.test:port", "http://x.test:99999", "http://x y.test"),
    ],
    "CHATAPI_CATALOGUE": ["/no/such/file.toml", "/"],
    "CHATAPI_DEFAULT_MODEL": ["no model", "../x", "a/b/c", "a/b?c"],
    "CHATAPI_AUTH": ["maybe", "true"],
    "CHATAPI_KEYS": ["not-a-digest", "0" * 63, f"{'0' * 64},{'g' * 64}"],
    "CHATAPI_ANONYMOUS_LIMITS": ["rpm", "rpm=0", "rps=5", "shadow=rps"],
    "CHATAPI_TRUSTED_PROXIES": ["-1", "many"],
    "DATABASE_URL": ["mysql://u:p@h/db", "sqlite://", "sqlite:///", "chatapi.db", "postgresql://u:p@h:port/db"],
    "REDIS_URL": ["http://h", "redis://h:port"],
    "CHATAPI_MAX_TIME": ["0", "-1", "nan", "inf", "2m"],
    "CHATAPI_REPLY_TIMEOUT": ["soon"],
    "CHATAPI_FIRST_TOKEN_TIMEOUT": ["0"],
    "CHATAPI_IDLE_TIMEOUT": ["1e9"],
    "CHATAPI_HEARTBEAT": ["0"],
    "CHATAPI_MAX_BODY": ["20MB", "-1", "0", "1e6"],
    "CHATAPI_LANGUAGE": ["fr"],
    "CHATAPI_LEGACY_SUNSET": ["30/06/2027", "2027-02-30"],
    "CHATAPI_CORS_ORIGINS": [
        *("*", "app.example", "https://app.example/path", "https://app.example, null", "http://[::1"),
    ],
    "CHATAPI_LOG_LEVEL": ["loud"],
    "CHATAPI_EMBEDDED_URL": ["here"],
    "CHATAPI_EMBEDDED_MODEL": [
        *("/no/such/model.gguf", "models/x.gguf", "model", "a/b/c", "../x", "a/b:c:d", "a /b"),
    ],
}


@pytest.mark.parametrize("text, name", rows(MISTAKES))
def test_a_mistake_is_named_with_what_it_must_be(name, text):
    error = mistakes_of({name: text})
    assert len(error.mistakes) == 1
    assert error.mistakes[0].startswith(name)
    assert name in str(error)


FIRST, SECOND = "2027-06-02T12:00Z/PT1H", "2027-06-29T12:00Z/PT12H"


def test_brownouts_are_read_beside_their_sunset():
    given = {"CHATAPI_LEGACY_SUNSET": "2027-06-30", "CHATAPI_LEGACY_BROWNOUTS": f"{FIRST}\n{SECOND}"}
    read = Settings.from_env(given).legacy_brownouts
    assert read == ((1811937600.0, 1811941200.0), (1814270400.0, 1814313600.0))


SCHEDULES = [
    ("", FIRST, ["needs CHATAPI_LEGACY_SUNSET"]),
    ("2027-06-01", FIRST, [f"{FIRST}: must end by 2027-06-01"]),
    ("2027-06-30", "June 2027-06-02T12:00Z/PT0S", ["June: must be", "2027-06-02T12:00Z/PT0S: must last"]),
    *(("June", f"{FIRST} July", ["must be a date", "July: must be"]), ("June", FIRST, ["must be a date"])),
]


@pytest.mark.parametrize("sunset, brownouts, mistakes", SCHEDULES)
def test_each_mistake_in_a_schedule_names_its_window(sunset, brownouts, mistakes):
    given = {"CHATAPI_AUTH": "maybe", "CHATAPI_LEGACY_SUNSET": sunset, "CHATAPI_LEGACY_BROWNOUTS": brownouts}
    found = mistakes_of(given).mistakes[1:]
    assert all(words in line for line, words in zip(found, mistakes, strict=True))


LOCALES = {
    "must be one of": [{}, {"CHATAPI_LANGUAGE": "pt-BR", "LC_ALL": "en_GB"}, {"CHATAPI_LANGUAGE": "fr", "LANG": "C"}],
    "deve ser um destes": [
        *({"LANG": "pt_BR.UTF-8"}, {"CHATAPI_LANGUAGE": "pt-BR"}, {"CHATAPI_LANGUAGE": "pt-BR", "LC_ALL": "C"}),
    ],
}


@pytest.mark.parametrize("environ, words", rows(LOCALES), ids=str)
def test_mistakes_are_told_in_the_language_of_the_locale(environ, words):
    error = mistakes_of({"CHATAPI_AUTH": "maybe", **environ})
    assert all(words in line for line in error.mistakes)
    assert current() == "en", "and nothing else is"


MISSPELT = {
    "CHATAPI_MAXTIME": "did you mean CHATAPI_MAX_TIME?",
    "HUGGINGFACE_API_TOKEN": "did you mean HUGGINGFACE_API_KEY?",
    "CHATAPI_ZZZZZZ": "there is no setting CHATAPI_ZZZZZZ",
}


@pytest.mark.parametrize("name, told", MISSPELT.items())
def test_a_misspelt_setting_is_told(monkeypatch, name, told):
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CHATAPI_API_KEY", "a caller's")
    [text] = find_misspelt()
    assert name in text and told in text


def test_all_mistakes_are_reported_together():
    environ = {name: texts[0] for name, texts in reversed(MISTAKES.items())}
    error = mistakes_of(environ)
    assert [line.partition("=")[0] for line in error.mistakes] == [n for n in FIELDS if n in environ]
    assert all(name in str(error) for name in environ)


# --- secrets


SECRETS = {
    "HUGGINGFACE_API_KEY": ["hf_secret word", "hf_secret\nword"],
    "CHATAPI_KEYS": ["secret"],
    "HF_TOKEN": ["hf_secret word"],
    "HF_ENDPOINT": ["https://user:secret@x.test"],
    "OTEL_EXPORTER_OTLP_ENDPOINT": ["https://x.test/?token=secret"],
    "REDIS_URL": ["http://:secret@x.test"],
    "HUGGINGFACE_BASE_URL": [
        *("https://user:secret@x.test", "https://hf_secret@x.test/v1", "https://x.test/?token=secret"),
    ],
}


@pytest.mark.parametrize("text, name", rows(SECRETS))
def test_no_secret_is_in_the_text_of_a_mistake(name, text):
    error = mistakes_of({name: text})
    assert "secret" not in str(error) + repr(error)


def test_every_secret_setting_that_is_no_url_is_hidden_in_its_mistake():
    shown = {name: settings._shown(name, "secret") for name in FIELDS}
    assert {name for name, text in shown.items() if text == "…"} == settings._SECRETS - settings._URLS


def test_an_environment_with_nothing_in_it_is_one(monkeypatch):
    monkeypatch.setenv("CHATAPI_LOG_LEVEL", "debug")
    assert Settings.from_env({}).log_level == "info"
    assert Settings.from_env().log_level == "debug"


def test_no_secret_is_in_the_repr():
    words = {"HUGGINGFACE_API_KEY": "hf_secret", "HF_TOKEN": "hf_secret2", "REDIS_URL": "redis://u:secret3@r/0"}
    words |= {"DATABASE_URL": "postgresql://u:secret4@d/x", "CHATAPI_KEYS": DIGEST}
    given = Settings.from_env(words)
    for shown in (repr(given), str(given), f"{given}"):
        assert "secret" not in shown
        assert DIGEST.lower() not in shown.lower()
        assert "microsoft/DialoGPT-medium" in shown
    assert "huggingface_api_key=None" in repr(Settings()), "that none is set is no secret"


# --- .env and the process environment


def test_a_dotenv_file_is_read_and_the_real_environment_wins_over_it(machine):
    assert Settings.from_env() == Settings(), "there is neither"
    Path(".env").write_text("HUGGINGFACE_API_KEY=hf_file  # a comment\nCHATAPI_MAX_TIME='30'\n\nOTHER\n")
    before = dict(os.environ)
    given = Settings.from_env()
    assert (given.huggingface_api_key, given.max_time_s) == ("hf_file", 30)
    assert dict(os.environ) == before
    machine("HUGGINGFACE_API_KEY", "hf_env")
    given = Settings.from_env()
    assert (given.huggingface_api_key, given.max_time_s) == ("hf_env", 30)


def test_a_mistake_in_the_file_is_named_too_and_so_is_one_in_its_encoding(machine):
    Path(".env").write_text("CHATAPI_AUTH=maybe\nHUGGINGFACE_API_KEY=hf_file x\n")
    machine("CHATAPI_MAX_TIME", "soon")
    error = mistakes_of(None)
    assert (len(error.mistakes), "hf_file" in str(error)) == (3, False)
    Path(".env").write_bytes("# configuração\nCHATAPI_MAX_TIME=30\n".encode("latin-1"))
    assert ".env" in str(mistakes_of(None))


# --- .env.example

LINE = re.compile(r"^(#\s*)?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def shown_in_example():
    """(name, value, whether it is commented out) of each line that shows a setting."""
    return [(name, value.strip().strip("\"'"), bool(mark)) for mark, name, value in LINE.findall(EXAMPLE.read_text())]


def test_the_example_lists_every_setting_in_order():
    assert [name for name, _, _ in shown_in_example()] == [name for name in FIELDS if name not in INTERNAL]


def test_the_example_shows_the_true_defaults():
    true = {name: getattr(Settings(), field) for name, field in FIELDS.items()}
    true["HUGGINGFACE_BASE_URL"] = Settings().base_url
    for name, value, _ in shown_in_example():
        # A key's placeholder is no default, and what may hold nothing may show an example in a comment.
        if name == "HUGGINGFACE_API_KEY" or true[name] in (None, frozenset()):
            continue
        assert getattr(Settings.from_env({name: value}), FIELDS[name]) == true[name], name


def test_a_copy_of_the_example_changes_nothing():
    live = {name: value for name, value, comment in shown_in_example() if not comment}
    live.pop("HUGGINGFACE_API_KEY", None)
    given = Settings.from_env(live)
    assert replace(given, huggingface_base_url=None) == Settings()
    assert given.base_url == Settings().base_url
    assert given.wants_embedded, "`make run` without a token still starts the embedded engine"
