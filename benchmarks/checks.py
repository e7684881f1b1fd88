"""What one check costs by the workspace's rows, and by the number of workspaces."""

import statistics
import time
from contextlib import AsyncExitStack

from benchmarks import check_cost
from benchmarks.database import create_database, fill
from benchmarks.report import Row, Target
from benchmarks.suite import Suite
from gateway.storage.budgets import read_budgets
from gateway.storage.database import Connection, DatabaseSettings, connect
from gateway.storage.migrations import migrate

ROWS = (1_000, 100_000, 1_000_000)
WORKSPACES = (10, 1_000, 10_000)
ROWS_EACH = 20
FLAT = Target("below", 1.3)


async def measure(suite: Suite) -> list[Row]:
    """The check by rows with the plain sum beside it, and the check by workspaces."""
    sizes = ROWS[:-1] if suite.is_quick else ROWS
    dsn = await create_database(suite.server_dsn, "checks_by_rows")
    rounds = 1_000 if suite.is_quick else check_cost.CHECK_ROUNDS
    checks, sums = await check_cost.measure(dsn, sizes, rounds, check_cost.SUM_ROUNDS)
    rows = _rows("check, {:,} rows", checks)
    for size, sum_ms in sums.items():
        rows.append(
            Row(
                f"plain sum, {size:,} rows / check",
                "PostgreSQL",
                sum_ms,
                "ms",
                sum_ms / checks[size],
            )
        )
    return rows + _rows("check, {:,} workspaces", await _by_workspaces(suite, rounds))


def _rows(what: str, costs_ms: dict[int, float]) -> list[Row]:
    (_, first_ms), *others = costs_ms.items()
    smallest = f"{min(costs_ms):,}"
    rows = [Row(what.format(min(costs_ms)), "gateway's query", first_ms, "ms")]
    for count, cost_ms in others:
        name = f"{what.format(count)} / {smallest}"
        rows.append(Row(name, "gateway's query", cost_ms, "ms", cost_ms / first_ms, FLAT))
    return rows


async def _by_workspaces(suite: Suite, rounds: int) -> dict[int, float]:
    durations: dict[int, list[float]] = {count: [] for count in WORKSPACES}
    async with AsyncExitStack() as stack:
        connections: dict[int, Connection] = {}
        for count in WORKSPACES:
            dsn = await create_database(suite.server_dsn, f"checks_of_{count}")
            await migrate(DatabaseSettings(dsn))
            await fill(dsn, None, count, ROWS_EACH)
            connections[count] = await connect(DatabaseSettings(dsn))
            stack.push_async_callback(connections[count].close)
        for turn in range(rounds):
            for count, connection in connections.items():
                # A prime step, so that it is another workspace each time.
                workspace_id = f"w{turn * 7919 % count + 1}"
                started = time.perf_counter()
                await read_budgets(connection, [workspace_id])
                durations[count].append((time.perf_counter() - started) * 1000)
    return {count: statistics.median(each) for count, each in durations.items()}
