"""How workspaces spend: buckets of every window, for forecasts and charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import cast

import asyncpg

from gateway.core.budget import Budget, WindowSpend
from gateway.core.periods import Period
from gateway.storage.budgets import PERIOD_LENGTHS, PERIOD_NAMES
from gateway.storage.database import Connection, Connections
from gateway.storage.queries import query
from gateway.storage.slices import Slices
from gateway.storage.workspace_key import WorkspaceKeys

# How far back to look for the moment at which a limit was reached.
ROWS_LOOKED_AT = 500
# Of limits, to know which of them stood at that moment.
CHANGES_LOOKED_AT = 50


@dataclass(frozen=True, slots=True)
class SpendSeries:
    """A window in equal buckets, oldest first; `window_cents` is what it held at their ends."""

    bucket_cents: tuple[int, ...]
    window_cents: tuple[int, ...] = ()


# Of one workspace, by the period's name.
SeriesByPeriod = Mapping[str, SpendSeries]


@dataclass(frozen=True, slots=True)
class Spending:
    """Reads how workspaces spend. Raises StorageUnavailable."""

    connections: Connections
    keys: WorkspaceKeys
    timeout_s: float

    async def series(
        self, workspace_ids: Sequence[str], bucket_count: int, *, with_windows: bool = False
    ) -> dict[str, SeriesByPeriod]:
        """The series of those workspaces that exist, by id."""
        keys = [self.keys.existing(workspace_id) for workspace_id in workspace_ids]
        rows = await self.connections.run(
            lambda connection: connection.fetch(
                query("spend_buckets"),
                keys,
                PERIOD_NAMES,
                PERIOD_LENGTHS,
                bucket_count,
                2 if with_windows else 1,
            ),
            self.timeout_s,
        )
        found: dict[str, dict[str, SpendSeries]] = {}
        slices = Slices()
        for row in rows:
            series = _series(row["totals_cents"], bucket_count)
            found.setdefault(row["workspace_id"], {})[row["period_name"]] = series
            await slices.pause()
        return dict(found)

    async def refused_since(self, budget: Budget) -> dict[Period, datetime]:
        """Since when each exceeded window stops calls, where that is not long ago."""
        key = self.keys.existing(budget.workspace_id)

        async def operation(connection: Connection) -> dict[Period, datetime]:
            changes = await connection.fetch(query("budget_changes"), key, CHANGES_LOOKED_AT, None)
            moments = {
                window.period: await _refused_since(
                    connection, key, window, _ended_limits(window.period, changes)
                )
                for window in budget.exceeded
            }
            return {period: moment for period, moment in moments.items() if moment is not None}

        return await self.connections.run(operation, self.timeout_s) if budget.exceeded else {}


def _ended_limits(
    period: Period, changes: Sequence[asyncpg.Record]
) -> list[tuple[datetime, int | None]]:
    """When each earlier limit of the period ended, and the limit, newest first."""
    both = [
        (
            change["changed_at"],
            change["limits_before"].get(period.name),
            change["limits_after"].get(period.name),
        )
        for change in changes
        if change["change_number"] is not None
    ]
    return [(ended_at, before) for ended_at, before, after in both if before != after]


async def _refused_since(
    connection: Connection,
    key: str,
    window: WindowSpend,
    ended_limits: Sequence[tuple[datetime, int | None]],
) -> datetime | None:
    """Follow a limit back through its changes, for as long as each was reached before its end."""
    limit_cents, until = window.limit_cents, None
    for began_at, limit_before in (*ended_limits, (None, None)):
        reached = await connection.fetchrow(
            query("limit_reached_since"),
            key,
            window.period.length,
            limit_cents,
            ROWS_LOOKED_AT,
            until,
        )
        assert reached is not None  # noqa: S101 - one row, whatever there is
        is_before_change = until is not None
        if is_before_change and (limit_cents is None or reached["window_cents"] < limit_cents):
            break
        if began_at is None or _is_since(reached["reached_at"], began_at):
            return cast("datetime | None", reached["reached_at"])
        if reached["reached_at"] is None and _is_since(reached["looked_back_to"], began_at):
            return None
        limit_cents, until = limit_before, began_at
    return until


def _is_since(moment: datetime | None, began_at: datetime) -> bool:
    return moment is not None and moment >= began_at


def _series(totals_cents: Sequence[int], bucket_count: int) -> SpendSeries:
    """Buckets from the running totals at their ends; windows where the totals reach that far."""
    newest = totals_cents[-bucket_count - 1 :]
    buckets = tuple(after - before for before, after in pairwise(newest))
    # What stands one window before each of the newest, if that was asked for.
    starts = totals_cents[1:-bucket_count]
    windows = tuple(end - start for start, end in zip(starts, newest[1:], strict=False))
    return SpendSeries(buckets, windows)
