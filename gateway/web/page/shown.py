"""The parts of the pages that change, as they are sent: HTML by the id of the element it fills."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from gateway.core.interruptions import GAP_MAX
from gateway.web.page.changes import ChangesView
from gateway.web.page.templates import render
from gateway.web.page.views import WorkspaceView
from gateway.web.unchecked_calls import UncheckedCalls

Parts = Mapping[str, str]

# What is no element, but tells the script of a page what to do.
LIMITS, ROSTER = "limits-now", "roster-now"


@dataclass(frozen=True, slots=True)
class GatewayView:
    """Whether calls are checked; if not, since when and how many passed."""

    is_skipping: bool
    since: datetime | None
    count: int
    now: datetime

    @property
    def alert(self) -> str:
        """What is told aloud."""
        return "Checks are being skipped." if self.is_skipping else ""


def gateway_view(unchecked_calls: UncheckedCalls, *, is_database_away: bool = False) -> GatewayView:
    """Whether this worker's calls are checked, and how many of all workers' passed unchecked."""
    now = datetime.now(UTC)
    is_skipping = is_database_away or unchecked_calls.gate.is_open
    latest = unchecked_calls.latest(now)
    if latest is None or (is_skipping and now - latest.until > GAP_MAX):
        # No call has passed yet; the last interruption is another one.
        return GatewayView(is_skipping, None, 0, now)
    return GatewayView(is_skipping, latest.since, latest.unchecked_calls, now)


async def gateway_parts(gateway: GatewayView) -> Parts:
    """The line on top of every page."""
    return {
        "gateway": await render("gateway.html", gateway=gateway),
        "gateway-alert": gateway.alert,
    }


async def row_parts(workspace: WorkspaceView) -> Parts:
    """A workspace's row in the overview."""
    html = await render("overview_row.html", workspace=workspace)
    return {f"row:{workspace.workspace.workspace_id}": html}


def roster_parts(workspace_count: int) -> Parts:
    """What the overview asks for its rows anew for: another number of workspaces."""
    return {ROSTER: str(workspace_count)}


async def workspace_parts(workspace: WorkspaceView, changes: ChangesView) -> Parts:
    """All of a workspace's page that changes by itself."""
    parts = {
        "head": await render("workspace_head.html", workspace=workspace),
        "alerts": await render("workspace_alerts.html", workspace=workspace),
        "changes": await render("workspace_changes.html", workspace=workspace, changes=changes),
        LIMITS: _limits(workspace, changes),
    }
    for view in workspace.windows:
        name, values = view.period.name, {"workspace": workspace, "view": view}
        parts[f"figures-{name}"] = await render("window_figures.html", **values)
        parts[f"chart-{name}"] = await render("chart.html", **values)
        parts[f"table-{name}"] = await render("chart_table.html", **values)
    return parts


def _limits(workspace: WorkspaceView, changes: ChangesView) -> str:
    """What the script compares with what stands in the fields; new after every change.

    A limit that was changed and changed back is what it was, but not what a page has that saved
    the first of the two changes.
    """
    limits = {view.period.name: view.typed_limit for view in workspace.windows}
    return orjson.dumps({"limits": limits, "change_count": changes.count}).decode()


async def removed_parts() -> Parts:
    """A workspace that is gone."""
    return {"alerts": await render("workspace_removed.html")}
