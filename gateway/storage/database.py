"""Connections that heal themselves, and the one place where driver errors become ours.

Nobody waits longer than its deadline for a database that does not answer. Measured with
PostgreSQL stopped by SIGSTOP: cancelling a query, and asyncpg's own timeouts, wait for the
server; only waiting for the task without awaiting its end returns in time.
"""

import asyncio
import contextlib
import json
import select
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, cast

import asyncpg
import orjson

from gateway.core.errors import Conflict, GatewayError, StorageUnavailable
from gateway.storage.deadline import Deadline, limited
from gateway.storage.hosts import each_host, first_connected
from gateway.storage.queries import all_queries

if TYPE_CHECKING:  # generic in its type stubs, not when it runs
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection
Answer = TypeVar("Answer")
Operation: TypeAlias = Callable[[Connection], Awaitable[Answer]]

# ValueError is what asyncpg raises for a DSN it cannot read; that is found at the start.
DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

# A value that a column does not take: no outage, and the connection is as good as before.
CALLER_ERRORS = (
    asyncpg.NotNullViolationError,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
)

# Another transaction was in the way; the connection is as good as before.
CONTENTION_ERRORS = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)

# Classes of errors that come from the server's state, whatever was asked: connections, read-only
# transactions, resources, an operator, the system.
SERVER_STATE_CLASSES = ("08", "25", "53", "57", "58")


class StatementFailed(StorageUnavailable):
    """The server refused what was asked: the transaction is undone, and others may succeed."""


class Contended(StatementFailed):
    """Another transaction was in the way: the same may succeed a moment later."""


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where the database is and how it is spoken to."""

    dsn: str
    connect_timeout_s: float = 2.0
    # 0 behind a pooler, which also refuses settings of ours.
    statement_cache_size: int = 100
    # When the server itself ends a statement; 0 is never. A query that was given up here would
    # else go on there, and keep its connection, for as long as it waits for a lock.
    statement_timeout_s: float = 0

    @property
    def server_settings(self) -> dict[str, str]:
        """What the server is asked for when a connection begins."""
        if self.statement_cache_size == 0:
            return {}
        timeout_ms = str(round(self.statement_timeout_s * 1000))
        return {
            "application_name": "a2a-budget-gateway",
            "timezone": "UTC",
            # Our statements are short and always the same: plans are made once, never compiled.
            "jit": "off",
            "plan_cache_mode": "force_generic_plan",
            "statement_timeout": timeout_ms,
            "idle_in_transaction_session_timeout": timeout_ms,
        }


@dataclass(slots=True)
class _Lane:
    """The place of one connection; empty until it is needed, and after a failure."""

    connection: Connection | None = None
    is_expired: bool = False

    def usable(self) -> Connection | None:
        """The connection for the next operation, if there is one."""
        if self.is_expired or (self.connection is not None and self.connection.is_closed()):
            self.drop()
        return self.connection

    def has_unread(self) -> bool:
        """Whether bytes from the server wait to be read."""
        return self.connection is not None and has_unread(self.connection)

    def drop(self) -> None:
        terminate(self.connection)
        self.connection = None
        self.is_expired = False


def terminate(connection: Connection | None) -> None:
    """Close a connection's socket at once; close() would wait for the server to answer."""
    if connection is not None and not connection.is_closed():
        connection.terminate()


def has_unread(connection: Connection) -> bool:
    """Whether bytes from the server lie in the connection's socket that the loop has not read.

    asyncpg has no public way to its transport; a test fails if this one ends.
    """
    if connection.is_closed():
        return False
    arrived = select.poll()
    transport = cast("Any", connection)._transport
    arrived.register(transport.get_extra_info("socket"), select.POLLIN)
    return bool(arrived.poll(0))


def _nobody_else() -> None:
    return None


