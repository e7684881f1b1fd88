"""The addresses of agents: written whole or not at all, read in slices, and kept true."""

import asyncio
import os
import stat
import time
from pathlib import Path

import asyncpg
import pytest

from gateway.storage import addresses as addresses_module
from gateway.storage.address_snapshot import (
    UNFINISHED_AGE_MAX_S,
    Snapshot,
    SnapshotError,
    read_head,
    read_snapshot,
    write_snapshot,
)
from gateway.storage.addresses import Addresses
from gateway.storage.slices import Slices
from gateway.storage.snapshot_name import snapshot_name
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
    assert (found.head.id_type, found.read_at) == ("text", 1000.5)
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


async def test_last_line_is_read_without_reading_all_and_says_which_database_it_is(
    connection: asyncpg.Connection, path: Path
) -> None:
    assert read_head(path) is None
    await connection.execute(ADD, 2000)
    await write_snapshot(connection, path, "uuid", time.time())
    head = read_head(path)
    assert head is not None
    assert (head.id_type, head.count) == ("uuid", 2000)
    assert head.database == await connection.fetchval("SELECT current_database()")
    identifier = "SELECT system_identifier::text FROM pg_control_system()"
    assert head.system_identifier == await connection.fetchval(identifier)
    path.write_bytes(b"not a snapshot\n")
    assert read_head(path) is None


async def test_role_that_may_not_read_the_clusters_identifier_writes_a_snapshot_without(
    connection: asyncpg.Connection, path: Path
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"CREATE ROLE plain_{name}")
    await connection.execute(f"GRANT SELECT ON workspaces TO plain_{name}")
    # It is this database's: each has a catalog of its own.
    await connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    await connection.execute(f"SET ROLE plain_{name}")
    try:
        await write_snapshot(connection, path, "text", time.time())
    finally:
        await connection.execute("RESET ROLE")
        await connection.execute(f"DROP OWNED BY plain_{name}")
        await connection.execute(f"DROP ROLE plain_{name}")
    head = read_head(path)
    assert head is not None
    assert (head.system_identifier, head.database) == (None, name)


async def test_snapshot_of_what_has_not_changed_is_touched_and_one_of_a_change_is_replaced(
    connection: asyncpg.Connection, path: Path
) -> None:
    await written(connection, path, 3)
    inode = path.stat().st_ino
    # The server gives its rows in another order now.
    await connection.execute("UPDATE workspaces SET status = 'offline' WHERE id = 'w1'")
    await write_snapshot(connection, path, "text", 2000.5)
    assert (path.stat().st_ino, path.stat().st_mtime) == (inode, 2000.5)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    await connection.execute("UPDATE workspaces SET url = 'http://moved' WHERE id = 'w1'")
    await write_snapshot(connection, path, "text", 3000.5)
    assert path.stat().st_ino != inode
    assert (await read_snapshot(path)).urls["w1"] == "http://moved"
    other = path.stat().st_ino
    await write_snapshot(connection, path, "uuid", 4000.5)
    assert path.stat().st_ino != other


async def test_file_that_a_killed_process_left_is_removed_and_one_that_is_written_now_is_not(
    connection: asyncpg.Connection, path: Path
) -> None:
    path.parent.mkdir()
    left, written_now = (path.with_name(f"{path.name}.{name}") for name in ("1", "2"))
    for each in (left, written_now):
        each.touch()
    long_ago = time.time() - UNFINISHED_AGE_MAX_S - 1
    os.utime(left, (long_ago, long_ago))
    await written(connection, path, 1)
    assert set(path.parent.iterdir()) == {path, written_now}


