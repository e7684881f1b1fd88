"""The gate: what has this workspace spent? Asked before every call, answered by few queries.

Calls that arrive while queries are in flight wait for the next one, which starts after they
arrived and answers all of them together. A decision is thus never older than its call, and the
database sees a bounded number of queries however many calls arrive. There is no cache.

Waiting is bounded by the deadline, whatever the server does. The deadline runs from the moment a
query was sent, and this process's own delay does not count against it (`deadline.py`): only the
database's silence is an outage. After a few failures in a row a circuit breaker opens: calls learn
at once that the budget cannot be read, and one attempt at a time to reach the database finds out
when it can be read again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from gateway.core.errors import StorageUnavailable, UnknownWorkspace
from gateway.storage.budget_query import PING, Batch, OnFound, Query, Question
from gateway.storage.budgets import WorkspaceBudget
from gateway.storage.check_connection import RENEW_INTERVAL_S, CheckConnection, State
from gateway.storage.circuit_breaker import CircuitBreaker
from gateway.storage.database import DRIVER_ERRORS, Connection, DatabaseSettings, cause_of
from gateway.storage.deadline import Deadline, limited
from gateway.storage.workspace_key import WorkspaceKeys

ATTEMPT_TIMEOUT_MIN_S = 0.5
CONNECT_TIME_S = 5.0


@dataclass(frozen=True, slots=True)
class GateSettings:
    """The gate's limits and deadlines."""

    timeout_s: float = 0.05
    connections: int = 2
    workspaces_per_query_max: int = 500
    failures_to_open: int = 3
    attempt_interval_s: float = 0.1

    @property
    def late_timeout_s(self) -> float:
        """How long a late query may go on before it is given up, and its connection with it.

        Its callers have left. Its answer would show that the database is slow and not away, and
        saves a new connection.
        """
        return 2 * self.timeout_s

    @property
    def attempt_timeout_s(self) -> float:
        """When an attempt to connect is given up: it takes many round trips."""
        return max(ATTEMPT_TIMEOUT_MIN_S, min(10 * self.timeout_s, self.timeout_s + CONNECT_TIME_S))


def _database_now() -> None:
    return None


def _ignore(_found: WorkspaceBudget) -> None:
    return None


