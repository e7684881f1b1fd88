"""aiohttp's server with our own limits, and our own answer to what is no HTTP.

aiohttp answers such a request before any middleware sees it, as plain text that repeats the
bytes, and logs a traceback with them.
"""

import asyncio
from typing import Any, cast

import structlog
from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import ERROR, RequestHandler, _ErrInfo

from gateway.core.errors import (
    BadRequest,
    GatewayError,
    HeaderTooLarge,
    RequestTimeout,
    TargetTooLong,
    Unavailable,
    VersionNotSupported,
)
from gateway.web.call_answer import CallAnswer
from gateway.web.calls_under_way import break_off
from gateway.web.descriptors import DESCRIPTORS, Descriptors
from gateway.web.dispatch import calls_first
from gateway.web.lingering import hang_up
from gateway.web.problems import problem, problem_bytes
from gateway.web.request_gate import gated

log = structlog.get_logger()

# The first two must differ: by its limit aiohttp's error tells which of them it was.
TARGET_BYTES_MAX = 8 * 1024
FIELD_BYTES_MAX = 16 * 1024
FIELDS_MAX = 128
# Of a head that comes in several parts; 128 fields of 16 KiB would be 2 MiB of every connection.
HEAD_BYTES_MAX = 64 * 1024

# How long a caller may take to read an answer of ours.
ANSWER_TIMEOUT_S = 30.0

OVERLOADED = problem_bytes(Unavailable("The gateway has too many connections.", retry_after_s=1))

# What llhttp says about HTTP/1.2 or HTTP/3.0, and about the preface of HTTP/2.
_VERSION_REFUSED = ("Bad status line:\n  Invalid HTTP version:", "Pause on PRI/Upgrade:")


class Runner(web.AppRunner):
    """Serves an application; what cannot be read is answered by a problem document."""

    def __init__(self, app: web.Application, *, connections_max: int, **options: Any) -> None:
        super().__init__(
            app,
            max_line_size=TARGET_BYTES_MAX,
            max_field_size=FIELD_BYTES_MAX,
            max_headers=FIELDS_MAX,
            # aiohttp would read on for so long, and throw away, what nobody wanted.
            lingering_time=0,
            **options,
        )
        self._connections_max = connections_max

    async def _make_server(self) -> web.Server:
        server = cast("_Server", await super()._make_server())
        # aiohttp has no option for the class of its protocol.
        server.__class__ = _Server
        server.connections_max = self._connections_max
        server.descriptors = self.app[DESCRIPTORS]
        server.request_handler = cast("Any", calls_first(self.app, server.request_handler))
        server.request_factory = gated(server.request_factory)
        # A misspelt option fails here; at the first connection it would be too late.
        server()
        return server


