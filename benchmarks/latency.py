"""What a proxy adds to a call on one connection, against calling the agent itself."""

from benchmarks.calls import CALL_BYTES
from benchmarks.load import durations_ms
from benchmarks.report import Row, Target, median_percentiles, ratio
from benchmarks.suite import Suite

WHAT = "added latency, 1 connection"
NGINX_TARGET = Target("below", 3)


async def measure(suite: Suite) -> list[Row]:
    """What everybody adds, p50 and p99, and what the gateway adds over that."""
    gateways = await suite.gateways()
    peers = await suite.peers("nginx", "auth-request", "naive-totals", "naive-sum")
    direct = suite.agent()
    rounds = suite.in_turns(
        [direct, *gateways, *peers.values()],
        lambda each: durations_ms(each, suite.round_s / 2, CALL_BYTES),
    )
    taken = {name: median_percentiles(each) for name, each in rounds.items()}
    base = taken.pop(direct.name)
    own = taken[gateways[0].name]
    rows = [Row("latency, p50", direct.name, base.p50, "ms")]
    rows.append(Row("latency, p99", direct.name, base.p99, "ms"))
    for name, each in taken.items():
        is_own, is_nginx = (
            name == gateways[0].name,
            "nginx" in peers and name == peers["nginx"].name,
        )
        p50, p99 = each.p50 - base.p50, each.p99 - base.p99
        p50_ratio = None if is_own else ratio(own.p50 - base.p50, p50)
        p99_ratio = None if is_own else ratio(own.p99 - base.p99, p99)
        target = NGINX_TARGET if is_nginx else None
        rows.append(Row(f"{WHAT}, p50", name, p50, "ms", p50_ratio, target))
        rows.append(Row(f"{WHAT}, p99", name, p99, "ms", p99_ratio))
    return rows
