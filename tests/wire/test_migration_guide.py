"""The migration guides: their commands are run, and what they show is what comes out, in both languages.

A line `$ date …` sets the gateway's clock to what the page shows below it. Each section begins with a new gateway.
`UPDATE=1 pytest tests/wire/test_migration_guide.py` writes the outputs into the pages.
"""

import os
import re
import shlex
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from support.gateways import ROOT, clean_environment, printed
from support.upstream import say
from werkzeug.serving import WSGIRequestHandler, make_server

from chatapi import create_app, languages
from chatapi.accounting import keys, tables
from chatapi.migration.rewrite import rewrite
from chatapi.migration.schedule import DAY_S, parse_brownouts, suggest
from chatapi.schemas.envelope import LEGACY_FIELDS, LEGACY_SPELLINGS

PAGES = {"docs/migration.md": "en", "docs/migration.pt-BR.md": "pt-BR"}
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^(?=## )", re.MULTILINE)
HERE = "http://127.0.0.1:8000"
MODEL = "microsoft/DialoGPT-medium"
SUNSET = datetime(2027, 6, 30, tzinfo=UTC).timestamp()
START = datetime(2027, 3, 1, 9, tzinfo=UTC).timestamp()
BILLING = rewrite({"inputs": "a", "parameters": {"max_new_tokens": 50, "do_sample": False}}, MODEL)
SEARCH = rewrite({"message": "a", "model": MODEL, "temperature": 0}, MODEL)
VARYING = {
    r'"request_id":"\w+"': '"request_id":"5f4c3b2a"',
    r"chatcmpl-\w+": "chatcmpl-8d7f",
    r'"created":\d+': '"created":1803805200',
}


class Handler(WSGIRequestHandler):
    """As gunicorn speaks, and says nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, *args):
        pass


class World:
    """A gateway whose clock is set by hand, and the shell beside it."""

    def __init__(self, settings, folder, language):
        self.language = language
        self.folder = folder
        self.app = create_app(settings)
        self.parts = self.app.extensions["chatapi"]
        self.now = START
        self.called_until = START - 60 * DAY_S
        self.parts.legacy.clock = lambda: self.now
        self.parts.legacy.callers._clock = lambda: self.now
        self.server = make_server("127.0.0.1", 0, self.app, request_handler=Handler)
        self.server.timeout = 0.05
        self.server.log_startup = lambda: None

    def run(self, command, shown):
        """What a command prints; `shown` is what the page says it does."""
        if command.startswith("date "):
            self.set_clock(datetime.fromisoformat(shown.strip()).timestamp())
            return shown
        if command.startswith("flask "):
            languages.use(self.language)
            args = shlex.split(command)
            assert args[:3] == ["flask", "--app", "wsgi"]
            self.parts.legacy.callers.flush()
            return printed(self.app, *args[3:])
        return self.shell(command)

    def set_clock(self, now):
        """It is `now`, and who calls has called until then: one goes on for ever, one stopped in March."""
        while self.called_until + DAY_S < now:
            self.now = self.called_until = self.called_until + DAY_S
            for _call in range(3):
                self.parts.legacy.callers.count("qk3m7xv2ab", "okhttp/4.12.0", False, BILLING)
            if self.now < START:
                self.parts.legacy.callers.count("h5n2ytd6wc", "python-requests/2.32.3", False, SEARCH)
        self.parts.legacy.callers.flush()
        self.now = now

    def shell(self, command):
        here = f"http://127.0.0.1:{self.server.server_port}"
        process = subprocess.Popen(
            ["bash", "-c", command.replace(HERE, here)],
            cwd=self.folder,
            env=clean_environment(str(self.folder)) | {"CHATAPI_API_KEY": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while process.poll() is None:
            self.server.handle_request()
        out, err = process.communicate()
        assert process.returncode == 0, err.decode()
        text = out.decode().replace("\r", "").replace(here, HERE)
        for pattern, constant in VARYING.items():
            text = re.sub(pattern, constant, text)
        return text if text.endswith("\n") or not text else text + "\n"


@pytest.fixture
def world(settings, upstream, tmp_path):
    """Makes a world, with two keys that call."""
    upstream.behave(MODEL, lambda x: say(x, ["Bras", "ília", "."]))
    overlay = tmp_path / "catalogue.toml"
    overlay.write_text(f'[models."{MODEL}"]\ntask = "chat-completion"\n')
    numbers = iter(range(100))

    def make(language):
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        own = {
            "database_url": f"sqlite:///{folder}/chatapi.db",
            "catalogue": overlay,
            "legacy_sunset": SUNSET,
            "legacy_brownouts": parse_brownouts(" ".join(suggest(START, SUNSET))),
        }
        made.append(World(replace(settings, **own), folder, language))
        for id, name in (("qk3m7xv2ab", "billing"), ("h5n2ytd6wc", "search")):
            row = dict.fromkeys(column.name for column in tables.keys.columns)
            row |= {"id": id, "name": name, "digest": "-", "limits": {}, "models": [], "created_at": 0, "admin": False}
            made[-1].parts.store.write(lambda tx, row=row: keys.put_key(tx, row))
        return made[-1]

    made = []
    yield make
    for one in made:
        one.server.server_close()


def steps(block):
    """(command, the lines shown below it) of each command in a console block."""
    found = []
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append([line[2:], ""])
        elif subprocess.run(["bash", "-n", "-c", found[-1][0]], capture_output=True, check=False).returncode:
            found[-1][0] += line
        else:
            found[-1][1] += line
    return found


def performed(section, world):
    """The section, with what its commands print now."""

    def replaced(match):
        lines = [f"$ {command}{world.run(command.rstrip(), shown)}" for command, shown in steps(match[1])]
        return f"```console\n{''.join(lines)}```"

    return CONSOLE.sub(replaced, section)


@pytest.mark.parametrize("page", PAGES)
def test_the_guides_commands_print_what_they_show(page, world):
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = []
    for section in SECTION.split(text):
        shown.append(performed(section, world(PAGES[page])))
    if os.environ.get("UPDATE"):
        (ROOT / page).write_text("".join(shown), encoding="utf-8")
    assert "".join(shown) == text


def shape(page):
    """What is the same in every language: sections, tables, and commands but for what is asked."""
    text = (ROOT / page).read_text(encoding="utf-8")
    prose = CONSOLE.sub("", text)
    commands = "".join(command for block in CONSOLE.findall(text) for command, _shown in steps(block))
    commands = commands.replace(" -H 'Accept-Language: pt-BR'", "")
    return {
        "sections": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "cells": [line.count("|") for line in prose.splitlines() if line.startswith("|")],
        "commands": re.sub(r'"(prompt|content|message)": "[^"]*"', r'"\1": "…"', commands),
        "letters": prose.count("> Subject: ") + prose.count("> Assunto: "),
    }


def test_both_guides_have_the_same_sections_and_commands():
    english, portuguese = map(shape, PAGES)
    assert english == portuguese


@pytest.mark.parametrize("page", PAGES)
def test_the_guide_tells_of_all_that_a_client_meets(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    words = [
        "/api/chat/completions",
        "/v1/chat/completions",
        "/api/migrate/preview",
        "`Deprecation`",
        "`Sunset`",
        "410",
    ]
    for word in (*words, "`Retry-After`", "error.migration", *LEGACY_SPELLINGS, *(LEGACY_FIELDS - {"message"})):
        assert word in text, word
