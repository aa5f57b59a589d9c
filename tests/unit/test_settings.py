"""The environment → Settings: every setting, and every mistake at once."""

import os
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from chatapi import create_app
from chatapi.caller import Limits
from chatapi.languages import current
from chatapi.settings import FIELDS, ROUTER_URL, HubModel, Settings, SettingsError, misspelt

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
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ)
    return caught.value


# --- values


def test_the_defaults_are_the_contracts():
    given = Settings.from_env({})
    assert given == Settings()
    assert given.huggingface_api_key is None
    assert given.huggingface_base_url is None
    assert given.base_url == ROUTER_URL == "https://router.huggingface.co"
    assert given.catalogue is None
    assert given.default_model == "microsoft/DialoGPT-medium"
    assert given.auth == "auto"
    assert given.keys == frozenset()
    assert (given.max_time_s, given.reply_timeout_s, given.first_token_timeout_s) == (120, 45, 10)
    assert (given.idle_timeout_s, given.heartbeat_s) == (15, 15)
    assert given.max_body == 20971520
    assert given.legacy_sunset is None
    assert given.cors_origins == frozenset()
    assert given.embedded_model is None
    assert given.log_level == "info"


@pytest.mark.parametrize(
    "name, text, field, value",
    [
        ("HUGGINGFACE_API_KEY", "hf_abc", "huggingface_api_key", "hf_abc"),
        ("HUGGINGFACE_API_KEY", "  hf_abc\n", "huggingface_api_key", "hf_abc"),
        ("HUGGINGFACE_BASE_URL", "http://127.0.0.1:8080", "huggingface_base_url", "http://127.0.0.1:8080"),
        ("HUGGINGFACE_BASE_URL", "http://x.test/", "huggingface_base_url", "http://x.test"),
        ("HUGGINGFACE_BASE_URL", "http://x.test/v1", "huggingface_base_url", "http://x.test"),
        ("HUGGINGFACE_BASE_URL", "http://x.test/v1/", "huggingface_base_url", "http://x.test"),
        ("HUGGINGFACE_BASE_URL", "https://x.test/team/v1", "huggingface_base_url", "https://x.test/team"),
        ("HUGGINGFACE_BASE_URL", "https://x.test/v10", "huggingface_base_url", "https://x.test/v10"),
        ("CHATAPI_CATALOGUE", __file__, "catalogue", Path(__file__)),
        ("CHATAPI_DEFAULT_MODEL", "a/b:c", "default_model", "a/b:c"),
        ("CHATAPI_AUTH", "required", "auth", "required"),
        ("CHATAPI_AUTH", "OFF", "auth", "off"),
        ("CHATAPI_KEYS", DIGEST, "keys", frozenset({DIGEST.lower()})),
        ("CHATAPI_KEYS", f"{DIGEST}, {'0' * 64}", "keys", frozenset({DIGEST.lower(), "0" * 64})),
        ("CHATAPI_ANONYMOUS_LIMITS", "rpm=5 tpm=100", "anonymous_limits", Limits(rpm=5, tpm=100)),
        ("CHATAPI_ANONYMOUS_LIMITS", "rpm=5,shadow=rpm", "anonymous_limits", Limits(rpm=5, shadow=("rpm",))),
        ("CHATAPI_TRUSTED_PROXIES", "2", "trusted_proxies", 2),
        ("CHATAPI_TRUSTED_PROXIES", "10", "trusted_proxies", 10),
        ("DATABASE_URL", "sqlite:////var/lib/chatapi/x.db", "database_url", "sqlite:////var/lib/chatapi/x.db"),
        ("DATABASE_URL", "postgres://u:p@h/db", "database_url", "postgresql+psycopg://u:p@h/db"),
        ("DATABASE_URL", "postgresql+psycopg://u:p@h/db", "database_url", "postgresql+psycopg://u:p@h/db"),
        ("REDIS_URL", "redis://h:6379/0", "redis_url", "redis://h:6379/0"),
        ("HF_HOME", "/models", "hf_home", Path("/models")),
        ("CHATAPI_MAX_TIME", "60", "max_time_s", 60),
        ("CHATAPI_REPLY_TIMEOUT", "0.5", "reply_timeout_s", 0.5),
        ("CHATAPI_FIRST_TOKEN_TIMEOUT", "2.5", "first_token_timeout_s", 2.5),
        ("CHATAPI_IDLE_TIMEOUT", "7", "idle_timeout_s", 7),
        ("CHATAPI_HEARTBEAT", "1", "heartbeat_s", 1),
        ("CHATAPI_MAX_BODY", "1048576", "max_body", 1048576),
        ("CHATAPI_LEGACY_SUNSET", "2027-06-30", "legacy_sunset", 1814313600.0),
        ("CHATAPI_LANGUAGE", "pt-br", "language", "pt-BR"),
        ("CHATAPI_CORS_ORIGINS", "https://a.test", "cors_origins", frozenset({"https://a.test"})),
        (
            "CHATAPI_CORS_ORIGINS",
            "https://a.test, http://localhost:3000",
            "cors_origins",
            frozenset({"https://a.test", "http://localhost:3000"}),
        ),
        ("CHATAPI_CORS_ORIGINS", "https://App.Test", "cors_origins", frozenset({"https://app.test"})),
        ("CHATAPI_LOG_LEVEL", "Debug", "log_level", "debug"),
        ("CHATAPI_EMBEDDED_URL", "http://127.0.0.1:9", "embedded_url", "http://127.0.0.1:9"),
        ("CHATAPI_EMBEDDED_TOOLS", "yes", "embedded_tools", True),
    ],
)
def test_a_setting_is_parsed(name, text, field, value):
    parsed = Settings.from_env({name: text})
    assert parsed == Settings(**{field: value}), "and nothing else changes"


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_value_means_not_set(name, text):
    assert Settings.from_env({name: text}) == Settings()


