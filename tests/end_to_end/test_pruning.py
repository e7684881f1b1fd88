"""A gateway that serves prunes its ledger beside that, and serves on if it cannot."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from structlog.testing import capture_logs

from gateway import database
from gateway.config import load_config
from gateway.database import pruned_ledger
from gateway.storage.database import DatabaseSettings
from gateway.supervisor import supervise
from tests.end_to_end.serving import START_TIMEOUT_S, answers
from tests.running import until
from tests.storage.rows import add_even_rows, add_workspace

RETENTION = timedelta(days=400)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PRUNE_DELAY_MAX_S", 0)


@asynccontextmanager
async def supervised(dsn: str, **variables: str) -> AsyncIterator[str]:
    """The supervisor in this process, with a worker; gives the gateway's URL."""
    environment = {"GATEWAY_DATABASE__DSN": dsn, "GATEWAY_SERVER__PORT": "0", **variables}
    stop, urls = asyncio.Event(), asyncio.Queue[str]()
    supervisor = asyncio.create_task(
        supervise(load_config(None, environment), stop=stop, on_ready=urls.put_nowait)
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            yield await urls.get()
    finally:
        stop.set()
        await supervisor


async def add_old_rows(connection: asyncpg.Connection) -> None:
    """A workspace with 100 rows, half of them older than rows are kept by default."""
    await add_workspace(connection, "w")
    await add_even_rows(connection, "w", 100, int(2 * RETENTION.total_seconds()))


async def row_count(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM workspace_spend_events"))


async def test_gateway_prunes_while_it_serves(dsn: str, connection: asyncpg.Connection) -> None:
    await add_old_rows(connection)
    with capture_logs() as lines:
        async with supervised(dsn) as url:
            await until(lambda: any(line["event"] == "ledger_pruned" for line in lines))
            await answers(url)
    (told,) = [line for line in lines if line["event"] == "ledger_pruned"]
    assert told["rows"] in (49, 50)  # one row is as old as rows may be
    assert await row_count(connection) == 100 - told["rows"]


async def test_gateway_that_keeps_rows_for_ever_prunes_nothing(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await add_old_rows(connection)
    with capture_logs() as lines:
        async with supervised(dsn, GATEWAY_DATABASE__LEDGER_RETENTION_DAYS="0") as url:
            await answers(url)
    assert "ledger_pruned" not in {line["event"] for line in lines}
    assert await row_count(connection) == 100


async def test_failure_is_logged_and_tried_again(
    dsn: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PRUNE_INTERVAL_S", 0.01)
    await add_old_rows(connection)
    await connection.execute("ALTER TABLE workspace_spend_events RENAME TO elsewhere")
    with capture_logs() as lines:
        async with pruned_ledger(DatabaseSettings(dsn), RETENTION):
            await until(lambda: len(lines) > 1)
            assert {(line["event"], line["cause"]) for line in lines} == {
                ("ledger_prune_failed", "sqlstate_42")
            }
            await connection.execute("ALTER TABLE elsewhere RENAME TO workspace_spend_events")
            await until(lambda: lines[-1]["event"] == "ledger_pruned")


async def test_mistake_of_ours_is_logged_with_its_trace_and_tried_again(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PRUNE_INTERVAL_S", 0.01)

    async def fail(*_: object) -> int:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(database, "prune_ledger", fail)
    with capture_logs() as lines:
        async with pruned_ledger(DatabaseSettings(dsn), RETENTION):
            await until(lambda: len(lines) > 1)
    assert {(line["event"], line["exc_info"]) for line in lines} == {("ledger_prune_failed", True)}


async def test_gateway_stops_although_a_batch_is_stuck(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await add_old_rows(connection)
    async with connection.transaction():
        await connection.execute("LOCK TABLE workspace_spend_events IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(START_TIMEOUT_S):
            async with pruned_ledger(DatabaseSettings(dsn, connect_timeout_s=0.5), RETENTION):
                await until(
                    lambda: connection.fetchval(
                        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
                    )
                )
