"""The overview: all workspaces in a table, searched, sorted and paged by its address."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from operator import itemgetter
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from gateway.core.errors import BadRequest, Forbidden, UnknownWorkspace
from gateway.core.forecast import RECENT_PART
from gateway.core.periods import PERIOD_BY_NAME, PERIODS
from gateway.core.workspaces import is_workspace_id
from gateway.storage.registry import ListedWorkspace, PageRequest
from gateway.storage.slices import Slices
from gateway.web.page.frame import as_page, frame, see_other
from gateway.web.page.live import ROW_BUCKETS, Subject
from gateway.web.page.parts import page_parts
from gateway.web.page.stream import stream_news
from gateway.web.page.templates import page
from gateway.web.page.views import WorkspaceView, workspace_view
from gateway.web.services import services
from gateway.web.session import read_session

PAGE_ROWS = 50
# So many are put in order by their forecasts, which take long for all; the rest by an estimate.
FORECASTS_MAX = 4 * PAGE_ROWS
PAGES_MAX = 1_000_000
SEARCH_CHARACTERS_MAX = 128


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the overview that sorts."""

    sort: str
    label: str
    is_descending_first: bool = True


COLUMNS = (
    Column("name", "Workspace", is_descending_first=False),
    Column("used", "State"),
    *(Column(period.name, period.label.capitalize()) for period in PERIODS),
)
RATE_COLUMN = Column("rate", "Burn rate")
FULLNESS_COLUMN = Column("fullness", "First limit reached", is_descending_first=False)
HEARTBEAT_COLUMN = Column("last_heartbeat_at", "Last heartbeat")
SORTS = {
    column.sort: column for column in (*COLUMNS, RATE_COLUMN, FULLNESS_COLUMN, HEARTBEAT_COLUMN)
}
# The shown rate is the shortest period's, and that is what was spent in this time.
RATE_SPAN = PERIODS[0].length / RECENT_PART


@dataclass(frozen=True, slots=True)
class OverviewView:
    """A page of the overview, and how it was asked for."""

    rows: Sequence[WorkspaceView]
    total: int
    sort: str
    is_descending: bool
    search: str
    page: int
    page_rows: int

    @property
    def last_page(self) -> int:
        """The number of the last page, from 1."""
        return max(1, -(-self.total // self.page_rows))

    @property
    def first_row(self) -> int:
        """The number of the page's first row, from 1."""
        return (self.page - 1) * self.page_rows + 1

    @property
    def last_row(self) -> int:
        """The number of the page's last row."""
        return self.first_row + len(self.rows) - 1


@as_page
async def get_overview(request: web.Request) -> web.StreamResponse:
    """All workspaces, the top spenders first."""
    session = read_session(request)
    try:
        await services(request).access.require_operator(request)
    except Forbidden:
        if session is None or session.workspace_id is None:
            raise
        return see_other(f"/ui/workspaces/{session.workspace_id}")
    overview = await _overview(request)
    return await page(
        "overview.html",
        overview=overview,
        columns=COLUMNS,
        rate_column=RATE_COLUMN,
        fullness_column=FULLNESS_COLUMN,
        heartbeat_column=HEARTBEAT_COLUMN,
        sorted_by=SORTS[overview.sort].label,
        address=partial(_overview_address, overview),
        events=_events_address(overview),
        **frame(request),
    )


async def _overview(request: web.Request) -> OverviewView:
    asked, number = _page_request(request)
    is_by_forecast = asked.sort == FULLNESS_COLUMN.sort and asked.offset < FORECASTS_MAX
    found, total = await services(request).registry.page(
        replace(asked, limit=FORECASTS_MAX, offset=0) if is_by_forecast else asked
    )
    rows = await _rows(request, found)
    if is_by_forecast:
        in_order = await _by_forecast(rows, is_descending=asked.is_descending)
        rows = in_order[asked.offset : asked.offset + PAGE_ROWS]
    sort = _column(request).sort
    return OverviewView(
        rows, total, sort, asked.is_descending, asked.search or "", number, PAGE_ROWS
    )


async def _rows(request: web.Request, found: Sequence[ListedWorkspace]) -> list[WorkspaceView]:
    ids = [each.workspace.workspace_id for each in found]
    series = await page_parts(request).spending.series(ids, ROW_BUCKETS) if ids else {}
    rows, slices = [], Slices()
    for each in found:
        if each.workspace.workspace_id in series:
            rows.append(workspace_view(each, series[each.workspace.workspace_id]))
        await slices.pause()
    return rows


async def _by_forecast(
    rows: Sequence[WorkspaceView], *, is_descending: bool
) -> list[WorkspaceView]:
    slices, placed = Slices(), []
    for row in rows:
        placed.append((_first_full_after(row), row))
        await slices.pause()
    placed.sort(key=itemgetter(0), reverse=is_descending)
    return [row for _, row in placed]


def _first_full_after(view: WorkspaceView) -> timedelta:
    if view.exceeded:
        return timedelta(0)
    first = view.first_full
    return timedelta.max if first is None or first.full_after is None else first.full_after


def _page_request(request: web.Request) -> tuple[PageRequest, int]:
    """What to list. An address that makes no sense is taken as far as it does."""
    query = request.query
    column = _column(request)
    period = PERIOD_BY_NAME.get(column.sort)
    order = query.get("order", "")
    is_descending = order == "desc" if order in ("asc", "desc") else column.is_descending_first
    search = query.get("q", "").replace("\0", "").strip()[:SEARCH_CHARACTERS_MAX]
    number = _page_number(query.get("page", "1"))
    asked = PageRequest(
        "spend" if period or column is RATE_COLUMN else column.sort,
        period,
        is_descending,
        search or None,
        PAGE_ROWS,
        (number - 1) * PAGE_ROWS,
        RATE_SPAN,
    )
    return asked, number


def _column(request: web.Request) -> Column:
    top_spenders = PERIODS[-1].name
    return SORTS.get(request.query.get("sort", top_spenders), SORTS[top_spenders])


def _page_number(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(PAGES_MAX))
    return min(max(int(text), 1), PAGES_MAX) if is_number else 1


def _overview_address(overview: OverviewView, **changed: Any) -> str:
    asked = {
        "sort": overview.sort,
        "is_descending": overview.is_descending,
        "page": overview.page,
        **changed,
    }
    query = {"sort": asked["sort"], "order": "desc" if asked["is_descending"] else "asc"}
    query |= {"q": overview.search} if overview.search else {}
    query |= {"page": str(asked["page"])} if asked["page"] > 1 else {}
    return "/?" + urlencode(query)


def _events_address(overview: OverviewView) -> str:
    """The stream of these rows, whatever is in their place by the time it begins."""
    ids = [each.workspace.workspace_id for each in overview.rows]
    return "/ui/events?" + urlencode([("id", id_) for id_ in ids])


async def get_overview_events(request: web.Request) -> web.StreamResponse:
    """The changes of rows of the overview, as they happen."""
    await services(request).access.require_operator(request)
    ids = request.query.getall("id", [])
    if len(ids) > PAGE_ROWS:
        raise BadRequest(f"id: at most {PAGE_ROWS} of them.")
    if not all(map(is_workspace_id, ids)):
        raise UnknownWorkspace
    found = await services(request).registry.several(ids)
    rows = tuple(each.workspace.workspace_id for each in found)
    return await stream_news(request, Subject(rows, is_overview=True))
