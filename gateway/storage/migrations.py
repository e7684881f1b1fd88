"""Bring a database to the schema that this code knows: numbered files, each once, in order.

Two replicas at once take turns on an advisory lock. A file that landed is never edited: its
checksum is kept and compared.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from gateway.core.periods import LEGACY_PERIOD
from gateway.storage.database import Connection, DatabaseSettings
from gateway.storage.queries import sql_folder
from gateway.storage.session import LOOK_TIMEOUT_S, session

# Any number will do, so long as it stays the same and nobody else's: "a2a budget" in ASCII.
_LOCK = 0x613261_627564

LOCK_TIMEOUT_MS = 60_000

_CREATE_JOURNAL = """
CREATE TABLE IF NOT EXISTS gateway_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(Exception):
    """The database's schema and this code do not go together; one sentence says why."""


class SchemaLocked(MigrationError):
    """Another process changes the schema, or uses what has to change: a later try may succeed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `0001_ledger.sql` is number 1, named ledger."""

    number: int
    name: str
    sql: str

    def __str__(self) -> str:
        return f"{self.number:04} {self.name}"

    @property
    def sha256(self) -> str:
        """The file's checksum, kept in the journal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations(folder: Path | None = None) -> list[Migration]:
    """The migrations of this code, in order."""
    paths = sorted((folder or sql_folder() / "migrations").glob("[0-9]*.sql"))
    return [_read(path) for path in paths]


def _read(path: Path) -> Migration:
    number, _, name = path.stem.partition("_")
    return Migration(int(number), name, path.read_text(encoding="utf-8"))


async def migrate(settings: DatabaseSettings, timeout_s: float | None = None) -> list[Migration]:
    """Apply what is missing, each file in a transaction; returns what was applied.

    Nothing is locked or changed where nothing is missing. Raises MigrationError for a schema that
    is newer than this code or a file that was edited, SchemaLocked, and TimeoutError once that took
    `timeout_s`; files that were applied until then stay.
    """
    if not await pending_migrations(settings):
        return []
    try:
        async with session(settings, timeout_s) as connection:
            return await _migrate(connection)
    except asyncpg.LockNotAvailableError as error:
        raise SchemaLocked(
            f"Another process has held the schema's lock for {LOCK_TIMEOUT_MS // 1000} s: is a "
            "migration still running?"
        ) from error


async def pending_migrations(settings: DatabaseSettings) -> list[Migration]:
    """What `migrate` would apply; changes nothing. Raises MigrationError like it."""
    async with session(settings, LOOK_TIMEOUT_S) as connection:
        if await connection.fetchval("SELECT to_regclass('gateway_migrations') IS NULL"):
            return known_migrations()
        return await _missing(connection)


async def _migrate(connection: Connection) -> list[Migration]:
    # On the session, not the transaction: it is held from file to file.
    await connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    await connection.execute(_CREATE_JOURNAL)
    missing = await _missing(connection)
    for migration in missing:
        await _apply(connection, migration)
    return missing


async def _missing(connection: Connection) -> list[Migration]:
    rows = await connection.fetch("SELECT number, sha256 FROM gateway_migrations")
    applied = {row["number"]: row["sha256"] for row in rows}
    known = known_migrations()
    if newer := applied.keys() - {migration.number for migration in known}:
        raise MigrationError(
            f"The database has migration {max(newer)}, which this version does not know; "
            "start a newer version of the gateway."
        )
    for migration in known:
        if applied.get(migration.number, migration.sha256) != migration.sha256:
            raise MigrationError(
                f"Migration {migration.number} ({migration.name}) was edited after it was applied."
            )
    return [migration for migration in known if migration.number not in applied]


async def _apply(connection: Connection, migration: Migration) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(
        "SELECT set_config('gateway.legacy_period', $1, true)", LEGACY_PERIOD.name
    )
    await connection.execute(migration.sql)
    await connection.execute(
        "INSERT INTO gateway_migrations (number, name, sha256) VALUES ($1, $2, $3)",
        migration.number,
        migration.name,
        migration.sha256,
    )
    await transaction.commit()
