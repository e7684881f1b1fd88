"""Changes of limits that are tried: all is read as of one moment, nothing is locked or written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from gateway.core.budget import Budget, LimitsChange
from gateway.core.dry_run import NEVER, REPLAYED, DryRun, Replay, with_limits
from gateway.core.periods import PERIODS, Period
from gateway.storage.budgets import read_budget, require_limits
from gateway.storage.database import Connection, Connections
from gateway.storage.queries import query
from gateway.storage.workspace_key import WorkspaceKeys

# For all limits together. A replay reads every row of the time that it covers, which no index
# spares. Others may wait for the connection meanwhile: less than a query may take, so they get it.
REPLAY_TIMEOUT_S = 1.5
# The steps of half a million rows; the usual 4 MB would send those of 100,000 to the disk.
REPLAY_MEMORY = "64MB"


@dataclass(frozen=True, slots=True)
class DryRuns:
    """Tries changes of limits."""

    connections: Connections
    keys: WorkspaceKeys
    timeout_s: float

    async def run(
        self, workspace_id: str, change: LimitsChange, if_match: Sequence[str] | None = None
    ) -> DryRun:
        """What the change would do now. Raises what `Budgets.change` raises."""
        key = self.keys.existing(workspace_id)

        async def operation(connection: Connection) -> DryRun:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await _try(connection, key, change, if_match)

        return await self.connections.run(operation, self.timeout_s + REPLAY_TIMEOUT_S)


async def _try(
    connection: Connection, key: str, change: LimitsChange, if_match: Sequence[str] | None
) -> DryRun:
    now = (await read_budget(connection, key)).budget
    await require_limits(connection, key, now.limits, if_match)
    limits = change.apply(now.limits)
    rooms = await _read_rooms(connection, key, with_limits(now, limits, {}))
    give_up_at = time.monotonic() + REPLAY_TIMEOUT_S
    replays = {
        period.name: await _replay(
            connection, key, period, limits.get(period.name), now.as_of, give_up_at
        )
        for period in PERIODS
        if limits.get(period.name) != now.limits.get(period.name)
    }
    return DryRun(now.limits, with_limits(now, limits, rooms), replays)


async def _read_rooms(
    connection: Connection, key: str, budget: Budget
) -> dict[str, datetime | None]:
    waiting_helps = [window for window in budget.exceeded if window.limit_cents]
    rows = await connection.fetch(
        query("budget_rooms"),
        key,
        [window.period.name for window in waiting_helps],
        [window.period.length for window in waiting_helps],
        [window.limit_cents for window in waiting_helps],
        budget.as_of,
    )
    return {row["period_name"]: row["room_at"] for row in rows}


async def _replay(
    connection: Connection,
    key: str,
    period: Period,
    limit_cents: int | None,
    until: datetime,
    give_up_at: float,
) -> Replay | None:
    """What the limit would have refused until then; None if it takes too long to tell."""
    if limit_cents is None:
        return NEVER
    # Of 0, the server would take no notice.
    timeout_ms = max(1, round((give_up_at - time.monotonic()) * 1000))
    try:
        async with connection.transaction():  # undone alone, if it takes too long
            await connection.execute(
                query("budget_replay_bounds_set"), f"{timeout_ms}ms", REPLAY_MEMORY
            )
            row = await connection.fetchrow(
                query("budget_replay"), key, period.length, limit_cents, until - REPLAYED, until
            )
    except asyncpg.QueryCanceledError:
        return None
    return None if row is None else Replay(row["stretch_count"], row["duration"])
