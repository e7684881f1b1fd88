"""Interruptions of the budget check, as several workers saw them, become one.

Each worker notices an outage of the database at its own moment, and only if a call comes. What two
workers saw at about the same time is the same outage.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce

# Two that are further apart are two. A worker publishes what it sees every second.
GAP_MAX = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Interruption:
    """Since when calls passed unchecked, until when at least, and how many did."""

    since: datetime
    until: datetime
    unchecked_calls: int


def latest_interruption(seen: Iterable[Interruption]) -> Interruption | None:
    """The last of the interruptions, with the calls of all workers that saw it."""
    by_start = sorted(seen, key=lambda each: each.since)
    return reduce(_join, by_start) if by_start else None


def _join(earlier: Interruption, later: Interruption) -> Interruption:
    """Both as one, or only the later one if checks were answered in between."""
    if later.since > earlier.until + GAP_MAX:
        return later
    return Interruption(
        earlier.since,
        max(earlier.until, later.until),
        earlier.unchecked_calls + later.unchecked_calls,
    )
