"""The gate: as fresh as the call, few queries for many, never late, whatever the server does."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import asyncpg
import pytest
import pytest_asyncio

from gateway.core.errors import StorageUnavailable, UnknownWorkspace
from gateway.core.periods import PERIODS
from gateway.storage.budgets import WorkspaceBudget
from gateway.storage.check_connection import CheckConnection, State
from gateway.storage.database import DatabaseSettings
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

# The server's processes for the gate's connections.
OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
ANOTHER_BACKEND = f"SELECT max(pid) {OTHERS}"


@pytest_asyncio.fixture
async def gate(
    settings: DatabaseSettings, keys: WorkspaceKeys, stack: AsyncExitStack
) -> AsyncIterator[Gate]:
    """A gate on two connections that waits as long as a busy machine needs."""
    gate = Gate(settings, keys, PATIENT)
    await gate.open()
    yield gate
    await gate.close()


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
    gate = Gate(DatabaseSettings(wire.dsn), keys, HASTY)
    await gate.open()
    yield gate
    await gate.close()


@pytest_asyncio.fixture
async def one_lane(
    wire: Wire, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> AsyncIterator[Gate]:
    """A gate with one connection, whose answers the wire can hold back, and a workspace."""
    await add_workspace(connection, "w", {NAME: 100})
    gate = Gate(DatabaseSettings(wire.dsn), keys, replace(PATIENT, connections=1))
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


async def test_limit_lowered_before_the_call_is_seen_although_a_query_is_in_flight(
    one_lane: Gate, wire: Wire, connection: asyncpg.Connection
) -> None:
    wire.hold_answers()
    before = asyncio.create_task(one_lane.ask("w"))
    await until(lambda: wire.held_answers > 0)
    await set_limit(connection, 50)
    after = asyncio.create_task(one_lane.ask("w"))
    await asyncio.sleep(0)  # it asks
    wire.release_answers()
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
    one_lane: Gate, wire: Wire
) -> None:
    wire.hold_answers()
    first = asyncio.create_task(one_lane.ask("w"))
    await until(lambda: wire.held_answers > 0)
    leaving, staying = (asyncio.create_task(one_lane.ask("w")) for _ in range(2))
    await until(lambda: len(one_lane._waiting) == 1)  # both wait for the same next query
    leaving.cancel()
    await asyncio.wait({leaving})
    wire.release_answers()
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
        assert cause == "timeout"
        assert HASTY.timeout_s <= waited_s < LATE_S
    wire.speak()


async def test_call_is_told_in_time_that_the_server_takes_connections_and_says_nothing(
    wire: Wire, keys: WorkspaceKeys
) -> None:
    wire.silence()
    gate = Gate(DatabaseSettings(wire.dsn), keys, HASTY)
    await gate.open()
    assert gate.is_open
    assert (await refusal(gate))[1] < LATE_S
    await gate.close()


async def test_breaker_opens_after_failures_and_closes_when_the_server_is_back(
    far_gate: Gate, wire: Wire
) -> None:
    wire.cut()
    async with asyncio.timeout(10):
        while not far_gate.is_open:
            cause, waited_s = await refusal(far_gate)
            assert cause in ("connection", "timeout")
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
    wire: Wire, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {NAME: 100})
    gate = Gate(DatabaseSettings(wire.dsn), keys, GateSettings(timeout_s=0.5, connections=1))
    await gate.open()
    wire.hold_answers()
    # The second waits for a query that comes only after the first one's.
    first, second = asyncio.create_task(gate.ask("w")), asyncio.create_task(gate.ask("v"))
    assert await causes(first) == "timeout"
    third = asyncio.create_task(gate.ask("w"))
    assert await causes(second) == "timeout"
    wire.release_answers()
    assert limit_cents(await third) == 100
    assert not gate.is_open  # it was late, and did answer
    await gate.close()


async def causes(asking: asyncio.Task[WorkspaceBudget]) -> str:
    """Why the gate could not answer."""
    with pytest.raises(StorageUnavailable) as raised:
        await asking
    return raised.value.cause


def be_busy(duration_s: float) -> None:
    """Keep the event loop from everything else."""
    busy_until = time.monotonic() + duration_s
    while time.monotonic() < busy_until:
        pass


@pytest.mark.parametrize("deadlines", [2, 20])
async def test_delay_of_our_own_process_is_not_blamed_on_the_server(
    settings: DatabaseSettings,
    keys: WorkspaceKeys,
    connection: asyncpg.Connection,
    deadlines: int,
) -> None:
    await add_workspace(connection, "w", {NAME: 100})
    gate = Gate(settings, keys, GateSettings(connections=1))
    await gate.open()
    process_id = await connection.fetchval(ANOTHER_BACKEND)
    for _ in range(5):
        queries = gate.query_count
        call = asyncio.create_task(gate.ask("w"))
        while gate.query_count == queries:
            await asyncio.sleep(0)
        be_busy(deadlines * gate.settings.timeout_s)
        assert limit_cents(await call) == 100
    assert not gate.is_open
    assert await connection.fetchval(ANOTHER_BACKEND) == process_id
    await gate.close()


async def test_check_is_answered_however_often_its_process_is_held_up(
    settings: DatabaseSettings, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {NAME: 100})
    gate = Gate(settings, keys, HASTY)
    await gate.open()
    loop, is_over = asyncio.get_running_loop(), False

    def hold_up() -> None:
        be_busy(0.08)
        if not is_over:
            loop.call_later(0.02, hold_up)

    hold_up()
    for _ in range(20):
        assert limit_cents(await gate.ask("w")) == 100
    is_over = True
    await gate.close()


async def test_calls_are_checked_although_the_connection_was_lost_within_their_query(
    one_lane: Gate, wire: Wire, connection: asyncpg.Connection
) -> None:
    wire.hold_answers()
    call = asyncio.create_task(one_lane.ask("w"))
    await until(lambda: wire.held_answers > 0)
    # Another call to the same workspace waits for the next query already.
    later = asyncio.create_task(one_lane.ask("w"))
    await until(lambda: len(one_lane._waiting) == 1)
    await connection.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")
    wire.cut()
    wire.mend()
    wire.release_answers()
    assert [limit_cents(found) for found in await asyncio.gather(call, later)] == [100, 100]


async def test_lost_connection_is_made_anew_before_anybody_asks(
    gate: Gate, connection: asyncpg.Connection
) -> None:
    assert await connection.fetchval(f"SELECT pg_terminate_backend(pid, 5000) {OTHERS}")
    assert await connection.fetchval(f"SELECT count(*) FILTER (WHERE pid <> 0) {OTHERS}") <= 2
    await until(lambda: gate.idle_count == 2 and gate.open_count == 2)


async def test_workspace_that_is_found_over_its_limit_is_not_passed_because_the_rest_is_late(
    wire: Wire, keys: WorkspaceKeys, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_workspace(connection, "over", {NAME: 0})
    await add_workspace(connection, "under", {NAME: 100})
    gate = Gate(DatabaseSettings(wire.dsn), keys, replace(HASTY, connections=1))
    await gate.open()

    async def fall_silent(*_: object) -> None:
        wire.silence()
        await connection.fetchval("SELECT pg_sleep(3600)")

    # Our own seam between the two queries; the server is silent for the second one.
    monkeypatch.setattr("gateway.storage.budget_query.with_room", fall_silent)
    over, under = await asyncio.gather(gate.ask("over"), gate.ask("under"))
    assert over.budget.exceeded
    assert not under.budget.exceeded
    await gate.close()


async def test_connection_that_cannot_be_made_anew_does_not_stop_the_checks_on_another(
    wire: Wire, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {NAME: 100})
    gate = Gate(DatabaseSettings(wire.dsn), keys, PATIENT)
    await gate.open()
    await until(lambda: gate.idle_count == 2)
    wire.is_cut = True  # for new connections
    assert await connection.fetchval(f"SELECT pg_terminate_backend(min(pid), 5000) {OTHERS}")
    attempts = gate.query_count
    await until(lambda: gate.query_count > attempts + 2 * gate.settings.failures_to_open)
    assert not gate.is_open
    assert limit_cents(await gate.ask("w")) == 100
    await gate.close()


async def test_breaker_that_is_open_closes_by_a_connection_that_is_still_there(
    gate: Gate,
) -> None:
    await until(lambda: gate.idle_count == 2)
    gate.breaker.open("a mistake")
    gate._fail(CheckConnection(gate.database, 1, State.ASKING), "a mistake")  # wakes the idle ones
    await until(lambda: not gate.is_open)


@pytest.mark.parametrize("turn_s", [0.03, 0.11])
async def test_lost_connections_are_made_anew_however_slowly_our_process_runs(
    settings: DatabaseSettings,
    keys: WorkspaceKeys,
    connection: asyncpg.Connection,
    turn_s: float,
) -> None:
    await add_workspace(connection, "w", {NAME: 100})
    gate = Gate(settings, keys, HASTY)
    loop, is_over = asyncio.get_running_loop(), False

    def hold_up() -> None:
        be_busy(turn_s)
        if not is_over:
            loop.call_soon(hold_up)

    hold_up()
    await gate.open()
    assert not gate.is_open
    await connection.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")
    await until(lambda: gate.open_count < 2, 20)
    await until(lambda: gate.open_count == 2, 20)
    assert not gate.is_open
    assert limit_cents(await gate.ask("w")) == 100
    is_over = True
    await gate.close()


async def test_start_waits_for_a_database_that_is_far_away(wire: Wire, keys: WorkspaceKeys) -> None:
    wire.delay_s = 0.01
    gate = Gate(DatabaseSettings(wire.dsn), keys, HASTY)
    await gate.open()
    assert not gate.is_open
    await gate.close()


async def test_start_waits_for_no_database_that_is_known_to_be_away(
    wire: Wire, keys: WorkspaceKeys
) -> None:
    wire.silence()
    gate = Gate(DatabaseSettings(wire.dsn), keys, GateSettings(timeout_s=60))
    async with asyncio.timeout(10):
        await gate.open(is_away=True)
    assert gate.is_open
    wire.speak()
    await until(lambda: not gate.is_open)
    await gate.close()


async def test_answer_that_came_too_late_for_its_caller_is_reported(
    wire: Wire, keys: WorkspaceKeys, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {NAME: 0})
    found: list[WorkspaceBudget] = []
    gate = Gate(DatabaseSettings(wire.dsn), keys, GateSettings(timeout_s=0.2, connections=1))
    gate.on_found = found.append
    await gate.open()
    wire.hold_answers()
    assert (await refusal(gate))[0] == "timeout"
    assert not found
    wire.release_answers()
    await until(lambda: bool(found))
    assert found[0].budget.exceeded
    await gate.close()


async def test_questions_in_flight_are_refused_when_the_gate_closes(
    one_lane: Gate, wire: Wire
) -> None:
    wire.hold_answers()
    asked = asyncio.create_task(one_lane.ask("w"))
    await until(lambda: wire.held_answers > 0)
    waits = asyncio.create_task(one_lane.ask("w"))
    await until(lambda: len(one_lane._waiting) == 1)
    await one_lane.close()
    assert [await causes(each) for each in (asked, waits)] == ["connection"] * 2
