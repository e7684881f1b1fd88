"""The gate: as fresh as the call, few queries for many, never late, whatever the server does."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import asyncpg
import pytest
import pytest_asyncio

from gateway.core.errors import StorageUnavailable, UnknownWorkspace
from gateway.core.periods import PERIODS
from gateway.storage.budgets import WorkspaceBudget
from gateway.storage.database import Answer, Connections, DatabaseSettings, Operation
from gateway.storage.gate import Gate, GateSettings
from gateway.storage.workspace_key import WorkspaceKeys
from tests.running import until
from tests.storage.rows import add_workspace
from tests.storage.wire import Wire, open_wire

PATIENT = GateSettings(timeout_s=30)
HASTY = GateSettings(timeout_s=0.05)
# 30 ms over the deadline are allowed, but a machine busy with other tests may not run us for a
# while. A wait for the server's own timeout would be seconds long.
LATE_S = 0.5
NAME = PERIODS[0].name


@dataclass
class HeldConnections(Connections):
    """Connections whose answers stay under way until they are let go."""

    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, operation: Operation[Answer], timeout_s: float) -> Answer:
        answer = await super().run(operation, timeout_s)
        await self.released.wait()
        return answer


@pytest_asyncio.fixture
async def gate(
    settings: DatabaseSettings, keys: WorkspaceKeys, stack: AsyncExitStack
) -> AsyncIterator[Gate]:
    """A gate on two connections that waits as long as a busy machine needs."""
    connections = await stack.enter_async_context(Connections(settings, 2))
    gate = Gate(connections, keys, PATIENT)
    await gate.open()
    yield gate
    await gate.close()


@pytest_asyncio.fixture
async def held(settings: DatabaseSettings, stack: AsyncExitStack) -> HeldConnections:
    """One connection whose answers the test holds."""
    return await stack.enter_async_context(HeldConnections(settings, 1))


@pytest_asyncio.fixture
async def wire(dsn: str, stack: AsyncExitStack) -> Wire:
    """A wire to the test's database."""
    return await stack.enter_async_context(open_wire(dsn))


@pytest_asyncio.fixture
async def far_gate(
    wire: Wire, keys: WorkspaceKeys, connection: asyncpg.Connection, stack: AsyncExitStack
) -> AsyncIterator[Gate]:
    """A gate at the other end of the wire, with the deadline that is the default."""
    await add_workspace(connection, "w")
    connections = await stack.enter_async_context(Connections(DatabaseSettings(wire.dsn), 2))
    gate = Gate(connections, keys, HASTY)
    await gate.open()
    yield gate
    await gate.close()


def limit_cents(found: WorkspaceBudget) -> int | None:
    return found.budget.windows[0].limit_cents


async def set_limit(connection: asyncpg.Connection, cents: int) -> None:
    limits = "jsonb_build_object($1::text, $2::bigint)"
    await connection.execute(f"UPDATE workspaces SET budget_limits = {limits}", NAME, cents)


async def refusal(gate: Gate, workspace_id: str = "w") -> tuple[str, float]:
    """Why and after how many seconds the gate could not tell."""
    started = time.perf_counter()
    with pytest.raises(StorageUnavailable) as raised:
        await gate.ask(workspace_id)
    return raised.value.cause, time.perf_counter() - started


