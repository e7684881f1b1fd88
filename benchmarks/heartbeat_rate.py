"""Heartbeats acknowledged a second by two workers on all cores, and whether the ledger is exact."""

import os

from benchmarks import heartbeats
from benchmarks.processes import ALL_CORES
from benchmarks.report import Row, Target
from benchmarks.suite import Suite

WORKERS = 2
TARGETS = {"heartbeats/s": Target("at least", 3_000)}


async def measure(suite: Suite) -> list[Row]:
    """The medians by name, one a row; it fails if a ledger does not hold what was acknowledged."""
    rounds, round_s = (2, 1.0) if suite.is_quick else (5, 2.0)
    pinned_to = os.sched_getaffinity(0)
    # Gateway, PostgreSQL and load are started from here, and share all cores.
    os.sched_setaffinity(0, ALL_CORES)
    try:
        measured = await heartbeats.measure(
            {"gateway": heartbeats.CHECKOUT}, WORKERS, rounds=rounds, round_s=round_s
        )
    finally:
        os.sched_setaffinity(0, pinned_to)
    return [
        Row(f"heartbeats: {name}", "gateway", figure, "", target=TARGETS.get(name))
        for name, figure in measured["gateway"].items()
    ]
