"""ANY /workspaces/{id}/a2a: check the budget, then stream the call to the agent and back.

The order: the target is valid, the budget has room (or the call is free, or the budget cannot be
read), and only then is a byte of the body read and the agent spoken to.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import structlog
from aiohttp import hdrs, web

from gateway.core import denial
from gateway.core.calls import Call, is_free_by_method, read_call
from gateway.core.errors import (
    BadGateway,
    BadRequest,
    ContentTooLarge,
    GatewayError,
    GatewayTimeout,
    RequestTimeout,
    Unavailable,
)
from gateway.core.headers import end_to_end
from gateway.core.target import CallTarget, read_call_target
from gateway.web import metrics
from gateway.web.admission import Admission
from gateway.web.json_body import read_body
from gateway.web.request_id import REQUEST_ID
from gateway.web.services import Services, services
from gateway.web.upstream import UpstreamAnswer, UpstreamRequest

log = structlog.get_logger()

# Only this much of a call to a workspace over its budget is looked into.
INSPECTED_BYTES_MAX = 1024 * 1024

# Agents send a heartbeat, and register when they start, about this often.
REGISTER_RETRY_S = 30

CHECK_SKIPPED = ("Budget-Check", "skipped")

_BODILESS_STATUSES = (204, 304)
_CHARSET = re.compile(r"charset[^=;]*=\s*[\"']?([^;\"'\s]*)")
_ABSENT_FIELDS = web.ResponseKey("absent_fields", list[str])


@dataclass(slots=True)
class Trace:
    """What is known of a call when it ends, for its log line and its metrics."""

    started: float
    workspace_id: str = ""
    outcome: str = metrics.REJECTED
    status: int = 0


async def leave_expectation(_request: web.Request) -> None:
    """Do not say 100 Continue before the budget was checked (RFC 9110 section 10.1.1)."""


async def continue_if_expected(request: web.Request) -> None:
    """Say 100 Continue to a caller who waits for it; any other expectation is ignored."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What was written so far is no answer yet; aiohttp would take it for one.
        request.writer.output_size = 0


async def proxy_call(request: web.Request) -> web.StreamResponse:
    """Answer a call, and count and log what became of it."""
    trace = Trace(time.perf_counter())
    try:
        answer = await _answer(request, trace)
        trace.status = answer.status
        return answer
    except GatewayError as error:
        trace.status = error.status
        is_upstream = isinstance(error, BadGateway | GatewayTimeout)
        trace.outcome = metrics.UPSTREAM_ERROR if is_upstream else metrics.REJECTED
        raise
    finally:
        _end(request, trace)


async def _answer(request: web.Request, trace: Trace) -> web.StreamResponse:
    target = read_call_target(request.raw_path)
    trace.workspace_id = target.workspace_id
    admission = await services(request).admissions.admit(target.workspace_id)
    body = None
    if admission.is_over_budget and not is_free_by_method(request.method):
        body, call = await _inspect(request, target)
        if not call.is_free:
            trace.outcome = metrics.REFUSED
            return _refuse(services(request), admission, call)
    trace.outcome = metrics.SKIPPED_CHECK if admission.is_check_skipped else metrics.FORWARDED
    try:
        return await _forward(request, target, admission, body)
    except GatewayError as error:
        # Our own answer in the agent's place tells of a skipped check, too.
        error.headers.update([CHECK_SKIPPED] if admission.is_check_skipped else [])
        raise


async def _inspect(request: web.Request, target: CallTarget) -> tuple[bytes | None, Call]:
    """The body of a call to a workspace over its budget, if it can be read, and what it wants."""
    body: bytes | None = None
    if _is_readable(request):
        await continue_if_expected(request)
        with contextlib.suppress(BadRequest, ContentTooLarge, RequestTimeout):
            body = await read_body(request, INSPECTED_BYTES_MAX)
    return body, read_call(request.method, target.path, body)