@dataclass(slots=True)
class Gate:
    """Answers any number of callers; `query_count` shows how few queries that took.

    Attempts to connect are among them, for each ends with a query.
    """

    database: DatabaseSettings
    keys: WorkspaceKeys
    settings: GateSettings = field(default_factory=GateSettings)
    # What counts as now; None is the database's clock. Tests set it.
    as_of: Callable[[], datetime | None] = _database_now
    # Called with every budget that was read, also where its caller could not wait for it.
    on_found: OnFound = _ignore
    query_count: int = 0
    # Whether the database has ever answered here.
    has_answered: bool = False
    breaker: CircuitBreaker = field(init=False)
    _waiting: Batch = field(default_factory=dict)
    # Ends the wait of questions for which no query was sent yet.
    _waiting_deadline: Deadline | None = None
    _lanes: list[CheckConnection] = field(default_factory=list)
    _idle: list[CheckConnection] = field(default_factory=list)
    _serving: list[asyncio.Task[None]] = field(default_factory=list)
    _renewing: asyncio.Task[None] | None = None
    # One attempt at a time while the breaker is open.
    _attempting: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Set when the first attempt to connect has ended.
    _is_started: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.breaker = CircuitBreaker(self.settings.failures_to_open)

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open: the budget cannot be read, and calls do not wait for it."""
        return self.breaker.is_open

    @property
    def size(self) -> int:
        """How many connections there may be."""
        return self.settings.connections

    @property
    def open_count(self) -> int:
        """How many connections are open now."""
        return sum(lane.is_open for lane in self._lanes)

    @property
    def idle_count(self) -> int:
        """How many connections have nothing to ask now."""
        return len(self._idle)

    async def ask(self, workspace_id: str) -> WorkspaceBudget:
        """The workspace's budget, read after this call began.

        Raises UnknownWorkspace, and StorageUnavailable within the deadline.
        """
        if (found := await self._answered(self.keys.existing(workspace_id))) is None:
            raise UnknownWorkspace
        return found

    async def is_answering(self) -> bool:
        """Whether a check would be answered now; asks the database where that is not known."""
        try:
            await self._answered(PING)
        except StorageUnavailable:
            return False
        return True

    def _answered(self, key: str) -> asyncio.Future[WorkspaceBudget | None]:
        if self.breaker.is_open:
            raise StorageUnavailable("breaker_open")
        if not self._waiting:
            self._start_query()
        return self._waiting.setdefault(key, Question()).answered()

    def _start_query(self) -> None:
        """Have an idle connection take what waits; bound the wait where there is none."""
        if self._idle:
            self._idle.pop().wake()
        elif self._waiting_deadline is None:
            # At once where there is nothing to wait for.
            timeout_s = 0 if self._is_down else self.settings.timeout_s
            late = partial(self._refuse_waiting, "connection" if self._is_down else "timeout")
            self._waiting_deadline = Deadline(timeout_s, late, self._has_unread)

    @property
    def _is_down(self) -> bool:
        return all(lane.state is State.DOWN for lane in self._lanes)

    def _has_unread(self) -> bool:
        return any(lane.has_unread() for lane in self._lanes)

    def _refuse_waiting(self, cause: str) -> None:
        self._end_waiting_deadline()
        waiting, self._waiting = self._waiting, {}
        for question in waiting.values():
            question.refuse(cause)

    def _take_batch(self) -> Batch:
        self._end_waiting_deadline()
        batch_max = self.settings.workspaces_per_query_max
        if len(self._waiting) <= batch_max:
            batch, self._waiting = self._waiting, {}
            return batch
        batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:batch_max]}
        self._start_query()
        return batch

    def _end_waiting_deadline(self) -> None:
        if self._waiting_deadline is not None:
            self._waiting_deadline.cancel()
            self._waiting_deadline = None

    async def open(self, *, is_away: bool = False) -> None:
        """Connect. Returns at the first answer, or with the breaker open where there is none.

        Where it is known that the database `is_away`, the breaker is open from the start.
        """
        for _ in range(self.settings.connections):
            lane = CheckConnection(self.database, self.settings.attempt_timeout_s)
            self._lanes.append(lane)
            self._serving.append(asyncio.create_task(self._serve(lane)))
        if is_away:
            self._start_open("connection")
            return
        try:
            # Nobody calls yet: a database that is far away is waited for.
            async with limited(self.settings.attempt_timeout_s):
                await self._is_started.wait()
        except TimeoutError:
            self._start_open("timeout")

    def _start_open(self, cause: str) -> None:
        self._is_started.set()
        self.breaker.open(cause)
        self._refuse_waiting(cause)

    async def close(self) -> None:
        """Refuse what waits, and close every connection."""
        tasks = {*self._serving, *([self._renewing] if self._renewing else [])}
        for lane in self._lanes:
            lane.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._refuse_waiting("connection")

    def renew(self) -> None:
        """Have every connection made anew; the old ones are used until the new ones are there."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        for lane in self._lanes:
            # Those that are not open look for a server anyway.
            if lane.is_open:
                await lane.renew()
        # A server may refuse writes for hours; another one is not looked for more often than this.
        await asyncio.sleep(RENEW_INTERVAL_S)

    async def _serve(self, lane: CheckConnection) -> None:
        """Ask whatever waits, on one connection; connect anew whenever it fails."""
        while True:
            try:
                connection = lane.usable() or await self._reconnect(lane)
                if self._waiting or self.breaker.is_open:
                    await self._ask(connection, lane)
                else:
                    await self._be_idle(lane)
            except StorageUnavailable as error:
                self._fail(lane, error.cause)
            except Exception as error:
                # A mistake of ours or of the driver must not leave callers hanging. It is not an
                # outage, so it is shown with its trace as well.
                context = {"message": "the budget query failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
                self._fail(lane, "internal")
            if lane.state is State.DOWN:
                await asyncio.sleep(self.settings.attempt_interval_s)

    async def _be_idle(self, lane: CheckConnection) -> None:
        lane.state = State.IDLE
        self._idle.append(lane)
        try:
            await lane.pause()
        finally:
            with contextlib.suppress(ValueError):
                self._idle.remove(lane)

    async def _reconnect(self, lane: CheckConnection) -> Connection:
        if self._waiting:
            self._start_query()
        async with self._attempting if self.breaker.is_open else contextlib.nullcontext():
            self.query_count += 1
            connection = await lane.connect()
            await self._learn_keys(lane, connection)
        self._is_started.set()
        self.has_answered = True
        self.breaker.succeed()
        return connection

    async def _learn_keys(self, lane: CheckConnection, connection: Connection) -> None:
        try:
            async with limited(self.settings.attempt_timeout_s):
                await self.keys.learn(connection)
        except DRIVER_ERRORS as error:
            lane.state = State.DOWN
            raise StorageUnavailable(cause_of(error)) from error

    async def _ask(self, connection: Connection, lane: CheckConnection) -> None:
        """Answer what waits by a query; one for nothing shows whether the breaker may close.

        Raises StorageUnavailable, and what is a mistake of ours, once everyone has an answer.
        """
        self.query_count += 1
        timeouts = self.settings.timeout_s, self.settings.late_timeout_s
        query = Query(self._take_batch(), lane, *timeouts, self.on_found)
        try:
            await query.read(connection, self.as_of())
        except asyncio.CancelledError:
            query.refuse("connection")
            raise
        except Exception as error:
            if connection.is_closed():
                cause = "timeout" if query.is_given_up else "connection"
                self._ask_again(query, cause)
                raise StorageUnavailable(cause) from error
            if isinstance(error, DRIVER_ERRORS):
                query.refuse(cause_of(error))
                raise StorageUnavailable(cause_of(error)) from error
            query.refuse("internal")
            raise
        self.breaker.succeed()

    def _ask_again(self, query: Query, cause: str) -> None:
        """Have another query answer what one with a lost connection could not, once.

        Reading twice changes nothing, and one lost connection is not an outage.
        """
        if not query.is_given_up:
            for key, question in list(query.batch.items()):
                if not question.is_asked_again:
                    self._waiting.setdefault(key, Question()).join(query.batch.pop(key))
        query.refuse(cause)

    def _fail(self, lane: CheckConnection, cause: str) -> None:
        """The database failed: connect anew, and end waiting where there is nothing to wait for."""
        is_attempt = lane.state in (State.CONNECTING, State.DOWN)
        lane.drop()
        if lane.state is not State.DOWN:
            lane.state = State.CONNECTING
        # A connection that is there says more of the database than one that cannot be made.
        if not is_attempt or not self.open_count:
            self.breaker.fail(cause)
        if not self._is_started.is_set():
            self._start_open(cause)
        elif self.breaker.is_open:
            self._refuse_waiting(cause)
            for idle in self._idle:
                idle.wake()
        elif self._is_down:
            self._refuse_waiting(cause)
        elif self._waiting:
            self._start_query()
