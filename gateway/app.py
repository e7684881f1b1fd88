"""The application: which parts there are and how they are put together."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway.config import Config
from gateway.log_limit import LogLimit
from gateway.logs import lines_lost_count
from gateway.storage.address_snapshot import SnapshotError
from gateway.storage.addresses import Addresses
from gateway.storage.budgets import Budgets
from gateway.storage.database import Connections
from gateway.storage.dry_run import DryRuns
from gateway.storage.gate import Gate
from gateway.storage.ledger import Ledger
from gateway.storage.registry import Registry
from gateway.storage.spending import Spending
from gateway.storage.tokens import Tokens
from gateway.storage.workspace_key import WorkspaceKeys
from gateway.web import forwarding, heartbeats, ops, proxy, registrations, workspaces
from gateway.web.access import Access, Operator, token_sha256
from gateway.web.admission import Admissions
from gateway.web.calls_under_way import CallsUnderWay
from gateway.web.descriptors import DESCRIPTORS, Descriptors
from gateway.web.dispatch import CALL_ROUTE
from gateway.web.drain import DRAIN, Drain
from gateway.web.exposition import Exposition
from gateway.web.heartbeats import HEARTBEAT_FAILURES
from gateway.web.loop_lag import LoopLag
from gateway.web.metrics import Metrics
from gateway.web.metrics_folder import shared_folder
from gateway.web.overload import Overload
from gateway.web.page import assets, overview, sign_in, workspace_page
from gateway.web.page.frame import SIGN_IN
from gateway.web.page.live import Live
from gateway.web.page.parts import PAGE_PARTS, PageParts
from gateway.web.problems import answer_errors, end_connection
from gateway.web.process_gauges import ProcessGauges
from gateway.web.request_gate import refuse_faulty
from gateway.web.request_id import answer_request_id, carry_request_id
from gateway.web.services import SERVICES, Services
from gateway.web.shared import Shared
from gateway.web.unchecked_calls import UncheckedCalls
from gateway.web.upstream import Upstream, UpstreamSettings


def create_app(
    config: Config,
    keys: WorkspaceKeys,
    snapshot: Path | None = None,
    *,
    is_database_away: bool = False,
) -> web.Application:
    """Build the application: routes and middlewares here, connections in `open_services`.

    `keys` are those of the database that `config` names; `snapshot` is the file with the addresses
    of its agents that the supervisor keeps. Where `is_database_away`, nobody waits for it.
    """
    app = web.Application(middlewares=[carry_request_id, refuse_faulty, answer_errors])
    app.on_response_prepare.append(answer_request_id)
    app.on_response_prepare.append(forwarding.remove_server_field)
    app.on_response_prepare.append(close_when_draining)
    app[DRAIN] = Drain(config.server)
    app[DESCRIPTORS] = Descriptors()
    app[HEARTBEAT_FAILURES] = LogLimit("heartbeat_failed")
    app[SERVICES] = create_services(config, keys, snapshot, app[DESCRIPTORS])
    app[PAGE_PARTS] = create_page_parts(app[SERVICES])
    app.cleanup_ctx.append(partial(open_services, is_database_away=is_database_away))
    app.on_shutdown.append(send_viewers_away)
    app.on_shutdown.append(finish_calls)
    add_routes(app.router)
    return app


def add_routes(router: web.UrlDispatcher) -> None:
    """Every route of the gateway."""
    add, get = router.add_route, router.add_get
    get("/healthz", ops.get_health)
    get("/readyz", ops.get_readiness)
    get("/metrics", ops.get_metrics)
    get("/openapi.yaml", ops.get_openapi)
    add("POST", "/registry/register", registrations.post_registration)
    add("POST", "/registry/heartbeat", heartbeats.post_heartbeat)
    get("/workspaces", workspaces.list_workspaces)
    get("/workspaces/{id}", workspaces.get_workspace)
    add("DELETE", "/workspaces/{id}", workspaces.delete_workspace)
    get("/workspaces/{id}/budget", workspaces.get_budget)
    add("PATCH", "/workspaces/{id}/budget", workspaces.patch_budget)
    get("/workspaces/{id}/budget/changes", workspaces.list_budget_changes)
    get("/workspaces/{id}/spend", workspaces.get_spend)
    get("/", overview.get_overview)
    add("GET", "/ui/events", overview.get_overview_events)
    get("/ui/workspaces/{id}", workspace_page.get_workspace_page)
    add("POST", "/ui/workspaces/{id}", workspace_page.post_workspace_page)
    add("GET", "/ui/workspaces/{id}/events", workspace_page.get_workspace_events)
    get(SIGN_IN, sign_in.get_sign_in)
    add("POST", SIGN_IN, sign_in.post_sign_in)
    add("POST", "/ui/sign-out", sign_in.post_sign_out)
    get("/ui/assets/{version}/{name}", assets.get_asset)
    for name in ("agent-card.json", "agent.json"):
        get(f"/workspaces/{{id}}/.well-known/{name}", proxy.proxy_call)
    add("*", "/workspaces/{id}/a2a", proxy.proxy_call, name=CALL_ROUTE)
    add("*", "/workspaces/{id}/a2a/{tail:(?s:.*)}", proxy.proxy_call)


def create_services(
    config: Config, keys: WorkspaceKeys, snapshot: Path | None, descriptors: Descriptors
) -> Services:
    """The parts that handlers use. Checks, heartbeats and operators cannot starve one another."""
    settings, sizes = config.database_settings, config.database
    timeout_s = sizes.query_timeout_ms / 1000
    checked = replace(settings, statement_timeout_s=config.gate_settings.attempt_timeout_s)
    bounded = replace(settings, statement_timeout_s=timeout_s)
    gate = Gate(checked, keys, config.gate_settings)
    # Checks only read: writers are the ones to notice that another server has taken over.
    beats = Connections(bounded, sizes.heartbeat_connections, gate.renew)
    operators = Connections(bounded, sizes.operator_connections, gate.renew)
    connections: dict[str, Connections | Gate] = {
        "check": gate,
        "heartbeat": beats,
        "operator": operators,
    }
    metrics = Metrics(shared_folder())
    registry = Registry(operators, keys, timeout_s)
    admissions = Admissions(gate, metrics, Addresses(snapshot), config.budget.on_outage == "known")
    calls = CallsUnderWay(config.proxy.calls_max, config.proxy.calls_per_workspace_max)
    gauges = ProcessGauges(metrics, gate, connections, LoopLag(), lines_lost_count)
    admins = [
        Operator(name, token_sha256(token.get_secret_value()))
        for name, token in config.auth.operators
    ]
    return Services(
        config,
        metrics,
        gate,
        Ledger(beats, keys, timeout_s),
        Budgets(operators, keys, timeout_s),
        DryRuns(operators, keys, timeout_s),
        registry,
        Access(admins, Tokens(operators, keys, timeout_s), config.server.public_host),
        admissions,
        calls,
        Overload(admissions, calls, metrics),
        Upstream(upstream_settings(config), descriptors),
        connections,
        Exposition(metrics, gauges, registry),
        Shared(gate.is_answering),
        UncheckedCalls(admissions.skipped, gate, metrics.folder),
    )


def create_page_parts(parts: Services) -> PageParts:
    """What the Budget page needs beside that; it reads on the operators' connections."""
    registry = parts.registry
    spending = Spending(registry.connections, registry.keys, registry.timeout_s)
    return PageParts(spending, Live(registry, spending, parts.budgets, parts.unchecked_calls))


