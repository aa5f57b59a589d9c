"""Model cards: the shipped catalogue, the operator's over it, and which card answers for an id."""

import re

import pytest

from chatapi.catalogue import Catalogue, ModelCard, is_model_id
from chatapi.errors import ModelNotFound
from chatapi.settings import SettingsError

S1_MODELS = {
    "microsoft/DialoGPT-medium": "text-generation",
    "microsoft/DialoGPT-large": "text-generation",
    "facebook/blenderbot-400M-distill": "text2text-generation",
    "google/flan-t5-base": "text2text-generation",
    "EleutherAI/gpt-neo-2.7B": "text-generation",
    "bigscience/bloom-560m": "text-generation",
}
EMBEDDED = ModelCard(id="tiny/embedded", url="http://127.0.0.1:9")


@pytest.fixture
def overlaid(tmp_path):
    """Loads the catalogue with `text` laid over it."""

    def load(text, embedded=None):
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Catalogue.load(path, embedded)

    return load


@pytest.fixture
def mistakes_in(overlaid):
    def find(text):
        with pytest.raises(SettingsError) as caught:
            overlaid(text)
        return caught.value.mistakes

    return find


# --- ids


@pytest.mark.parametrize(
    "text",
    [
        "gpt2",
        "a",
        "0/1",
        "a/b",
        "a/b:c",
        "gpt2:cheapest",
        "microsoft/DialoGPT-medium",
        "EleutherAI/gpt-neo-2.7B",
        "meta-llama/Llama-3.1-8B-Instruct:fireworks-ai",
        "_a/-b",
        "A-1_b.c/D-2_e.f:g-3",
        "a/" + "b" * 96,
    ],
)
def test_model_ids(text):
    assert is_model_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "..",
        "...",
        "a/..",
        "../a",
        "a/.",
        "./a",
        "a/../b",
        "a..b/c",
        "a/b:..",
        "a/b/c",
        "/a",
        "a/",
        "/",
        "//",
        "a//b",
        "a/b:",
        ":a",
        "a:b:c",
        "a:b/c",
        "a/b:c/d",
        "a/b\n",
        "a\n",
        "\na",
        "a\nb",
        "a/b\r",
        "a/b\0",
        "a/b\t",
        " a/b",
        "a/b ",
        "a b",
        "a%2fb",
        "a/%2e%2e",
        "%2e%2e/a",
        "a/b?c=d",
        "a/b#c",
        "a@b",
        "user:word@host",
        "http://a/b",
        "a\\b",
        "a/*",
        "a/b;c",
        "a/b,c",
        "a/\u0663",
        "a/\uff11",
        "a/\u00e9",
        "a/\u212a",
        "a\u2024\u2024/b",
        "a/\ud800",
        "a" * 10_000,
        "a/" * 10_000,
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_what_is_no_model_id(text):
    assert not is_model_id(text)


# --- the shipped catalogue


def test_s1s_six_models_are_text_tasks():
    cards = Catalogue.load().cards
    assert {model: cards[model].task for model in S1_MODELS} == S1_MODELS
    assert list(cards)[:6] == list(S1_MODELS)


@pytest.mark.parametrize("model", S1_MODELS)
def test_s1s_models_are_asked_with_the_first_user_message(model):
    card = Catalogue.load().find(model)
    assert card.id == model
    assert not card.is_chat
    assert card.context == "first-user"
    assert card.context_tokens and card.context_tokens >= 128
    assert card.url is None and card.serve_as is None and card.fallbacks == ()


@pytest.mark.parametrize("model", ["gpt2", "org/name", "org/name:groq", "microsoft/dialogpt-medium"])
def test_an_unknown_id_is_a_chat_model_of_the_router(model):
    card = Catalogue.load().find(model)
    assert card == ModelCard(id=model)
    assert card.is_chat
    assert card.url is None
    assert card.images is None
    assert card.prefill is False


# --- the operator's


