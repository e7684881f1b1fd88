"""Another server becomes the primary: heartbeats and checks find it, whatever became of the old."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from gateway.storage.database import DatabaseSettings
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.migrations import migrate
from tests.running import Agent, Gateway, run_gateway, until
from tests.storage.servers import kill, open_standby, set_read_only
from tests.storage.wire import Wire, open_wire

# One second is promised from the promotion on; a machine that is busy needs more.
BACK_S = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary and its standby, each on a wire, and the DSN of both."""

    primary: EmbeddedPostgres
    standby: EmbeddedPostgres
    wire: Wire
    dsn: str

    async def promote(self) -> None:
        """Make the standby the primary."""
        assert await self.of_standby("SELECT pg_promote()")

    async def of_standby(self, question: str) -> object:
        """Ask the standby for one value."""
        connection = await asyncpg.connect(self.standby.dsn)
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()


@pytest.fixture
async def pair(tmp_path: Path, stack: AsyncExitStack) -> Pair:
    """Two servers, of which the first takes writes."""
    primary_dir, open_ = tmp_path / "primary", stack.enter_async_context
    primary = await open_(EmbeddedPostgres(primary_dir, settings={"fsync": "off"}))
    await migrate(DatabaseSettings(primary.dsn))
    wire = await open_(open_wire(primary.dsn))
    standby = await open_(open_standby(primary, wire, primary_dir, tmp_path / "standby"))
    second = await open_(open_wire(standby.dsn))
    hosts = f"127.0.0.1:{wire.port},127.0.0.1:{second.port}"
    options = "sslmode=disable&target_session_attrs=read-write"
    return Pair(primary, standby, wire, f"postgresql://gateway@{hosts}/gateway?{options}")


@asynccontextmanager
async def dead(pair: Pair) -> AsyncIterator[None]:
    """Its machine runs and refuses."""
    await kill(pair.primary)
    pair.wire.refuse()
    yield


@asynccontextmanager
async def vanished(pair: Pair) -> AsyncIterator[None]:
    """Its machine is gone, and nothing answers in its place."""
    with pair.wire.black_hole():
        yield


@asynccontextmanager
async def read_only(pair: Pair) -> AsyncIterator[None]:
    """It lives on, takes no writes, and goes on answering on the connections that it has."""
    await set_read_only(pair.primary, True)
    yield


@pytest.mark.parametrize(
    "old_primary", [dead, vanished, read_only], ids=lambda old_primary: old_primary.__name__
)
async def test_heartbeats_and_checks_find_the_new_primary(
    pair: Pair,
    old_primary: Callable[[Pair], AbstractAsyncContextManager[None]],
    agent: Agent,
    stack: AsyncExitStack,
) -> None:
    gateway = await stack.enter_async_context(run_gateway(pair.dsn))
    token = await gateway.register("w", agent.url)
    await gateway.limit("w", hourly=100)
    await gateway.spend("w", 10, token)
    assert await call(gateway) == 200
    spend = "SELECT sum(amount_cents)::bigint FROM workspace_spend_events"
    await until(lambda: is_equal(pair.of_standby(spend), 10))
    async with old_primary(pair):
        assert await beat(gateway, 140, token) == 503
        assert await call(gateway) == 200  # checked where there is an old answer, else unchecked
        await pair.promote()
        await until(lambda: is_equal(beat(gateway, 140, token), 200), BACK_S)
        await until(lambda: is_equal(call(gateway), 402), BACK_S)
    assert await pair.of_standby(spend) == 140


async def beat(gateway: Gateway, cents: int, token: str) -> int:
    heartbeat = {"workspace_id": "w", "monthly_spend": cents}
    return (await gateway.json("POST", "/registry/heartbeat", heartbeat, token))[0]


async def call(gateway: Gateway) -> int:
    return (await gateway.json("POST", "/workspaces/w/a2a", {}))[0]


async def is_equal(question: Awaitable[object], expected: object) -> bool:
    return await question == expected
