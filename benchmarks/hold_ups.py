"""Whether calls pass unchecked when something else than calls holds up the worker.

Its process is stopped for a while, its CPU time is short, or its event loop is kept busy by what
somebody sends or requests. runaway.py defines what a passed call is.
"""

import asyncio
import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.blocked import BLOCKED, BLOCKED_TOO, Blocked
from benchmarks.load import request
from benchmarks.outcomes import call_times, calling, crowd
from benchmarks.report import Row, percentiles
from benchmarks.suite import Suite

CALLERS = 16

STOPS = 25
STOP_S = 0.15

# A quota of 0.2 in the kernel's usual period of 0.1 s.
QUOTA_S, PERIOD_S = 0.02, 0.1

OPENAPI_CONNECTIONS = 300
OPENAPI_CALLS = 140
OPENAPI_MAX_S = 60.0

LARGE_CONNECTIONS = 8
LARGE_KEYS = 90_000
LARGE_BYTES = 980_000

FILES = 1_000
SCRAPE_INTERVAL_S = 0.2
# Above every process id that Linux gives.
FIRST_ENDED_ID = 5_000_000


async def held_up(suite: Suite, gateway: Blocked) -> list[Row]:
    """The worker is stopped for a moment, again and again, while calls are checked."""
    worker = gateway.worker()
    async with calling(gateway.port, gateway.call(BLOCKED), CALLERS) as tally:
        for _ in range(STOPS // 5 if suite.is_quick else STOPS):
            await asyncio.sleep(random.uniform(0.05, 0.1))
            with _stopped(worker):
                await asyncio.sleep(STOP_S)
    late = sum(each.duration_ms > 0.9 * STOP_S * 1000 for each in tally.responses)
    if not late:
        suite.note(f"failed: {gateway.name}: no call was held up")
    rows = tally.rows("held up for 150 ms", gateway.name, gateway.reached(BLOCKED))
    return [*rows, Row("held up for 150 ms: late", gateway.name, late, "calls")]


async def cpu_quota(suite: Suite, gateway: Blocked) -> list[Row]:
    """The worker has a fifth of a core."""
    worker = gateway.worker()
    async with calling(gateway.port, gateway.call(BLOCKED), CALLERS) as tally:
        end = time.monotonic() + 4 * suite.round_s
        while time.monotonic() < end:
            with _stopped(worker):
                await asyncio.sleep(PERIOD_S - QUOTA_S)
            await asyncio.sleep(QUOTA_S)
    return tally.rows("CPU quota of 0.2", gateway.name, gateway.reached(BLOCKED))


@contextmanager
def _stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


async def openapi_requested(_: Suite, gateway: Blocked) -> list[Row]:
    """Many connections request the API's description without a pause; it needs no token."""
    sent = request("/openapi.yaml")
    requesting = asyncio.create_task(crowd(gateway.port, OPENAPI_CONNECTIONS, OPENAPI_MAX_S, sent))
    try:
        await asyncio.sleep(0.5)  # they connect
        tally = await call_times(gateway.port, gateway.call(BLOCKED), 4, OPENAPI_CALLS)
    finally:
        requesting.cancel()
        await asyncio.wait({requesting})
    what = "/openapi.yaml, 300 connections"
    return tally.rows(what, gateway.name, gateway.reached(BLOCKED))


async def large_bodies(suite: Suite, gateway: Blocked) -> list[Row]:
    """Large bodies with many keys come to a blocked workspace; it and another one are called."""
    sent = gateway.call(BLOCKED, large_body())
    async with (
        calling(gateway.port, gateway.call(BLOCKED), CALLERS // 4) as same,
        calling(gateway.port, gateway.call(BLOCKED_TOO), CALLERS // 4) as other,
    ):
        large = await crowd(gateway.port, LARGE_CONNECTIONS, 3 * suite.round_s, sent)
    # The agent cannot tell the large from the small.
    rows = same.rows("large JSON, same workspace", gateway.name, 0)
    reached = gateway.reached(BLOCKED)
    rows += large.rows("large JSON, itself", gateway.name, reached - same.passed)
    reached_too = gateway.reached(BLOCKED_TOO)
    return rows + other.rows("large JSON, other workspace", gateway.name, reached_too)


def large_body() -> bytes:
    """A call with many members in its parameters."""
    members = {str(number): 1 for number in range(10_000, 10_000 + LARGE_KEYS)}
    call = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": members}
    text = json.dumps({**call, "padding": ""}, separators=(",", ":"))
    return f"{text[:-2]}{'x' * (LARGE_BYTES - len(text))}{text[-2:]}".encode()


async def scrape(suite: Suite, gateway: Blocked) -> list[Row]:
    """The folder of metrics is full of ended workers' files, and somebody scrapes."""
    calls = calling(gateway.port, gateway.call(BLOCKED), CALLERS // 4)
    scrapes = calling(gateway.port, request("/metrics"), 1, SCRAPE_INTERVAL_S)
    with _files_of_ended_workers(gateway.worker()):
        async with calls as tally, scrapes as scraped:
            await asyncio.sleep(4 * suite.round_s)
    what = f"scrape, {FILES:,} files"
    p50, p99 = percentiles([each.duration_ms for each in scraped.responses])
    return [
        *tally.rows(what, gateway.name, gateway.reached(BLOCKED)),
        Row(f"{what}: p50", gateway.name, p50, "ms"),
        Row(f"{what}: p99", gateway.name, p99, "ms"),
    ]


@contextmanager
def _files_of_ended_workers(worker: psutil.Process) -> Iterator[None]:
    """Copies of the worker's own files, under the ids of processes that do not exist."""
    folder = Path(worker.environ()["PROMETHEUS_MULTIPROC_DIR"])
    own = sorted(folder.glob(f"*_{worker.pid}.db"))
    copies = []
    for number in range(FILES):
        ended_id = FIRST_ENDED_ID + number // len(own)
        name = own[number % len(own)].name.replace(f"_{worker.pid}.", f"_{ended_id}.")
        copies.append(folder / name)
        shutil.copyfile(own[number % len(own)], copies[-1])
    try:
        yield
    finally:
        # The gateway may have merged them.
        for copy in copies:
            with suppress(FileNotFoundError):
                copy.unlink()


STEPS = (held_up, cpu_quota, openapi_requested, large_bodies, scrape)
