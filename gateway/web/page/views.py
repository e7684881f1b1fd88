"""What the pages show, as plain values: states, bars, and sentences. No markup, no clock.

Amounts stay cents and moments stay moments, so that the reader's browser can write both in its
own way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.core.budget import Budget, WindowSpend
from gateway.core.dry_run import never_binding
from gateway.core.forecast import BurnRate, burn_rate, full_after
from gateway.core.money import dollars, plain_dollars
from gateway.core.periods import Period
from gateway.core.words import duration
from gateway.core.workspaces import Workspace
from gateway.storage.registry import ListedWorkspace
from gateway.storage.slices import Slices
from gateway.storage.spending import SeriesByPeriod, SpendSeries
from gateway.web.page.charts import Chart, draw

NEAR_PERCENT = 80
# Agents report every 30 s; who missed four reports may be gone.
SILENT_AFTER = timedelta(minutes=2)
# A bar shows this much, so that its limit and what is over it can both be seen.
BAR_PERCENT = 120


class State(StrEnum):
    """How a workspace stands, the most urgent first."""

    EXCEEDED = "exceeded"
    NEAR = "near"
    SILENT = "silent"
    OK = "ok"


STATE_WORDS = {
    State.EXCEEDED: "Limit reached",
    State.NEAR: "Near a limit",
    State.SILENT: "No report",
    State.OK: "In budget",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """How much of a limit is spent; positions are percents of the drawing's width."""

    percent: int
    state: State
    words: str

    @property
    def filled(self) -> float:
        """How far the bar reaches."""
        return round(min(self.percent, BAR_PERCENT) * 100 / BAR_PERCENT, 2)

    @property
    def marks(self) -> tuple[float, float]:
        """Where the marks stand: near the limit, and at it."""
        return round(NEAR_PERCENT * 100 / BAR_PERCENT, 2), round(10_000 / BAR_PERCENT, 2)


@dataclass(frozen=True, slots=True)
class WindowView:
    """One period of a workspace."""

    window: WindowSpend
    bar: Bar | None
    rate: BurnRate
    full_after: timedelta | None
    refused_since: datetime | None = None
    chart: Chart | None = None
    # The longer one whose limit is always reached first, if there is one.
    bound_by: WindowSpend | None = None

    @property
    def period(self) -> Period:
        """The period."""
        return self.window.period

    @property
    def state(self) -> State:
        """How the window stands."""
        return _window_state(self.window)

    @property
    def over_cents(self) -> int:
        """How much is over the limit; 0 exactly at it."""
        return max(0, self.window.spend_cents - (self.window.limit_cents or 0))

    @property
    def typed_limit(self) -> str:
        """The limit as it stands in its field."""
        limit_cents = self.window.limit_cents
        return "" if limit_cents is None else plain_dollars(limit_cents)

    @property
    def rate_span(self) -> str:
        """What the rate is measured over."""
        return duration(self.rate.span)

    @property
    def forecast(self) -> str:
        """What comes of it, at this rate."""
        if self.window.limit_cents is None:
            return "no limit to reach"
        if self.window.is_exceeded:
            return "full"
        return "never full" if self.full_after is None else f"full in {duration(self.full_after)}"


@dataclass(frozen=True, slots=True)
class WorkspaceView:
    """A workspace as the overview and its own page show it."""

    workspace: Workspace
    windows: tuple[WindowView, ...]
    state: State
    as_of: datetime

    @property
    def name(self) -> str:
        """What people call it."""
        return self.workspace.name or self.workspace.workspace_id

    @property
    def state_words(self) -> str:
        """The state in words."""
        return STATE_WORDS[self.state]

    @property
    def exceeded(self) -> list[WindowView]:
        """The windows that stop the next call."""
        return [view for view in self.windows if view.window.is_exceeded]

    @property
    def first_full(self) -> WindowView | None:
        """The window that will reach its limit first, at its rate."""
        coming = [view for view in self.windows if view.full_after is not None]
        return min(coming, key=lambda view: view.full_after or timedelta(0), default=None)

    @property
    def first_full_after(self) -> str:
        """How long that will take."""
        first = self.first_full
        if self.exceeded:
            return "now"
        return "never" if first is None else duration(first.full_after or timedelta(0))

    @property
    def seen_ago(self) -> str:
        """How long ago the last heartbeat came."""
        seen_at = self.workspace.last_heartbeat_at
        return "never" if seen_at is None else f"{duration(self.as_of - seen_at)} ago"

    @property
    def uptime(self) -> str | None:
        """How long the agent runs, by its own word."""
        seconds = self.workspace.liveness.uptime_seconds
        return None if seconds is None else duration(timedelta(seconds=seconds))


def workspace_view(
    listed: ListedWorkspace,
    series: SeriesByPeriod,
    refused_since: Mapping[Period, datetime] | None = None,
) -> WorkspaceView:
    """The view of one workspace, without charts."""
    budget = listed.budget.budget
    bound_by = {window.period: stricter for window, stricter in never_binding(budget)}
    windows = tuple(
        replace(
            _window_view(window, series[window.period.name], (refused_since or {})),
            bound_by=bound_by.get(window.period),
        )
        for window in budget.windows
    )
    return WorkspaceView(
        listed.workspace, windows, _workspace_state(listed.workspace, budget), budget.as_of
    )


async def with_charts(view: WorkspaceView, series: SeriesByPeriod) -> WorkspaceView:
    """The same with a chart of every window; `series` must tell what windows held."""
    windows, slices = [], Slices()
    for window_view in view.windows:
        window = window_view.window
        chart = draw(window, series[window.period.name], view.as_of)
        windows.append(replace(window_view, chart=chart))
        await slices.pause()
    return replace(view, windows=tuple(windows))


def _window_view(
    window: WindowSpend,
    series: SpendSeries,
    refused_since: Mapping[Period, datetime],
) -> WindowView:
    length, limit_cents = window.period.length, window.limit_cents
    rate = burn_rate(series.bucket_cents, length)
    after = None
    if limit_cents is not None:
        after = full_after(series.bucket_cents, length, limit_cents, rate)
    return WindowView(window, _bar(window), rate, after, refused_since.get(window.period))


def _bar(window: WindowSpend) -> Bar | None:
    limit_cents = window.limit_cents
    if limit_cents is None:
        return None
    # Rounded down: 99.9 % is not yet all of it.
    percent = 100 if limit_cents == 0 else max(0, window.spend_cents * 100 // limit_cents)
    return Bar(percent, _window_state(window), _bar_words(window, limit_cents))


def _bar_words(window: WindowSpend, limit_cents: int) -> str:
    words = f"{dollars(window.spend_cents)} of {dollars(limit_cents)}"
    if limit_cents == 0:
        return f"{words}, every call is blocked"
    if window.spend_cents > limit_cents:
        return f"{words}, over the limit"
    if window.is_exceeded:
        return f"{words}, the limit is reached"
    return f"{words}, near the limit" if _window_state(window) is State.NEAR else words


def _window_state(window: WindowSpend) -> State:
    if window.is_exceeded:
        return State.EXCEEDED
    limit_cents = window.limit_cents
    is_near = limit_cents is not None and window.spend_cents * 100 >= limit_cents * NEAR_PERCENT
    return State.NEAR if is_near else State.OK


def _workspace_state(workspace: Workspace, budget: Budget) -> State:
    states = {_window_state(window) for window in budget.windows}
    seen_at = workspace.last_heartbeat_at
    if seen_at is None or budget.as_of - seen_at > SILENT_AFTER:
        states.add(State.SILENT)
    return next(state for state in State if state in states or state is State.OK)
