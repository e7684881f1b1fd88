"""From a cumulative report to an increment: the only rule by which spend is booked.

An agent reports what it has spent in all. The *mark* of its stream (workspace, instance,
epoch) is the highest report booked so far; the increment is what lies above it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

REPORT_CENTS_MAX = 10**12

# Two heartbeats of one process compute its start as now - uptime; delivery and rounding differ.
SAME_START_WITHIN = timedelta(seconds=5)


class Outcome(StrEnum):
    """What became of a report; the word is also the metric's label."""

    BOOKED = "booked"
    UNCHANGED = "unchanged"
    NO_REPORT = "no_report"
    RESET = "reset"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Report:
    """A cumulative spend as it arrived, with what tells its age."""

    spend_cents: int
    received_at: datetime
    uptime_seconds: int | None
    instance_id: str = ""
    counter_epoch: str = ""

    @property
    def has_epoch(self) -> bool:
        """Whether the agent names its counter's life, so that a lower report can only be late."""
        return self.counter_epoch != ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A stream's high-water mark, and the age of the heartbeat that was last accepted."""

    spend_cents: int
    accepted_at: datetime | None = None
    uptime_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Advance:
    """What a report changes: book `increment_cents`, and keep `mark` (None: as it was)."""

    outcome: Outcome
    increment_cents: int
    mark: Mark | None


def clamp(spend_cents: int) -> int:
    """A report brought into 0..REPORT_CENTS_MAX."""
    return min(max(spend_cents, 0), REPORT_CENTS_MAX)


def advance(mark: Mark | None, report: Report) -> Advance:
    """Book what the report adds to its stream. The report is clamped already.

    With an epoch a lower report is a duplicate or came late. Without one it is a counter
    that started again, unless the heartbeat is provably older than the last accepted one.
    """
    if report.spend_cents == 0:
        return Advance(Outcome.NO_REPORT, 0, None)
    accepted = Mark(report.spend_cents, report.received_at, report.uptime_seconds)
    if mark is None:
        return Advance(Outcome.BOOKED, report.spend_cents, accepted)
    if report.spend_cents > mark.spend_cents:
        return Advance(Outcome.BOOKED, report.spend_cents - mark.spend_cents, accepted)
    if report.spend_cents == mark.spend_cents:
        return Advance(Outcome.UNCHANGED, 0, None if _is_older(report, mark) else accepted)
    if report.has_epoch or _is_older(report, mark):
        return Advance(Outcome.STALE, 0, None)
    return Advance(Outcome.RESET, report.spend_cents, accepted)


def _is_older(report: Report, mark: Mark) -> bool:
    """Whether one process sent this report before the one that was last accepted."""
    if mark.accepted_at is None or mark.uptime_seconds is None or report.uptime_seconds is None:
        return False
    started_at = report.received_at - timedelta(seconds=report.uptime_seconds)
    accepted_start = mark.accepted_at - timedelta(seconds=mark.uptime_seconds)
    is_same_process = abs(started_at - accepted_start) <= SAME_START_WITHIN
    return is_same_process and report.uptime_seconds < mark.uptime_seconds
