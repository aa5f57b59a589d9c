"""The dashboard, as an operator looks at it."""

import re
from dataclasses import replace

import pytest
from playwright.sync_api import expect
from support.browser import serious, visit
from support.gateways import serve

from chatapi import create_app
from chatapi.caller import NO_LIMITS

pytestmark = pytest.mark.browser
ASK = {"model": "test/ok", "messages": [{"role": "user", "content": "hi"}]}
SHOWS_WITHIN_MS = 15_000
CHARTS = ("Calls", "Tokens", "Time to the first token", "Time of whole calls")
TABLES = ("By key", "By model", "Errors", "Open circuits", "Limits near exhaustion", "Who still calls the legacy route")


@pytest.fixture(scope="module")
def keys(base_settings, tmp_path_factory):
    """Name → key, of an administrator and of somebody who is none; and where the database with them is."""
    url = f"sqlite:///{tmp_path_factory.mktemp('dashboard')}/chatapi.db"
    store = create_app(replace(base_settings, database_url=url)).extensions["chatapi"].keys
    made = {name: store.create(name, NO_LIMITS, [], None, name == "boss")[1] for name in ("boss", "worker")}
    return {**made, "url": url}


@pytest.fixture(scope="module")
def locked(gateway_env, keys):
    with serve({**gateway_env, "CHATAPI_AUTH": "required", "DATABASE_URL": keys["url"]}) as running:
        yield running


def call(gateway, keys, **more):
    return gateway.post("/v1/chat/completions", {**ASK, **more}, headers={"Authorization": f"Bearer {keys['worker']}"})


def show(page, key):
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Show").click()


@pytest.fixture
def dashboard(browser, locked, keys, upstream):
    """An administrator at the dashboard, after a call that went well and one that did not."""
    assert call(locked, keys).status_code == 200
    assert call(locked, keys, temperature=9).status_code == 400
    with visit(browser, locked.url, "/dashboard") as page:
        show(page, keys["boss"])
        expect(page.locator("#panels")).to_be_visible()
        yield page


# ---------------------------------------------------------------- who may see it


@pytest.mark.parametrize("who", ["worker", "nobody"])
def test_it_asks_for_a_key_and_one_that_may_not_see_it_is_told_so_in_the_gateways_words(browser, locked, keys, who):
    with visit(browser, locked.url, "/dashboard") as page:
        expect(page.get_by_label("API key")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.locator("#panels")).to_be_hidden()
        with page.expect_response(lambda response: "authorization" in response.request.headers) as told:
            show(page, keys.get(who, "sk-wrong"))
        expect(page.get_by_role("alert")).to_have_text(told.value.json()["error"]["message"])
        expect(page.get_by_label("API key")).to_be_visible()
        expect(page.locator("#panels")).to_be_hidden()
        show(page, keys["boss"])
        expect(page.locator("#panels")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)


# ---------------------------------------------------------------- what it shows


def test_an_administrator_sees_charts_and_tables(dashboard):
    expect(dashboard.get_by_label("API key")).to_be_hidden()
    for title in CHARTS:
        figure = dashboard.get_by_role("figure").filter(has=dashboard.get_by_text(title, exact=True))
        drawn = figure.locator("canvas").evaluate(
            "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
        )
        assert drawn, title
        figure.get_by_text("As a table").click()
        expect(figure.get_by_role("columnheader", name="Time")).to_be_visible()
    for title in TABLES:
        expect(dashboard.get_by_role("heading", name=title, exact=True)).to_be_visible()
    row = dashboard.locator("#table-keys").get_by_role("row", name="worker")
    expect(row.get_by_role("cell").first).not_to_have_text("0")
    expect(dashboard.locator("#table-models").get_by_role("rowheader", name="test/ok")).to_be_visible()
    expect(dashboard.locator("#table-errors").get_by_role("rowheader", name="invalid_request")).to_be_visible()


def test_a_new_call_shows_by_itself(dashboard, locked, keys):
    before = int(dashboard.locator("#all-calls").inner_text())
    assert call(locked, keys).status_code == 200
    expect(dashboard.locator("#all-calls")).to_have_text(str(before + 1), timeout=SHOWS_WITHIN_MS)


def test_another_range_and_key_are_asked_for(dashboard):
    with dashboard.expect_response("**/dashboard/data/calls?*key=*") as asked:
        dashboard.get_by_role("combobox", name="Key", exact=True).select_option("worker")
    assert asked.value.ok
    with dashboard.expect_response("**/dashboard/data/calls?*") as asked:
        dashboard.get_by_label("Time range").select_option("1 day")
    since, until = (int(re.search(rf"{name}=(\d+)", asked.value.url)[1]) for name in ("from", "to"))
    assert until - since == 86_400


# ---------------------------------------------------------------- everybody


@pytest.mark.parametrize(("phone", "scheme"), [(True, "light"), (False, "dark")])
def test_axe_finds_nothing_serious_on_any_screen(browser, locked, keys, upstream, phone, scheme):
    call(locked, keys)
    with visit(browser, locked.url, "/dashboard", phone=phone, color_scheme=scheme) as page:
        show(page, "sk-wrong")
        expect(page.get_by_role("alert")).to_be_visible()
        assert serious(page) == []
        show(page, keys["boss"])
        expect(page.locator("#panels")).to_be_visible()
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert serious(page) == []
        if phone:
            assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]


def test_its_charts_take_the_dark_colours_at_once(dashboard):
    axes = "canvas => canvas.toDataURL()"
    light = dashboard.locator("#chart-calls canvas").evaluate(axes)
    dashboard.get_by_role("button", name="Dark or light").click()
    background = dashboard.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128
    expect(dashboard.locator("#chart-calls canvas")).to_be_visible()
    assert dashboard.locator("#chart-calls canvas").evaluate(axes) != light


def test_it_speaks_portuguese(browser, locked, keys, upstream):
    call(locked, keys)
    with visit(browser, locked.url, "/dashboard", language="pt-BR") as page:
        page.get_by_label("Chave de API").fill(keys["boss"])
        page.get_by_role("button", name="Mostrar").click()
        expect(page.get_by_role("heading", name="Por modelo")).to_be_visible()