def upstream_settings(config: Config) -> UpstreamSettings:
    """The proxy's deadlines and networks, as the client wants them."""
    proxy_config = config.proxy
    return UpstreamSettings(
        proxy_config.connect_timeout_s,
        proxy_config.first_byte_timeout_s,
        proxy_config.idle_timeout_s,
        config.registry.networks,
    )


async def close_when_draining(request: web.Request, answer: web.StreamResponse) -> None:
    """Tell callers to open their next connection elsewhere, while this worker stops."""
    if request.app[SERVICES].is_draining:
        end_connection(answer)


async def send_viewers_away(app: web.Application) -> None:
    """End the pages' streams, which would last for minutes."""
    await app[PAGE_PARTS].live.close()


async def finish_calls(app: web.Application) -> None:
    """Let the calls in flight end; aiohttp would give them the time limit twice."""
    parts, drain = app[SERVICES], app[DRAIN]
    parts.is_draining = True
    if not drain.begun.is_set():
        drain.terminate()
    await parts.calls_under_way.finish(drain.time_is_up)


async def open_services(app: web.Application, *, is_database_away: bool) -> AsyncIterator[None]:
    """Connect to the database and open the client, for as long as the application runs.

    What was opened is closed again whatever a later step does, the last first.
    """
    parts = app[SERVICES]
    addresses = parts.admissions.addresses
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_side_by_side, parts.connections.values())
        stack.push_async_callback(parts.database_probe.finish)
        stack.push_async_callback(parts.ledger.finish)
        # The first worker of a gateway comes before its first snapshot.
        with suppress(SnapshotError):
            await addresses.load()
        await parts.gate.open(is_away=is_database_away)
        await stack.enter_async_context(running(addresses.follow()))
        await stack.enter_async_context(parts.exposition.kept_current())
        await stack.enter_async_context(parts.unchecked_calls.exchanged())
        await stack.enter_async_context(parts.upstream)
        yield


async def close_side_by_side(pools: Iterable[Connections | Gate]) -> None:
    """Close them all at once: each may wait for what still runs on it."""
    async with asyncio.TaskGroup() as closing:
        for pool in pools:
            closing.create_task(pool.close())


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """The work in a task, until the end of this; raises what it failed with."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
