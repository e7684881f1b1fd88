"""The operators' routes: budgets, spend over time, and the workspaces themselves."""

from collections.abc import Mapping

from aiohttp import hdrs, web

from gateway.core.budget import budget_document, read_change, timestamp
from gateway.core.budget_changes import change_document, limits_etag
from gateway.core.dry_run import dry_run_document
from gateway.core.errors import BadRequest, UnknownWorkspace
from gateway.core.periods import PERIOD_BY_NAME, PERIODS, Period
from gateway.core.workspaces import is_workspace_id
from gateway.storage.registry import ListedWorkspace, PageRequest
from gateway.web.json_body import json_list, json_response, read_object
from gateway.web.services import services

CHANGE_BYTES_MAX = 64 * 1024
PAGE_ROWS_MAX = 1000
OFFSET_MAX = 10**9
CHANGE_NUMBER_MAX = 10**9
SEARCH_CHARACTERS_MAX = 128


def workspace_id(request: web.Request) -> str:
    """The id in the path. Raises UnknownWorkspace, without a query, for what can be none."""
    text = request.match_info["id"]
    if not is_workspace_id(text):
        raise UnknownWorkspace
    return text


async def get_budget(request: web.Request) -> web.Response:
    """The budget now, with the entity tag of its limits.

    If-None-Match is left alone: the tag says nothing of the spend, which may be another by now.
    """
    parts, workspace = services(request), workspace_id(request)
    await parts.access.require_reader(request, workspace)
    found = await parts.budgets.read(workspace)
    return _answer(budget_document(found.budget), found.budget.limits)


async def patch_budget(request: web.Request) -> web.Response:
    """Change limits: a JSON merge patch (RFC 7396), or the one legacy limit.

    With If-Match only if the limits are still those that it names (RFC 9110 section 13.1.1). A dry
    run changes nothing, tells what the change would do, and has the tag of the limits as they are.
    """
    parts, workspace = services(request), workspace_id(request)
    operator = await parts.access.require_operator(request)
    is_dry_run = _flag(request, "dry_run")
    change = read_change(await read_object(request, CHANGE_BYTES_MAX))
    if_match = request.headers.getall(hdrs.IF_MATCH, None)
    if is_dry_run:
        tried = await parts.dry_runs.run(workspace, change, if_match)
        return _answer(dry_run_document(tried), tried.limits_now)
    found = await parts.budgets.change(workspace, change, operator, if_match)
    parts.admissions.note(found)
    return _answer(budget_document(found.budget), found.budget.limits)


async def list_budget_changes(request: web.Request) -> web.Response:
    """A page of the history of limits, newest first."""
    parts, workspace = services(request), workspace_id(request)
    await parts.access.require_reader(request, workspace)
    limit = _number(request, "limit", 50, 1, PAGE_ROWS_MAX)
    is_first = "before" not in request.query
    before = None if is_first else _number(request, "before", 1, 1, CHANGE_NUMBER_MAX)
    found, count = await parts.budgets.changes(workspace, limit, before)
    return json_response(
        {
            "workspace_id": workspace,
            "changes": await json_list(found, change_document),
            "total": count,
            "limit": limit,
            "before": before,
        }
    )


async def get_spend(request: web.Request) -> web.Response:
    """What was spent in each of about 60 equal parts of a period's window."""
    parts, workspace = services(request), workspace_id(request)
    await parts.access.require_reader(request, workspace)
    period = _period(request.query.get("period", PERIODS[0].name), "period")
    buckets = await parts.registry.history(workspace, period)
    return json_response(
        {
            "workspace_id": workspace,
            "period": period.name,
            "window_seconds": period.window_seconds,
            "bucket_seconds": period.window_seconds / len(buckets),
            "buckets": [
                {"start": timestamp(bucket.starts_at), "spend": bucket.spend_cents}
                for bucket in buckets
            ],
        }
    )


async def list_workspaces(request: web.Request) -> web.Response:
    """A page of workspaces with their spend in every period, sorted."""
    parts = services(request)
    await parts.access.require_operator(request)
    page = _page_request(request)
    found, count = await parts.registry.page(page)
    return json_response(
        {
            "workspaces": await json_list(found, _workspace_document),
            "total": count,
            "limit": page.limit,
            "offset": page.offset,
        }
    )


async def get_workspace(request: web.Request) -> web.Response:
    """One workspace."""
    parts, workspace = services(request), workspace_id(request)
    await parts.access.require_operator(request)
    found = await parts.registry.one(workspace)
    return _answer(_workspace_document(found), found.budget.budget.limits)


async def delete_workspace(request: web.Request) -> web.Response:
    """Soft-remove a workspace: its calls and heartbeats are answered 404, its ledger stays."""
    parts, workspace = services(request), workspace_id(request)
    await parts.access.require_operator(request)
    await parts.registry.remove(workspace)
    parts.admissions.forget(workspace)
    return web.Response(status=204)


def _answer(document: object, limits: Mapping[str, int]) -> web.Response:
    """The document with the entity tag of the workspace's limits."""
    return json_response(document, {hdrs.ETAG: limits_etag(limits)})


def _workspace_document(listed: ListedWorkspace) -> dict[str, object]:
    workspace, liveness = listed.workspace, listed.workspace.liveness
    seen_at = workspace.last_heartbeat_at
    return {
        **budget_document(listed.budget.budget),
        "name": workspace.name,
        "status": workspace.status,
        "url": workspace.url,
        "last_heartbeat_at": None if seen_at is None else timestamp(seen_at),
        "uptime_seconds": liveness.uptime_seconds,
        "active_tasks": liveness.active_tasks,
        "current_task": liveness.current_task,
        "error_rate": liveness.error_rate,
        "sample_error": liveness.sample_error,
        "runtime_state": liveness.runtime_state,
        "runtime_metadata": liveness.runtime_metadata,
    }


def _page_request(request: web.Request) -> PageRequest:
    sort = request.query.get("sort", PERIODS[-1].name)
    is_by_column = sort in ("id", "last_heartbeat_at")
    order = request.query.get("order", "asc" if sort == "id" else "desc")
    if order not in ("asc", "desc"):
        raise BadRequest("order must be asc or desc.")
    search = request.query.get("q") or None
    if search is not None and (len(search) > SEARCH_CHARACTERS_MAX or "\0" in search):
        raise BadRequest(f"q must have at most {SEARCH_CHARACTERS_MAX} characters, none U+0000.")
    return PageRequest(
        sort if is_by_column else "spend",
        None if is_by_column else _period(sort, "sort"),
        order == "desc",
        search,
        _number(request, "limit", 50, 1, PAGE_ROWS_MAX),
        _number(request, "offset", 0, 0, OFFSET_MAX),
    )


def _period(name: str, parameter: str) -> Period:
    if name not in PERIOD_BY_NAME:
        known = ", ".join(PERIOD_BY_NAME)
        also = ", id, last_heartbeat_at" if parameter == "sort" else ""
        raise BadRequest(f"{parameter} must be one of {known}{also}.")
    return PERIOD_BY_NAME[name]


def _number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query.get(name, str(default))
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not is_number or not least <= int(text) <= most:
        raise BadRequest(f"{name} must be a whole number from {least} to {most}.")
    return int(text)


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise BadRequest(f"{name} must be true or false.")
    return text == "true"
