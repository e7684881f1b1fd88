"""The gate in front of every handler: what is wrong with a request's head.

aiohttp answers some things before any handler or middleware can: an expectation with 100 or with
what was sent, HTTP/2.0 with `HTTP/2.0 200`. So requests are looked at where they are made.
"""

import asyncio

import structlog
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import ERROR, RequestHandler, _RequestFactory

from gateway.core.errors import GatewayError, MethodNotAllowed
from gateway.core.framing import check_head
from gateway.web.expectation import IS_EXPECTING, is_expecting, without_expectation
from gateway.web.problems import end_connection, problem

log = structlog.get_logger()

CALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

# RFC 9110 sections 9.3.6 and 9.3.8: a tunnel is not what this proxy is for, and an echo of what
# was sent shows credentials.
_REFUSED_METHODS = (hdrs.METH_CONNECT, hdrs.METH_TRACE)

_FAULT = web.RequestKey("fault", GatewayError)


def gated(make_request: _RequestFactory) -> _RequestFactory:
    """Make requests that know what is wrong with them, and that only we answer."""

    def make(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        request = make_request(_without_reflexes(message), payload, protocol, writer, task)
        request[IS_EXPECTING] = is_expecting(message)
        try:
            check_head(message.version, message.raw_headers)
        except GatewayError as fault:
            request[_FAULT] = fault
        return request

    return make


def _without_reflexes(message: RawRequestMessage) -> RawRequestMessage:
    """The message without what aiohttp would answer by itself, or in a version that is not ours."""
    if message.upgrade or message.chunked:
        # The parser drops what it already has behind an upgrade that nobody takes: the answer to a
        # later request would be taken for the answer to the one that was dropped. And it makes the
        # last trailer of a body in chunks a field of the next request, maybe another caller's.
        message = message._replace(should_close=True)
    if message.version != HttpVersion10 or message is ERROR:
        message = message._replace(version=HttpVersion11)
    return without_expectation(message)


@web.middleware
async def refuse_faulty(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what the gate found, and nothing more on this connection: its framing is in doubt."""
    fault = request.get(_FAULT)
    if fault is None and request.method in _REFUSED_METHODS:
        fault = MethodNotAllowed(_allowed(request))
    if fault is None:
        return await handler(request)
    log.info("request_refused", cause=type(fault).__name__)
    answer = problem(fault)
    end_connection(answer)
    return answer


def _allowed(request: web.Request) -> tuple[str, ...]:
    """The methods of this address; what has none of its own is taken for a call's."""
    error = request.match_info.http_exception
    if isinstance(error, web.HTTPMethodNotAllowed):
        return tuple(sorted(error.allowed_methods))
    return CALL_METHODS
