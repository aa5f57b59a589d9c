"""Which language is chosen, and what a text is in it."""

import contextvars
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi import languages
from chatapi.languages import LANGUAGES, N_, _, current, from_environment, negotiate, use

EN, PT = LANGUAGES


@pytest.fixture
def portuguese(monkeypatch):
    """A catalogue with one text, in use."""
    monkeypatch.setattr(languages, "catalogue", lambda language: {"Hello, {name}!": "Olá, {name}!", "{}": "{0}"})
    use(PT)
    yield
    use(EN)


@pytest.mark.parametrize(
    "header, default, chosen",
    [
        (None, EN, EN),
        (None, PT, PT),
        ("", PT, PT),
        ("pt-BR", EN, PT),
        ("pt", EN, PT),
        ("pt-PT", EN, PT),
        ("PT-br", EN, PT),
        ("en-GB", PT, EN),
        ("en-Latn-GB-x-boont", PT, EN),
        ("pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7", EN, PT),
        # The highest weight, then the order.
        ("en;q=0.4, pt;q=0.5", EN, PT),
        ("en;q=0.5, pt;q=0.4", PT, EN),
        ("en, pt", PT, EN),
        ("pt, en", EN, PT),
        ("pt;q=0.5, en;q=0.500", EN, PT),
        ("pt;q=0.1, en;q=0.9, pt;q=0.95", EN, PT),
        ("pt;q=0.1, en, pt", PT, EN),
        ("en;q=0.999, pt;q=1.000", EN, PT),
        ("pt;q=0.001", EN, PT),
        # Any language, or one that is not spoken here.
        ("*", EN, EN),
        ("*", PT, PT),
        ("fr", PT, PT),
        ("fr-CA, *;q=0.5", EN, EN),
        ("fr, en;q=0.9", PT, PT),
        ("en;q=0.9, fr;q=0.5", PT, EN),
        ("enx", PT, PT),
        ("por", EN, EN),
        # Weight 0 refuses.
        ("en;q=0", EN, PT),
        ("pt;q=0", PT, EN),
        ("pt;q=0", EN, EN),
        ("en;q=0.000, *", EN, PT),
        ("en;q=0, fr", EN, PT),
        ("en;q=0, pt;q=0.1", EN, PT),
        ("fr;q=0", EN, EN),
        ("*;q=0", EN, EN),
        ("*;q=0, pt;q=0.2", EN, PT),
        ("en;q=0, pt;q=0", PT, PT),
        ("pt-PT;q=0, pt-BR", EN, PT),
        # The grammar's freedoms.
        (" \tpt ; Q=1 ", EN, PT),
        (",,pt,,", EN, PT),
        ("pt;q=1.", EN, PT),
        # What cannot be read is skipped.
        ("pt;q=1.1, en;q=0.1", PT, EN),
        ("pt;q=0.1234", EN, EN),
        ("pt;q=-1", EN, EN),
        ("pt;q=.5", EN, EN),
        ("pt;q", EN, EN),
        ("pt;", EN, EN),
        ("pt; q = 1", EN, EN),
        ("pt;level=1", EN, EN),
        ("pt_BR", EN, EN),
        ("pt en", EN, EN),
        ("português", EN, EN),
        ("ｐｔ", EN, EN),
        ("abcdefghi, pt;q=0.3", EN, PT),
        ("\x00, pt", EN, PT),
        ("'\"; DROP TABLE keys;--, pt", EN, PT),
        (";q=1, pt;q=0.2", EN, PT),
    ],
)
def test_the_header_chooses(header, default, chosen):
    assert negotiate(header, default) == chosen


@given(st.text(st.sampled_from("enptfr-BR,;=q01.* \t\x00é"), max_size=200), st.sampled_from(LANGUAGES))
def test_no_header_is_an_error(header, default):
    assert negotiate(header, default) in LANGUAGES


@pytest.mark.parametrize(
    "header",
    [
        "pt-" * 300_000,
        "a-a" * 300_000,
        "," * 1_000_000,
        "en;q=0," * 150_000,
        "*" * 1_000_000,
        ";" * 1_000_000,
        "x" * 1_000_000,
        "pt" + " \t" * 500_000 + ";q=1",
        "pt;q=0." + "0" * 1_000_000,
    ],
    ids=lambda header: header[:8],
)
def test_a_hostile_header_costs_milliseconds(header):
    began = time.process_time()
    assert negotiate(header, PT) in LANGUAGES
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(
    "environ, chosen",
    [
        ({}, EN),
        ({"LANG": "pt_BR.UTF-8"}, PT),
        ({"LANG": "pt_PT@euro"}, PT),
        ({"LANG": "pt"}, PT),
        ({"LC_ALL": "", "LC_MESSAGES": "pt_BR", "LANG": "en_US"}, PT),
        ({"LC_ALL": "en_US.UTF-8", "LC_MESSAGES": "pt_BR"}, EN),
        ({"LC_ALL": "C", "LANG": "pt_BR.UTF-8"}, EN),
        ({"LANG": "C.UTF-8"}, EN),
        ({"LANG": "POSIX"}, EN),
        ({"LANG": "fr_FR.UTF-8"}, EN),
        ({"LANGUAGE": "pt_BR"}, EN),
    ],
)
def test_the_environment_chooses_for_commands(environ, chosen):
    assert from_environment(environ, EN) == chosen


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.UTF-8", ""])
def test_a_locale_that_is_not_spoken_means_the_default(locale):
    assert from_environment({"LC_ALL": locale}, PT) == PT


def test_english_is_the_text_itself():
    assert _("Hello, {name}!", name="{Ana}") == "Hello, {Ana}!"
    assert _("a {brace} without values") == "a {brace} without values"
    assert N_("Hello, {name}!") == "Hello, {name}!"


def test_a_text_is_said_in_the_language_in_use(portuguese):
    assert current() == PT
    assert _("Hello, {name}!", name="Ana") == "Olá, Ana!"
    assert _(N_("Hello, {name}!"), name="Ana") == "Olá, Ana!"


def test_a_text_without_translation_stays_english(portuguese):
    assert _("Goodbye, {name}.", name="Ana") == "Goodbye, Ana."


def test_a_value_may_have_any_name(portuguese):
    assert _("Hello, {name}!", name="Ana", message=1, self=2) == "Olá, Ana!"


def test_one_request_does_not_change_the_language_of_another(portuguese):
    contextvars.copy_context().run(use, EN)
    assert current() == PT
    contextvars.Context().run(lambda: use(PT))
    assert contextvars.Context().run(current) == EN


def test_english_costs_next_to_nothing():
    began = time.process_time()
    for _round in range(100_000):
        _("The request is invalid.")
    assert time.process_time() - began < 0.5
