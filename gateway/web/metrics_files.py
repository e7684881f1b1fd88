"""The files in which workers share their metrics, and what those that ended leave behind.

Each worker writes into files of its own, named by its process id, and a scrape reads the files of
all (prometheus_client's multiprocess mode, which PROMETHEUS_MULTIPROC_DIR turns on before the
import). The supervisor has the files of a worker that ended added to one set of totals: a thousand
files took a scrape 310 ms.

This module alone knows names and contents of the files. They are prometheus_client's: it documents
the folder, but not MmapedDict, `merge` and MultiProcessValue, which are public by their names only.
There is no documented way to merge files or to make removed ones anew. A test fails if one changes.

Everything here but `OwnFiles` reads and writes files for milliseconds: call it off the event loop.
"""

import fcntl
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson
import structlog
from prometheus_client import values
from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.core.interruptions import Interruption, latest_interruption
from gateway.web.metrics_folder import ensure_folder, locked

log = structlog.get_logger()

JOURNAL = "merge"
# A scrape is to be answered in time; the supervisor has more of it.
READ_TIMEOUT_S = 0.05
MERGE_TIMEOUT_S = 5.0

# What is added up; gauges of a worker that ended are no longer true.
_ADDED = ("counter", "histogram")
_GAUGES = ("gauge_livemax", "gauge_livesum")
# Those that a process has from its start: the other gauges have labels, which come later.
_WATCHED = (*_ADDED, "gauge_livemax")
# `counter_123.db`, `gauge_livesum_123.db`; with a number once the files were made anew.
_WORKERS_FILE = re.compile(r".+_(\d+)(-\d+)?\.(db|json)")
_ENDED = "ended"


def merge_ended(folder: Path, process_id: int) -> None:
    """Add a worker's counts to the totals of the ended, after its end, and remove its files.

    Nothing is counted twice or missed by a scrape meanwhile, nor after a crash in the middle. What
    fails is logged and left as it is: it still counts, and `merge_all_ended` tries again.
    """
    try:
        with locked(folder, fcntl.LOCK_EX, MERGE_TIMEOUT_S):
            _finish_merge(folder)
            _begin_merge(folder, process_id)
            _finish_merge(folder)
    except FileNotFoundError:
        pass  # the folder was removed, and the counts with it
    except Exception as error:
        log.warning("metrics_not_merged", process_id=process_id, cause=type(error).__name__)


def merge_all_ended(folder: Path, living_process_ids: Collection[int]) -> None:
    """Merge what is left of every worker but the living ones, one after another."""
    found = {_process_id(path) for path in folder.glob("*")} - {None}
    for process_id in sorted(id_ for id_ in found if id_ is not None):
        if process_id not in living_process_ids:
            merge_ended(folder, process_id)


def read_families(folder: Path) -> list[Metric]:
    """The metrics of all workers, those that ended included. Raises OSError, TimeoutError too."""
    with locked(folder, fcntl.LOCK_SH, READ_TIMEOUT_S):
        if not (folder / JOURNAL).exists():
            return _families(folder)
    with locked(folder, fcntl.LOCK_EX, READ_TIMEOUT_S):
        # The supervisor was ended in the middle of a merge.
        _finish_merge(folder)
        return _families(folder)


def read_interruptions(folder: Path) -> list[Interruption]:
    """What other workers saw of interruptions, each the last that it saw. Raises OSError."""
    with locked(folder, fcntl.LOCK_SH, READ_TIMEOUT_S):
        found = folder.glob("unchecked_*.json")
        return _interruptions(path for path in found if _process_id(path) != os.getpid())


def write_interruption(folder: Path, interruption: Interruption) -> None:
    """Show other workers what this one saw. Raises OSError."""
    _replace(folder / f"unchecked_{os.getpid()}.json", _interruption_json(interruption))


