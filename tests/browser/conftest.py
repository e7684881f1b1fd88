"""A real Chromium, where there is one: started once, a context of its own for every tab.

A browser belongs to one event loop, so all that these tests run on shares the session's.
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.running import Agent, Gateway, run_agent, run_gateway
from tests.storage.wire import Wire, open_wire

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATH = "/ui/workspaces/w"
ADMIN_TOKEN = "alices-token"

# A host that the browser does not know to be this machine.
PLAIN_HOST = "gateway.example"


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
        """Wait until such an element has this text, and can be seen."""
        await self.page.locator(selector, has_text=text).first.wait_for(timeout=15_000)

    async def type_limit(self, period: str, text: str, *, key: str | None = None) -> None:
        """Type a limit, and press a key behind it."""
        await self.page.locator(f"#limit-{period}").fill(text)
        if key is not None:
            await self.page.locator(f"#limit-{period}").press(key)

    def forgive(self, text: str) -> None:
        """Forget complaints with this text: the browser notes every answer that is an error."""
        self.complaints[:] = [each for each in self.complaints if text not in each]

    async def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        wide = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return max(0, int(wide))

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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Any]:
    """Chromium without a window."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright_api = pytest.importorskip("playwright.async_api")
    arguments = [f"--host-resolver-rules=MAP {PLAIN_HOST} 127.0.0.1"]
    arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        await browser.close()


@asynccontextmanager
async def open_tab(browser: Any, gateway: Gateway, **options: Any) -> AsyncIterator[Tab]:
    """A tab in a context of its own."""
    defaults = {
        "locale": "en-US",
        "timezone_id": "UTC",
        "viewport": {"width": 1440, "height": 900},
    }
    context = await browser.new_context(**{**defaults, **options})
    page = await context.new_page()
    tab = Tab(page, gateway)
    page.on(
        "console",
        lambda said: tab.complaints.append(said.text) if said.type in ("error", "warning") else 0,
    )
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    try:
        yield tab
    finally:
        await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Any, gateway: Gateway) -> AsyncIterator[Tab]:
    """A tab; at the end its console must have stayed silent."""
    async with open_tab(browser, gateway) as each:
        yield each
    assert each.complaints == []


@pytest_asyncio.fixture(loop_scope="session")
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes at the end what a test opened."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(dsn: str, stack: AsyncExitStack) -> Gateway:
    """A gateway on the test's database, open to operators."""
    return await stack.enter_async_context(run_gateway(dsn))


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(dsn: str, stack: AsyncExitStack) -> Gateway:
    """A gateway on the same database whose one operator is alice."""
    environment = {"GATEWAY_AUTH__NAMED_ADMIN_TOKENS": f"alice={ADMIN_TOKEN}"}
    return await stack.enter_async_context(run_gateway(dsn, environment))


@pytest_asyncio.fixture(loop_scope="session")
async def wire(dsn: str, stack: AsyncExitStack) -> Wire:
    """A wire to the test's database, which can be cut."""
    return await stack.enter_async_context(open_wire(dsn))


@pytest_asyncio.fixture(loop_scope="session")
async def wired(wire: Wire, stack: AsyncExitStack) -> Gateway:
    """A gateway at the end of the wire, that waits for no query for long."""
    environment = {"GATEWAY_DATABASE__QUERY_TIMEOUT_MS": "500"}
    return await stack.enter_async_context(run_gateway(wire.dsn, environment))


@pytest_asyncio.fixture(loop_scope="session")
async def agent(stack: AsyncExitStack) -> Agent:
    """An agent that answers everything."""
    return await stack.enter_async_context(run_agent())


@pytest_asyncio.fixture(loop_scope="session")
async def connection(dsn: str, stack: AsyncExitStack) -> asyncpg.Connection:
    """A plain connection to the test's database, to make rows of the past."""
    connection = await asyncpg.connect(dsn)
    stack.push_async_callback(connection.close)
    return connection


async def sign_in(tab: Tab, token: str, workspace: str = "") -> None:
    """Fill the form of the page that asks who somebody is."""
    await tab.page.get_by_label("Token", exact=True).fill(token)
    if workspace:
        await tab.page.locator("#workspace").fill(workspace)
    await tab.page.get_by_role("button", name="Sign in").click()
