"""Whether callers that do not pause reach an agent whose workspace has a limit of 0.

Each gateway has one worker and the default configuration. Callers keep their connections and send
the next call at once. A call has passed if it was answered 200, if it was marked as unchecked, or
if the agent was reached. hold_ups.py has the rows in which something else holds up the worker.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from benchmarks import hold_ups
from benchmarks.blocked import BLOCKED, HEALTHY, Blocked, add_to
from benchmarks.database import pinned_server
from benchmarks.outcomes import NONE, Tally, calling, crowd
from benchmarks.processes import MEASURED_CORE
from benchmarks.report import Row, Target, percentiles
from benchmarks.suite import Suite

CALLERS = (400, 700, 1_000)
CALLERS_MAX = 1_500
REFUSED_MIN = 100_000
CROWD_MAX_S = 150.0

# Of the healthy workspace: 200 calls a second.
HEALTHY_CALLERS = 8
HEALTHY_INTERVAL_S = 0.04
SHARE_TARGET = Target("at least", 0.5)
P99_TARGET = Target("below", 2)

Step = Callable[[Suite, Blocked], Awaitable[list[Row]]]


async def measure(suite: Suite) -> list[Row]:
    """Every row of every gateway; the gateways take turns row by row."""
    if shutil.which("wrk") is None:
        suite.note("skipped: runaway: wrk is not installed")
        return []
    gateways = [await add_to(suite, gateway) for gateway in await suite.gateways()]
    rows: list[Row] = []
    for turn, step in enumerate(STEPS, 1):
        for gateway in gateways:
            await gateway.settle()
            rows += await step(suite, replace(gateway, turn=turn))
    return rows


async def _crowd(callers: int, suite: Suite, gateway: Blocked) -> list[Row]:
    """A crowd for a few seconds."""
    what = f"{callers:,} callers"
    tally = await crowd(gateway.port, callers, 2.5 * suite.round_s, gateway.call(BLOCKED))
    return tally.rows(what, gateway.name, gateway.reached(BLOCKED))


async def _largest_crowd(suite: Suite, gateway: Blocked) -> list[Row]:
    """The largest crowd until there are enough refusals, with a healthy workspace beside it."""
    calling_healthy = partial(
        calling, gateway.port, gateway.call(HEALTHY), HEALTHY_CALLERS, HEALTHY_INTERVAL_S
    )
    async with calling_healthy() as alone:
        await asyncio.sleep(2.5 * suite.round_s)
    async with calling_healthy() as beside:
        rows = await _until_refused(suite, gateway, f"{CALLERS_MAX:,} callers")
    return rows + _healthy_rows(gateway.name, alone, beside)


async def _on_one_core(suite: Suite, gateway: Blocked) -> list[Row]:
    """The largest crowd, with PostgreSQL on the worker's core."""
    async with pinned_server(suite.server_dsn, MEASURED_CORE):
        return await _until_refused(suite, gateway, f"{CALLERS_MAX:,}, on one core")


async def _until_refused(suite: Suite, gateway: Blocked, what: str) -> list[Row]:
    refused_min = REFUSED_MIN // 10 if suite.is_quick else REFUSED_MIN
    duration_s = CROWD_MAX_S / 6 if suite.is_quick else CROWD_MAX_S
    sent = gateway.call(BLOCKED)
    tally = await crowd(gateway.port, CALLERS_MAX, duration_s, sent, refused_min)
    rows = tally.rows(what, gateway.name, gateway.reached(BLOCKED))
    target = Target("at least", refused_min)
    rate = tally.statuses.total() / tally.duration_s
    return [
        *rows,
        Row(f"{what}: refused or shed", gateway.name, tally.refused, "calls", target=target),
        Row(f"{what}: answered", gateway.name, rate, "calls/s"),
    ]


def _healthy_rows(who: str, alone: Tally, beside: Tally) -> list[Row]:
    what = "healthy beside it"
    due = HEALTHY_CALLERS * beside.duration_s / HEALTHY_INTERVAL_S
    unchecked = sum(each.is_marked for each in beside.responses)
    succeeded = [each.duration_ms for each in beside.responses if each.is_success]
    rows = [
        Row(f"{what}: its share", who, len(succeeded) / due, "", target=SHARE_TARGET),
        Row(f"{what}: unchecked", who, unchecked, "calls", target=NONE),
    ]
    before = percentiles([each.duration_ms for each in alone.responses if each.is_success])
    rows += [
        Row("healthy alone, p50", who, before.p50, "ms"),
        Row("healthy alone, p99", who, before.p99, "ms"),
    ]
    if len(succeeded) < 2:
        return rows
    p50, p99 = percentiles(succeeded)
    return [
        *rows,
        Row(f"{what}, p50 / alone", who, p50, "ms", p50 / before.p50),
        Row(f"{what}, p99 / alone", who, p99, "ms", p99 / before.p99, P99_TARGET),
    ]


STEPS: tuple[Step, ...] = (
    *(partial(_crowd, callers) for callers in CALLERS),
    _largest_crowd,
    _on_one_core,
    *hold_ups.STEPS,
)
