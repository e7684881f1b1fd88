"""How many calls passed unchecked in the outage now, or in the last: of all workers together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.core.interruptions import Interruption, latest_interruption
from gateway.storage.gate import Gate
from gateway.web.admission import SkippedChecks
from gateway.web.metrics_files import read_interruptions, write_interruption

# How old at most what is shown of other workers is.
EXCHANGE_INTERVAL_S = 1.0


@dataclass(slots=True)
class UncheckedCalls:
    """Adds up what this worker counts and what the others show in `folder`, if there are any."""

    skipped: SkippedChecks
    gate: Gate
    folder: Path | None
    _others: Sequence[Interruption] = ()
    _own: Interruption | None = None

    def latest(self, now: datetime) -> Interruption | None:
        """The interruption now, or else the last one."""
        own = self._seen_here(now)
        return latest_interruption(self._others if own is None else [*self._others, own])

    @asynccontextmanager
    async def exchanged(self) -> AsyncIterator[None]:
        """Exchange figures with the other workers for as long as this is open."""
        if self.folder is None:
            yield
            return
        exchanging = asyncio.create_task(self._keep_exchanging(self.folder))
        try:
            yield
        finally:
            exchanging.cancel()
            await asyncio.wait({exchanging})
            await self._exchange(self.folder)

    async def _keep_exchanging(self, folder: Path) -> None:
        while True:
            await self._exchange(folder)
            await asyncio.sleep(EXCHANGE_INTERVAL_S)

    async def _exchange(self, folder: Path) -> None:
        # A folder that was removed is made anew soon (metrics.py).
        with suppress(OSError):
            own = self._seen_here(datetime.now(UTC))
            self._others = await asyncio.to_thread(_write_and_read, folder, own)

    def _seen_here(self, now: datetime) -> Interruption | None:
        """What this worker saw; it lasts for as long as its checks are skipped, calls or not."""
        skipped, own = self.skipped, self._own
        if skipped.since is None:
            return None
        is_lasting = self.gate.is_open and not skipped.is_over
        counted = skipped.since, skipped.count
        if own is None or is_lasting or (own.since, own.unchecked_calls) != counted:
            self._own = Interruption(skipped.since, now, skipped.count)
        return self._own


def _write_and_read(folder: Path, own: Interruption | None) -> Sequence[Interruption]:
    if own is not None:
        write_interruption(folder, own)
    return read_interruptions(folder)
