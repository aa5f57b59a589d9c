"""The playground, as a person uses it."""

import base64
import json
import re
import time

import pytest
from playwright.sync_api import expect
from support.browser import serious, visit
from support.gateways import free_port, keyed, serve
from support.upstream import TEXT, saying

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
pytestmark = pytest.mark.browser
DIALECTS = ["/api/huggingface-chat", "/api/chat/completions", "/v1/chat/completions", "/v1/responses"]


def choose(page, model, column=0):
    box = page.get_by_label("Model", exact=True).nth(column)
    box.fill(model)
    box.press("Enter")


def say(page, text, model=None):
    if model:
        choose(page, model)
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def ask(page, text, model=None):
    """Say it, and wait until all of the answer is there."""
    say(page, text, model)
    expect(page.get_by_role("button", name="Send")).to_be_visible()  # in its place was Stop


def dialect(page, path):
    page.get_by_label("Dialect").select_option(path)


def bodies(upstream):
    return [call.body for call in upstream.posts]


# ---------------------------------------------------------------- asking


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", DIALECTS)
def test_each_dialect_answers(reader, upstream, path, stream):
    dialect(reader, path)
    reader.get_by_label("Stream").set_checked(stream)
    ask(reader, "hello", "test/ok")
    expect(reader.locator(".prose")).to_have_text(TEXT)
    assert bodies(upstream)[-1].get("stream", False) is stream
    expect(reader.locator(".answered-by")).to_have_text("test/ok")
    facts = reader.locator(".answer .facts")
    expect(facts).to_contain_text("tokens")
    expect(facts).to_contain_text("first token after" if stream else "whole answer after")
    expect(reader.locator(".details")).to_contain_text("Server-Timing")


def test_a_conversation_goes_on(reader, upstream):
    reader.get_by_label("System prompt").fill("Be brief.")
    ask(reader, "first", "test/ok")
    ask(reader, "second")
    said = [(message["role"], message["content"]) for message in bodies(upstream)[-1]["messages"]]
    assert said == [("system", "Be brief."), ("user", "first"), ("assistant", TEXT), ("user", "second")]


def test_the_parameters_that_are_set_are_sent_and_have_the_ranges_of_the_schema(reader, upstream):
    temperature = reader.get_by_label("temperature")
    assert (temperature.get_attribute("min"), temperature.get_attribute("max")) == ("0", "2")
    temperature.fill("0.5")
    reader.get_by_label("stop", exact=True).fill("one\ntwo")
    ask(reader, "hello", "test/ok")
    body = bodies(upstream)[-1]
    assert body["temperature"] == 0.5
    assert body["stop"] == ["one", "two"]
    assert "top_p" not in body


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_each_choice_is_shown_with_the_probabilities_of_its_tokens(reader, upstream, stream):
    dialect(reader, "/v1/chat/completions")
    reader.get_by_label("Stream").set_checked(stream)
    reader.get_by_label("n", exact=True).fill("3")
    reader.get_by_label("logprobs", exact=True).check()
    reader.get_by_label("logit_bias").fill('{"5": -100}')
    ask(reader, "hello", "test/ok")
    asked = {name: bodies(upstream)[-1][name] for name in ("n", "logprobs", "logit_bias")}
    assert asked == {"n": 3, "logprobs": True, "logit_bias": {"5": -100}}
    expect(reader.locator(".answer > .prose")).to_have_text(TEXT)
    expect(reader.locator(".choice .prose")).to_have_text([TEXT, TEXT])
    reader.get_by_text("Probabilities", exact=True).click()
    expect(reader.get_by_role("region", name="Probabilities").locator("tbody tr").first).to_contain_text("66.4%")
    reader.reload()
    expect(reader.locator(".choice .prose")).to_have_text([TEXT, TEXT])
    expect(reader.get_by_label("logprobs", exact=True)).to_be_checked()


def test_probabilities_are_asked_of_responses_too(reader, upstream):
    dialect(reader, "/v1/responses")
    reader.get_by_label("top_logprobs").fill("2")
    ask(reader, "hello", "test/ok")
    assert bodies(upstream)[-1]["top_logprobs"] == 2
    expect(reader.locator(".probabilities tbody tr")).not_to_have_count(0)


