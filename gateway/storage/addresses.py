"""Where agents are, as far as this process knows: what a call needs while the database is away."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from gateway.storage.address_snapshot import Snapshot, SnapshotError, read_snapshot

FOLLOW_INTERVAL_S = 1.0


@dataclass(slots=True)
class Addresses:
    """The URLs of all agents: those of the newest snapshot, and what was learned since.

    `snapshot` is the file that the supervisor keeps, None where there is none.
    """

    snapshot: Path | None = None
    # Whether every workspace's address was known at some time.
    is_complete: bool = False
    _urls: dict[str, str] = field(default_factory=dict)
    # By workspace id, since when a URL differs from the snapshot's; None is a workspace without.
    _learned: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    _inode: int = 0

    def url(self, key: str) -> str | None:
        """The agent's URL; None for a workspace that is not known to have one."""
        return self._urls.get(key)

    def learn(self, key: str, url: str | None) -> None:
        """Keep what a check or a registration showed; None where there is no agent any more."""
        if self._urls.get(key) == url:
            return
        if url is None:
            del self._urls[key]
        else:
            self._urls[key] = url
        self._learned[key] = time.time(), url

    async def load(self) -> None:
        """Take over the snapshot. Raises SnapshotError."""
        if self.snapshot is None:
            raise SnapshotError("There is no snapshot of addresses.")
        with contextlib.suppress(OSError):
            self._inode = self.snapshot.stat().st_ino
        self._take(await read_snapshot(self.snapshot))

    async def follow(self) -> None:
        """Take over every new snapshot, until this is cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_INTERVAL_S)
            # What cannot be read now may be there in a second; what is known stays.
            with contextlib.suppress(SnapshotError, OSError):
                if self.snapshot is not None and self.snapshot.stat().st_ino != self._inode:
                    await self.load()

    def _take(self, found: Snapshot) -> None:
        self._learned = {
            key: each for key, each in self._learned.items() if each[0] > found.read_at
        }
        urls = found.urls
        for key, (_, url) in self._learned.items():
            if url is None:
                urls.pop(key, None)
            else:
                urls[key] = url
        self._urls, self.is_complete = urls, True
