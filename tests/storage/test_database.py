"""Connections keep their deadlines whatever the server, the driver or the caller does."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from gateway.core.errors import Conflict, StorageUnavailable
from gateway.storage.database import Connections, DatabaseSettings
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


async def test_mistake_of_the_driver_opens_the_breaker_and_the_probe_goes_on(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = Connections(DatabaseSettings(dsn), 1)
    gate = Gate(connections, WorkspaceKeys("text"), GateSettings(timeout_s=1))
    shown: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: shown.append(context["exception"]))

    async def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    # Only our own seam is replaced; the database itself is well.
    with monkeypatch.context() as patch:
        patch.setattr("gateway.storage.gate.read_budgets", fail)
        for _ in range(gate.settings.failures_to_open):
            with pytest.raises(StorageUnavailable):
                await gate.ask("w")
        assert gate.is_open
        seen = len(shown)
        await until(lambda: len(shown) > seen)
    await until(lambda: not gate.is_open)
    await gate.close()
    await connections.close()
