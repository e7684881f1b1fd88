"""Workers that die or hang: the gateway goes on, and its end is bounded."""

import signal
import time
from pathlib import Path

import psutil

from gateway.worker import SILENT_MIN_S
from tests.end_to_end.serving import Serving, answers, serving
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
