"""The parts that handlers use, handed over by the application."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.config import Config
from gateway.storage.budgets import Budgets
from gateway.storage.database import Connections
from gateway.storage.dry_run import DryRuns
from gateway.storage.gate import Gate
from gateway.storage.ledger import Ledger
from gateway.storage.registry import Registry
from gateway.web.access import Access
from gateway.web.admission import Admissions
from gateway.web.calls_under_way import CallsUnderWay
from gateway.web.exposition import Exposition
from gateway.web.metrics import Metrics
from gateway.web.overload import Overload
from gateway.web.shared import Shared
from gateway.web.unchecked_calls import UncheckedCalls

if TYPE_CHECKING:
    from gateway.web.upstream import Upstream


@dataclass(slots=True)
class Services:
    """Everything a handler may call. Made once, in app.py."""

    config: Config
    metrics: Metrics
    gate: Gate
    ledger: Ledger
    budgets: Budgets
    dry_runs: DryRuns
    registry: Registry
    access: Access
    admissions: Admissions
    calls_under_way: CallsUnderWay
    overload: Overload
    upstream: "Upstream"
    # By the name of what they serve.
    connections: dict[str, Connections | Gate]
    exposition: Exposition
    # Whether a check would be answered now.
    database_probe: Shared[bool]
    unchecked_calls: UncheckedCalls
    is_draining: bool = field(default=False)


SERVICES = web.AppKey("services", Services)


def services(request: web.Request) -> Services:
    """The parts of the application that serves this request."""
    return request.app[SERVICES]
