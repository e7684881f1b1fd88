"""Calls a second at 64 connections: 1 KB POSTs, the budget checked before each."""

import statistics

from benchmarks.contestants import Contestant
from benchmarks.load import GENERATOR, load
from benchmarks.processes import metric_total
from benchmarks.report import Row, Target, rate_rows
from benchmarks.suite import Suite

CONNECTIONS = 64
CALL_BYTES = 1024

TARGETS = {
    "nginx": Target("at least", 0.15),
    "auth-request": Target("at least", 1),
    "naive-totals": Target("at least", 3),
    "naive-tuned": Target("at least", 3),
    "naive-sum": Target("at least", 40),
    "litellm": Target("at least", 60),
}
# Above this part of what the agent can do, the agent limits the proxy, too.
CLOSE = 0.6


async def measure(suite: Suite) -> list[Row]:
    """Everybody's calls a second, and the gateway's over everybody else's."""
    gateways, peers = await suite.gateways(), await suite.peers(*TARGETS)
    direct = suite.agent()
    suite.note(f"load at 64 connections by {GENERATOR}")
    rates = _rates(suite, [direct, *gateways, *peers.values()])
    for name, rate in rates.items():
        if name != direct.name and rate > CLOSE * rates[direct.name]:
            suite.note(f"the agent and the load limit {name}: it may be able to do more")
    for gateway in gateways:
        note_skipped_checks(suite, gateway)
    targets = {peer.name: TARGETS[name] for name, peer in peers.items()}
    return rate_rows("calls/s, 64 connections", gateways[0].name, rates, targets)


def _rates(suite: Suite, everybody: list[Contestant]) -> dict[str, float]:
    for contestant in everybody:
        load(contestant, CONNECTIONS, 1, CALL_BYTES)

    def rate(contestant: Contestant) -> float:
        loaded = load(contestant, CONNECTIONS, suite.round_s, CALL_BYTES)
        if loaded.failed:
            suite.note(f"{contestant.name}: {loaded.failed} of {loaded.calls} calls failed")
        return loaded.calls_a_second

    rounds = suite.in_turns(everybody, rate)
    return {name: statistics.median(each) for name, each in rounds.items()}


def note_skipped_checks(suite: Suite, gateway: Contestant) -> None:
    """Say so if a gateway let calls pass because it could not read their budget in time."""
    skipped = metric_total(gateway.port, b"gateway_budget_checks_failed_open_total")
    if skipped:
        calls = metric_total(gateway.port, b"gateway_calls_total")
        suite.note(f"{gateway.name}: {skipped:,} of {calls:,} calls so far passed unchecked")
