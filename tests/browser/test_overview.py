"""The overview in a real browser."""

import asyncio
import re
from typing import Any

import pytest

from tests.browser.conftest import Tab, open_tab
from tests.running import Agent, Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAMES = "tbody th a"


async def names(tab: Tab) -> list[str]:
    """The workspaces of the page, in their order."""
    found: list[str] = await tab.page.locator(NAMES).all_inner_texts()
    return found


async def test_row_tells_state_spend_rate_and_forecast_as_they_change(
    tab: Tab, agent: Agent
) -> None:
    gateway = tab.gateway
    token = await gateway.register("w", agent.url)
    await gateway.register("silent", agent.url)
    await gateway.limit("w", hourly=100)
    await tab.open("/")
    row = '[id="row:w"]'
    await tab.shows(f"{row} .state", "No report")
    await gateway.spend("w", 50, token)
    await tab.shows(f"{row} .state", "In budget")
    await tab.shows(row, "$3.00 / h")  # ten minutes are measured
    await tab.shows(f'{row} [data-label="First limit reached"]', "10 min")
    await gateway.spend("w", 85, token)
    await tab.shows(f"{row} .state", "Near a limit")
    await gateway.spend("w", 140, token)
    await tab.shows(f"{row} .state", "Limit reached")
    await tab.shows(f'{row} [data-label="First limit reached"]', "now")
    await tab.shows(f'{row} [data-label="Last heartbeat"]', "s ago")
    bar = tab.page.locator(f"{row} [role=progressbar]")
    assert await bar.get_attribute("aria-valuetext") == "$1.40 of $1.00, over the limit"
    await tab.shows('[id="row:silent"] .state', "No report")


async def test_search_sort_and_pages_keep_each_other(tab: Tab, agent: Agent) -> None:
    gateway, page = tab.gateway, tab.page
    ids = [f"worker-{number:02}" for number in range(60)]
    tokens = await asyncio.gather(*(gateway.register(each, agent.url) for each in ids))
    await gateway.spend("worker-42", 250, tokens[42])
    await tab.open("/")
    assert (await names(tab))[0] == "worker-42"  # the top spender
    assert await page.locator('th[aria-sort="descending"]').inner_text() == "Last 30 days"

    await page.get_by_role("link", name="Workspace", exact=True).click()
    await page.locator('th[aria-sort="ascending"]').wait_for()
    assert await names(tab) == ids[:50]
    await page.get_by_role("link", name="Next").click()
    await page.wait_for_url(re.compile("page=2"))
    assert await names(tab) == ids[50:]
    assert "51\N{EN DASH}60 of 60" in await page.locator(".pages").inner_text()

    search = page.get_by_role("searchbox")
    await search.fill("WORKER-5")
    await search.press("Enter")
    await page.wait_for_url(re.compile("q=WORKER-5"))
    assert await names(tab) == ids[50:]  # still by name, from the first page on
    await page.get_by_role("searchbox").fill("nobody")
    await page.keyboard.press("Enter")
    await tab.shows(".empty", "No workspace's name or id has “nobody”.")


async def test_narrow_screen_sorts_too(browser: Any, gateway: Gateway, agent: Agent) -> None:
    for each in ("b", "a"):
        await gateway.register(each, agent.url)
    async with open_tab(browser, gateway, viewport={"width": 360, "height": 700}) as tab:
        await tab.open("/")
        await tab.page.get_by_role("link", name="Workspace", exact=True).click()
        await tab.page.locator('th[aria-sort="ascending"]').wait_for()
        assert await names(tab) == ["a", "b"]


async def test_workspaces_appear_and_go_by_themselves(tab: Tab, agent: Agent) -> None:
    gateway = tab.gateway
    await tab.open("/")
    await tab.shows(".empty", "POST /registry/register")
    token = await gateway.register("a", agent.url)
    await tab.shows(NAMES, "a")
    await tab.shows("#count", "1")
    # The stream is now of the new row.
    await gateway.spend("a", 250, token)
    await tab.shows('[id="row:a"]', "$2.50")
    await gateway.register("b", agent.url)
    await tab.shows(NAMES, "b")
    await gateway.json("DELETE", "/workspaces/b")
    await tab.page.locator(NAMES, has_text="b").wait_for(state="detached")
    assert await names(tab) == ["a"]
