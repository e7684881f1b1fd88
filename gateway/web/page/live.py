"""What changes while somebody looks: one poller a worker, shared by all who look.

Every second, as long as anybody looks, a few queries read the budgets of all workspaces in view.
Only what changed is drawn anew, and once for all. A viewer gets the newest state of each part of
its page, never a queue of old ones.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from gateway.core.errors import (
    GatewayError,
    StorageUnavailable,
    Unavailable,
    UnknownWorkspace,
)
from gateway.storage.budgets import Budgets
from gateway.storage.registry import ListedWorkspace, Registry
from gateway.storage.spending import Spending
from gateway.web.page.changes import newest_changes
from gateway.web.page.shown import (
    Parts,
    gateway_parts,
    gateway_view,
    removed_parts,
    roster_parts,
    row_parts,
    workspace_parts,
)
from gateway.web.page.views import with_charts, workspace_view
from gateway.web.unchecked_calls import UncheckedCalls

log = structlog.get_logger()

VIEWERS_MAX = 100
# Who holds one workspace's token must not keep everybody else from looking.
VIEWERS_PER_WORKSPACE_MAX = 20
RETRY_S = 5
POLL_INTERVAL_S = 1.0
# Polling takes at most a fifth of the time, however much is in view.
PAUSES_PER_POLL = 4

# A hundred pages of the overview in one query would take longer than a query may.
WORKSPACES_PER_QUERY = 200

# Enough for a forecast, and for a chart.
ROW_BUCKETS, CHART_BUCKETS = 12, 60


@dataclass(frozen=True, slots=True)
class Subject:
    """What somebody looks at: rows of the overview, or one workspace's page."""

    workspace_ids: tuple[str, ...]
    is_overview: bool


@dataclass(eq=False, slots=True)
class Viewer:
    """Somebody who looks; `parts` is all that is to be seen, `news` is set when it changed."""

    subject: Subject
    parts: Parts = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, parts: Parts) -> None:
        """Let the viewer see these parts from now on."""
        if parts != self.parts:
            self.parts = parts
            self.news.set()


# What a drawing depends on; while this is the same, so is the drawing.
_Standing = object
# Of what a drawing is: a workspace, and whether as a row of the overview.
_Key = tuple[str, bool]


