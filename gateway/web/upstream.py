"""One exchange with an agent: the request streamed there, the answer streamed back.

This is the seam behind which the HTTP client can be replaced: `Upstream.exchange` gets a request
and a URL and yields an answer, and nothing else knows the client.

Nothing is added, decoded or followed. A send is never tried again (RFC 9110 section 9.2.2):
agents do not deduplicate.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from yarl import URL

from gateway.core.errors import BadGateway, ContentTooLarge, GatewayError, GatewayTimeout
from gateway.core.networks import Network, is_allowed, read_address

# uvicorn, gunicorn and Node close an idle connection after 5 s; a request sent at that moment
# would be lost, and could not be sent again.
KEEPALIVE_TIMEOUT_S = 4.0
HEADER_BYTES_MAX = 64 * 1024

# aiohttp's client would add these by itself.
_NEVER_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

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
    """What the agent is sent; `body` None for a request that has none."""

    method: str
    url: str
    headers: Headers
    body: Chunks | None


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """What the agent answers; `chunks` raises BadGateway or GatewayTimeout if it breaks off."""

    status: int
    reason: str
    headers: Headers
    chunks: Chunks


@dataclass(slots=True)
class Upstream:
    """Keeps connections to agents and exchanges one request at a time on each."""

    settings: UpstreamSettings
    _session: aiohttp.ClientSession | None = field(default=None)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,
            ttl_dns_cache=10,
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            socket_factory=self._open_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            skip_auto_headers=_NEVER_ADDED,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self.settings.connect_timeout_s, sock_read=None
            ),
            trust_env=False,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def exchange(self, request: UpstreamRequest) -> AsyncIterator[UpstreamAnswer]:
        """Send a request and yield the answer once its head is there.

        Raises BadGateway, GatewayTimeout, and what reading the request's body raises.
        """
        response = await self._send(request)
        try:
            yield UpstreamAnswer(
                response.status,
                response.reason or "",
                _fields(response),
                self._chunks(response),
            )
        except BaseException:
            # The rest of the answer is of no use, and neither is its connection.
            response.close()
            raise
        finally:
            response.release()

    async def _send(self, request: UpstreamRequest) -> aiohttp.ClientResponse:
        body = None if request.body is None else _Body(request.body)
        try:
            async with asyncio.timeout(None) as deadline:
                return await self._request(request, body, deadline)
        except TimeoutError:
            raise GatewayTimeout("The agent did not answer in time.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if body is not None and body.failure is not None:
                raise body.failure from error
            raise BadGateway("The agent could not be reached, or its answer is no HTTP.") from error

    async def _request(
        self, request: UpstreamRequest, body: "_Body | None", deadline: asyncio.Timeout
    ) -> aiohttp.ClientResponse:
        assert self._session is not None  # noqa: S101 - entered by app.py
        loop = asyncio.get_running_loop()

        def start_waiting() -> None:
            deadline.reschedule(loop.time() + self.settings.first_byte_timeout_s)

        # A long upload is no late answer: the wait begins anew with every part of the body.
        start_waiting()
        return await self._session.request(
            request.method,
            URL(request.url, encoded=True),
            headers=list(request.headers),
            data=None if body is None else body.chunks(start_waiting),
            allow_redirects=False,
        )

    async def _chunks(self, response: aiohttp.ClientResponse) -> Chunks:
        try:
            while True:
                async with asyncio.timeout(self.settings.idle_timeout_s):
                    chunk = await response.content.readany()
                if not chunk:
                    return
                yield chunk
        except TimeoutError:
            raise GatewayTimeout("The agent fell silent within its answer.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise BadGateway("The agent broke off within its answer.") from error

    def _open_socket(self, address: Any) -> socket.socket:
        """A socket for a connection to `address`, which is where an agent really lives.

        The address decides, not the name: a name may have changed its addresses since the agent
        registered. Raises OSError, which counts as unreachable.
        """
        family, kind, protocol, _, where = address
        if not is_allowed(read_address(str(where[0])), self.settings.allowed_networks):
            raise OSError("not in a network that agents may live in")
        return socket.socket(family, kind, protocol)


@dataclass(slots=True)
class _Body:
    """The request's body on its way; keeps why it failed, which the client would hide."""

    source: Chunks
    failure: GatewayError | None = None

    async def chunks(self, on_chunk: Any) -> Chunks:
        try:
            async for chunk in self.source:
                on_chunk()
                yield chunk
            on_chunk()
        except ContentTooLarge as error:
            self.failure = error
            raise


def _fields(response: aiohttp.ClientResponse) -> Headers:
    try:
        return [(name.decode(), value.decode()) for name, value in response.raw_headers]
    except UnicodeDecodeError:
        response.close()
        raise BadGateway("The agent's header has bytes that are no UTF-8.") from None
