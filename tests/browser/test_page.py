"""The Budget page in a real browser."""

import re
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from aiohttp import web

from gateway.core.money import dollars
from gateway.core.periods import PERIODS
from tests.browser.conftest import Tab, open_tab
from tests.running import Agent, Gateway, run_gateway, until

CALL = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {}}
PATH = "/ui/workspaces/w"


async def call(gateway: Gateway) -> int:
    """The status of a call that can cost money."""
    return (await gateway.json("POST", "/workspaces/w/a2a", CALL))[0]


async def test_four_rows_show_what_the_ledger_holds(tab: Tab, agent: Agent) -> None:
    gateway = tab.gateway
    await gateway.spend("w", 140, await gateway.register("w", agent.url))
    budget = await gateway.limit("w", hourly=100, weekly=5000)
    await tab.open(PATH)
    for period in PERIODS:
        window = budget["periods"][period.name]
        row = tab.page.locator(f'[data-period="{period.name}"]')
        assert await row.locator("h3").inner_text() == period.label.capitalize()
        assert await row.locator(".amount b").inner_text() == dollars(window["spend"])
        typed = await row.locator(f"#limit-{period.name}").input_value()
        assert typed == ("" if window["limit"] is None else str(window["limit"] // 100))
    bar = tab.page.locator("#figures-hourly [role=progressbar]")
    assert await bar.get_attribute("aria-valuetext") == "$1.40 of $1.00, over the limit"
    assert await bar.get_attribute("aria-valuenow") == "100"
    assert await tab.page.locator("#figures-daily [role=progressbar]").count() == 0


async def test_refusal_appears_live_and_a_raised_limit_lets_the_next_call_through(
    tab: Tab, agent: Agent
) -> None:
    gateway = tab.gateway
    token = await gateway.register("w", agent.url)
    await gateway.limit("w", hourly=100)
    await tab.open(PATH)
    assert await call(gateway) == 200
    await gateway.spend("w", 140, token)
    await tab.shows("#alerts", "New calls are refused.")
    assert await call(gateway) == 402

    field = tab.page.locator("#limit-hourly")
    await field.fill("3")
    await field.press("Enter")
    await tab.shows("#saved", "Saved.")
    assert await call(gateway) == 200
    await tab.page.locator("#alerts .alert").wait_for(state="detached")
    await tab.shows("#figures-hourly", "$1.60 remaining")


async def test_escape_takes_back_and_words_say_what_a_limit_means(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.gateway.limit("w", daily=700)
    await tab.open(PATH)
    field, meaning = tab.page.locator("#limit-daily"), tab.page.locator("#meaning-daily")
    save = tab.page.locator('.save[value="daily"]')
    assert not await save.is_visible()
    await field.fill("0")
    assert await meaning.inner_text() == "Blocks every call."
    assert await save.is_visible()
    await field.fill("")
    assert await meaning.text_content() == "No limit"
    await field.press("Escape")
    assert await field.input_value() == "7"
    assert not await save.is_visible()
    await field.fill("seven")
    await field.press("Enter")
    await tab.shows("#error-daily", "Write an amount in dollars")
    assert await field.get_attribute("aria-invalid") == "true"
    assert (await tab.gateway.json("GET", "/workspaces/w/budget"))[1]["budget_limits"] == {
        "daily": 700
    }


async def test_what_the_server_said_stands_beside_the_field(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    field = tab.page.locator("#limit-hourly")
    await field.fill("99999999999999")
    await field.press("Enter")
    await tab.shows("#error-hourly", "budget_limits.hourly must not be over")
    # The browser notes every answer of 400 in its console.
    assert len(tab.complaints) == 1
    tab.complaints.clear()


async def test_all_changed_limits_are_saved_at_once(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    for number, period in enumerate(PERIODS, start=1):
        await tab.page.locator(f"#limit-{period.name}").fill(f"{number}.50")
    await tab.page.get_by_role("button", name="Save all").click()
    await tab.shows("#saved", "Saved.")
    _, budget = await tab.gateway.json("GET", "/workspaces/w/budget")
    assert list(budget["budget_limits"].values()) == [150, 250, 350, 450]


async def test_second_operator_is_told_while_typing(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    field = tab.page.locator("#limit-hourly")
    await field.fill("3")
    await tab.gateway.limit("w", hourly=500)
    await tab.shows("#figures-hourly", "of $5.00")
    assert await field.input_value() == "3"
    await field.press("Enter")
    await tab.shows("#error-hourly", "Changed meanwhile to $5.00")
    assert (await tab.gateway.limit("w"))["budget_limits"] == {"hourly": 500}
    await field.press("Enter")
    await tab.shows("#saved", "Saved.")
    assert (await tab.gateway.limit("w"))["budget_limits"] == {"hourly": 300}


async def test_overview_lives_and_searches_and_sorts(tab: Tab, agent: Agent) -> None:
    gateway = tab.gateway
    tokens = {name: await gateway.register(name, agent.url) for name in ("alpha", "beta")}
    await tab.open("/")
    await gateway.spend("beta", 250, tokens["beta"])
    await tab.shows('[id="row:beta"]', "$2.50")
    await tab.page.get_by_role("link", name="Workspace", exact=True).click()
    assert await tab.page.locator("tbody th a").all_inner_texts() == ["alpha", "beta"]
    await tab.page.get_by_role("searchbox").fill("bet")
    await tab.page.get_by_role("searchbox").press("Enter")
    await tab.page.wait_for_url(re.compile("q=bet"))
    assert await tab.page.locator("tbody th a").all_inner_texts() == ["beta"]


async def test_keyboard_alone_reaches_a_limit_and_saves_it(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    for _ in range(20):
        await tab.page.keyboard.press("Tab")
        if await tab.page.evaluate("document.activeElement.id") == "limit-hourly":
            break
    await tab.page.keyboard.type("2.50")
    await tab.page.keyboard.press("Tab")
    await tab.page.keyboard.press("Enter")  # the button that appeared
    await tab.shows("#saved", "Saved.")
    assert (await tab.gateway.limit("w"))["budget_limits"] == {"hourly": 250}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1440])
async def test_pages_fit_and_axe_finds_nothing(
    browser: Any, gateway: Gateway, agent: Agent, scheme: str, width: int
) -> None:
    await gateway.spend("w", 140, await gateway.register("w", agent.url))
    await gateway.limit("w", hourly=100, daily=150, weekly=0, monthly=10_000)
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with aclosing(open_tab(browser, gateway, **options)) as tabs:
        tab = await anext(tabs)
        for path in ("/", PATH, "/?q=nothing", "/ui/workspaces/nobody"):
            await tab.page.goto(gateway.url + path)
            assert await tab.violations() == []
            overflow = "document.documentElement.scrollWidth - innerWidth"
            assert await tab.page.evaluate(overflow) <= 0
            background = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(15, 16, 19)") is (scheme == "dark")
        # The one page that is answered 404.
        assert len(tab.complaints) == 1


async def test_amounts_and_times_are_the_readers(
    browser: Any, gateway: Gateway, agent: Agent
) -> None:
    await gateway.spend("w", 123_456, await gateway.register("w", agent.url))
    async with aclosing(open_tab(browser, gateway, locale="de-DE")) as tabs:
        tab = await anext(tabs)
        await tab.open(PATH)
        amount = await tab.page.locator("#figures-hourly .amount b").inner_text()
        assert amount.replace("\N{NO-BREAK SPACE}", " ") == "1.234,56 $"


async def test_page_works_without_a_script(browser: Any, gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    async with aclosing(open_tab(browser, gateway, java_script_enabled=False)) as tabs:
        tab = await anext(tabs)
        await tab.page.goto(gateway.url + PATH)
        await tab.page.locator("#limit-hourly").fill("4")
        await tab.page.locator('.save[value="hourly"]').click()
        await tab.shows(".notice", "Saved.")
        assert (await gateway.limit("w"))["budget_limits"] == {"hourly": 400}
        assert tab.complaints == []


async def test_lost_connection_is_said_and_mended(tab: Tab, agent: Agent) -> None:
    token = await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    await tab.shows("#gateway", "Every call is checked.")
    await tab.page.context.set_offline(True)
    await tab.gateway.page_parts.live.close()
    await tab.shows("#connection", "Connection lost")
    tab.gateway.page_parts.live.is_closed = False
    await tab.gateway.spend("w", 140, token)
    await tab.page.context.set_offline(False)
    await tab.page.locator("#connection").wait_for(state="hidden", timeout=20_000)
    await tab.shows("#figures-hourly", "$1.40")
    tab.complaints.clear()  # the browser notes every failed attempt


async def test_operator_signs_in_and_is_told_when_the_session_ends(
    browser: Any, dsn: str, stack: AsyncExitStack
) -> None:
    environment = {"GATEWAY_AUTH__ADMIN_TOKENS": "an-admin-token"}
    gateway = await stack.enter_async_context(run_gateway(dsn, environment))
    async with aclosing(open_tab(browser, gateway)) as tabs:
        tab = await anext(tabs)
        page = tab.page
        await page.goto(gateway.url)
        assert await tab.violations() == []
        await page.get_by_label("Token", exact=True).fill("wrong")
        await page.get_by_role("button", name="Sign in").click()
        await tab.shows(".notice", "This is no admin token")
        await page.get_by_label("Token", exact=True).fill("an-admin-token")
        await page.keyboard.press("Enter")
        await tab.shows("h1", "Workspaces")
        await tab.shows("#gateway", "Every call is checked.")
        assert await page.evaluate("document.cookie") == ""

        live = gateway.page_parts.live
        await until(lambda: bool(live._viewers))
        await page.context.clear_cookies()
        await live.close()
        live.is_closed = False
        await tab.shows("#connection", "Signed out.")
        await page.get_by_role("link", name="Sign in again").click()
        await page.wait_for_url("**/ui/sign-in")


async def test_link_on_another_site_finds_the_operator_signed_in(
    browser: Any, dsn: str, agent: Agent, stack: AsyncExitStack
) -> None:
    environment = {"GATEWAY_AUTH__ADMIN_TOKENS": "an-admin-token"}
    gateway = await stack.enter_async_context(run_gateway(dsn, environment))

    async def link(_: web.Request) -> web.Response:
        text = f'<a href="{gateway.url}/?q=x">Budgets</a>'
        return web.Response(text=text, content_type="text/html")

    agent.respond = link
    # Another site than 127.0.0.1, though the same machine.
    elsewhere = agent.url.replace("127.0.0.1", "localhost")
    async with aclosing(open_tab(browser, gateway)) as tabs:
        page = (await anext(tabs)).page
        await page.goto(elsewhere)
        await page.get_by_role("link").click()
        await page.wait_for_url("**/ui/sign-in")
        await page.get_by_label("Token", exact=True).fill("an-admin-token")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Workspaces").wait_for()
        await page.goto(elsewhere)
        await page.get_by_role("link").click()
        await page.get_by_role("heading", name="Workspaces").wait_for()
        assert page.url == f"{gateway.url}/?q=x"