@pytest.mark.parametrize(
    "name, value, told", [("logit_bias", "5: -100", "must be an object"), ("temperature", "3", "must be from 0 to 2")]
)
def test_what_cannot_be_used_is_the_gateways_to_refuse(reader, upstream, name, value, told):
    reader.get_by_label(name).fill(value)
    ask(reader, "hello", "test/ok")
    expect(reader.get_by_role("alert")).to_contain_text(f"{name}: {told}")


def test_stop_closes_the_upstream_and_keeps_the_words(reader, upstream):
    say(reader, "hello", "test/slow")
    expect(reader.locator(".prose")).to_contain_text("tok3")
    reader.get_by_role("button", name="Stop").click()
    expect(reader.get_by_role("button", name="Send")).to_be_visible()
    stopped_at = time.monotonic()
    while (closed_at := upstream.calls[-1].client_closed_at) is None and time.monotonic() < stopped_at + 2:
        time.sleep(0.01)
    assert closed_at is not None and closed_at < stopped_at + 0.25
    assert not upstream.calls[-1].finished
    expect(reader.locator(".prose")).to_contain_text("tok3")
    expect(reader.locator(".answer .note")).to_contain_text("Stopped")


def test_two_models_answer_side_by_side(reader, upstream):
    choose(reader, "test/ok")
    reader.get_by_role("button", name="Compare").click()
    expect(reader.get_by_label("Model", exact=True)).to_have_count(2)
    choose(reader, "test/echo", column=1)
    say(reader, "what I said")
    expect(reader.locator(".prose")).to_have_text([TEXT, "what I said"])
    expect(reader.locator(".answered-by")).to_have_text(["test/ok", "test/echo"])
    left, right = (reader.locator(".answer").nth(n).bounding_box() for n in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    # Each goes on with its own words.
    say(reader, "and then")
    expect(reader.locator(".prose")).to_have_count(4)
    expect(reader.get_by_role("button", name="Send")).to_be_visible()
    histories = {body["model"]: body["messages"][1]["content"] for body in bodies(upstream)[-2:]}
    assert histories == {"test/ok": TEXT, "test/echo": "what I said"}


def test_a_picture_is_attached_and_sent(reader, upstream):
    reader.get_by_label("Attach image").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": PNG})
    expect(reader.get_by_role("img", name="Picture 1")).to_be_visible()
    ask(reader, "what is this?", "test/ok")
    [text, image] = bodies(upstream)[-1]["messages"][0]["content"]
    assert text == {"type": "text", "text": "what is this?"}
    assert base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,")) == PNG


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_picture_may_be_pasted_or_dropped(reader, way):
    reader.evaluate(
        """([way, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
            const event = { bubbles: true, cancelable: true };
            const [pasted, dropped] = [{ ...event, clipboardData: data }, { ...event, dataTransfer: data }];
            if (way === "paste") document.getElementById("message").dispatchEvent(new ClipboardEvent("paste", pasted));
            else document.getElementById("chat").dispatchEvent(new DragEvent("drop", dropped));
        }""",
        [way, list(PNG)],
    )
    expect(reader.get_by_role("img", name="Picture 1")).to_be_visible()


def test_what_is_no_picture_is_refused_in_words(reader):
    reader.get_by_label("Attach image").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
    expect(reader.get_by_role("alert")).to_contain_text("a.png is no picture")


# ---------------------------------------------------------------- what was said can be changed


def test_an_earlier_turn_is_edited_in_the_message_box(reader, upstream):
    ask(reader, "first", "test/echo")
    ask(reader, "second")
    reader.get_by_role("button", name="Edit").first.click()
    expect(reader.get_by_label("Message", exact=True)).to_have_value("first")
    ask(reader, "changed")
    expect(reader.locator(".said .plain")).to_have_text(["changed"])
    expect(reader.locator(".prose")).to_have_text(["changed"])


def test_an_edit_that_is_left_changes_nothing(reader, upstream):
    ask(reader, "first", "test/ok")
    reader.get_by_label("Message", exact=True).fill("half a thought")
    reader.get_by_role("button", name="Edit").click()
    reader.keyboard.press("Escape")
    expect(reader.get_by_label("Message", exact=True)).to_have_value("half a thought")
    expect(reader.locator(".said .plain")).to_have_text(["first"])


def test_retry_asks_again_with_the_same_words(reader, upstream):
    ask(reader, "hello", "test/ok")
    reader.get_by_role("button", name="Retry").click()
    expect(reader.get_by_role("button", name="Send")).to_be_visible()
    first, second = bodies(upstream)
    assert first == second
    expect(reader.locator(".answer")).to_have_count(1)


def test_what_is_deleted_comes_back_when_asked(reader, upstream):
    ask(reader, "hello", "test/ok")
    reader.get_by_role("button", name="Delete").first.click()
    expect(reader.locator(".turn")).to_have_count(0)
    reader.get_by_role("button", name="Undo").click()
    expect(reader.locator(".prose")).to_have_text(TEXT)


# ---------------------------------------------------------------- what stays


def test_conversation_model_and_draft_survive_a_reload(reader, upstream):
    choose(reader, "test/echo")  # before anything is said
    reader.reload()
    expect(reader.get_by_label("Model", exact=True)).to_have_value("test/echo")
    ask(reader, "hello", "test/ok")
    choose(reader, "test/echo")
    reader.get_by_label("Message", exact=True).fill("not sent yet")
    reader.reload()
    expect(reader.locator(".prose")).to_have_text(TEXT)
    expect(reader.get_by_label("Model", exact=True)).to_have_value("test/echo")
    expect(reader.get_by_label("Message", exact=True)).to_have_value("not sent yet")


def test_conversations_are_listed_and_chosen(reader, upstream):
    ask(reader, "the first one", "test/ok")
    reader.get_by_role("button", name="New conversation").click()
    ask(reader, "the second one")
    reader.get_by_role("link", name="the first one").click()
    expect(reader.locator(".said .plain")).to_have_text("the first one")


def test_an_exported_conversation_can_be_imported(reader, browser, gateway, upstream, tmp_path):
    ask(reader, "take me with you", "test/ok")
    with reader.expect_download() as download:
        reader.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "conversation.json")
    with visit(browser, gateway.url) as elsewhere:
        elsewhere.get_by_label("Import").set_input_files(tmp_path / "conversation.json")
        expect(elsewhere.locator(".said .plain")).to_have_text("take me with you")
        expect(elsewhere.locator(".prose")).to_have_text(TEXT)
        expect(elsewhere.get_by_label("Model", exact=True)).to_have_value("test/ok")