@pytest.mark.parametrize("how", ["everybody may write it", "it is another user's"])
async def test_snapshot_that_somebody_else_may_have_written_is_not_used(
    connection: asyncpg.Connection, path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(connection, path, 1)
    if how == "everybody may write it":
        path.chmod(0o602)
    elif os.geteuid() == 0:
        os.chown(path, 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(SnapshotError):
        await read_snapshot(path)
    assert read_head(path) is None
    path.chmod(0o660)
    await written(connection, path, 1)  # it is replaced
    assert (await read_snapshot(path)).urls == {"w1": "http://agent/1"}


ONE = "postgresql://gateway:a@host:5432/one"


@pytest.mark.parametrize(
    ("dsn", "environment", "is_same"),
    [
        ("postgresql://gateway:b@host:5432/one", {}, True),  # another password
        ("postgresql://somebody@host:5432/one", {}, True),  # another role
        (ONE, {"PGHOST": "h", "PGPORT": "1", "PGDATABASE": "d", "PGUSER": "u"}, True),  # not read
        (f"{ONE}?password=a@b&user=x&passfile=f&sslpassword=p", {}, True),
        ("postgresql://gateway:a@host:5432/other", {}, False),
        ("postgresql://gateway:a@other:5432/one", {}, False),
        ("postgresql://gateway:a@host:5433/one", {}, False),
        (f"{ONE}?options=-csearch_path=a", {}, False),
        (f"{ONE}?host=other@x", {}, False),
    ],
)
def test_snapshots_name_is_that_of_a_database_and_not_of_a_login(
    dsn: str, environment: dict[str, str], is_same: bool
) -> None:
    assert (snapshot_name(dsn, environment) == snapshot_name(ONE, {})) is is_same


@pytest.mark.parametrize(
    ("dsn", "variable"),
    [
        ("postgresql:///", "PGHOST"),
        ("postgresql:///", "PGPORT"),
        ("postgresql://host", "PGPORT"),
        ("postgresql:///", "PGDATABASE"),
        ("postgresql://host:5432", "PGDATABASE"),
        ("postgresql://host:5432", "PGUSER"),  # whose name the database has
        ("postgresql://a:1,b/x", "PGPORT"),  # of the second host
    ],
)
def test_snapshots_name_has_what_the_driver_takes_from_the_environment(
    dsn: str, variable: str
) -> None:
    names = {snapshot_name(dsn, {variable: value}) for value in ("1", "2")}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgresql://x@h/a?password=p@q", "postgresql://x@h/b?password=p@q"),
        ("postgresql://a@host:5432", "postgresql://b@host:5432"),  # each its user's database
    ],
)
def test_two_databases_have_two_snapshots(one: str, other: str) -> None:
    assert snapshot_name(one, {}) != snapshot_name(other, {})


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


async def test_touch_of_the_snapshot_ends_what_was_learned_before_it_without_reading_it_again(
    connection: asyncpg.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses_module, "FOLLOW_INTERVAL_S", 0.01)
    await written(connection, path, 2)
    known = Addresses(path)
    await known.load()
    reads = 0

    async def count(path: Path) -> Snapshot:
        nonlocal reads
        reads += 1
        return await read_snapshot(path)

    monkeypatch.setattr(addresses_module, "read_snapshot", count)
    known.learn("w1", "http://moved")
    known.learn("w1", "http://moved/again")
    known.learn("w2", None)
    following = asyncio.create_task(known.follow())
    await write_snapshot(connection, path, "text", time.time())  # they moved back meanwhile
    await until(lambda: known.url("w1") == "http://agent/1")
    assert (known.url("w2"), reads) == ("http://agent/2", 0)
    following.cancel()
    await asyncio.wait({following})


async def test_snapshot_that_cannot_be_read_is_tried_again(
    connection: asyncpg.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses_module, "FOLLOW_INTERVAL_S", 0.01)
    await written(connection, path, 1)
    known, fails = Addresses(path), [True, True]

    async def fail_at_first(path: Path) -> Snapshot:
        if fails:
            fails.pop()
            raise SnapshotError("no file may be opened")
        return await read_snapshot(path)

    monkeypatch.setattr(addresses_module, "read_snapshot", fail_at_first)
    following = asyncio.create_task(known.follow())
    await until(lambda: known.is_complete)
    following.cancel()
    await asyncio.wait({following})


async def test_replaced_addresses_are_freed_in_slices(
    connection: asyncpg.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(connection, path, 2000)
    known = Addresses(path)
    await known.load()
    before, left = known._urls, list[int]()

    async def pause(_: Slices) -> None:
        left.append(len(before))

    monkeypatch.setattr(Slices, "pause", pause)
    await known.load()
    assert left == [1500, 1000, 500, 0]
    assert known.url("w2000") is not None
