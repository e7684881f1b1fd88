"""Calls a second with bodies of 1 MB, towards the agent and back from it."""

import statistics
from functools import partial

from benchmarks.agent import LARGE_BYTES
from benchmarks.calls import CALL_BYTES
from benchmarks.contestants import Contestant
from benchmarks.load import load
from benchmarks.report import Row, rate_rows
from benchmarks.suite import Suite

CONNECTIONS = 8


async def measure(suite: Suite) -> list[Row]:
    """Everybody's calls a second, both ways."""
    gateways, peers = await suite.gateways(), await suite.peers("nginx", "naive-tuned")
    everybody = [suite.agent(), *gateways, *peers.values()]
    rows = []
    for what, size_bytes, tail in (
        ("1 MB requests, 8 connections", LARGE_BYTES, ""),
        ("1 MB answers, 8 connections", CALL_BYTES, "/large"),
    ):
        measured = partial(_rate, suite.round_s / 2, size_bytes, tail)
        rounds = suite.in_turns(everybody, measured)
        rates = {name: statistics.median(each) for name, each in rounds.items()}
        rows += rate_rows(what, gateways[0].name, rates, {})
    return rows


def _rate(duration_s: float, size_bytes: int, tail: str, contestant: Contestant) -> float:
    return load(contestant, CONNECTIONS, duration_s, size_bytes, tail).calls_a_second
