"""A worker as the supervisor sees it: bounded in its start, its silence and its end.

The processes here are real, and do what a worker must not.
"""

import asyncio
import sys

import pytest
from structlog.testing import capture_logs

from gateway.lifeline import SupervisorEnd
from gateway.worker_process import Worker

# They say what a worker says when it serves. Its end takes 2 s at most, or 4 s after a reload.
SERVES = """
import signal, socket, sys, time
lifeline = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lifeline.send(b'{"silent_s": %s, "stop_s": 2, "retire_s": 4}' % sys.argv[2].encode() + bytes([10]))
"""
SPEAKS = "while True: time.sleep(0.1); lifeline.send(b'.')"
IS_SILENT = "time.sleep(60)"


async def start(script: str, silent_s: int = 3600) -> Worker:
    lifeline, its = SupervisorEnd.pair()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(its.fileno()), str(silent_s)), pass_fds=[its.fileno()]
    )
    its.close()
    return Worker(process, lifeline)


async def test_worker_that_does_not_turn_its_loop_is_killed() -> None:
    worker = await start(SERVES + IS_SILENT, silent_s=3)
    with capture_logs() as lines:
        await worker.live()
    assert worker.status == -9
    expected = {"event": "worker_hung", "process_id": worker.process_id, "silent_s": 3}
    assert [{key: line[key] for key in expected} for line in lines] == [expected]


@pytest.mark.parametrize("is_retired", [False, True])
async def test_worker_that_does_not_end_is_killed_when_its_time_is_up(is_retired: bool) -> None:
    worker = await start(SERVES + SPEAKS)
    living = asyncio.create_task(worker.live())
    assert await worker.is_serving()
    (worker.retire if is_retired else worker.terminate)()
    await living
    assert worker.status == -9


async def test_sigterm_shortens_the_end_of_a_worker_that_retired() -> None:
    worker = await start((SERVES + SPEAKS).replace('"retire_s": 4', '"retire_s": 3600'))
    living = asyncio.create_task(worker.live())
    assert await worker.is_serving()
    worker.retire()
    assert worker.left.is_set()
    assert not worker.ended.is_set()
    worker.terminate()
    await living
    assert worker.status == -9


async def test_worker_that_ends_before_it_serves_is_reported() -> None:
    worker = await start("raise SystemExit(7)")
    living = asyncio.create_task(worker.live())
    assert not await worker.is_serving()
    await living
    assert (worker.status, worker.served_s) == (7, None)
