"""docs/operating: what it tells to type works, and it speaks of every alert, in both languages."""

import re
import subprocess
import sys

import pytest
import sqlalchemy as sa
import yaml
from support.gateways import ROOT, clean_environment
from support.servers import ELSEWHERE, needs
from support.stores import sql

GUIDES = {language: ROOT / "docs" / f"operating{language}.md" for language in ("", ".pt-BR")}
ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


def blocks(language=""):
    """The guide's commands, a block each."""
    return re.findall(r"^```sh\n(.*?)^```$", GUIDES[language].read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def block_with(words):
    [found] = [block for block in blocks() if words in block]
    return found


def shell(script, folder, **env):
    """The script in this folder, with the environment's Python where the guide has its own."""
    path = ":".join([*ELSEWHERE, "/usr/local/bin", "/usr/bin", "/bin"])
    done = subprocess.run(
        ["sh", "-ec", re.sub(r"(?<!\S)\.venv/bin/python", sys.executable, script)],
        check=False,
        cwd=folder,
        env={**clean_environment(str(folder)), "PATH": path, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def flask(database, folder, *command):
    return shell(f"{sys.executable} -m flask --app wsgi {' '.join(command)}", folder, DATABASE_URL=database)


CONTAINER = "docker compose --env-file .env -f deploy/compose.yaml exec -T postgres "


@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.parametrize("language", GUIDES)
def test_each_alert_is_explained(language, alert):
    rows = [
        line for line in GUIDES[language].read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{alert}` |")
    ]
    assert len(rows) == 1 and rows[0].count(" | ") == 2


def test_both_languages_have_the_same_commands():
    placeholder = {"SUA_CHAVE": "YOUR_KEY"}
    translated = [re.sub("|".join(placeholder), lambda found: placeholder[found[0]], b) for b in blocks(".pt-BR")]
    assert translated == blocks()


@pytest.mark.parametrize("language", GUIDES)
def test_both_have_the_same_sections_and_files_that_are_there(language):
    text = GUIDES[language].read_text(encoding="utf-8")
    assert text.count("\n## ") == GUIDES[""].read_text(encoding="utf-8").count("\n## ")
    for file in re.findall(r"`(deploy/[\w./-]+)`", text):
        assert (ROOT / file).exists(), file


def test_production_is_installed_without_what_only_the_tests_need(tmp_path):
    [line] = [line for line in block_with("compileall").splitlines() if line.startswith("sed ")]
    left = shell(line.partition("|")[0].replace("requirements.txt", str(ROOT / "requirements.txt")), tmp_path)
    assert "flask==" in left and "pytest" not in left.partition("# Only")[0] and "responses" not in left


def test_a_backup_of_sqlite_brings_back_what_was_there(tmp_path):
    kept, url = tmp_path / "chatapi.db", f"sqlite:///{tmp_path}/chatapi.db"
    flask(url, tmp_path, "keys", "create", "--name", "before")
    shell(block_with("sqlite3").replace("/var/lib/chatapi/chatapi.db", str(kept)), tmp_path)
    flask(url, tmp_path, "keys", "create", "--name", "after")
    shell(block_with("chatapi.db-wal").replace("/var/lib/chatapi/chatapi.db", str(kept)), tmp_path)
    listed = flask(url, tmp_path, "keys", "list")
    assert "before" in listed and "after" not in listed


@pytest.fixture
def two_databases(postgres_server):
    """The URLs of two empty databases."""
    needs("pg_dump")
    names = ("operating_old", "operating_new")
    for name in names:
        sql(postgres_server, f"CREATE DATABASE {name}")
    yield [sa.make_url(postgres_server).set(database=name).render_as_string(hide_password=False) for name in names]
    for name in names:
        sql(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


def test_a_dump_of_postgresql_brings_back_what_was_there(two_databases, tmp_path):
    old, new = two_databases
    flask(old, tmp_path, "keys", "create", "--name", "before")
    dump, restore = block_with('"$DATABASE"').splitlines()
    shell(dump, tmp_path, DATABASE=old.replace("+psycopg", ""))
    shell(restore, tmp_path, DATABASE=new.replace("+psycopg", ""))
    assert "before" in flask(new, tmp_path, "keys", "list")


def test_a_dump_out_of_the_container_brings_back_what_was_there(two_databases, tmp_path):
    """What is run in the container, on PostgreSQL here."""
    flask(two_databases[0], tmp_path, "keys", "create", "--name", "before")
    for words, url in zip((" pg_dump ", " pg_restore "), two_databases, strict=True):
        [line] = [line for line in block_with(f"postgres{words}").splitlines() if words in line]
        server = sa.make_url(url)
        line = line.removeprefix(CONTAINER).replace("dbname=chatapi", f"dbname={server.database}")
        line = line.replace("custom chatapi ", f"custom {server.database} ")
        shell(line, tmp_path, PGHOST=server.host, PGPORT=str(server.port))
    assert "before" in flask(two_databases[1], tmp_path, "keys", "list")
