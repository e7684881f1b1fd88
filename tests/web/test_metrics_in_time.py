"""`/metrics` and `/readyz` are answered in time, whatever hangs."""

import asyncio
import fcntl
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.storage.database import DatabaseSettings
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.migrations import migrate
from gateway.web.exposition import LEDGER_TIMEOUT_S, READ_TIMEOUT_S
from tests.running import Gateway, run_gateway, until
from tests.storage.servers import signal_all

# Of a machine that is busy; queries are given up after 30 s here, and nothing else bounds them.
IN_TIME_S = 10
PATIENT = {
    "GATEWAY_DATABASE__QUERY_TIMEOUT_MS": "30000",
    "GATEWAY_BUDGET__CHECK_TIMEOUT_MS": "30000",
}


@pytest.fixture
async def server(tmp_path: Path, stack: AsyncExitStack) -> EmbeddedPostgres:
    """A server of this test's own, to be stopped."""
    server = await stack.enter_async_context(EmbeddedPostgres(tmp_path))
    await migrate(DatabaseSettings(server.dsn))
    return server


async def names(gateway: Gateway) -> set[str]:
    """The names of all metrics that a scrape gives, in time."""
    async with (
        asyncio.timeout(IN_TIME_S),
        gateway.client.get(gateway.url + "/metrics") as answer,
    ):
        assert answer.status == 200
        text = await answer.text()
    return {family.name for family in text_string_to_metric_families(text)}


def wait_as_operators_do(gateway: Gateway) -> None:
    """Other tests wait for as long as a scrape takes."""
    exposition = gateway.services.exposition
    exposition.read_timeout_s, exposition.ledger_timeout_s = READ_TIMEOUT_S, LEDGER_TIMEOUT_S


async def test_stopped_database_delays_neither_metrics_nor_readiness(
    server: EmbeddedPostgres, stack: AsyncExitStack
) -> None:
    gateway = await stack.enter_async_context(run_gateway(server.dsn, PATIENT))
    assert "gateway_ledger_rows" in await names(gateway)
    # Serving begins with the first connection for checks.
    await until(lambda: gateway.services.gate.idle_count == gateway.services.gate.size)
    wait_as_operators_do(gateway)
    signal_all(server, signal.SIGSTOP)
    try:
        for _ in range(3):
            async with asyncio.timeout(IN_TIME_S):
                status, body = await gateway.json("GET", "/readyz")
            assert (status, body) == (200, {"status": "degraded", "database": "down"})
            # The size is the last known one.
            assert {"gateway_breaker_open", "gateway_ledger_rows"} <= await names(gateway)
        # Both ask the database once, however often they are asked.
        connections = gateway.services.connections.values()
        assert sum(each.size - each.idle_count for each in connections) == 2
    finally:
        signal_all(server, signal.SIGCONT)


async def test_files_that_cannot_be_read_leave_the_gauges(gateway: Gateway, tmp_path: Path) -> None:
    wait_as_operators_do(gateway)
    gateway.services.metrics.folder = tmp_path
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = await names(gateway)
    # No counter: a total of this worker alone would be taken for a restart.
    assert "gateway_breaker_open" in found
    assert "gateway_calls" not in found


async def test_files_that_cannot_be_read_are_shown_as_they_were(
    gateway: Gateway, tmp_path: Path
) -> None:
    before = await names(gateway)
    wait_as_operators_do(gateway)
    gateway.services.metrics.folder = tmp_path
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert await names(gateway) == before
