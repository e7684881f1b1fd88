"""What one budget check costs, by the number of ledger rows the workspace has.

    .venv/bin/python benchmarks/check_cost.py

The sizes take turns in one run on one connection, so that a noisy machine slows all of them
alike; what counts is the ratio of the medians. The plain sum over the rows, which the check must
equal, is timed beside it.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gateway.storage.budgets import PERIOD_LENGTHS, PERIOD_NAMES, read_budgets
from gateway.storage.database import Connection, DatabaseSettings, connect
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.migrations import migrate
from gateway.storage.queries import query

ROWS = (1_000, 10_000, 100_000, 1_000_000)
CHECK_ROUNDS = 2_000
SUM_ROUNDS = 5

SEED = """
INSERT INTO workspace_spend_events
    (workspace_id, event_number, occurred_at, amount_cents, running_total_cents, source)
SELECT $1, n, now() - interval '29 days' * (1 - n::float / $2), 1, n, 'heartbeat'
FROM generate_series(1, $2::integer) AS n
"""


async def main() -> None:
    """Fill a database of its own, measure, print."""
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder), settings={"fsync": "off"}) as server:
            checks, sums = await measure(server.dsn, ROWS, CHECK_ROUNDS, SUM_ROUNDS)
    _print(checks, sums)


async def measure(
    dsn: str, sizes: Sequence[int], check_rounds: int, sum_rounds: int
) -> tuple[dict[int, float], dict[int, float]]:
    """The medians of the check and of the plain sum in ms, by rows; fills the empty database."""
    settings = DatabaseSettings(dsn)
    await migrate(settings)
    connection = await connect(settings)
    await _fill(connection, sizes)
    checks = await _medians_ms(connection, _check, sizes, check_rounds)
    sums = await _medians_ms(connection, _sum, sizes, sum_rounds)
    await connection.close()
    return checks, sums


async def _fill(connection: Connection, sizes: Sequence[int]) -> None:
    for rows in sizes:
        await connection.execute(
            "INSERT INTO workspaces (id, budget_limits) VALUES ($1, $2)", str(rows), {"x": 1}
        )
        await connection.execute(SEED, str(rows), rows)
    await connection.execute("VACUUM ANALYZE")


async def _check(connection: Connection, workspace_id: str) -> None:
    await read_budgets(connection, [workspace_id])


async def _sum(connection: Connection, workspace_id: str) -> None:
    sql = query("spend_by_definition")
    await connection.fetch(sql, [workspace_id], PERIOD_NAMES, PERIOD_LENGTHS, None)


Measured = Callable[[Connection, str], Awaitable[None]]


async def _medians_ms(
    connection: Connection, measured: Measured, sizes: Sequence[int], rounds: int
) -> dict[int, float]:
    durations: dict[int, list[float]] = {rows: [] for rows in sizes}
    for _ in range(rounds):
        for rows in sizes:
            started = time.perf_counter()
            await measured(connection, str(rows))
            durations[rows].append(time.perf_counter() - started)
    return {rows: statistics.median(each) * 1000 for rows, each in durations.items()}


def _print(checks: dict[int, float], sums: dict[int, float]) -> None:
    print(f"{'rows':>10}  {'check, ms':>10}  {'ratio':>6}  {'plain sum, ms':>14}")
    for rows in ROWS:
        ratio = checks[rows] / checks[ROWS[0]]
        print(f"{rows:>10,}  {checks[rows]:>10.3f}  {ratio:>6.2f}  {sums[rows]:>14.3f}")
    verdict = checks[ROWS[-1]] / checks[ROWS[0]]
    print(f"a check with {ROWS[-1]:,} rows costs {verdict:.2f} times one with {ROWS[0]:,}")


if __name__ == "__main__":
    asyncio.run(main())
