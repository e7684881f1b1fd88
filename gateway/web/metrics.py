"""What operators count and time. Names follow Prometheus' conventions; no label is a workspace.

Workers share what they count (metrics_files.py), so that every figure is the whole gateway's:
counters and histograms are summed, those of workers that ended included, gauges are the sum or the
maximum over the workers that live.
"""

import asyncio
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.core.counter import Outcome
from gateway.core.periods import PERIODS
from gateway.web.metrics_files import OwnFiles

log = structlog.get_logger()

_CHECK_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_UPSTREAM_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)

# What became of a call.
FORWARDED = "forwarded"
SKIPPED_CHECK = "skipped_check"
REFUSED = "refused"
UPSTREAM_ERROR = "upstream_error"
REJECTED = "rejected"
UNKNOWN_AGENT = "unknown_agent"
_CALL_OUTCOMES = (FORWARDED, SKIPPED_CHECK, REFUSED, UPSTREAM_ERROR, REJECTED, UNKNOWN_AGENT)

# The first of the gauges in the output: the one to alert on.
BREAKER_OPEN = "gateway_breaker_open"

# How old at most what another worker reports of this one is.
FLUSH_INTERVAL_S = 0.2


class _Histogram(Histogram):
    """Keeps what it observes until `flush`: one write for many into what all workers share."""

    def __init__(self, name: str, help_: str, **options: Any) -> None:
        super().__init__(name, help_, **options)
        self._observed: list[float] = []

    def observe(self, amount: float, exemplar: object = None) -> None:  # noqa: ARG002
        """Count the amount; examples are not kept."""
        self._observed.append(amount)

    def flush(self) -> None:
        """Make what was observed visible."""
        observed, self._observed = self._observed, []
        self._sum.inc(sum(observed))
        buckets = Tally(bisect_left(self._upper_bounds, amount) for amount in observed)
        for position, count in buckets.items():
            self._buckets[position].inc(count)


class Metrics:
    """The counters, histograms and gauges of one process, in the folder of all if there is one.

    What every call counts is kept here and written by `flush`, which somebody must call: writing
    it at once took a twentieth of a call's time. A worker that is killed takes the last with it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._files = OwnFiles(folder) if folder else None
        self._is_flush_failing = False
        self.registry = CollectorRegistry()
        self.calls = self._counter(
            "gateway_calls", "Calls to agents by outcome and status class.", "outcome", "status"
        )
        self.calls_shed = self._counter(
            "gateway_calls_shed", "Calls answered 503 because the worker could not keep up."
        )
        self.refusals = self._counter(
            "gateway_refusals", "Refused calls by the period that was exceeded.", "period"
        )
        self.failed_open = self._counter(
            "gateway_budget_checks_failed_open",
            "Calls forwarded although their budget could not be read, by cause.",
            "cause",
        )
        self.refused_without_check = self._counter(
            "gateway_refusals_without_check",
            "Calls refused by what the last check found, because there was none for them.",
        )
        self.damaged_limits = self._counter(
            "gateway_damaged_limits", "Workspaces found with a damaged budget_limits column."
        )
        self.check_seconds = self._histogram(
            "gateway_budget_check_duration_seconds", "Wait for the budget check.", _CHECK_BUCKETS
        )
        self.upstream_seconds = self._histogram(
            "gateway_upstream_duration_seconds",
            "A call at the agent, to its end.",
            _UPSTREAM_BUCKETS,
        )
        self.first_byte_seconds = self._histogram(
            "gateway_upstream_first_byte_seconds",
            "A call at the agent, until its answer began.",
            _UPSTREAM_BUCKETS,
        )
        self.heartbeats = self._counter("gateway_heartbeats", "Heartbeats by result.", "result")
        self.booked_cents = self._counter("gateway_booked_cents", "Spend booked, in US cents.")
        self.counter_resets = self._counter(
            "gateway_counter_resets", "Reports below their mark, taken as a counter's new start."
        )
        self.clamped_reports = self._counter(
            "gateway_clamped_reports", "Reports brought into range, by what they were.", "reason"
        )
        self.ignored_reports = self._counter(
            "gateway_ignored_reports", "Reports that were late or doubled and booked nothing."
        )
        self.log_lines_lost = self._counter("gateway_log_lines_lost", "Log lines not written.")
        self.breaker_open = self._gauge(
            BREAKER_OPEN, "1 while calls pass unchecked, in one worker at least.", "livemax"
        )
        self.loop_lag_seconds = self._gauge(
            "gateway_loop_lag_seconds",
            "Longest delay of an event loop in the last second, of the slowest worker.",
            "livemax",
        )
        self.database_connections = self._gauge(
            "gateway_database_connections",
            "Database connections of all workers by use.",
            "livesum",
            "use",
            "state",
        )
        self._calls_ended: Tally[tuple[str, str]] = Tally()
        self._shed_count = 0
        self._start_at_zero()

    def count_call(self, outcome: str, status_class: str) -> None:
        """Count a call that ended."""
        self._calls_ended[outcome, status_class] += 1

    def count_shed(self) -> None:
        """Count a call that was shed; it is one of the rejected calls, too."""
        self.count_call(REJECTED, "5xx")
        self._shed_count += 1

    def flush(self) -> None:
        """Make visible to all workers what was counted here."""
        if self._files is not None and self._files.renew(lambda: self.damaged_limits.inc(0)):
            log.warning("metrics_folder_renewed", folder=str(self.folder))
        self.calls_shed.inc(self._shed_count)
        self._shed_count = 0
        while self._calls_ended:
            labels, count = self._calls_ended.popitem()
            self.calls.labels(*labels).inc(count)
        for histogram in (self.check_seconds, self.upstream_seconds, self.first_byte_seconds):
            histogram.flush()

    def try_flush(self, set_gauges: Callable[[], None]) -> None:
        """Flush, with the gauges as they are now. What fails is logged once, until it succeeds."""
        try:
            self.flush()
            set_gauges()
            self._is_flush_failing = False
        except Exception:
            # A file may not grow, or the folder may be gone: the next time may go well.
            if not self._is_flush_failing:
                log.exception("metrics_flush_failed")
            self._is_flush_failing = True

    async def keep_flushing(self, set_gauges: Callable[[], None]) -> None:
        """Flush again and again, until this is cancelled."""
        while True:
            self.try_flush(set_gauges)
            await asyncio.sleep(FLUSH_INTERVAL_S)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(name, help_, labels, registry=self.registry)

    def _gauge(
        self, name: str, help_: str, mode: Literal["livemax", "livesum"], *labels: str
    ) -> Gauge:
        return Gauge(name, help_, labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...]) -> _Histogram:
        return _Histogram(name, help_, buckets=buckets, registry=self.registry)

    def _start_at_zero(self) -> None:
        """Show every known label from the start, so that a rate has a beginning."""
        for outcome in _CALL_OUTCOMES:
            self.calls.labels(outcome, "2xx")
        for period in PERIODS:
            self.refusals.labels(period.name)
        for result in (*Outcome, "unavailable", "rejected"):
            self.heartbeats.labels(str(result))
        for reason in ("negative", "too_large"):
            self.clamped_reports.labels(reason)
        for cause in ("timeout", "breaker_open", "connection"):
            self.failed_open.labels(cause)
