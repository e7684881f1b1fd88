"""A file with the addresses of all agents: what a process needs that starts during an outage.

One line of JSON per workspace has its id and its agent's URL; the last line says what the file is.
The file is replaced atomically and belongs to its owner alone. One that is cut short or damaged, or
that somebody else may have written, is not used. Where nothing has changed it is only touched: its
time of modification is when it was true.
"""

import asyncio
import hashlib
import os
import secrets
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import asyncpg
import orjson

from gateway.storage.database import Connection
from gateway.storage.queries import query

VERSION = 2
ROWS_PER_FETCH = 500
# What is read and parsed at a time: well under a millisecond of the event loop.
READ_BYTES = 32 * 1024
# Enough for the last line.
HEAD_BYTES_MAX = 1024
# One that was written to for the last time so long ago was left by a process that was killed.
UNFINISHED_AGE_MAX_S = 300.0

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Head:
    """What a snapshot is: its last line."""

    version: int
    id_type: str
    # Of the cluster; None where the role may not read it.
    system_identifier: str | None
    database: str
    count: int
    # Of all lines, whatever their order: the server gives none.
    digest: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All addresses by workspace id, as they were at a moment of this machine's clock."""

    head: Head
    read_at: float
    urls: dict[str, str]


class SnapshotError(Exception):
    """There is no snapshot that can be used; one sentence says why."""


async def write_snapshot(connection: Connection, path: Path, id_type: str, now: float) -> None:
    """Write what the database has now, read after `now`. Raises OSError and what the driver raises.

    A folder that does not exist is made. What fails leaves a transaction open on the connection,
    which is to be closed then: a rollback would wait for a server that may be silent.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_unfinished(path)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with _create_private(unfinished) as file:
            head = await _write(connection, file, id_type)
            if head == read_head(path):
                os.utime(path, (now, now))
                return
            file.flush()
            os.fsync(file.fileno())
        os.utime(unfinished, (now, now))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_unfinished(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}.*"):
        if time.time() - each.stat().st_mtime > UNFINISHED_AGE_MAX_S:
            each.unlink(missing_ok=True)


def _create_private(path: Path) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "wb")


async def _write(connection: Connection, file: IO[bytes], id_type: str) -> Head:
    system_identifier = await _system_identifier(connection)
    database = await connection.fetchval(query("select_database_name"))
    count, digest = 0, 0
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    async for row in connection.cursor(query("select_addresses"), prefetch=ROWS_PER_FETCH):
        line = orjson.dumps([row["workspace_id"], row["url"]]) + b"\n"
        file.write(line)
        count += 1
        digest += int.from_bytes(hashlib.sha256(line).digest()[:_DIGEST_BYTES])
    await transaction.commit()
    digest_text = f"{digest % (1 << 8 * _DIGEST_BYTES):x}"
    head = Head(VERSION, id_type, system_identifier, database, count, digest_text)
    file.write(orjson.dumps(asdict(head)) + b"\n")
    return head


async def _system_identifier(connection: Connection) -> str | None:
    try:
        identifier: str | None = await connection.fetchval(query("select_system_identifier"))
    except asyncpg.InsufficientPrivilegeError:
        return None
    return identifier


async def read_snapshot(path: Path) -> Snapshot:
    """The snapshot, read in slices that leave the event loop to others. Raises SnapshotError."""
    urls: dict[str, str] = {}
    last: Any = None
    try:
        with _open_trusted(path) as file:
            read_at = os.fstat(file.fileno()).st_mtime
            while lines := file.readlines(READ_BYTES):
                for line in lines:
                    last = orjson.loads(line)
                    if isinstance(last, list):
                        urls[last[0]] = last[1]
                await asyncio.sleep(0)
        head = _head(last)
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise SnapshotError(f"{path} cannot be read ({type(error).__name__}).") from error
    if head.count != len(urls):
        raise SnapshotError(f"{path} is not a complete snapshot.")
    return Snapshot(head, read_at, urls)


def read_head(path: Path) -> Head | None:
    """What a snapshot is, by its last line; None without a usable one."""
    try:
        with _open_trusted(path) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - HEAD_BYTES_MAX))
            return _head(orjson.loads(file.read().rstrip(b"\n").rpartition(b"\n")[2]))
    except (OSError, ValueError, TypeError):
        return None


def _head(last: Any) -> Head:
    """Raises ValueError and TypeError for a line that is none."""
    if not isinstance(last, dict) or last.get("version") != VERSION:
        raise ValueError("not a snapshot of this version")
    head = Head(**last)
    if not isinstance(head.id_type, str) or not isinstance(head.count, int):
        raise TypeError("not a snapshot's last line")
    return head


def _open_trusted(path: Path) -> IO[bytes]:
    """Open a file that nobody but us, or root, can have written. Raises OSError.

    That its group may write it is no reason to refuse: Kubernetes' fsGroup sets that on a volume.
    """
    file = path.open("rb")
    status = os.fstat(file.fileno())
    is_ours = stat.S_ISREG(status.st_mode) and status.st_uid in (0, os.geteuid())
    if is_ours and not status.st_mode & stat.S_IWOTH:
        return file
    file.close()
    raise PermissionError(f"{path} belongs to another user, or everybody may write it.")
