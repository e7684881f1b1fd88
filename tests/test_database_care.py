"""A gateway's care for its database: when workers may start, what ends it, and what it survives."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from gateway import database_care
from gateway.database import StartError
from gateway.database_care import DatabaseCare
from gateway.storage import migrations
from gateway.storage.address_snapshot import read_snapshot, write_snapshot
from gateway.storage.database import DatabaseSettings
from tests.conftest import CreateDatabase, dsn_of
from tests.running import until
from tests.storage.wire import open_wire

FOREVER_S = 3600.0
IS_WAITING = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
IS_ANOTHER_WAITING = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid <> $1)"
LOCK_SCHEMA = f"SELECT pg_advisory_xact_lock({migrations._LOCK})"
LOCK_WORKSPACES = "LOCK TABLE workspaces IN ACCESS EXCLUSIVE MODE"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "addresses.jsonl"


def care_for(dsn: str, path: Path, startup_timeout_s: float = FOREVER_S) -> DatabaseCare:
    return DatabaseCare(DatabaseSettings(dsn, connect_timeout_s=0.5), None, path, startup_timeout_s)


@asynccontextmanager
async def running(care: DatabaseCare) -> AsyncIterator[asyncio.Task[None]]:
    """The care in a task, cancelled at the end, which must be soon."""
    task = asyncio.create_task(care.run())
    try:
        yield task
    finally:
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait({task})


@asynccontextmanager
async def locked(dsn: str, statement: str) -> AsyncIterator[asyncpg.Connection]:
    """Another process's connection, in a transaction that holds a lock."""
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute(statement)
        yield connection
    await connection.close()


async def test_first_start_waits_for_a_migration_until_its_deadline_and_goes_on_migrating(
    create_database: CreateDatabase, path: Path
) -> None:
    dsn = await create_database("template0")
    care = care_for(dsn, path, startup_timeout_s=3)
    with capture_logs() as lines:
        async with running(care):
            async with locked(dsn, LOCK_SCHEMA) as other:
                await until(lambda: other.fetchval(IS_WAITING))
                assert not care.is_decided.is_set()
                await until(care.is_decided.is_set)
                assert care.keys.id_type is None
            await until(path.exists)
    assert care.keys.id_type == "text"
    assert [line["event"] for line in lines] == ["database_not_prepared", "database_prepared"]


async def test_start_with_a_snapshot_waits_a_moment_for_a_database_that_hangs(
    create_database: CreateDatabase,
    connection: asyncpg.Connection,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database_care, "PREPARE_PATIENCE_S", 0.1)
    dsn = await create_database("template0")
    await write_snapshot(connection, path, "text", 1.0)
    care = care_for(dsn, path)
    async with locked(dsn, LOCK_SCHEMA), running(care):
        await until(care.is_decided.is_set)


async def test_lock_that_another_replica_holds_is_tried_again(
    create_database: CreateDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 20)
    dsn = await create_database("template0")
    care = care_for(dsn, path)
    with capture_logs() as lines:
        async with running(care):
            async with locked(dsn, LOCK_SCHEMA):
                await until(lambda: bool(lines))
                assert not care.is_decided.is_set()  # it is neither away nor silent
            await until(care.is_decided.is_set)
    assert [(line["event"], line["cause"]) for line in lines] == [("schema_locked", "locked")]


async def test_care_that_is_cancelled_in_a_snapshot_ends_at_once_though_the_database_is_silent(
    dsn: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_wire(dsn) as wire:
        monkeypatch.setattr(database_care, "SNAPSHOT_INTERVAL_S", FOREVER_S)
        # Prepared before it waits for the lock, which every statement needs.
        monkeypatch.setattr(database_care, "prepare_database", prepared)
        async with locked(dsn, LOCK_WORKSPACES) as other:
            task = asyncio.create_task(care_for(wire.dsn, path).run())
            await until(lambda: other.fetchval(IS_WAITING))
            wire.silence()
            task.cancel()
            await asyncio.wait({task}, timeout=10)
            assert task.cancelled()
    assert list(path.parent.iterdir()) == []


async def prepared(_: object) -> database_care.WorkspaceKeys:
    return database_care.WorkspaceKeys("text")


async def test_snapshot_that_takes_too_long_is_given_up_and_later_ones_are_written(
    dsn: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_care, "SNAPSHOT_INTERVAL_S", 0.2)
    monkeypatch.setattr(database_care, "prepare_database", prepared)
    with capture_logs() as lines:
        async with running(care_for(dsn, path)):
            async with locked(dsn, LOCK_WORKSPACES) as other:
                await until(lambda: other.fetchval(IS_WAITING))
                first = await other.fetchval("SELECT pid FROM pg_locks WHERE NOT granted")
                await until(lambda: bool(lines))
                # And again, without another line.
                await until(lambda: other.fetchval(IS_ANOTHER_WAITING, first))
            await until(path.exists)
    assert [(line["event"], line["cause"]) for line in lines] == [
        ("snapshot_not_written", "TimeoutError")
    ]


async def test_refusal_after_the_start_is_logged_once_and_waited_for(
    create_database: CreateDatabase, connection: asyncpg.Connection, path: Path
) -> None:
    later = dsn_of(await create_database(), "later")
    care = care_for(later, path)
    care.is_decided.set()
    with capture_logs() as lines:
        async with running(care) as task:
            await until(lambda: bool(lines))
            await connection.execute("CREATE DATABASE later TEMPLATE template_gateway")
            try:
                await until(path.exists)
                assert not task.done()
            finally:
                task.cancel()
                await asyncio.wait({task})
                await connection.execute("DROP DATABASE later WITH (FORCE)")
    assert [(line["event"], line.get("cause")) for line in lines] == [
        ("database_refused", "sqlstate_3D"),
        ("database_prepared", None),
    ]


@asynccontextmanager
async def wrong_certificate() -> AsyncIterator[str]:
    """The DSN of a server whose certificate names another host."""
    certificate = Path(__file__).with_name("another_host.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            await reader.readexactly(8)  # SSLRequest
            writer.write(b"S")
            await writer.start_tls(context)

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        address = f"localhost:{server.sockets[0].getsockname()[1]}"
        yield f"postgresql://x@{address}/x?sslmode=verify-full&sslrootcert={certificate}"


async def test_certificate_that_does_not_verify_is_an_outage_and_not_a_malformed_dsn(
    path: Path,
) -> None:
    async with wrong_certificate() as dsn:
        care = care_for(dsn, path)
        with capture_logs() as lines:
            async with running(care) as task:
                await until(care.is_decided.is_set)
                await until(lambda: bool(lines))
                assert not task.done()
    assert (lines[0]["event"], lines[0]["cause"]) == ("database_away", "SSLCertVerificationError")


async def test_dsn_that_cannot_be_read_ends_a_start_and_no_gateway_that_serves(path: Path) -> None:
    dsn = "postgresql://x@localhost/x?sslmode=sometimes"
    with pytest.raises(StartError, match=r"database\.dsn"):
        await care_for(dsn, path).run()
    care = care_for(dsn, path)
    care.is_decided.set()
    with capture_logs() as lines:
        async with running(care) as task:
            await until(lambda: bool(lines))
            assert not task.done()
    (line,) = lines
    assert (line["event"], line["cause"]) == ("database_refused", "ClientConfigurationError")


async def test_first_snapshot_follows_the_preparation(dsn: str, path: Path) -> None:
    async with running(care_for(dsn, path)):
        await until(path.exists)
    assert (await read_snapshot(path)).head.id_type == "text"
