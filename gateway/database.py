"""The database that the configuration names: started, reached, kept small."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import structlog

from gateway.config import Config
from gateway.core.errors import StorageUnavailable
from gateway.storage.database import DatabaseSettings, wait_until_answering
from gateway.storage.embedded import EmbeddedPostgres, EmbeddedPostgresError, default_data_dir
from gateway.storage.upkeep import prune_ledger

log = structlog.get_logger()

# Right after a crash its processes may still be ending; PostgreSQL refuses to start beside them.
RESTART_DELAY_S = 0.2

# Replicas that start together do not prune together.
PRUNE_DELAY_MAX_S = 300.0
PRUNE_INTERVAL_S = 3600.0


class StartError(Exception):
    """The gateway cannot start; one sentence says why and what to do."""


@asynccontextmanager
async def open_database(config: Config) -> AsyncIterator[DatabaseSettings]:
    """A database that answers: the configured one, or an embedded one that runs as long as this.

    Raises StartError and EmbeddedPostgresError.
    """
    async with locate_database(config) as settings:
        if config.database.dsn is not None:
            await _reach(settings, config.database.startup_timeout_s)
        yield settings


@asynccontextmanager
async def locate_database(config: Config) -> AsyncIterator[DatabaseSettings]:
    """Where the database is; a configured one may be away. Raises EmbeddedPostgresError."""
    settings = config.database_settings
    if config.database.dsn is not None:
        yield settings
        return
    async with EmbeddedPostgres(data_dir_of(config)) as server:
        keeper = asyncio.create_task(_keep_running(server))
        try:
            yield replace(settings, dsn=server.dsn)
        finally:
            keeper.cancel()
            await asyncio.wait({keeper})


def data_dir_of(config: Config) -> Path:
    """The folder for what a gateway keeps on its machine."""
    return config.database.data_dir or default_data_dir()


async def _keep_running(server: EmbeddedPostgres) -> None:
    """Start the server again whenever it ends by itself."""
    while True:
        status = await server.wait_closed()
        log.error("database_ended", status=status)
        try:
            await server.restart()
        except EmbeddedPostgresError as error:
            log.error("database_restart_failed", reason=str(error))
            await asyncio.sleep(RESTART_DELAY_S)
        else:
            log.info("database_restarted")


@asynccontextmanager
async def pruned_ledger(
    settings: DatabaseSettings, retention: timedelta | None
) -> AsyncIterator[None]:
    """The ledger's old rows are deleted every hour, as long as this runs; None keeps them."""
    if retention is None:
        yield
        return
    pruning = asyncio.create_task(_keep_pruned(settings, retention))
    try:
        yield
    finally:
        pruning.cancel()
        await asyncio.wait({pruning})


async def _keep_pruned(settings: DatabaseSettings, retention: timedelta) -> None:
    await asyncio.sleep(random.uniform(0, PRUNE_DELAY_MAX_S))  # noqa: S311 - no secret
    while True:
        await _prune(settings, retention)
        await asyncio.sleep(PRUNE_INTERVAL_S)


async def _prune(settings: DatabaseSettings, retention: timedelta) -> None:
    started = time.monotonic()
    try:
        row_count = await prune_ledger(settings, retention)
    except StorageUnavailable as error:
        # What is left is there an hour later, too.
        log.warning("ledger_prune_failed", cause=error.cause)
    except Exception:
        # A mistake of ours: nobody waits here who could be told, and serving does not depend on it.
        log.exception("ledger_prune_failed")
    else:
        duration_s = round(time.monotonic() - started, 3)
        log.info("ledger_pruned", rows=row_count, duration_s=duration_s)


async def _reach(settings: DatabaseSettings, timeout_s: float) -> None:
    try:
        await wait_until_answering(settings, timeout_s)
    except StorageUnavailable as error:
        raise StartError(
            f"The database does not answer ({error.cause}); check database.dsn."
        ) from error
    except (asyncpg.PostgresError, ValueError) as error:
        raise StartError(f"The database refuses the connection: {error}") from error