GOOD = {"id": "", "title": "", "updated": 1, "dialect": "/v1/chat/completions", "system": "", "stream": True}
GOOD |= {"parameters": {}, "models": ["test/ok"], "turns": [{"text": "hi", "images": [], "answers": []}]}
SPY = {"text": "", "images": ["http://127.0.0.1:9/spy.png"], "answers": []}
FILE = {"format": "chatapi.conversation", "version": 1, "conversation": GOOD}
NO_CONVERSATIONS = {
    "no JSON": "no json",
    "a list": [],
    "null": None,
    "a request": {"model": "test/ok", "messages": []},
    "another version": {**FILE, "version": 2},
    "a turn that is none": {**FILE, "conversation": {**GOOD, "turns": [1]}},
    "a picture elsewhere": {**FILE, "conversation": {**GOOD, "turns": [SPY]}},
}


@pytest.mark.parametrize("content", NO_CONVERSATIONS.values(), ids=NO_CONVERSATIONS)
def test_a_file_that_is_no_conversation_is_refused(reader, content):
    file = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    reader.get_by_label("Import").set_input_files({"name": "x.json", "mimeType": "application/json", "buffer": file})
    expect(reader.get_by_role("alert")).to_contain_text("x.json is no conversation")
    expect(reader.locator(".turn")).to_have_count(0)


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("model", ["test/loading", "test/content-filter", "test/reset", "nobody/has-this"])
def test_an_error_is_shown_in_the_gateways_own_words(reader, gateway, upstream, path, model):
    dialect(reader, path)
    reader.get_by_label("Stream").uncheck()  # else a heartbeat may go out before the error does
    choose(reader, model)
    reader.get_by_label("Message", exact=True).fill("what I wrote")
    with reader.expect_response(f"**{path}") as told:
        reader.get_by_role("button", name="Send").click()
    error = told.value.json()["error"]
    alert = reader.get_by_role("alert")
    expect(alert).to_contain_text(error["message"])
    expect(alert.get_by_role("link", name=error["code"])).to_have_attribute("href", f"/docs#{error['code']}")
    expect(reader.locator(".said .plain")).to_have_text("what I wrote")
    if model == "test/loading":
        seconds = int(told.value.headers["retry-after"])
        expect(alert).to_contain_text(re.compile(rf"Try again in ({seconds}|{seconds - 1}) s"))


