"""Liveness, readiness, metrics, and the description of the API."""

from functools import cache
from importlib.resources import files

from aiohttp import web

from gateway.core.periods import LEGACY_PERIOD, PERIODS
from gateway.web.json_body import json_response
from gateway.web.services import Services, services

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Readiness is answered within 100 ms.
PROBE_TIMEOUT_S = 0.08


async def get_health(_request: web.Request) -> web.Response:
    """The process is alive."""
    return json_response({"status": "ok"})


async def get_readiness(request: web.Request) -> web.Response:
    """Whether to send calls here: a gateway that fails open is degraded, not dead."""
    parts = services(request)
    is_up = await _is_database_up(parts)
    document = {"status": "ok" if is_up else "degraded", "database": "up" if is_up else "down"}
    if not parts.is_draining and not parts.admissions.is_cold:
        return json_response(document)
    answer = json_response({**document, "status": "draining" if parts.is_draining else "cold"})
    answer.set_status(503)
    return answer


async def _is_database_up(parts: Services) -> bool:
    """Whether the database answers within what a probe waits for; a late answer is none."""
    try:
        return await parts.database_probe.value(PROBE_TIMEOUT_S)
    except TimeoutError:
        return False


async def get_metrics(request: web.Request) -> web.Response:
    """All metrics of all workers, in Prometheus' text format."""
    return web.Response(
        body=await services(request).exposition.text(),
        headers={"Content-Type": METRICS_CONTENT_TYPE, "Cache-Control": "no-store"},
    )


async def get_openapi(_request: web.Request) -> web.Response:
    """The API's description."""
    return web.Response(body=api_description(), content_type="application/yaml", charset="utf-8")


@cache
def api_description() -> bytes:
    """The description with the periods that there are, rendered once: anybody may ask for it."""
    text = files("gateway.web").joinpath("openapi.yaml").read_text(encoding="utf-8")
    text = text.replace("PERIOD_NAMES", ", ".join(period.name for period in PERIODS))
    text = text.replace("FIRST_PERIOD", PERIODS[0].name)
    return text.replace("LEGACY_PERIOD", LEGACY_PERIOD.name).encode()
