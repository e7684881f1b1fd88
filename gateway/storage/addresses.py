"""Where agents are, as far as this process knows: what a call needs while the database is away."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from gateway.storage.address_snapshot import (
    Head,
    Snapshot,
    SnapshotError,
    read_head,
    read_snapshot,
)
from gateway.storage.slices import Slices

FOLLOW_INTERVAL_S = 1.0
FREED_PER_SLICE = 500


@dataclass(slots=True)
class Addresses:
    """The URLs of all agents: those of the newest snapshot, and what was learned since.

    `snapshot` is the file that the supervisor keeps, None where there is none.
    """

    snapshot: Path | None = None
    # Whether every workspace's address was known at some time.
    is_complete: bool = False
    _urls: dict[str, str] = field(default_factory=dict)
    # What differs from the snapshot: by workspace id, since when, and what the snapshot has.
    _learned: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    # The snapshot that was taken over, and the file's state then.
    _head: Head | None = None
    _mark: tuple[int, int] = (0, 0)

    def url(self, key: str) -> str | None:
        """The agent's URL; None for a workspace that is not known to have one."""
        return self._urls.get(key)

    def learn(self, key: str, url: str | None) -> None:
        """Keep what a check or a registration showed; None where there is no agent any more."""
        before = self._urls.get(key)
        if before != url:
            _, in_snapshot = self._learned.get(key, (0.0, before))
            self._put(key, url)
            self._learned[key] = time.time(), in_snapshot

    async def load(self) -> None:
        """Take over the snapshot. Raises SnapshotError."""
        if self.snapshot is None:
            raise SnapshotError("There is no snapshot of addresses.")
        mark = self._current_mark()
        found = await read_snapshot(self.snapshot)
        before = self._take(found)
        self._head, self._mark = found.head, mark
        await _free(before)

    async def follow(self) -> None:
        """Take over every new snapshot, until this is cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_INTERVAL_S)
            # What cannot be read now may be there in a second; what is known stays.
            with contextlib.suppress(SnapshotError):
                if self.snapshot is not None and self._current_mark() != self._mark:
                    await self._renew(self.snapshot)

    async def _renew(self, snapshot: Path) -> None:
        mark = self._current_mark()
        if self._head is None or read_head(snapshot) != self._head:
            return await self.load()
        # Nothing has changed in the database: what was learned before that is no longer true.
        self._mark = mark
        read_at = mark[1] / 1e9
        for key in [key for key, (at, _) in self._learned.items() if at <= read_at]:
            self._put(key, self._learned.pop(key)[1])
        return None

    def _current_mark(self) -> tuple[int, int]:
        """Changes with the file and whenever it is touched."""
        try:
            status = self.snapshot.stat() if self.snapshot is not None else None
        except OSError:
            status = None
        # A file that is away keeps what is known.
        return self._mark if status is None else (status.st_ino, status.st_mtime_ns)

    def _put(self, key: str, url: str | None) -> None:
        if url is None:
            self._urls.pop(key, None)
        else:
            self._urls[key] = url

    def _take(self, found: Snapshot) -> dict[str, str]:
        """Have the snapshot's addresses, with what was learned after it; gives those before."""
        before, self._urls = self._urls, found.urls
        newer = {key: at for key, (at, _) in self._learned.items() if at > found.read_at}
        self._learned = {key: (at, found.urls.get(key)) for key, at in newer.items()}
        for key in newer:
            self._put(key, before.get(key))
        self.is_complete = True
        return before


async def _free(urls: dict[str, str]) -> None:
    """Empty it in slices: freeing 100,000 addresses at once takes 8 ms, in a thread as well."""
    slices = Slices()
    while urls:
        for _ in range(min(len(urls), FREED_PER_SLICE)):
            urls.popitem()
        await slices.pause()
