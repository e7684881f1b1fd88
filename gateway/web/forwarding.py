"""Carry a call to its agent and the answer back, byte for byte.

What is for this hop alone stays here, what tells of the way is added, everything else passes as
it was sent. A broken answer is shown broken, and a caller who leaves ends the agent's work.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog
from aiohttp import HttpVersion11, hdrs, web

from gateway.config import Proxy
from gateway.core.agent_card import public_base
from gateway.core.credentials import without_credentials, without_session_cookies
from gateway.core.errors import (
    BadRequest,
    ContentTooLarge,
    GatewayError,
    LoopDetected,
    RequestTimeout,
)
from gateway.core.framing import is_host
from gateway.core.headers import HOP_BY_HOP, end_to_end, for_browser
from gateway.core.hops import ABOUT_THE_WAY, Hop, fields_of_the_way, has_passed, public_origin
from gateway.core.networks import Network, is_in, read_address
from gateway.core.target import host_of
from gateway.web.agent_cards import RpcCards
from gateway.web.call_answer import CallAnswer
from gateway.web.calls_under_way import break_off
from gateway.web.expectation import continue_if_expected
from gateway.web.request_id import REQUEST_ID
from gateway.web.same_origin import is_from_page
from gateway.web.services import Services
from gateway.web.upstream import UpstreamAnswer, UpstreamRequest

log = structlog.get_logger()

_REPLACED = HOP_BY_HOP | ABOUT_THE_WAY | {"host", "expect", "x-request-id"}
_NOT_SENT_BACK = HOP_BY_HOP | {"x-request-id"}

Fields = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a call came here: its fields as they were received, and the hop that they came over."""

    fields: Fields
    hop: Hop


def read_arrival(request: web.Request, trusted: Sequence[Network]) -> Arrival:
    """Who opened the connection that a request came on, and what it asked for.

    `trusted` are the networks of the proxies in front of this gateway.
    """
    fields = [(field.decode(), value.decode()) for field, value in request.raw_headers]
    peer = request.remote
    is_trusted = bool(peer and trusted) and is_in(read_address(peer or ""), trusted)
    version = "1.1" if request.version == HttpVersion11 else "1.0"
    hop = Hop(peer or "unknown", request.scheme, _host(request), version, is_trusted)
    return Arrival(fields, hop)


def _host(request: web.Request) -> str:
    """How the caller calls us; our own address towards HTTP/1.0, which need not say."""
    # A Host that is there was checked before. Not request.host: without one it asks the name
    # service, and waits for it.
    named = host_of(request.raw_path)
    if named is not None and is_host(named.encode()):
        return named
    if (host := request.headers.get(hdrs.HOST)) is not None:
        return host
    host, port = request.transport.get_extra_info("sockname")[:2] if request.transport else ("", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def public_base_of(parts: Services, arrival: Arrival, workspace_id: str) -> str:
    """The workspace's address for callers: below the public URL, or as this one reached us."""
    public_url = parts.config.server.public_url
    origin = public_origin(arrival.fields, arrival.hop)
    base = None if public_url is None else str(public_url)
    return public_base(base, origin.scheme, origin.host, workspace_id)


def request_fields(arrival: Arrival, parts: Services, request_id: str) -> Fields:
    """The fields that the agent gets: the caller's own, less the hop's, and who the caller is.

    The gateway's own credentials stay here. Raises LoopDetected for a call that was here before.
    """
    name = parts.config.server.name
    if has_passed(arrival.fields, name):
        raise LoopDetected("This call was here before: an agent's URL leads back to the gateway.")
    passing = without_credentials(end_to_end(arrival.fields, _REPLACED), parts.access.is_operators)
    way = fields_of_the_way(arrival.fields, arrival.hop, name)
    return [*passing, *way, ("X-Request-ID", request_id)]


async def forward(
    request: web.Request,
    parts: Services,
    outgoing: UpstreamRequest,
    cards: RpcCards,
    added: Fields,
) -> web.StreamResponse:
    """Send the call to its agent and stream the answer back with the `added` fields.

    Raises BadGateway, GatewayTimeout, and what reading the caller's body raises.
    """
    started = time.perf_counter()
    async with parts.upstream.exchange(outgoing) as answer:
        parts.metrics.first_byte_seconds.observe(time.perf_counter() - started)
        try:
            return await _stream_back(request, parts, await cards.rewritten(answer), added)
        finally:
            parts.metrics.upstream_seconds.observe(time.perf_counter() - started)


def request_body(
    request: web.Request, config: Proxy, read: bytes | None, cards: RpcCards
) -> bytes | AsyncIterator[bytes] | None:
    """The body as the agent gets it: at once where all of it is here, else as it arrives.

    Raises ContentTooLarge where its length is known; else the iterator does.
    """
    bytes_max = config.request_body_bytes_max
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    if not request.body_exists:
        return None
    if read is None and request.content.is_eof() and request.content.exception() is None:
        read = request.content.read_nowait()
    if read is None:
        return _arriving(request, config, cards)
    if len(read) > bytes_max:
        raise _too_large(bytes_max)
    cards.see(read)
    return read


async def _arriving(request: web.Request, config: Proxy, cards: RpcCards) -> AsyncIterator[bytes]:
    await continue_if_expected(request)
    body_bytes = 0
    while chunk := await _next_part(request, config.request_body_timeout_s):
        body_bytes += len(chunk)
        if body_bytes > config.request_body_bytes_max:
            raise _too_large(config.request_body_bytes_max)
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
    request: web.Request, parts: Services, upstream: UpstreamAnswer, added: Fields
) -> web.StreamResponse:
    fields = without_session_cookies(end_to_end(upstream.headers, _NOT_SENT_BACK))
    fields = [*(for_browser(fields) if is_from_page(request) else fields), *added]
    fields.append(("X-Request-ID", request[REQUEST_ID]))
    answer = CallAnswer(
        request,
        upstream.status,
        upstream.reason,
        fields,
        # What was not read must not be taken for the next request.
        is_last=parts.is_draining or not request.content.is_eof(),
        idle_timeout_s=parts.config.proxy.idle_timeout_s,
    )
    try:
        # Every chunk goes on at once: an event stream must not wait for a buffer to fill.
        async for chunk in upstream.chunks:
            await answer.write(chunk)
        await answer.write_eof()
    except GatewayError as error:
        # The agent's answer broke off, or the caller's body did, while the answer was under way.
        _break_off(request, error.detail)
    except TimeoutError:
        _break_off(request, "The caller read nothing for too long.")
    except ConnectionError:
        # The caller left; aiohttp finds out by itself, and the agent's connection is closed.
        log.info("caller_left")
    except Exception:
        # A mistake of ours, and the head is on its way: nobody may write another answer behind it.
        break_off(request)
        raise
    return answer


def _break_off(request: web.Request, detail: str) -> None:
    log.warning("answer_broken_off", detail=detail)
    break_off(request)


async def remove_server_field(_request: web.Request, answer: web.StreamResponse) -> None:
    """Take out of an answer what aiohttp added: its name and version."""
    answer.headers.popall(hdrs.SERVER, None)
