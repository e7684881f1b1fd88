"""Heartbeats booked together in one transaction: marks, rows and liveness change, or nothing does.

However many there are, it takes the same few statements. The workspaces' row locks make groups that
share a workspace happen one after the other, on any number of replicas, so that the same heartbeat
received twice at one instant books once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias

from gateway.core.counter import Advance, Mark, Outcome, Report, advance
from gateway.core.errors import Unauthorized, UnknownWorkspace
from gateway.core.workspaces import Liveness
from gateway.storage.budgets import WorkspaceBudget, read_budgets
from gateway.storage.database import Connection
from gateway.storage.queries import query
from gateway.storage.tokens import holds_token, read_live_tokens

SOURCE = "heartbeat"

# Whose counter it is: workspace, instance and epoch.
Stream: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat as it arrived; the report is clamped, 0 means none."""

    workspace_id: str
    spend_cents: int
    instance_id: str
    counter_epoch: str
    liveness: Liveness
    token_sha256: bytes | None = field(default=None, repr=False)

    @property
    def stream(self) -> Stream:
        """The stream that the report belongs to."""
        return self.workspace_id, self.instance_id, self.counter_epoch

    def report(self, received_at: datetime) -> Report:
        """What the counter's rule wants to know of it."""
        uptime_seconds = self.liveness.uptime_seconds
        stream = (self.instance_id, self.counter_epoch)
        return Report(self.spend_cents, received_at, uptime_seconds, *stream)

    def without_details(self) -> "Heartbeat":
        """The same without what the agent tells of itself but its age, which judges the report."""
        return replace(self, liveness=Liveness(uptime_seconds=self.liveness.uptime_seconds))


@dataclass(frozen=True, slots=True)
class Booking:
    """What a committed heartbeat changed, and the budget after it."""

    outcome: Outcome
    amount_cents: int
    budget: WorkspaceBudget


Refusal: TypeAlias = UnknownWorkspace | Unauthorized


async def book(
    connection: Connection, beats: Sequence[Heartbeat], lock_timeout_s: float
) -> list[Booking | Refusal]:
    """Book heartbeats in their order; what became of each is true when this returns.

    Their workspace ids are keys of the database. Fails if another transaction holds one of the
    workspaces for longer than `lock_timeout_s`.
    """
    async with connection.transaction():
        await connection.execute(query("lock_timeout_set"), f"{round(lock_timeout_s * 1000)}ms")
        # The locks come in a statement of their own: a query that waits for a lock goes on with
        # what it saw before, and would read tokens and marks as they were.
        await connection.execute(query("workspaces_lock"), _workspace_ids(beats))
        live = await read_live_tokens(connection, _workspace_ids(beats))
        refusals = [_refusal(beat, live.get(beat.workspace_id)) for beat in beats]
        admitted = [beat for beat, refusal in zip(beats, refusals, strict=True) if refusal is None]
        booked = iter(await _book(connection, admitted) if admitted else ())
    return [refusal or next(booked) for refusal in refusals]


def _refusal(beat: Heartbeat, live: Sequence[bytes] | None) -> Refusal | None:
    if live is None:
        return UnknownWorkspace()
    # A workspace without a live token takes anybody's reports.
    if live and not holds_token(beat.token_sha256, live):
        return Unauthorized("This needs the workspace's token.")
    return None


async def _book(connection: Connection, beats: Sequence[Heartbeat]) -> list[Booking]:
    advances = await _advance(connection, beats)
    await _append(connection, beats, advances)
    await _keep_liveness(connection, beats, advances)
    budgets = await read_budgets(connection, _workspace_ids(beats))
    return [
        Booking(advanced.outcome, advanced.increment_cents, budgets[beat.workspace_id])
        for beat, advanced in zip(beats, advances, strict=True)
    ]


async def _advance(connection: Connection, beats: Sequence[Heartbeat]) -> list[Advance]:
    """Let every heartbeat move its stream's mark, one after the other."""
    received_at, marks = await _read_marks(connection, {beat.stream for beat in beats})
    advances, moved = [], {}
    for beat in beats:
        advanced = advance(marks.get(beat.stream), beat.report(received_at))
        if advanced.mark is not None:
            marks[beat.stream] = moved[beat.stream] = advanced.mark
        advances.append(advanced)
    if moved:
        rows = (
            (*stream, mark.spend_cents, mark.accepted_at, mark.uptime_seconds)
            for stream, mark in moved.items()
        )
        await connection.execute(query("spend_marks_set"), *_columns(rows))
    return advances


async def _read_marks(
    connection: Connection, streams: Iterable[Stream]
) -> tuple[datetime, dict[Stream, Mark]]:
    """The database's time, and the marks of the streams that have one."""
    rows = await connection.fetch(query("spend_marks"), *_columns(streams))
    marks = {
        (row["workspace_id"], row["instance_id"], row["counter_epoch"]): Mark(
            row["mark_cents"], row["accepted_at"], row["uptime_seconds"]
        )
        for row in rows
        if row["mark_cents"] is not None
    }
    return rows[0]["received_at"], marks


async def _append(
    connection: Connection, beats: Sequence[Heartbeat], advances: Sequence[Advance]
) -> None:
    rows = [
        (
            beat.workspace_id,
            advanced.increment_cents,
            beat.instance_id,
            beat.counter_epoch,
            beat.spend_cents,
        )
        for beat, advanced in zip(beats, advances, strict=True)
        if advanced.increment_cents
    ]
    if rows:
        await connection.execute(query("spend_events_append"), *_columns(rows), SOURCE)


async def _keep_liveness(
    connection: Connection, beats: Sequence[Heartbeat], advances: Sequence[Advance]
) -> None:
    told: dict[str, Sequence[Any]] = {}
    for beat, advanced in zip(beats, advances, strict=True):
        values = _told(beat, advanced.outcome)
        before = told.get(beat.workspace_id, values)
        told[beat.workspace_id] = [
            old if new is None else new for old, new in zip(before, values, strict=True)
        ]
    rows = ((workspace_id, *values) for workspace_id, values in told.items())
    await connection.execute(query("workspaces_alive"), *_columns(rows))


def _told(beat: Heartbeat, outcome: Outcome) -> Sequence[Any]:
    # What a stale heartbeat tells is older than what is known: only its arrival counts.
    is_stale = outcome is Outcome.STALE
    told = Liveness() if is_stale else beat.liveness
    return (
        None if is_stale else beat.spend_cents or None,
        told.uptime_seconds,
        told.active_tasks,
        told.current_task,
        told.error_rate,
        told.sample_error,
        told.runtime_state,
        told.runtime_metadata,
    )


def _workspace_ids(beats: Iterable[Heartbeat]) -> list[str]:
    return list({beat.workspace_id: None for beat in beats})


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """One array for each column, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]
