"""Calls a second with bodies of 1 MB, towards the agent and back from it."""

import statistics

from benchmarks.agent import LARGE_BYTES
from benchmarks.calls import CALL_BYTES
from benchmarks.load import load
from benchmarks.report import Row
from benchmarks.suite import Suite

CONNECTIONS = 8


async def measure(suite: Suite) -> list[Row]:
    """Everybody's calls a second, both ways."""
    gateways, peers = await suite.gateways(), await suite.peers("nginx", "naive-totals")
    everybody = [suite.agent(), *gateways, *peers.values()]
    rows = []
    for what, size_bytes, tail in (
        ("1 MB requests at 8 connections", LARGE_BYTES, ""),
        ("1 MB answers at 8 connections", CALL_BYTES, "/large"),
    ):
        rounds = suite.in_turns(
            everybody,
            lambda each, size=size_bytes, tail=tail: (
                load(each, CONNECTIONS, suite.round_s / 2, size, tail).calls_a_second
            ),
        )
        rates = {name: statistics.median(each) for name, each in rounds.items()}
        own = rates[gateways[0].name]
        for name, rate in rates.items():
            is_own = name == gateways[0].name
            rows.append(Row(what, name, rate, "calls/s", None if is_own else own / rate))
    return rows