class OwnFiles:
    """The files of this process. Made once in a process, before its first metric.

    prometheus_client opens them anew when its name for the process changes, which is meant for
    forks. So a new name makes files again that somebody removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = str(os.getpid())
        self._number = 0
        self._is_complete = True
        values.ValueClass = values.MultiProcessValue(lambda: self._name)  # type: ignore[no-untyped-call]

    def renew(self, change_a_metric: Callable[[], None]) -> bool:
        """Make the files anew if one was removed, and tell whether it was: counts begin at 0 then.

        Raises OSError if that cannot be; what was open is used until it can.
        """
        if self._is_complete and all(path.exists() for path in self._paths(_WATCHED)):
            return False
        ensure_folder(self._folder)
        self._is_complete = False
        for path in self._paths(_GAUGES):
            path.unlink(missing_ok=True)
        self._number += 1
        self._name = f"{os.getpid()}-{self._number}"
        change_a_metric()
        self._is_complete = True
        return True

    def _paths(self, kinds: Iterable[str]) -> list[Path]:
        return [self._folder / f"{kind}_{self._name}.db" for kind in kinds]


def _begin_merge(folder: Path, process_id: int) -> None:
    """Write down what the merge will make of the files. From here on it is finished, or redone."""
    ended = [path for path in folder.glob("*") if _process_id(path) == process_id]
    if not ended:
        return
    journal: dict[str, object] = {
        "totals": {kind: _totals(folder, kind, ended) for kind in _ADDED},
        "files": [path.name for path in ended],
    }
    seen = [path for path in ended if path.suffix == ".json"]
    if interruption := latest_interruption(_interruptions([*seen, _ended_interruption(folder)])):
        journal["interruption"] = _interruption_json(interruption).decode()
    _replace(folder / JOURNAL, orjson.dumps(journal))


def _finish_merge(folder: Path) -> None:
    """Do what the journal says, if there is one; doing it twice changes nothing."""
    try:
        journal = orjson.loads((folder / JOURNAL).read_bytes())
    except FileNotFoundError:
        return
    for kind, totals in journal["totals"].items():
        _write_totals(folder / f"{kind}_{_ENDED}.db", totals)
    if "interruption" in journal:
        _replace(_ended_interruption(folder), journal["interruption"].encode())
    for name in journal["files"]:
        (folder / name).unlink(missing_ok=True)
    (folder / JOURNAL).unlink()


def _totals(folder: Path, kind: str, ended: Iterable[Path]) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    files = [path for path in ended if path.name.startswith(f"{kind}_")]
    for path in _not_empty([folder / f"{kind}_{_ENDED}.db", *files]):
        for key, value, _, _ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
            totals[key] += value
    return totals


def _write_totals(path: Path, totals: Mapping[str, float]) -> None:
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    file = MmapedDict(str(new))  # type: ignore[no-untyped-call]
    for key, value in totals.items():
        file.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    file.close()  # type: ignore[no-untyped-call]
    new.replace(path)


def _families(folder: Path) -> list[Metric]:
    files = [str(path) for path in _not_empty(folder.glob("*.db"))]
    return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]


def _not_empty(paths: Iterable[Path]) -> Iterator[Path]:
    """Those with anything in them: a worker may end right after it made its file."""
    return (path for path in paths if path.exists() and path.stat().st_size)


def _process_id(path: Path) -> int | None:
    """Whose file this is; None for those of the ended, and ours."""
    found = _WORKERS_FILE.fullmatch(path.name)
    return int(found[1]) if found else None


def _replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def _ended_interruption(folder: Path) -> Path:
    return folder / f"unchecked_{_ENDED}.json"


def _interruption_json(interruption: Interruption) -> bytes:
    since_s, until_s = interruption.since.timestamp(), interruption.until.timestamp()
    return orjson.dumps([since_s, until_s, interruption.unchecked_calls])


def _interruptions(paths: Iterable[Path]) -> list[Interruption]:
    found = [orjson.loads(path.read_bytes()) for path in paths if path.exists()]
    return [
        Interruption(
            datetime.fromtimestamp(since_s, UTC), datetime.fromtimestamp(until_s, UTC), calls
        )
        for since_s, until_s, calls in found
    ]
