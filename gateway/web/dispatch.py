"""The way of a request to its handler: a short one for calls, aiohttp's router for everything else.

The router compares a path with every route that begins alike, which takes as long as the check of
a budget.
"""

import re
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

# The targets of calls that stand for themselves; the router may read others in its own way.
PLAIN_CALL = re.compile(r"/workspaces/[A-Za-z0-9._~-]+/a2a(?=[/?]|\Z)", re.ASCII)

# The name of the route whose handler takes calls.
CALL_ROUTE = "call"

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


def calls_first(app: web.Application, handle: Handle) -> Handle:
    """Give calls to the handler of CALL_ROUTE, everything else to `handle`."""
    route = next(iter(app.router.named_resources()[CALL_ROUTE]))
    match = UrlMappingMatchInfo({}, route)
    match.add_app(app)
    match.current_app = app
    match.freeze()
    answer: Handler = route.handler
    for middleware in reversed(app.middlewares):
        answer = partial(middleware, handler=answer)

    def dispatch(request: web.Request) -> Awaitable[web.StreamResponse]:
        if not PLAIN_CALL.match(request.raw_path):
            return handle(request)
        request._match_info = match  # what the router would have set
        return answer(request)

    return dispatch
