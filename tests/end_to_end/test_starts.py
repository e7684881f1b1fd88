"""Processes that start while the database is away serve as those do that were there before."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.migrations import _LOCK
from tests.end_to_end.serving import Serving, register, serving
from tests.running import Agent, until
from tests.storage.servers import bring_back, kill, signal_all
from tests.storage.wire import open_wire


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    check: str | None
    retry_after: str | None
    document: object


@dataclass
class Place:
    """A PostgreSQL that can be taken away, and where the gateway keeps its snapshot."""

    server: EmbeddedPostgres
    data_dir: Path

    def serving(self, **more: str) -> contextlib.AbstractAsyncContextManager[Serving]:
        return serving(self.data_dir, GATEWAY_DATABASE__DSN=self.server.dsn, **more)


@pytest.fixture
async def place(tmp_path: Path, stack: AsyncExitStack) -> Place:
    server = EmbeddedPostgres(tmp_path / "server", settings={"fsync": "off"})
    return Place(await stack.enter_async_context(server), tmp_path / "data")


@asynccontextmanager
async def killed(server: EmbeddedPostgres) -> AsyncIterator[None]:
    await kill(server)
    yield
    await bring_back(server)


@asynccontextmanager
async def stopped(server: EmbeddedPostgres) -> AsyncIterator[None]:
    signal_all(server, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all(server, signal.SIGCONT)


OUTAGES = pytest.mark.parametrize("outage", [killed, stopped], ids=lambda outage: outage.__name__)


async def ask(method: str, url: str, body: object = None) -> Answer:
    """One request on a connection of its own; a worker that ends may cut it off."""
    while True:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with (
                aiohttp.ClientSession() as client,
                client.request(method, url, json=body) as answer,
            ):
                document = json.loads(await answer.read() or b"null")
                check, after = (
                    answer.headers.get(each) for each in ("Budget-Check", "Retry-After")
                )
                return Answer(answer.status, check, after, document)


async def call(gateway: Serving, workspace_id: str) -> Answer:
    return await ask("POST", f"{gateway.url}/workspaces/{workspace_id}/a2a", {})


async def block(gateway: Serving, workspace_id: str) -> None:
    path = f"/workspaces/{workspace_id}/budget"
    assert (await ask("PATCH", gateway.url + path, {"budget_limit": 0})).status == 200


async def has_snapshot_of(place: Place, workspace_id: str) -> bool:
    texts = [path.read_text() for path in place.data_dir.glob("addresses*")]
    return any(f'"{workspace_id}"' in text for text in texts)


async def is_skipped(gateway: Serving, workspace_id: str) -> bool:
    answer = await call(gateway, workspace_id)
    return (answer.status, answer.check) == (200, "skipped")


async def is_refused(gateway: Serving, workspace_id: str) -> bool:
    return (await call(gateway, workspace_id)).status == 402


async def unchecked_by_metrics(gateway: Serving) -> float:
    async with aiohttp.ClientSession(gateway.url) as client, client.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    counters = [
        line for line in lines if line.startswith("gateway_budget_checks_failed_open_total")
    ]
    return sum(float(line.rpartition(" ")[2]) for line in counters)


async def kill_workers(gateway: Serving) -> None:
    for worker in gateway.processes("gateway worker"):
        worker.kill()


async def reload(gateway: Serving) -> None:
    before = {each.pid for each in gateway.processes("gateway worker")}
    gateway.process.send_signal(signal.SIGHUP)

    def are_replaced() -> bool:
        now = {each.pid for each in gateway.processes("gateway worker")}
        return bool(now) and not now & before

    await until(are_replaced, 30)


@pytest.mark.parametrize(("renew", "outage"), [(kill_workers, stopped), (reload, killed)])
async def test_worker_that_starts_during_an_outage_passes_calls_and_checks_them_again_after_it(
    place: Place,
    agent: Agent,
    outage: Callable[[EmbeddedPostgres], contextlib.AbstractAsyncContextManager[None]],
    renew: Callable[[Serving], Awaitable[None]],
) -> None:
    async with place.serving(GATEWAY_SERVER__WORKERS="2") as gateway:
        await register(gateway.url, "w", agent.url)
        await block(gateway, "w")
        assert await is_refused(gateway, "w")
        await restart_until_known(place, gateway)
        async with outage(place.server):
            await renew(gateway)
            # Some come before the outage is noticed, and are refused by what is known.
            await until(lambda: is_skipped(gateway, "w"), 20)
            before = len(agent.received)
            answers = [await call(gateway, "w") for _ in range(20)]
            assert {(each.status, each.check) for each in answers} == {(200, "skipped")}
            assert len(agent.received) == before + 20
            status = (await ask("GET", f"{gateway.url}/readyz")).status
            assert status == 200  # degraded, and not dead
        await until(lambda: is_refused(gateway, "w"), 20)


async def restart_until_known(place: Place, gateway: Serving) -> None:
    """Wait for a snapshot that has the workspace; one is written at every start."""
    if not await has_snapshot_of(place, "w"):
        async with place.serving():
            await until(lambda: has_snapshot_of(place, "w"), 20)


@OUTAGES
async def test_whole_gateway_that_starts_during_an_outage_serves_by_its_snapshot(
    place: Place,
    agent: Agent,
    outage: Callable[[EmbeddedPostgres], contextlib.AbstractAsyncContextManager[None]],
) -> None:
    async with place.serving() as gateway:
        await register(gateway.url, "w", agent.url)
        await block(gateway, "w")
        await restart_until_known(place, gateway)
        await register(gateway.url, "registered-since", agent.url)
        assert await gateway.stop() == 0
    async with AsyncExitStack() as stack:
        async with outage(place.server):
            gateway = await stack.enter_async_context(place.serving())
            answers = [await call(gateway, "w") for _ in range(10)]
            assert {(each.status, each.check) for each in answers} == {(200, "skipped")}
            assert await unchecked_by_metrics(gateway) == 10
            unknown = await call(gateway, "registered-since")
            assert (unknown.status, unknown.retry_after) == (503, "5")
        await until(lambda: is_refused(gateway, "w"), 20)
        assert await gateway.stop() == 0


async def test_gateway_that_knows_nothing_is_alive_not_ready_and_serves_when_the_database_comes(
    place: Place, agent: Agent
) -> None:
    async with AsyncExitStack() as stack:
        async with killed(place.server):
            gateway = await stack.enter_async_context(place.serving())
            assert (await ask("GET", f"{gateway.url}/healthz")).status == 200
            ready = await ask("GET", f"{gateway.url}/readyz")
            assert (ready.status, ready.document) == (503, {"status": "cold", "database": "down"})
            answer = await call(gateway, "w")
            assert (answer.status, answer.retry_after) == (503, "5")

        async def is_ready() -> bool:
            return (await ask("GET", f"{gateway.url}/readyz")).status == 200

        await until(is_ready, 20)
        # It was never migrated before.
        await until(lambda: is_registered(gateway, agent), 20)
        assert (await call(gateway, "w")).status == 200


async def is_registered(gateway: Serving, agent: Agent) -> bool:
    body = {"id": "w", "url": agent.url}
    return (await ask("POST", f"{gateway.url}/registry/register", body)).status == 200


async def test_schema_that_this_version_does_not_know_ends_a_gateway_that_waited_for_it(
    place: Place, stack: AsyncExitStack
) -> None:
    async with place.serving() as gateway:
        assert await gateway.stop() == 0
    connection = await asyncpg.connect(place.server.dsn)
    await connection.execute(
        "INSERT INTO gateway_migrations (number, name, sha256) VALUES (9999, 'later', '')"
    )
    await connection.close()
    async with killed(place.server):
        gateway = await stack.enter_async_context(place.serving())
    async with asyncio.timeout(30):
        assert await gateway.process.wait() == 1


async def test_signal_ends_a_gateway_whose_database_is_away(tmp_path: Path) -> None:
    dsn = f"postgresql://x@/x?host={tmp_path}"
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn) as gateway:
        assert await gateway.stop() == 0


async def test_signal_ends_a_gateway_whose_database_went_silent_in_its_migration(
    place: Place,
) -> None:
    other = await asyncpg.connect(place.server.dsn)
    await other.execute(f"SELECT pg_advisory_lock({_LOCK})")
    async with open_wire(place.server.dsn) as wire:
        variables = {
            "GATEWAY_DATABASE__DSN": wire.dsn,
            "GATEWAY_DATABASE__STARTUP_TIMEOUT_S": "1",
        }
        # It serves although it is not migrated, because it knows nothing and waited for long.
        async with serving(place.data_dir, **variables) as gateway:
            waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
            await until(lambda: other.fetchval(waiting))
            wire.silence()
            assert await gateway.stop() == 0
    await other.close()
