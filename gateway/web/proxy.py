"""ANY /workspaces/{id}/a2a: decide whether a call goes on to its agent.

The order: the target is valid, no browser opens it as a page, there is room for one more call, the
budget has room (or the call is free, or the budget cannot be read), and only then is a byte of the
body read and the agent spoken to.
"""

import time
from dataclasses import dataclass
from functools import partial

import orjson
import structlog
from aiohttp import hdrs, web

from gateway.core import denial
from gateway.core.agent_card import CardQuestion, is_card_path
from gateway.core.calls import Call, is_free_by_method, read_call
from gateway.core.errors import (
    BadGateway,
    GatewayError,
    GatewayTimeout,
    Unavailable,
    UnknownAgent,
)
from gateway.core.headers import for_browser
from gateway.core.target import CallTarget, read_call_target
from gateway.web import metrics
from gateway.web.admission import Admission
from gateway.web.agent_cards import CardCall, RpcCards, answer_card
from gateway.web.call_body import inspect, is_readable
from gateway.web.forwarding import (
    Fields,
    forward,
    public_base_of,
    read_arrival,
    request_body,
    request_fields,
)
from gateway.web.request_id import REQUEST_ID
from gateway.web.same_origin import is_from_page, refuse_navigation
from gateway.web.services import Services, services
from gateway.web.upstream import UpstreamRequest

log = structlog.get_logger()

# Agents send a heartbeat, and register when they start, about this often.
REGISTER_RETRY_S = 30

# How a budget was decided on without a check.
CHECK_SKIPPED, CHECK_KNOWN = ("Budget-Check", "skipped"), ("Budget-Check", "known")


@dataclass(slots=True)
class Trace:
    """What is known of a call when it ends, for its log line and its metrics."""

    started: float
    workspace_id: str = ""
    outcome: str = metrics.REJECTED
    status: int = 0


async def proxy_call(request: web.Request) -> web.StreamResponse:
    """Answer a call, and count and log what became of it."""
    parts = services(request)
    parts.overload.require_start(request)
    trace = Trace(time.perf_counter())
    try:
        answer = await _answer(request, parts, trace)
        trace.status = answer.status
        return answer
    except GatewayError as error:
        trace.status = error.status
        trace.outcome = _outcome_of(error)
        raise
    finally:
        _end(request, parts, trace)


def _outcome_of(error: GatewayError) -> str:
    match error:
        case BadGateway() | GatewayTimeout():
            return metrics.UPSTREAM_ERROR
        case UnknownAgent():
            return metrics.UNKNOWN_AGENT
    return metrics.REJECTED


async def _answer(request: web.Request, parts: Services, trace: Trace) -> web.StreamResponse:
    target = read_call_target(request.raw_path)
    trace.workspace_id = target.workspace_id
    refuse_navigation(request)
    parts.calls_under_way.enter(request, target.workspace_id)
    try:
        return await _answer_admitted(request, parts, target, trace)
    finally:
        parts.calls_under_way.leave(request, target.workspace_id)


async def _answer_admitted(
    request: web.Request, parts: Services, target: CallTarget, trace: Trace
) -> web.StreamResponse:
    admission = await parts.admissions.admit(target.workspace_id)
    body = None
    if admission.is_over_budget and not is_free_by_method(request.method):
        body, said = await inspect(request)
        call = read_call(request.method, target.path, said)
        if not call.is_free:
            trace.outcome = metrics.REFUSED
            return _refuse(parts, admission, call)
    if admission.agent_url is None:
        raise Unavailable("This workspace's agent has not registered.", REGISTER_RETRY_S)
    trace.outcome, added = metrics.FORWARDED, []
    if not admission.is_checked:
        trace.outcome, added = metrics.SKIPPED_CHECK, [CHECK_SKIPPED]
        parts.admissions.count_unchecked(admission)
    try:
        return await _ask_agent(request, parts, target, admission.agent_url, body, added)
    except GatewayError as error:
        # Our own answer in the agent's place tells of a skipped check, too.
        error.headers.update(added)
        raise


async def _ask_agent(
    request: web.Request,
    parts: Services,
    target: CallTarget,
    agent_url: str,
    read: bytes | None,
    added: Fields,
) -> web.StreamResponse:
    """The agent's answer, with the addresses in its cards leading here.

    `read` is the body where it had to be read before.
    """
    config = parts.config
    arrival = read_arrival(request, config.server.trusted_networks)
    fields = request_fields(arrival, parts, request[REQUEST_ID])
    public_base = partial(public_base_of, parts, arrival, target.workspace_id)
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD) and is_card_path(target.path):
        call = CardCall(target, agent_url, public_base(), fields)
        answer = await answer_card(request, call)
        if is_from_page(request):
            fields = for_browser(list(answer.headers.items()))
            answer.headers.clear()
            answer.headers.extend(fields)
        answer.headers.extend(added)
        return answer
    cards = RpcCards(agent_url, public_base, CardQuestion(is_asked=not is_readable(request)))
    body = request_body(request, config.proxy, read, cards)
    url = target.upstream_url(agent_url)
    outgoing = UpstreamRequest(request.method, url, cards.asked_with(fields, body), body)
    return await forward(request, parts, outgoing, cards, added)


def _refuse(parts: Services, admission: Admission, call: Call) -> web.Response:
    assert admission.budget is not None  # noqa: S101 - only a budget that was read is exceeded
    for window in admission.budget.exceeded:
        parts.metrics.refusals.labels(window.period.name).inc()
    refusal = denial.deny(admission.budget, call)
    headers = dict(refusal.headers)
    if not admission.is_checked:
        headers.update([CHECK_KNOWN])
        parts.metrics.refused_without_check.inc()
    return web.Response(
        status=denial.STATUS,
        reason=refusal.reason,
        body=orjson.dumps(refusal.document),
        headers=headers,
        content_type=refusal.content_type,
    )


def _end(request: web.Request, parts: Services, trace: Trace) -> None:
    duration_s = time.perf_counter() - trace.started
    status_class = f"{trace.status // 100}xx" if trace.status else "cancelled"
    parts.metrics.count_call(trace.outcome, status_class)
    log.info(
        "call",
        workspace_id=trace.workspace_id,
        method=request.method,
        outcome=trace.outcome,
        status=trace.status,
        duration_ms=round(duration_s * 1000, 1),
    )
