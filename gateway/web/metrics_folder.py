"""The folder in which workers share their metrics: made, found and locked.

Apart from metrics_files.py, so that the supervisor can make it without prometheus_client, whose
import takes 0.15 s.
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Read by prometheus_client at its import.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
LOCK = "lock"
LOCK_PAUSE_S = 0.002


def ensure_folder(folder: Path) -> None:
    """Make the folder, for us alone, if it is not there. Raises OSError, also if it is not ours."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        found = folder.lstat()
        # Where everybody may make folders, somebody could have been faster.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise


def shared_folder() -> Path | None:
    """The folder of this process's metrics; None where it does not share them."""
    path = os.environ.get(FOLDER_VARIABLE)
    return Path(path) if path else None


@contextmanager
def locked(folder: Path, operation: int, timeout_s: float) -> Iterator[None]:
    """Hold the folder's lock, shared to read and exclusive to merge. Raises OSError in time."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        give_up_at = time.monotonic() + timeout_s
        while not _try_lock(lock, operation):
            if time.monotonic() > give_up_at:
                raise TimeoutError("the folder of metrics is locked")
            time.sleep(LOCK_PAUSE_S)
        yield
    finally:
        os.close(lock)


def _try_lock(lock: int, operation: int) -> bool:
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
