"""README and guides keep to the code: routes, settings, models and errors are those that exist, in both languages."""

import re
import tomllib

import pytest
from support.gateways import ROOT

from chatapi import errors
from chatapi.catalogue import _RULES, Catalogue
from chatapi.settings import FIELDS, INTERNAL

ENGLISH, PORTUGUESE = "README.md", "README.pt-BR.md"
TWINS = ("README", *(f"docs/{name}" for name in ("api", "settings", "models", "errors", "keys", "architecture")))
FILES = {
    language: {name: (ROOT / name).read_text(encoding="utf-8") for name in (f"{stem}{suffix}.md" for stem in TWINS)}
    for language, suffix in ((ENGLISH, ""), (PORTUGUESE, ".pt-BR"))
}
TEXTS = {language: "\n".join(files.values()) for language, files in FILES.items()}
PAGES = [(language, name) for language, files in FILES.items() for name in files]
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
EITHER = pytest.mark.parametrize("readme", [ENGLISH, PORTUGUESE])

SETTINGS, ERRORS, KEYS = ("name", "nome"), ("code", "código"), ("key", "chave")


def blocks(page):
    """Language and text of each code block, without the prose of comments and the blanks before it."""
    return [(m["language"], re.sub(r"[ \t]*# .*", "", m["text"])) for m in BLOCK.finditer(TEXTS[page])]


def table(readme, heads):
    """The cells of the rows under the table whose first head is one of `heads`."""
    lines = BLOCK.sub("", TEXTS[readme]).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(tuple(f"| {head} |" for head in heads)))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def code_in(cell):
    return re.findall(r"`([^`]+)`", cell)


def outline(readme):
    """Its sections: their depth, and what in them is no prose."""
    titles = re.findall(r"^(#+) (.+)$", BLOCK.sub("", TEXTS[readme]), re.MULTILINE)
    return [(len(marks), title if title.startswith(("POST /", "GET /")) else "") for marks, title in titles]


def every_error(kind=errors.ChatError):
    """Every error that is ever rendered: nobody reads what a caller who left would get."""
    below = [error for sub in kind.__subclasses__() for error in every_error(sub)]
    return [error for error in (kind, *below) if error is not errors.ClientLeft]


@pytest.mark.parametrize("page", TEXTS)
def test_every_curl_names_a_route_that_exists(page, app):
    commands = re.findall(r"^curl (.*?)http://127\.0\.0\.1:8000(/\S*)(.*)$", TEXTS[page], re.MULTILINE)
    assert commands
    adapter = app.url_map.bind("127.0.0.1")
    for _, path, rest in commands:
        assert adapter.test(path, "POST" if " -d " in rest else "GET"), path


@EITHER
def test_every_route_for_programs_is_shown(readme, app):
    shown = set(re.findall(r"(?:GET|POST) /[^` ]*", TEXTS[readme]))
    for rule in app.url_map.iter_rules():
        (method,) = rule.methods - {"HEAD", "OPTIONS"}
        path = rule.rule.replace("<path:model>", "<id>")
        if path.startswith(("/static/", "/playground/", "/dashboard/data/", "/v1/responses/")):
            continue  # of our own pages, or refused
        assert f"{method} {path}" in shown, path


@EITHER
def test_the_settings_are_all_there_in_order_with_their_defaults(readme):
    rows = table(readme, SETTINGS)
    assert [code_in(row[0])[0] for row in rows] == [name for name in FIELDS if name not in INTERNAL]
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert {code_in(row[0])[0]: (code_in(row[1]) or [""])[0] for row in rows} == example


@EITHER
def test_every_error_is_there_with_its_statuses(readme):
    rows = {code_in(row[0])[0]: tuple(map(int, row[2:4])) for row in table(readme, ERRORS)}
    assert rows == {error.code: (error.api_status, error.status) for error in every_error()}


@EITHER
def test_every_model_of_the_catalogue_is_mentioned(readme):
    for model in Catalogue.load().cards:
        assert f"`{model}`" in TEXTS[readme]


@EITHER
def test_the_keys_of_the_catalogue_are_all_there(readme):
    assert [code_in(row[0])[0] for row in table(readme, KEYS)] == list(_RULES)


@EITHER
def test_the_example_of_a_catalogue_can_be_used(readme, tmp_path):
    (example,) = [m["text"] for m in BLOCK.finditer(TEXTS[readme]) if m["language"] == "toml"]
    (tmp_path / "catalogue.toml").write_text(example, encoding="utf-8")
    cards = Catalogue.load(tmp_path / "catalogue.toml").cards
    assert tomllib.loads(example)["models"].keys() <= cards.keys()


def anchors_of(text):
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("language, page", PAGES)
def test_links_within_the_project_lead_somewhere(language, page):
    text = FILES[language][page]
    for target in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", text)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors_of(found.read_text(encoding="utf-8")), target


def test_both_readmes_are_short_with_the_same_sections_commands_and_outputs():
    assert outline(ENGLISH) == outline(PORTUGUESE)
    assert blocks(ENGLISH) == blocks(PORTUGUESE)
    assert all(len(FILES[page][page].splitlines()) <= 150 for page in (ENGLISH, PORTUGUESE))
