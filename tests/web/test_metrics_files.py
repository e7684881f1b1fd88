"""The folder of metrics: real files of real processes, merged once, and never counted twice."""

import asyncio
import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict

from gateway.core.interruptions import Interruption, latest_interruption
from gateway.web.metrics_files import (
    merge_all_ended,
    merge_ended,
    read_families,
    read_interruptions,
    write_interruption,
)
from gateway.web.metrics_folder import FOLDER_VARIABLE, ensure_folder

# Counts, and ends by force.
WORKER = """
import os, signal
from datetime import UTC, datetime
from gateway.core.interruptions import Interruption
from gateway.web.metrics import Metrics
from gateway.web.metrics_files import write_interruption
from gateway.web.metrics_folder import shared_folder

metrics = Metrics(shared_folder())
metrics.failed_open.labels("timeout").inc(3)
metrics.check_seconds.observe(0.003)
metrics.check_seconds.observe(7.0)
metrics.breaker_open.set(1)
metrics.database_connections.labels("check", "open").set(4)
metrics.flush()
now = datetime.now(UTC)
write_interruption(metrics.folder, Interruption(now, now, 3))
os.kill(os.getpid(), signal.SIGKILL)
"""

# Merges copies of a folder, and ends by force at the first step, at the second, and so on.
MERGES = """
import os, shutil, signal, sys
from pathlib import Path
from gateway.web.metrics_files import merge_ended

folder, copies, process_id = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
steps_left, is_merging = 0, False

def end_at_a_step(event, arguments):
    global steps_left
    if is_merging and event in ("open", "os.rename", "os.remove"):
        steps_left -= 1
        if steps_left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(end_at_a_step)
status, step = 1, 0
while status:
    copy = copies / str(step)
    shutil.copytree(folder, copy)
    if not (child := os.fork()):
        steps_left, is_merging = step, True
        merge_ended(copy, process_id)
        os._exit(0)
    status, step = os.waitpid(child, 0)[1], step + 1
"""


async def run(script: str, *arguments: object, folder: Path) -> int:
    """Run a script to its end; gives the id of its process."""
    variables = {**os.environ, FOLDER_VARIABLE: str(folder)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *map(str, arguments)), env=variables
    )
    await process.wait()
    return process.pid


def samples(families: list[Metric], kinds: tuple[str, ...]) -> dict[str, float]:
    """What is not 0, by name and labels."""
    return {
        f"{sample.name} {sorted(sample.labels.items())}": sample.value
        for family in families
        for sample in family.samples
        if family.type in kinds and sample.value
    }


def counted(folder: Path) -> dict[str, float]:
    """The sums that a scrape of the folder would show."""
    return samples(read_families(folder), ("counter", "histogram"))


def gauges(folder: Path) -> dict[str, float]:
    """The gauges that a scrape of the folder would show."""
    return samples(read_families(folder), ("gauge",))


def unchecked_calls(folder: Path) -> int:
    """The calls of the last interruption that all workers saw."""
    latest = latest_interruption(read_interruptions(folder))
    return 0 if latest is None else latest.unchecked_calls


def names(folder: Path, process_id: str = r"\d+") -> set[str]:
    """The files, with P for the id of the process, or of any."""
    return {re.sub(process_id, "P", path.name) for path in folder.iterdir()}


async def test_library_names_and_fills_its_files_as_the_merge_expects(tmp_path: Path) -> None:
    process_id = await run(WORKER, folder=tmp_path)
    kinds = ("counter", "histogram", "gauge_livemax", "gauge_livesum")
    assert names(tmp_path) == {f"{kind}_P.db" for kind in kinds} | {"unchecked_P.json"}
    file = tmp_path / f"counter_{process_id}.db"
    found = {key: value for key, value, *_ in MmapedDict.read_all_values_from_file(file)}
    key = (
        '["gateway_budget_checks_failed_open", "gateway_budget_checks_failed_open_total", '
        '{"cause": "timeout"}, '
        '"Calls forwarded although their budget could not be read, by cause."]'
    )
    assert found[key] == 3


async def test_counts_of_ended_workers_are_neither_lost_nor_doubled(tmp_path: Path) -> None:
    process_ids = [await run(WORKER, folder=tmp_path) for _ in range(3)]
    before = counted(tmp_path)
    assert before["gateway_budget_checks_failed_open_total [('cause', 'timeout')]"] == 9
    assert before["gateway_budget_check_duration_seconds_count []"] == 6
    assert before["gateway_budget_check_duration_seconds_bucket [('le', '0.005')]"] == 3
    for process_id in process_ids:
        assert unchecked_calls(tmp_path) == 9
        merge_ended(tmp_path, process_id)
        merge_ended(tmp_path, process_id)  # it has nothing left
        assert counted(tmp_path) == before
    assert unchecked_calls(tmp_path) == 9
    assert names(tmp_path) == {
        "counter_ended.db",
        "histogram_ended.db",
        "unchecked_ended.json",
        "lock",
    }


