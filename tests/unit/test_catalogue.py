"""Model cards: the shipped catalogue, the operator's over it, and which card answers for an id."""

import pytest
from support.tables import raised, rows

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
    return lambda text: raised(SettingsError, overlaid, text).mistakes


# --- ids


IDS = {
    True: [
        *("gpt2", "a", "0/1", "a/b", "a/b:c", "gpt2:cheapest", "microsoft/DialoGPT-medium", "EleutherAI/gpt-neo-2.7B"),
        *("meta-llama/Llama-3.1-8B-Instruct:fireworks-ai", "_a/-b", "A-1_b.c/D-2_e.f:g-3", "a/" + "b" * 96),
    ],
    False: [
        *("", " ", ".", "..", "...", "a/..", "../a", "a/.", "./a", "a/../b", "a..b/c", "a/b:..", "a/b/c", "/a"),
        *("a/", "/", "//", "a//b", "a/b:", ":a", "a:b:c", "a:b/c", "a/b:c/d", "a/b\n", "a\n", "\na", "a\nb"),
        *("a/b\r", "a/b\0", "a/b\t", " a/b", "a/b ", "a b", "a%2fb", "a/%2e%2e", "%2e%2e/a", "a/b?c=d", "a/b#c"),
        *("a@b", "user:word@host", "http://a/b", "a\\b", "a/*", "a/b;c", "a/b,c", "a/\u0663", "a/\uff11"),
        *("a/\u00e9", "a/\u212a", "a\u2024\u2024/b", "a/\ud800", "a" * 10_000, "a/" * 10_000),
    ],
}


@pytest.mark.parametrize("text, is_one", rows(IDS), ids=lambda value: ascii(value)[:24])
def test_what_is_a_model_id(text, is_one):
    assert bool(is_model_id(text)) is is_one


# --- the shipped catalogue


def test_s1s_six_models_are_text_tasks_and_come_first():
    assert list(Catalogue.load().cards)[:6] == list(S1_MODELS)


@pytest.mark.parametrize("model, task", S1_MODELS.items())
def test_s1s_models_are_asked_with_the_first_user_message(model, task):
    card = Catalogue.load().find(model)
    assert (card.id, card.task, card.is_chat, card.context) == (model, task, False, "first-user")
    assert card.context_tokens and card.context_tokens >= 128
    assert card.url is None and card.serve_as is None and card.fallbacks == ()


@pytest.mark.parametrize("model", ["gpt2", "org/name", "org/name:groq", "microsoft/dialogpt-medium"])
def test_an_unknown_id_is_a_chat_model_of_the_router(model):
    card = Catalogue.load().find(model)
    assert card == ModelCard(id=model)
    assert (card.is_chat, card.url, card.images, card.prefill) == (True, None, None, False)


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
    more = {"images": False, "prefill": True, "context_tokens": 4096, "drain_s": 30, "shutdown_date": "2027-06-30"}
    of_text = {"task": "text-generation", "context": "conversation", "fallbacks": ("a/b", "c:d")}
    assert catalogue.find("org/own") == ModelCard(id="org/own", url="https://x.test", **of_text, **more)
    assert set(catalogue.cards) == {*Catalogue.load().cards, "org/own"}


def test_an_overlay_replaces_entries_whole_and_an_empty_one_nothing(overlaid):
    catalogue = overlaid('[models."google/flan-t5-base"]\ntask = "chat-completion"')
    assert catalogue.find("google/flan-t5-base") == ModelCard(id="google/flan-t5-base")
    assert catalogue.cards.keys() == Catalogue.load().cards.keys()
    assert overlaid("").cards == Catalogue.load().cards


def test_serve_as_is_followed_and_may_lead_to_an_unknown_id(overlaid):
    catalogue = overlaid("""
        [models."old/one"]
        serve_as = "old/two"
        [models."old/two"]
        serve_as = "new/model"
        [models."new/model"]
        task = "text2text-generation"
        [models."microsoft/DialoGPT-medium"]
        serve_as = "org/new:groq"
    """)
    for model in ("old/one", "old/two"):
        assert catalogue.find(model) == ModelCard(id="new/model", task="text2text-generation")
    assert catalogue.find("microsoft/DialoGPT-medium") == ModelCard(id="org/new:groq")


@pytest.mark.parametrize("circle", [["a/a"], ["a/a", "b/b"], ["a/a", "b/b", "c/c"]])
def test_serve_as_may_not_go_round(mistakes_in, circle):
    after = dict(zip([*circle, "lead/in"], [*circle[1:], circle[0], circle[0]], strict=True))
    text = "\n".join(f'[models."{model}"]\nserve_as = "{after[model]}"' for model in (*circle, "lead/in"))
    found = mistakes_in(text)
    for model in circle:
        assert any(model in line and "serve_as" in line for line in found)


