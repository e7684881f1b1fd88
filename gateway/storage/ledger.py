"""Heartbeats into the ledger: mark, row and liveness change together or not at all.

The workspace's row lock makes heartbeats of one workspace happen one after the other, on any
number of replicas, so that the same heartbeat received twice at one instant books once.
"""

from dataclasses import dataclass, replace

import asyncpg

from gateway.core.counter import Advance, Mark, Outcome, Report, advance
from gateway.core.errors import Conflict, UnknownWorkspace
from gateway.core.workspaces import REMOVED_STATUS, Liveness
from gateway.storage.budgets import WorkspaceBudget, read_budget
from gateway.storage.database import Connection, Connections
from gateway.storage.queries import query
from gateway.storage.workspace_key import WorkspaceKeys

SOURCE = "heartbeat"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat as it arrived; the report is clamped, 0 means none."""

    workspace_id: str
    spend_cents: int
    instance_id: str
    counter_epoch: str
    liveness: Liveness


@dataclass(frozen=True, slots=True)
class Booking:
    """What a committed heartbeat changed, and the budget after it."""

    outcome: Outcome
    amount_cents: int
    budget: WorkspaceBudget


@dataclass(frozen=True, slots=True)
class Ledger:
    """Appends spend. Never fails open: what is not committed is not acknowledged."""

    connections: Connections
    keys: WorkspaceKeys
    timeout_s: float

    async def record(self, heartbeat: Heartbeat) -> Booking:
        """Book a heartbeat and return after the commit.

        Raises UnknownWorkspace, and StorageUnavailable when it may not have been booked: the
        agent's next heartbeat carries the total, so nothing is lost and nothing is booked twice.
        """
        key = self.keys.existing(heartbeat.workspace_id)
        try:
            return await self._record(key, heartbeat)
        except Conflict:
            # A column of the platform's is too narrow for what the agent tells of itself. The
            # spend counts all the same; only its age is needed to judge it.
            age = Liveness(uptime_seconds=heartbeat.liveness.uptime_seconds)
            return await self._record(key, replace(heartbeat, liveness=age))

    async def _record(self, key: str, heartbeat: Heartbeat) -> Booking:
        async def operation(connection: Connection) -> Booking:
            async with connection.transaction():
                return await _book(connection, key, heartbeat)

        return await self.connections.run(operation, self.timeout_s)


async def _book(connection: Connection, key: str, heartbeat: Heartbeat) -> Booking:
    # The lock comes in a statement of its own: a query that waits for a lock goes on with
    # what it saw before, and would read the mark as it was.
    row = await connection.fetchrow(query("workspace_lock"), key)
    if row is None or row["status"] == REMOVED_STATUS:
        raise UnknownWorkspace
    advanced = await _advance(connection, key, heartbeat)
    if advanced.increment_cents:
        await _append(connection, key, heartbeat, advanced.increment_cents)
    await _keep_liveness(connection, key, heartbeat, advanced.outcome)
    budget = await read_budget(connection, key)
    return Booking(advanced.outcome, advanced.increment_cents, budget)


async def _advance(connection: Connection, key: str, heartbeat: Heartbeat) -> Advance:
    stream = (key, heartbeat.instance_id, heartbeat.counter_epoch)
    row = await connection.fetchrow(query("spend_mark"), *stream)
    assert row is not None  # noqa: S101 - the query always answers one row
    report = Report(
        heartbeat.spend_cents,
        row["received_at"],
        heartbeat.liveness.uptime_seconds,
        heartbeat.instance_id,
        heartbeat.counter_epoch,
    )
    advanced = advance(_read_mark(row), report)
    if (mark := advanced.mark) is not None:
        await connection.execute(
            query("spend_mark_set"),
            *stream,
            mark.spend_cents,
            mark.accepted_at,
            mark.uptime_seconds,
        )
    return advanced


def _read_mark(row: asyncpg.Record) -> Mark | None:
    if row["mark_cents"] is None:
        return None
    return Mark(row["mark_cents"], row["accepted_at"], row["uptime_seconds"])


async def _append(
    connection: Connection, key: str, heartbeat: Heartbeat, amount_cents: int
) -> None:
    await connection.execute(
        query("spend_event_append"),
        key,
        amount_cents,
        SOURCE,
        heartbeat.instance_id,
        heartbeat.counter_epoch,
        heartbeat.spend_cents,
    )


async def _keep_liveness(
    connection: Connection, key: str, heartbeat: Heartbeat, outcome: Outcome
) -> None:
    if outcome is Outcome.STALE:
        await connection.execute(query("workspace_seen"), key)
        return
    told = heartbeat.liveness
    await connection.execute(
        query("workspace_alive"),
        key,
        heartbeat.spend_cents or None,
        told.uptime_seconds,
        told.active_tasks,
        told.current_task,
        told.error_rate,
        told.sample_error,
        told.runtime_state,
        told.runtime_metadata,
    )