async def test_gauges_are_those_of_the_living(tmp_path: Path) -> None:
    first, second = [await run(WORKER, folder=tmp_path) for _ in range(2)]
    open_checks = "gateway_database_connections [('state', 'open'), ('use', 'check')]"
    assert gauges(tmp_path) == {"gateway_breaker_open []": 1, open_checks: 8}
    merge_ended(tmp_path, first)
    assert gauges(tmp_path) == {"gateway_breaker_open []": 1, open_checks: 4}
    merge_ended(tmp_path, second)
    assert gauges(tmp_path) == {}


async def test_merge_that_is_killed_at_any_step_counts_nothing_twice_and_loses_nothing(
    tmp_path: Path,
) -> None:
    folder, copies = tmp_path / "folder", tmp_path / "copies"
    folder.mkdir()
    copies.mkdir()
    merge_ended(folder, await run(WORKER, folder=folder))
    process_id = await run(WORKER, folder=folder)
    before = counted(folder)
    await run(MERGES, folder, copies, process_id, folder=folder)
    steps = list(copies.iterdir())
    assert len(steps) > 10
    for copy in steps:
        again = shutil.copytree(copy, tmp_path / "again")
        merge_ended(again, process_id)
        assert counted(again) == before
        assert not gauges(again)
        assert unchecked_calls(again) == 6
        shutil.rmtree(again)
        # The workers may be scraped before anybody merges again.
        assert counted(copy) == before


async def test_everything_is_merged_but_what_the_living_have(tmp_path: Path) -> None:
    process_ids = [await run(WORKER, folder=tmp_path) for _ in range(3)]
    before = counted(tmp_path)
    merge_all_ended(tmp_path, process_ids[:1])
    assert counted(tmp_path) == before
    assert names(tmp_path, str(process_ids[0])) == {
        *("counter_P.db", "histogram_P.db", "unchecked_P.json"),
        *("gauge_livemax_P.db", "gauge_livesum_P.db"),
        *("counter_ended.db", "histogram_ended.db", "unchecked_ended.json", "lock"),
    }


async def test_worker_that_ended_before_it_wrote_anything_disturbs_nobody(tmp_path: Path) -> None:
    process_id = await run(WORKER, folder=tmp_path)
    before = counted(tmp_path)
    for name in ("counter_1.db", "gauge_livemax_1.db"):
        (tmp_path / name).touch()
    assert counted(tmp_path) == before
    merge_all_ended(tmp_path, [process_id])
    assert counted(tmp_path) == before
    assert not (tmp_path / "counter_1.db").exists()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder's lock, held by a merge that does not end."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def test_nobody_waits_for_long_for_a_merge_that_does_not_end(tmp_path: Path) -> None:
    await run(WORKER, folder=tmp_path)
    with locked(tmp_path), pytest.raises(TimeoutError):
        read_families(tmp_path)
    assert counted(tmp_path)


def test_nothing_is_merged_in_a_folder_that_was_removed(tmp_path: Path) -> None:
    merge_ended(tmp_path / "removed", 1)
    merge_all_ended(tmp_path / "removed", [])
    assert not (tmp_path / "removed").exists()


REMOVED = """
import shutil
from gateway.web.metrics import Metrics
from gateway.web.metrics_folder import shared_folder

metrics = Metrics(shared_folder())
metrics.booked_cents.inc(100)
metrics.breaker_open.set(1)
shutil.rmtree(metrics.folder)
metrics.booked_cents.inc(100)
metrics.flush()
metrics.booked_cents.inc(5)
metrics.check_seconds.observe(0.003)
metrics.count_call("forwarded", "3xx")
(metrics.folder / next(metrics.folder.glob("counter_*")).name).unlink()
metrics.flush()
metrics.booked_cents.inc(7)
"""


async def test_files_that_were_removed_are_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    ensure_folder(folder)
    process_id = await run(REMOVED, folder=folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    found = counted(folder)
    assert found["gateway_booked_cents_total []"] == 7
    assert found["gateway_budget_check_duration_seconds_count []"] == 1
    assert found["gateway_calls_total [('outcome', 'forwarded'), ('status', '3xx')]"] == 1
    merge_ended(folder, process_id)
    assert counted(folder) == found
    assert not list(folder.glob(f"*{process_id}*"))


NOT_REMOVED = """
from gateway.web.metrics import Metrics
from gateway.web.metrics_folder import shared_folder

metrics = Metrics(shared_folder())
metrics.flush()
metrics.database_connections.labels("check", "open").set(4)
metrics.flush()
"""


async def test_files_that_are_there_are_kept(tmp_path: Path) -> None:
    process_id = await run(NOT_REMOVED, folder=tmp_path)
    kinds = ("counter", "histogram", "gauge_livemax", "gauge_livesum")
    assert names(tmp_path, str(process_id)) == {f"{kind}_P.db" for kind in kinds}


def test_folder_is_made_for_us_alone_and_anybody_elses_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "metrics"
    for _ in range(2):
        ensure_folder(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(folder)
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            ensure_folder(tmp_path / name)


def test_own_interruption_is_not_one_of_others(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    write_interruption(tmp_path, Interruption(now - timedelta(seconds=1), now, 3))
    assert read_interruptions(tmp_path) == []
