"""How workspaces spend: buckets of every window, for forecasts and charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from gateway.core.budget import Budget
from gateway.core.periods import Period
from gateway.storage.budgets import PERIOD_LENGTHS, PERIOD_NAMES
from gateway.storage.database import Connection, Connections
from gateway.storage.queries import query
from gateway.storage.workspace_key import WorkspaceKeys

# How far back to look for the moment at which a limit was reached.
ROWS_LOOKED_AT = 500


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
        for row in rows:
            series = _series(row["totals_cents"], bucket_count)
            found.setdefault(row["workspace_id"], {})[row["period_name"]] = series
        return dict(found)

    async def reached_since(self, budget: Budget) -> dict[Period, datetime]:
        """Since when each exceeded window has been at its limit, where that is not long ago."""
        key = self.keys.existing(budget.workspace_id)

        async def operation(connection: Connection) -> dict[Period, datetime]:
            moments = {
                window.period: await connection.fetchval(
                    query("limit_reached_since"),
                    key,
                    window.period.length,
                    window.limit_cents,
                    ROWS_LOOKED_AT,
                )
                for window in budget.exceeded
            }
            return {period: moment for period, moment in moments.items() if moment is not None}

        return await self.connections.run(operation, self.timeout_s) if budget.exceeded else {}


def _series(totals_cents: Sequence[int], bucket_count: int) -> SpendSeries:
    """Buckets from the running totals at their ends; windows where the totals reach that far."""
    newest = totals_cents[-bucket_count - 1 :]
    buckets = tuple(after - before for before, after in pairwise(newest))
    # What stands one window before each of the newest, if that was asked for.
    starts = totals_cents[1:-bucket_count]
    windows = tuple(end - start for start, end in zip(starts, newest[1:], strict=False))
    return SpendSeries(buckets, windows)