def test_an_overlay_adds_entries_with_every_key(overlaid):
    catalogue = overlaid("""
        [models."org/own"]
        task = "text-generation"
        url = "https://x.test/v1/"
        fallbacks = ["a/b", "c:d"]
        context = "conversation"
        images = false
        prefill = true
        context_tokens = 4096
        drain_s = 30
        shutdown_date = 2027-06-30
    """)
    assert catalogue.find("org/own") == ModelCard(
        id="org/own",
        task="text-generation",
        url="https://x.test",
        fallbacks=("a/b", "c:d"),
        context="conversation",
        images=False,
        prefill=True,
        context_tokens=4096,
        drain_s=30,
        shutdown_date="2027-06-30",
    )
    assert set(catalogue.cards) == {*Catalogue.load().cards, "org/own"}


def test_an_overlay_replaces_entries_whole(overlaid):
    catalogue = overlaid('[models."google/flan-t5-base"]\ntask = "chat-completion"')
    assert catalogue.find("google/flan-t5-base") == ModelCard(id="google/flan-t5-base")
    assert catalogue.cards.keys() == Catalogue.load().cards.keys()


def test_an_empty_overlay_changes_nothing(overlaid):
    assert overlaid("").cards == Catalogue.load().cards


@pytest.mark.parametrize("model", ["old/one", "old/two"])
def test_serve_as_is_followed(overlaid, model):
    catalogue = overlaid("""
        [models."old/one"]
        serve_as = "old/two"
        [models."old/two"]
        serve_as = "new/model"
        [models."new/model"]
        task = "text2text-generation"
    """)
    assert catalogue.find(model) == ModelCard(id="new/model", task="text2text-generation")


def test_serve_as_may_lead_to_an_unknown_id(overlaid):
    catalogue = overlaid('[models."microsoft/DialoGPT-medium"]\nserve_as = "org/new:groq"')
    assert catalogue.find("microsoft/DialoGPT-medium") == ModelCard(id="org/new:groq")


@pytest.mark.parametrize("circle", [["a/a"], ["a/a", "b/b"], ["a/a", "b/b", "c/c"]])
def test_serve_as_may_not_go_round(mistakes_in, circle):
    after = dict(zip(circle, [*circle[1:], circle[0]], strict=True))
    text = "\n".join(f'[models."{model}"]\nserve_as = "{after[model]}"' for model in circle)
    lead_in = '[models."lead/in"]\nserve_as = "a/a"'
    found = mistakes_in(f"{text}\n{lead_in}")
    assert found
    for model in circle:
        assert any(model in line and "serve_as" in line for line in found)


# --- mistakes

ENTRY = '[models."org/name"]\ntask = "text-generation"\n'


@pytest.mark.parametrize(
    "text, words",
    [
        ("[models", ["mine.toml"]),
        ("task = ", ["mine.toml"]),
        (b'[models."a/b"]\ntask = "chat-completion" # configura\xe7\xe3o', ["mine.toml"]),
        ('[model."a/b"]\ntask = "chat-completion"', ["model"]),
        ('[models."a/../b"]\ntask = "chat-completion"', ["a/../b", "model id"]),
        ('[models."a b"]\ntask = "chat-completion"', ["a b", "model id"]),
        ('[models]\n"a/b" = 5', ["a/b", "table"]),
        ('[models]\n"a/b" = "text-generation"', ["a/b", "table"]),
        ("models = 5", ["models"]),
        ('[[models]]\nid = "a/b"', ["models"]),
        ('[models."a/b"]\nurl = "http://x.test"', ["a/b", "task"]),
        ('[models."a/b"]', ["a/b", "task"]),
        (ENTRY + 'colour = "red"', ["org/name", "colour", "context_tokens"]),
        (ENTRY + 'id = "x"', ["org/name", "'id'"]),
        (ENTRY + "renames = {}", ["org/name", "renames"]),
        ('[models."a/b"]\ntask = "chat"', ["a/b", "task", "chat-completion"]),
        ('[models."a/b"]\ntask = ["chat-completion"]', ["a/b", "task"]),
        (ENTRY + 'url = "x.test"', ["url"]),
        (ENTRY + 'url = "ftp://x.test"', ["url"]),
        (ENTRY + 'url = "http://user:word@x.test"', ["url"]),
        (ENTRY + 'url = "http://x.test?a=1"', ["url"]),
        (ENTRY + 'url = "http://x.test#a"', ["url"]),
        (ENTRY + 'url = "http://[::1"', ["url"]),
        (ENTRY + 'url = "http://x.test:port"', ["url"]),
        (ENTRY + "url = 5", ["url"]),
        (ENTRY + 'serve_as = ".."', ["serve_as"]),
        (ENTRY + "serve_as = 5", ["serve_as"]),
        (ENTRY + 'fallbacks = "a/b"', ["fallbacks"]),
        (ENTRY + 'fallbacks = ["a/b", "../c"]', ["fallbacks"]),
        (ENTRY + "fallbacks = [5]", ["fallbacks"]),
        (ENTRY + 'context = "last-user"', ["context", "first-user", "conversation"]),
        (ENTRY + 'images = "no"', ["images"]),
        (ENTRY + "prefill = 1", ["prefill"]),
        (ENTRY + "context_tokens = 0", ["context_tokens"]),
        (ENTRY + "context_tokens = -5", ["context_tokens"]),
        (ENTRY + "context_tokens = 1024.0", ["context_tokens"]),
        (ENTRY + 'context_tokens = "1024"', ["context_tokens"]),
        (ENTRY + "context_tokens = true", ["context_tokens"]),
        (ENTRY + "drain_s = -1", ["drain_s"]),
        (ENTRY + 'shutdown_date = "2027-06-30"', ["shutdown_date"]),
        (ENTRY + "shutdown_date = 2027-06-30T12:00:00", ["shutdown_date"]),
        (ENTRY + "drain_s = 601", ["drain_s"]),
        (ENTRY + "drain_s = 1.5", ["drain_s"]),
        (ENTRY + "drain_s = true", ["drain_s"]),
    ],
    ids=lambda value: value[-24:] if isinstance(value, str | bytes) else "",
)
def test_a_mistake_is_named(mistakes_in, text, words):
    found = mistakes_in(text)
    assert len(found) == 1
    assert [word for word in words if word not in found[0]] == []


