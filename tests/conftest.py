"""What the tests run on: a real PostgreSQL, a gateway and agents on real sockets."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest
import pytest_asyncio
import structlog

from gateway.storage.database import DatabaseSettings
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.migrations import migrate
from tests.running import Agent, Gateway, run_agent, run_gateway

# A crash of the machine may lose what a test wrote; a crash of a process may not.
SERVER_SETTINGS = {"fsync": "off", "max_connections": "300", "max_wal_size": "4GB"}

# rich, which the demo needs, writes out the local variables of a trace: that takes seconds.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The DSN of a server for all tests, with the migrated database `template_gateway`."""
    async with EmbeddedPostgres(
        tmp_path_factory.mktemp("postgres"), settings=SERVER_SETTINGS
    ) as server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("CREATE DATABASE template_gateway")
        await connection.close()
        await migrate(DatabaseSettings(dsn_of(server.dsn, "template_gateway")))
        yield server.dsn


def dsn_of(dsn: str, database: str) -> str:
    """The DSN of another database on the same server."""
    head, _, query = dsn.partition("?")
    return f"{head.rpartition('/')[0]}/{database}?{query}"


CreateDatabase = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture
async def create_database(postgres: str) -> AsyncIterator[CreateDatabase]:
    """Makes databases for one test, from the migrated template or empty; gives their DSN."""
    made: list[str] = []
    connection = await asyncpg.connect(postgres)

    async def create(template: str = "template_gateway") -> str:
        name = f"test_{next(_numbers)}"
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        made.append(name)
        return dsn_of(postgres, name)

    yield create
    for name in made:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest_asyncio.fixture
async def dsn(create_database: CreateDatabase) -> str:
    """A migrated database of this test's own."""
    return await create_database()


@pytest_asyncio.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection to the test's database, to look at rows and to make them."""
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes at the end what a test opened."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture
async def gateway(dsn: str, stack: AsyncExitStack) -> Gateway:
    """A gateway on the test's database, open to operators, with a client."""
    return await stack.enter_async_context(run_gateway(dsn))


@pytest_asyncio.fixture
async def agent(stack: AsyncExitStack) -> Agent:
    """An agent on a real socket that remembers what it was sent."""
    return await stack.enter_async_context(run_agent())
