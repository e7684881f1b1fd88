"""The history of limits on PostgreSQL: what is kept, in which order, and that it only grows."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta

import asyncpg
import pytest

from gateway.core.budget import read_change
from gateway.core.budget_changes import limits_etag
from gateway.core.errors import PreconditionFailed, StorageUnavailable, UnknownWorkspace
from gateway.core.periods import LEGACY_PERIOD
from gateway.storage.budgets import Budgets, WorkspaceBudget
from gateway.storage.database import Connections, DatabaseSettings
from gateway.storage.migrations import migrate
from gateway.storage.workspace_key import WorkspaceKeys, read_workspace_keys
from tests.conftest import CreateDatabase
from tests.running import until
from tests.storage.platform import BLOCKED, IDLE, PLATFORMS, REMOVED, Platform
from tests.storage.rows import add_workspace


@pytest.fixture
def budgets(connections: Connections, keys: WorkspaceKeys) -> Budgets:
    return Budgets(connections, keys, timeout_s=10)


async def set_hourly(budgets: Budgets, cents: int | None, operator: str = "alice") -> None:
    """Change the limit of one period of workspace w."""
    await budgets.change("w", read_change({"budget_limits": {"hourly": cents}}), operator)


async def numbers(budgets: Budgets, limit: int = 50, before: int | None = None) -> list[int]:
    return [change.number for change in (await budgets.changes("w", limit, before))[0]]


async def test_change_is_kept_with_who_when_what_and_why(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {"hourly": 5, "daily": 9})
    body = {"budget_limits": {"hourly": 7, "daily": None}, "reason": "Black Friday"}
    await budgets.change("w", read_change(body), "alice")
    (change,), count = await budgets.changes("w", 50)
    assert (change.number, count) == (1, 1)
    assert (change.changed_by, change.reason) == ("alice", "Black Friday")
    assert (change.limits_before, change.limits_after) == ({"hourly": 5, "daily": 9}, {"hourly": 7})
    now = await connection.fetchval("SELECT clock_timestamp()")
    assert now - timedelta(minutes=1) < change.changed_at < now


@pytest.mark.parametrize(
    "body",
    [
        {"budget_limits": {}},
        {"budget_limits": {"hourly": 5}},  # what it was
        {"budget_limits": {"daily": None}},  # which has no limit
        {"budget_limit": None},
    ],
)
async def test_what_changes_nothing_is_not_kept(
    budgets: Budgets, connection: asyncpg.Connection, body: dict[str, object]
) -> None:
    await add_workspace(connection, "w", {"hourly": 5})
    await budgets.change("w", read_change({**body, "reason": "none"}), "alice")
    assert await budgets.changes("w", 50) == ([], 0)


async def test_history_is_paged_newest_first_and_a_page_stays_itself_while_more_is_kept(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w")
    for cents in range(5):
        await set_hourly(budgets, cents)
    assert await numbers(budgets) == [5, 4, 3, 2, 1]
    assert await numbers(budgets, limit=2) == [5, 4]
    await set_hourly(budgets, None)
    assert await numbers(budgets, limit=2, before=4) == [3, 2]
    assert await numbers(budgets, before=1) == []
    assert await numbers(budgets, before=10**9) == [6, 5, 4, 3, 2, 1]
    assert (await budgets.changes("w", 2, 4))[1] == 6


async def test_changes_of_one_workspace_are_no_other_workspaces(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    for workspace_id in ("w", "x"):
        await add_workspace(connection, workspace_id)
        await budgets.change(workspace_id, read_change({"budget_limit": 1}), workspace_id)
    (change,), count = await budgets.changes("x", 50)
    assert (change.number, change.changed_by, count) == (1, "x", 1)


async def test_history_only_grows(budgets: Budgets, connection: asyncpg.Connection) -> None:
    await add_workspace(connection, "w")
    rows: list[asyncpg.Record] = []
    for cents in (1, 2, None, 0, 1):
        await set_hourly(budgets, cents)
        before, rows = rows, await connection.fetch("SELECT * FROM workspace_budget_changes")
        assert rows[:-1] == before
    # Each begins where the one before it ended.
    assert [row["limits_before"] for row in rows[1:]] == [row["limits_after"] for row in rows[:-1]]


async def test_change_and_its_record_happen_together_or_not_at_all(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {"hourly": 5})
    await connection.execute("ALTER TABLE workspace_budget_changes RENAME TO elsewhere")
    with pytest.raises(StorageUnavailable):
        await set_hourly(budgets, 7)
    assert (await budgets.read("w")).budget.limits == {"hourly": 5}


async def test_changes_at_the_same_instant_are_numbered_without_a_gap(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w")
    await asyncio.gather(*[set_hourly(budgets, cents, f"o{cents}") for cents in range(20)])
    changes, _ = await budgets.changes("w", 50)
    changes.reverse()
    assert [change.number for change in changes] == list(range(1, 21))
    assert [change.limits_before for change in changes[1:]] == [
        change.limits_after for change in changes[:-1]
    ]
    assert all(change.changed_by == f"o{change.limits_after['hourly']}" for change in changes)
    moments = [change.changed_at for change in changes]
    assert moments == sorted(moments)


async def test_of_two_operators_at_the_same_instant_exactly_one_wins(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {"hourly": 5})
    seen = [limits_etag({"hourly": 5})]

    def change(cents: int, operator: str) -> Coroutine[object, object, WorkspaceBudget]:
        body = {"budget_limits": {"hourly": cents}}
        return budgets.change("w", read_change(body), operator, seen)

    async with connection.transaction():
        await connection.execute("SELECT FROM workspaces FOR NO KEY UPDATE")
        both = asyncio.gather(change(6, "alice"), change(7, "bob"), return_exceptions=True)
        await until(lambda: are_waiting(connection, 2))
    answers = await both
    refused = [each for each in answers if isinstance(each, PreconditionFailed)]
    (changed,) = [each for each in answers if isinstance(each, WorkspaceBudget)]
    ((kept,), count) = await budgets.changes("w", 50)
    assert (len(refused), count) == (1, 1)
    assert changed.budget.limits == kept.limits_after
    assert kept.changed_by in refused[0].detail


async def are_waiting(connection: asyncpg.Connection, count: int) -> bool:
    """Whether so many wait for a lock on the server."""
    return await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") == count


async def test_change_for_other_limits_changes_nothing(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {"hourly": 5})
    before = await connection.fetchrow("SELECT * FROM workspaces")
    with pytest.raises(PreconditionFailed, match=r"names\.$"):
        await budgets.change("w", read_change({"budget_limit": 7}), "alice", [limits_etag({})])
    assert await connection.fetchrow("SELECT * FROM workspaces") == before
    assert await budgets.changes("w", 50) == ([], 0)


@pytest.mark.parametrize("workspace_id", ["nobody", "removed"])
async def test_workspace_that_is_not_there_has_no_history(
    budgets: Budgets, connection: asyncpg.Connection, workspace_id: str
) -> None:
    await connection.execute("INSERT INTO workspaces (id, status) VALUES ('removed', 'removed')")
    with pytest.raises(UnknownWorkspace):
        await budgets.changes(workspace_id, 50)


async def test_history_of_a_removed_workspace_is_kept_for_when_it_comes_back(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w")
    await set_hourly(budgets, 5)
    await connection.execute("UPDATE workspaces SET status = 'removed'")
    with pytest.raises(UnknownWorkspace):
        await budgets.changes("w", 50)
    await connection.execute("UPDATE workspaces SET status = DEFAULT")
    await set_hourly(budgets, 6)
    assert await numbers(budgets) == [2, 1]


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
async def test_history_on_the_platforms_database_begins_empty_and_has_its_ids(
    create_database: CreateDatabase, platform: Platform
) -> None:
    settings = DatabaseSettings(await create_database("template0"))
    await platform.create(settings.dsn)
    await asyncio.gather(*[migrate(settings) for _ in range(2)])
    async with Connections(settings, 1) as connections:
        budgets = Budgets(connections, await read_workspace_keys(settings), timeout_s=10)
        assert await budgets.changes(BLOCKED, 50) == ([], 0)
        await budgets.change(BLOCKED.upper(), read_change({"budget_limit": 6000}), "alice")
        (change,), _ = await budgets.changes(BLOCKED, 50)
        before, after = {LEGACY_PERIOD.name: 5000}, {LEGACY_PERIOD.name: 6000}
        assert (change.limits_before, change.limits_after) == (before, after)
        assert await budgets.changes(IDLE, 50) == ([], 0)
        with pytest.raises(UnknownWorkspace):
            await budgets.changes(REMOVED, 50)
