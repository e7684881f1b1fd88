"""aiohttp's server with our own answer to what is no HTTP.

aiohttp answers such a request before any middleware sees it, as plain text that repeats the
bytes, and logs a traceback with them.
"""

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.core.errors import BadRequest
from gateway.web.problems import problem

log = structlog.get_logger()


class Runner(web.AppRunner):
    """Serves an application; what cannot be read is answered by a problem document."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        # aiohttp has no option for the class of its protocol.
        server.__class__ = _Server
        return server


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be read; aiohttp's own where it is our mistake."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        log.info("request_unreadable", cause=type(exc).__name__)
        answer = problem(BadRequest("The request is no HTTP that this gateway reads."))
        answer.force_close()
        return answer
