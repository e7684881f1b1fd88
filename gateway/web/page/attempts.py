"""How often somebody may try a token."""

import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from gateway.core.errors import TooManyRequests

WINDOW_S = 60.0
FAILURES_MAX = 10
ADDRESSES_MAX = 10_000


@dataclass(slots=True)
class Attempts:
    """The failed attempts of the last minute, by address, in this worker."""

    _failures: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)

    def require_room(self, address: str) -> None:
        """Raise TooManyRequests if this address failed too often."""
        failures, now = self._failures.get(address), time.monotonic()
        while failures and failures[0] <= now - WINDOW_S:
            failures.popleft()
        if failures and len(failures) >= FAILURES_MAX:
            wait_s = int(failures[0] + WINDOW_S - now) + 1
            raise TooManyRequests(f"Too many attempts. Try again in {wait_s} s.", wait_s)

    def add_failure(self, address: str) -> None:
        """Count an attempt that failed."""
        failures = self._failures.setdefault(address, deque(maxlen=FAILURES_MAX))
        failures.append(time.monotonic())
        self._failures.move_to_end(address)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)