def test_all_mistakes_are_reported_together(mistakes_in):
    found = mistakes_in("""
        [other]
        [models."a b"]
        task = "chat-completion"
        [models."c/d"]
        task = "chat"
        colour = "red"
        [models."e/f"]
        url = "nowhere"
        [models."g/h"]
        serve_as = "g/h"
    """)
    said = "\n".join(found)
    assert len(found) == 7
    for word in ("other", "a b", "task", "colour", "url", "e/f", "serve_as", "circle"):
        assert word in said


def test_a_file_that_is_gone_is_a_mistake(tmp_path):
    with pytest.raises(SettingsError, match=r"mine\.toml"):
        Catalogue.load(tmp_path / "mine.toml")


def test_no_password_is_in_the_text_of_a_mistake(mistakes_in):
    assert "secret" not in "".join(mistakes_in(ENTRY + 'url = "http://user:secret@x.test"'))


# --- with the embedded engine


@pytest.mark.parametrize("model", [*S1_MODELS, EMBEDDED.id])
def test_embedded_answers_for_every_id_of_the_catalogue(model):
    assert Catalogue.load(embedded=EMBEDDED).find(model) is EMBEDDED


def test_embedded_answers_for_the_operators_ids_too(overlaid):
    catalogue = overlaid(
        '[models."org/mine"]\ntask = "chat-completion"\n[models."org/old"]\nserve_as = "org/elsewhere"', EMBEDDED
    )
    assert catalogue.find("org/mine") is EMBEDDED
    assert catalogue.find("org/old") is EMBEDDED


def test_an_entry_with_its_own_url_keeps_its_server(overlaid):
    catalogue = overlaid(ENTRY + 'url = "http://x.test"\n[models."org/old"]\nserve_as = "org/name"', EMBEDDED)
    assert catalogue.find("org/name").url == "http://x.test"
    assert catalogue.find("org/old").id == "org/name"
    assert catalogue.find("google/flan-t5-base") is EMBEDDED


@pytest.mark.parametrize("model", ["org/unknown", "gpt2", "microsoft/DialoGPT-small"])
def test_embedded_does_not_answer_for_unknown_ids(model):
    with pytest.raises(ModelNotFound) as caught:
        Catalogue.load(embedded=EMBEDDED).find(model)
    error = caught.value
    assert error.code == "model_not_found"
    assert model in error.message
    assert EMBEDDED.id in error.message
    assert all(served in error.message for served in S1_MODELS)
    assert error.param == "model"
    assert re.search(r"HUGGINGFACE_API_KEY", error.message)
