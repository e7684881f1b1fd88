"""The addresses of agents: written whole or not at all, read in slices, and kept true."""

import asyncio
import stat
import time
from pathlib import Path

import asyncpg
import pytest

from gateway.storage import addresses as addresses_module
from gateway.storage.address_snapshot import (
    SnapshotError,
    read_id_type,
    read_snapshot,
    snapshot_name,
    write_snapshot,
)
from gateway.storage.addresses import Addresses
from tests.running import until

ADD = """INSERT INTO workspaces (id, url, status)
         SELECT 'w' || n, 'http://agent/' || n, 'online' FROM generate_series(1, $1) AS n"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "addresses.jsonl"


async def written(connection: asyncpg.Connection, path: Path, count: int) -> None:
    await connection.execute("DELETE FROM workspaces")
    await connection.execute(ADD, count)
    await write_snapshot(connection, path, "text", time.time())


async def test_snapshot_holds_every_workspace_that_has_an_agent(
    connection: asyncpg.Connection, path: Path
) -> None:
    await connection.execute(ADD, 2000)
    await connection.execute("UPDATE workspaces SET status = 'removed' WHERE id = 'w1'")
    await connection.execute("UPDATE workspaces SET url = NULL WHERE id = 'w2'")
    await write_snapshot(connection, path, "text", 1000.5)
    found = await read_snapshot(path)
    assert (found.id_type, found.read_at) == ("text", 1000.5)
    assert found.urls == {f"w{number}": f"http://agent/{number}" for number in range(3, 2001)}


async def test_snapshot_belongs_to_its_owner_alone_and_leaves_nothing_beside_it(
    connection: asyncpg.Connection, path: Path
) -> None:
    await written(connection, path, 1)
    await written(connection, path, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_snapshot_that_cannot_be_completed_leaves_the_one_before(
    dsn: str, connection: asyncpg.Connection, path: Path
) -> None:
    await written(connection, path, 3)
    other = await asyncpg.connect(dsn)
    await other.close()
    with pytest.raises(asyncpg.InterfaceError):
        await write_snapshot(other, path, "text", time.time())
    assert len((await read_snapshot(path)).urls) == 3
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_snapshot_that_is_cut_short_or_damaged_anywhere_is_not_used(
    connection: asyncpg.Connection, path: Path
) -> None:
    await written(connection, path, 2)
    whole = path.read_bytes()
    for end in range(len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(SnapshotError):
            await read_snapshot(path)
    for damaged in (b"\xff" + whole, b"[]\n" + whole, b"[1, 2]\n" + whole, b'["w1"]\n' + whole):
        path.write_bytes(damaged)
        with pytest.raises(SnapshotError):
            await read_snapshot(path)
    path.unlink()
    with pytest.raises(SnapshotError):
        await read_snapshot(path)


async def test_type_of_ids_is_read_without_reading_all(
    connection: asyncpg.Connection, path: Path
) -> None:
    assert read_id_type(path) is None
    await connection.execute(ADD, 2000)
    await write_snapshot(connection, path, "uuid", time.time())
    assert read_id_type(path) == "uuid"
    path.write_bytes(b"not a snapshot\n")
    assert read_id_type(path) is None


def test_snapshots_of_two_databases_have_two_names_and_a_password_makes_no_other() -> None:
    one, same, other = (
        snapshot_name(f"postgresql://gateway:{password}@host/{name}")
        for password, name in (("a", "one"), ("b", "one"), ("a", "other"))
    )
    assert one == same != other
    assert "host" not in one


async def test_reading_a_snapshot_leaves_the_loop_to_others(
    connection: asyncpg.Connection, path: Path
) -> None:
    await written(connection, path, 5000)
    turns = 0
    reading = asyncio.create_task(read_snapshot(path))
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 5


async def test_new_snapshot_is_taken_over_and_what_was_learned_since_is_kept(
    connection: asyncpg.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses_module, "FOLLOW_INTERVAL_S", 0.01)
    known = Addresses(path)
    with pytest.raises(SnapshotError):
        await known.load()
    assert not known.is_complete
    known.learn("old", "http://agent/old")  # learned before the snapshot, which does not have it
    await written(connection, path, 3)
    known.learn("w1", "http://moved")
    known.learn("w2", "http://agent/2")
    known.learn("w2", None)  # removed
    known.learn("new", "http://agent/new")
    following = asyncio.create_task(known.follow())
    await until(lambda: known.is_complete)
    urls = [known.url(key) for key in ("old", "w1", "w2", "w3", "new")]
    assert urls == [None, "http://moved", None, "http://agent/3", "http://agent/new"]
    await written(connection, path, 4)  # newer than all that was learned
    await until(lambda: known.url("w4") is not None)
    assert [known.url(key) for key in ("w1", "w2")] == ["http://agent/1", "http://agent/2"]
    assert known.url("new") is None
    following.cancel()
    await asyncio.wait({following})
