"""The page while the database is away: it says so, and how many calls passed unchecked."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from tests.running import Agent, Gateway, run_gateway
from tests.storage.wire import Wire, open_wire
from tests.web.test_page import get, words
from tests.web.test_page_live import watch

PAGE, EVENTS = "/ui/workspaces/w", "/ui/workspaces/w/events"


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Wire]:
    """A wire to the test's database."""
    async with open_wire(dsn) as wire:
        yield wire


@pytest.fixture
async def wired(wire: Wire, stack: AsyncExitStack) -> Gateway:
    """A gateway at the end of the wire, that waits for no query for long."""
    environment = {"GATEWAY_DATABASE__QUERY_TIMEOUT_MS": "500"}
    return await stack.enter_async_context(run_gateway(wire.dsn, environment))


async def test_page_is_loud_while_checks_are_skipped(
    wired: Gateway, agent: Agent, wire: Wire
) -> None:
    await wired.register("w", agent.url)
    async with watch(wired, EVENTS) as page:
        await page.shows("gateway", "Every call is checked.")
        wire.cut()
        await page.shows("gateway-alert", "Checks are being skipped.")
        for _ in range(2):
            assert (await wired.json("GET", "/workspaces/w/a2a"))[0] == 200
        await page.shows("gateway", "2 unchecked calls since")
        said = words(page.parts["gateway"])
        assert re.search(r"2 unchecked calls since \d\d:\d\d:\d\d UTC", said)
        for path in ("/", PAGE):
            status, headers, text = await get(wired, path)
            assert status == 503
            assert headers["Retry-After"] == "5"
            assert "Checks are being skipped." in text

        wire.mend()
        await page.shows("gateway", "Every call is checked.")
        assert "2 calls passed unchecked" in words(page.parts["gateway"])


async def test_page_is_loud_in_time_while_the_database_is_silent(
    wired: Gateway, agent: Agent, wire: Wire
) -> None:
    await wired.register("w", agent.url)
    async with watch(wired, EVENTS) as page:
        await page.shows("gateway", "Every call is checked.")
        wire.silence()
        await page.shows("gateway-alert", "Checks are being skipped.")
        status, _, text = await get(wired, PAGE)
        assert (status, "Checks are being skipped." in text) == (503, True)
        wire.speak()
        await page.shows("gateway", "Every call is checked.")


async def test_page_whose_own_query_is_late_does_not_say_that_checks_are_skipped(
    wired: Gateway, agent: Agent, connection: asyncpg.Connection
) -> None:
    token = await wired.register("w", agent.url)
    await wired.limit("w", hourly=1)
    await wired.spend("w", 2, token)
    async with connection.transaction():
        # Only the page reads it, to say since when calls are refused.
        await connection.execute("LOCK TABLE workspace_budget_changes")
        status, _, text = await get(wired, PAGE)
        assert (status, "Every call is checked." in text) == (503, True)
        async with watch(wired, EVENTS) as page:
            await page.shows("gateway", "Every call is checked.")
            assert page.parts["gateway-alert"] == ""
        assert (await wired.json("POST", "/workspaces/w/a2a", {}))[0] == 402


async def test_count_begins_anew_with_every_outage(gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    skipped = gateway.services.admissions.skipped
    skipped.add()
    assert (await gateway.json("GET", "/workspaces/w/a2a"))[0] == 200
    assert skipped.is_over
    skipped.add()
    assert (skipped.count, skipped.is_over) == (1, False)
