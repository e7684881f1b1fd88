"""A gateway and an agent on real sockets, for as long as a context is open."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from gateway.app import create_app
from gateway.config import Config, load_config
from gateway.storage.database import DatabaseSettings
from gateway.storage.workspace_key import read_workspace_keys
from gateway.web.page.parts import PAGE_PARTS, PageParts
from gateway.web.services import SERVICES, Services
from gateway.worker import create_runner


@dataclass
class Gateway:
    """A running gateway: its address, its parts, and a client that talks to it."""

    url: str
    services: Services
    client: aiohttp.ClientSession
    page_parts: PageParts

    async def json(
        self, method: str, path: str, body: object = None, token: str | None = None
    ) -> tuple[int, Any]:
        """Send a JSON body and give the answer's status and JSON."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        data = {} if body is None else {"json": body}
        async with self.client.request(method, self.url + path, headers=headers, **data) as answer:
            is_json = "json" in answer.headers.get("Content-Type", "")
            return answer.status, await answer.json(content_type=None) if is_json else None

    async def register(self, workspace_id: str, url: str) -> str:
        """Register a workspace and give its token."""
        status, body = await self.json(
            "POST", "/registry/register", {"id": workspace_id, "url": url, "agent_card": {}}
        )
        assert status == 200, body
        return str(body["token"])

    async def spend(self, workspace_id: str, cents: int, token: str, **members: object) -> Any:
        """Report cumulative spend by a heartbeat and give the budget that it answers."""
        heartbeat = {"workspace_id": workspace_id, "monthly_spend": cents, **members}
        status, body = await self.json("POST", "/registry/heartbeat", heartbeat, token)
        assert status == 200, body
        return body["budget"]

    async def limit(self, workspace_id: str, **limits: int | None) -> Any:
        """Set limits and give the budget after it."""
        path = f"/workspaces/{workspace_id}/budget"
        status, body = await self.json("PATCH", path, {"budget_limits": limits})
        assert status == 200, body
        return body


@asynccontextmanager
async def run_gateway(
    dsn: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Gateway]:
    """A gateway on a free port, with the worker's own server and options."""
    config = load_config(None, {"GATEWAY_DATABASE__DSN": dsn, **(environment or {})})
    app = create_app(config, await read_workspace_keys(DatabaseSettings(dsn)))
    # A scrape is complete, however busy the machine is.
    exposition = app[SERVICES].exposition
    exposition.read_timeout_s = exposition.ledger_timeout_s = 30
    async with serve(app, config) as url, aiohttp.ClientSession() as client:
        yield Gateway(url, app[SERVICES], client, app[PAGE_PARTS])


@asynccontextmanager
async def serve(app: web.Application, config: Config) -> AsyncIterator[str]:
    """The application on a free port of this machine."""
    runner = create_runner(app, config)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Received:
    """One request as an agent got it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Agent:
    """A running agent; set `respond` to answer otherwise than 200 `{}`."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    respond: Respond | None = None


@asynccontextmanager
async def run_agent() -> AsyncIterator[Agent]:
    """An agent on a free port that remembers what it was sent."""
    agent = Agent()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if agent.respond is not None:
            return await agent.respond(request)  # type: ignore[arg-type]
        fields = [(name.decode(), value.decode()) for name, value in request.raw_headers]
        body = await request.content.read()
        agent.received.append(Received(request.method, request.raw_path, fields, body))
        return web.json_response({})

    server = web.Server(handle, handler_cancellation=True, auto_decompress=False)
    runner = web.ServerRunner(server, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    agent.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield agent
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool | Awaitable[bool]], deadline_s: float = 10) -> None:
    """Return when the condition, maybe a question to a server, holds; fail at the deadline."""
    give_up_at = time.monotonic() + deadline_s
    while not await _holds(condition):
        assert time.monotonic() < give_up_at, "the condition did not come true in time"
        await asyncio.sleep(0.005)  # the pause between two looks, not a wait for something


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = condition()
    return answer if isinstance(answer, bool) else await answer
