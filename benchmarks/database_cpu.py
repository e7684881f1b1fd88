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
    """The gateway's, and that of the proxy which runs the same query once a call."""
    (own, *_), peers = await suite.gateways(), await suite.peers("naive-totals")
    everybody = [own, *peers.values()]
    taken: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(suite.rounds):
        for contestant in everybody:
            for connections in CONNECTIONS:
                each = await _cpu_ms_a_call(suite, contestant, connections)
                taken[contestant.name, connections].append(each)
    rows = []
    for (name, connections), each in taken.items():
        cpu_ms, first_ms = statistics.median(each), statistics.median(taken[name, 1])
        what = f"database CPU per call, {connections} connections"
        ratio = None if connections == 1 else cpu_ms / first_ms
        target = FALLS if name == own.name and connections > 1 else None
        rows.append(Row(f"{what} (over 1)" if ratio else what, name, cpu_ms, "ms", ratio, target))
    return rows


async def _cpu_ms_a_call(suite: Suite, contestant: Contestant, connections: int) -> float:
    # The peers' connections lead to the same database, and rest while others have their turn.
    processes = await backends(suite.dsns["gateway"])
    before = cpu_s(processes)
    loaded = load(contestant, connections, suite.round_s / 2, CALL_BYTES)
    return (cpu_s(processes) - before) / loaded.calls * 1000