def test_every_field_has_a_name_in_the_environment():
    assert list(FIELDS.values()) == [f.name for f in fields(Settings)]


@pytest.mark.parametrize(
    "environ, wanted",
    [
        ({}, True),
        ({"HUGGINGFACE_API_KEY": "hf_x"}, False),
        ({"HUGGINGFACE_BASE_URL": "http://x.test"}, False),
        ({"HUGGINGFACE_API_KEY": ""}, True),
    ],
)
def test_the_embedded_engine_is_for_machines_that_reach_nothing_else(environ, wanted):
    assert Settings.from_env(environ).wants_embedded is wanted


# --- mistakes

MISTAKES = [
    ("HUGGINGFACE_API_KEY", "hf_a b"),
    ("HUGGINGFACE_API_KEY", "hf_é"),
    ("HUGGINGFACE_API_KEY", "hf_a\r\nX-Evil: 1"),
    ("HUGGINGFACE_BASE_URL", "router.huggingface.co"),
    ("HUGGINGFACE_BASE_URL", "ftp://x.test"),
    ("HUGGINGFACE_BASE_URL", "https://"),
    ("HUGGINGFACE_BASE_URL", "https:///v1"),
    ("HUGGINGFACE_BASE_URL", "https://x.test?a=1"),
    ("HUGGINGFACE_BASE_URL", "https://x.test#a"),
    ("HUGGINGFACE_BASE_URL", "https://user:word@x.test"),
    ("HUGGINGFACE_BASE_URL", "http://[::1"),
    ("HUGGINGFACE_BASE_URL", "http://x.test:port"),
    ("HUGGINGFACE_BASE_URL", "http://x.test:99999"),
    ("HUGGINGFACE_BASE_URL", "http://x y.test"),
    ("CHATAPI_CATALOGUE", "/no/such/file.toml"),
    ("CHATAPI_CATALOGUE", "/"),
    ("CHATAPI_AUTH", "maybe"),
    ("CHATAPI_AUTH", "true"),
    ("CHATAPI_KEYS", "not-a-digest"),
    ("CHATAPI_ANONYMOUS_LIMITS", "rpm"),
    ("CHATAPI_ANONYMOUS_LIMITS", "rpm=0"),
    ("CHATAPI_ANONYMOUS_LIMITS", "rps=5"),
    ("CHATAPI_ANONYMOUS_LIMITS", "shadow=rps"),
    ("CHATAPI_TRUSTED_PROXIES", "-1"),
    ("CHATAPI_TRUSTED_PROXIES", "many"),
    ("DATABASE_URL", "mysql://u:p@h/db"),
    ("DATABASE_URL", "sqlite://"),
    ("DATABASE_URL", "sqlite:///"),
    ("DATABASE_URL", "chatapi.db"),
    ("DATABASE_URL", "postgresql://u:p@h:port/db"),
    ("REDIS_URL", "http://h"),
    ("REDIS_URL", "redis://h:port"),
    ("CHATAPI_KEYS", "0" * 63),
    ("CHATAPI_KEYS", f"{'0' * 64},{'g' * 64}"),
    ("CHATAPI_MAX_TIME", "0"),
    ("CHATAPI_MAX_TIME", "-1"),
    ("CHATAPI_MAX_TIME", "nan"),
    ("CHATAPI_MAX_TIME", "inf"),
    ("CHATAPI_MAX_TIME", "2m"),
    ("CHATAPI_REPLY_TIMEOUT", "soon"),
    ("CHATAPI_FIRST_TOKEN_TIMEOUT", "0"),
    ("CHATAPI_IDLE_TIMEOUT", "1e9"),
    ("CHATAPI_HEARTBEAT", "0"),
    ("CHATAPI_MAX_BODY", "20MB"),
    ("CHATAPI_MAX_BODY", "-1"),
    ("CHATAPI_MAX_BODY", "0"),
    ("CHATAPI_MAX_BODY", "1e6"),
    ("CHATAPI_LANGUAGE", "fr"),
    ("CHATAPI_LEGACY_SUNSET", "30/06/2027"),
    ("CHATAPI_LEGACY_SUNSET", "2027-02-30"),
    ("CHATAPI_CORS_ORIGINS", "*"),
    ("CHATAPI_CORS_ORIGINS", "app.example"),
    ("CHATAPI_CORS_ORIGINS", "https://app.example/path"),
    ("CHATAPI_CORS_ORIGINS", "https://app.example, null"),
    ("CHATAPI_CORS_ORIGINS", "http://[::1"),
    ("CHATAPI_LOG_LEVEL", "loud"),
    ("CHATAPI_EMBEDDED_URL", "here"),
]


