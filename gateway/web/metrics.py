"""What operators count and time. Names follow Prometheus' conventions; no label is a workspace.

With several workers each writes to its own files and the answer sums them (prometheus_client's
multiprocess mode, which PROMETHEUS_MULTIPROC_DIR turns on before the import).
"""

import asyncio
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.core.counter import Outcome
from gateway.core.periods import PERIODS

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

# Reads values at the moment of the scrape: (name, help, labels, value).
Gauge = tuple[str, str, dict[str, str], float]
ReadGauges = Callable[[], list[Gauge]]

# How old at most what another worker tells of this one is.
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
    """The counters and histograms of one process.

    What every call counts is kept here and written by `flush`, which somebody must call: writing
    it at once took a twentieth of a call's time. A worker that is killed takes the last with it.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = self._counter(
            "gateway_calls", "Calls to agents by outcome and status class.", "outcome", "status"
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
        self._calls_ended: Tally[tuple[str, str]] = Tally()
        self._start_at_zero()

    def count_call(self, outcome: str, status_class: str) -> None:
        """Count a call that ended."""
        self._calls_ended[outcome, status_class] += 1

    def flush(self) -> None:
        """Make visible to all workers what was counted here."""
        while self._calls_ended:
            labels, count = self._calls_ended.popitem()
            self.calls.labels(*labels).inc(count)
        for histogram in (self.check_seconds, self.upstream_seconds, self.first_byte_seconds):
            histogram.flush()

    async def keep_flushing(self) -> None:
        """Flush again and again, until this is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            try:
                self.flush()
            except Exception:
                # Its file may not grow, for one: the next time may go well.
                log.exception("metrics_flush_failed")

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(name, help_, labels, registry=self.registry)

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

    def exposition(self, read_gauges: ReadGauges) -> bytes:
        """All metrics of all workers in the text format, gauges read now."""
        self.flush()
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        now = CollectorRegistry()
        now.register(_Now(read_gauges))
        return bytes(generate_latest(registry)) + bytes(generate_latest(now))


class _Now(Collector):
    """Gauges that are read at the scrape, by whichever worker answers it."""

    def __init__(self, read_gauges: ReadGauges) -> None:
        self._read_gauges = read_gauges

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("gateway_build", "The running version.", {"version": __version__})
        families: dict[str, GaugeMetricFamily] = {}
        for name, help_, labels, value in self._read_gauges():
            if name not in families:
                families[name] = GaugeMetricFamily(name, help_, labels=list(labels))
            families[name].add_metric(list(labels.values()), value)
        yield from families.values()
