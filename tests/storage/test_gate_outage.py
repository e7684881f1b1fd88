"""The gate through every way of losing PostgreSQL: in time, then at once, and back with it."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from gateway.core.errors import StorageUnavailable
from gateway.core.periods import PERIODS
from gateway.core.workspaces import Liveness
from gateway.storage.budgets import WorkspaceBudget
from gateway.storage.database import Connections, DatabaseSettings
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.gate import Gate, GateSettings
from gateway.storage.ledger import Heartbeat, Ledger
from gateway.storage.migrations import migrate
from gateway.storage.workspace_key import WorkspaceKeys
from tests.running import until
from tests.storage.rows import add_rows, add_workspace
from tests.storage.servers import bring_back, kill, set_read_only, signal_all
from tests.storage.wire import Wire, open_wire

# So few that a test can take all of them.
CONNECTIONS_MAX = 12
SERVER_SETTINGS = {
    "fsync": "off",
    "max_connections": str(CONNECTIONS_MAX),
    "superuser_reserved_connections": "0",  # we are one
}
KEYS = WorkspaceKeys("text")
OURS = "FROM pg_stat_activity WHERE application_name = 'a2a-budget-gateway'"
GATE = GateSettings()
CALLERS = 8
# 30 ms over the deadline are allowed and 1 s until enforcement is back. On a machine that is busy
# with other tests it may be more; waiting for a server's or the driver's own timeout is far more.
LATE_S = 0.5
BACK_S = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """A server, and a wire to it."""

    server: EmbeddedPostgres
    wire: Wire


@pytest.fixture
async def place(tmp_path: Path, stack: AsyncExitStack) -> Place:
    """A server of the test's own, with a workspace that is over its budget."""
    server = EmbeddedPostgres(tmp_path, settings=SERVER_SETTINGS)
    await stack.enter_async_context(server)
    await migrate(DatabaseSettings(server.dsn))
    connection = await asyncpg.connect(server.dsn)
    await add_workspace(connection, "w", {PERIODS[0].name: 100})
    await add_rows(connection, "w", [(datetime.now(UTC), 140)])
    await connection.close()
    return Place(server, await stack.enter_async_context(open_wire(server.dsn)))


