"""A file with the addresses of all agents: what a process needs that starts during an outage.

One line of JSON per workspace has its id and its agent's URL; the last line says what the file is.
The file is replaced atomically and belongs to its owner alone. One that is cut short or damaged is
not used.
"""

import asyncio
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

from gateway.storage.database import Connection
from gateway.storage.queries import query

VERSION = 1
ROWS_PER_FETCH = 500
# What is read and parsed at a time: well under a millisecond of the event loop.
READ_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All addresses by workspace id, as they were at a moment of this machine's clock."""

    id_type: str
    read_at: float
    urls: dict[str, str]


class SnapshotError(Exception):
    """There is no snapshot that can be used; one sentence says why."""


def snapshot_name(dsn: str) -> str:
    """The name of the snapshot of one database; several may share a folder."""
    # The password is not part of it: a new one is no other database.
    _, _, place = dsn.rpartition("@")
    return f"addresses-{hashlib.sha256(place.encode()).hexdigest()[:16]}.jsonl"


async def write_snapshot(connection: Connection, path: Path, id_type: str, now: float) -> None:
    """Write what the database has now, read after `now`. Raises OSError and what the driver raises.

    A folder that does not exist is made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with _open_private(unfinished) as file:
            count = await _write_rows(connection, file)
            head = {"version": VERSION, "id_type": id_type, "read_at": now, "count": count}
            file.write(orjson.dumps(head) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _open_private(path: Path) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "wb")


async def _write_rows(connection: Connection, file: IO[bytes]) -> int:
    count = 0
    async with connection.transaction():
        rows = connection.cursor(query("select_addresses"), prefetch=ROWS_PER_FETCH)
        async for row in rows:
            file.write(orjson.dumps([row["workspace_id"], row["url"]]) + b"\n")
            count += 1
    return count


async def read_snapshot(path: Path) -> Snapshot:
    """The snapshot, read in slices that leave the event loop to others. Raises SnapshotError."""
    urls: dict[str, str] = {}
    head: object = None
    try:
        with path.open("rb") as file:
            while lines := file.readlines(READ_BYTES):
                for line in lines:
                    head = orjson.loads(line)
                    if isinstance(head, list):
                        urls[head[0]] = head[1]
                await asyncio.sleep(0)
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise SnapshotError(f"{path} cannot be read ({type(error).__name__}).") from error
    return _complete(path, head, urls)


def _complete(path: Path, last: object, urls: dict[str, str]) -> Snapshot:
    match last:
        case {"version": 1, "id_type": str(id_type), "read_at": float(at), "count": int(count)}:
            if count == len(urls):
                return Snapshot(id_type, at, urls)
    raise SnapshotError(f"{path} is not a complete snapshot.")


def read_id_type(path: Path) -> str | None:
    """The type of the workspaces' ids by a snapshot's last line; None without a usable one."""
    try:
        with path.open("rb") as file:
            last = _last_line(file)
        found = orjson.loads(last)["id_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _last_line(file: IO[bytes]) -> bytes:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1024))
    return file.read().rstrip(b"\n").rpartition(b"\n")[2]
