"""The past that the agents bring along: opening rows of the ledger, as if booked before the demo.

Without it nobody could watch a window move: what is spent now leaves it no sooner than a whole
window later. The rows are marked as sample history, and heartbeats add to them as they do anywhere.
"""

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from gateway.core.periods import PERIODS
from gateway.storage.database import Connection, DatabaseSettings, connect

# How often some of it leaves the shortest window.
LEAVES_EVERY = timedelta(seconds=30)

Row = tuple[timedelta, int]


def sample_history(earlier_cents: int) -> list[Row]:
    """Ages and amounts: spread evenly over the shortest window, as much again before it, and so on.

    The oldest row leaves the shortest window after LEAVES_EVERY; each longer window holds twice
    what the next shorter one does.
    """
    shortest = PERIODS[0].length
    ages = [shortest - number * LEAVES_EVERY for number in range(1, shortest // LEAVES_EVERY)]
    rows = [(age, earlier_cents // len(ages)) for age in ages]
    for shorter, longer in pairwise(PERIODS):
        so_far_cents = sum(amount_cents for _, amount_cents in rows)
        rows.append(((shorter.length + longer.length) / 2, so_far_cents))
    return rows


async def forget(database: DatabaseSettings, workspace_ids: Sequence[str]) -> None:
    """Remove what an earlier run left of these workspaces, and of no others."""
    connection = await connect(database)
    try:
        await _run(connection, "forget", list(workspace_ids))
    finally:
        await connection.close()


async def remember(database: DatabaseSettings, workspace_id: str, rows: Sequence[Row]) -> None:
    """Book a past for a workspace that has none yet."""
    ages, amounts_cents = zip(*rows, strict=True)
    connection = await connect(database)
    try:
        await _run(connection, "remember", workspace_id, list(ages), list(amounts_cents))
    finally:
        await connection.close()


async def _run(connection: Connection, name: str, *values: object) -> None:
    path = Path(__file__).with_name(f"{name}.sql")
    await connection.execute(path.read_text(encoding="utf-8"), *values)
