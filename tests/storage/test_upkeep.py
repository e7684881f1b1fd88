"""Pruning: old rows go, in bounded batches, and nobody else notices."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from gateway.core.workspaces import Liveness
from gateway.storage import upkeep
from gateway.storage.audit import verify_ledger
from gateway.storage.database import Connections, DatabaseSettings, connect
from gateway.storage.ledger import Heartbeat, Ledger
from gateway.storage.migrations import migrate
from gateway.storage.queries import query
from gateway.storage.upkeep import prune_ledger
from gateway.storage.workspace_key import WorkspaceKeys
from tests.conftest import CreateDatabase
from tests.running import until
from tests.storage.command import run_command
from tests.storage.platform import BLOCKED, PLATFORMS, Platform
from tests.storage.rows import add_even_rows, add_rows, add_workspace
from tests.storage.test_queries import BLOCKS_MORE_MAX, blocks, ledger_rows, nodes

LEDGER = "workspace_spend_events"
RETENTION = timedelta(days=400)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "PAUSE_S", 0)


async def numbers(connection: asyncpg.Connection, workspace_id: str = "w") -> list[int]:
    """The numbers of the rows that are left."""
    rows = await connection.fetch(
        "SELECT event_number FROM workspace_spend_events WHERE workspace_id = $1 ORDER BY 1",
        workspace_id,
    )
    return [row["event_number"] for row in rows]


async def add_ledger(
    connection: asyncpg.Connection, ages: Sequence[timedelta], workspace_id: str = "w"
) -> None:
    """A workspace with a row of 10 cents of every age, the oldest first."""
    now = datetime.now(UTC)
    await add_workspace(connection, workspace_id)
    await add_rows(connection, workspace_id, [(now - age, 10) for age in ages])


async def is_right(settings: DatabaseSettings) -> bool:
    """Whether the ledger passes its audit."""
    async with aclosing(verify_ledger(settings)) as batches:
        return not [each async for _, differences in batches for each in differences]


@pytest.mark.parametrize(
    ("ages", "left"),
    [
        ([], []),
        ([2 * RETENTION], [1]),  # the newest stays, however old: the next row goes on from it
        ([2 * RETENTION, RETENTION + DAY], [2]),
        ([RETENTION + MINUTE, RETENTION - MINUTE], [2]),  # the edge
        ([RETENTION - MINUTE, MINUTE], [1, 2]),
        ([RETENTION + DAY] * 3 + [MINUTE], [4]),  # rows of one moment
        # Somebody made times go back. A row from the middle is never taken: that would be a hole.
        ([RETENTION + DAY, MINUTE, RETENTION + DAY, MINUTE], [2, 3, 4]),
    ],
)
async def test_rows_that_are_older_go_and_the_newest_stays(
    settings: DatabaseSettings,
    connection: asyncpg.Connection,
    ages: list[timedelta],
    left: list[int],
) -> None:
    await add_ledger(connection, ages)
    assert await prune_ledger(settings, RETENTION) == len(ages) - len(left)
    assert await numbers(connection) == left


async def test_ledger_goes_on_where_the_pruned_rows_ended(
    settings: DatabaseSettings, connections: Connections, connection: asyncpg.Connection
) -> None:
    await add_ledger(connection, [RETENTION + DAY, RETENTION + DAY])
    await prune_ledger(settings, RETENTION)
    ledger = Ledger(connections, WorkspaceKeys("text"), timeout_s=10)
    await ledger.record(Heartbeat("w", 5, "", "", Liveness()))
    rows = await connection.fetch(
        "SELECT event_number, running_total_cents FROM workspace_spend_events ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [(2, 20), (3, 25)]
    assert await is_right(settings)


async def test_every_workspace_is_pruned_a_removed_one_too(
    settings: DatabaseSettings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "WORKSPACES_PER_BATCH", 2)
    names = ["a", "b", "c", "removed", "z"]
    for name in names:
        await add_ledger(connection, [RETENTION + DAY, RETENTION + DAY, MINUTE], name)
    await connection.execute("UPDATE workspaces SET status = 'removed' WHERE id = 'removed'")
    assert await prune_ledger(settings, RETENTION) == 10
    assert [await numbers(connection, name) for name in names] == [[3]] * 5


async def test_workspace_that_has_nothing_to_delete_is_left_alone(
    settings: DatabaseSettings, connection: asyncpg.Connection
) -> None:
    ledgers = {
        "empty": [],
        "idle": [2 * RETENTION],
        "young": [RETENTION - DAY, MINUTE],
        "old": [RETENTION + DAY, MINUTE],
    }
    for name, ages in ledgers.items():
        await add_ledger(connection, ages, name)
    rows = await connection.fetch(query("ledger_prunable"), list(ledgers), RETENTION)
    assert [row["workspace_id"] for row in rows] == ["old"]


async def test_batches_are_bounded_and_each_is_committed(
    settings: DatabaseSettings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROWS_PER_BATCH", 4)
    await add_ledger(connection, [RETENTION + DAY] * 10)
    seen = []
    prune_batch = upkeep._prune_batch

    async def look(*arguments: Any) -> list[int]:
        seen.append((arguments[-1], len(await numbers(connection))))
        return await prune_batch(*arguments)

    monkeypatch.setattr(upkeep, "_prune_batch", look)
    assert await prune_ledger(settings, RETENTION) == 9
    assert seen == [(1, 10), (5, 6), (9, 2)]  # each begins behind what the one before deleted
    assert await numbers(connection) == [10]


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
async def test_ledger_of_the_platforms_database_is_pruned(
    create_database: CreateDatabase, platform: Platform
) -> None:
    settings = DatabaseSettings(await create_database("template0"))
    await platform.create(settings.dsn)
    await migrate(settings)
    connection = await connect(settings)
    await connection.execute("DELETE FROM workspace_spend_events")
    now = datetime.now(UTC)
    await add_rows(connection, BLOCKED, [(now - 2 * RETENTION, 1), (now - 2 * RETENTION, 1)])
    assert await prune_ledger(settings, RETENTION) == 1
    assert await numbers(connection, BLOCKED) == [2]
    await connection.close()


async def test_pruning_waits_for_no_heartbeat_and_no_heartbeat_for_pruning(
    settings: DatabaseSettings,
    connections: Connections,
    own_connection: asyncpg.Connection,
    connection: asyncpg.Connection,
) -> None:
    await add_ledger(connection, [RETENTION + DAY, RETENTION + DAY, MINUTE])
    async with own_connection.transaction():
        await own_connection.fetch(query("workspaces_lock"), ["w"])
        row = (["w"], [1], [""], [""], [1])
        await own_connection.execute(query("spend_events_append"), *row, "heartbeat")
        async with asyncio.timeout(10):
            assert await prune_ledger(settings, RETENTION) == 2
    await add_ledger(connection, [RETENTION + DAY, RETENTION + DAY], "v")
    async with own_connection.transaction():
        await own_connection.fetch(query("ledger_prune"), "v", RETENTION, 1, 1000)
        ledger = Ledger(connections, WorkspaceKeys("text"), timeout_s=10)
        booking = await ledger.record(Heartbeat("v", 5, "", "", Liveness()))
    assert booking.amount_cents == 5
    assert (await numbers(connection), await numbers(connection, "v")) == ([3, 4], [2, 3])
    assert await is_right(settings)


async def test_two_replicas_that_prune_at_once_delete_each_row_once(
    settings: DatabaseSettings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROWS_PER_BATCH", 7)
    names = [f"w{number}" for number in range(5)]
    for name in names:
        await add_ledger(connection, [RETENTION + DAY] * 100, name)
    counts = await asyncio.gather(*[prune_ledger(settings, RETENTION) for _ in range(3)])
    assert sum(counts) == 5 * 99
    assert [await numbers(connection, name) for name in names] == [[100]] * 5


async def test_replica_that_comes_second_waits_for_the_first_and_leaves_no_hole_if_that_fails(
    settings: DatabaseSettings, own_connection: asyncpg.Connection, connection: asyncpg.Connection
) -> None:
    await add_ledger(connection, [RETENTION + DAY] * 10)
    transaction = own_connection.transaction()
    await transaction.start()
    await own_connection.fetch(query("ledger_prune"), "w", RETENTION, 1, 3)
    second = asyncio.create_task(prune_ledger(settings, RETENTION))
    await until(
        lambda: connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
    )
    await transaction.rollback()
    assert await second == 9
    assert await numbers(connection) == [10]


async def test_command_prunes_and_tells_how_many_rows_went(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await add_ledger(connection, [RETENTION + DAY, RETENTION + DAY, MINUTE])
    assert (await run_command(dsn, "prune"))[:2] == (0, "2 rows deleted\n")
    assert await numbers(connection) == [3]
    await connection.execute(f"ALTER TABLE {LEDGER} RENAME TO gone")
    status, output, errors = await run_command(dsn, "prune")
    assert (status, output) == (1, "")
    assert errors == "gateway: not pruned to the end (sqlstate_42)\n"


async def test_command_keeps_every_row_if_told_so(
    dsn: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE__LEDGER_RETENTION_DAYS", "0")
    await add_ledger(connection, [RETENTION + DAY, RETENTION + DAY])
    status, output, _ = await run_command(dsn, "prune")
    assert (status, output) == (0, "database.ledger_retention_days is 0: every row is kept\n")
    assert await numbers(connection) == [1, 2]


async def test_batch_reads_no_more_than_itself_however_large_the_ledger_is(
    settings: DatabaseSettings, connection: asyncpg.Connection
) -> None:
    for name, count in (("small", 2_000), ("large", 100_000)):
        await add_workspace(connection, name)
        await add_even_rows(connection, name, count, int(2 * RETENTION.total_seconds()))
    await connection.execute("VACUUM ANALYZE workspace_spend_events, workspaces")
    small, large = [
        await explain(settings, "ledger_prune", f"'{name}', '400 days', 1, 100")
        for name in ("small", "large")
    ]
    # The batch and one row more are looked at, then the batch is read again, and deleted.
    assert [ledger_rows(plan) for plan in (small, large)] == [101 + 100 + 100] * 2
    assert blocks(large) <= blocks(small) + BLOCKS_MORE_MAX
    looked_for = await explain(settings, "ledger_prunable", "'{small,large}', '400 days'")
    assert ledger_rows(looked_for) == 2 * 2
    assert [ledger_scans(plan) for plan in (small, large, looked_for)] == [
        {"Index Scan"},
        {"Index Scan"},
        {"Index Scan"},
    ]


async def test_batch_after_many_others_does_not_look_at_what_they_deleted(
    settings: DatabaseSettings, connection: asyncpg.Connection
) -> None:
    await connection.execute("ALTER TABLE workspace_spend_events SET (autovacuum_enabled = off)")
    await add_workspace(connection, "w")
    await add_even_rows(connection, "w", 20_000, int(2 * RETENTION.total_seconds()))
    await connection.execute("ANALYZE workspace_spend_events")
    first = await explain(settings, "ledger_prune", "'w', '400 days', 1, 100")
    await connection.execute("DELETE FROM workspace_spend_events WHERE event_number < 9000")
    later = await explain(settings, "ledger_prune", "'w', '400 days', 9000, 100")
    assert blocks(later) <= blocks(first) + BLOCKS_MORE_MAX


async def explain(settings: DatabaseSettings, name: str, arguments: str) -> dict[str, Any]:
    """How the server answers a query, by the plan for any arguments; what it changed is undone."""
    connection = await connect(settings)
    await connection.execute(f"PREPARE asked AS {query(name)}")
    transaction = connection.transaction()
    await transaction.start()
    plan = await connection.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE asked({arguments})"
    )
    await transaction.rollback()
    await connection.close()
    return dict(json.loads(plan)[0]["Plan"])


def ledger_scans(plan: dict[str, Any]) -> set[str]:
    """The ways in which the ledger is read."""
    return {
        node["Node Type"]
        for node in nodes(plan)
        if node.get("Relation Name") == LEDGER and node["Node Type"] != "ModifyTable"
    }
