"""What a proxy adds to a call on one connection, against calling the agent itself."""

from benchmarks.calls import CALL_BYTES
from benchmarks.load import durations_ms
from benchmarks.report import Row, Target, added_rows, median_percentiles
from benchmarks.suite import Suite

NGINX_TARGET = Target("below", 3)


async def measure(suite: Suite) -> list[Row]:
    """What everybody adds, p50 and p99, and what the gateway adds over that."""
    gateways = await suite.gateways()
    peers = await suite.peers("nginx", "auth-request", "naive-tuned", "naive-sum")
    direct = suite.agent()
    rounds = suite.in_turns(
        [direct, *gateways, *peers.values()],
        lambda each: durations_ms(each, suite.round_s / 2, CALL_BYTES),
    )
    taken = {name: median_percentiles(each) for name, each in rounds.items()}
    targets = {"nginx": NGINX_TARGET}
    return added_rows("1 connection", "ms", direct.name, gateways[0].name, taken, targets)
