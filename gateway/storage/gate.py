"""The gate: what has this workspace spent? Asked before every call, answered by few queries.

Calls that arrive while queries are under way wait for the next one, which starts after they
arrived and answers for all of them together. A decision is thus never older than its call, and
the database sees a bounded number of queries however many calls come in. There is no cache.

Waiting is bounded by the deadline, whatever the server does. After a few failures in a row a
breaker opens: calls are told at once that the budget cannot be read, and one probe at a time
finds out when it can be again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from gateway.core.errors import StorageUnavailable, UnknownWorkspace
from gateway.storage.budgets import WorkspaceBudget, read_budgets
from gateway.storage.database import Connection, Connections
from gateway.storage.workspace_key import WorkspaceKeys

# A timer that fires this late was held up by our own event loop.
STALL_S = 0.01
OPEN_TIMEOUT_S = 5.0
PROBE_TIMEOUT_MIN_S = 0.5
CONNECT_TIME_S = 5.0


@dataclass(frozen=True, slots=True)
class GateSettings:
    """The gate's limits and deadlines."""

    timeout_s: float = 0.05
    workspaces_per_query_max: int = 500
    failures_to_open: int = 3
    probe_interval_s: float = 0.1

    @property
    def query_timeout_s(self) -> float:
        """When a query is given up and its connection with it; callers have left long before."""
        return 2 * self.timeout_s

    @property
    def probe_timeout_s(self) -> float:
        """When a probe is given up: it may have to connect first, which takes many round trips."""
        return max(PROBE_TIMEOUT_MIN_S, min(10 * self.timeout_s, self.timeout_s + CONNECT_TIME_S))


def _database_now() -> None:
    return None


@dataclass(slots=True)
class _Question:
    """What is asked about one workspace; all who wait are told the same, or why there is nothing.

    Everybody waits for a future of its own: who leaves takes nothing from the others.
    """

    is_answered: bool = False
    _waiting: list[asyncio.Future[WorkspaceBudget | None]] = field(default_factory=list)
    _timer: asyncio.TimerHandle | None = None

    def answered(self) -> asyncio.Future[WorkspaceBudget | None]:
        """One more waits: for the budget, for None if there is no such workspace, or an error."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return waiting

    def answer(self, found: WorkspaceBudget | None) -> None:
        """Tell everybody, unless they were told before."""
        self._end()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(found)
        self._waiting.clear()

    def refuse(self, cause: str) -> None:
        """Tell everybody that the budget cannot be read, unless they were told before."""
        self._end()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(StorageUnavailable(cause))
        self._waiting.clear()

    def expire_at(self, due: float, timeout_s: float) -> None:
        """Refuse at this moment of the loop's clock; `timeout_s` later if the loop was held up."""
        self._timer = asyncio.get_running_loop().call_at(due, self._expire, due, timeout_s)

    def _expire(self, due: float, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - due < STALL_S:
            self.refuse("timeout")
            return
        # This process was busy and read nothing meanwhile; it is not the database that is late.
        self._timer = loop.call_later(timeout_s, self.refuse, "stall")

    def _end(self) -> None:
        self.is_answered = True
        if self._timer is not None:
            self._timer.cancel()


@dataclass(slots=True)
class Gate:
    """Answers for any number of callers; `query_count` tells how few queries that took."""

    connections: Connections
    keys: WorkspaceKeys
    settings: GateSettings = field(default_factory=GateSettings)
    # What counts as now; None is the database's clock. Tests set it.
    as_of: Callable[[], datetime | None] = _database_now
    query_count: int = 0
    _waiting: dict[str, _Question] = field(default_factory=dict)
    _queries: set[asyncio.Task[None]] = field(default_factory=set)
    _failures: int = 0
    _probe: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open: the budget cannot be read, and calls do not wait for it."""
        return self._probe is not None

    async def ask(self, workspace_id: str) -> WorkspaceBudget:
        """The workspace's budget, read after this call began.

        Raises UnknownWorkspace, and StorageUnavailable within the deadline.
        """
        key = self.keys.existing(workspace_id)
        if self.is_open:
            raise StorageUnavailable("breaker_open")
        if (found := await self._question_about(key).answered()) is None:
            raise UnknownWorkspace
        return found

    def _question_about(self, key: str) -> _Question:
        question = self._waiting.get(key)
        # One that has given up still waits for its query; a call after it has its own deadline.
        if question is None or question.is_answered:
            question = self._waiting[key] = _Question()
            timeout_s = self.settings.timeout_s
            question.expire_at(asyncio.get_running_loop().time() + timeout_s, timeout_s)
            self._start_queries()
        return question

    async def open(self) -> None:
        """Connect, so that the first calls need not. Raises StorageUnavailable."""
        opening = [self._read([], OPEN_TIMEOUT_S) for _ in range(self.connections.size)]
        await asyncio.gather(*opening)

    async def ping(self) -> None:
        """Return if the database answers in time. Raises StorageUnavailable."""
        await self._read([], self.settings.probe_timeout_s)

    async def is_answering(self) -> bool:
        """Whether a check would be answered now; asks the database where that is not known."""
        if self.is_open:
            return False
        try:
            await self.ping()
        except StorageUnavailable:
            return False
        return True

    async def close(self) -> None:
        """End the probe and wait for the queries under way."""
        if self._probe is not None:
            self._probe.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probe
        if self._queries:
            await asyncio.wait(set(self._queries), timeout=self.settings.probe_timeout_s)

    def _start_queries(self) -> None:
        while self._waiting and len(self._queries) < self.connections.size:
            query = asyncio.create_task(self._answer(self._take_batch()))
            self._queries.add(query)
            query.add_done_callback(self._query_ended)

    def _take_batch(self) -> dict[str, _Question]:
        batch_max = self.settings.workspaces_per_query_max
        if len(self._waiting) <= batch_max:
            batch, self._waiting = self._waiting, {}
            return batch
        return {key: self._waiting.pop(key) for key in list(self._waiting)[:batch_max]}

    def _query_ended(self, query: asyncio.Task[None]) -> None:
        self._queries.discard(query)
        self._start_queries()

    async def _answer(self, batch: dict[str, _Question]) -> None:
        try:
            found = await self._read(list(batch), self.settings.query_timeout_s)
        except StorageUnavailable as error:
            self._failed()
            for question in batch.values():
                question.refuse(error.cause)
            return
        self._failures = 0
        for key, question in batch.items():
            question.answer(found.get(key))

    async def _read(self, keys: list[str], timeout_s: float) -> dict[str, WorkspaceBudget]:
        self.query_count += 1

        async def operation(connection: Connection) -> dict[str, WorkspaceBudget]:
            return await read_budgets(connection, keys, self.as_of())

        try:
            return await self.connections.run(operation, timeout_s)
        except StorageUnavailable:
            raise
        except Exception as error:
            # A mistake of ours or of the driver must not leave callers or the probe hanging. It is
            # no outage, so it is shown with its trace as well.
            context = {"message": "the budget query failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
            raise StorageUnavailable("internal") from error

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= self.settings.failures_to_open and self._probe is None:
            self._probe = asyncio.create_task(self._probe_until_answered())

    async def _probe_until_answered(self) -> None:
        """Ask for nothing until that is answered, then close the breaker."""
        while True:
            await asyncio.sleep(self.settings.probe_interval_s)
            with contextlib.suppress(StorageUnavailable):
                await self._read([], self.settings.probe_timeout_s)
                break
        self._failures, self._probe = 0, None
