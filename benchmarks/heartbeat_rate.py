"""Heartbeats a second, from `benchmarks.heartbeats`."""

import importlib
import importlib.util

from benchmarks.report import Row, Target
from benchmarks.suite import Suite

TARGETS = {"heartbeats/s": Target("at least", 3_000)}


async def measure(suite: Suite) -> list[Row]:
    """Its figures by name, one a row."""
    if importlib.util.find_spec("benchmarks.heartbeats") is None:
        suite.note("skipped: heartbeats: there is no benchmarks/heartbeats.py")
        return []
    figures = await importlib.import_module("benchmarks.heartbeats").measure()
    return [
        Row(name, "gateway", figure, "", target=TARGETS.get(name))
        for name, figure in figures.items()
    ]
