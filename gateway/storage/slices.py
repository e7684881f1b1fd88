"""Long work in slices: calls wait for the same event loop, and none for over a millisecond."""

import asyncio
import time
from dataclasses import dataclass, field

SLICE_S = 0.0005


def _next_end() -> float:
    return time.perf_counter() + SLICE_S


@dataclass(slots=True)
class Slices:
    """Of one piece of work, from now on. Call `pause` wherever the work may be interrupted."""

    _ends_at: float = field(default_factory=_next_end)

    async def pause(self) -> None:
        """Let the event loop do what else is due, if this slice has lasted long enough."""
        if time.perf_counter() >= self._ends_at:
            await asyncio.sleep(0)
            self._ends_at = _next_end()
