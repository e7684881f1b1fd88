"""Budgets on PostgreSQL: a window's edges, when room returns, damaged limits, changes."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from gateway.core.budget import WindowSpend, read_change
from gateway.core.errors import UnknownWorkspace
from gateway.core.periods import LEGACY_PERIOD, PERIODS
from gateway.storage.budgets import Budgets, read_budget, read_budgets
from gateway.storage.database import Connection, Connections
from gateway.storage.workspace_key import WorkspaceKeys
from tests.storage.rows import add_rows, add_workspace

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
MICROSECOND, MILLISECOND = timedelta(microseconds=1), timedelta(milliseconds=1)


@pytest.fixture
def budgets(connections: Connections, keys: WorkspaceKeys) -> Budgets:
    return Budgets(connections, keys, timeout_s=10)


async def hourly(connection: Connection, as_of: datetime) -> WindowSpend:
    """The first period's window of workspace w at a moment."""
    return (await read_budgets(connection, ["w"], as_of))["w"].budget.windows[0]


async def test_row_leaves_the_window_at_its_length_and_not_a_microsecond_before(
    own_connection: Connection,
) -> None:
    await add_workspace(own_connection, "w")
    for period in PERIODS:
        await own_connection.execute("TRUNCATE workspace_spend_events")
        await add_rows(own_connection, "w", [(NOW - period.length, 7)])
        spend_cents = [
            {
                window.period: window.spend_cents
                for window in (await read_budgets(own_connection, ["w"], as_of))["w"].budget.windows
            }[period]
            for as_of in (NOW - MICROSECOND, NOW, NOW + MICROSECOND)
        ]
        assert spend_cents == [7, 0, 0], period


@pytest.mark.parametrize(
    ("rows", "limit_cents", "leaves_minutes_ago"),
    [
        ([(30, 100)], 100, 30),  # reaching the limit is enough; room returns as the row leaves
        ([(30, 60), (20, 40)], 100, 30),  # a part of it leaving is enough
        ([(30, 1), (20, 100)], 100, 20),  # the first leaves 100, which is still the limit
        ([(90, 500), (30, 100)], 100, 30),  # what left long ago does not count
        ([(30, 50), (30, 50), (20, 99)], 100, 30),  # both at one moment leave together
        ([(30, 100), (20, -20), (10, 50)], 100, 30),  # the correction stays behind and helps
        ([(30, -50), (20, 150), (10, 1)], 100, 20),  # the correction's leaving takes room away
        ([(30, 10), (20, -100), (10, 200)], 100, 10),  # enough left, but -100 leaves before 200
        ([(30, 100), (30, -100), (10, 100)], 100, 10),  # taken back at the same moment
        ([(30, 80), (30, -70), (10, 95)], 100, 30),  # of one moment, only the sum counts
        ([(30, 10)], 1, 30),  # the least limit there is
    ],
)
async def test_room_returns_at_the_named_moment_and_not_before(
    own_connection: Connection,
    rows: list[tuple[int, int]],
    limit_cents: int,
    leaves_minutes_ago: int,
) -> None:
    await add_workspace(own_connection, "w", {PERIODS[0].name: limit_cents})
    await add_rows(own_connection, "w", [(NOW - ago * MINUTE, cents) for ago, cents in rows])
    window = await hourly(own_connection, NOW)
    assert window.is_exceeded
    room_at = NOW + HOUR - leaves_minutes_ago * MINUTE
    assert window.retry_at == room_at
    assert (await hourly(own_connection, room_at - MILLISECOND)).is_exceeded
    assert (await hourly(own_connection, room_at - MICROSECOND)).is_exceeded
    assert not (await hourly(own_connection, room_at)).is_exceeded


@pytest.mark.parametrize(
    ("limit_cents", "is_exceeded"),
    [
        (0, True),  # blocks everything, and waiting does not help
        (101, False),  # a cent of room
        (None, False),  # no limit is not a limit of 0
    ],
)
async def test_no_moment_is_named_where_waiting_does_not_matter(
    own_connection: Connection, limit_cents: int | None, is_exceeded: bool
) -> None:
    limits = {} if limit_cents is None else {PERIODS[0].name: limit_cents}
    await add_workspace(own_connection, "w", limits)
    assert (await hourly(own_connection, NOW)).is_exceeded is (limit_cents == 0)
    await add_rows(own_connection, "w", [(NOW - MINUTE, 100)])
    window = await hourly(own_connection, NOW)
    assert (window.is_exceeded, window.retry_at) == (is_exceeded, None)


