"""One workspace: its windows, the form for its limits, its history."""

from collections.abc import Mapping
from contextlib import suppress

from aiohttp import web

from gateway.core.budget import Budget
from gateway.core.budget_changes import limits_etag
from gateway.core.errors import Forbidden, PreconditionFailed, Unauthorized, UnknownWorkspace
from gateway.web.page.changes import newest_changes
from gateway.web.page.frame import as_page, frame, see_other
from gateway.web.page.limits_form import Field, Typed, fields_of, read_typed
from gateway.web.page.live import CHART_BUCKETS, Subject
from gateway.web.page.parts import page_parts
from gateway.web.page.sign_in import read_form
from gateway.web.page.stream import stream_news
from gateway.web.page.templates import page
from gateway.web.page.views import WorkspaceView, with_charts, workspace_view
from gateway.web.same_origin import require_same_origin
from gateway.web.services import services
from gateway.web.workspaces import workspace_id

SAVED = {"kind": "ok", "text": "Saved."}
NOT_CHANGED = {"kind": "ok", "text": "Nothing was changed."}
NOT_SAVED = {"kind": "error", "text": "Nothing was saved."}


@as_page
async def get_workspace_page(request: web.Request) -> web.StreamResponse:
    """One workspace: its windows, its limits, its history."""
    await services(request).access.require_reader(request, workspace_id(request))
    view, budget = await _workspace(request)
    notice = SAVED if "saved" in request.query else None
    return await _workspace_page(request, view, fields_of(budget), notice)


@as_page
async def post_workspace_page(request: web.Request) -> web.StreamResponse:
    """Save what was typed; what is wrong is said beside its field."""
    parts, workspace = services(request), workspace_id(request)
    require_same_origin(request)
    operator = await parts.access.require_operator(request)
    typed = read_typed(await read_form(request))
    change, faulty = typed.change()
    if change is None:
        return await _typed_page(request, typed, faulty, NOT_SAVED, 400)
    if not typed.changed:
        return await _typed_page(request, typed, faulty, NOT_CHANGED, 200)
    seen = (await parts.budgets.read(workspace)).budget
    if not typed.is_overtaken(seen):
        with suppress(PreconditionFailed):
            # Nobody may have changed them since they were looked at, a moment ago.
            if_match = [limits_etag(seen.limits)]
            changed = await parts.budgets.change(workspace, change, operator, if_match)
            parts.admissions.note(changed)
            return see_other(f"/ui/workspaces/{workspace}?saved")
    return await _typed_page(request, typed, faulty, NOT_SAVED, 409)


async def _typed_page(
    request: web.Request,
    typed: Typed,
    faulty: Mapping[str, Field],
    notice: Mapping[str, str],
    status: int,
) -> web.Response:
    """The page with all that was typed, to be saved or not."""
    view, budget = await _workspace(request)
    fields = {**fields_of(budget), **typed.fields, **typed.overtaken(budget), **faulty}
    return await _workspace_page(request, view, fields, notice, status)


async def _workspace(request: web.Request) -> tuple[WorkspaceView, Budget]:
    """The view, and the budget it was made from."""
    workspace, spending = workspace_id(request), page_parts(request).spending
    listed = await services(request).registry.one(workspace)
    id_ = listed.workspace.workspace_id
    series = (await spending.series([id_], CHART_BUCKETS, with_windows=True)).get(id_)
    if series is None:  # removed a moment ago
        raise UnknownWorkspace
    refused_since = await spending.refused_since(listed.budget.budget)
    view = workspace_view(listed, series, refused_since)
    return await with_charts(view, series), listed.budget.budget


async def _workspace_page(
    request: web.Request,
    view: WorkspaceView,
    fields: Mapping[str, Field],
    notice: Mapping[str, str] | None,
    status: int = 200,
) -> web.Response:
    id_ = view.workspace.workspace_id
    return await page(
        "workspace.html",
        status,
        id=id_,
        workspace=view,
        fields=fields,
        notice=notice,
        is_operator=await _is_operator(request),
        changes=await newest_changes(services(request).budgets, id_),
        events=f"/ui/workspaces/{id_}/events",
        **frame(request),
    )


async def _is_operator(request: web.Request) -> bool:
    try:
        await services(request).access.require_operator(request)
    except (Unauthorized, Forbidden):
        return False
    return True


async def get_workspace_events(request: web.Request) -> web.StreamResponse:
    """The changes of a workspace's page, as they happen."""
    parts, workspace = services(request), workspace_id(request)
    await parts.access.require_reader(request, workspace)
    listed = await parts.registry.one(workspace)
    return await stream_news(request, Subject((listed.workspace.workspace_id,), is_overview=False))