@pytest.mark.parametrize("path", DIALECTS)
def test_a_cut_stream_keeps_its_words(reader, upstream, path):
    dialect(reader, path)
    ask(reader, "hello", "test/cut")
    expect(reader.locator(".prose")).not_to_be_empty()
    expect(reader.get_by_role("alert")).not_to_be_empty()
    expect(reader.locator(".answer .note")).to_contain_text("broke off")


def test_without_network_nothing_is_lost(reader, upstream):
    choose(reader, "test/ok")
    reader.context.set_offline(True)
    expect(reader.get_by_text("There is no network. What you write stays here.")).to_be_visible()
    ask(reader, "what I wrote")
    expect(reader.get_by_role("alert")).to_contain_text("There is no network")
    reader.context.set_offline(False)
    reader.get_by_role("button", name="Retry").click()
    expect(reader.locator(".prose")).to_have_text(TEXT)
    reader.complaints[:] = [text for text in reader.complaints if "ERR_INTERNET_DISCONNECTED" not in text]


def test_a_limit_says_how_long_it_lasts(browser, gateway_env, upstream):
    with serve({**gateway_env, "CHATAPI_ANONYMOUS_LIMITS": "rpm=1"}) as limited, visit(browser, limited.url) as page:
        ask(page, "first", "test/ok")
        ask(page, "second")
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text(re.compile(r"Try again in \d+ s"))
        left = int(re.search(r"Try again in (\d+) s", alert.inner_text())[1])
        assert 0 < left <= 60
        expect(alert).to_contain_text(f"Try again in {left - 2} s")
        expect(page.locator(".said .plain").last).to_have_text("second")


def test_a_database_that_is_away_is_told(browser, gateway_env, upstream):
    away = {
        "DATABASE_URL": f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none",
        "CHATAPI_ANONYMOUS_LIMITS": "rpm=9",
    }
    with serve({**gateway_env, **away}) as without, visit(browser, without.url) as page:
        ask(page, "what I wrote", "test/ok")
        expect(page.get_by_role("alert").get_by_role("link", name="store_unavailable")).to_be_visible()
        expect(page.locator(".said .plain")).to_have_text("what I wrote")


def test_an_upstream_without_models_leaves_the_catalogues(browser, gateway_env, upstream):
    with (
        serve({**gateway_env, "HUGGINGFACE_BASE_URL": f"http://127.0.0.1:{free_port()}"}) as alone,
        visit(browser, alone.url) as page,
    ):
        page.get_by_label("Model", exact=True).click()
        expect(page.get_by_role("option", name="microsoft/DialoGPT-medium")).to_be_visible()
        ask(page, "hello", "somebody/chat")
        expect(page.get_by_role("alert").get_by_role("link", name="upstream_unavailable")).to_be_visible()


def test_an_empty_list_says_what_to_do(reader):
    reader.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": []}))
    reader.reload()
    expect(reader.get_by_text("The gateway lists no models. Write the id of one above.")).to_be_visible()


# ---------------------------------------------------------------- keys


@pytest.fixture(scope="module")
def locked(gateway_env):
    with serve({**gateway_env, **keyed("sk-the-key")}) as running:
        yield running


