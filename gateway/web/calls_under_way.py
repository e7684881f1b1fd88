"""The calls under way: how many there may be, and their end when the gateway stops."""

import asyncio
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestHandler

from gateway.core.errors import Unavailable

log = structlog.get_logger()

RETRY_AFTER_S = 1

# Closing sends a reset, and not the end of what was sent.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class CallsUnderWay:
    """Holds every call from its admission to its end.

    The limits keep what is accepted quick: who comes when they are reached is told so at once,
    before the database is asked (RFC 9110 section 15.6.4).
    """

    calls_max: int
    calls_per_workspace_max: int
    # By connection, on which there is one call at a time; requests have no hash.
    _calls: dict[RequestHandler, web.BaseRequest] = field(default_factory=dict)
    _by_workspace: Counter[str] = field(default_factory=Counter)
    _all_ended: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def enter(self, request: web.BaseRequest, workspace_id: str) -> None:
        """Count the call until it leaves. Raises Unavailable beyond the limits."""
        if len(self._calls) >= self.calls_max:
            raise Unavailable("The gateway has too many calls under way.", RETRY_AFTER_S)
        if self._by_workspace[workspace_id] >= self.calls_per_workspace_max:
            raise Unavailable("This workspace has too many calls under way.", RETRY_AFTER_S)
        self._calls[request.protocol] = request
        self._by_workspace[workspace_id] += 1

    def leave(self, request: web.BaseRequest, workspace_id: str) -> None:
        """Count the call no more: it ended."""
        del self._calls[request.protocol]
        self._by_workspace[workspace_id] -= 1
        if not self._by_workspace[workspace_id]:
            del self._by_workspace[workspace_id]
        if not self._calls and self._all_ended is not None:
            self._all_ended.set()

    async def finish(self, time_is_up: asyncio.Event) -> None:
        """Let every call end by itself; break off those in flight when the time is up."""
        await self._none_left_or(time_is_up)
        # One that was parsed when the worker stopped may have begun only now.
        while self._calls and not time_is_up.is_set():
            await self._none_left_or(time_is_up)
        if self._calls:
            log.warning("calls_broken_off", count=len(self._calls))
            for request in self._calls.values():
                break_off(request)

    async def _none_left_or(self, time_is_up: asyncio.Event) -> None:
        waits = {asyncio.create_task(self._none_left()), asyncio.create_task(time_is_up.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _none_left(self) -> None:
        self._all_ended = asyncio.Event()
        while self._calls:
            await self._all_ended.wait()
            self._all_ended.clear()


def break_off(request: web.BaseRequest) -> None:
    """Show the caller a broken answer as broken (RFC 9112 section 8): no last chunk, no end."""
    transport = request.transport
    if transport is None:
        return
    if request.version < HttpVersion11:
        # No chunks: the answer may end with the connection, and a plain close would be its end.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
