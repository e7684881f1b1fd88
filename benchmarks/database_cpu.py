"""The processor time that PostgreSQL spends for a call, by how many calls come at once."""

import statistics
from collections import defaultdict

from benchmarks.calls import CALL_BYTES
from benchmarks.contestants import Contestant
from benchmarks.database import backends
from benchmarks.load import load
from benchmarks.processes import cpu_s
from benchmarks.report import Row, Target
from benchmarks.suite import Suite

CONNECTIONS = (1, 16, 64)
FALLS = Target("below", 1)


async def measure(suite: Suite) -> list[Row]:
    """The gateways', and that of proxies which run the same query once a call."""
    gateways, peers = await suite.gateways(), await suite.peers("naive-totals", "naive-tuned")
    taken: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(suite.rounds):
        for contestant in (*gateways, *peers.values()):
            for connections in CONNECTIONS:
                cpu_ms = await _cpu_ms_a_call(suite, contestant, connections)
                taken[contestant.name, connections].append(cpu_ms)
    medians = {key: statistics.median(rounds) for key, rounds in taken.items()}
    rows = []
    for (name, connections), cpu_ms in medians.items():
        what = f"database CPU/call, {connections} connections"
        if connections == 1:
            rows.append(Row("database CPU/call, 1 connection", name, cpu_ms, "ms"))
            continue
        target = FALLS if name == gateways[0].name else None
        rows.append(Row(f"{what} / 1", name, cpu_ms, "ms", cpu_ms / medians[name, 1], target))
    return rows


async def _cpu_ms_a_call(suite: Suite, contestant: Contestant, connections: int) -> float:
    # The peers use the first gateway's database; everybody else rests meanwhile.
    own = next(iter(suite.dsns.values()))
    processes = await backends(suite.dsns.get(contestant.name, own))
    before = cpu_s(processes)
    loaded = load(contestant, connections, suite.round_s / 2, CALL_BYTES)
    return (cpu_s(processes) - before) / loaded.calls * 1000
