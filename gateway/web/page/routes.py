"""The pages' addresses."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from gateway.core.budget import Budget
from gateway.core.errors import (
    Forbidden,
    NotFound,
    Unauthorized,
)
from gateway.core.periods import PERIOD_BY_NAME, PERIODS
from gateway.storage.registry import PageRequest
from gateway.web.page.frame import as_page, frame, see_other
from gateway.web.page.limits_form import Field, fields_of, read_typed
from gateway.web.page.live import CHART_BUCKETS, ROW_BUCKETS, Subject, Viewer
from gateway.web.page.parts import page_parts
from gateway.web.page.sign_in import read_form
from gateway.web.page.templates import (
    CONTENT_TYPES,
    PAGE_HEADERS,
    asset,
    assets_version,
    page,
)
from gateway.web.page.views import (
    COLUMNS,
    HEARTBEAT_COLUMN,
    SORTS,
    OverviewView,
    WorkspaceView,
    workspace_view,
)
from gateway.web.same_origin import require_same_origin
from gateway.web.services import services
from gateway.web.session import read_session
from gateway.web.workspaces import workspace_id

PAGE_ROWS = 50
PAGES_MAX = 1_000_000
SEARCH_CHARACTERS_MAX = 128

CHANGES_ROUTE = "/workspaces/{id}/budget/changes"
# Whether PATCH takes `?dry_run=true`. Before it does, trying a change would make it.
IS_DRY_RUN_KNOWN = False

# A stream ends after this and the page asks again, so that who was signed out sees no more.
STREAM_LIFETIME_S = 15 * 60
STREAM_ALIVE_S = 15.0
STREAM_WRITE_TIMEOUT_S = 10.0


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
    return page(
        "overview.html",
        overview=overview,
        columns=COLUMNS,
        heartbeat_column=HEARTBEAT_COLUMN,
        sorted_by=SORTS[overview.sort].label,
        address=partial(_overview_address, overview),
        events=f"/ui/events?{request.query_string}",
        **frame(request),
    )


async def _overview(request: web.Request) -> OverviewView:
    asked, number = _page_request(request)
    found, total = await services(request).registry.page(asked)
    ids = [each.workspace.workspace_id for each in found]
    series = await page_parts(request).spending.series(ids, ROW_BUCKETS) if ids else {}
    rows = [
        workspace_view(each, series[each.workspace.workspace_id])
        for each in found
        if each.workspace.workspace_id in series
    ]
    sort = asked.period.name if asked.period else asked.sort
    return OverviewView(
        rows, total, sort, asked.is_descending, asked.search or "", number, PAGE_ROWS
    )


def _page_request(request: web.Request) -> tuple[PageRequest, int]:
    """What to list. An address that makes no sense is taken as far as it does."""
    query = request.query
    sort = query.get("sort", PERIODS[-1].name)
    column = SORTS.get(sort, SORTS[PERIODS[-1].name])
    period = PERIOD_BY_NAME.get(column.sort)
    order = query.get("order", "")
    is_descending = order == "desc" if order in ("asc", "desc") else column.is_descending_first
    search = query.get("q", "").replace("\0", "").strip()[:SEARCH_CHARACTERS_MAX]
    number = _page_number(query.get("page", "1"))
    asked = PageRequest(
        "spend" if period else column.sort,
        period,
        is_descending,
        search or None,
        PAGE_ROWS,
        (number - 1) * PAGE_ROWS,
    )
    return asked, number


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


@as_page
async def get_workspace_page(request: web.Request) -> web.StreamResponse:
    """One workspace: its windows, its limits, its history."""
    await services(request).access.require_reader(request, workspace_id(request))
    view, budget = await _workspace(request)
    notice = {"kind": "ok", "text": "Saved."} if "saved" in request.query else None
    return await _workspace_page(request, view, fields_of(budget), notice)


@as_page
async def post_workspace_page(request: web.Request) -> web.StreamResponse:
    """Save what was typed; what is wrong is said beside its field."""
    parts, workspace = services(request), workspace_id(request)
    require_same_origin(request)
    await parts.access.require_operator(request)
    typed = read_typed(await read_form(request))
    change, faulty = typed.change()
    overtaken = typed.overtaken((await parts.budgets.read(workspace)).budget)
    if change is not None and not overtaken:
        if typed.changed:
            await parts.budgets.change(workspace, change)
        return see_other(f"/ui/workspaces/{workspace}?saved")
    view, budget = await _workspace(request)
    kept = {name: Field(text) for name, text in typed.texts.items()}
    fields = {**fields_of(budget), **kept, **overtaken, **faulty}
    notice = {"kind": "error", "text": "Nothing was saved."}
    return await _workspace_page(request, view, fields, notice, 409 if not faulty else 400)


async def _workspace(request: web.Request) -> tuple[WorkspaceView, Budget]:
    """The view, and the budget it was made from."""
    workspace, spending = workspace_id(request), page_parts(request).spending
    listed = await services(request).registry.one(workspace)
    id_ = listed.workspace.workspace_id
    series = await spending.series([id_], CHART_BUCKETS, with_windows=True)
    reached_at = await spending.reached_since(listed.budget.budget)
    return workspace_view(listed, series[id_], reached_at), listed.budget.budget


async def _workspace_page(
    request: web.Request,
    view: WorkspaceView,
    fields: Mapping[str, Field],
    notice: Mapping[str, str] | None,
    status: int = 200,
) -> web.Response:
    id_ = view.workspace.workspace_id
    return page(
        "workspace.html",
        status,
        id=id_,
        workspace=view,
        fields=fields,
        notice=notice,
        is_operator=await _is_operator(request),
        # What PATCH wants to see in If-Match; blank as long as it gives no ETag.
        if_match="",
        can_preview=IS_DRY_RUN_KNOWN,
        changes=_changes_address(request, id_),
        events=f"/ui/workspaces/{id_}/events",
        **frame(request),
    )


async def _is_operator(request: web.Request) -> bool:
    try:
        await services(request).access.require_operator(request)
    except (Unauthorized, Forbidden):
        return False
    return True


def _changes_address(request: web.Request, id_: str) -> str | None:
    """Where the history of limits is, if this gateway keeps one."""
    known = {resource.canonical for resource in request.app.router.resources()}
    return CHANGES_ROUTE.replace("{id}", id_) if CHANGES_ROUTE in known else None


async def get_overview_events(request: web.Request) -> web.StreamResponse:
    """The changes of a page of the overview, as they happen."""
    await services(request).access.require_operator(request)
    asked, _ = _page_request(request)
    found, _ = await services(request).registry.page(asked)
    ids = tuple(each.workspace.workspace_id for each in found)
    return await _stream(request, Subject(ids, is_overview=True))


async def get_workspace_events(request: web.Request) -> web.StreamResponse:
    """The changes of a workspace's page, as they happen."""
    parts, workspace = services(request), workspace_id(request)
    await parts.access.require_reader(request, workspace)
    listed = await parts.registry.one(workspace)
    return await _stream(request, Subject((listed.workspace.workspace_id,), is_overview=False))


