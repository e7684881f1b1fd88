"""Budgets: one query answers for many workspaces; a change of limits is one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from gateway.core.budget import Budget, LimitsChange, WindowSpend, read_stored_limits
from gateway.core.budget_changes import BudgetChange, limits_etag, outdated
from gateway.core.entity_tags import is_strongly_matched
from gateway.core.errors import UnknownWorkspace
from gateway.core.periods import LEGACY_PERIOD, PERIODS
from gateway.core.workspaces import REMOVED_STATUS
from gateway.storage.database import Connection, Connections
from gateway.storage.queries import query
from gateway.storage.slices import Slices
from gateway.storage.workspace_key import WorkspaceKeys

PERIOD_NAMES = [period.name for period in PERIODS]
PERIOD_LENGTHS = [period.length for period in PERIODS]

# So many are asked about at once, when their windows reopen.
ROOM_PART_MAX = 50


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
    """The budgets of the workspaces that exist among `keys`. `as_of` None is the database's now.

    In slices, because an operator may list a thousand; a check is not interrupted.
    """
    rows = await connection.fetch(query("budgets"), keys, PERIOD_LENGTHS, as_of)
    found, exceeded, slices = {}, [], Slices()
    for row in rows:
        key = row["workspace_id"]
        found[key] = each = _read_row(row)
        if each.budget.exceeded:
            exceeded.append(key)
        await slices.pause()
    for first in range(0, len(exceeded), ROOM_PART_MAX):
        part = exceeded[first : first + ROOM_PART_MAX]
        found |= await with_room(connection, {key: found[key] for key in part})
    return found


async def read_spends(
    connection: Connection, keys: Sequence[str], as_of: datetime | None = None
) -> dict[str, WorkspaceBudget]:
    """The query that decides: the budgets without the moments at which exceeded windows reopen."""
    rows = await connection.fetch(query("budgets"), keys, PERIOD_LENGTHS, as_of)
    return {row["workspace_id"]: _read_row(row) for row in rows}


async def with_room(
    connection: Connection, exceeded: Mapping[str, WorkspaceBudget]
) -> dict[str, WorkspaceBudget]:
    """The same budgets, with the moments at which their exceeded windows reopen."""
    as_of = next((each.budget.as_of for each in exceeded.values()), None)
    rows = await connection.fetch(
        query("room_returns"), list(exceeded), PERIOD_NAMES, PERIOD_LENGTHS, as_of
    )
    room_at = {(row["workspace_id"], row["period_name"]): row["room_at"] for row in rows}
    return {
        key: replace(each, budget=_know_room(each.budget, room_at))
        for key, each in exceeded.items()
    }


def _know_room(budget: Budget, room_at: Mapping[tuple[str, str], datetime]) -> Budget:
    windows = tuple(
        replace(window, room_at=room_at.get((budget.workspace_id, window.period.name)))
        for window in budget.windows
    )
    return replace(budget, windows=windows)


async def read_nothing(connection: Connection) -> None:
    """Run the queries of a check once, for no workspace.

    A connection's first check takes 22 to 104 ms, because the server has everything to load and to
    plan; the second takes 0.3.
    """
    await read_spends(connection, [])
    await with_room(connection, {})


async def read_budget(connection: Connection, key: str) -> WorkspaceBudget:
    """The budget of one workspace. Raises UnknownWorkspace."""
    budgets = await read_budgets(connection, [key])
    if key not in budgets:
        raise UnknownWorkspace
    return budgets[key]


def _read_row(row: asyncpg.Record) -> WorkspaceBudget:
    limits, damaged = read_stored_limits(row["budget_limits"])
    windows = tuple(
        WindowSpend(period, spend_cents, limits.get(period.name))
        for period, spend_cents in zip(PERIODS, row["spend_cents"], strict=True)
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

    async def change(
        self,
        workspace_id: str,
        change: LimitsChange,
        changed_by: str,
        if_match: Sequence[str] | None = None,
    ) -> WorkspaceBudget:
        """Apply an operator's change and return the budget after it.

        Raises like `read`, and PreconditionFailed unless `if_match`, the lines of the field, names
        the limits as they are.
        """
        key = self.keys.existing(workspace_id)

        async def operation(connection: Connection) -> WorkspaceBudget:
            async with connection.transaction():
                await _apply(connection, key, change, changed_by, if_match)
            return await read_budget(connection, key)

        return await self.connections.run(operation, self.timeout_s)

    async def changes(
        self, workspace_id: str, limit: int, before: int | None = None
    ) -> tuple[list[BudgetChange], int]:
        """A page of the history, newest first, and how many changes there are in all.

        `before` is the number of a change: the page begins with the one before it. Raises like
        `read`.
        """
        key = self.keys.existing(workspace_id)
        rows = await self.connections.run(
            lambda connection: connection.fetch(query("budget_changes"), key, limit, before),
            self.timeout_s,
        )
        if not rows:
            raise UnknownWorkspace
        found, slices = [], Slices()
        for row in rows:
            # A workspace without any has one row, which only says so.
            if row["change_number"] is not None:
                found.append(_read_change(row))
            await slices.pause()
        return found, rows[0]["change_count"]

    async def change_counts(self, workspace_ids: Sequence[str]) -> dict[str, int]:
        """How often the limits of these workspaces were changed, if they ever were."""
        keys = [self.keys.existing(workspace_id) for workspace_id in workspace_ids]
        rows = await self.connections.run(
            lambda connection: connection.fetch(query("budget_change_counts"), keys),
            self.timeout_s,
        )
        return {row["workspace_id"]: row["change_count"] for row in rows}


async def _apply(
    connection: Connection,
    key: str,
    change: LimitsChange,
    changed_by: str,
    if_match: Sequence[str] | None,
) -> None:
    limits = await _locked_limits(connection, key)
    await require_limits(connection, key, limits, if_match)
    changed = change.apply(limits)
    # Also where nothing changes: what somebody damaged by hand is repaired.
    await connection.execute(
        query("budget_limits_set"), key, changed, changed.get(LEGACY_PERIOD.name)
    )
    if changed != limits:
        await connection.execute(
            query("budget_change_add"), key, changed_by, limits, changed, change.reason
        )


async def _locked_limits(connection: Connection, key: str) -> dict[str, int]:
    row = await connection.fetchrow(query("workspaces_lock"), [key])
    if row is None or row["status"] == REMOVED_STATUS:
        raise UnknownWorkspace
    limits, _ = read_stored_limits(row["budget_limits"])
    return limits


async def require_limits(
    connection: Connection, key: str, limits: Mapping[str, int], if_match: Sequence[str] | None
) -> None:
    """Raise PreconditionFailed unless `if_match`, if there is one, names these limits."""
    if if_match is None or is_strongly_matched(if_match, limits_etag(limits)):
        return
    rows = await connection.fetch(query("budget_changes"), key, 1, None)
    newest = [_read_change(row) for row in rows if row["change_number"] is not None]
    raise outdated(limits, newest[0] if newest else None)


def _read_change(row: asyncpg.Record) -> BudgetChange:
    return BudgetChange(
        row["change_number"],
        row["changed_at"],
        row["changed_by"],
        row["limits_before"],
        row["limits_after"],
        row["reason"],
    )
