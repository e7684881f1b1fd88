"""Migrations: from nothing, from the platform's databases, twice, at once, and not at all."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
import pytest
import pytest_asyncio

from gateway.core.periods import LEGACY_PERIOD
from gateway.storage import migrations as migrations_module
from gateway.storage.database import Connection, DatabaseSettings, connect, require_statements
from gateway.storage.migrations import (
    MigrationError,
    SchemaLocked,
    known_migrations,
    migrate,
    pending_migrations,
)
from gateway.storage.workspace_key import read_workspace_keys
from tests.conftest import CreateDatabase
from tests.running import until
from tests.storage.command import run_command
from tests.storage.platform import BLOCKED, IDLE, PLATFORMS, REMOVED, UNLIMITED, Platform
from tests.storage.wire import open_wire

LEGACY = LEGACY_PERIOD.name
PLATFORM_TABLES = ("users", "workspaces", "workspace_memories")


@pytest_asyncio.fixture
async def empty(create_database: CreateDatabase) -> DatabaseSettings:
    """A database with nothing in it."""
    return DatabaseSettings(await create_database("template0"))


@pytest_asyncio.fixture(params=PLATFORMS, ids=lambda platform: platform.name)
async def old(empty: DatabaseSettings, request: pytest.FixtureRequest) -> DatabaseSettings:
    """The platform's database as it was before the gateway."""
    platform: Platform = request.param
    await platform.create(empty.dsn)
    return empty


async def fetch(settings: DatabaseSettings, statement: str) -> list[asyncpg.Record]:
    connection = await connect(settings)
    rows = await connection.fetch(statement)
    await connection.close()
    return rows


async def contents(settings: DatabaseSettings) -> dict[str, list[dict[str, object]]]:
    """Every row of every table, by table."""
    tables = await fetch(
        settings, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    )
    return {
        name: [dict(row) for row in await fetch(settings, f"SELECT * FROM {name} ORDER BY 1, 2")]
        for (name,) in tables
    }


async def definitions(settings: DatabaseSettings) -> set[tuple[object, ...]]:
    """Columns, constraints and indexes of the platform's tables."""
    tables = ", ".join(f"'{name}'" for name in PLATFORM_TABLES)
    rows = await fetch(
        settings,
        f"""SELECT table_name::text, column_name::text, data_type::text, column_default::text,
                   is_nullable::text
            FROM information_schema.columns WHERE table_name IN ({tables})
            UNION ALL
            SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), '', ''
            FROM pg_constraint WHERE conrelid::regclass::text IN ({tables})
            UNION ALL
            SELECT tablename::text, indexname::text, indexdef, '', ''
            FROM pg_indexes WHERE tablename IN ({tables})""",
    )
    return {tuple(row) for row in rows}


async def test_empty_database_gets_everything(empty: DatabaseSettings) -> None:
    assert await migrate(empty) == known_migrations()
    await require_statements(empty)
    assert (await read_workspace_keys(empty)).id_type == "text"
    journal = (await contents(empty))["gateway_migrations"]
    assert [(row["number"], row["sha256"]) for row in journal] == [
        (each.number, each.sha256) for each in known_migrations()
    ]


async def test_what_is_the_platforms_stays_as_it_was(old: DatabaseSettings) -> None:
    rows_before, definitions_before = await contents(old), await definitions(old)
    await migrate(old)
    rows_after = await contents(old)
    assert await definitions(old) > definitions_before  # more columns, and nothing changed or gone
    for table, rows in rows_before.items():
        kept = [
            {name: row[name] for name in rows[0]} for row in rows_after[table]
        ]  # the columns that were there
        assert kept == rows, table
    assert rows_before.keys() == set(PLATFORM_TABLES)


async def test_limits_are_taken_over_from_the_legacy_column(old: DatabaseSettings) -> None:
    await migrate(old)
    rows = await fetch(old, "SELECT id::text, budget_limits FROM workspaces")
    assert {row["id"]: row["budget_limits"] for row in rows} == {
        BLOCKED: {LEGACY: 5000},
        UNLIMITED: None,
        IDLE: {LEGACY: 0},  # a limit of 0 is one
        REMOVED: {LEGACY: 100},
    }


async def test_what_was_spent_before_is_booked_once_at_the_start_of_the_month(
    old: DatabaseSettings,
) -> None:
    await migrate(old)
    now = datetime.now(UTC)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    rows = await fetch(
        old,
        """SELECT workspace_id::text, event_number, occurred_at, amount_cents,
                  running_total_cents, source
           FROM workspace_spend_events ORDER BY 1""",
    )
    assert [tuple(row) for row in rows] == [
        (key, 1, month, cents, cents, "opening")
        for key, cents in ((BLOCKED, 5200), (UNLIMITED, 70), (REMOVED, 40))
    ]
    marks = await fetch(
        old,
        """SELECT workspace_id::text, instance_id, counter_epoch, mark_cents
           FROM workspace_spend_marks ORDER BY 1""",
    )
    assert [tuple(row) for row in marks] == [
        (BLOCKED, "", "", 5200),
        (UNLIMITED, "", "", 70),
        (REMOVED, "", "", 40),
    ]


