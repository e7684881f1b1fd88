"""Carry a call to its agent and the answer back, byte for byte.

What is for this hop alone stays here, what tells of the way is added, everything else passes as
it was sent. A broken answer is shown broken, and a caller who leaves ends the agent's work.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import structlog
from aiohttp import hdrs, web

from gateway.core.agent_card import public_base
from gateway.core.errors import (
    BadRequest,
    ContentTooLarge,
    GatewayError,
    LoopDetected,
    RequestTimeout,
)
from gateway.core.framing import is_host
from gateway.core.headers import end_to_end
from gateway.core.hops import ABOUT_THE_WAY, Hop, fields_of_the_way, has_passed, public_origin
from gateway.core.networks import is_in, read_address
from gateway.core.target import host_of
from gateway.web.agent_cards import RpcCards
from gateway.web.calls_under_way import break_off
from gateway.web.expectation import continue_if_expected
from gateway.web.request_id import REQUEST_ID
from gateway.web.services import services
from gateway.web.upstream import UpstreamAnswer, UpstreamRequest

log = structlog.get_logger()

_REPLACED = ABOUT_THE_WAY | {"host", "expect", "x-request-id"}
_ABSENT_FIELDS = web.ResponseKey("absent_fields", list[str])

Fields = list[tuple[str, str]]


async def forward(
    request: web.Request, url: str, read: bytes | None, cards: RpcCards, added: Fields
) -> web.StreamResponse:
    """Send the call to `url` and stream the answer back with the `added` fields.

    `read` is the body where it had to be read before. Raises BadGateway, GatewayTimeout, and
    ContentTooLarge, RequestTimeout or BadRequest for the caller's body.
    """
    metrics = services(request).metrics
    body = request_body(request, read, cards)
    outgoing = UpstreamRequest(request.method, url, request_fields(request), body)
    started = time.perf_counter()
    async with services(request).upstream.exchange(outgoing) as answer:
        metrics.first_byte_seconds.observe(time.perf_counter() - started)
        try:
            return await _stream_back(request, await cards.rewritten(answer), added)
        finally:
            metrics.upstream_seconds.observe(time.perf_counter() - started)


def hop_of(request: web.Request) -> Hop:
    """Who opened the connection that a request came on, and what it asked for."""
    trusted = services(request).config.server.trusted_networks
    peer = request.remote
    is_trusted = bool(peer and trusted) and is_in(read_address(peer or ""), trusted)
    version = f"{request.version.major}.{request.version.minor}"
    return Hop(peer or "unknown", request.scheme, _host(request), version, is_trusted)


def _host(request: web.Request) -> str:
    """How the caller calls us; our own address towards HTTP/1.0, which need not say."""
    # Not request.host: without a Host it asks the name service, and waits for it.
    for host in (host_of(request.raw_path), request.headers.get(hdrs.HOST)):
        if host and is_host(host.encode()):
            return host
    host, port = request.transport.get_extra_info("sockname")[:2] if request.transport else ("", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def public_base_of(request: web.Request, workspace_id: str) -> str:
    """The workspace's address for callers: below the public URL, or as this one reached us."""
    public_url = services(request).config.server.public_url
    origin = public_origin(_received(request), hop_of(request))
    base = None if public_url is None else str(public_url)
    return public_base(base, origin.scheme, origin.host, workspace_id)


def request_fields(request: web.Request) -> Fields:
    """The fields that the agent gets: the caller's own, less the hop's, and who the caller is.

    Raises LoopDetected for a call that was here before.
    """
    name = services(request).config.server.name
    received = _received(request)
    if has_passed(received, name):
        raise LoopDetected("This call was here before: an agent's URL leads back to the gateway.")
    passing = [
        (field, value) for field, value in end_to_end(received) if field.lower() not in _REPLACED
    ]
    way = fields_of_the_way(received, hop_of(request), name)
    return [*passing, *way, ("X-Request-ID", request[REQUEST_ID])]


