"""What charts and forecasts are made of, held against sums over the rows."""

from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import pytest

from gateway.core.periods import PERIODS
from gateway.storage.budgets import Budgets
from gateway.storage.database import Connections
from gateway.storage.spending import ROWS_LOOKED_AT, Spending
from gateway.storage.workspace_key import WorkspaceKeys
from tests.storage.rows import Row, add_even_rows, add_rows, add_workspace

HOURLY = PERIODS[0]
MINUTE = timedelta(minutes=1)


@pytest.fixture
def spending(connections: Connections, keys: WorkspaceKeys) -> Spending:
    """The reader on the test's database."""
    return Spending(connections, keys, timeout_s=10)


@pytest.fixture
def budgets(connections: Connections, keys: WorkspaceKeys) -> Budgets:
    """The budgets of the same."""
    return Budgets(connections, keys, timeout_s=10)


def ago(**cents_by_minute: int) -> list[Row]:
    """Rows in the middle of minutes: `m5` is four and a half minutes ago."""
    now = datetime.now(UTC)
    ages = sorted(((int(name[1:]), cents) for name, cents in cents_by_minute.items()), reverse=True)
    return [(now - age * MINUTE + MINUTE / 2, cents) for age, cents in ages]


async def test_buckets_hold_what_was_spent_in_them(
    connection: asyncpg.Connection, spending: Spending
) -> None:
    await add_workspace(connection, "w")
    await add_rows(connection, "w", ago(m90=7, m60=1, m59=2, m30=-3, m1=40))
    found = (await spending.series(["w"], 60, with_windows=True))["w"][HOURLY.name]
    expected = {0: 1, 1: 2, 30: -3, 59: 40}
    assert found.bucket_cents == tuple(expected.get(number, 0) for number in range(60))
    # The 7 of 90 minutes ago leave the window in its thirty-first minute, that of the correction.
    assert found.window_cents[0] == 8
    assert found.window_cents[28:31] == (10, 10, 0)
    assert found.window_cents[-1] == 40


async def test_buckets_sum_up_to_the_window_for_every_period_and_workspace(
    connection: asyncpg.Connection, spending: Spending, budgets: Budgets
) -> None:
    for name, count in (("a", 50), ("b", 500), ("empty", 0)):
        await add_workspace(connection, name)
        await add_even_rows(connection, name, count, 29 * 86_400)
    found = await spending.series(["a", "b", "empty", "nobody"], 12)
    assert set(found) == {"a", "b", "empty"}
    for name, series in found.items():
        budget = (await budgets.read(name)).budget
        for window in budget.windows:
            assert sum(series[window.period.name].bucket_cents) == window.spend_cents


@pytest.mark.parametrize(
    ("rows", "limit_cents", "reached_minute"),
    [
        ({"m20": 60, "m10": 40}, 100, 10),
        ({"m20": 100, "m10": 40}, 100, 20),  # it was full before the newest row
        ({"m20": 100, "m15": -50, "m10": 50}, 100, 10),  # taken back, and spent again
        ({"m90": 100, "m50": 30, "m20": 90}, 100, 20),  # the first row has left
        ({"m70": 60, "m20": 60, "m5": 60}, 100, 5),  # room came back in between
    ],
)
async def test_limit_was_reached_by_the_newest_row_that_filled_the_window(
    connection: asyncpg.Connection,
    spending: Spending,
    budgets: Budgets,
    rows: dict[str, int],
    limit_cents: int,
    reached_minute: int,
) -> None:
    ledger = ago(**rows)
    await add_workspace(connection, "w", {HOURLY.name: limit_cents})
    await add_rows(connection, "w", ledger)
    reached_at = await spending.refused_since((await budgets.read("w")).budget)
    now = datetime.now(UTC)
    assert set(reached_at) == {HOURLY}
    age = now - reached_at[HOURLY]
    assert abs(age - (reached_minute * MINUTE - MINUTE / 2)) < MINUTE / 4


@pytest.mark.parametrize(
    ("rows", "changes", "refused_minute"),
    [
        ({"m50": 60}, {"m30": (100, 50)}, 30),  # lowered below what was spent
        ({"m50": 60}, {"m30": (None, 50)}, 30),  # there was none before
        ({"m50": 60}, {"m30": (None, 0)}, 30),  # blocked by hand
        ({"m50": 60, "m20": 40}, {"m30": (60, 100)}, 20),  # raised, and reached again
        ({"m50": 60}, {"m30": (20, 50)}, 50),  # raised, but not enough
        ({"m50": 60}, {"m40": (80, 40), "m30": (40, 50)}, 40),  # lowered, then a little less
        ({"m50": 60}, {"m40": (20, 80), "m30": (80, 50)}, 30),  # a rest in between
        ({"m50": 60}, {"m55": (20, 50)}, 50),
        ({"m90": 100, "m50": 60}, {"m40": (90, 50)}, 90),  # lowered while it was reached
        ({"m115": 100, "m50": 60}, {"m40": (90, 50)}, 40),  # the old limit had room again
    ],
)
async def test_calls_are_refused_since_the_limit_that_stood_was_reached(
    connection: asyncpg.Connection,
    spending: Spending,
    budgets: Budgets,
    rows: dict[str, int],
    changes: dict[str, tuple[int | None, int]],
    refused_minute: int,
) -> None:
    limit_cents = list(changes.values())[-1][1]
    await add_workspace(connection, "w", {HOURLY.name: limit_cents})
    await add_rows(connection, "w", ago(**rows))
    await add_changes(connection, changes)
    refused_since = await spending.refused_since((await budgets.read("w")).budget)
    age = datetime.now(UTC) - refused_since[HOURLY]
    assert abs(age - (refused_minute * MINUTE - MINUTE / 2)) < MINUTE / 4


async def add_changes(
    connection: asyncpg.Connection, changes: dict[str, tuple[int | None, int]]
) -> None:
    """A history of the hourly limit, each from what to what, and of another that is no matter."""
    now = datetime.now(UTC)
    for number, (name, limits) in enumerate(changes.items()):
        before, after = ({} if cents is None else {HOURLY.name: cents} for cents in limits)
        changed_at = now - int(name[1:]) * MINUTE + MINUTE / 2
        for part, (old, new, at) in enumerate(
            ((before, after, changed_at), (after, {**after, "daily": number}, changed_at))
        ):
            await connection.execute(
                """INSERT INTO workspace_budget_changes
                       (workspace_id, change_number, changed_at, changed_by,
                        limits_before, limits_after)
                   VALUES ('w', $1, $2, 'alice', $3::text::jsonb, $4::text::jsonb)""",
                2 * number + part + 1,
                at,
                orjson.dumps(old).decode(),
                orjson.dumps(new).decode(),
            )


async def test_what_was_reached_too_many_rows_ago_is_not_known(
    connection: asyncpg.Connection, spending: Spending, budgets: Budgets
) -> None:
    await add_workspace(connection, "w", {HOURLY.name: 5})
    await add_even_rows(connection, "w", ROWS_LOOKED_AT + 50, 600)
    assert await spending.refused_since((await budgets.read("w")).budget) == {}


async def test_zero_limit_that_always_was_has_no_beginning(
    connection: asyncpg.Connection, spending: Spending, budgets: Budgets
) -> None:
    await add_workspace(connection, "w", {HOURLY.name: 0})
    assert await spending.refused_since((await budgets.read("w")).budget) == {}
