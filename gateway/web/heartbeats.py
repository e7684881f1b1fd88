"""POST /registry/heartbeat: cumulative spend in, the committed budget out."""

from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.core.budget import budget_document
from gateway.core.counter import REPORT_CENTS_MAX, Outcome, clamp
from gateway.core.errors import GatewayError, StorageUnavailable, UnknownWorkspace
from gateway.core.workspaces import Liveness, is_workspace_id
from gateway.log_limit import LogLimit
from gateway.storage.booking import Booking, Heartbeat
from gateway.web.access import bearer_sha256
from gateway.web.json_body import json_response, parse, read_object
from gateway.web.metrics import Metrics
from gateway.web.services import services

BODY_BYTES_MAX = 64 * 1024

HEARTBEAT_FAILURES = web.AppKey("heartbeat_failures", LogLimit)

# What a 32-bit column of the platform holds: 68 years of uptime.
COUNT_MAX = 2**31 - 1


def _whole_number(value: object) -> object:
    """JSON has one kind of number: 12.0 is 12, 12.5 is none of ours, nor is "12" or true."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a whole number")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("must be a whole number, without a fraction")
    return int(value)


def _count(value: object) -> object:
    number = _whole_number(value)
    return min(max(number, 0), COUNT_MAX) if isinstance(number, int) else number


WholeNumber = Annotated[int | None, BeforeValidator(_whole_number)]
Count = Annotated[int | None, BeforeValidator(_count)]
StreamName = Annotated[str | None, Field(max_length=200)]


class HeartbeatBody(BaseModel):
    """The members that count; what else an agent sends is its own business."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    workspace_id: str
    monthly_spend: WholeNumber = None
    uptime_seconds: Count = None
    active_tasks: Count = None
    current_task: str | None = None
    error_rate: float | None = Field(None, allow_inf_nan=False)
    sample_error: str | None = None
    runtime_state: str | None = None
    runtime_metadata: dict[str, Any] | None = None
    instance_id: StreamName = None
    counter_epoch: StreamName = None

    def heartbeat(self, token_sha256: bytes | None) -> Heartbeat:
        """The heartbeat as storage wants it, its report clamped, with the token it came with."""
        liveness = Liveness(
            self.uptime_seconds,
            self.active_tasks,
            self.current_task,
            self.error_rate,
            self.sample_error,
            self.runtime_state,
            self.runtime_metadata,
        )
        return Heartbeat(
            self.workspace_id,
            clamp(self.monthly_spend or 0),
            self.instance_id or "",
            self.counter_epoch or "",
            liveness,
            token_sha256,
        )


async def post_heartbeat(request: web.Request) -> web.Response:
    """Book what the agent reports; the answer follows the commit."""
    workspace_id = None
    try:
        body = await parse(HeartbeatBody, await read_object(request, BODY_BYTES_MAX))
        if not is_workspace_id(body.workspace_id):
            raise UnknownWorkspace
        workspace_id = body.workspace_id
        return await _record(request, body)
    except GatewayError as error:
        _count_failure(request, workspace_id, error)
        raise


def _count_failure(request: web.Request, workspace_id: str | None, error: GatewayError) -> None:
    """Count and log a heartbeat that was not booked; `workspace_id` is None if it has none."""
    result, cause = "rejected", type(error).__name__
    if isinstance(error, StorageUnavailable):
        result, cause = "unavailable", error.cause
    services(request).metrics.heartbeats.labels(result).inc()
    request.app[HEARTBEAT_FAILURES].warning(
        (workspace_id, cause), workspace_id=workspace_id, cause=cause, status=error.status
    )


async def _record(request: web.Request, body: HeartbeatBody) -> web.Response:
    parts = services(request)
    booking = await parts.ledger.record(body.heartbeat(bearer_sha256(request)))
    _count_booking(parts.metrics, body.monthly_spend or 0, booking)
    return json_response({"status": "ok", "budget": budget_document(booking.budget.budget)})


def _count_booking(metrics: Metrics, reported_cents: int, booking: Booking) -> None:
    metrics.heartbeats.labels(booking.outcome.value).inc()
    metrics.booked_cents.inc(booking.amount_cents)
    if reported_cents < 0:
        metrics.clamped_reports.labels("negative").inc()
    if reported_cents > REPORT_CENTS_MAX:
        metrics.clamped_reports.labels("too_large").inc()
    if booking.outcome is Outcome.RESET:
        metrics.counter_resets.inc()
    if booking.outcome is Outcome.STALE:
        metrics.ignored_reports.inc()
