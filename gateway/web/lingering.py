"""The end of a connection whose caller may still be sending.

A connection that is closed over unread bytes is reset, and a reset overtakes the response
(RFC 9112 section 9.6): httpx, and every SDK built on it, then showed a failed connection instead of
the refusal. So what still comes is read and thrown away, within limits.
"""

import asyncio
from contextlib import suppress

# A caller that sends nothing for so long has read its response, or never will.
SILENCE_S = 1.0
LINGER_S = 10.0
DISCARDED_BYTES_MAX = 64 * 1024 * 1024


async def hang_up(transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
    """Say that nothing more is sent, and discard what comes until the caller ends or a limit.

    `protocol` had the connection; it is told of its end. Closing is left to whoever called.
    """
    rest = _Rest(protocol)
    transport.set_protocol(rest)
    transport.write_eof()
    # The transport says so itself if it was reading all along.
    with suppress(RuntimeError):
        transport.resume_reading()
    await rest.ended()


class _Rest(asyncio.Protocol):
    """What comes on a connection on which nothing more is wanted."""

    def __init__(self, before: asyncio.Protocol) -> None:
        self._before = before
        self._bytes = 0
        self._is_over = False
        self._news = asyncio.Event()

    async def ended(self) -> None:
        """Return at the caller's end, or at the first limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self._is_over:
                    self._news.clear()
                    async with asyncio.timeout(SILENCE_S):
                        await self._news.wait()

    def data_received(self, data: bytes) -> None:
        """Throw it away."""
        self._bytes += len(data)
        self._is_over = self._bytes > DISCARDED_BYTES_MAX
        self._news.set()

    def pause_writing(self) -> None:
        """Pass it on: the response may still be on its way."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on, as above."""
        self._before.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller ended, or left."""
        self._is_over = True
        self._news.set()
        self._before.connection_lost(exc)
