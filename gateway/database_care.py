"""What a gateway does for its database: prepare it once it answers, then keep it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import structlog

from gateway.database import StartError, pruned_ledger
from gateway.storage.address_snapshot import read_head, write_snapshot
from gateway.storage.database import (
    CONTENTION_ERRORS,
    DRIVER_ERRORS,
    DatabaseSettings,
    cause_of,
    connect,
    is_outage,
    require_statements,
)
from gateway.storage.deadline import limited
from gateway.storage.migrations import SchemaLocked, migrate
from gateway.storage.session import session
from gateway.storage.workspace_key import WorkspaceKeys, read_workspace_keys

log = structlog.get_logger()

# How long a start waits for a silent database before it serves without it.
REACH_TIMEOUT_S = 0.5
# How long a start that could serve by a snapshot waits for a database that answered once: it may
# be silent since then, or locked by another replica.
PREPARE_PATIENCE_S = 3.0
# Between two tries; doubled from the one to the other.
RETRY_DELAY_S = 0.2
RETRY_DELAY_MAX_S = 1.0
# A host that vanished ends no connection. What takes longer is for `gateway migrate`.
MIGRATE_TIMEOUT_S = 3600.0
STATEMENTS_TIMEOUT_S = 30.0
# Also how long writing one may take.
SNAPSHOT_INTERVAL_S = 30.0

# Waiting does not mend a wrong password or a database that does not exist.
REFUSALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


async def prepare_database(settings: DatabaseSettings) -> WorkspaceKeys:
    """Migrate the database and make sure that every statement of ours fits it."""
    await migrate(settings, MIGRATE_TIMEOUT_S)
    async with limited(STATEMENTS_TIMEOUT_S):
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
    # How long workers that know nothing wait for a database that answered once.
    startup_timeout_s: float
    keys: WorkspaceKeys = field(init=False)
    # Set once workers can start: the database is prepared, or they serve without it.
    is_decided: asyncio.Event = field(default_factory=asyncio.Event)
    # Whether the last attempt to reach the database found it away.
    is_away: bool = False
    # The last line about why the database is not prepared: its event and cause.
    _reported: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        head = read_head(self.snapshot)
        self.keys = WorkspaceKeys(None if head is None else head.id_type)

    async def run(self) -> None:
        """Prepare the database and care for it until cancelled.

        Raises StartError for a database that refuses the connection before workers could start, and
        MigrationError, WrongStatement and driver errors whenever its schema and this version do not
        fit.
        """
        async with self._patience():
            await self._prepare()
        self.is_decided.set()
        async with pruned_ledger(self.settings, self.retention):
            await self._keep_snapshot()

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """Have workers start when the block takes long, whatever it does.

        A snapshot means that the database was prepared before, so that little is left to do.
        """
        patience_s = self.startup_timeout_s
        if self.keys.id_type is not None:
            patience_s = min(patience_s, PREPARE_PATIENCE_S)
        timer = asyncio.get_running_loop().call_later(patience_s, self._lose_patience)
        try:
            yield
        finally:
            timer.cancel()

    def _lose_patience(self) -> None:
        if not self.is_decided.is_set():
            self._decide("database_not_prepared", "timeout")

    async def _prepare(self) -> None:
        delay_s = RETRY_DELAY_S
        while True:
            try:
                await self._reach()
                self.keys.id_type = (await prepare_database(self.settings)).id_type
            except (*DRIVER_ERRORS, ValueError, SchemaLocked) as error:
                self._note(error)
            else:
                self.is_away = False
                break
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_DELAY_MAX_S)
        if self.is_decided.is_set():
            log.info("database_prepared")

    async def _reach(self) -> None:
        timeout_s = self.settings.connect_timeout_s
        if not self.is_decided.is_set():
            timeout_s = min(timeout_s, REACH_TIMEOUT_S)
        (await connect(replace(self.settings, connect_timeout_s=timeout_s))).terminate()

    def _note(self, error: Exception) -> None:
        """Go on where a later try may succeed; raise what ends the gateway."""
        if isinstance(error, (SchemaLocked, *CONTENTION_ERRORS)):
            # Another replica may be migrating: workers wait for that as long as they do for us.
            self._report("schema_locked", "locked")
        elif (sentence := _refusal(error)) is not None:
            if not self.is_decided.is_set():
                raise StartError(f"{sentence}: {error}") from error
            self._report("database_refused", _cause(error))
        elif isinstance(error, asyncpg.PostgresError) and not is_outage(error):
            raise error
        else:
            self.is_away = True
            self._decide("database_away", _cause(error))

    def _decide(self, event: str, cause: str) -> None:
        self._report(event, cause)
        self.is_decided.set()

    def _report(self, event: str, cause: str) -> None:
        """Log why the database is not prepared, whenever that changes."""
        if self._reported != (event, cause):
            log.error(event, cause=cause)
        self._reported = event, cause

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
        # The server is to give up soon after us, or its processes would pile up behind a lock.
        settings = replace(self.settings, statement_timeout_s=2 * SNAPSHOT_INTERVAL_S)
        async with session(settings, SNAPSHOT_INTERVAL_S) as connection:
            id_type = self.keys.id_type or "text"
            await write_snapshot(connection, self.snapshot, id_type, time.time())


def _refusal(error: Exception) -> str | None:
    """What a person has to mend outside of the database's server; None for all else."""
    if isinstance(error, REFUSALS):
        return "The database refuses the connection"
    # The driver's own for a DSN that it cannot read, or for what that names. A certificate that
    # does not verify is an OSError as well, and may be another one tomorrow.
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return "database.dsn cannot be read"
    return None


def _cause(error: Exception) -> str:
    """A word for the log: files, names and certificates are no lost connections there."""
    is_local = isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError))
    if is_local or isinstance(error, ValueError):
        return type(error).__name__
    return cause_of(error)
