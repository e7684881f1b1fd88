"""Log lines about what may happen a thousand times a second: few, and none of it uncounted."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import structlog

log = structlog.get_logger()

INTERVAL_S = 10.0
KEYS_MAX = 20

# What happens beyond KEYS_MAX keys shares one line, which has the count alone.
_OTHERS = object()


@dataclass(slots=True)
class _Pending:
    """What happened since the last line with this key."""

    fields: dict[str, Any]
    count: int = 0


class LogLimit:
    """Writes `event` at once and then at most once per interval and key.

    `count` on a line is how often it happened since the line before. A key is forgotten after an
    interval in which it did not occur.
    """

    def __init__(self, event: str, interval_s: float = INTERVAL_S, keys_max: int = KEYS_MAX):
        self._event = event
        self._interval_s = interval_s
        self._keys_max = keys_max
        self._pending: dict[Hashable, _Pending] = {}

    @property
    def keys_count(self) -> int:
        """How many keys are remembered; at most `keys_max` and one for the others."""
        return len(self._pending)

    def warning(self, key: Hashable = None, **fields: Any) -> None:
        """Write the line, or count it for the next one with this key."""
        if key not in self._pending and len(self._pending) >= self._keys_max:
            key, fields = _OTHERS, {}
        pending = self._pending.get(key)
        if pending is None:
            self._pending[key] = pending = _Pending(fields)
            self._write(key, pending)
            return
        pending.fields = fields
        pending.count += 1

    def _write(self, key: Hashable, pending: _Pending) -> None:
        log.warning(self._event, **pending.fields, count=max(1, pending.count))
        pending.count = 0
        asyncio.get_running_loop().call_later(self._interval_s, self._look_again, key)

    def _look_again(self, key: Hashable) -> None:
        if self._pending[key].count:
            self._write(key, self._pending[key])
        else:
            del self._pending[key]
