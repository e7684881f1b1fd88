"""What the pages' handlers use beside the gateway's other parts."""

from dataclasses import dataclass, field

from aiohttp import web

from gateway.storage.spending import Spending
from gateway.web.page.attempts import Attempts
from gateway.web.page.live import Live


@dataclass(frozen=True, slots=True)
class PageParts:
    """Made once, in app.py."""

    spending: Spending
    live: Live
    attempts: Attempts = field(default_factory=Attempts)


PAGE_PARTS = web.AppKey("page_parts", PageParts)


def page_parts(request: web.Request) -> PageParts:
    """The parts of the application that serves this request."""
    return request.app[PAGE_PARTS]
