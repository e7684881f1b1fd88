"""Pruning: the ledger's rows that no window reaches any more are deleted, a few at a time.

Nobody waits for it. A batch is one statement in a transaction of its own, which locks nothing that
a heartbeat or a check needs, so that both go on meanwhile. Two replicas at once do no harm and need
no lock: each deletes a beginning of a ledger, the later one waits for the earlier one's batch and
finds its rows gone, and what one leaves when it fails is a beginning too. A lock would have to be
held by a session, which a pooler between us and the server does not keep for us.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

from gateway.storage.database import Connections, DatabaseSettings
from gateway.storage.queries import query

ROWS_PER_BATCH = 1000
WORKSPACES_PER_BATCH = 500
# For other work of the server, and for replicas of it that must follow.
PAUSE_S = 0.05
BATCH_TIMEOUT_S = 30.0


async def prune_ledger(settings: DatabaseSettings, retention: timedelta) -> int:
    """Delete rows older than `retention`, except each workspace's newest; gives their number.

    `retention` is longer than any window, by more than two servers' clocks may differ. Raises
    StorageUnavailable; what was deleted until then is gone, and the next time goes on from there.
    """
    bounded = replace(settings, statement_timeout_s=BATCH_TIMEOUT_S)
    async with Connections(bounded, 1) as connections:
        row_count, last_id = 0, ""
        while ids := await _ids_after(connections, last_id):
            for workspace_id in await _prunable(connections, ids, retention):
                row_count += await _prune(connections, workspace_id, retention)
            last_id = ids[-1]
    return row_count


async def _ids_after(connections: Connections, last_id: str) -> list[str]:
    rows = await connections.run(
        lambda each: each.fetch(query("workspace_ids"), last_id, WORKSPACES_PER_BATCH),
        BATCH_TIMEOUT_S,
    )
    return [row["workspace_id"] for row in rows]


async def _prunable(connections: Connections, ids: list[str], retention: timedelta) -> list[str]:
    rows = await connections.run(
        lambda each: each.fetch(query("ledger_prunable"), ids, retention), BATCH_TIMEOUT_S
    )
    return [row["workspace_id"] for row in rows]


async def _prune(connections: Connections, workspace_id: str, retention: timedelta) -> int:
    row_count, next_number = 0, 1
    while True:
        numbers = await _prune_batch(connections, workspace_id, retention, next_number)
        row_count += len(numbers)
        await asyncio.sleep(PAUSE_S)
        if len(numbers) < ROWS_PER_BATCH:
            return row_count
        next_number = max(numbers) + 1


async def _prune_batch(
    connections: Connections, workspace_id: str, retention: timedelta, next_number: int
) -> list[int]:
    rows = await connections.run(
        lambda each: each.fetch(
            query("ledger_prune"), workspace_id, retention, next_number, ROWS_PER_BATCH
        ),
        BATCH_TIMEOUT_S,
    )
    return [row["event_number"] for row in rows]
