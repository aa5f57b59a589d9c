"""The reference and the guides, as a person reads them and runs their examples."""

import pytest
from playwright.sync_api import expect
from support.browser import serious, visit
from support.upstream import TEXT

from chatapi.errors import error_classes
from chatapi.schemas.dialect import MODEL

pytestmark = pytest.mark.browser
ROUTE = "post-v1-chat-completions"


@pytest.fixture
def docs(browser, gateway, upstream):
    """Somebody at the reference; the model of its examples answers."""
    upstream.behave(MODEL, "ok")
    with visit(browser, gateway.url, "/docs") as page:
        yield page


def operation(page, anchor=ROUTE):
    return page.locator("section.operation", has=page.locator(f"#{anchor}"))


@pytest.mark.parametrize("stream", [False, True])
def test_an_example_runs_in_place(docs, upstream, stream):
    route = operation(docs)
    route.get_by_label("as a stream").set_checked(stream)
    route.get_by_role("button", name="Run").click()
    expect(route.locator(".result .hint")).to_contain_text("Status 200 after")
    expect(route.locator(".result pre")).to_contain_text("[DONE]" if stream else TEXT)
    expect(route.get_by_role("button", name="Run")).to_be_enabled()
    expect(route.get_by_role("button", name="Stop")).to_be_hidden()
    [asked] = [call.body for call in upstream.posts]
    assert asked.get("stream", False) is stream


@pytest.mark.parametrize("anchor", ["post-v1-responses", "post-api-chat-completions", "get-v1-models", "get-healthz"])
def test_the_other_examples_run_too(docs, anchor):
    route = operation(docs, anchor)
    route.get_by_role("button", name="Run").click()
    expect(route.locator(".result .hint")).to_contain_text("Status 200 after")


def test_an_example_that_is_changed_for_the_worse_shows_the_gateways_answer(docs):
    route = operation(docs)
    route.get_by_label("Request body").fill('{"model": ')
    route.get_by_role("button", name="Run").click()
    expect(route.locator(".result .hint")).to_contain_text("Status 400")
    expect(route.locator(".result.failed pre")).to_contain_text('"code": "invalid_json"')


def test_a_run_can_be_stopped(docs, upstream):
    upstream.behave(MODEL, "slow")
    route = operation(docs)
    route.get_by_label("as a stream").check()
    route.get_by_role("button", name="Run").click()
    expect(route.locator(".result pre")).to_contain_text("tok3")
    route.get_by_role("button", name="Stop").click()
    expect(route.get_by_role("button", name="Run")).to_be_enabled()
    expect(route.locator(".result pre")).to_contain_text("tok3")
    expect(route.locator(".result .hint")).to_contain_text("Stopped")


def test_a_run_without_network_says_so(docs):
    docs.context.set_offline(True)
    route = operation(docs)
    route.get_by_role("button", name="Run").click()
    expect(route.locator(".result.failed pre")).to_contain_text("There is no network")
    docs.complaints[:] = [text for text in docs.complaints if "ERR_INTERNET_DISCONNECTED" not in text]


def test_each_error_code_has_an_anchor(browser, gateway, upstream):
    with visit(browser, gateway.url, "/docs#model_loading") as page:
        expect(page.locator("#model_loading")).to_be_in_viewport()
        ids = set(page.locator(".error-code h3").evaluate_all("all => all.map(one => one.id)"))
        assert ids == {kind.code for kind in error_classes()}


def test_every_link_to_a_place_of_the_page_has_its_place(docs):
    places = docs.locator("a[href^='#']").evaluate_all("all => all.map(one => one.hash.slice(1))")
    assert places
    assert [id for id in places if docs.locator(f"[id='{id}']").count() != 1] == []


def test_a_guide_is_portuguese_after_the_language_is_switched(docs):
    docs.get_by_role("link", name="Errors").last.click()
    expect(docs.get_by_role("heading", level=1)).to_have_text("Errors")
    docs.get_by_label("Language").select_option("pt-BR")
    expect(docs.get_by_role("heading", level=1)).to_have_text("Erros")
    assert docs.locator("html").get_attribute("lang") == "pt-BR"
    docs.get_by_role("link", name="Referência").click()
    expect(operation(docs).get_by_role("button", name="Executar")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "scheme"),
    [("/docs", "light"), ("/docs", "dark"), ("/docs/api", "light"), ("/docs/performance", "dark")],
)
def test_axe_finds_nothing_serious(browser, gateway, upstream, path, scheme):
    upstream.behave(MODEL, "ok")
    with visit(browser, gateway.url, path, color_scheme=scheme) as page:
        if path == "/docs":
            operation(page).get_by_role("button", name="Run").click()
            expect(operation(page).locator(".result pre")).to_contain_text(TEXT)
            page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert serious(page) == []


@pytest.mark.parametrize("path", ["/docs", "/docs/api", "/docs/settings", "/docs/performance"])
def test_a_phone_is_wide_enough(browser, gateway, upstream, path):
    with visit(browser, gateway.url, path, phone=True) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
