"""What arrives while somebody looks at a page."""

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from gateway.web.page import live
from gateway.web.page.overview import PAGE_ROWS
from tests.running import Agent, Gateway, until
from tests.web.test_page import get


@dataclass
class Watching:
    """What a stream has said so far: the newest of each part."""

    answer: aiohttp.ClientResponse
    parts: dict[str, str] = field(default_factory=dict)
    is_ended: bool = False

    async def read(self) -> None:
        """Keep the newest parts until the stream ends."""
        async for line in self.answer.content:
            if line.startswith(b"data: "):
                self.parts.update(json.loads(line.removeprefix(b"data: ")))
        self.is_ended = True

    async def shows(self, name: str, text: str) -> None:
        """Wait until a part has this text."""
        await until(lambda: text in self.parts.get(name, ""))


@asynccontextmanager
async def watch(gateway: Gateway, path: str) -> AsyncIterator[Watching]:
    """A reader of a stream."""
    async with gateway.client.get(gateway.url + path) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        watching = Watching(answer)
        reading = asyncio.create_task(watching.read())
        yield watching
        reading.cancel()


async def test_workspaces_page_hears_of_spend_and_of_limits(gateway: Gateway, agent: Agent) -> None:
    token = await gateway.register("w", agent.url)
    async with watch(gateway, "/ui/workspaces/w/events") as page:
        await page.shows("figures-hourly", "no limit")
        await gateway.limit("w", hourly=100)
        await page.shows("limits-now", '"hourly":"1"')
        await page.shows("changes", "no limit → <b>")
        await gateway.spend("w", 140, token)
        await page.shows("alerts", "New calls are refused")
        await page.shows("figures-hourly", "$1.40 of $1.00, over the limit")
        await gateway.json("DELETE", "/workspaces/w")
        await page.shows("alerts", "This workspace was removed")


async def test_overview_hears_of_every_row_it_shows(gateway: Gateway, agent: Agent) -> None:
    tokens = {name: await gateway.register(name, agent.url) for name in ("a", "b")}
    async with watch(gateway, "/ui/events?id=a&id=b") as page:
        await page.shows("row:b", "$0.00")
        await gateway.spend("b", 250, tokens["b"])
        await page.shows("row:b", "$2.50")
        assert set(page.parts) == {"gateway", "gateway-alert", "roster-now", "row:a", "row:b"}


async def test_overview_hears_that_workspaces_come_and_go(gateway: Gateway, agent: Agent) -> None:
    async with watch(gateway, "/ui/events") as page:
        await page.shows("roster-now", "0")
        await gateway.register("a", agent.url)
        await page.shows("roster-now", "1")
        await gateway.json("DELETE", "/workspaces/a")
        await page.shows("roster-now", "0")


async def test_overview_listens_to_the_rows_that_it_shows(gateway: Gateway, agent: Agent) -> None:
    for number in range(PAGE_ROWS + 5):
        # As long as ids may be: the address must have room for a page of them.
        await gateway.register(f"{number:0128}", agent.url)
    _, _, text = await get(gateway, "/?sort=name&q=0")
    rows = re.findall(r'id="row:(\d+)"', text)
    assert len(rows) == PAGE_ROWS
    (events,) = re.findall(r'data-events="([^"]+)"', text)
    async with watch(gateway, html.unescape(events)) as page:
        await page.shows(f"row:{rows[-1]}", "$0.00")
        assert {name for name in page.parts if name.startswith("row:")} == {
            f"row:{id_}" for id_ in rows
        }


async def test_stream_of_rows_is_of_a_page_at_most(gateway: Gateway) -> None:
    too_many = "&".join(["id=a"] * (PAGE_ROWS + 1))
    assert (await gateway.json("GET", f"/ui/events?{too_many}"))[0] == 400
    assert (await gateway.json("GET", "/ui/events?id=%3Cb%3E"))[0] == 404


async def test_viewers_of_one_page_see_the_same(gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    path = "/ui/workspaces/w/events"
    async with watch(gateway, path) as first, watch(gateway, path) as second:
        await first.shows("gateway", "Every call is checked")
        await second.shows("gateway", "Every call is checked")
        assert first.parts == second.parts


async def test_more_rows_than_one_query_reads_are_read_in_parts(
    gateway: Gateway, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WORKSPACES_PER_QUERY", 1)
    for name in ("a", "b"):
        await gateway.register(name, agent.url)
    async with (
        watch(gateway, "/ui/events?id=a&id=b") as rows,
        watch(gateway, "/ui/workspaces/b/events") as page,
    ):
        await rows.shows("row:a", "$0.00")
        await rows.shows("row:b", "$0.00")
        await page.shows("head", "b")


async def test_viewers_are_few(
    gateway: Gateway, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "VIEWERS_MAX", 1)
    await gateway.register("w", agent.url)
    path = "/ui/workspaces/w/events"
    async with watch(gateway, path):
        status, _ = await gateway.json("GET", path)
        assert status == 503


async def test_viewers_of_one_workspace_leave_room_for_others(
    gateway: Gateway, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "VIEWERS_PER_WORKSPACE_MAX", 1)
    for name in ("a", "b"):
        await gateway.register(name, agent.url)
    async with watch(gateway, "/ui/workspaces/a/events"):
        assert (await gateway.json("GET", "/ui/workspaces/a/events"))[0] == 503
        for path in ("/ui/workspaces/b/events", "/ui/events?id=a", "/ui/events?id=a"):
            async with watch(gateway, path) as others:
                await others.shows("gateway", "Every call is checked")


async def test_stream_has_no_head(gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    for path in ("/ui/events", "/ui/workspaces/w/events"):
        assert (await gateway.json("HEAD", path))[0] == 405


async def test_streams_end_when_the_gateway_stops(gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    async with watch(gateway, "/ui/workspaces/w/events") as page:
        await page.shows("gateway", "Every call is checked")
        await gateway.page_parts.live.close()
        await until(lambda: page.is_ended)
