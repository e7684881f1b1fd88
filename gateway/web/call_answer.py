"""An agent's answer on its way to the caller: its own fields, its own bytes, one part at a time.

aiohttp's StreamResponse adds fields of its own, drops others, and sends the head by itself; the
two sendings and the work on the fields cost as much as the whole rest of the caller's side.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import ClientConnectionResetError, HttpVersion11, hdrs, web
from aiohttp.helpers import rfc822_formatted_time

Fields = Sequence[tuple[str, str]]

# RFC 9110 section 6.4.1: what these answer with ends with the head.
_BODILESS = frozenset({204, 304})


class CallAnswer(web.StreamResponse):
    """Written part by part; the head goes with the first part, or at the loop's next turn.

    `fields` are what the agent sent, less the hop's; `is_last` closes the connection behind it.
    """

    def __init__(
        self,
        request: web.Request,
        status: int,
        reason: str,
        fields: Fields,
        *,
        is_last: bool,
        idle_timeout_s: float,
    ) -> None:
        super().__init__(status=status, reason=reason)
        self._request = request
        self._transport = request.transport
        self._idle_timeout_s = idle_timeout_s
        self._is_chunked = False
        self._keep_alive = request.keep_alive and not is_last
        self._head: bytes | None = self._head_of(fields)
        asyncio.get_running_loop().call_soon(self._send_head)

    @property
    def prepared(self) -> bool:
        """Always: nobody else writes a head in its place."""
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: the head is on its way."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send a part; waits while the caller does not read.

        Raises ConnectionError if the caller left, and TimeoutError if it reads nothing for too
        long.
        """
        if self._is_chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), bytes(data))
        self._send(data)
        if self._request.protocol.writing_paused:
            await self._drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the end, once. Raises like `write`."""
        if self._eof_sent:
            return
        if data:
            await self.write(data)
        if self._is_chunked or self._head is not None:
            self._send(b"0\r\n\r\n" if self._is_chunked else b"")
        if self._request.protocol.writing_paused:
            await self._drain()
        self._eof_sent = True

    async def _drain(self) -> None:
        async with asyncio.timeout(self._idle_timeout_s):
            await self._request.writer.drain()

    def _head_of(self, fields: Fields) -> bytes:
        """The status line and fields; decides how the body's end is told (RFC 9112 section 6)."""
        request = self._request
        is_bodiless = self.status in _BODILESS or request.method == hdrs.METH_HEAD
        names = {name.lower() for name, _ in fields}
        if self.status == 204 and "content-length" in names:
            # RFC 9110 section 8.6: there must not be any.
            fields = [field for field in fields if field[0].lower() != "content-length"]
        lines = [
            f"HTTP/{request.version.major}.{request.version.minor} {self.status} {self.reason}"
        ]
        lines += [f"{name}: {value}" for name, value in fields]
        if "date" not in names:
            lines.append(f"Date: {rfc822_formatted_time()}")
        if not is_bodiless and "content-length" not in names:
            self._is_chunked = request.version >= HttpVersion11
            if self._is_chunked:
                lines.append("Transfer-Encoding: chunked")
            else:
                self._keep_alive = False
        if not self._keep_alive:
            lines.append("Connection: close")
        elif request.version < HttpVersion11:
            lines.append("Connection: keep-alive")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _send_head(self) -> None:
        """Send the head by itself: there was no part to go with it."""
        if self._head is not None:
            with suppress(ConnectionError):
                self._send(b"")

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ClientConnectionResetError("the caller left")
        if self._head is not None:
            data, self._head = self._head + data, None
        self._transport.write(data)
        # By this aiohttp knows that the answer has begun.
        self._request.writer.output_size += len(data)
