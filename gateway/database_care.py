"""What a gateway does for its database: prepare it once it answers, then keep it."""

import asyncio
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import structlog

from gateway.database import StartError, pruned_ledger
from gateway.storage.address_snapshot import read_id_type, write_snapshot
from gateway.storage.database import (
    DRIVER_ERRORS,
    DatabaseSettings,
    cause_of,
    connect,
    is_outage,
    require_statements,
)
from gateway.storage.migrations import migrate
from gateway.storage.workspace_key import WorkspaceKeys, read_workspace_keys

log = structlog.get_logger()

# How long a start waits for a silent database before it serves without it.
REACH_TIMEOUT_S = 0.5
REACH_INTERVAL_S = 0.2
SNAPSHOT_INTERVAL_S = 30.0


# Waiting does not mend a wrong password or a database that does not exist.
REFUSALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


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
