"""Workspaces and ledger rows made by hand, at moments that a clock would not give."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate

import asyncpg
import orjson

# When a row was spent, and its cents; a negative amount is a correction.
Row = tuple[datetime, int]


async def add_workspace(
    connection: asyncpg.Connection, workspace_id: str, limits: Mapping[str, int] | None = None
) -> None:
    """A workspace with an agent's URL and, if given, limits."""
    await connection.execute(
        """INSERT INTO workspaces (id, url, budget_limits)
           VALUES ($1, 'http://agent', $2::text::jsonb)""",
        workspace_id,
        None if limits is None else orjson.dumps(limits).decode(),
    )


async def add_rows(connection: asyncpg.Connection, workspace_id: str, rows: Sequence[Row]) -> None:
    """A ledger of these rows, numbered and summed up as the gateway does it."""
    totals = accumulate(amount for _, amount in rows)
    events = [
        (workspace_id, number, occurred_at, amount, total, _source(amount))
        for number, ((occurred_at, amount), total) in enumerate(zip(rows, totals, strict=True), 1)
    ]
    await connection.executemany(
        """INSERT INTO workspace_spend_events
               (workspace_id, event_number, occurred_at, amount_cents, running_total_cents, source)
           VALUES ($1, $2, $3, $4, $5, $6)""",
        events,
    )


def _source(amount_cents: int) -> str:
    return "heartbeat" if amount_cents > 0 else "correction"


async def add_even_rows(
    connection: asyncpg.Connection, workspace_id: str, count: int, span_s: int
) -> None:
    """A ledger of `count` rows of one cent each, evenly over the last `span_s` seconds."""
    await connection.execute(
        """INSERT INTO workspace_spend_events
               (workspace_id, event_number, occurred_at, amount_cents, running_total_cents, source)
           SELECT $1, number, now() - make_interval(secs => $3 * (1 - number / $2::float8)), 1,
                  number, 'heartbeat'
           FROM generate_series(1, $2::bigint) AS number""",
        workspace_id,
        count,
        span_s,
    )
