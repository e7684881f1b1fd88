"""The time that calls in flight have once this process is to stop: one owner decides it."""

import asyncio

from aiohttp import web

from gateway.config import Server


class Drain:
    """Begins by a reload or by SIGTERM; of two deadlines the earlier one counts."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._timer: asyncio.TimerHandle | None = None
        self.begun = asyncio.Event()
        self.time_is_up = asyncio.Event()

    def retire(self) -> None:
        """Begin because another process serves: calls may take long."""
        self._end_within(self._server.reload_drain_timeout_s)

    def terminate(self) -> None:
        """Begin because the gateway ends, or have a process that retired finish soon."""
        self._end_within(self._server.drain_timeout_s)

    def _end_within(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None:
            # New calls are taken for that long.
            timeout_s += self._server.drain_delay_s
        ends_at = loop.time() + timeout_s
        if self._timer is None or ends_at < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(ends_at, self.time_is_up.set)
        self.begun.set()


DRAIN = web.AppKey("drain", Drain)