def test_a_key_is_asked_for_and_stays_in_its_tab(browser, locked, upstream):
    with visit(browser, locked.url) as page:
        expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
        page.get_by_label("API key").fill("sk-wrong")
        page.get_by_label("API key").press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not known here")
        page.get_by_label("API key").fill("sk-the-key")
        page.get_by_label("API key").press("Enter")
        expect(page.get_by_role("alert")).to_have_count(0)
        ask(page, "hello", "test/ok")
        expect(page.locator(".prose")).to_have_text(TEXT)
        page.get_by_role("button", name="curl").click()
        expect(page.locator("#code")).to_contain_text("CHATAPI_API_KEY")
        assert "sk-the-key" not in page.content() + page.url
        assert "sk-the-key" not in page.evaluate("JSON.stringify(localStorage)") + page.evaluate("document.cookie")
        page.reload()
        expect(page.get_by_label("API key")).to_have_value("sk-the-key")
        other = page.context.new_page()
        other.goto(locked.url)
        expect(other.get_by_label("API key")).to_have_value("")


# ---------------------------------------------------------------- what models say is text

HOSTILE = """\
<script>document.title = "owned"</script> and <b onclick="alert(1)">bold</b>

<img src=x onerror="document.title='owned'"> ![spy](http://127.0.0.1:9/spy.png)

[click](javascript:document.title='owned') [data](data:text/html,x) [good](https://example.com/a?b=1&c=2)

<https://example.org> &lt;i&gt; **unclosed `code

| broken | table
|---"""


def test_html_scripts_and_bad_links_stay_text(reader, upstream):
    upstream.behave("test/hostile", saying(HOSTILE))
    asked = []
    reader.on("request", lambda request: asked.append(request.url))
    ask(reader, "<i>said</i> <script>document.title='owned'</script>", "test/hostile")
    prose = reader.locator(".prose")
    for words in (
        '<script>document.title = "owned"</script>',
        '<b onclick="alert(1)">bold</b>',
        "<img src=x onerror=",
        "[click](javascript:document.title='owned')",
        "[data](data:text/html,x)",
        "| broken | table",
    ):
        expect(prose).to_contain_text(words)
    expect(reader.locator(".said .plain")).to_have_text("<i>said</i> <script>document.title='owned'</script>")
    links = prose.get_by_role("link").evaluate_all("all => all.map(link => link.getAttribute('href'))")
    assert links == ["http://127.0.0.1:9/spy.png", "https://example.com/a?b=1&c=2", "https://example.org"]
    assert prose.locator("img, script, b, iframe").count() == 0
    assert reader.title() == "Playground · chatapi"
    assert not [url for url in asked if "spy" in url]


MARKDOWN = """\
# Title

1. one
2. *two* `code` [link](https://example.com)

```python
def f(): return 1  # a comment
```

| a | b |
|---|---|
| 1 | 2 |
"""


def test_markdown_is_set_and_code_has_colours(reader, upstream):
    upstream.behave("test/markdown", saying(MARKDOWN))
    ask(reader, "hello", "test/markdown")
    expect(reader.get_by_role("heading", name="Title", level=3)).to_be_visible()
    expect(reader.locator(".prose ol > li")).to_have_text(["one", "two code link"])
    expect(reader.locator(".prose pre .hljs-keyword").first).to_have_text("def")
    expect(reader.get_by_role("cell", name="2")).to_be_visible()


def test_right_to_left_text_runs_so_and_a_very_long_answer_is_shown_whole(reader, upstream):
    upstream.behave("test/rtl", saying("مرحبا بالعالم\n\nand English"))
    ask(reader, "שלום", "test/rtl")
    directions = reader.locator(".prose p, .said p").evaluate_all(
        "all => all.map(one => getComputedStyle(one).direction)"
    )
    assert directions == ["rtl", "rtl", "ltr"]
    reader.get_by_role("button", name="New conversation").click()
    long = "\n\n".join(f"Paragraph {n} of **many**, with some words in it." for n in range(2000))
    upstream.behave("test/long", saying(long))
    say(reader, "hello", "test/long")
    expect(reader.locator(".prose > p")).to_have_count(2000, timeout=20_000)


# ---------------------------------------------------------------- everybody


