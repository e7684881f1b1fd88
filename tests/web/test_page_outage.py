"""The page while the database is away: it says so, and how many calls passed unchecked."""

import re

from gateway.core.errors import StorageUnavailable
from tests.running import Agent, Gateway
from tests.web.test_page import get, words
from tests.web.test_page_live import watch


class Away:
    """A registry whose database is away."""

    async def several(self, _: object) -> None:
        """Fail."""
        raise StorageUnavailable("connection")

    page = one = several


async def test_page_is_loud_while_checks_are_skipped(gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    async with watch(gateway, "/ui/workspaces/w/events") as page:
        await page.shows("gateway", "Every call is checked.")
        live, present = gateway.page_parts.live, gateway.services.registry
        live.registry = gateway.services.registry = Away()  # type: ignore[assignment]
        gateway.services.admissions.skipped.add()
        gateway.services.admissions.skipped.add()
        await page.shows("gateway-alert", "Checks are being skipped.")
        said = words(page.parts["gateway"])
        assert re.search(r"Since \d\d:\d\d:\d\d UTC this worker let 2 calls pass", said)
        for path in ("/", "/ui/workspaces/w"):
            status, headers, text = await get(gateway, path)
            assert status == 503
            assert headers["Retry-After"] == "5"
            assert "Checks are being skipped." in text

        live.registry = gateway.services.registry = present
        gateway.services.admissions.skipped.is_over = True
        await page.shows("gateway", "Every call is checked.")
        assert "2 calls passed unchecked" in words(page.parts["gateway"])


async def test_count_begins_anew_with_every_outage(gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    skipped = gateway.services.admissions.skipped
    skipped.add()
    assert (await gateway.json("GET", "/workspaces/w/a2a"))[0] == 200
    assert skipped.is_over
    skipped.add()
    assert (skipped.count, skipped.is_over) == (1, False)
