"""Workers that die or hang: the gateway goes on, and its end is bounded."""

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from gateway.storage.database import DatabaseSettings
from gateway.storage.workspace_key import read_workspace_keys
from gateway.supervisor import listen, url_of
from gateway.web.metrics_folder import FOLDER_VARIABLE
from gateway.worker import SILENT_MIN_S
from gateway.worker_process import WorkerCommand
from gateway.workers import Workers
from tests.end_to_end.serving import (
    START_TIMEOUT_S,
    Serving,
    answers,
    processes_below,
    serving,
)
from tests.running import until

# A worker that hangs is noticed after SILENT_MIN_S then.
SHORT_DRAIN = {"GATEWAY_SERVER__DRAIN_TIMEOUT_S": "0.5", "GATEWAY_SERVER__DRAIN_DELAY_S": "0.1"}
# A busy machine takes its time to start a process.
PATIENCE_S = 40


async def passed(duration_s: float) -> None:
    """Return when so much time has passed, which is what is tested."""
    over = time.monotonic() + duration_s
    await until(lambda: time.monotonic() > over, PATIENCE_S)


def worker_of(gateway: Serving) -> psutil.Process:
    """The only worker."""
    (worker,) = gateway.processes("gateway worker")
    return worker


async def test_worker_that_hangs_is_killed_and_replaced(tmp_path: Path, dsn: str) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, **SHORT_DRAIN) as gateway:
        hung = worker_of(gateway)
        hung.suspend()
        await until(lambda: bool(gateway.events("worker_ended")), PATIENCE_S)
        await answers(gateway.url)
        assert worker_of(gateway).pid != hung.pid
        (line,) = gateway.events("worker_hung")
        assert line["process_id"] == hung.pid
        assert line["silent_s"] >= SILENT_MIN_S


async def test_worker_that_hangs_does_not_hold_up_the_end(tmp_path: Path, dsn: str) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, **SHORT_DRAIN) as gateway:
        worker_of(gateway).suspend()
        assert await gateway.stop() == 0


async def test_worker_survives_that_the_whole_gateway_was_stopped(tmp_path: Path, dsn: str) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, **SHORT_DRAIN) as gateway:
        worker, supervisor = worker_of(gateway), psutil.Process(gateway.process.pid)
        worker.suspend()
        await passed(2)  # what the worker said last was heard
        supervisor.suspend()
        await passed(SILENT_MIN_S + 1)
        # The supervisor counts before the worker can speak.
        supervisor.resume()
        await until(lambda: supervisor.status() == psutil.STATUS_SLEEPING)
        worker.resume()
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: bool(gateway.events("workers_replaced")), PATIENCE_S)
        assert gateway.events("worker_hung") == []


async def test_worker_that_is_killed_is_back_without_a_delay(tmp_path: Path, dsn: str) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn) as gateway:
        worker_of(gateway).kill()
        await until(lambda: bool(gateway.events("worker_ended")))
        (line,) = gateway.events("worker_ended")
        assert (line["status"], line["restart_in_s"]) == (-signal.SIGKILL, 0)
        await answers(gateway.url)


async def test_worker_starts_without_the_folder_of_metrics(tmp_path: Path, dsn: str) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn) as gateway:
        worker = worker_of(gateway)
        folder = Path(worker.environ()[FOLDER_VARIABLE])
        shutil.rmtree(folder)
        worker.kill()
        await answers(gateway.url)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert await gateway.stop() == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_ended_worker_is_handed_over_and_a_failure_of_that_stops_nothing(
    tmp_path: Path, dsn: str, *, fails: bool
) -> None:
    ended, stop = [], asyncio.Event()

    def take(process_id: int) -> None:
        ended.append(process_id)
        if fails:
            raise RuntimeError

    settings = DatabaseSettings(dsn)
    keys = await read_workspace_keys(settings)
    with listen("127.0.0.1", 0) as listener:
        command = WorkerCommand(
            *(None, settings, keys, listener, str(tmp_path / "m"), tmp_path / "snapshot"),
            on_ended=take,
        )
        workers = Workers(command, 1, stop)
        running = asyncio.create_task(workers.run())
        async with asyncio.timeout(START_TIMEOUT_S):
            await workers.is_serving.wait()
        (worker,) = processes_below(os.getpid(), "gateway worker")
        worker.kill()
        await until(lambda: ended == [worker.pid])
        await answers(url_of(listener))
        stop.set()
        await running
    assert len(ended) == 2