# --- mistakes

ENTRY = '[models."org/name"]\ntask = "text-generation"\n'
WRONG_KEYS = {  # the key that is named → how it is wrong
    "url": [
        *('"x.test"', '"ftp://x.test"', '"http://user:word@x.test"', '"http://x.test?a=1"', '"http://x.test#a"'),
        *('"http://[::1"', '"http://x.test:port"', "5"),
    ],
    "serve_as": ['".."', "5"],
    "fallbacks": ['"a/b"', '["a/b", "../c"]', "[5]"],
    "context": ['"last-user"'],
    "images": ['"no"'],
    "prefill": ["1"],
    "context_tokens": ["0", "-5", "1024.0", '"1024"', "true"],
    "drain_s": ["-1", "601", "1.5", "true"],
    "shutdown_date": ['"2027-06-30"', "2027-06-30T12:00:00"],
    "renames": ["{}"],
    "id": ['"x"'],
    "colour": ['"red"'],
}
MISTAKES = {  # the words that name it → what is wrong
    ("mine.toml",): ["[models", "task = ", b'[models."a/b"]\ntask = "chat-completion" # configura\xe7\xe3o'],
    ("model",): ['[model."a/b"]\ntask = "chat-completion"', "models = 5", '[[models]]\nid = "a/b"'],
    ("a/../b", "model id"): ['[models."a/../b"]\ntask = "chat-completion"'],
    ("a b", "model id"): ['[models."a b"]\ntask = "chat-completion"'],
    ("a/b", "table"): ['[models]\n"a/b" = 5', '[models]\n"a/b" = "text-generation"'],
    ("a/b", "task"): [
        *('[models."a/b"]\nurl = "http://x.test"', '[models."a/b"]', '[models."a/b"]\ntask = ["chat-completion"]'),
    ],
    ("a/b", "task", "chat-completion"): ['[models."a/b"]\ntask = "chat"'],
    ("org/name", "colour", "context_tokens"): [ENTRY + 'colour = "red"'],
    ("org/name", "'id'"): [ENTRY + 'id = "x"'],
    ("context", "first-user", "conversation"): [ENTRY + 'context = "last-user"'],
}
MISTAKES |= {("org/name", key): [f"{ENTRY}{key} = {text}" for text in texts] for key, texts in WRONG_KEYS.items()}


@pytest.mark.parametrize("words, texts", MISTAKES.items(), ids=[" ".join(words) for words in MISTAKES])
def test_a_mistake_is_named(mistakes_in, words, texts):
    for text in texts:
        (found,) = mistakes_in(text)
        assert [word for word in words if word not in found] == [], text


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
    assert "mine.toml" in str(raised(SettingsError, Catalogue.load, tmp_path / "mine.toml"))


def test_no_password_is_in_the_text_of_a_mistake(mistakes_in):
    assert "secret" not in "".join(mistakes_in(ENTRY + 'url = "http://user:secret@x.test"'))


# --- with the embedded engine


@pytest.mark.parametrize("model", [*S1_MODELS, EMBEDDED.id])
def test_embedded_answers_for_every_id_of_the_catalogue(model):
    assert Catalogue.load(embedded=EMBEDDED).find(model) is EMBEDDED


def test_embedded_answers_for_the_operators_ids_too_but_for_those_with_a_server_of_their_own(overlaid):
    given = '[models."org/mine"]\ntask = "chat-completion"\n[models."org/gone"]\nserve_as = "org/elsewhere"\n'
    catalogue = overlaid(f'{given}{ENTRY}url = "http://x.test"\n[models."org/old"]\nserve_as = "org/name"', EMBEDDED)
    for model in ("org/mine", "org/gone", "google/flan-t5-base"):
        assert catalogue.find(model) is EMBEDDED
    assert catalogue.find("org/name").url == "http://x.test"
    assert catalogue.find("org/old").id == "org/name"


@pytest.mark.parametrize("model", ["org/unknown", "gpt2", "microsoft/DialoGPT-small"])
def test_embedded_does_not_answer_for_unknown_ids(model):
    error = raised(ModelNotFound, Catalogue.load(embedded=EMBEDDED).find, model)
    assert (error.code, error.param) == ("model_not_found", "model")
    assert all(words in error.message for words in (model, EMBEDDED.id, *S1_MODELS, "HUGGINGFACE_API_KEY"))