Outage = Callable[[Place], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def killed(place: Place) -> AsyncIterator[None]:
    await kill(place.server)
    yield
    await bring_back(place.server)


@asynccontextmanager
async def stopped(place: Place) -> AsyncIterator[None]:
    signal_all(place.server, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all(place.server, signal.SIGCONT)


@asynccontextmanager
async def out_of_connections(place: Place) -> AsyncIterator[None]:
    """Others have taken every connection, ours among them."""
    async with AsyncExitStack() as others:
        first = await others.enter_async_context(other_connection(place))

        async def take_ours() -> None:
            # The gate connects anew at once: it takes tries until all are taken.
            while True:
                await first.execute(f"SELECT pg_terminate_backend(pid) {OURS}")
                with contextlib.suppress(asyncpg.TooManyConnectionsError):
                    while True:
                        await others.enter_async_context(other_connection(place))

        taking = asyncio.create_task(take_ours())
        try:
            yield
        finally:
            taking.cancel()
            await asyncio.wait({taking})


@asynccontextmanager
async def other_connection(place: Place) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(place.server.dsn)
    yield connection
    await connection.close()


@asynccontextmanager
async def refused(place: Place) -> AsyncIterator[None]:
    place.wire.refuse()
    yield
    await place.wire.listen()


@asynccontextmanager
async def black_holed(place: Place) -> AsyncIterator[None]:
    with place.wire.black_hole():
        with pytest.raises(TimeoutError):  # it is one: not even the kernel answers
            async with asyncio.timeout(0.2):
                await asyncio.open_connection("127.0.0.1", place.wire.port)
        yield
    await place.wire.listen()


@asynccontextmanager
async def silent(place: Place) -> AsyncIterator[None]:
    place.wire.silence()
    yield
    place.wire.speak()


@asynccontextmanager
async def slow_by_500_ms(place: Place) -> AsyncIterator[None]:
    place.wire.delay_s = 0.25
    yield
    place.wire.delay_s = 0


@pytest.mark.parametrize(
    "outage",
    [
        killed,
        stopped,
        out_of_connections,
        refused,
        black_holed,
        silent,
        slow_by_500_ms,
    ],
    ids=lambda outage: outage.__name__,
)
async def test_calls_are_told_in_time_then_at_once_and_enforcement_returns_with_the_server(
    place: Place, outage: Outage, stack: AsyncExitStack
) -> None:
    is_of_the_wire = outage in (refused, black_holed, silent, slow_by_500_ms)
    gate = await open_gate(place.wire.dsn if is_of_the_wire else place.server.dsn, stack)
    async with outage(place):
        await calls_are_told_in_time(gate)
        await calls_are_told_at_once(gate)
    await enforcement_returns(gate)


async def test_checks_go_on_while_the_server_takes_no_writes_and_heartbeats_are_not_acknowledged(
    place: Place, stack: AsyncExitStack
) -> None:
    gate = await open_gate(place.server.dsn, stack)
    connections = Connections(DatabaseSettings(place.server.dsn), 2, gate.renew)
    ledger = Ledger(await stack.enter_async_context(connections), KEYS, timeout_s=5)
    await set_read_only(place.server, True)
    for _ in range(20):
        with pytest.raises(StorageUnavailable) as raised:
            await ledger.record(heartbeat(150))
        assert raised.value.cause == "sqlstate_25"
        assert is_exceeded(await gate.ask("w"))
    await set_read_only(place.server, False)
    await until(lambda: is_booked(ledger, 150))


async def test_enforcement_returns_to_a_server_so_far_away_that_calls_were_made_to_wait_for_it(
    place: Place, stack: AsyncExitStack
) -> None:
    patient = GateSettings(timeout_s=2)
    place.wire.delay_s = 0.1
    gate = await open_gate(place.wire.dsn, stack, patient)
    place.wire.refuse()
    await until(lambda: is_open_after_a_call(gate))
    await place.wire.listen()
    await until(lambda: not gate.is_open)
    assert is_exceeded(await gate.ask("w"))


async def is_open_after_a_call(gate: Gate) -> bool:
    await ask(gate)
    return gate.is_open


async def open_gate(dsn: str, stack: AsyncExitStack, settings: GateSettings = GATE) -> Gate:
    """A gate as a worker has it, which has answered already."""
    gate = Gate(DatabaseSettings(dsn), KEYS, settings)
    stack.push_async_callback(gate.close)
    await gate.open()
    await enforcement_returns(gate)
    return gate


async def calls_are_told_in_time(gate: Gate) -> None:
    """Many at once, again and again, until the breaker is open."""
    async with asyncio.timeout(10):
        while not gate.is_open:
            for cause, waited_s in await asyncio.gather(*[ask(gate) for _ in range(CALLERS)]):
                assert cause != "internal"
                assert waited_s < GATE.timeout_s + LATE_S


async def calls_are_told_at_once(gate: Gate) -> None:
    """As long as the outage lasts, and whatever the probes meet meanwhile."""
    queries = gate.query_count

    async def told_until_probed() -> bool:
        started = time.perf_counter()
        assert {(await ask(gate))[0] for _ in range(100)} == {"breaker_open"}
        assert time.perf_counter() - started < LATE_S
        return gate.query_count >= queries + 4

    await until(told_until_probed)


async def enforcement_returns(gate: Gate) -> None:
    async def is_enforced() -> bool:
        with contextlib.suppress(StorageUnavailable):
            assert is_exceeded(await gate.ask("w"))
            return True
        return False

    await until(is_enforced, BACK_S)


async def ask(gate: Gate) -> tuple[str, float]:
    """Why the gate could not tell, and after how many seconds; nothing else is raised."""
    started, cause = time.perf_counter(), ""
    try:
        await gate.ask("w")  # a killed server's children may live on and answer for a moment
    except StorageUnavailable as error:
        cause = error.cause
    return cause, time.perf_counter() - started


def is_exceeded(found: WorkspaceBudget) -> bool:
    return found.budget.windows[0].is_exceeded


def heartbeat(cents: int) -> Heartbeat:
    return Heartbeat("w", cents, "", "", Liveness())


async def is_booked(ledger: Ledger, cents: int) -> bool:
    try:
        return (await ledger.record(heartbeat(cents))).amount_cents == cents
    except StorageUnavailable:
        return False
