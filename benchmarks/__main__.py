"""Measure the gateway against its peers, in turns, in one run.

    .venv/bin/python -m benchmarks [--only PART] [--quick] [--json FILE]

benchmarks/README.md tells what is measured and how.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import uvloop

from benchmarks import (
    bodies,
    calls,
    checks,
    database_cpu,
    events,
    heartbeat_rate,
    latency,
    open_streams,
    outage_waits,
    overload,
    runaway,
    starts,
    workers,
)
from benchmarks.contestants import PEERS
from benchmarks.database import SERVER_SETTINGS
from benchmarks.processes import OTHER_CORES
from benchmarks.report import COLUMNS, Row, as_json
from benchmarks.suite import Suite, look_at_machine
from gateway.storage.embedded import EmbeddedPostgres

BUSY_PERCENT = 10


# Memory comes first: later, everybody has had much to do.
PARTS = {
    "memory": open_streams.measure,
    "calls": calls.measure,
    "latency": latency.measure,
    "events": events.measure,
    "bodies": bodies.measure,
    "database-cpu": database_cpu.measure,
    "workers": workers.measure,
    "overload": overload.measure,
    "runaway": runaway.measure,
    "checks": checks.measure,
    "outage": outage_waits.measure,
    "starts": starts.measure,
    "heartbeats": heartbeat_rate.measure,
}


async def main(options: argparse.Namespace) -> int:
    """Measure part after part, print each as soon as it is there, and give the exit status."""
    os.sched_setaffinity(0, OTHER_CORES)
    machine, rows, started = look_at_machine(), [], time.monotonic()
    print(*(f"{name}: {value}" for name, value in machine.items()), "", COLUMNS, sep="\n")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        data_dir = Path(folder, "database")
        async with EmbeddedPostgres(data_dir, settings=SERVER_SETTINGS) as server:
            with ExitStack() as stack:
                suite = Suite(
                    Path(folder),
                    server.dsn,
                    stack,
                    dict(options.gateway),
                    options.peers,
                    options.quick,
                )
                for part in options.only or PARTS:
                    rows += await measure(part, suite)
    if machine["busy percent before"] > BUSY_PERCENT:
        suite.note("the machine did something else, too: compare ratios, not figures")
    suite.note(f"the run took {time.monotonic() - started:.0f} s")
    print(*suite.notes, sep="\n")
    if options.json is not None:
        text = json.dumps(as_json(machine, rows, suite.notes), indent=2)
        options.json.write_text(f"{text}\n", encoding="utf-8")
    return int(any(note.startswith("failed") for note in suite.notes))


async def measure(part: str, suite: Suite) -> list[Row]:
    """A part's rows; one that fails does not take the others with it."""
    try:
        rows = await PARTS[part](suite)
    except Exception as error:
        suite.note(f"failed: {part}: {type(error).__name__}: {error}")
        return []
    print(*rows, "", sep="\n", flush=True)
    return rows


def read_options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument(
        *("--gateway", "-g"),
        action="append",
        default=[],
        type=_read_checkout,
        metavar="PATH=NAME",
        help="another checkout of the gateway that takes part",
    )
    return parser.parse_args()


def _read_checkout(text: str) -> tuple[str, Path]:
    path, _, name = text.partition("=")
    return name or Path(path).name, Path(path).resolve(strict=True)


async def _until_terminated(options: argparse.Namespace) -> int:
    running_task = asyncio.current_task()
    assert running_task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running_task.cancel)
    return await main(options)


if __name__ == "__main__":
    # A thousand open streams are two thousand files.
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    sys.exit(uvloop.run(_until_terminated(read_options())))