async def test_second_run_changes_nothing(old: DatabaseSettings) -> None:
    await migrate(old)
    await fetch(old, "UPDATE workspaces SET monthly_spend = 9000, budget_limits = '{}'")
    before = await contents(old)
    assert await migrate(old) == []
    assert await contents(old) == before


@pytest.mark.parametrize("replicas", [2, 5])
async def test_replicas_at_the_same_moment_all_succeed(
    old: DatabaseSettings, replicas: int
) -> None:
    applied = await asyncio.gather(*[migrate(old) for _ in range(replicas)])
    assert sorted(map(len, applied)) == [0] * (replicas - 1) + [len(known_migrations())]
    assert len(await fetch(old, "SELECT FROM workspace_spend_events")) == 3


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ("UPDATE gateway_migrations SET sha256 = 'other'", r"Migration 1 \(\w+\) was edited .*\."),
        (
            "INSERT INTO gateway_migrations (number, name, sha256) VALUES (999, 'later', '')",
            r"The database has migration 999, which this version does not know; .* newer .*\.",
        ),
    ],
    ids=["a file was edited", "the schema is newer"],
)
async def test_schema_that_does_not_fit_is_refused_in_a_sentence(
    dsn: str, edit: str, sentence: str
) -> None:
    settings = DatabaseSettings(dsn)
    await fetch(settings, edit)
    for run in (migrate, pending_migrations):
        with pytest.raises(MigrationError) as raised:
            await run(settings)
        assert re.fullmatch(sentence, str(raised.value))
    status, _, errors = await run_command(dsn, "serve")
    assert (status, errors) == (1, f"gateway: {raised.value}\n")


LOCK_SCHEMA = f"SELECT pg_advisory_xact_lock({migrations_module._LOCK})"
LOCK_WORKSPACES = "LOCK TABLE workspaces IN ACCESS EXCLUSIVE MODE"
IS_WAITING = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"


@asynccontextmanager
async def locked(settings: DatabaseSettings, statement: str) -> AsyncIterator[Connection]:
    """Another process's connection, in a transaction that holds a lock."""
    connection = await connect(settings)
    async with connection.transaction():
        await connection.execute(statement)
        yield connection
    await connection.close()


@pytest.mark.parametrize(
    "lock",
    [LOCK_SCHEMA, LOCK_WORKSPACES],
    ids=["before the first file", "within a file's transaction"],
)
async def test_migration_that_is_cancelled_ends_at_once_though_the_database_is_silent(
    old: DatabaseSettings, lock: str
) -> None:
    async with open_wire(old.dsn) as wire, locked(old, lock) as other:
        migrating = asyncio.create_task(migrate(DatabaseSettings(wire.dsn, connect_timeout_s=0.5)))
        await until(lambda: other.fetchval(IS_WAITING))
        wire.silence()
        migrating.cancel()
        await asyncio.wait({migrating}, timeout=10)
        # Else the deadline of the connection's end takes the place of the cancellation.
        assert migrating.cancelled()


async def test_schema_that_is_up_to_date_waits_for_no_lock(dsn: str) -> None:
    settings = DatabaseSettings(dsn)
    async with locked(settings, LOCK_SCHEMA):
        assert await migrate(settings) == []


async def test_migration_behind_a_lock_can_be_told_from_a_schema_that_does_not_fit(
    empty: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations_module, "LOCK_TIMEOUT_MS", 100)
    async with locked(empty, LOCK_SCHEMA):
        with pytest.raises(SchemaLocked):
            await migrate(empty)
    assert await migrate(empty) == known_migrations()


async def test_migration_ends_at_its_deadline(empty: DatabaseSettings) -> None:
    async with locked(empty, LOCK_SCHEMA):
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.2 s"):
            await migrate(empty, timeout_s=0.2)


async def test_asking_what_is_pending_changes_nothing(old: DatabaseSettings) -> None:
    before = await contents(old)
    assert await pending_migrations(old) == known_migrations()
    assert await contents(old) == before
    await migrate(old)
    assert await pending_migrations(old) == []


async def test_command_tells_whether_the_schema_is_behind(empty: DatabaseSettings) -> None:
    names = [str(migration) for migration in known_migrations()]
    up_to_date = "the schema is up to date\n"
    missing, applied = ("".join(f"{word}: {n}\n" for n in names) for word in ("missing", "applied"))
    assert (await run_command(empty.dsn, "migrate", "--check"))[:2] == (1, missing)
    assert (await run_command(empty.dsn, "migrate"))[:2] == (0, applied)
    assert (await run_command(empty.dsn, "migrate", "--check"))[:2] == (0, up_to_date)
    assert (await run_command(empty.dsn, "migrate"))[:2] == (0, up_to_date)
