"""A real Chromium, where there is one."""

import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import pytest
import pytest_asyncio

from tests.running import Gateway

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@dataclass
class Tab:
    """A page of the browser, and what its console complained about."""

    page: Any
    gateway: Gateway
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        """Go to an address and wait for the script."""
        await self.page.goto(self.gateway.url + path)
        await self.page.wait_for_selector("html.js")

    async def shows(self, selector: str, text: str) -> None:
        """Wait until the first such element has this text."""
        await self.page.locator(selector, has_text=text).first.wait_for(timeout=10_000)

    async def violations(self) -> list[str]:
        """What axe finds on the page as it is."""
        # Evaluated, not added to the page: the page's policy lets no other script in.
        await self.page.evaluate(axe_source())
        result = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
            for each in result["violations"]
            for node in each["nodes"]
        ]


def axe_source() -> str:
    """The text of axe-core, as its Python package carries it."""
    if find_spec("axe_playwright_python") is None:
        pytest.skip("axe-playwright-python is not installed")
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Any]:
    """Chromium without a window, of this test's own: it belongs to the test's event loop."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright_api = pytest.importorskip("playwright.async_api")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        await browser.close()


@pytest_asyncio.fixture
async def tab(browser: Any, gateway: Gateway) -> AsyncIterator[Tab]:
    """A tab; at the end its console must have stayed silent."""
    async for each in open_tab(browser, gateway):
        yield each
        assert each.complaints == []


async def open_tab(browser: Any, gateway: Gateway, **options: Any) -> AsyncIterator[Tab]:
    """A tab in a context of its own."""
    context = await browser.new_context(
        **{"locale": "en-US", "timezone_id": "UTC", "viewport": {"width": 1440, "height": 900}}
        | options
    )
    page = await context.new_page()
    tab = Tab(page, gateway)
    page.on(
        "console",
        lambda said: tab.complaints.append(said.text) if said.type in ("error", "warning") else 0,
    )
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    yield tab
    await context.close()
