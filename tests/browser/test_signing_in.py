"""Signing in and out in a real browser."""

from typing import Any

import pytest
from aiohttp import web

from tests.browser.conftest import ADMIN_TOKEN, Tab, open_tab, sign_in
from tests.running import Agent, Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_operator_signs_in_and_out(browser: Any, guarded: Gateway) -> None:
    async with open_tab(browser, guarded) as tab:
        await tab.page.goto(guarded.url)
        assert await tab.page.evaluate("document.activeElement.id") == "token"
        await sign_in(tab, "wrong")
        await tab.shows(".notice", "This is no admin token")
        assert len(tab.complaints) == 1  # the answer of 401
        await sign_in(tab, ADMIN_TOKEN)
        await tab.shows("h1", "Workspaces")
        await tab.shows("#gateway", "Every call is checked.")
        assert await tab.page.evaluate("document.cookie") == ""

        await tab.page.get_by_role("button", name="Sign out").click()
        await tab.page.wait_for_url("**/ui/sign-in")
        await tab.page.goto(guarded.url)
        await tab.shows("h1", "Sign in")
        assert len(tab.complaints) == 1


async def test_operator_is_told_when_the_session_ends(browser: Any, guarded: Gateway) -> None:
    async with open_tab(browser, guarded) as tab:
        await tab.page.goto(guarded.url)
        await sign_in(tab, ADMIN_TOKEN)
        live = guarded.page_parts.live
        await until(lambda: bool(live._viewers))
        await tab.page.context.clear_cookies()
        await live.close()
        live.is_closed = False
        await tab.shows("#connection", "Signed out.")
        await tab.page.get_by_role("link", name="Sign in again").click()
        await tab.page.wait_for_url("**/ui/sign-in")


async def test_workspaces_own_token_sees_its_page_alive_and_read_only(
    browser: Any, gateway: Gateway, guarded: Gateway, agent: Agent
) -> None:
    token = await gateway.register("mine", agent.url)
    await gateway.register("other", agent.url)
    await gateway.limit("mine", hourly=100)
    async with open_tab(browser, guarded) as tab:
        await tab.page.goto(f"{guarded.url}/ui/workspaces/mine")
        await sign_in(tab, token)  # the workspace is the one that was asked for
        await tab.shows("h1", "mine")
        await tab.shows("#limits-title + .note", "Read-only")
        assert await tab.page.locator("input, .save").count() == 0
        await tab.shows("#changes", "Last 60 minutes: no limit → $1.00")
        await gateway.spend("mine", 140, token)
        await tab.shows("#alerts", "New calls are refused.")
        await gateway.limit("mine", hourly=300)
        await tab.shows("#changes", "Last 60 minutes: $1.00 → $3.00")
        assert await tab.violations() == []
        assert tab.complaints == []

        await tab.page.goto(guarded.url)
        await tab.page.wait_for_url("**/ui/workspaces/mine")
        await tab.page.goto(f"{guarded.url}/ui/workspaces/other")
        assert "other" not in await tab.page.locator("main").inner_text()


async def test_link_on_another_site_finds_the_operator_signed_in(
    browser: Any, guarded: Gateway, agent: Agent
) -> None:
    async def link(_: web.Request) -> web.Response:
        text = f'<a href="{guarded.url}/?q=x">Budgets</a>'
        return web.Response(text=text, content_type="text/html")

    agent.respond = link
    # Another site than 127.0.0.1, though the same machine.
    elsewhere = agent.url.replace("127.0.0.1", "localhost")
    async with open_tab(browser, guarded) as tab:
        await follow(tab, elsewhere)
        await tab.page.wait_for_url("**/ui/sign-in")
        await sign_in(tab, ADMIN_TOKEN)
        await tab.page.get_by_role("heading", name="Workspaces").wait_for()
        await follow(tab, elsewhere)
        await tab.page.get_by_role("heading", name="Workspaces").wait_for()
        assert tab.page.url == f"{guarded.url}/?q=x"


async def follow(tab: Tab, address: str) -> None:
    """Open a page and click its link."""
    await tab.page.goto(address)
    await tab.page.get_by_role("link").click()