class _Server(web.Server):
    connections_max: int
    descriptors: Descriptors

    def __call__(self) -> RequestHandler:
        # aiohttp's own falls back to all defaults, without a limit or a deadline of ours.
        return _Protocol(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection, or answer it at once where there are too many."""
        super().connection_made(handler, transport)
        if len(self._connections) > self.connections_max:
            log.warning("connection_refused", connections_max=self.connections_max)
            _refuse(handler, transport)
        elif self.descriptors.is_kept_back(transport.get_extra_info("socket").fileno()):
            self.descriptors.log_exhausted()
            _refuse(handler, transport)


def _refuse(handler: RequestHandler, transport: asyncio.Transport) -> None:
    transport.write(OVERLOADED)
    handler.force_close()


class _Protocol(RequestHandler):
    __slots__ = ("_head_bytes", "_head_deadline", "_header_timeout_s", "_last_payload")

    def __init__(self, manager: web.Server, *, header_timeout_s: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._header_timeout_s = header_timeout_s
        self._head_deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._last_payload: StreamReader = EMPTY_PAYLOAD
        # The parser counts a request once too often if its body came after its head, and is then
        # full one request sooner than aiohttp thinks: nobody would look at what it holds.
        self._max_msg_queue_size -= 1

    def data_received(self, data: bytes) -> None:
        """Parse what came; a head must end in time, a body must not be read over its fault."""
        super().data_received(data)
        if self._messages:
            self._end_head()
            self._take_last(*self._messages[-1])
        elif data and self._waiter is not None:
            self._begin_head()
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse_head(HeaderTooLarge("The header is too large."))

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on after a pause; aiohttp asks for it at every read."""
        # The parser may have stopped by itself, and hold what came, until the body is complete.
        if self._reading_paused or not self._last_payload.is_eof():
            super().resume_reading(resume_parser)

    def close(self) -> None:
        """Take no further request. Called for every connection when the worker stops."""
        # aiohttp would from now on throw away what comes of the body of the present one, too.
        if not self._request_in_progress or self._last_payload.is_eof():
            super().close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection and what was to happen on it."""
        self._end_head()
        super().connection_lost(exc)

    def _take_last(self, message: RawRequestMessage | _ErrInfo, payload: StreamReader) -> None:
        if not isinstance(message, _ErrInfo):
            self._last_payload = payload
        elif not self._last_payload.is_eof():
            # aiohttp answers the fault after this request; who reads its body would wait for ever.
            self._last_payload.set_exception(web.RequestPayloadError("The body is malformed."))

    def _begin_head(self) -> None:
        if self._head_deadline is None:
            # From here on the connection is not idle, and must not be closed as if it were.
            self.keep_alive(True)
            late = RequestTimeout("The header did not arrive in time.")
            self._head_deadline = self._loop.call_later(
                self._header_timeout_s, self._refuse_head, late
            )

    def _end_head(self) -> None:
        self._head_bytes = 0
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _refuse_head(self, error: GatewayError) -> None:
        """Answer a head that has no end yet like one that cannot be read."""
        if self._waiter is not None and not self._waiter.done():
            self._messages.append((_ErrInfo(error.status, error, error.detail), EMPTY_PAYLOAD))
            self._waiter.set_result(None)

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
        # The connection ends with it: aiohttp has no request here that could ask for more.
        answer = problem(_unreadable(exc))
        # aiohttp would write its own name and version.
        answer.headers[hdrs.SERVER] = "gateway"
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the rest of an answer, and hang up if the caller may not have finished."""
        if isinstance(resp, CallAnswer):
            # It was sent before, with a deadline of its own.
            resp, is_gone = await super().finish_response(request, resp, start_time)
        else:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    resp, is_gone = await super().finish_response(request, resp, start_time)
            except TimeoutError:
                log.info("answer_not_read")
                break_off(request)
                return resp, True
        is_unreadable = request.method == ERROR.method
        if not is_gone and (is_unreadable or not request.content.is_eof()):
            await self._hang_up()
        return resp, is_gone

    async def _hang_up(self) -> None:
        """End the connection so that the answer can be read."""
        if self.transport is not None and not self.transport.is_closing():
            await hang_up(self.transport, self)


def _unreadable(cause: BaseException | None) -> GatewayError:
    """What the parser's error means to a client; the error's own words repeat what was sent."""
    if isinstance(cause, GatewayError):
        return cause
    if isinstance(cause, LineTooLong) and cause.args[1] == TARGET_BYTES_MAX:
        return TargetTooLong(f"The target must not be over {TARGET_BYTES_MAX} bytes.")
    if isinstance(cause, LineTooLong):
        return HeaderTooLarge(f"A header field must not be over {FIELD_BYTES_MAX} bytes.")
    words = getattr(cause, "message", "")
    if words == "Too many headers received":
        return HeaderTooLarge(f"There must not be over {FIELDS_MAX} header fields.")
    if words.startswith(_VERSION_REFUSED):
        return VersionNotSupported("The gateway speaks HTTP/1.1 and HTTP/1.0.")
    return BadRequest("The request is no HTTP that this gateway reads.")
