"""Connections keep their deadlines whatever the server, the driver or the caller does."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from dataclasses import replace

import asyncpg
import pytest

from gateway.core.errors import Conflict, StorageUnavailable
from gateway.storage.budgets import read_budgets
from gateway.storage.database import (
    Connection,
    Connections,
    Contended,
    DatabaseSettings,
    StatementFailed,
)
from gateway.storage.gate import Gate, GateSettings
from gateway.storage.workspace_key import WorkspaceKeys
from tests.running import until


async def test_operation_whose_caller_left_gives_its_connection_back_at_the_deadline(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with Connections(DatabaseSettings(dsn), 1) as connections, connection.transaction():
        await connection.execute("LOCK TABLE workspaces IN ACCESS EXCLUSIVE MODE")
        caller = asyncio.create_task(
            connections.run(lambda each: each.fetch("SELECT FROM workspaces"), timeout_s=0.3)
        )
        await until(lambda: connections.open_count == 1)
        caller.cancel()
        one = await connections.run(lambda each: each.fetchval("SELECT 1"), timeout_s=5)
    assert one == 1


async def test_deadline_that_passed_is_told_as_such_and_not_as_a_lost_connection(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with Connections(DatabaseSettings(dsn), 1) as connections, connection.transaction():
        await connections.run(lambda each: each.fetchval("SELECT 1"), timeout_s=5)
        await connection.execute("LOCK TABLE workspaces IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StorageUnavailable) as raised:
            await connections.run(lambda each: each.fetch("SELECT FROM workspaces"), timeout_s=0.1)
    assert raised.value.cause == "timeout"


async def test_deadline_of_an_operation_that_just_ended_takes_no_connection_from_the_next(
    dsn: str,
) -> None:
    may_end = asyncio.Event()

    async def wait(_: Connection) -> str:
        await may_end.wait()
        return "ended"

    async with Connections(DatabaseSettings(dsn), 1) as connections:
        await connections.run(lambda each: each.fetchval("SELECT 1"), timeout_s=5)
        first = asyncio.create_task(connections.run(wait, timeout_s=0.1))
        await until(lambda: connections.idle_count == 0)
        may_end.set()
        # One turn of the loop then ends the first, begins the next and comes to the deadline.
        late = time.monotonic() + 0.2
        while time.monotonic() < late:
            pass
        assert await connections.run(lambda each: each.fetchval("SELECT 1"), timeout_s=5) == 1
        assert await first == "ended"


async def test_deadline_between_any_two_steps_of_the_driver_is_no_mistake_of_ours(dsn: str) -> None:
    def read(connection: Connection) -> Awaitable[object]:
        return read_budgets(connection, ["w"])

    for attempt in range(80):
        # Preparing a statement takes the driver several steps, and every connection does it anew.
        async with Connections(DatabaseSettings(dsn), 1) as connections:
            await connections.run(lambda each: each.fetchval("SELECT 1"), timeout_s=5)
            with contextlib.suppress(StorageUnavailable):
                await connections.run(read, timeout_s=0.0005 + attempt * 0.0001)


async def test_server_ends_a_statement_that_was_given_up_here(
    dsn: str, connection: asyncpg.Connection
) -> None:
    settings = replace(DatabaseSettings(dsn), statement_timeout_s=0.2)
    async with Connections(settings, 1) as connections, connection.transaction():
        await connection.execute("LOCK TABLE workspaces IN ACCESS EXCLUSIVE MODE")
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                await connections.run(
                    lambda each: each.fetch("SELECT FROM workspaces"), timeout_s=0.1
                )
        await until(
            lambda: connection.fetchval(
                "SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            )
        )


async def test_value_that_a_column_does_not_take_is_a_conflict_and_no_outage(dsn: str) -> None:
    async with Connections(DatabaseSettings(dsn), 1) as connections:
        with pytest.raises(Conflict):
            await connections.run(
                lambda each: each.execute("INSERT INTO workspaces (id) VALUES (NULL)"), timeout_s=5
            )
        assert connections.open_count == 1


@pytest.mark.parametrize(
    ("statement", "is_refused"),
    [
        ("DO $$ BEGIN RAISE EXCEPTION 'no'; END $$", True),
        # Whatever was asked would meet the same.
        ("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$", False),
        ("SET TRANSACTION READ ONLY; DELETE FROM workspaces", False),
        # A pooler says so of a server that it lost, maybe after a commit.
        ("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'protocol_violation'; END $$", False),
        # The connection's end may come after a commit, too.
        ("SELECT pg_terminate_backend(pg_backend_pid())", False),
    ],
)
async def test_statement_that_is_refused_is_told_from_a_server_that_cannot(
    dsn: str, statement: str, is_refused: bool
) -> None:
    async with Connections(DatabaseSettings(dsn), 1) as connections:
        with pytest.raises(StorageUnavailable) as raised:
            await connections.run(lambda each: each.execute(statement), timeout_s=5)
    assert isinstance(raised.value, StatementFailed) is is_refused


async def test_lock_that_somebody_else_holds_does_not_cost_the_connection(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with Connections(DatabaseSettings(dsn), 1) as connections, connection.transaction():
        await connection.execute("LOCK TABLE workspaces IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Contended):
            await connections.run(
                lambda each: each.execute("SET lock_timeout = 10; SELECT FROM workspaces"),
                timeout_s=5,
            )
        assert connections.open_count == 1


async def test_mistake_of_the_driver_opens_the_breaker_and_the_probe_goes_on(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(DatabaseSettings(dsn), WorkspaceKeys("text"), GateSettings(timeout_s=1))
    await gate.open()
    shown: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: shown.append(context["exception"]))

    async def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    # Only our own seam is replaced; the database itself is well.
    with monkeypatch.context() as patch:
        patch.setattr("gateway.storage.budget_query.read_spends", fail)
        patch.setattr("gateway.storage.check_connection.read_nothing", fail)
        for _ in range(gate.settings.failures_to_open):
            with pytest.raises(StorageUnavailable):
                await gate.ask("w")
        assert gate.is_open
        seen = len(shown)
        await until(lambda: len(shown) > seen)
    await until(lambda: not gate.is_open)
    await gate.close()


async def test_every_connection_is_made_anew_when_one_finds_that_its_server_takes_no_writes(
    dsn: str,
) -> None:
    async with Connections(DatabaseSettings(dsn), 2) as connections:
        old = await process_ids(connections)
        with pytest.raises(StorageUnavailable) as raised:
            await connections.run(write_in_vain, timeout_s=5)
        assert raised.value.cause == "sqlstate_25"
        new = await process_ids(connections)
    assert len(new) == 2
    assert not old & new


OURS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def write_in_vain(connection: asyncpg.Connection) -> None:
    """Write on a connection to a server that was a primary once."""
    await connection.execute("SET default_transaction_read_only = on")
    await connection.execute("UPDATE workspaces SET url = NULL")


async def process_ids(connections: Connections) -> set[int]:
    """The server's processes behind all of the connections."""
    ask = "SELECT pg_backend_pid() FROM pg_sleep(0.05)"  # long enough for all to be busy at once
    asked = [
        connections.run(lambda each: each.fetchval(ask), timeout_s=5)
        for _ in range(connections.size)
    ]
    return set(await asyncio.gather(*asked))


async def are_others(connections: Connections, process_ids_before: set[int]) -> bool:
    return not await process_ids(connections) & process_ids_before


async def are_gone(connection: asyncpg.Connection, ids: set[int]) -> bool:
    return bool(await connection.fetchval(f"SELECT count(*) = 0 {OURS} AND pid = ANY ($1)", ids))


async def count(connection: asyncpg.Connection, expected: int) -> bool:
    return bool(await connection.fetchval(f"SELECT count(*) = $1 {OURS}", expected))
