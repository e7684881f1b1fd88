"""Servers of a test's own: stopped, killed, brought back, and followed by a standby."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil

from gateway.storage.embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.storage.wire import Wire


def signal_all(server: EmbeddedPostgres, number: signal.Signals) -> None:
    """Send a signal to the server's every process: it has one for each connection."""
    main = psutil.Process(server.process_id)
    for process in (main, *main.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


async def kill(server: EmbeddedPostgres) -> None:
    """End the server by force, and wait for that."""
    psutil.Process(server.process_id).kill()
    await server.wait_closed()


async def bring_back(server: EmbeddedPostgres) -> None:
    """Start the server again, as often as the remains of the old one make it fail."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(EmbeddedPostgresError):
                return await server.restart()


async def set_read_only(server: EmbeddedPostgres, is_read_only: bool) -> None:
    """Let the server take no writes, as one does whose disk is full or whose place was taken."""
    connection = await asyncpg.connect(server.dsn)
    value = "on" if is_read_only else "off"
    await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


def copy_cluster(data_dir: Path, copy_dir: Path) -> Path:
    """A running server's files in another data folder, with their owner; gives the cluster."""
    cluster = copy_dir / "postgres"
    copy_dir.mkdir()
    subprocess.run(["cp", "-a", data_dir / "postgres", cluster], check=True)
    for name in ("postmaster.pid", ".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
        (cluster / name).unlink()
    return cluster


def write_as_owner(folder: Path, name: str, text: str) -> None:
    """A file that belongs to whom the folder does: we may be root, and the server is not."""
    path = folder / name
    path.write_text(text)
    owner = folder.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


@asynccontextmanager
async def open_standby(
    primary: EmbeddedPostgres, wire: Wire, primary_dir: Path, data_dir: Path
) -> AsyncIterator[EmbeddedPostgres]:
    """A standby that follows the primary, over the wire, until it is promoted."""
    connection = await asyncpg.connect(primary.dsn)
    await connection.execute("SELECT pg_backup_start('standby', true)")
    cluster = await asyncio.to_thread(copy_cluster, primary_dir, data_dir)
    label = await connection.fetchval("SELECT labelfile FROM pg_backup_stop(false)")
    await connection.close()
    for name, text in (("backup_label", label), ("standby.signal", "")):
        write_as_owner(cluster, name, text)
    address = f"host=127.0.0.1 port={wire.port} user=gateway sslmode=disable"
    follow = {"primary_conninfo": address, "fsync": "off"}
    async with EmbeddedPostgres(data_dir, settings=follow) as standby:
        yield standby
