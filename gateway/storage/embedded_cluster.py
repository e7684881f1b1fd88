"""A cluster of databases in a folder: how it is made, and how its server is addressed."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

import asyncpg

from gateway.storage.embedded_process import (
    POLL_INTERVAL_S,
    Account,
    EmbeddedPostgresError,
    Programs,
    deadline,
    exit_code,
    last_words,
    stop,
)

INITDB_OPTIONS = (
    "--username=gateway",
    "--auth=trust",  # the socket's folder lets nobody else in
    "--encoding=UTF8",
    "--locale=C",
    "--no-instructions",
)
CREATE_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
SOCKET_PATH_BYTES_MAX = 107  # unix(7): sun_path, less the zero that ends it


async def create_cluster(programs: Programs, cluster: Path, *, is_synced: bool) -> None:
    """Make a cluster with the role `gateway`; one half made, by a crash too, never has its name."""
    options = INITDB_OPTIONS if is_synced else (*INITDB_OPTIONS, "--no-sync")
    with folder_to_become(cluster, programs.account) as folder:
        process = programs.start("initdb", folder, *options)
        try:
            async with deadline(CREATE_TIMEOUT_S, f"initdb took too long in {cluster.parent}."):
                code = await exit_code(process)
        finally:
            await stop(process)
        if code != 0:
            raise EmbeddedPostgresError(f"No database could be made: {last_words(programs.log)}")


@contextmanager
def folder_to_become(cluster: Path, account: Account | None) -> Iterator[Path]:
    """An empty folder of the account's own; when all has gone well, it takes the cluster's name."""
    for leftover in cluster.parent.glob("initdb-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix="initdb-",
        dir=cluster.parent,
        ignore_cleanup_errors=True,  # a child of a stopped initdb may still write
    ) as parent:
        folder = Path(parent, "postgres")
        folder.mkdir(mode=0o700)
        if account:
            os.chown(folder, account.user_id, account.group_id)
        yield folder
        folder.rename(cluster)


@contextmanager
def socket_folder(cluster: Path) -> Iterator[Path]:
    """The folder with the server's socket, under a name that fits into an address."""
    socket = os.fsencode(cluster / ".s.PGSQL.5432")
    # A comma would part two hosts.
    if len(socket) <= SOCKET_PATH_BYTES_MAX and b"," not in socket:
        yield cluster
        return
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        link = Path(folder, "postgres")
        link.symlink_to(cluster)
        yield link


def dsn_at(folder: Path) -> str:
    """The DSN of the server whose socket is in the folder; PGPORT and PGSSLMODE cannot bend it."""
    return f"postgresql://gateway@/gateway?host={quote(str(folder))}&port=5432&sslmode=disable"


async def wait_until_ready(process: subprocess.Popen[bytes], dsn: str, log: IO[bytes]) -> None:
    """Return as soon as the server that was started takes connections to our database."""
    async with deadline(READY_TIMEOUT_S, f"PostgreSQL was not ready in time, see {log.name}."):
        while not await answers(dsn, "postgres"):
            if process.poll() is not None:
                raise EmbeddedPostgresError(f"PostgreSQL did not start: {last_words(log)}")
            await asyncio.sleep(POLL_INTERVAL_S)
        await create_database(dsn)


async def answers(dsn: str, database: str) -> bool:
    """Whether the server takes a connection to a database."""
    try:
        connection = await asyncpg.connect(dsn, database=database, timeout=CONNECT_TIMEOUT_S)
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    except (OSError, asyncpg.PostgresError):
        return False
    return True


async def create_database(dsn: str) -> None:
    """Create the database `gateway` unless it is there."""
    connection = await asyncpg.connect(dsn, database="postgres", timeout=CONNECT_TIMEOUT_S)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'gateway'"):
            await connection.execute("CREATE DATABASE gateway")
    finally:
        await connection.close()
