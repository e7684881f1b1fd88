"""The agents: they register with the gateway, and report to it what they spend."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from a2a.server.request_handlers.response_helpers import agent_card_to_dict

from gateway.core.money import dollars
from gateway.demo.board import Board, Kind
from gateway.demo.cast import Role
from gateway.demo.history import remember, sample_history
from gateway.demo.stand_in import StandIn, agent_card, serve_agent
from gateway.storage.database import DatabaseSettings

# Agents in the field take 30 s; here somebody is watching.
HEARTBEAT_INTERVAL_S = 1.0
LAST_REPORT_TIMEOUT_S = 0.5


@asynccontextmanager
async def run_agent(
    role: Role, database: DatabaseSettings, gateway: httpx.AsyncClient, board: Board
) -> AsyncIterator["Agent"]:
    """An agent that serves, and is registered with a past and its limits."""
    stand_in = StandIn(role)
    async with serve_agent(stand_in) as url:
        agent = Agent(stand_in, gateway, board)
        await agent.register(url)
        await remember(database, role.workspace_id, sample_history(role.earlier_cents))
        await agent.be_limited()
        try:
            yield agent
        finally:
            await agent.report_last()


@dataclass(slots=True)
class Agent:
    """The agent's dealings with the gateway; its token comes with registration."""

    stand_in: StandIn
    gateway: httpx.AsyncClient
    board: Board
    # One counter per process start: it begins at 0 here, and the gateway knows it by this name.
    counter_epoch: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    started: float = field(default_factory=time.monotonic)
    token: str = ""

    async def register(self, url: str) -> None:
        """Say where we listen."""
        role = self.stand_in.role
        document = {
            "id": role.workspace_id,
            "url": url,
            "agent_card": agent_card_to_dict(agent_card(role, url)),
        }
        answer = await self.gateway.post("/registry/register", json=document)
        self.token = answer.raise_for_status().json()["token"]
        self._tell(f"registered, listens on {url}")

    async def be_limited(self) -> None:
        """What an operator does: set the workspace's limits."""
        role = self.stand_in.role
        limits = {period.name: cents for period, cents in role.limits_cents.items()}
        path = f"/workspaces/{role.workspace_id}/budget"
        answer = await self.gateway.patch(path, json={"budget_limits": limits})
        self._keep(answer.raise_for_status().json())

    async def keep_reporting(self) -> None:
        """Send heartbeats until cancelled. One that is lost is made good by the next."""
        is_lost = False
        while True:
            try:
                await self.report()
                is_lost = False
            except httpx.HTTPError as error:
                if not is_lost:
                    self._tell(f"heartbeat not taken: {_cause(error)}")
                is_lost = True
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    async def report_last(self) -> None:
        """Send what was spent since the last heartbeat, if the gateway is still there."""
        with suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(LAST_REPORT_TIMEOUT_S):
                await self.report()

    async def report(self) -> None:
        """Send one heartbeat: everything spent since the start, never the difference."""
        heartbeat = {
            "workspace_id": self.stand_in.role.workspace_id,
            "monthly_spend": self.stand_in.spent_cents,
            "uptime_seconds": int(time.monotonic() - self.started),
            "instance_id": "demo",
            "counter_epoch": self.counter_epoch,
        }
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = await self.gateway.post("/registry/heartbeat", json=heartbeat, headers=headers)
        self._keep(answer.raise_for_status().json()["budget"])

    def _keep(self, budget: Mapping[str, Any]) -> None:
        standing = self.board.standings[self.stand_in.role.name]
        limits = budget["budget_limits"]
        if limits != standing.budget.get("budget_limits"):
            words = ", ".join(f"{name} {dollars(cents)}" for name, cents in limits.items())
            self._tell(f"the operator's limits: {words or 'none'}")
        standing.budget = budget
        standing.spent_cents = self.stand_in.spent_cents

    def _tell(self, text: str) -> None:
        self.board.tell(self.stand_in.role.name, Kind.TOLD, text)


def _cause(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__
