"""The page in a browser that runs no script."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.browser.conftest import ADMIN_TOKEN, PATH, Tab, open_tab, sign_in
from tests.running import Agent, Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def plain(browser: Any, gateway: Gateway, agent: Agent) -> AsyncIterator[Tab]:
    """A workspace's page without a script."""
    await gateway.spend("w", 140, await gateway.register("w", agent.url))
    async with open_tab(browser, gateway, java_script_enabled=False) as tab:
        await tab.page.goto(gateway.url + PATH)
        yield tab


async def limits(tab: Tab) -> dict[str, int]:
    """The limits as the API tells them."""
    _, budget = await tab.gateway.json("GET", "/workspaces/w/budget")
    found: dict[str, int] = budget["budget_limits"]
    return found


async def test_limit_is_saved_by_its_row_and_all_by_enter(plain: Tab) -> None:
    await plain.type_limit("hourly", "4")
    await plain.page.locator('.save[value="hourly"]').click()
    await plain.shows(".notice", "Saved.")
    assert await limits(plain) == {"hourly": 400}

    await plain.type_limit("hourly", "")
    await plain.page.locator("#reason").fill("less noise")
    await plain.type_limit("weekly", "9", key="Enter")
    await plain.shows("#changes", "less noise")
    assert await limits(plain) == {"weekly": 900}
    await plain.shows("#changes", "Last 60 minutes: $4.00 → no limit")


async def test_what_is_wrong_stands_beside_its_field_and_all_texts_stay(plain: Tab) -> None:
    await plain.type_limit("hourly", "seven")
    await plain.type_limit("daily", "2")
    await plain.page.locator("#reason").fill("a reason")
    await plain.page.get_by_role("button", name="Save all").click()
    await plain.shows(".notice", "Nothing was saved.")
    await plain.shows("#error-hourly", "Write an amount in dollars")
    assert await plain.page.locator("#limit-hourly").input_value() == "seven"
    assert await plain.page.locator("#limit-daily").input_value() == "2"
    assert await plain.page.locator("#reason").input_value() == "a reason"
    assert await limits(plain) == {}


async def test_second_operator_is_told_and_overwrites_nothing(plain: Tab) -> None:
    await plain.gateway.limit("w", hourly=500)
    await plain.type_limit("hourly", "3")
    await plain.page.locator('.save[value="hourly"]').click()
    await plain.shows("#error-hourly", "Changed meanwhile to $5.00.")
    assert await limits(plain) == {"hourly": 500}
    await plain.page.locator('.save[value="hourly"]').click()
    await plain.shows(".notice", "Saved.")
    assert await limits(plain) == {"hourly": 300}


async def test_history_is_a_table_and_the_refusal_is_told(plain: Tab) -> None:
    await plain.gateway.limit("w", hourly=100)
    await plain.page.reload()
    await plain.shows("#alerts", "Over $0.40 leaves the window by")
    await plain.page.get_by_text("As a table").first.click()
    last = plain.page.locator("#table-hourly tr").last
    assert await last.locator("td").all_inner_texts() == ["$1.40", "$1.40", "refused"]


async def test_overview_searches_sorts_and_pages(plain: Tab, agent: Agent) -> None:
    for number in range(50):
        await plain.gateway.register(f"v{number:02}", agent.url)
    names = plain.page.locator("tbody th a")
    await plain.page.get_by_role("link", name="Workspaces").click()
    assert await names.first.inner_text() == "w"
    await plain.page.get_by_role("link", name="Workspace", exact=True).click()
    assert await names.first.inner_text() == "v00"
    await plain.page.get_by_role("link", name="Next").click()
    await plain.page.wait_for_url("**page=2**")
    await plain.page.get_by_text("51\N{EN DASH}51 of 51").wait_for()
    assert await names.all_inner_texts() == ["w"]
    await plain.page.get_by_role("searchbox").fill("V4")
    await plain.page.keyboard.press("Enter")
    await plain.page.wait_for_url("**q=V4**")
    assert await names.count() == 10


async def test_operator_signs_in_and_out(browser: Any, guarded: Gateway) -> None:
    async with open_tab(browser, guarded, java_script_enabled=False) as tab:
        await tab.page.goto(guarded.url)
        await sign_in(tab, ADMIN_TOKEN)
        await tab.shows("h1", "Workspaces")
        await tab.page.get_by_role("button", name="Sign out").click()
        await tab.shows("h1", "Sign in")
