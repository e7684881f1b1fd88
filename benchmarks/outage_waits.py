"""How long a call waits at most for its budget while PostgreSQL is killed, or stopped."""

from benchmarks import outage
from benchmarks.report import Row, Target
from benchmarks.suite import Suite

WHO = "gateway's gate"
# The gate's deadline, and what a busy event loop adds.
LONGEST_TARGET = Target("below", 60)


async def measure(_: Suite) -> list[Row]:
    """The longest waits, and how soon the budget was enforced after the return."""
    rows = []
    for each in await outage.measure():
        longest, again = each.during.longest_ms, each.enforced_again_ms
        rows.append(Row(f"longest wait, {each.name}", WHO, longest, "ms", target=LONGEST_TARGET))
        rows.append(Row(f"enforced again, {each.name}", WHO, again, "ms"))
    return rows
