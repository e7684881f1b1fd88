"""The gauges of this process, set to what is true now."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.storage.database import Connections
from gateway.storage.gate import Gate
from gateway.web.loop_lag import LoopLag
from gateway.web.metrics import Metrics


def _none() -> int:
    return 0


@dataclass(slots=True)
class ProcessGauges:
    """Looks at the parts whose state is shown."""

    metrics: Metrics
    gate: Gate
    connections: Mapping[str, Connections | Gate]
    loop_lag: LoopLag
    # How many log lines this process could not write, since its start.
    lines_lost_count: Callable[[], int] = _none
    _lines_lost_seen: int = 0

    def set(self) -> None:
        """Set them all."""
        self.metrics.breaker_open.set(float(self.gate.is_open))
        self.metrics.loop_lag_seconds.set(self.loop_lag.lag_s)
        for use, connections in self.connections.items():
            busy = connections.size - connections.idle_count
            for state, count in (("open", connections.open_count), ("busy", busy)):
                self.metrics.database_connections.labels(use, state).set(count)
        lost = self.lines_lost_count()
        self.metrics.log_lines_lost.inc(lost - self._lines_lost_seen)
        self._lines_lost_seen = lost
