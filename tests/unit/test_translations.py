"""Every text that a person reads exists in every language: `make translations` shows where one is missing."""

import ast
import re
import string
import subprocess
import sys

import pytest
from babel.messages.pofile import read_po
from support.gateways import ROOT
from support.house import trees

from chatapi import errors
from chatapi.languages import LANGUAGES, TRANSLATIONS, catalogue

OTHERS = LANGUAGES[1:]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The texts in the code, as Babel finds them."""
    template = tmp_path_factory.mktemp("texts") / "messages.pot"
    babel = [sys.executable, "-m", "babel.messages.frontend", "-q"]
    command = [*babel, "extract", "-F", "pyproject.toml", "-k", "N_", "-o", template, "chatapi"]
    subprocess.run(command, cwd=ROOT, check=True)
    with template.open("rb") as file:
        return {message.id: message for message in read_po(file) if message.id}


def translated(language):
    with (TRANSLATIONS / language.replace("-", "_") / "LC_MESSAGES" / "messages.po").open("rb") as file:
        return {message.id: message for message in read_po(file) if message.id}


def placeholders(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("language", OTHERS)
def test_every_text_has_its_translation(texts, language):
    done = {id for id, message in translated(language).items() if message.string}
    assert sorted(texts.keys() - done) == []


def test_what_an_error_tells_its_caller_can_be_translated():
    """A sentence handed to an error, or beside one of its fields; a cause for the log is not told."""
    found = [
        f"{name}:{text.lineno}"
        for name, tree in trees().items()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and name_of(call.func) in TOLD
        for text in said_by(call)
        if isinstance(text, ast.JoinedStr)
        or (isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value)
    ]
    assert found == []


# Nobody hears the first; the second tells its cause to operators and has a text of its own for callers.
TOLD = {
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.ChatError)
} - {"ClientLeft", "StoreUnavailable"}


def name_of(function):
    return getattr(function, "id", None) or getattr(function, "attr", None)


def said_by(call):
    yield from call.args[:1]
    for keyword in call.keywords:
        if keyword.arg == "details" and isinstance(keyword.value, ast.Dict):
            for value in keyword.value.values:
                yield from getattr(value, "elts", [value])


def edges(text):
    return re.match(r"\s*", text)[0], re.search(r"[.:?!…]?\s*$", text)[0]


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_has_its_text_its_placeholders_its_end_and_is_no_guess(texts, language):
    found = translated(language)
    assert sorted(found.keys() - texts.keys()) == [], "none is left over"
    for id, message in found.items():
        assert not message.fuzzy, id
        assert edges(id) == edges(message.string), id
        assert "python-brace-format" not in message.flags or placeholders(id) == placeholders(message.string), id
    assert catalogue(language) == {id: message.string for id, message in found.items()}, "as Babel reads it"


def test_no_text_stands_where_babel_does_not_look():
    """Up to Python 3.11 what is inside an f-string is no code to a tokenizer, and to Babel."""
    hidden = [
        f"{name}:{call.lineno}"
        for name, tree in trees().items()
        for string in ast.walk(tree)
        if isinstance(string, ast.JoinedStr)
        for call in ast.walk(string)
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") in ("_", "N_")
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]
    assert hidden == []
