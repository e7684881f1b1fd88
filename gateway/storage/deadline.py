"""A deadline for somebody else's answer, against which this process's own delay does not count.

The event loop of a process that is busy, stopped or starved runs its timers late, and runs them
before it reads what has arrived meanwhile. A plain timer would then call an answer late that lies
in the socket. So a deadline is some slices: each counts once, however late it ends, and between two
of them the loop has polled its sockets. After the last one the socket is looked at as well.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# A step of somebody else's answer is read in one turn of the loop. Connecting takes over ten.
SLICE_S = 0.01
SLICES_MIN = 5


def _is_never_here() -> bool:
    return False


class Deadline:
    """Calls `expire` once `timeout_s` have passed, unless it is cancelled before.

    While `is_answer_here` holds there is something to be read first: the deadline is extended, at
    most to twice its length.
    """

    __slots__ = (
        "_expire",
        "_is_answer_here",
        "_loop",
        "_slice_s",
        "_slices",
        "_slices_left",
        "_timer",
    )

    def __init__(
        self,
        timeout_s: float,
        expire: Callable[[], None],
        is_answer_here: Callable[[], bool] = _is_never_here,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._expire = expire
        self._is_answer_here = is_answer_here
        self._slices = max(SLICES_MIN, round(timeout_s / SLICE_S))
        self._slice_s = timeout_s / self._slices
        self._slices_left = self._slices
        self._timer = self._loop.call_later(self._slice_s, self._end_slice)

    def cancel(self) -> None:
        """Wait no longer."""
        self._timer.cancel()

    def _end_slice(self) -> None:
        self._slices_left -= 1
        if self._slices_left > 0 or (self._slices_left > -self._slices and self._is_answer_here()):
            self._timer = self._loop.call_later(self._slice_s, self._end_slice)
        else:
            self._expire()


@asynccontextmanager
async def limited(timeout_s: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, with a Deadline. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        deadline = Deadline(timeout_s, lambda: timeout.reschedule(loop.time()))
        try:
            yield
        finally:
            deadline.cancel()
