"""Calls to one workspace again and again, while the processes of a gateway come and go.

Moments are seconds since the machine's start: processes' starts are known in them to 10 ms, while
psutil's create_time is off by up to a second.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.outcomes import Caller, Response
from benchmarks.processes import workers_below

INTERVAL_S = 0.005
LOOK_INTERVAL_S = 0.05
LOG_TIMEOUT_S = 2.0


def now() -> float:
    """The moment."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Seen(NamedTuple):
    """When a call ended, and how; None without a response."""

    at: float
    response: Response | None

    @property
    def is_marked(self) -> bool:
        """Whether it passed unchecked."""
        return self.response is not None and self.response.is_marked

    @property
    def is_success(self) -> bool:
        """Whether it was checked, and its agent answered."""
        return self.response is not None and self.response.is_success

    @property
    def is_marked_success(self) -> bool:
        """Whether it passed unchecked, and its agent answered."""
        return self.response is not None and self.response.is_marked_success

    @property
    def is_refused(self) -> bool:
        """Whether it was over budget."""
        return self.response is not None and self.response.status == 402


class NewWorkers:
    """The workers below this process that were not there when this was made."""

    def __init__(self) -> None:
        self._old = {worker.pid for worker in workers_below(os.getpid())}
        # Those that have ended again, too.
        self.started_at: dict[int, float] = {}

    def look(self) -> None:
        """Take note of new ones."""
        for worker in workers_below(os.getpid()):
            if worker.pid not in self._old and worker.pid not in self.started_at:
                with suppress(FileNotFoundError, ProcessLookupError):
                    self.started_at[worker.pid] = _started_at(worker.pid)

    async def keep_looking(self) -> None:
        """Take note again and again, of those that do not live long above all."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def serving(self, callers_port: int | None) -> int | None:
        """Which of them has the other end of a connection."""
        # Not at every call: it takes as long as some calls do.
        if not self.started_at:
            self.look()
        for process_id in self.started_at:
            with suppress(psutil.NoSuchProcess):
                connections = psutil.Process(process_id).net_connections("tcp")
                if any(each.raddr and each.raddr.port == callers_port for each in connections):
                    return process_id
        return None


def _started_at(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


class Passed(NamedTuple):
    """The first call that a new worker let pass unchecked."""

    at: float
    process_id: int


@dataclass(slots=True)
class Watch:
    """Calls, each on a new connection, so that every worker gets some."""

    port: int
    sent: bytes
    seen: list[Seen] = field(default_factory=list)
    # Who holds it knows that no call is on its way.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    new_workers: NewWorkers | None = None
    passed: Passed | None = None

    async def run(self) -> None:
        """Call until this is cancelled."""
        while True:
            async with self.turn:
                await self._call()
            await asyncio.sleep(INTERVAL_S)

    async def _call(self) -> None:
        caller, response = Caller(self.port), None
        with suppress(OSError):
            response = await caller.call(self.sent)
        seen = Seen(now(), response)
        self.seen.append(seen)
        if self.new_workers and not self.passed and seen.is_marked_success:
            process_id = self.new_workers.serving(caller.local_port)
            self.passed = Passed(seen.at, process_id) if process_id else None
        caller.close()


@asynccontextmanager
async def watching(*watches: Watch) -> AsyncIterator[None]:
    """All of them call, as long as this is open."""
    tasks = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def worker_started_at(log: Path, process_id: int) -> float | None:
    """When a worker said in the gateway's log that it has started; None if it did not."""
    give_up_at = now() + LOG_TIMEOUT_S
    # Polled: another process writes it.
    while (at := _logged_at(log, process_id)) is None and now() < give_up_at:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_INTERVAL_S)
    return at


def _logged_at(log: Path, process_id: int) -> float | None:
    for line in log.read_bytes().splitlines():
        if b'"worker_started"' in line and json.loads(line)["process_id"] == process_id:
            logged = datetime.fromisoformat(json.loads(line)["timestamp"])
            return logged.timestamp() - time.time() + now()
    return None
