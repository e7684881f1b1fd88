"""PostgreSQL dies or stops in mid-traffic: calls go on, visibly, and nothing is lost."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.storage.database import DatabaseSettings
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.migrations import migrate
from tests.running import Agent, Gateway, run_gateway, until

CHECK_TIMEOUT_S = 0.05
WORKERS = 8


@dataclass
class Traffic:
    """What callers saw: statuses, skipped checks, and how long each call took."""

    statuses: Counter[int] = field(default_factory=Counter)
    skipped: int = 0
    durations_s: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.durations_s)


@asynccontextmanager
async def calls_under_way(gateway: Gateway) -> AsyncIterator[Traffic]:
    """Callers that call without a pause."""
    traffic, is_over = Traffic(), asyncio.Event()

    async def call_on() -> None:
        while not is_over.is_set():
            started = time.perf_counter()
            async with gateway.client.post(f"{gateway.url}/workspaces/w/a2a", json={}) as answer:
                await answer.read()
            traffic.durations_s.append(time.perf_counter() - started)
            traffic.statuses[answer.status] += 1
            traffic.skipped += answer.headers.get("Budget-Check") == "skipped"

    callers = [asyncio.create_task(call_on()) for _ in range(WORKERS)]
    try:
        yield traffic
    finally:
        is_over.set()
        await asyncio.gather(*callers)


async def skipped_by_metrics(gateway: Gateway) -> float:
    async with gateway.client.get(f"{gateway.url}/metrics") as answer:
        text = await answer.text()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gateway_budget_checks_failed_open_total"
    )


class Server:
    """A PostgreSQL that can be taken away and brought back on the same folder."""

    def __init__(self, data_dir: Path, stack: AsyncExitStack) -> None:
        self.data_dir, self.stack = data_dir, stack
        self.dsn = ""
        self.process_id = 0

    async def start(self) -> None:
        server = await self.stack.enter_async_context(EmbeddedPostgres(self.data_dir))
        assert server.process_id is not None
        self.dsn, self.process_id = server.dsn, server.process_id


@pytest.fixture
async def server(tmp_path: Path, stack: AsyncExitStack) -> Server:
    server = Server(tmp_path, stack)
    await server.start()
    await migrate(DatabaseSettings(server.dsn))
    return server


async def test_nothing_fails_while_postgres_is_stopped_and_enforcement_returns_with_it(
    server: Server, stack: AsyncExitStack, agent: Agent
) -> None:
    gateway = await stack.enter_async_context(run_gateway(server.dsn))
    token = await gateway.register("w", agent.url)
    await gateway.limit("w", hourly=100)
    await gateway.spend("w", 10, token)
    async with calls_under_way(gateway) as traffic:
        await until(lambda: traffic.count > 50)
        assert traffic.skipped == 0
        os.kill(server.process_id, signal.SIGSTOP)
        stop_backends(server.process_id, signal.SIGSTOP)
        try:
            await until(lambda: traffic.skipped > 100)
            status, _ = await gateway.json(
                "POST", "/registry/heartbeat", {"workspace_id": "w", "monthly_spend": 140}, token
            )
            assert status == 503
        finally:
            stop_backends(server.process_id, signal.SIGCONT)
            os.kill(server.process_id, signal.SIGCONT)
        await enforcement_is_back(gateway, token, within_s=1)
    await nothing_was_lost(gateway, traffic, server.dsn)


async def test_nothing_fails_while_postgres_is_dead_and_enforcement_returns_with_it(
    server: Server, stack: AsyncExitStack, agent: Agent
) -> None:
    gateway = await stack.enter_async_context(run_gateway(server.dsn))
    token = await gateway.register("w", agent.url)
    await gateway.limit("w", hourly=100)
    await gateway.spend("w", 10, token)
    async with calls_under_way(gateway) as traffic:
        await until(lambda: traffic.count > 50)
        assert traffic.skipped == 0
        os.kill(server.process_id, signal.SIGKILL)
        await until(lambda: traffic.skipped > 100)
        status, _ = await gateway.json(
            "POST", "/registry/heartbeat", {"workspace_id": "w", "monthly_spend": 140}, token
        )
        assert status == 503
        await server.start()
        await enforcement_is_back(gateway, token, within_s=1)
    await nothing_was_lost(gateway, traffic, server.dsn)


def stop_backends(process_id: int, number: signal.Signals) -> None:
    """The server's processes are one for each connection; a stopped machine stops them all."""
    for child in psutil.Process(process_id).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(number)


async def enforcement_is_back(gateway: Gateway, token: str, within_s: float) -> None:
    """The next heartbeat carries the total, and calls are checked again."""
    give_up_at = time.monotonic() + within_s
    while gateway.services.gate.is_open:
        assert time.monotonic() < give_up_at, "the breaker is still open"
        await asyncio.sleep(0.005)  # between two looks
    budget = await gateway.spend("w", 140, token)
    assert budget["periods"]["hourly"]["exceeded"]
    status, _ = await gateway.json("POST", "/workspaces/w/a2a", {})
    assert status == 402


async def nothing_was_lost(gateway: Gateway, traffic: Traffic, dsn: str) -> None:
    assert set(traffic.statuses) <= {200, 402}
    assert traffic.skipped == await skipped_by_metrics(gateway)
    connection = await asyncpg.connect(dsn)
    try:
        assert (
            await connection.fetchval("SELECT sum(amount_cents) FROM workspace_spend_events") == 140
        )
    finally:
        await connection.close()
