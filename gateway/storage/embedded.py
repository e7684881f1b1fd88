"""The default database: a PostgreSQL of our own, which lives exactly as long as the gateway.

The data folder holds `postgres` (the cluster, with the unix socket in it), `postgres.log`, `dsn`
(how to connect, while the server runs) and `lock`. The gateway holds the lock, and by inheritance
so does every process of its server. Who gets it finds the folder unused, even right after a
SIGKILL; who does not get it waits until the server answers, and attaches.
"""

import asyncio
import os
import subprocess
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import asyncpg
import platformdirs

from gateway.storage.embedded_binaries import cluster_version, find_binaries, runnable_binaries
from gateway.storage.embedded_cluster import (
    CREATE_TIMEOUT_S,
    READY_TIMEOUT_S,
    answers,
    create_cluster,
    dsn_at,
    socket_folder,
    wait_until_ready,
)
from gateway.storage.embedded_process import (
    POLL_INTERVAL_S,
    WATCH_INTERVAL_S,
    EmbeddedPostgresError,
    Programs,
    account_for,
    deadline,
    exit_code,
    stop,
    takes_lock,
    until,
)

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "default_data_dir", "find_binaries"]

ATTACH_TIMEOUT_S = CREATE_TIMEOUT_S + READY_TIMEOUT_S
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    # Relative to the cluster: the absolute path may be too long to bind, or closed to the user.
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
}


class EmbeddedPostgres:
    """A PostgreSQL server of our own, for as long as this object's context is open.

    A server that another gateway already runs on the folder is shared, and left running. Open the
    context on a thread that stays as long: the kernel ends the server with the thread.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        candidates: Sequence[Path] | None = None,
    ) -> None:
        """Take the folder, further settings of the server, and folders to look for programs in."""
        self._data_dir = data_dir.absolute()
        self._cluster = self._data_dir / "postgres"
        self._dsn_file = self._data_dir / "dsn"
        self._settings = SETTINGS | dict(settings or {})
        self._candidates = candidates
        self._process: subprocess.Popen[bytes] | None = None
        self.dsn = ""

    @property
    def is_owner(self) -> bool:
        """Whether the server is ours; False when another gateway runs it."""
        return self._process is not None

    @property
    def process_id(self) -> int | None:
        """The server's process; None when another gateway runs it."""
        return self._process.pid if self._process else None

    async def wait_closed(self) -> int | None:
        """Wait for the server to end: ours by itself, with its exit code; another's with None."""
        if self._process:
            return await exit_code(self._process, WATCH_INTERVAL_S)
        await until(lambda: takes_lock(self._lock), WATCH_INTERVAL_S)
        return None

    async def restart(self) -> None:
        """Serve the folder again after `wait_closed` returned, at the same address.

        Raises EmbeddedPostgresError; it can be tried again.
        """
        address = self.dsn
        with self._failures_as_ours():
            if self._process is None:  # another gateway's, and it left: the folder is ours now
                await self._start(self._undo)
            else:
                await stop(self._process)  # one that never got ready may still run
                with open_private(self._data_dir / "postgres.log") as log:
                    await self._run(await asyncio.to_thread(self._programs, log))
        if self.dsn != address:
            raise EmbeddedPostgresError(
                f"The PostgreSQL in {self._data_dir} has another address now: start again."
            )

    async def __aenter__(self) -> Self:
        self._process = None
        with self._failures_as_ours():
            async with AsyncExitStack() as undo:
                self._lock = undo.enter_context(open_private(self._data_dir / "lock"))
                if not await self._attaches():
                    await self._start(undo)
                self._undo = undo.pop_all()
        return self

    @contextmanager
    def _failures_as_ours(self) -> Iterator[None]:
        try:
            yield
        except (OSError, asyncpg.PostgresError) as error:
            raise EmbeddedPostgresError(
                f"PostgreSQL cannot be started in {self._data_dir} ({error}): "
                "set database.data_dir (GATEWAY_DATABASE__DATA_DIR) to a folder that we may write."
            ) from error

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await uninterrupted(self._undo.aclose())

    async def _attaches(self) -> bool:
        """Whether another gateway's server answers; False once the folder is ours to serve."""
        in_vain = (
            f"The data folder {self._data_dir} is in use and its PostgreSQL does not answer: "
            "stop the other gateway, or set database.data_dir to another folder."
        )
        async with deadline(ATTACH_TIMEOUT_S, in_vain):
            while not takes_lock(self._lock):
                if await self._is_served():
                    return True
                await asyncio.sleep(POLL_INTERVAL_S)
        return False

    async def _is_served(self) -> bool:
        try:
            self.dsn = self._dsn_file.read_text()
        except FileNotFoundError:
            return False
        return await answers(self.dsn, "gateway")

    async def _start(self, undo: AsyncExitStack) -> None:
        """Start the server, and leave in undo what ends it."""
        self._dsn_file.unlink(missing_ok=True)
        log = undo.enter_context(open_log(self._data_dir / "postgres.log"))
        programs = await asyncio.to_thread(self._programs, log)
        if cluster_version(self._cluster) is None:
            is_synced = self._settings.get("fsync") != "off"
            await create_cluster(programs, self._cluster, is_synced=is_synced)
        self.dsn = dsn_at(undo.enter_context(socket_folder(self._cluster)))
        undo.push_async_callback(self._stop)
        await self._run(programs)
        publish(self._dsn_file, self.dsn)
        undo.callback(self._dsn_file.unlink, missing_ok=True)

    async def _run(self, programs: Programs) -> None:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        self._process = programs.start("postgres", self._cluster, *settings)
        await wait_until_ready(self._process, self.dsn, programs.log)

    async def _stop(self) -> None:
        if self._process:
            await stop(self._process)

    def _programs(self, log: IO[bytes]) -> Programs:
        account = account_for(self._cluster)
        binaries = find_binaries(self._data_dir, self._candidates)
        return Programs(runnable_binaries(binaries, account), account, self._lock, log)


def default_data_dir() -> Path:
    """Where the data lies if nobody says: the user's folder for it, or the system's for root."""
    # PostgreSQL does not run as root, and whom it runs as cannot enter root's home.
    if os.geteuid() == 0:
        return Path("/var/lib/a2a-budget-gateway")
    return platformdirs.user_data_path("a2a-budget-gateway")


def open_private(path: Path) -> IO[bytes]:
    """Open a file of ours alone for appending, in a folder that is made as needed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    return path.open("a+b")


def open_log(path: Path) -> IO[bytes]:
    """Open an empty log; the one of the run before is kept beside it."""
    if path.exists():
        path.replace(path.with_name(f"{path.name}.1"))
    return open_private(path)


def publish(path: Path, text: str) -> None:
    """Let a private file appear with all of its text at once."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with open_private(unfinished) as file:
        file.truncate(0)
        file.write(text.encode())
    unfinished.replace(path)


async def uninterrupted(work: Coroutine[None, None, None]) -> None:
    """Do the work to its end even when cancelled meanwhile, and pass the cancellation on then."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