@pytest.mark.parametrize("name, text", MISTAKES)
def test_a_mistake_is_named_with_what_it_must_be(name, text):
    error = mistakes_of({name: text})
    assert len(error.mistakes) == 1
    assert error.mistakes[0].startswith(name)
    assert name in str(error)


@pytest.mark.parametrize("text", ["no model", "../x", "a/b/c", "a/b?c"])
def test_the_default_model_is_a_model_id(text):
    """Wherever it is checked: no gateway starts with a model that no caller could ask for."""
    with pytest.raises(SettingsError, match="CHATAPI_DEFAULT_MODEL"):
        create_app(Settings.from_env({"CHATAPI_DEFAULT_MODEL": text}))


QWEN = HubModel("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "Q4_K_M")


@pytest.mark.parametrize(
    "text, model",
    [
        (__file__, Path(__file__)),
        (str(QWEN), QWEN),
        (f"https://huggingface.co/{QWEN}", QWEN),
        (f"hf.co/{QWEN}", QWEN),
        ("acme/x", HubModel("acme/x", "")),
        ("acme/x:q4/x-00001-of-00002.gguf", HubModel("acme/x", "q4/x-00001-of-00002.gguf")),
    ],
)
def test_the_embedded_model_is_a_file_or_one_on_the_hub(text, model):
    assert Settings.from_env({"CHATAPI_EMBEDDED_MODEL": text}).embedded_model == model


@pytest.mark.parametrize("text", ["/no/such/model.gguf", "models/x.gguf", "model", "a/b/c", "../x", "a/b:c:d", "a /b"])
def test_what_is_neither_is_a_mistake(text):
    with pytest.raises(SettingsError, match="CHATAPI_EMBEDDED_MODEL"):
        Settings.from_env({"CHATAPI_EMBEDDED_MODEL": text})


def test_brownouts_are_read_beside_their_sunset():
    given = Settings.from_env(
        {
            "CHATAPI_LEGACY_SUNSET": "2027-06-30",
            "CHATAPI_LEGACY_BROWNOUTS": "2027-06-02T12:00Z/PT1H\n2027-06-29T12:00Z/PT12H",
        }
    )
    assert given.legacy_brownouts == ((1811937600.0, 1811941200.0), (1814270400.0, 1814313600.0))


@pytest.mark.parametrize(
    "sunset, brownouts, mistakes",
    [
        ("", "2027-06-02T12:00Z/PT1H", ["needs CHATAPI_LEGACY_SUNSET"]),
        ("2027-06-01", "2027-06-02T12:00Z/PT1H", ["2027-06-02T12:00Z/PT1H: must end by 2027-06-01"]),
        ("2027-06-30", "June 2027-06-02T12:00Z/PT0S", ["June: must be", "2027-06-02T12:00Z/PT0S: must last"]),
        ("June", "2027-06-02T12:00Z/PT1H July", ["must be a date", "July: must be"]),
        ("June", "2027-06-02T12:00Z/PT1H", ["must be a date"]),
    ],
)
def test_each_mistake_in_a_schedule_names_its_window(sunset, brownouts, mistakes):
    error = mistakes_of(
        {"CHATAPI_AUTH": "maybe", "CHATAPI_LEGACY_SUNSET": sunset, "CHATAPI_LEGACY_BROWNOUTS": brownouts}
    )
    assert len(error.mistakes) == 1 + len(mistakes)
    assert all(words in line for line, words in zip(error.mistakes[1:], mistakes, strict=True))


@pytest.mark.parametrize(
    "environ, words",
    [
        ({}, "must be one of"),
        ({"LANG": "pt_BR.UTF-8"}, "deve ser um destes"),
        ({"CHATAPI_LANGUAGE": "pt-BR"}, "deve ser um destes"),
        ({"CHATAPI_LANGUAGE": "pt-BR", "LC_ALL": "en_GB"}, "must be one of"),
        ({"CHATAPI_LANGUAGE": "pt-BR", "LC_ALL": "C"}, "deve ser um destes"),
        ({"CHATAPI_LANGUAGE": "fr", "LANG": "C"}, "must be one of"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_the_language_of_the_locale(environ, words):
    error = mistakes_of({"CHATAPI_AUTH": "maybe", **environ})
    assert all(words in line for line in error.mistakes)
    assert current() == "en", "and nothing else is"


@pytest.mark.parametrize(
    "name, told",
    [
        ("CHATAPI_MAXTIME", "did you mean CHATAPI_MAX_TIME?"),
        ("HUGGINGFACE_API_TOKEN", "did you mean HUGGINGFACE_API_KEY?"),
        ("CHATAPI_ZZZZZZ", "there is no setting CHATAPI_ZZZZZZ"),
    ],
)
def test_a_misspelt_setting_is_told(monkeypatch, name, told):
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CHATAPI_API_KEY", "a caller's")
    [text] = misspelt()
    assert name in text and told in text


def test_all_mistakes_are_reported_together():
    environ = dict(reversed(MISTAKES))
    error = mistakes_of({**environ, "CHATAPI_DEFAULT_MODEL": "a/b"})
    assert [line.partition("=")[0] for line in error.mistakes] == [n for n in FIELDS if n in environ]
    assert all(name in str(error) for name in environ)


# --- secrets


@pytest.mark.parametrize(
    "environ",
    [
        {"HUGGINGFACE_API_KEY": "hf_secret word"},
        {"HUGGINGFACE_API_KEY": "hf_secret\nword"},
        {"CHATAPI_KEYS": "secret"},
        {"HUGGINGFACE_BASE_URL": "https://user:secret@x.test"},
        {"HUGGINGFACE_BASE_URL": "https://hf_secret@x.test/v1"},
        {"HUGGINGFACE_BASE_URL": "https://x.test/?token=secret"},
    ],
    ids=str,
)
def test_no_secret_is_in_the_text_of_a_mistake(environ):
    error = mistakes_of(environ)
    assert "secret" not in str(error)
    assert "secret" not in repr(error)


def test_no_secret_is_in_the_repr():
    words = {"HUGGINGFACE_API_KEY": "hf_secret", "HF_TOKEN": "hf_secret2", "REDIS_URL": "redis://u:secret3@r/0"}
    words |= {"DATABASE_URL": "postgresql://u:secret4@d/x", "CHATAPI_KEYS": DIGEST}
    given = Settings.from_env(words)
    for shown in (repr(given), str(given), f"{given}"):
        assert "secret" not in shown
        assert DIGEST.lower() not in shown.lower()
        assert "microsoft/DialoGPT-medium" in shown


def test_the_repr_says_that_a_secret_is_not_set():
    assert "huggingface_api_key=None" in repr(Settings())


# --- .env and the process environment


def test_settings_come_from_the_process_environment(machine):
    machine("HUGGINGFACE_API_KEY", "hf_env")
    assert Settings.from_env().huggingface_api_key == "hf_env"


def test_a_dotenv_file_is_read(machine):
    Path(".env").write_text("HUGGINGFACE_API_KEY=hf_file  # a comment\nCHATAPI_MAX_TIME='30'\n\nOTHER\n")
    given = Settings.from_env()
    assert given.huggingface_api_key == "hf_file"
    assert given.max_time_s == 30


def test_the_real_environment_wins_over_the_file(machine):
    Path(".env").write_text("HUGGINGFACE_API_KEY=hf_file\nCHATAPI_MAX_TIME=30\n")
    machine("HUGGINGFACE_API_KEY", "hf_env")
    given = Settings.from_env()
    assert given.huggingface_api_key == "hf_env"
    assert given.max_time_s == 30


def test_a_mistake_in_the_file_is_named_too(machine):
    Path(".env").write_text("CHATAPI_AUTH=maybe\nHUGGINGFACE_API_KEY=hf_file x\n")
    machine("CHATAPI_MAX_TIME", "soon")
    error = mistakes_of(None)
    assert len(error.mistakes) == 3
    assert "hf_file" not in str(error)


def test_no_file_and_no_variable_is_fine(machine):
    assert Settings.from_env() == Settings()


def test_a_file_that_is_not_utf8_is_a_mistake_like_any_other(machine):
    Path(".env").write_bytes("# configuração\nCHATAPI_MAX_TIME=30\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"\.env"):
        Settings.from_env()


def test_the_environment_is_not_changed_by_reading_it(machine):
    Path(".env").write_text("HUGGINGFACE_API_KEY=hf_file\n")
    before = dict(os.environ)
    Settings.from_env()
    assert dict(os.environ) == before


# --- .env.example

LINE = re.compile(r"^(#\s*)?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def shown_in_example():
    """(name, value, whether it is commented out) of each line that shows a setting."""
    return [(name, value.strip().strip("\"'"), bool(mark)) for mark, name, value in LINE.findall(EXAMPLE.read_text())]


@pytest.mark.skipif(not EXAMPLE.exists(), reason="there is no .env.example yet")
def test_the_example_lists_every_setting_in_order():
    assert [name for name, _, _ in shown_in_example()] == [name for name in FIELDS if name not in INTERNAL]


@pytest.mark.skipif(not EXAMPLE.exists(), reason="there is no .env.example yet")
def test_the_example_shows_the_true_defaults():
    true = {name: getattr(Settings(), field) for name, field in FIELDS.items()}
    true["HUGGINGFACE_BASE_URL"] = Settings().base_url
    for name, value, _ in shown_in_example():
        # A key's placeholder is no default, and what may hold nothing may show an example in a comment.
        if name == "HUGGINGFACE_API_KEY" or true[name] in (None, frozenset()):
            continue
        assert getattr(Settings.from_env({name: value}), FIELDS[name]) == true[name], name


@pytest.mark.skipif(not EXAMPLE.exists(), reason="there is no .env.example yet")
def test_a_copy_of_the_example_changes_nothing():
    live = {name: value for name, value, comment in shown_in_example() if not comment}
    live.pop("HUGGINGFACE_API_KEY", None)
    given = Settings.from_env(live)
    assert replace(given, huggingface_base_url=None) == Settings()
    assert given.base_url == Settings().base_url
    assert given.wants_embedded, "`make run` without a token still starts the embedded engine"