@pytest.mark.parametrize(
    ("stored", "limits", "damaged"),
    [
        ("null", {}, ()),  # JSON's null is no limit, as the column's is
        ("[100]", {}, ("budget_limits",)),
        ('"hourly"', {}, ("budget_limits",)),
        ("7", {}, ("budget_limits",)),
        ('{"hourly": "100"}', {}, ("hourly",)),  # a number as a string
        ('{"hourly": 1e30}', {}, ("hourly",)),
        ('{"hourly": 1e400, "daily": 5}', {"daily": 5}, ("hourly",)),  # over a double's range
        ('{"hourly": 1e5000, "daily": 5}', {}, ("budget_limits",)),  # more digits than Python reads
        ('{"hourly": -1, "daily": 5}', {"daily": 5}, ("hourly",)),
        ('{"hourly": 1.5}', {}, ("hourly",)),
        ('{"hourly": true}', {}, ("hourly",)),
        ('{"hourly": {"limit": 1}, "daily": [1]}', {}, ("daily", "hourly")),
        ('{"fortnightly": 5, "daily": 5}', {"daily": 5}, ("fortnightly",)),
        ('{"daily": null}', {}, ()),  # cleared, not damaged
        ("[" * 2000 + "]" * 2000, {}, ("budget_limits",)),  # deeper than a parser goes
    ],
)
async def test_limits_damaged_by_hand_are_named_and_ignored_and_break_nothing(
    own_connection: Connection,
    stored: str,
    limits: dict[str, int],
    damaged: tuple[str, ...],
) -> None:
    await add_workspace(own_connection, "sound", {"hourly": 10})
    await own_connection.execute(
        "INSERT INTO workspaces (id, budget_limits) VALUES ('w', $1::text::jsonb)", stored
    )
    for workspace_id in ("sound", "w"):
        await add_rows(own_connection, workspace_id, [(NOW - MINUTE, 100)])
    found = await read_budgets(own_connection, ["w", "sound"], NOW)
    assert found["w"].budget.limits == limits
    assert sorted(found["w"].damaged_limits) == sorted(damaged)
    assert found["w"].budget.windows[0].spend_cents == 100
    # It shares its query with others, who must not suffer.
    assert found["sound"].budget.limits == {"hourly": 10}


async def test_change_repairs_the_period_it_names(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        """INSERT INTO workspaces (id, budget_limits) VALUES ('w', '{"hourly": "x", "daily": 5}')"""
    )
    found = await budgets.change("w", read_change({"budget_limits": {"hourly": 7}}), "alice")
    assert (found.budget.limits, found.damaged_limits) == ({"hourly": 7, "daily": 5}, ())


async def test_changes_merge_and_the_legacy_column_follows_the_monthly_limit(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w")
    steps = [
        ({"budget_limits": {"hourly": 5, "daily": 6}}, {"hourly": 5, "daily": 6}),
        ({"budget_limits": {"hourly": None}}, {"daily": 6}),  # null clears, the rest stays
        ({"budget_limits": {}}, {"daily": 6}),  # nothing named, nothing changed
        ({"budget_limit": 0}, {"daily": 6, "monthly": 0}),  # 0 is a limit
        ({"budget_limits": {"monthly": 9}}, {"daily": 6, "monthly": 9}),
        ({"budget_limits": {"monthly": 8}, "budget_limit": 8}, {"daily": 6, "monthly": 8}),
        ({"budget_limit": None}, {"daily": 6}),
        ({"budget_limit": 10**12}, {"daily": 6, "monthly": 10**12}),
        ({"budget_limits": None}, {}),  # clears all
    ]
    for body, limits in steps:
        found = await budgets.change("w", read_change(body), "alice")
        assert found.budget.limits == limits, body
        legacy = await connection.fetchval("SELECT budget_limit FROM workspaces WHERE id = 'w'")
        assert legacy == limits.get(LEGACY_PERIOD.name), body


async def test_what_a_budget_names_as_limits_changes_nothing_when_written_back(
    budgets: Budgets, connection: asyncpg.Connection
) -> None:
    await add_workspace(connection, "w", {"hourly": 0, "weekly": 70})
    found = await budgets.read("w")
    written_back = read_change({"budget_limits": found.budget.limits})
    again = await budgets.change("w", written_back, "alice")
    assert again.budget.windows == found.budget.windows


@pytest.mark.parametrize("workspace_id", ["nobody", "removed"])
async def test_workspace_that_is_not_there_has_no_budget(
    budgets: Budgets, connection: asyncpg.Connection, workspace_id: str
) -> None:
    await connection.execute("INSERT INTO workspaces (id, status) VALUES ('removed', 'removed')")
    with pytest.raises(UnknownWorkspace):
        await budgets.read(workspace_id)
    with pytest.raises(UnknownWorkspace):
        await budgets.change(workspace_id, read_change({"budget_limit": 1}), "alice")
    assert await connection.fetchval("SELECT count(budget_limit) FROM workspaces") == 0


async def test_one_query_answers_for_many_workspaces(own_connection: Connection) -> None:
    for number in range(20):
        await add_workspace(own_connection, f"w{number}", {"hourly": number})
        await add_rows(own_connection, f"w{number}", [(NOW - MINUTE, number + 1)])
    found = await read_budgets(own_connection, [f"w{number}" for number in range(30)], NOW)
    spend_cents = {key: each.budget.windows[0].spend_cents for key, each in found.items()}
    assert spend_cents == {f"w{number}": number + 1 for number in range(20)}


async def test_reading_one_budget_tells_the_agents_url_and_the_databases_time(
    own_connection: Connection,
) -> None:
    await add_workspace(own_connection, "w")
    found = await read_budget(own_connection, "w")
    assert found.agent_url == "http://agent"
    now = await own_connection.fetchval("SELECT now()")
    assert now - MINUTE < found.budget.as_of <= now
