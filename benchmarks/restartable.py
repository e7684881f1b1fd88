"""A gateway that is ended and started again, as a whole or a worker of it."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks import contestants
from benchmarks.contestants import Contestant
from benchmarks.processes import ALL_CORES, NotStartedError, metric_total, workers_below

WORKERS = 2
KNOWN, BLOCKED = "known-workspace", "blocked-workspace"
UNCHECKED = b"gateway_budget_checks_failed_open_total"


@dataclass(slots=True)
class Restartable:
    """A gateway of a checkout that can be ended, and started again at its address."""

    name: str
    checkout: Path
    dsn: str
    folder: Path
    # Of processes that ended: their counters went with them.
    unchecked_before: int = 0
    _contestant: Contestant | None = None
    _stack: ExitStack = field(default_factory=ExitStack)
    _starting: asyncio.Task[None] | None = None

    @property
    def contestant(self) -> Contestant:
        """The process that runs."""
        assert self._contestant is not None
        return self._contestant

    @property
    def port(self) -> int:
        """Where calls go, before a restart and after it."""
        return self.contestant.port

    @property
    def log(self) -> Path:
        """What it logs, before a restart and after it."""
        return self.folder / "gateway.log"

    @property
    def has_snapshot(self) -> bool:
        """Whether the addresses of the workspaces are in its data folder."""
        files = self.folder.rglob("addresses*")
        return any(KNOWN.encode() in file.read_bytes() for file in files)

    async def start(self) -> None:
        """Return when it answers. Raises NotStartedError."""
        port = None if self._contestant is None else self._contestant.port
        settings = {
            "server__workers": WORKERS,
            "server__drain_timeout_s": 5,
            "database__data_dir": self.folder / "data",
        }
        running = contestants.gateway(
            self.name, self.checkout, self.dsn, self.log, ALL_CORES, port, **settings
        )
        # Whoever calls meanwhile is in this thread.
        self._contestant = await asyncio.to_thread(self._stack.enter_context, running)

    async def register(self, agent_port: int) -> None:
        """Add a workspace with room in its budget, and one with a limit of 0."""
        url = f"http://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession(url, raise_for_status=True) as client:
            for workspace in (KNOWN, BLOCKED):
                agent_url = f"http://127.0.0.1:{agent_port}/{workspace}"
                body = {"id": workspace, "url": agent_url}
                await client.post("/registry/register", json=body)
            limits = {"budget_limits": {"hourly": 0}}
            await client.patch(f"/workspaces/{BLOCKED}/budget", json=limits)

    async def restart(self) -> None:
        """End it and start it again, without waiting for that."""
        self.unchecked_before += await self._unchecked_now()
        await self.stop()
        self._starting = asyncio.create_task(self.start())

    async def has_restarted(self) -> bool:
        """Wait until it serves again; False if its start failed and another one was needed."""
        starting, self._starting = self._starting, None
        if starting is None:
            return True
        try:
            await starting
        except NotStartedError:
            await self.start()
            return False
        return True

    async def stop(self) -> None:
        """End it."""
        await asyncio.to_thread(self._stack.close)

    async def unchecked(self) -> int:
        """How many calls it let pass unchecked, by its own count."""
        return self.unchecked_before + await self._unchecked_now()

    async def _unchecked_now(self) -> int:
        return await asyncio.to_thread(metric_total, self.port, UNCHECKED)


Act = Callable[[Restartable], Awaitable[None]]


async def _kill_one(gateway: Restartable) -> None:
    workers_below(gateway.contestant.process_id)[0].kill()


async def _kill_all(gateway: Restartable) -> None:
    for worker in workers_below(gateway.contestant.process_id):
        worker.kill()


async def _replace(gateway: Restartable) -> None:
    os.kill(gateway.contestant.process_id, signal.SIGHUP)


ACTS: dict[str, Act] = {
    "worker killed": _kill_one,
    "all workers killed": _kill_all,
    "SIGHUP": _replace,
    "gateway restarted": Restartable.restart,
}
