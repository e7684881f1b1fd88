"""What the pages say, from values alone."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.core.budget import Budget, WindowSpend
from gateway.core.periods import PERIODS
from gateway.core.workspaces import Liveness, Workspace
from gateway.storage.budgets import WorkspaceBudget
from gateway.storage.registry import ListedWorkspace
from gateway.storage.spending import SeriesByPeriod, SpendSeries
from gateway.web.page.charts import WIDTH
from gateway.web.page.views import SILENT_AFTER, State, WorkspaceView, with_charts, workspace_view

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def view_of(
    spend_cents: int, limit_cents: int | None, seen_at: datetime | None = NOW, *, buckets: int = 6
) -> WorkspaceView:
    """A workspace that spent all in the oldest bucket of its shortest window."""
    windows = [WindowSpend(PERIODS[0], spend_cents, limit_cents)]
    windows += [WindowSpend(period, spend_cents, None) for period in PERIODS[1:]]
    workspace = Workspace("w", None, "online", None, seen_at, Liveness())
    budget = WorkspaceBudget(Budget("w", tuple(windows), NOW), None)
    return workspace_view(ListedWorkspace(workspace, budget), series_of(spend_cents, buckets))


def series_of(spend_cents: int, buckets: int) -> SeriesByPeriod:
    """All was spent in the oldest bucket, whatever the period."""
    cents = (spend_cents, *[0] * (buckets - 1))
    return {period.name: SpendSeries(cents, tuple([spend_cents] * buckets)) for period in PERIODS}


@pytest.mark.parametrize(
    ("spend_cents", "limit_cents", "seen_at", "state"),
    [
        (79, 100, NOW, State.OK),
        (80, 100, NOW, State.NEAR),
        (100, 100, NOW, State.EXCEEDED),  # reaching it stops the next call
        (0, 0, NOW, State.EXCEEDED),
        (10**9, None, NOW, State.OK),
        (0, None, None, State.SILENT),
        (0, None, NOW - SILENT_AFTER, State.OK),
        (0, None, NOW - SILENT_AFTER - SECOND, State.SILENT),
        (100, 100, None, State.EXCEEDED),  # more urgent than silence
    ],
)
def test_state_is_the_most_urgent(
    spend_cents: int, limit_cents: int | None, seen_at: datetime | None, state: State
) -> None:
    assert view_of(spend_cents, limit_cents, seen_at).state is state


@pytest.mark.parametrize(
    ("spend_cents", "limit_cents", "percent", "words"),
    [
        (0, 100, 0, "$0.00 of $1.00"),
        (99_999, 100_000, 99, "$999.99 of $1,000.00, near the limit"),
        (100, 100, 100, "$1.00 of $1.00, the limit is reached"),
        (140, 100, 140, "$1.40 of $1.00, over the limit"),
        (0, 0, 100, "$0.00 of $0.00, every call is blocked"),
        (-5, 100, 0, "-$0.05 of $1.00"),  # a correction took back more than was spent
    ],
)
def test_bar_says_in_words_what_it_shows(
    spend_cents: int, limit_cents: int, percent: int, words: str
) -> None:
    bar = view_of(spend_cents, limit_cents).windows[0].bar
    assert bar is not None
    assert (bar.percent, bar.words) == (percent, words)
    assert 0 <= bar.filled <= 100


def test_bar_without_a_limit_is_none() -> None:
    assert view_of(5, None).windows[0].bar is None


def test_first_limit_is_the_one_that_is_reached_soonest() -> None:
    view = view_of(5, 10)
    assert (view.first_full, view.first_full_after) == (None, "never")
    assert view_of(10, 10).first_full_after == "now"


async def test_chart_fills_its_width_and_marks_refusals_as_one_stretch() -> None:
    view = await with_charts(view_of(100, 100, buckets=60), series_of(100, buckets=60))
    chart = view.windows[0].chart
    assert chart is not None
    assert [(span.x, span.width) for span in chart.refusing] == [(0, WIDTH)]
    assert chart.buckets[0].starts_at == NOW - PERIODS[0].length
    assert chart.buckets[-1].x + chart.buckets[-1].width <= WIDTH
    assert chart.line.startswith("0")
    assert chart.line.split()[-1].startswith(f"{float(WIDTH)},")
