"""One database and one gateway for all tests of a module: for tables with many rows."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from tests.conftest import dsn_of
from tests.running import Gateway, run_gateway

# No call passes unchecked because the machine is busy: it would be told so in a field.
PATIENT = {"GATEWAY_BUDGET__CHECK_TIMEOUT_MS": "30000"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_dsn(postgres: str) -> AsyncIterator[str]:
    """A migrated database of the module's own."""
    connection = await asyncpg.connect(postgres)
    await connection.execute("CREATE DATABASE shared TEMPLATE template_gateway STRATEGY file_copy")
    yield dsn_of(postgres, "shared")
    await connection.execute("DROP DATABASE shared WITH (FORCE)")
    await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_gateway(shared_dsn: str) -> AsyncIterator[Gateway]:
    """A gateway with the default limits; every test makes its own workspaces."""
    async with run_gateway(shared_dsn, PATIENT) as gateway:
        yield gateway
