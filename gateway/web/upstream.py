"""One exchange with an agent: the request streamed there, the answer streamed back.

This is the seam to the agents: `Upstream.exchange` gets a request and yields an answer, and
nothing else knows connections. Nothing is added, decoded or followed, and nothing is sent twice
(RFC 9110 section 9.2.2): agents do not deduplicate.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from aiohttp.streams import StreamReader

from gateway.core.errors import BadGateway, GatewayError
from gateway.core.networks import Network
from gateway.web.agent_address import Destination, read_destination
from gateway.web.agent_connection import AgentConnection, AnswerHead
from gateway.web.agent_pool import AgentPool
from gateway.web.descriptors import Descriptors

Headers = Sequence[tuple[str, str]]
Chunks = AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Deadlines of an exchange, and where agents may live."""

    connect_timeout_s: float
    first_byte_timeout_s: float
    idle_timeout_s: float
    allowed_networks: Sequence[Network]


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What the agent is sent: end-to-end fields, and a body that is here, or arrives, or is none.

    A body's length is told as it is in `headers`; without one it goes in chunks.
    """

    method: str
    url: str
    headers: Headers
    body: bytes | Chunks | None


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """What the agent answers; `chunks` raises BadGateway or GatewayTimeout if it breaks off."""

    status: int
    reason: str
    headers: Headers
    chunks: Chunks


class Upstream:
    """Keeps connections to agents and exchanges one request at a time on each."""

    def __init__(self, settings: UpstreamSettings, descriptors: Descriptors) -> None:
        self._settings = settings
        self._pool = AgentPool(settings.connect_timeout_s, settings.allowed_networks, descriptors)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.close()

    def exchange(self, request: UpstreamRequest) -> "Exchange":
        """`async with` it: sends the request, and gives the answer once its head is there.

        Raises BadGateway, GatewayTimeout, Unavailable, and what reading the request's body raises.
        """
        return Exchange(self._pool, self._settings, request)


class Exchange:
    """A request and its answer, on a connection of their own for that time."""

    def __init__(
        self, pool: AgentPool, settings: UpstreamSettings, request: UpstreamRequest
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._request = request
        self._destination = read_destination(request.url)

    async def __aenter__(self) -> UpstreamAnswer:
        self._connection = await self._pool.take(self._destination.origin)
        try:
            message, body = await self._first_byte()
        except BaseException:
            await self.__aexit__()
            raise
        fields = [(name.decode(), value.decode()) for name, value in message.raw_headers]
        chunks = _Chunks(self._connection, body, self._settings.idle_timeout_s)
        return UpstreamAnswer(message.code, message.reason, fields, chunks)

    async def __aexit__(self, *_: object) -> None:
        self._pool.give_back(self._destination.origin, self._connection)

    async def _first_byte(self) -> AnswerHead:
        deadline = _FirstByteDeadline(self._connection, self._settings.first_byte_timeout_s)
        try:
            return await _send(self._connection, self._request, self._destination, deadline.restart)
        finally:
            deadline.stop()


class _Chunks:
    """The body of an answer, every read by itself; the agent may be silent only for so long."""

    def __init__(self, connection: AgentConnection, body: StreamReader, timeout_s: float) -> None:
        self._connection = connection
        self._body = body
        self._timeout_s = timeout_s

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._body.at_eof():
            raise StopAsyncIteration
        # Mostly it is here already, and needs no deadline.
        if chunk := self._body.read_nowait() or await self._wait():
            return chunk
        raise StopAsyncIteration

    async def _wait(self) -> bytes:
        late = "The agent fell silent within its answer."
        deadline = self._connection.fail_later(self._timeout_s, late)
        try:
            return await self._body.readany()
        finally:
            deadline.cancel()


class _FirstByteDeadline:
    """Fails an exchange whose answer does not begin in time, from the last part of the request.

    A long upload is no late answer.
    """

    def __init__(self, connection: AgentConnection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = self._start()

    def restart(self) -> None:
        """Wait anew; the answer may have begun before the request's end, then there is no wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._start()

    def stop(self) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> asyncio.TimerHandle:
        return self._connection.fail_later(self._timeout_s, "The agent did not answer in time.")


def _send(
    connection: AgentConnection,
    request: UpstreamRequest,
    destination: Destination,
    on_part: Callable[[], None],
) -> asyncio.Future[AnswerHead]:
    """Send the request; a body that is still arriving follows while the answer is awaited."""
    body = request.body
    is_chunked = body is not None and not _has_length(request.headers)
    data = _head(request, destination, is_chunked)
    if isinstance(body, bytes):
        data += _framed(body, is_chunked) + _end(is_chunked)
        body = None
    answered = connection.begin(data, is_head=request.method == "HEAD")
    if body is not None:
        connection.sending = asyncio.create_task(_send_body(connection, body, is_chunked, on_part))
    return answered


def _has_length(headers: Headers) -> bool:
    # Most names have another length.
    return any(len(name) == 14 and name.lower() == "content-length" for name, _ in headers)


def _head(request: UpstreamRequest, destination: Destination, is_chunked: bool) -> bytes:
    lines = [f"{request.method} {destination.target} HTTP/1.1", f"Host: {destination.authority}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    if is_chunked:
        lines.append("Transfer-Encoding: chunked")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _send_body(
    connection: AgentConnection, body: Chunks, is_chunked: bool, on_part: Callable[[], None]
) -> None:
    try:
        async for part in body:
            on_part()
            await connection.write(_framed(part, is_chunked))
        await connection.write(_end(is_chunked))
        on_part()
    except GatewayError as error:
        # The caller's body broke off, is too large or too slow: the agent must not wait for it.
        connection.fail(error)
    except OSError:
        connection.fail(BadGateway("The agent closed the connection within the request."))


def _framed(part: bytes, is_chunked: bool) -> bytes:
    """A part of the body as it goes over the wire (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(part), part) if is_chunked and part else part


def _end(is_chunked: bool) -> bytes:
    return b"0\r\n\r\n" if is_chunked else b""
