"""Something that takes a while, done once for all who ask meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


@dataclass(slots=True)
class Shared(Generic[Value]):
    """Runs `work` when it is asked for, and never twice at once.

    Nobody waits for longer than it wants to. Work that is late goes on, for the next who asks:
    cancelling it may take as long (storage/database.py says why). It needs a deadline of its own.
    """

    work: Callable[[], Coroutine[Any, Any, Value]]
    _running: asyncio.Task[Value] | None = None

    async def value(self, timeout_s: float) -> Value:
        """What the work gives. Raises what it raises, and TimeoutError if it is late."""
        running = self._running
        if running is None or running.done():
            running = self._running = asyncio.create_task(self.work())
            running.add_done_callback(self._ended)
        await asyncio.wait({running}, timeout=timeout_s)
        if not running.done():
            raise TimeoutError
        return running.result()

    async def finish(self) -> None:
        """Wait for what is running, to its end."""
        if self._running is not None:
            await asyncio.wait({self._running})

    def _ended(self, task: asyncio.Task[Value]) -> None:
        if self._running is task:
            self._running = None
        if not task.cancelled():
            # Maybe nobody waits any more; then an exception is no news.
            task.exception()
