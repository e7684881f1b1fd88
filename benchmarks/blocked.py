"""A gateway with two workspaces that have a limit of 0, and a healthy one beside them."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import psutil

from benchmarks.contestants import Contestant
from benchmarks.database import LIMITS, add_workspaces
from benchmarks.load import request
from benchmarks.outcomes import Caller, reached
from benchmarks.processes import workers_below
from benchmarks.suite import Suite

BLOCKED, BLOCKED_TOO, HEALTHY = "blocked", "blocked-too", "healthy"
CALL_BYTES = 1024
WARM_UP_CALLS = 20
SETTLE_MAX_S = 20.0
CALM_CALLS = 5
CALM_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Blocked:
    """A gateway, and the agent that counts what reaches it.

    The turn is in the query of every call: calls of a crowd that has gone may come seconds later,
    because the kernel sends what it has not delivered.
    """

    contestant: Contestant
    agent: Contestant
    turn: int = 0

    @property
    def name(self) -> str:
        """Its name in the table."""
        return self.contestant.name

    @property
    def port(self) -> int:
        """Where calls go."""
        return self.contestant.port

    def call(self, workspace: str, body: bytes | None = None) -> bytes:
        """A call as it is sent; of 1 KB unless a body is given."""
        path = f"/workspaces/{workspace}/a2a?turn={self.turn}"
        return request(path, body or self.contestant.body(CALL_BYTES))

    def reached(self, workspace: str) -> int:
        """How many calls of this turn have reached the workspace's agent."""
        return reached(self.agent, f"/{workspace}?turn={self.turn}")

    async def settle(self) -> None:
        """Wait until calls are refused again; a gateway that takes longer is measured as it is."""
        caller, calm = Caller(self.port), 0
        with suppress(OSError):
            async with asyncio.timeout(SETTLE_MAX_S):
                while calm < CALM_CALLS:
                    await asyncio.sleep(CALM_INTERVAL_S)
                    response = await caller.call(self.call(BLOCKED))
                    calm = calm + 1 if response.status == 402 else 0
        caller.close()

    def worker(self) -> psutil.Process:
        """The process that serves."""
        (worker,) = workers_below(self.contestant.process_id)
        return worker


async def add_to(suite: Suite, contestant: Contestant) -> Blocked:
    """Add the workspaces, and call each until its worker has seen it."""
    agent, dsn = suite.agent(), suite.dsns[contestant.name]
    url = f"http://127.0.0.1:{agent.port}"
    blocked = {name: f"{url}/{name}" for name in (BLOCKED, BLOCKED_TOO)}
    await add_workspaces(dsn, blocked, {"hourly": 0})
    await add_workspaces(dsn, {HEALTHY: f"{url}/{HEALTHY}"}, LIMITS)
    gateway = Blocked(contestant, agent)
    caller = Caller(gateway.port)
    for workspace, expected in ((BLOCKED, 402), (BLOCKED_TOO, 402), (HEALTHY, 200)):
        statuses = [
            (await caller.call(gateway.call(workspace))).status for _ in range(WARM_UP_CALLS)
        ]
        assert expected in statuses, (contestant.name, workspace, statuses)
    caller.close()
    return gateway
