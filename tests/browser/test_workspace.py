"""A workspace's page in a real browser: what it shows, and how it stays true."""

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from gateway.core.money import dollars
from gateway.core.periods import PERIODS
from tests.browser.conftest import PATH, Tab, open_tab
from tests.running import Agent, Gateway
from tests.storage.rows import add_rows
from tests.storage.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALL = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {}}


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
    assert await bar.locator(".mark").count() == 2  # 80 and 100 %
    assert await tab.page.locator("#figures-daily [role=progressbar]").count() == 0


async def test_row_tells_its_rate_what_remains_and_when_it_is_full(tab: Tab, agent: Agent) -> None:
    gateway = tab.gateway
    await gateway.spend("w", 50, await gateway.register("w", agent.url))
    await gateway.limit("w", hourly=100, monthly=10_000)
    await tab.open(PATH)
    await tab.shows("#figures-hourly", "$0.50 remaining")
    await tab.shows("#figures-hourly", "$3.00 / h over the last 10 min")
    await tab.shows("#figures-hourly .forecast", "At this rate: full in 10 min")
    # What is spent at this rate leaves the window before it is full.
    await tab.shows("#figures-monthly .forecast", "At this rate: never full")
    assert await tab.page.locator("#figures-daily .forecast").count() == 0


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
    said = await tab.page.locator("#alerts").inner_text()
    assert "Last 60 minutes: $1.40 of $1.00, refused since " in said
    assert "Over $0.40 leaves the window by " in said

    await tab.type_limit("hourly", "3", key="Enter")
    await tab.shows("#saved", "Saved.")
    assert await call(gateway) == 200
    await tab.page.locator("#alerts .alert").wait_for(state="detached")
    await tab.shows("#figures-hourly", "$1.60 remaining")


async def test_history_draws_spend_limit_and_refusals_and_has_them_as_a_table(
    tab: Tab, agent: Agent, connection: asyncpg.Connection
) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.gateway.limit("w", daily=250)
    now = await connection.fetchval("SELECT now()")
    await add_rows(connection, "w", [(now - timedelta(hours=ago), 150) for ago in (9, 6, 3)])
    await tab.open(PATH)
    charts = tab.page.locator("svg.chart")
    assert await charts.count() == len(PERIODS)
    daily = tab.page.locator("#chart-daily svg")
    assert await daily.locator(".spent").count() == 3
    assert await daily.locator(".limit-line").count() == 1
    assert await daily.locator(".refusing").count() == 1  # one stretch, since the second
    assert "$4.50 in the window now, limit $2.50" in await daily.get_attribute("aria-label")

    history = tab.page.locator("figure", has=daily)
    await history.get_by_text("As a table").click()
    rows = history.locator("tbody tr")
    cells = [await row.locator("td").all_inner_texts() for row in await rows.all()]
    assert [spent for spent, _, _ in cells if spent != "$0.00"] == ["$1.50"] * 3
    assert cells[-1] == ["$0.00", "$4.50", "refused"]


async def test_limit_that_never_stops_a_call_is_said_to(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.gateway.limit("w", hourly=300, daily=250)
    await tab.open(PATH)
    await tab.shows("#figures-hourly", "the one of the last 24 hours, $2.50, is reached first")
    assert await tab.page.locator("#figures-daily .unbound").count() == 0


async def test_workspace_that_is_removed_is_said_to(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    await tab.gateway.json("DELETE", "/workspaces/w")
    await tab.shows("#alerts", "This workspace was removed.")


async def test_lost_connection_is_said_and_mended(tab: Tab, agent: Agent) -> None:
    token = await tab.gateway.register("w", agent.url)
    await tab.open(PATH)
    await tab.shows("#gateway", "Every call is checked.")
    await tab.page.context.set_offline(True)
    await tab.gateway.page_parts.live.close()
    await tab.shows("#connection", "Connection lost")
    # What was last heard may hold no more.
    assert not await tab.page.locator("#gateway p").is_visible()
    tab.gateway.page_parts.live.is_closed = False
    await tab.gateway.spend("w", 140, token)
    await tab.page.context.set_offline(False)
    await tab.page.locator("#connection").wait_for(state="hidden", timeout=20_000)
    await tab.shows("#figures-hourly", "$1.40")
    await tab.shows("#gateway", "Every call is checked.")
    tab.forgive("ERR_INTERNET_DISCONNECTED")
    tab.forgive("503")
    tab.forgive("ERR_")


async def test_page_turns_loud_while_checks_are_skipped(
    browser: Any, wired: Gateway, agent: Agent, wire: Wire
) -> None:
    await wired.register("w", agent.url)
    async with open_tab(browser, wired) as tab:
        await tab.open(PATH)
        await tab.shows("#gateway", "Every call is checked.")
        wire.cut()
        await tab.shows("#gateway", "Checks are being skipped.")
        assert [await call(wired) for _ in range(2)] == [200, 200]
        await tab.shows("#gateway", "2 unchecked calls since")
        alert = tab.page.locator("#gateway-alert")
        assert await alert.text_content() == "Checks are being skipped."

        # Who comes now is told, too.
        async with open_tab(browser, wired) as late:
            await late.page.goto(wired.url + PATH)
            await late.shows("#gateway", "Checks are being skipped.")

        wire.mend()
        await tab.shows("#gateway", "2 calls passed unchecked.")


async def test_page_that_comes_back_in_an_outage_learns_of_it(
    browser: Any, wired: Gateway, agent: Agent, wire: Wire
) -> None:
    await wired.register("w", agent.url)
    live = wired.page_parts.live
    async with open_tab(browser, wired) as tab:
        await tab.open(PATH)
        await tab.shows("#gateway", "Every call is checked.")
        wire.cut()
        await live.close()
        live.is_closed = False
        await tab.shows("#gateway", "Checks are being skipped.")
        await tab.shows("#connection", "Connection lost")
        wire.mend()
        await tab.page.locator("#connection").wait_for(state="hidden", timeout=20_000)
        await tab.shows("#gateway", "Every call is checked.")
