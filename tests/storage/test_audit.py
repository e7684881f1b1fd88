"""`gateway verify-ledger`: what somebody changed by hand is found, and what is right passes."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from gateway.storage import audit
from gateway.storage.audit import verify_ledger
from gateway.storage.database import DatabaseSettings
from tests.storage.command import run_command
from tests.storage.rows import add_rows, add_workspace

MINUTE = timedelta(minutes=1)


async def differing(settings: DatabaseSettings) -> tuple[int, set[str]]:
    """How many workspaces were compared, and which of them differ."""
    compared, found = 0, set()
    async for count, differences in verify_ledger(settings):
        compared += count
        found |= {difference.workspace_id for difference in differences}
    return compared, found


async def add_ledgers(connection: asyncpg.Connection) -> None:
    """Workspaces as they come: busy, corrected, idle, and removed with a ledger that stays."""
    now = datetime.now(UTC)
    ledgers = {
        "busy": [(now - minutes * MINUTE, 10 + minutes) for minutes in range(90, 0, -1)],
        "corrected": [(now - 2 * MINUTE, 100), (now - MINUTE, -30), (now, 5)],
        "new": [(now - MINUTE, 100)],
        "idle": [],
        "old": [(now - timedelta(days=41), 100), (now - timedelta(days=40), 100), (now, 1)],
        "removed": [(now - 2 * MINUTE, 100), (now - MINUTE, 100)],
    }
    for workspace_id, rows in ledgers.items():
        await add_workspace(connection, workspace_id)
        await add_rows(connection, workspace_id, rows)
    await connection.execute("UPDATE workspaces SET status = 'removed' WHERE id = 'removed'")


async def test_ledgers_that_are_right_pass(
    settings: DatabaseSettings, connection: asyncpg.Connection
) -> None:
    await add_ledgers(connection)
    assert await differing(settings) == (6, set())


async def test_pruned_ledger_passes(
    settings: DatabaseSettings, connection: asyncpg.Connection
) -> None:
    await add_ledgers(connection)
    await connection.execute("DELETE FROM workspace_spend_events WHERE event_number < 3")
    assert await differing(settings) == (6, set())


@pytest.mark.parametrize(
    ("edit", "workspace_id"),
    [
        ("SET amount_cents = 1 WHERE workspace_id = 'busy' AND event_number = 60", "busy"),
        ("SET amount_cents = 1 WHERE workspace_id = 'busy' AND event_number = 90", "busy"),
        # The only row, and the first: no row before it tells what its total must be.
        ("SET amount_cents = 1 WHERE workspace_id = 'new'", "new"),
        ("SET amount_cents = 1 WHERE workspace_id = 'busy' AND event_number = 1", "busy"),
        (
            "SET running_total_cents = 0 WHERE workspace_id = 'corrected' AND event_number = 2",
            "corrected",
        ),
        # Times that go back: the first row by time is then not the first by number.
        (
            "SET occurred_at = now() WHERE workspace_id = 'busy' AND event_number = 10",
            "busy",
        ),
        # The same where no window reaches.
        ("SET occurred_at = '2020-01-01' WHERE workspace_id = 'old' AND event_number = 2", "old"),
        ("SET event_number = 7 WHERE workspace_id = 'corrected' AND event_number = 3", "corrected"),
        # No call can be decided on it, but it may come back.
        ("SET amount_cents = 1 WHERE workspace_id = 'removed' AND event_number = 2", "removed"),
    ],
)
async def test_row_edited_by_hand_is_found(
    settings: DatabaseSettings, connection: asyncpg.Connection, edit: str, workspace_id: str
) -> None:
    await add_ledgers(connection)
    assert await connection.execute(f"UPDATE workspace_spend_events {edit}") == "UPDATE 1"
    assert await differing(settings) == (6, {workspace_id})


async def test_row_deleted_from_the_middle_is_found(
    settings: DatabaseSettings, connection: asyncpg.Connection
) -> None:
    await add_ledgers(connection)
    await connection.execute("DELETE FROM workspace_spend_events WHERE event_number = 2")
    assert (await differing(settings))[1] == {"busy", "corrected", "old"}


async def test_every_workspace_is_compared_in_batches(
    settings: DatabaseSettings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_WORKSPACES_PER_BATCH", 2)
    await add_ledgers(connection)
    await connection.execute("UPDATE workspace_spend_events SET amount_cents = 1")
    assert await differing(settings) == (6, {"busy", "corrected", "new", "old", "removed"})


async def test_command_exits_0_if_all_is_right_and_1_with_the_name_if_not(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await add_ledgers(connection)
    status, output, _ = await run_command(dsn, "verify-ledger")
    assert (status, output) == (0, "6 workspaces compared, 0 differ\n")
    await connection.execute(
        """UPDATE workspace_spend_events SET running_total_cents = running_total_cents + 1
           WHERE workspace_id = 'busy' AND event_number = 50"""
    )
    status, output, _ = await run_command(dsn, "verify-ledger")
    lines = output.splitlines()
    assert (status, lines[-1]) == (1, "6 workspaces compared, 1 differ")
    assert lines[:-1]
    assert all(line.startswith("busy: ") for line in lines[:-1])
