"""The storage's own seams on the test's database."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.storage.database import Connection, Connections, DatabaseSettings, connect
from gateway.storage.workspace_key import WorkspaceKeys


@pytest.fixture
def settings(dsn: str) -> DatabaseSettings:
    """Where the test's migrated database is."""
    return DatabaseSettings(dsn)


@pytest.fixture
def keys() -> WorkspaceKeys:
    """The keys of a database of ours: ids are text."""
    return WorkspaceKeys("text")


@pytest_asyncio.fixture
async def own_connection(settings: DatabaseSettings) -> AsyncIterator[Connection]:
    """A connection as every part of the gateway uses it."""
    connection = await connect(settings)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def connections(settings: DatabaseSettings) -> AsyncIterator[Connections]:
    """A few connections as a worker has them."""
    async with Connections(settings, 4) as connections:
        yield connections