def test_a_reader_of_portuguese_reads_portuguese(browser, gateway, upstream):
    with visit(browser, gateway.url, language="pt-BR") as page:
        assert page.locator("html").get_attribute("lang") == "pt-BR"
        for role, name in (
            *(("button", name) for name in ("Enviar", "Comparar", "Exportar", "curl", "Python", "JavaScript")),
            *(("combobox", name) for name in ("Modelo", "Idioma", "Dialeto")),
            *(("textbox", name) for name in ("Mensagem", "Prompt de sistema", "Chave de API")),
        ):
            expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()
        for name in ("Anexar imagem", "Importar"):
            expect(page.get_by_label(name, exact=True)).to_be_attached()


def test_the_language_chosen_outranks_the_browsers_and_stays(reader):
    reader.get_by_label("Language").select_option("pt-BR")
    expect(reader.get_by_role("button", name="Enviar")).to_be_visible()
    reader.reload()
    expect(reader.get_by_label("Idioma")).to_have_value("pt-BR")
    reader.get_by_label("Idioma").select_option("en")
    expect(reader.get_by_role("button", name="Send")).to_be_visible()


STATES = {
    "new": lambda page, upstream: None,
    "answered": lambda page, upstream: ask(page, "hello", "test/markdown"),
    "failed": lambda page, upstream: ask(page, "hello", "test/loading"),
    "list": lambda page, upstream: page.get_by_label("Model", exact=True).click(),
    "code": lambda page, upstream: (
        page.get_by_role("button", name="curl").click(),
        page.locator("#code pre").wait_for(),
    ),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, gateway, upstream, state, scheme):
    upstream.behave("test/markdown", saying(MARKDOWN))
    with visit(browser, gateway.url, color_scheme=scheme) as page:
        STATES[state](page, upstream)
        assert serious(page) == []


@pytest.mark.parametrize("phone", [False, True])
def test_what_is_painted_before_the_scripts_come_stays_where_it_is(browser, gateway, upstream, phone):
    with visit(browser, gateway.url, phone=phone) as page:
        expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
        places = {name: page.locator(name).bounding_box() for name in ("#send", "#compare", "#chat")}
        expect(page.locator("#parameters input").first).to_be_visible(visible=not phone)
        page.add_init_script("window.requestAnimationFrame = () => 0")
        page.reload()
        assert page.locator("#later").count() == 1, "the scripts have not come"
        for name, place in places.items():
            before = page.locator(name).bounding_box()
            assert all(abs(before[side] - place[side]) <= 3 for side in place), (name, before, place)


def test_dark_is_dark(browser, gateway, upstream):
    for scheme, dark in (("light", False), ("dark", True)):
        with visit(browser, gateway.url, color_scheme=scheme) as page:
            assert is_dark(page) is dark
            page.get_by_role("button", name="Dark or light").click()
            assert is_dark(page) is not dark
            page.reload()
            assert is_dark(page) is not dark


def is_dark(page):
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) < 3 * 128


def test_a_phone_is_large_enough(browser, gateway, upstream):
    with visit(browser, gateway.url, phone=True) as page:
        ask(page, "hello", "test/ok")
        expect(page.locator(".prose")).to_have_text(TEXT)
        assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        expect(page.get_by_label("System prompt")).to_be_hidden()
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("System prompt").fill("Be brief.")
        page.keyboard.press("Escape")
        expect(page.get_by_label("System prompt")).to_be_hidden()


def test_the_keyboard_reaches_everything(reader, upstream):
    reader.keyboard.type("hello")  # the message box has the focus
    choose(reader, "test/ok")
    reader.get_by_label("Message", exact=True).press("Enter")
    expect(reader.locator(".prose")).to_have_text(TEXT)
    box = reader.get_by_label("Model", exact=True)
    box.fill("test/ech")
    box.press("ArrowDown")
    box.press("Enter")
    expect(box).to_have_value("test/echo")


def test_the_page_is_light(browser, gateway, upstream):
    sizes = {}
    with visit(browser, gateway.url, "/healthz") as page:
        page.on("requestfinished", lambda request: sizes.update({request.url: request.sizes()["responseBodySize"]}))
        page.goto(gateway.url + "/", wait_until="networkidle")
    own = {url: size for url, size in sizes.items() if not url.endswith("/v1/models")}
    assert min(own.values()) > 0, "nothing came from a cache"
    assert sum(own.values()) <= 150_000, own
    assert sum(sizes.values()) <= 400_000, sizes