def _received(request: web.Request) -> Fields:
    return [(field.decode(), value.decode()) for field, value in request.raw_headers]


def request_body(
    request: web.Request, read: bytes | None, cards: RpcCards
) -> bytes | AsyncIterator[bytes] | None:
    """The body as the agent gets it: at once where all of it is here, else as it arrives.

    Raises ContentTooLarge where its length is known; else the iterator does.
    """
    bytes_max = services(request).config.proxy.request_body_bytes_max
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    if not request.body_exists:
        return None
    if read is None and request.content.is_eof() and request.content.exception() is None:
        read = request.content.read_nowait()
    if read is None:
        return _arriving(request, cards, bytes_max)
    if len(read) > bytes_max:
        raise _too_large(bytes_max)
    cards.see(read)
    return read


async def _arriving(request: web.Request, cards: RpcCards, bytes_max: int) -> AsyncIterator[bytes]:
    await continue_if_expected(request)
    timeout_s = services(request).config.proxy.request_body_timeout_s
    body_bytes = 0
    while chunk := await _next_part(request, timeout_s):
        body_bytes += len(chunk)
        if body_bytes > bytes_max:
            raise _too_large(bytes_max)
        cards.see(chunk)
        yield chunk


async def _next_part(request: web.Request, timeout_s: float) -> bytes:
    try:
        async with asyncio.timeout(timeout_s):
            return await request.content.readany()
    except TimeoutError:
        raise RequestTimeout("The body did not arrive in time.") from None
    except web.RequestPayloadError:
        raise BadRequest("The body is not framed as HTTP says.") from None


def _too_large(bytes_max: int) -> ContentTooLarge:
    return ContentTooLarge(f"The body must not be over {bytes_max} bytes.")


async def _stream_back(
    request: web.Request, upstream: UpstreamAnswer, added: Fields
) -> web.StreamResponse:
    answer = _answer_head(request, upstream, added)
    try:
        await answer.prepare(request)
        await _write_body(answer, upstream, services(request).config.proxy.idle_timeout_s)
    except GatewayError as error:
        # The agent's answer broke off, or the caller's body did, while the answer was under way.
        _break_off(request, error.detail)
    except TimeoutError:
        _break_off(request, "The caller read nothing for too long.")
    except ConnectionError:
        # The caller left; aiohttp finds out by itself, and the agent's connection is closed.
        log.info("caller_left")
    return answer


async def _write_body(
    answer: web.StreamResponse, upstream: UpstreamAnswer, idle_timeout_s: float
) -> None:
    # Every chunk goes on at once: an event stream must not wait for a buffer to fill.
    async for chunk in upstream.chunks:
        async with asyncio.timeout(idle_timeout_s):
            await answer.write(chunk)
    async with asyncio.timeout(idle_timeout_s):
        await answer.write_eof()


def _answer_head(
    request: web.Request, upstream: UpstreamAnswer, added: Fields
) -> web.StreamResponse:
    answer = web.StreamResponse(status=upstream.status, reason=upstream.reason)
    answer.headers.extend(end_to_end(upstream.headers))
    answer.headers.extend(added)
    # aiohttp writes these fields into every answer; here they are the agent's or nobody's.
    written: tuple[str, ...] = (hdrs.CONTENT_TYPE, hdrs.SERVER)
    answer[_ABSENT_FIELDS] = [name for name in written if name not in answer.headers]
    if not request.content.is_eof():
        # What was not read must not be taken for the next request.
        answer.force_close()
    return answer


def _break_off(request: web.Request, detail: str) -> None:
    log.warning("answer_broken_off", detail=detail)
    break_off(request)


async def remove_added_fields(_request: web.Request, answer: web.StreamResponse) -> None:
    """Take out of an answer what aiohttp added: its version, and what the agent did not send."""
    for name in answer.get(_ABSENT_FIELDS, [hdrs.SERVER]):
        answer.headers.popall(name, None)
