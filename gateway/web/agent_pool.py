"""Connections to agents, kept for the next request while they are surely still open."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from functools import cached_property

from aiohappyeyeballs import AddrInfoType, start_connection

from gateway.core.errors import BadGateway, GatewayTimeout, Unavailable
from gateway.core.networks import Network
from gateway.web.agent_address import Origin, Resolver
from gateway.web.agent_connection import AgentConnection
from gateway.web.descriptors import Descriptors

# uvicorn, gunicorn and Node close an idle connection after 5 s; a request sent at that moment
# would be lost, and could not be sent again.
KEEPALIVE_TIMEOUT_S = 4.0
SWEEP_INTERVAL_S = 1.0
# What the kernel takes from an agent ahead of its caller. By itself it takes megabytes of every
# answer that is not read, and gives them to us in pieces of 256 KiB.
RECEIVE_BUFFER_BYTES = 64 * 1024
# RFC 8305: when the next address of a name is tried beside the first.
NEXT_ADDRESS_DELAY_S = 0.25
RETRY_AFTER_S = 1


class AgentPool:
    """Opens connections, and keeps idle ones for a few seconds, the last used first."""

    def __init__(
        self, connect_timeout_s: float, allowed: Sequence[Network], descriptors: Descriptors
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._descriptors = descriptors
        self._resolver = Resolver(allowed)
        self._idle: dict[Origin, list[AgentConnection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    async def take(self, origin: Origin) -> AgentConnection:
        """An open connection that nobody uses. Raises BadGateway, GatewayTimeout, Unavailable."""
        now = asyncio.get_running_loop().time()
        while idle := self._idle.get(origin):
            connection = idle.pop()
            if not idle:
                del self._idle[origin]
            is_fresh = now - connection.idle_since < KEEPALIVE_TIMEOUT_S
            if is_fresh and connection.is_open and connection.is_quiet:
                return connection
            connection.end()
        return await self._connect(origin)

    def give_back(self, origin: Origin, connection: AgentConnection) -> None:
        """Keep the connection if its exchange is complete; else close it at once."""
        if not connection.is_reusable:
            connection.end()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(origin, []).append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_INTERVAL_S, self._sweep)

    def close(self) -> None:
        """Close what is idle."""
        for idle in self._idle.values():
            for connection in idle:
                connection.end()
        self._idle.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = None
        kept_since = loop.time() - KEEPALIVE_TIMEOUT_S
        for origin, idle in list(self._idle.items()):
            for connection in idle:
                if connection.idle_since < kept_since:
                    connection.end()
            if fresh := [each for each in idle if each.idle_since >= kept_since and each.is_open]:
                self._idle[origin] = fresh
            else:
                del self._idle[origin]
        if self._idle:
            self._sweeper = loop.call_later(SWEEP_INTERVAL_S, self._sweep)

    async def _connect(self, origin: Origin) -> AgentConnection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._open(origin)
        except TimeoutError:
            raise GatewayTimeout("The agent could not be connected to in time.") from None
        except (OSError, ValueError) as error:
            if self._descriptors.is_exhaustion(error):
                raise Unavailable("The gateway has too many connections.", RETRY_AFTER_S) from error
            raise BadGateway("The agent could not be connected to.") from error

    async def _open(self, origin: Origin) -> AgentConnection:
        loop = asyncio.get_running_loop()
        addresses = await self._resolver.resolve(origin)
        connected = await start_connection(
            addresses,
            happy_eyeballs_delay=NEXT_ADDRESS_DELAY_S,
            socket_factory=self._create_socket,
        )
        try:
            _, connection = await loop.create_connection(
                lambda: AgentConnection(loop),
                sock=connected,
                ssl=self._tls if origin.is_tls else None,
                server_hostname=origin.host if origin.is_tls else None,
            )
        except BaseException:
            connected.close()
            raise
        return connection

    def _create_socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        created = socket.socket(family, kind, protocol)
        if self._descriptors.is_kept_back(created.fileno()):
            created.close()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        # Before it connects: the window is agreed on then (RFC 7323 section 2).
        created.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        return created

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()