def _is_readable(request: web.Request) -> bool:
    """Whether the agent will read the same text as we do: no coding, no other charset.

    Agents decode by the charset they are told (aiohttp's any, UTF-7 among them), which can hide
    one method behind another.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        return False
    types = request.headers.getall(hdrs.CONTENT_TYPE, [])
    charsets = _CHARSET.findall(";".join(types).lower())
    return len(types) <= 1 and all(charset in ("utf-8", "utf8") for charset in charsets)


def _refuse(parts: Services, admission: Admission, call: Call) -> web.Response:
    assert admission.budget is not None  # noqa: S101 - only a budget that was read is exceeded
    for window in admission.budget.exceeded:
        parts.metrics.refusals.labels(window.period.name).inc()
    refusal = denial.deny(admission.budget, call)
    return web.Response(
        status=denial.STATUS,
        body=orjson.dumps(refusal.document),
        headers=refusal.headers,
        content_type=refusal.content_type,
    )


async def _forward(
    request: web.Request, target: CallTarget, admission: Admission, body: bytes | None
) -> web.StreamResponse:
    parts = services(request)
    if admission.agent_url is None:
        raise Unavailable("This workspace's agent has not registered.", REGISTER_RETRY_S)
    body_bytes_max = parts.config.proxy.request_body_bytes_max
    if (request.content_length or 0) > body_bytes_max:
        raise ContentTooLarge(f"The body must not be over {body_bytes_max} bytes.")
    outgoing = UpstreamRequest(
        request.method,
        target.upstream_url(admission.agent_url),
        _request_fields(request),
        _request_body(request, body, body_bytes_max),
    )
    started = time.perf_counter()
    async with parts.upstream.exchange(outgoing) as answer:
        parts.metrics.first_byte_seconds.observe(time.perf_counter() - started)
        try:
            return await _stream_back(request, answer, admission)
        finally:
            parts.metrics.upstream_seconds.observe(time.perf_counter() - started)


def _request_fields(request: web.Request) -> list[tuple[str, str]]:
    """The fields that the agent gets: the caller's own, less the hop's, and who the caller is."""
    removed = {"host", "expect", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
    removed |= {"forwarded", "x-request-id"}
    fields = [
        (name, value)
        for name, value in end_to_end(list(request.headers.items()))
        if name.lower() not in removed
    ]
    fields.append(("X-Forwarded-For", request.remote or "unknown"))
    fields.append(("X-Forwarded-Proto", request.scheme))
    fields.append(("X-Forwarded-Host", request.host))
    fields.append(("X-Request-ID", request[REQUEST_ID]))
    return fields


def _request_body(
    request: web.Request, read: bytes | None, bytes_max: int
) -> AsyncIterator[bytes] | None:
    if read is not None:
        return _once(read) if read else None
    return _limited(request, bytes_max) if request.can_read_body else None


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _limited(request: web.Request, bytes_max: int) -> AsyncIterator[bytes]:
    await continue_if_expected(request)
    body_bytes = 0
    async for chunk in request.content.iter_any():
        body_bytes += len(chunk)
        if body_bytes > bytes_max:
            raise ContentTooLarge(f"The body must not be over {bytes_max} bytes.")
        yield chunk


async def _stream_back(
    request: web.Request, upstream: UpstreamAnswer, admission: Admission
) -> web.StreamResponse:
    answer = web.StreamResponse(status=upstream.status, reason=upstream.reason)
    answer.headers.extend(end_to_end(upstream.headers))
    if admission.is_check_skipped:
        answer.headers.add(*CHECK_SKIPPED)
    # aiohttp writes these fields into every answer; here they are the agent's or nobody's.
    added: tuple[str, ...] = (hdrs.CONTENT_TYPE, hdrs.SERVER)
    answer[_ABSENT_FIELDS] = [name for name in added if name not in answer.headers]
    await answer.prepare(request)
    if request.method == hdrs.METH_HEAD or upstream.status in _BODILESS_STATUSES:
        return answer
    try:
        # Every chunk goes on at once: an event stream must not wait for a buffer to fill.
        async for chunk in upstream.chunks:
            async with asyncio.timeout(services(request).config.proxy.idle_timeout_s):
                await answer.write(chunk)
    except (BadGateway, GatewayTimeout) as error:
        _break_off(request, error.detail)
    except TimeoutError:
        _break_off(request, "The caller read nothing for too long.")
    except ConnectionError:
        # The caller left; aiohttp finds out by itself, and the agent's connection is closed.
        log.info("caller_left")
    return answer


def _break_off(request: web.Request, detail: str) -> None:
    """Show the caller a broken answer as broken (RFC 9112 section 8): no last chunk, no end."""
    log.warning("answer_broken_off", detail=detail)
    if request.transport is not None:
        request.transport.abort()


async def remove_added_fields(_request: web.Request, answer: web.StreamResponse) -> None:
    """Take out of an answer what aiohttp added: its version, and what the agent did not send."""
    for name in answer.get(_ABSENT_FIELDS, [hdrs.SERVER]):
        answer.headers.popall(name, None)


def _end(request: web.Request, trace: Trace) -> None:
    duration_s = time.perf_counter() - trace.started
    status_class = f"{trace.status // 100}xx" if trace.status else "cancelled"
    services(request).metrics.calls.labels(trace.outcome, status_class).inc()
    log.info(
        "call",
        workspace_id=trace.workspace_id,
        method=request.method,
        outcome=trace.outcome,
        status=trace.status,
        duration_ms=round(duration_s * 1000, 1),
    )
