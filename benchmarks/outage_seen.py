"""What callers saw of one gateway in one outage of its database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.contestants import A2A_CALL
from benchmarks.load import request
from benchmarks.outcomes import NONE
from benchmarks.report import Row, Target
from benchmarks.restartable import ACTS, BLOCKED, KNOWN, Restartable
from benchmarks.watch import NewWorkers, Passed, Watch, now, worker_started_at

CALM_CALLS = 20
COUNT_TRIES = 20
COUNT_INTERVAL_S = 0.1

PASS_TARGET = Target("below", 200)
ENFORCED_TARGET = Target("below", 1000)


@dataclass(slots=True)
class OutageSeen:
    """Calls to a workspace with room in its budget and to one with a limit of 0.

    Moments are those of watch.py.
    """

    what: str
    gateway: Restartable
    known: Watch = field(init=False)
    blocked: Watch = field(init=False)
    new_workers: NewWorkers = field(default_factory=NewWorkers)
    acted_at: float = 0.0
    returning_at: float = 0.0
    returned_at: float = 0.0
    logged_at: float | None = None
    unchecked_before: int = 0
    unchecked: int = 0

    def __post_init__(self) -> None:
        self.known, self.blocked = [
            Watch(self.gateway.port, request(f"/workspaces/{workspace}/a2a", A2A_CALL))
            for workspace in (KNOWN, BLOCKED)
        ]

    @property
    def is_calm(self) -> bool:
        """Whether the last calls were checked."""
        known, blocked = self.known.seen[-CALM_CALLS:], self.blocked.seen[-CALM_CALLS:]
        is_checked = all(each.is_success for each in known) and all(
            each.is_refused for each in blocked
        )
        return is_checked and len(known) == len(blocked) == CALM_CALLS

    @property
    def passed(self) -> Passed | None:
        """The first unchecked call through a new worker, if it came during the outage."""
        passed = self.known.passed
        return passed if passed is not None and passed.at < self.returning_at else None

    @property
    def marked_at(self) -> list[float]:
        """When calls passed unchecked."""
        return [each.at for each in (*self.known.seen, *self.blocked.seen) if each.is_marked]

    async def begin(self) -> None:
        """Count from here."""
        self.unchecked_before = await self.gateway.unchecked()
        self.known.seen.clear()
        self.blocked.seen.clear()

    @asynccontextmanager
    async def new_workers_noted(self) -> AsyncIterator[None]:
        """Workers that start while this is open are new."""
        self.new_workers = self.known.new_workers = NewWorkers()
        looking = asyncio.create_task(self.new_workers.keep_looking())
        try:
            yield
        finally:
            looking.cancel()

    async def act(self, name: str) -> None:
        """End what is to be ended, with no call on its way: its response might be lost."""
        async with self.known.turn, self.blocked.turn:
            self.acted_at = now()
            await ACTS[name](self.gateway)

    async def count(self) -> None:
        """Read the gateway's own count of what was seen, and its log."""
        for _ in range(COUNT_TRIES):
            self.unchecked = await self.gateway.unchecked() - self.unchecked_before
            if self.unchecked == len(self.marked_at):
                break
            await asyncio.sleep(COUNT_INTERVAL_S)
        if self.passed is not None:
            self.logged_at = await worker_started_at(self.gateway.log, self.passed.process_id)

    def rows(self) -> list[Row]:
        """The figures."""
        refused_at = [each.at for each in self.blocked.seen if each.is_refused]
        enforced_at = min((at for at in refused_at if at > self.returning_at), default=now())
        last_at = max(self.marked_at, default=self.returned_at)
        miscounted = abs(self.unchecked - len(self.marked_at))
        return [
            *self._passes(),
            self._ms("first 402", enforced_at - self.returned_at, ENFORCED_TARGET),
            self._ms("last unchecked", last_at - self.returned_at, ENFORCED_TARGET),
            self._calls("unchecked", len(self.marked_at)),
            self._calls("miscounted", miscounted, NONE),
        ]

    def _passes(self) -> list[Row]:
        """How soon calls passed; without any, how long none did."""
        at = self.returning_at if self.passed is None else self.passed.at
        started_at = min(self.new_workers.started_at.values(), default=self.acted_at)
        rows = [
            self._ms("passes after", at - self.acted_at),
            self._ms("from process", at - started_at, PASS_TARGET),
        ]
        if self.logged_at is not None:
            rows.append(self._ms("from its log line", at - self.logged_at, PASS_TARGET))
        since = self.acted_at if self.passed is None else at
        during = [each for each in self.known.seen if since < each.at < self.returning_at]
        failed = sum(not each.is_marked_success for each in during)
        return [*rows, self._calls("failed", failed)]

    def _ms(self, name: str, duration_s: float, target: Target | None = None) -> Row:
        duration_ms = max(0.0, duration_s * 1000)
        return Row(f"{self.what}: {name}", self.gateway.name, duration_ms, "ms", target=target)

    def _calls(self, name: str, count: int, target: Target | None = None) -> Row:
        return Row(f"{self.what}: {name}", self.gateway.name, count, "calls", target=target)
