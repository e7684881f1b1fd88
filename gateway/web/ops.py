"""Liveness, readiness, metrics, and the description of the API."""

from importlib.resources import files

from aiohttp import web

from gateway.core.errors import StorageUnavailable
from gateway.core.periods import LEGACY_PERIOD, PERIODS
from gateway.web.json_body import json_response
from gateway.web.metrics import Gauge
from gateway.web.services import Services, services

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def get_health(_request: web.Request) -> web.Response:
    """The process is alive."""
    return json_response({"status": "ok"})


async def get_readiness(request: web.Request) -> web.Response:
    """Whether to send calls here: a gateway that fails open is degraded, not dead."""
    parts = services(request)
    is_up = await parts.gate.is_answering()
    document = {"status": "ok" if is_up else "degraded", "database": "up" if is_up else "down"}
    if not parts.is_draining and not parts.admissions.is_cold:
        return json_response(document)
    answer = json_response({**document, "status": "draining" if parts.is_draining else "cold"})
    answer.set_status(503)
    return answer


async def get_metrics(request: web.Request) -> web.Response:
    """All metrics of all workers, in Prometheus' text format."""
    parts = services(request)
    gauges = _process_gauges(parts) + await _ledger_gauges(parts)
    return web.Response(
        body=parts.metrics.exposition(lambda: gauges),
        headers={"Content-Type": METRICS_CONTENT_TYPE, "Cache-Control": "no-store"},
    )


def _process_gauges(parts: Services) -> list[Gauge]:
    name, help_ = "gateway_database_connections", "Database connections of this worker by use."
    gauges: list[Gauge] = []
    for use, connections in parts.connections.items():
        idle, size = connections.idle_count, connections.size
        for state, count in (("open", connections.open_count), ("busy", size - idle)):
            gauges.append((name, help_, {"use": use, "state": state}, count))
    is_open = float(parts.gate.is_open)
    gauges.append(
        ("gateway_breaker_open", "Whether this worker lets calls pass unchecked.", {}, is_open)
    )
    return gauges


async def _ledger_gauges(parts: Services) -> list[Gauge]:
    """The ledger's size; nothing while the database is away, as Prometheus expects."""
    try:
        size = await parts.registry.ledger_size()
    except StorageUnavailable:
        return []
    return [
        ("gateway_ledger_rows", "Rows of the ledger, estimated.", {}, size.rows_estimate),
        ("gateway_ledger_size_bytes", "The ledger on disk.", {}, size.size_bytes),
    ]


async def get_openapi(_request: web.Request) -> web.Response:
    """The API's description, with the periods that there are."""
    text = files("gateway.web").joinpath("openapi.yaml").read_text(encoding="utf-8")
    text = text.replace("PERIOD_NAMES", ", ".join(period.name for period in PERIODS))
    text = text.replace("FIRST_PERIOD", PERIODS[0].name)
    text = text.replace("LEGACY_PERIOD", LEGACY_PERIOD.name)
    return web.Response(text=text, content_type="application/yaml")