@dataclass(slots=True)
class Live:
    """Keeps what viewers see up to date."""

    registry: Registry
    spending: Spending
    budgets: Budgets
    unchecked_calls: UncheckedCalls
    is_closed: bool = False
    _viewers: set[Viewer] = field(default_factory=set)
    _polling: asyncio.Task[None] | None = None
    _roster: Parts = field(default_factory=dict)
    # What each was drawn from, and the drawing.
    _drawn: dict[_Key, tuple[_Standing, Parts]] = field(default_factory=dict)

    @contextmanager
    def watching(self, subject: Subject) -> Iterator[Viewer]:
        """A viewer of this subject, for as long as the context is open. Raises Unavailable."""
        if self.is_closed or not self._has_room(subject):
            raise Unavailable("Too many people look at this gateway.", RETRY_S)
        viewer = Viewer(subject)
        self._viewers.add(viewer)
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    def _has_room(self, subject: Subject) -> bool:
        same = sum(viewer.subject == subject for viewer in self._viewers)
        is_full = not subject.is_overview and same >= VIEWERS_PER_WORKSPACE_MAX
        return not is_full and len(self._viewers) < VIEWERS_MAX

    async def close(self) -> None:
        """Send everybody away; their pages come back to another worker."""
        self.is_closed = True
        for viewer in self._viewers:
            viewer.news.set()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait({self._polling})
            self._polling = None

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        while self._viewers:
            started = loop.time()
            try:
                await self._look()
            except GatewayError as error:
                log.warning("page_not_updated", cause=type(error).__name__)
            except Exception:
                # A mistake in one drawing must not leave every page as it is, without a word.
                log.exception("page_not_updated")
            took_s = loop.time() - started
            await asyncio.sleep(max(POLL_INTERVAL_S, PAUSES_PER_POLL * took_s))
        self._polling, self._drawn, self._roster = None, {}, {}

    async def _look(self) -> None:
        subjects = {viewer.subject for viewer in self._viewers}
        is_away = False
        try:
            await self._draw(subjects)
            if any(subject.is_overview for subject in subjects):
                self._roster = roster_parts(await self.registry.count())
        except StorageUnavailable as error:
            # The query of a page may fail, or be late, while calls are checked as always.
            is_away = not await self.unchecked_calls.gate.is_answering()
            if not is_away:
                log.warning("page_not_updated", cause=error.cause)
        view = gateway_view(self.unchecked_calls, is_database_away=is_away)
        gateway = await gateway_parts(view)
        for viewer in self._viewers:
            viewer.show({**viewer.parts, **self._parts(viewer.subject), **gateway})

    def _parts(self, subject: Subject) -> Parts:
        """What was drawn of this subject; nothing yet, if its viewer has just come."""
        parts = dict(self._roster) if subject.is_overview else {}
        for workspace_id in subject.workspace_ids:
            _, drawn = self._drawn.get((workspace_id, subject.is_overview), (None, {}))
            parts.update(drawn)
        return parts

    async def _draw(self, subjects: set[Subject]) -> None:
        """Draw anew what changed of all that is in view."""
        wanted = {
            (workspace_id, subject.is_overview)
            for subject in subjects
            for workspace_id in subject.workspace_ids
        }
        self._drawn = {key: drawn for key, drawn in self._drawn.items() if key in wanted}
        ids = sorted({workspace_id for workspace_id, _ in wanted})
        for first in range(0, len(ids), WORKSPACES_PER_QUERY):
            part = set(ids[first : first + WORKSPACES_PER_QUERY])
            await self._draw_part({key for key in wanted if key[0] in part}, sorted(part))

    async def _draw_part(self, wanted: set[_Key], ids: Sequence[str]) -> None:
        found = {
            listed.workspace.workspace_id: listed for listed in await self.registry.several(ids)
        }
        pages = [id_ for id_, is_row in wanted if not is_row]
        counts = await self.budgets.change_counts(pages) if pages else {}
        standings = {
            key: _standing(found.get(key[0]), 0 if key[1] else counts.get(key[0], 0))
            for key in wanted
        }
        changed = [key for key in wanted if self._is_changed(key, standings[key])]
        await self._draw_rows([found[id_] for id_, is_row in changed if is_row and id_ in found])
        for workspace_id, is_row in changed:
            if workspace_id not in found:
                self._drawn[workspace_id, is_row] = None, {} if is_row else await removed_parts()
            elif not is_row:
                await self._draw_page(found[workspace_id], standings[workspace_id, False])

    def _is_changed(self, key: _Key, standing: _Standing) -> bool:
        drawn = self._drawn.get(key)
        return drawn is None or drawn[0] != standing

    async def _draw_rows(self, listed: Sequence[ListedWorkspace]) -> None:
        ids = [each.workspace.workspace_id for each in listed]
        series = await self.spending.series(ids, ROW_BUCKETS) if ids else {}
        for each in listed:
            workspace_id = each.workspace.workspace_id
            if workspace_id in series:
                parts = await row_parts(workspace_view(each, series[workspace_id]))
                self._drawn[workspace_id, True] = _standing(each, 0), parts
            # A row is drawn faster than a slice ends.
            await asyncio.sleep(0)

    async def _draw_page(self, listed: ListedWorkspace, standing: _Standing) -> None:
        workspace_id = listed.workspace.workspace_id
        series = await self.spending.series([workspace_id], CHART_BUCKETS, with_windows=True)
        refused_since = await self.spending.refused_since(listed.budget.budget)
        try:
            changes = await newest_changes(self.budgets, workspace_id)
            view = workspace_view(listed, series[workspace_id], refused_since)
            view = await with_charts(view, series[workspace_id])
        except (KeyError, UnknownWorkspace):
            return  # removed a moment ago; the next look finds that
        self._drawn[workspace_id, False] = standing, await workspace_parts(view, changes)


def _standing(listed: ListedWorkspace | None, change_count: int) -> _Standing:
    if listed is None:
        return None
    budget = listed.budget.budget
    # Forecasts and charts move on with the minutes.
    minute = budget.as_of.replace(second=0, microsecond=0)
    return listed.workspace, budget.windows, change_count, minute
