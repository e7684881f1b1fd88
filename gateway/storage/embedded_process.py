"""PostgreSQL's programs as processes: whom they run as, and how none of them outlives the gateway.

PostgreSQL refuses to run as root. An unprivileged user then runs it, who may be unable to enter
the folders above the data: an open descriptor leads there, and no folder is opened up.
"""

import asyncio
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

POLL_INTERVAL_S = 0.02
WATCH_INTERVAL_S = 0.1  # for waits as long as the gateway's life
LAST_LINES = 3
# What PostgreSQL calls the fast shutdown, then the immediate one (the next start recovers).
STOP_STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
# Nothing of the gateway's own environment, tokens above all, is another user's business.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot serve; the message is one sentence a user can act on."""


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged user of the system."""

    user_id: int
    group_id: int


@dataclass(frozen=True, slots=True)
class Programs:
    """PostgreSQL's programs, with all that starting one takes."""

    binaries: Path
    account: Account | None
    lock: IO[bytes]
    log: IO[bytes]

    def start(self, name: str, cluster: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program on a cluster, in a session of its own: Ctrl-C is for the gateway alone.

        Popen, because asyncio's processes take no user under uvloop and are killed with their loop.
        """
        with reachable_path(cluster, self.account) as (path, descriptors):
            return subprocess.Popen(  # noqa: S603 - the programs we chose, and no shell
                [*prefix_to_end_with_us(), self.binaries / name, "-D", path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                cwd="/",
                env=ENVIRONMENT,
                pass_fds=[self.lock.fileno(), *descriptors],
                start_new_session=True,
                user=self.account.user_id if self.account else None,
                group=self.account.group_id if self.account else None,
                extra_groups=[] if self.account else None,
            )


def account_for(cluster: Path) -> Account | None:
    """Whom PostgreSQL runs as: us (None), or in root's place the cluster's owner or a nobody."""
    if os.geteuid() != 0:
        return None
    if (cluster / "PG_VERSION").exists():
        return owner_of(cluster)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root and there is no user postgres or nobody to run it as: "
        "start the gateway as an ordinary user, or set database.dsn (GATEWAY_DATABASE__DSN)."
    )


def owner_of(cluster: Path) -> Account:
    """The user to whom a cluster belongs, and as whom alone it can be served."""
    status = cluster.stat()
    if status.st_uid == 0:
        raise EmbeddedPostgresError(
            f"{cluster} belongs to root, as whom PostgreSQL refuses to run: give it to the user "
            "who served it (chown -R)."
        )
    return Account(status.st_uid, status.st_gid)


@contextmanager
def reachable_path(folder: Path, account: Account | None) -> Iterator[tuple[str, list[int]]]:
    """A folder's path as the account can use it, and the descriptors it takes to follow it."""
    if account is None:
        yield str(folder), []
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}", [descriptor]
    finally:
        os.close(descriptor)


def prefix_to_end_with_us() -> list[str]:
    """What makes the kernel send a program SIGINT when we die, however we die; empty without it."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    prefix = [setpriv, "--pdeathsig", "INT"]
    # Busybox's setpriv lacks the option, and so does util-linux's before 2.33.
    attempt = subprocess.run([*prefix, "true"], capture_output=True)  # noqa: S603 - no input
    return prefix if attempt.returncode == 0 else []


@asynccontextmanager
async def deadline(timeout_s: float, sentence: str) -> AsyncIterator[None]:
    """Limit what is done inside; the sentence is for whoever waited in vain."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise EmbeddedPostgresError(sentence) from error


async def until(is_met: Callable[[], bool], interval_s: float = POLL_INTERVAL_S) -> None:
    """Wait for what nobody tells asyncio: a process's end, a lock's release."""
    while not is_met():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(interval_s)


async def exit_code(process: subprocess.Popen[bytes], interval_s: float = POLL_INTERVAL_S) -> int:
    """How the process ended, once it has."""
    await until(lambda: process.poll() is not None, interval_s)
    return process.returncode


async def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process: politely, then firmly, then by force."""
    for stop_signal, patience_s in STOP_STEPS:
        process.send_signal(stop_signal)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await exit_code(process)
            return


def takes_lock(lock: IO[bytes]) -> bool:
    """Take the lock unless another process has it. Children that inherit the file share it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def last_words(log: IO[bytes]) -> str:
    """The end of a program's log, on one line."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    return f"{' / '.join(list(filter(None, lines))[-LAST_LINES:])} ({log.name})"
