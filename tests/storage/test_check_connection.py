"""A connection for checks is ready before it is used, and replaced without a check being late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from gateway.core.errors import StorageUnavailable
from gateway.storage import gate as gate_module
from gateway.storage.check_connection import CheckConnection
from gateway.storage.database import Connections, DatabaseSettings, connect, has_unread
from gateway.storage.gate import Gate
from gateway.storage.workspace_key import WorkspaceKeys
from tests.running import until
from tests.storage.wire import open_wire

OURS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@asynccontextmanager
async def open_gate(dsn: str) -> AsyncIterator[Gate]:
    """A gate on two connections that are there."""
    gate = Gate(DatabaseSettings(dsn), WorkspaceKeys("text"))
    await gate.open()
    await until(lambda: gate.idle_count == 2)
    yield gate
    await gate.close()


async def backends(connection: asyncpg.Connection) -> set[int]:
    """The server's processes for everybody's connections but this one."""
    return {row["pid"] for row in await connection.fetch(f"SELECT pid {OURS}")}


async def write_in_vain(connection: asyncpg.Connection) -> None:
    """Write on a connection to a server that was a primary once."""
    await connection.execute("SET default_transaction_read_only = on")
    await connection.execute("UPDATE workspaces SET url = NULL")


async def test_unread_bytes_are_seen_in_the_socket(dsn: str) -> None:
    connection = await connect(DatabaseSettings(dsn))
    assert not has_unread(connection)
    asking = asyncio.create_task(connection.fetchval("SELECT 1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    while not has_unread(connection):
        pass  # the loop does not run, so it cannot read
    assert await asking == 1
    assert not has_unread(connection)
    connection.terminate()
    assert not has_unread(connection)


async def test_connection_has_read_before_it_is_used(dsn: str) -> None:
    lane = CheckConnection(DatabaseSettings(dsn), attempt_timeout_s=5)
    connection = await lane.connect()
    prepared = await connection.fetch("SELECT generic_plans FROM pg_prepared_statements")
    assert len([row for row in prepared if row["generic_plans"]]) >= 2
    lane.close()


async def test_attempt_to_connect_ends_although_the_server_says_nothing(dsn: str) -> None:
    async with open_wire(dsn) as wire:
        lane = CheckConnection(DatabaseSettings(wire.dsn), attempt_timeout_s=0.1)
        wire.silence()
        with pytest.raises(StorageUnavailable) as raised:
            await lane.connect()
        assert raised.value.cause == "timeout"


async def test_checks_go_over_to_new_connections_without_waiting_for_them(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with open_wire(dsn) as wire, open_gate(wire.dsn) as gate:
        old = await backends(connection)
        wire.is_cut = True  # for new connections
        async with Connections(DatabaseSettings(dsn), 1, gate.renew) as writers:
            with pytest.raises(StorageUnavailable):
                await writers.run(write_in_vain, timeout_s=5)
            assert await gate.is_answering()
            assert old <= await backends(connection)
        wire.mend()

        async def are_others() -> bool:
            now = await backends(connection)
            return len(now) == 2 and not now & old

        await until(are_others)
        assert await gate.is_answering()


async def test_server_is_not_looked_for_again_at_once(
    dsn: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "RENEW_INTERVAL_S", 3600)
    async with open_gate(dsn) as gate:
        old = await backends(connection)
        gate.renew()

        async def are_two_others() -> bool:
            now = await backends(connection)
            return len(now) == 2 and not now & old

        await until(are_two_others)
        new = await backends(connection)
        gate.renew()
        assert await gate.is_answering()
        assert await backends(connection) == new

    async def are_closed() -> bool:
        return not await backends(connection)

    await until(are_closed)
