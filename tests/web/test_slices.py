"""Long work lets the event loop do what else is due: calls wait for the same loop."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from gateway.core.budget import Budget, WindowSpend
from gateway.core.periods import PERIODS
from gateway.core.workspaces import Liveness, Workspace
from gateway.storage import slices
from gateway.storage.budgets import WorkspaceBudget
from gateway.storage.registry import ListedWorkspace
from gateway.storage.slices import Slices
from gateway.storage.spending import SpendSeries
from gateway.web.json_body import json_list, json_response
from gateway.web.page.charts import Chart
from gateway.web.page.templates import render
from gateway.web.page.views import WorkspaceView, with_charts, workspace_view

BUCKETS = 60
SERIES = {period.name: SpendSeries((1,) * BUCKETS, (1,) * BUCKETS) for period in PERIODS}


async def turns(work: Coroutine[Any, Any, object]) -> int:
    """How often others had their turn until the work was done."""
    count, working = 0, asyncio.create_task(work)
    while not working.done():
        await asyncio.sleep(0)
        count += 1
    await working
    return count


def view() -> WorkspaceView:
    windows = tuple(WindowSpend(period, 60, 100) for period in PERIODS)
    budget = Budget("w", windows, datetime.now(UTC))
    workspace = Workspace("w", None, "online", None, None, Liveness())
    return workspace_view(ListedWorkspace(workspace, WorkspaceBudget(budget, None)), SERIES)


async def test_short_work_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 3600)

    async def work() -> None:
        each = Slices()
        for _ in range(1000):
            await each.pause()

    assert await turns(work()) <= 2


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slice ends at once."""
    monkeypatch.setattr(slices, "SLICE_S", 0)


@pytest.mark.usefixtures("_short")
async def test_page_is_rendered_in_slices() -> None:
    charted = await with_charts(view(), SERIES)
    assert await turns(render("chart_table.html", view=charted.windows[0])) > BUCKETS


@pytest.mark.usefixtures("_short")
async def test_charts_are_drawn_in_slices() -> None:
    assert await turns(with_charts(view(), SERIES)) >= len(PERIODS)
    charted = await with_charts(view(), SERIES)
    assert all(isinstance(each.chart, Chart) for each in charted.windows)


@pytest.mark.usefixtures("_short")
async def test_list_is_written_in_slices() -> None:
    assert await turns(json_list(range(100), str)) >= 100
    response = json_response({"numbers": await json_list(range(3), lambda each: {"n": each})})
    assert isinstance(response.body, bytes)
    assert orjson.loads(response.body) == {"numbers": [{"n": 0}, {"n": 1}, {"n": 2}]}