async def _stream(request: web.Request, subject: Subject) -> web.StreamResponse:
    """Server-sent events: `data` is an object of HTML by element; each replaces what was there."""
    live = page_parts(request).live
    with live.watching(subject) as viewer:
        # A proxy that collects an answer before it passes it on would hold back all news.
        headers = {**PAGE_HEADERS, "X-Accel-Buffering": "no"}
        answer = web.StreamResponse(headers=headers)
        answer.content_type = "text/event-stream"
        await answer.prepare(request)
        try:
            async with asyncio.timeout(STREAM_LIFETIME_S):
                await _send_news(answer, viewer, lambda: live.is_closed)
        except (TimeoutError, ConnectionError):
            pass
        return answer


async def _send_news(
    answer: web.StreamResponse, viewer: Viewer, is_closed: Callable[[], bool]
) -> None:
    sent: Mapping[str, str] = {}
    while not is_closed():
        seen, viewer_parts = viewer.news, viewer.parts
        seen.clear()
        changed = {name: text for name, text in viewer_parts.items() if sent.get(name) != text}
        async with asyncio.timeout(STREAM_WRITE_TIMEOUT_S):
            await answer.write(_event(changed))
        sent = viewer_parts
        try:
            async with asyncio.timeout(STREAM_ALIVE_S):
                await seen.wait()
        except TimeoutError:
            continue


def _event(changed: Mapping[str, str]) -> bytes:
    # A comment keeps the connection, and tells us when nobody is there any more.
    return b"data: " + orjson.dumps(changed) + b"\n\n" if changed else b": alive\n\n"


async def get_asset(request: web.Request) -> web.Response:
    """A file that the pages name, for ever: another text has another address."""
    name = request.match_info["name"]
    if request.match_info["version"] != assets_version() or name not in CONTENT_TYPES:
        raise NotFound("There is nothing at this address.")
    return web.Response(
        body=asset(name),
        content_type=CONTENT_TYPES[name],
        charset="utf-8",
        headers={
            **PAGE_HEADERS,
            "Cache-Control": "public, max-age=31536000, immutable",
        },
    )
