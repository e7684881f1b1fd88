"""How late the event loop comes to what is due: what every call in this process waits for."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

TICK_S = 0.02
TICKS_KEPT = 50


@dataclass(slots=True)
class LoopLag:
    """Looks at the clock every 20 ms and remembers how late it was, for a second."""

    _late_s: deque[float] = field(default_factory=lambda: deque(maxlen=TICKS_KEPT))

    @property
    def lag_s(self) -> float:
        """The longest delay of the last second."""
        return max(self._late_s, default=0.0)

    async def keep_measuring(self) -> None:
        """Measure until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self._late_s.append(max(0.0, loop.time() - due))
