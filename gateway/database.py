"""The database that the configuration names: started, reached, migrated, checked, kept small."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import structlog

from gateway.config import Config
from gateway.core.errors import StorageUnavailable
from gateway.storage.address_snapshot import read_id_type, write_snapshot
from gateway.storage.database import (
    DRIVER_ERRORS,
    DatabaseSettings,
    cause_of,
    connect,
    is_outage,
    require_statements,
    wait_until_answering,
)
from gateway.storage.embedded import EmbeddedPostgres, EmbeddedPostgresError, default_data_dir
from gateway.storage.migrations import migrate
from gateway.storage.upkeep import prune_ledger
from gateway.storage.workspace_key import WorkspaceKeys, read_workspace_keys

log = structlog.get_logger()

# Right after a crash its processes may still be ending; PostgreSQL refuses to start beside them.
RESTART_DELAY_S = 0.2

# Replicas that start together do not prune together.
PRUNE_DELAY_MAX_S = 300.0
PRUNE_INTERVAL_S = 3600.0

# How long a start waits for a silent database before it serves without it.
REACH_TIMEOUT_S = 0.5
REACH_INTERVAL_S = 0.2
SNAPSHOT_INTERVAL_S = 30.0


# Waiting does not mend a wrong password or a database that does not exist.
REFUSALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


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


async def prepare_database(settings: DatabaseSettings) -> WorkspaceKeys:
    """Migrate the database and make sure that every statement of ours fits it."""
    await migrate(settings)
    await require_statements(settings)
    return await read_workspace_keys(settings)


@dataclass(slots=True)
class DatabaseCare:
    """What the gateway does for its database: prepare it once it answers, then keep it.

    `keys` is filled in by the database, or before that by the snapshot of addresses.
    """

    settings: DatabaseSettings
    retention: timedelta | None
    snapshot: Path
    keys: WorkspaceKeys = field(init=False)
    # Set once workers can start: the database is prepared, or it is away.
    is_decided: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.keys = WorkspaceKeys(read_id_type(self.snapshot))

    async def run(self) -> None:
        """Prepare the database and care for it until cancelled.

        Raises StartError at once for a database that refuses the connection, and MigrationError,
        WrongStatement and driver errors whenever its schema and this version do not fit.
        """
        await self._prepare()
        self.is_decided.set()
        async with pruned_ledger(self.settings, self.retention):
            await self._keep_snapshot()

    async def _prepare(self) -> None:
        while True:
            try:
                await self._reach()
                self.keys.id_type = (await prepare_database(self.settings)).id_type
            except ValueError as error:  # the driver's own for a DSN that it cannot read
                raise StartError(f"database.dsn cannot be read: {error}") from error
            except DRIVER_ERRORS as error:
                self._require_outage(error)
            else:
                break
            await asyncio.sleep(REACH_INTERVAL_S)
        if self.is_decided.is_set():
            log.info("database_prepared")

    async def _reach(self) -> None:
        timeout_s = self.settings.connect_timeout_s
        if not self.is_decided.is_set():
            timeout_s = min(timeout_s, REACH_TIMEOUT_S)
        (await connect(replace(self.settings, connect_timeout_s=timeout_s))).terminate()

    def _require_outage(self, error: Exception) -> None:
        """Go on where the database is away; raise what waiting does not mend."""
        is_refused = isinstance(error, asyncpg.PostgresError) and not is_outage(error)
        if is_refused and isinstance(error, REFUSALS):
            if not self.is_decided.is_set():
                raise StartError(f"The database refuses the connection: {error}") from error
        elif is_refused:
            raise error
        if not self.is_decided.is_set():
            log.error("database_away", cause=cause_of(error))
            self.is_decided.set()

    async def _keep_snapshot(self) -> None:
        is_reported = False
        while True:
            try:
                await self._write_snapshot()
                is_reported = False
            except Exception as error:
                # Serving does not depend on it: the last snapshot stays.
                if not is_reported:
                    log.warning("snapshot_not_written", cause=type(error).__name__)
                is_reported = True
            await asyncio.sleep(SNAPSHOT_INTERVAL_S)

    async def _write_snapshot(self) -> None:
        connection = await connect(self.settings)
        try:
            id_type = self.keys.id_type or "text"
            await write_snapshot(connection, self.snapshot, id_type, time.time())
        finally:
            connection.terminate()


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