@dataclass(slots=True)
class Connections:
    """A few dedicated connections, each used by one operation at a time."""

    settings: DatabaseSettings
    size: int
    # Called when the server refuses to write; who only reads would not notice.
    on_read_only: Callable[[], None] = _nobody_else
    _idle: asyncio.LifoQueue[_Lane] = field(default_factory=asyncio.LifoQueue)
    _running: set[asyncio.Task[Any]] = field(default_factory=set)
    _lanes: list[_Lane] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lanes = [_Lane() for _ in range(self.size)]
        for lane in self._lanes:
            self._idle.put_nowait(lane)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def open_count(self) -> int:
        """How many connections are open now."""
        return sum(
            lane.connection is not None and not lane.connection.is_closed() for lane in self._lanes
        )

    @property
    def idle_count(self) -> int:
        """How many places are free for an operation now."""
        return self._idle.qsize()

    async def run(self, operation: Operation[Answer], timeout_s: float) -> Answer:
        """Run `operation` on a connection of its own for that time.

        The deadline covers waiting for a free connection, connecting and the operation itself.
        Raises StorageUnavailable in time, whatever the server does (StatementFailed if it refused
        what was asked), and Conflict for a value that a column does not take. An operation whose
        caller left goes on, within its deadline: what it commits is committed once.
        """
        loop = asyncio.get_running_loop()
        lane_taken: list[_Lane] = []
        task = asyncio.create_task(self._run(operation, lane_taken))
        self._running.add(task)
        # Not asyncio.wait, which takes another timer and two more turns of the loop.
        ended = loop.create_future()
        # Also for a caller that leaves before the deadline.
        give_up = partial(self._give_up, task, lane_taken, ended)
        deadline = Deadline(
            timeout_s, give_up, lambda: any(lane.has_unread() for lane in lane_taken)
        )
        task.add_done_callback(partial(self._finished, deadline, ended))
        await ended
        if not task.done() or task.cancelled():
            raise StorageUnavailable("timeout")
        return task.result()

    async def _run(self, operation: Operation[Answer], lane_taken: list[_Lane]) -> Answer:
        try:
            lane = await self._idle.get()
            lane_taken.append(lane)
            try:
                return await operation(await self._connected(lane))
            except BaseException as error:
                is_cut_off = lane.connection is None or lane.connection.is_closed()
                if not isinstance(error, (*CALLER_ERRORS, *CONTENTION_ERRORS, GatewayError)):
                    lane.drop()
                if is_cut_off and isinstance(error, AttributeError):
                    # The driver does not expect its connection to go between two of its steps.
                    raise StorageUnavailable("timeout") from error
                if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                    self._leave_server()
                raise
            finally:
                self._idle.put_nowait(lane)
        except CALLER_ERRORS as error:
            raise Conflict("The database's columns do not take this value.") from error
        except DRIVER_ERRORS as error:
            raise _unavailable(error) from error

    async def _connected(self, lane: _Lane) -> Connection:
        if (connection := lane.usable()) is None:
            connection = lane.connection = await connect(self.settings)
        return connection

    def _leave_server(self) -> None:
        """It takes no writes: a primary once, whose place another may have taken."""
        for lane in self._lanes:
            lane.is_expired = lane.connection is not None
        self.on_read_only()

    def _give_up(
        self, task: asyncio.Task[Any], lane_taken: list[_Lane], ended: asyncio.Future[None]
    ) -> None:
        # First, so that the caller is told of the deadline and not of the connection's end.
        _end(ended)
        if task.done():
            # It ended just now; what was its connection may be another's already.
            return
        if lane_taken and lane_taken[0].connection is not None:
            # The pending query ends by itself with a connection error. Cancelling it instead
            # would make asyncpg open a connection to cancel it on the server, and wait for that.
            lane_taken[0].drop()
        else:
            task.cancel()

    def _finished(
        self, deadline: Deadline, ended: asyncio.Future[None], task: asyncio.Task[Any]
    ) -> None:
        deadline.cancel()
        self._running.discard(task)
        # Read the exception, so that one nobody waits for any more is not called "never retrieved".
        if not task.cancelled():
            task.exception()
        _end(ended)

    async def close(self) -> None:
        """Close every connection; what is running is given a moment to end."""
        if self._running:
            _, late = await asyncio.wait(
                set(self._running), timeout=self.settings.connect_timeout_s
            )
            for task in late:
                task.cancel()
        for lane in self._lanes:
            lane.drop()


