"""What holds on every page: it fits, everybody can read it, and it speaks the reader's way."""

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.browser.conftest import PATH, Tab, open_tab
from tests.running import Agent, Gateway
from tests.storage.wire import Wire

pytestmark = pytest.mark.asyncio(loop_scope="session")

DARK, LIGHT = "rgb(15, 16, 19)", "rgb(251, 251, 252)"


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
async def test_axe_finds_nothing(
    browser: Any, gateway: Gateway, guarded: Gateway, agent: Agent, width: int, scheme: str
) -> None:
    await gateway.spend("w", 140, await gateway.register("w", agent.url))
    await gateway.spend("near", 85, await gateway.register("near", agent.url))
    await gateway.limit("w", hourly=100, daily=150, weekly=0, monthly=10_000)
    await gateway.limit("near", hourly=100)
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with open_tab(browser, gateway, **options) as tab:
        for address in (
            gateway.url,
            f"{gateway.url}/?q=nothing",
            f"{gateway.url}/ui/workspaces/nobody",
            f"{guarded.url}/ui/sign-in",
            gateway.url + PATH,
        ):
            await tab.page.goto(address)
            assert await tab.violations() == []
            assert await tab.overflow() == 0
            background = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == (DARK if scheme == "dark" else LIGHT)

        # The last page again, with all that can be said on it.
        await tab.type_limit("hourly", "seven", key="Enter")
        await tab.type_limit("monthly", "2")
        await tab.shows("#error-hourly", "Write an amount")
        await tab.shows("#meaning-monthly", "With this limit")
        await tab.page.locator("summary").first.click()
        assert await tab.violations() == []
        assert await tab.overflow() == 0
        assert len(tab.complaints) == 1  # the page that is answered 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_in_an_outage(
    browser: Any, wired: Gateway, agent: Agent, wire: Wire, scheme: str
) -> None:
    await wired.register("w", agent.url)
    wire.cut()
    async with open_tab(browser, wired, color_scheme=scheme) as tab:
        await tab.page.goto(wired.url + PATH)
        await tab.shows("#gateway", "Checks are being skipped.")
        assert await tab.violations() == []
        assert len(tab.complaints) == 1  # the answer of 503


@pytest.mark.parametrize("width", [360, 768, 1090, 1440])
async def test_long_names_and_amounts_make_no_page_wider_than_its_window(
    browser: Any, gateway: Gateway, agent: Agent, width: int
) -> None:
    workspace = "w" * 128
    card = {"name": "Donaudampfschifffahrtsgesellschaftskapitän" * 3}
    body = {"id": workspace, "url": agent.url + "/" + "a" * 300, "agent_card": card}
    _, answer = await gateway.json("POST", "/registry/register", body)
    said = {"current_task": "x" * 300, "sample_error": "y" * 300}
    await gateway.spend(workspace, 10**11, answer["token"], **said)
    await gateway.limit(workspace, hourly=10**12, daily=10**12, weekly=10**11, monthly=0)
    async with open_tab(browser, gateway, viewport={"width": width, "height": 800}) as tab:
        for path in ("/", f"/ui/workspaces/{workspace}"):
            await tab.open(path)
            assert await tab.overflow() == 0


async def test_nothing_moves_for_who_asks_for_less_motion(
    browser: Any, gateway: Gateway, agent: Agent
) -> None:
    await gateway.register("w", agent.url)
    await gateway.limit("w", hourly=100)
    for motion, duration in (("no-preference", "0.4s"), ("reduce", "0s")):
        async with open_tab(browser, gateway, reduced_motion=motion) as tab:
            await tab.open(PATH)
            fill = tab.page.locator(".bar .fill").first
            moves = await fill.evaluate("each => getComputedStyle(each).transitionDuration")
            assert moves == duration


async def test_amounts_and_times_are_the_readers(
    browser: Any, gateway: Gateway, agent: Agent
) -> None:
    await gateway.spend("w", 123_456, await gateway.register("w", agent.url))
    zone = "Asia/Kathmandu"  # 5 h 45 min from UTC
    async with open_tab(browser, gateway, locale="de-DE", timezone_id=zone) as tab:
        await tab.open(PATH)
        amount = await tab.page.locator("#figures-hourly .amount b").inner_text()
        assert amount.replace("\N{NO-BREAK SPACE}", " ") == "1.234,56 $"
        time = tab.page.locator("#chart-monthly time")
        moment = datetime.fromisoformat(str(await time.get_attribute("datetime")))
        there = moment.astimezone(ZoneInfo(zone))
        assert await time.inner_text() == f"{there:%d.%m.%Y}, {there:%H:%M}"


async def test_nothing_comes_from_elsewhere_and_no_policy_is_broken(tab: Tab, agent: Agent) -> None:
    await tab.gateway.register("w", agent.url)
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    for path in ("/", PATH):
        await tab.open(path)
        await tab.shows("#gateway", "Every call is checked.")
    assert [url for url in asked if not url.startswith(tab.gateway.url)] == []
    assert len({url for url in asked if re.search(r"\.(js|css|svg)$", url)}) == 3
