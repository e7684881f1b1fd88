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
from gateway.web.overload import Sender
from gateway.web.problems import problem, problem_bytes
from gateway.web.request_gate import gated
from gateway.web.request_scheduler import Waiting
from gateway.web.services import SERVICES, Services
from gateway.web.shedding import SHED, SHED_AND_CLOSED, is_plain_call

log = structlog.get_logger()

# The first two must differ: by its limit aiohttp's error tells which of them it was.
TARGET_BYTES_MAX = 8 * 1024
FIELD_BYTES_MAX = 16 * 1024
FIELDS_MAX = 128
# Of a head that comes in several parts; 128 fields of 16 KiB would be 2 MiB of every connection.
HEAD_BYTES_MAX = 64 * 1024

# How long a caller may take to read an answer of ours.
ANSWER_TIMEOUT_S = 30.0

# How much of a request that waits for its start is read at most, and what is read at once.
WAITING_BYTES_MAX = 64 * 1024

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
        server.descriptors = cast("Descriptors", self.app.get(DESCRIPTORS))
        server.services = cast("Services", self.app.get(SERVICES))
        server.request_handler = cast("Any", calls_first(self.app, server.request_handler))
        server.request_factory = gated(server.request_factory)
        # A misspelt option fails here; at the first connection it would be too late.
        server()
        return server


class _Server(web.Server):
    connections_max: int
    descriptors: Descriptors
    services: Services

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
    __slots__ = (
        "_head_bytes",
        "_head_deadline",
        "_header_timeout_s",
        "_is_started",
        "_last_payload",
        "_overload",
        "_services",
        "_waiting",
    )

    def __init__(self, manager: "_Server", *, header_timeout_s: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._services = manager.services
        self._overload = manager.services.overload
        self._waiting: Waiting[Sender] | None = None
        self._is_started = False
        self._header_timeout_s = header_timeout_s
        self._head_deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._last_payload: StreamReader = EMPTY_PAYLOAD
        # The parser counts a request once too often if its body came after its head, and is then
        # full one request sooner than aiohttp thinks: nobody would look at what it holds.
        self._max_msg_queue_size -= 1

    def data_received(self, data: bytes) -> None:
        """Parse what came; if it begins a request, as soon as the scheduler starts it."""
        if self._waiting is not None:
            self._wait_with(self._waiting, data)
        elif not self._begins_request(data):
            self._parse(data)
        elif not (self._close or self._force_close):
            self._waiting = self._overload.wait_to_start(self, data)
            if self._waiting is None:
                self._is_started = True
                self._parse(data)
            elif len(data) > WAITING_BYTES_MAX:
                self._pause_transport_reading()

    def _begins_request(self, data: bytes) -> bool:
        """Whether this is neither of the present request nor of a head that has begun."""
        return (
            not self._request_in_progress
            and self._head_deadline is None
            and self._last_payload.is_eof()
            and bool(data)
        )

    def _wait_with(self, waiting: Waiting[Sender], data: bytes) -> None:
        waiting.data += data
        if len(waiting.data) > WAITING_BYTES_MAX:
            self._pause_transport_reading()

    def start_request(self, request: Waiting[Sender]) -> None:
        """Parse the bytes of a request that waited, and serve it."""
        self._is_started = True
        self._parse(self._end_wait(request))

    def use_start(self) -> bool:
        """Whether the scheduler started this request; true once for every start."""
        is_started, self._is_started = self._is_started, False
        return is_started

    def shed_request(self, request: Waiting[Sender]) -> None:
        """Answer a call that waited with 503, in the cheapest way if it is a plain one.

        The parser reads it: nobody else can say for sure where it ends.
        """
        waiter, self._waiter = self._waiter, None
        data = self._end_wait(request)
        super().data_received(data)
        self._waiter = waiter
        is_idle = waiter is not None and not waiter.done()
        if is_idle and len(self._messages) == 1 and is_plain_call(*self._messages[0]):
            self._write_shed(cast("RawRequestMessage", self._messages.popleft()[0]))
            return
        if is_idle and self._messages:
            cast("asyncio.Future[None]", waiter).set_result(None)
        self._follow_head(data)

    def _write_shed(self, message: RawRequestMessage) -> None:
        cast("Any", self._parser).message_consumed()
        self._end_head()
        self._overload.count_shed()
        is_last = message.should_close or self._services.is_draining or self._paused
        if self.transport is not None and not self._paused:
            self.transport.write(SHED_AND_CLOSED if is_last else SHED)
        if is_last:
            self.force_close()
        else:
            self._restart_keepalive()

    def _end_wait(self, request: Waiting[Sender]) -> bytes:
        self._waiting = None
        if len(request.data) > WAITING_BYTES_MAX:
            self._resume_transport_reading()
        return request.data

    def _restart_keepalive(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )

    def _process_keepalive(self) -> None:
        if self._waiting is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None
            self._restart_keepalive()

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        self._follow_head(data)

    def _follow_head(self, data: bytes) -> None:
        """A head must end in time, a body must not be read over its fault."""
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
        if self._waiting is not None:
            # It arrived before the end.
            self._overload.forget(self._waiting)
            self.start_request(self._waiting)
        # aiohttp would from now on throw away what comes of the body of the present one, too.
        if not self._request_in_progress or self._last_payload.is_eof():
            super().close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection and what was to happen on it."""
        self._end_head()
        if self._waiting is not None:
            self._overload.forget(self._waiting)
            self._waiting = None
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
