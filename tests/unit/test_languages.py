"""Which language is chosen, and what a text is in it."""

import contextvars
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import rows

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


CHOSEN = {  # (the default, what is chosen) → headers
    (EN, PT): [
        *("pt-BR", "pt", "pt-PT", "PT-br", "pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7"),
        # The highest weight, then the order.
        *("en;q=0.4, pt;q=0.5", "pt, en", "pt;q=0.5, en;q=0.500", "pt;q=0.1, en;q=0.9, pt;q=0.95"),
        *("en;q=0.999, pt;q=1.000", "pt;q=0.001"),
        # Weight 0 refuses.
        *("en;q=0", "en;q=0.000, *", "en;q=0, fr", "en;q=0, pt;q=0.1", "*;q=0, pt;q=0.2", "pt-PT;q=0, pt-BR"),
        # The grammar's freedoms, and what cannot be read is skipped.
        *(" \tpt ; Q=1 ", ",,pt,,", "pt;q=1.", "abcdefghi, pt;q=0.3", "\x00, pt"),
        *("'\"; DROP TABLE keys;--, pt", ";q=1, pt;q=0.2"),
    ],
    (PT, EN): [
        *("en-GB", "en-Latn-GB-x-boont", "en;q=0.5, pt;q=0.4", "en, pt", "pt;q=0.1, en, pt", "en;q=0.9, fr;q=0.5"),
        *("pt;q=0", "pt;q=1.1, en;q=0.1"),
    ],
    # Any language, or one that is not spoken here; what is refused; and what cannot be read.
    (EN, EN): [
        *(None, "*", "fr-CA, *;q=0.5", "por", "pt;q=0", "fr;q=0", "*;q=0", "pt;q=0.1234", "pt;q=-1", "pt;q=.5"),
        *("pt;q", "pt;", "pt; q = 1", "pt;level=1", "pt_BR", "pt en", "português", "ｐｔ"),
    ],
    (PT, PT): [None, "", "*", "fr", "fr, en;q=0.9", "enx", "en;q=0, pt;q=0"],
}


@pytest.mark.parametrize("header, default, chosen", rows(CHOSEN))
def test_the_header_chooses(header, default, chosen):
    assert negotiate(header, default) == chosen


@given(st.text(st.sampled_from("enptfr-BR,;=q01.* \t\x00é"), max_size=200), st.sampled_from(LANGUAGES))
def test_no_header_is_an_error(header, default):
    assert negotiate(header, default) in LANGUAGES


HOSTILE = [
    *("pt-" * 300_000, "a-a" * 300_000, "," * 1_000_000, "en;q=0," * 150_000, "*" * 1_000_000, ";" * 1_000_000),
    *("x" * 1_000_000, "pt" + " \t" * 500_000 + ";q=1", "pt;q=0." + "0" * 1_000_000),
]


@pytest.mark.parametrize("header", HOSTILE, ids=lambda header: header[:8])
def test_a_hostile_header_costs_milliseconds(header):
    def cost_s():
        began = time.thread_time()
        assert negotiate(header, PT) in LANGUAGES
        return time.thread_time() - began

    assert min(cost_s() for _ in range(3)) < 0.1, "not even without the collector in between"


LOCALES = {  # (the default, what is chosen) → the environment
    (EN, PT): [
        *({"LANG": "pt_BR.UTF-8"}, {"LANG": "pt_PT@euro"}, {"LANG": "pt"}),
        {"LC_ALL": "", "LC_MESSAGES": "pt_BR", "LANG": "en_US"},
    ],
    (EN, EN): [
        *({}, {"LC_ALL": "en_US.UTF-8", "LC_MESSAGES": "pt_BR"}, {"LC_ALL": "C", "LANG": "pt_BR.UTF-8"}),
        *({"LANG": "C.UTF-8"}, {"LANG": "POSIX"}, {"LANG": "fr_FR.UTF-8"}, {"LANGUAGE": "pt_BR"}),
    ],
    (PT, PT): [{"LC_ALL": locale} for locale in ("C", "POSIX", "de_DE.UTF-8", "")],
}


@pytest.mark.parametrize("environ, default, chosen", rows(LOCALES))
def test_the_environment_chooses_for_commands(environ, default, chosen):
    assert from_environment(environ, default) == chosen


def test_english_is_the_text_itself():
    assert _("Hello, {name}!", name="{Ana}") == "Hello, {Ana}!"
    assert _("a {brace} without values") == "a {brace} without values"
    assert N_("Hello, {name}!") == "Hello, {name}!"


def test_a_text_is_said_in_the_language_in_use_where_it_is_translated(portuguese):
    assert current() == PT
    assert _("Hello, {name}!", name="Ana") == _(N_("Hello, {name}!"), name="Ana") == "Olá, Ana!"
    assert _("Hello, {name}!", name="Ana", message=1, self=2) == "Olá, Ana!", "a value may have any name"
    assert _("Goodbye, {name}.", name="Ana") == "Goodbye, Ana."


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