async def ask_until_answered(gate: Gate) -> WorkspaceBudget:
    """The first answer; a busy machine may not make the first deadline."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(StorageUnavailable):
                return await gate.ask("w")
            await until(lambda: not gate.is_open)


async def test_limit_lowered_before_the_call_is_seen_although_a_query_is_under_way(
    held: HeldConnections, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {NAME: 100})
    gate = Gate(held, keys, PATIENT)
    before = asyncio.create_task(gate.ask("w"))
    await until(lambda: held.open_count == 1 and held.idle_count == 1)  # it has read its answer
    await set_limit(connection, 50)
    after = asyncio.create_task(gate.ask("w"))
    held.released.set()
    assert [limit_cents(found) for found in await asyncio.gather(before, after)] == [100, 50]


async def test_every_change_is_seen_by_the_next_call_in_the_thick_of_others(
    gate: Gate, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {NAME: 0})
    others: set[asyncio.Task[WorkspaceBudget]] = set()
    for cents in range(1, 100):
        others |= {asyncio.create_task(gate.ask("w")) for _ in range(10)}
        await set_limit(connection, cents)
        assert limit_cents(await gate.ask("w")) == cents
    await asyncio.gather(*others)


@pytest.mark.parametrize(
    ("workspaces", "queries_max"),
    [
        (1, 4),  # one or two that are under way at once, and one for all who came meanwhile
        (2000, 10),  # the same, in batches of 500
    ],
)
async def test_ten_thousand_calls_at_once_take_few_queries(
    gate: Gate, connection: asyncpg.Connection, workspaces: int, queries_max: int
) -> None:
    await connection.execute(
        "INSERT INTO workspaces (id) SELECT 'w' || number FROM generate_series(1, $1) AS number",
        workspaces,
    )
    before = gate.query_count
    names = [f"w{1 + number % workspaces}" for number in range(10_000)]
    answers = await asyncio.gather(*[gate.ask(name) for name in names])
    assert [answer.budget.workspace_id for answer in answers] == names
    assert gate.query_count - before <= queries_max


async def test_unknown_and_removed_workspaces_are_told_apart_from_an_outage(
    gate: Gate, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w")
    await connection.execute("INSERT INTO workspaces (id, status) VALUES ('removed', 'removed')")
    outcomes = await asyncio.gather(
        *[gate.ask(name) for name in ("nobody", "w", "removed")], return_exceptions=True
    )
    assert isinstance(outcomes[1], WorkspaceBudget)
    assert [type(outcomes[0]), type(outcomes[2])] == [UnknownWorkspace] * 2


async def test_caller_that_leaves_does_not_take_the_answer_from_others(
    held: HeldConnections, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {NAME: 100})
    gate = Gate(held, keys, PATIENT)
    first = asyncio.create_task(gate.ask("w"))
    await until(lambda: held.open_count == 1)
    leaving, staying = (asyncio.create_task(gate.ask("w")) for _ in range(2))
    await until(lambda: len(gate._waiting) == 1)  # both wait for the same next query
    leaving.cancel()
    await asyncio.wait({leaving})
    held.released.set()
    assert limit_cents(await staying) == 100
    await first
    assert leaving.cancelled()


async def test_call_is_told_in_time_that_the_server_does_not_answer(
    far_gate: Gate, wire: Wire
) -> None:
    assert limit_cents(await ask_until_answered(far_gate)) is None
    wire.silence()
    for _ in range(2):
        cause, waited_s = await refusal(far_gate)
        assert cause in ("timeout", "stall")  # the latter on a machine too busy to run us
        assert HASTY.timeout_s <= waited_s < LATE_S
    wire.speak()


async def test_call_is_told_in_time_that_the_server_takes_connections_and_says_nothing(
    wire: Wire, keys: WorkspaceKeys
) -> None:
    wire.silence()
    async with Connections(DatabaseSettings(wire.dsn, connect_timeout_s=0.5), 2) as connections:
        gate = Gate(connections, keys, HASTY)
        assert (await refusal(gate))[1] < LATE_S


async def test_breaker_opens_after_failures_and_closes_when_the_server_is_back(
    far_gate: Gate, wire: Wire
) -> None:
    wire.cut()
    async with asyncio.timeout(10):
        while not far_gate.is_open:
            cause, waited_s = await refusal(far_gate)
            assert cause in ("connection", "timeout", "stall")
            assert waited_s < LATE_S
    queries = far_gate.query_count
    assert {(await refusal(far_gate))[0] for _ in range(100)} == {"breaker_open"}
    assert far_gate.query_count - queries <= 2  # the probe, and no call
    await until(lambda: far_gate.query_count > queries + 2)  # it goes on probing
    assert far_gate.is_open
    wire.mend()
    await until(lambda: not far_gate.is_open)
    assert limit_cents(await ask_until_answered(far_gate)) is None


async def test_call_that_comes_after_one_gave_up_has_the_whole_deadline(
    held: HeldConnections, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {NAME: 100})
    gate = Gate(held, keys, GateSettings(timeout_s=0.5))
    first = asyncio.create_task(gate.ask("v"))
    await until(lambda: held.open_count == 1)
    # The one connection is busy: this one waits for a next query that does not come.
    assert (await refusal(gate))[0] == "timeout"
    second = asyncio.create_task(gate.ask("w"))
    held.released.set()
    assert limit_cents(await second) == 100
    await asyncio.gather(first, return_exceptions=True)


async def test_stall_of_our_own_process_is_not_blamed_on_the_server(
    settings: DatabaseSettings, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w")
    async with Connections(settings, 1) as connections:
        gate = Gate(connections, keys, GateSettings(timeout_s=0.5))
        await gate.open()
        call = asyncio.create_task(gate.ask("w"))
        await asyncio.sleep(0)  # it runs until it waits
        busy_until = time.monotonic() + 0.6
        while time.monotonic() < busy_until:
            pass
        assert limit_cents(await call) is None
