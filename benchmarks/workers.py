"""Calls a second with one worker and with two, which may use the measured core and one more."""

import statistics

from benchmarks.calls import CALL_BYTES, CONNECTIONS, note_skipped_checks
from benchmarks.load import load
from benchmarks.processes import ALL_CORES
from benchmarks.report import Row
from benchmarks.suite import Suite

WHAT = "calls/s, two cores"


async def measure(suite: Suite) -> list[Row]:
    """Both numbers of workers; the ratio is two workers' over one's."""
    one, two = [
        await suite.gateway(
            f"gateway, {count} worker" + "s" * (count > 1),
            cores=ALL_CORES[:2],
            server__workers=count,
        )
        for count in (1, 2)
    ]
    if len(ALL_CORES) < 4:
        suite.note("two workers share their second core with agent, load and PostgreSQL")
    load(one, CONNECTIONS, 1, CALL_BYTES)
    load(two, CONNECTIONS, 1, CALL_BYTES)
    rounds = suite.in_turns(
        [one, two],
        lambda each: load(each, CONNECTIONS, suite.round_s, CALL_BYTES).calls_a_second,
    )
    rates = {name: statistics.median(each) for name, each in rounds.items()}
    note_skipped_checks(suite, one)
    note_skipped_checks(suite, two)
    return [
        Row(WHAT, one.name, rates[one.name], "calls/s"),
        Row(
            f"{WHAT} / 1 worker",
            two.name,
            rates[two.name],
            "calls/s",
            rates[two.name] / rates[one.name],
        ),
    ]