def _end(ended: asyncio.Future[None]) -> None:
    # Whoever waited for it may have left.
    if not ended.done():
        ended.set_result(None)


def _unavailable(error: Exception) -> StorageUnavailable:
    if isinstance(error, CONTENTION_ERRORS):
        return Contended(cause_of(error))
    is_refusal = isinstance(error, asyncpg.PostgresError) and _is_refusal(error)
    return (StatementFailed if is_refusal else StorageUnavailable)(cause_of(error))


def is_outage(error: asyncpg.PostgresError) -> bool:
    """Whether an error comes from the server's state, and may be gone in a moment."""
    return (error.sqlstate or "")[:2] in SERVER_STATE_CLASSES or isinstance(
        error, asyncpg.PostgresConnectionError
    )


def _is_refusal(error: asyncpg.PostgresError) -> bool:
    # FATAL ends the connection and may come after a commit; so may what a pooler says of a server
    # that it lost, which is of class 08.
    return error.severity_en == "ERROR" and not is_outage(error)


def cause_of(error: Exception) -> str:
    """One word for a driver error, from a small set: it becomes a metric's label."""
    if isinstance(error, asyncpg.PostgresConnectionError):  # class 08, asyncpg's own among them
        return "connection"
    if isinstance(error, asyncpg.PostgresError):
        return f"sqlstate_{(error.sqlstate or 'unknown')[:2]}"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "connection"


async def connect(settings: DatabaseSettings) -> Connection:
    """A connection as every part of the gateway uses it. Raises a driver error in time."""
    attempts = [partial(_connect, dsn, settings) for dsn in each_host(settings.dsn)]
    async with limited(settings.connect_timeout_s):
        return await first_connected(attempts, DRIVER_ERRORS)


async def _connect(dsn: str, settings: DatabaseSettings) -> Connection:
    connection = await asyncpg.connect(
        dsn,
        statement_cache_size=settings.statement_cache_size,
        server_settings=settings.server_settings,
    )
    try:
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=_encode_json, decoder=_decode_json
        )
    except BaseException:
        connection.terminate()
        raise
    return connection


def _encode_json(value: object) -> str:
    return orjson.dumps(value).decode()


def _decode_json(text: str) -> object:
    # PostgreSQL holds what orjson refuses, numbers over a double's range and nesting over 1024,
    # and one such value, stored by hand, must not break a query for many workspaces.
    for loads in (orjson.loads, json.loads):
        with contextlib.suppress(ValueError, RecursionError):
            return loads(text)
    return text


class WrongStatement(Exception):
    """A statement of ours does not fit the database: our mistake or a foreign schema, no outage."""


async def require_statements(settings: DatabaseSettings) -> None:
    """Prepare every query once. Raises WrongStatement for the first that the server refuses."""
    connection = await connect(settings)
    try:
        for name, text in all_queries().items():
            try:
                await connection.prepare(text)
            except (asyncpg.SyntaxOrAccessError, asyncpg.DataError) as error:
                raise WrongStatement(f"queries/{name}.sql: {error}") from error
    finally:
        connection.terminate()


async def wait_until_answering(settings: DatabaseSettings, deadline_s: float) -> None:
    """Return when the database accepts a connection. Raises StorageUnavailable at the deadline."""
    give_up_at = time.monotonic() + deadline_s
    while True:
        try:
            connection = await connect(settings)
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError):
            raise  # waiting does not help
        except DRIVER_ERRORS as error:
            if time.monotonic() > give_up_at:
                raise StorageUnavailable(cause_of(error)) from error
            await asyncio.sleep(0.2)
        else:
            connection.terminate()
            return
