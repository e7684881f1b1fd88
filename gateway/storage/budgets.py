"""Budgets: one query answers for many workspaces; a change of limits is one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from gateway.core.budget import Budget, LimitsChange, WindowSpend, read_stored_limits
from gateway.core.errors import UnknownWorkspace
from gateway.core.periods import LEGACY_PERIOD, PERIODS
from gateway.core.workspaces import REMOVED_STATUS
from gateway.storage.database import Connection, Connections
from gateway.storage.queries import query
from gateway.storage.workspace_key import WorkspaceKeys

PERIOD_NAMES = [period.name for period in PERIODS]
PERIOD_LENGTHS = [period.length for period in PERIODS]


@dataclass(frozen=True, slots=True)
class WorkspaceBudget:
    """All that a call needs to know of a workspace: its windows and its agent's URL."""

    budget: Budget
    agent_url: str | None
    # Parts of the stored limits that somebody damaged by hand; they are ignored.
    damaged_limits: tuple[str, ...] = ()


async def read_budgets(
    connection: Connection, keys: Sequence[str], as_of: datetime | None = None
) -> dict[str, WorkspaceBudget]:
    """The budgets of the workspaces that exist among `keys`. `as_of` None is the database's now."""
    rows = await connection.fetch(query("budgets"), keys, PERIOD_NAMES, PERIOD_LENGTHS, as_of)
    return {row["workspace_id"]: _read_row(row) for row in rows}


async def read_budget(connection: Connection, key: str) -> WorkspaceBudget:
    """The budget of one workspace. Raises UnknownWorkspace."""
    budgets = await read_budgets(connection, [key])
    if key not in budgets:
        raise UnknownWorkspace
    return budgets[key]


def _read_row(row: asyncpg.Record) -> WorkspaceBudget:
    limits, damaged = read_stored_limits(row["budget_limits"])
    spend_cents, room_at = row["spend_cents"] or {}, row["room_at"] or {}
    windows = tuple(
        WindowSpend(
            period,
            spend_cents.get(period.name, 0),
            limits.get(period.name),
            datetime.fromisoformat(room_at[period.name]) if period.name in room_at else None,
        )
        for period in PERIODS
    )
    budget = Budget(row["workspace_id"], windows, row["as_of"])
    return WorkspaceBudget(budget, row["url"], damaged)


@dataclass(frozen=True, slots=True)
class Budgets:
    """Reading and changing budgets outside the hot path."""

    connections: Connections
    keys: WorkspaceKeys
    timeout_s: float

    async def read(self, workspace_id: str) -> WorkspaceBudget:
        """The budget now. Raises UnknownWorkspace and StorageUnavailable."""
        key = self.keys.existing(workspace_id)
        return await self.connections.run(
            lambda connection: read_budget(connection, key), self.timeout_s
        )

    async def change(self, workspace_id: str, change: LimitsChange) -> WorkspaceBudget:
        """Apply a change and return the budget after it. Raises like `read`."""
        key = self.keys.existing(workspace_id)

        async def operation(connection: Connection) -> WorkspaceBudget:
            async with connection.transaction():
                await _apply(connection, key, change)
            return await read_budget(connection, key)

        return await self.connections.run(operation, self.timeout_s)


async def _apply(connection: Connection, key: str, change: LimitsChange) -> None:
    row = await connection.fetchrow(query("workspaces_lock"), [key])
    if row is None or row["status"] == REMOVED_STATUS:
        raise UnknownWorkspace
    limits, _ = read_stored_limits(row["budget_limits"])
    changed = change.apply(limits)
    await connection.execute(
        query("budget_limits_set"), key, changed, changed.get(LEGACY_PERIOD.name)
    )
