"""Whether the database answers budget checks at all, by how the last of them ended."""

from collections.abc import Callable
from dataclasses import dataclass

# Called when the breaker opens, with the cause, and with None when it closes.
OnChange = Callable[[str | None], None]


def _ignore(_cause: str | None) -> None:
    return None


@dataclass(slots=True)
class CircuitBreaker:
    """Opens after some failures in a row; any answer closes it."""

    failures_to_open: int
    on_change: OnChange = _ignore
    is_open: bool = False
    _failures: int = 0

    def fail(self, cause: str) -> None:
        """Count a failure of the database; open if there were enough."""
        self._failures += 1
        if self._failures >= self.failures_to_open:
            self.open(cause)

    def open(self, cause: str) -> None:
        """Open at once, where it is known that the database does not answer."""
        if not self.is_open:
            self.is_open = True
            self.on_change(cause)

    def succeed(self) -> None:
        """Close: the database has answered."""
        self._failures = 0
        if self.is_open:
            self.is_open = False
            self.on_change(None)
