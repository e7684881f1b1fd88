"""Hold the fast query against the definition, for every workspace: `gateway verify-ledger`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from gateway.storage.budgets import PERIOD_LENGTHS, PERIOD_NAMES, read_budgets
from gateway.storage.database import Connection, DatabaseSettings, connect
from gateway.storage.queries import query

_WORKSPACES_PER_BATCH = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """A workspace whose ledger is not what it must be, and how."""

    workspace_id: str
    reason: str


async def verify_ledger(settings: DatabaseSettings) -> AsyncIterator[tuple[int, list[Difference]]]:
    """Go through all workspaces; yields how many a batch had, and what differs in it."""
    connection = await connect(settings)
    try:
        last_id = ""
        while ids := await _ids_after(connection, last_id):
            # One snapshot and one now() for both answers, whatever is booked meanwhile.
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield len(ids), await _differences(connection, ids)
            last_id = ids[-1]
    finally:
        await connection.close(timeout=settings.connect_timeout_s)


async def _ids_after(connection: Connection, last_id: str) -> list[str]:
    rows = await connection.fetch(query("workspace_ids"), last_id, _WORKSPACES_PER_BATCH)
    return [row["workspace_id"] for row in rows]


async def _differences(connection: Connection, ids: list[str]) -> list[Difference]:
    broken = await connection.fetch(query("ledger_breaks"), ids)
    differences = [
        Difference(row["workspace_id"], "a row does not follow from the one before it")
        for row in broken
    ]
    budgets = await read_budgets(connection, ids)
    rows = await connection.fetch(
        query("spend_by_definition"), ids, PERIOD_NAMES, PERIOD_LENGTHS, None
    )
    for row in rows:
        found = budgets.get(row["workspace_id"])
        if found is None:  # removed: no call can be decided on it
            continue
        answered = next(
            window.spend_cents
            for window in found.budget.windows
            if window.period.name == row["period_name"]
        )
        if answered != row["spend_cents"]:
            reason = f"{row['period_name']}: {answered} cents, the rows say {row['spend_cents']}"
            differences.append(Difference(row["workspace_id"], reason))
    return differences
