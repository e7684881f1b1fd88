"""Reports what holds up the event loop; every Python started with this folder in PYTHONPATH has it.

asyncio's own loop takes the place of uvloop's, whose callbacks cannot be looked at. Each that uses
over LIMIT_S of its thread's CPU time is a line in the file that LOOP_WATCH_FILE names. CPU time, so
that a busy machine does not decide.
"""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

LIMIT_S = 0.005
FILE = os.environ.get("LOOP_WATCH_FILE")


def _watch(file: Path) -> None:
    run = asyncio.Handle._run

    def run_watched(handle: asyncio.Handle) -> None:
        started = time.thread_time()
        run(handle)
        if (took_s := time.thread_time() - started) > LIMIT_S and file.exists():
            with file.open("a") as report:
                report.write(f"{took_s * 1000:.1f} ms in {os.getpid()}: {_name(handle)}\n")

    asyncio.Handle._run = run_watched  # type: ignore[method-assign]


def _name(handle: asyncio.Handle) -> str:
    owner = getattr(handle._callback, "__self__", None)
    if not isinstance(owner, asyncio.Task):
        return repr(handle)
    coroutine = owner.get_coro()
    frame = getattr(coroutine, "cr_frame", None)
    # aiohttp's handler of a request has it.
    request = frame.f_locals.get("request") if frame else None
    return f"{request or coroutine}"


if FILE is not None:
    with suppress(ImportError):
        import uvloop

        uvloop.run = asyncio.run
    _watch(Path(FILE))
