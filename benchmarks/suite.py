"""What the parts of a run share: how long to measure, who takes part, what is to be noted."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from benchmarks import contestants
from benchmarks.contestants import Contestant, NotInstalledError, Place
from benchmarks.database import create_database, fill
from benchmarks.processes import MEASURED_CORE, OTHER_CORES, ROOT, NotStartedError

ROWS = 10_000
SETTLE_S = 0.5

Figure = TypeVar("Figure")


@dataclass
class Suite:
    """A run: its folder, its PostgreSQL, and whoever was started so far."""

    folder: Path
    server_dsn: str
    stack: ExitStack
    checkouts: Mapping[str, Path]
    peer_names: Sequence[str]
    is_quick: bool
    notes: list[str] = field(default_factory=list)
    dsns: dict[str, str] = field(default_factory=dict)
    _agent: Contestant | None = None
    _gateways: list[Contestant] = field(default_factory=list)
    _peers: dict[str, Contestant] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How many turns everybody gets."""
        return 3 if self.is_quick else 5

    @property
    def round_s(self) -> float:
        """How long a turn is."""
        return 1 if self.is_quick else 2

    def agent(self) -> Contestant:
        """The agent; calling it is calling without a proxy."""
        if self._agent is None:
            self._agent = self.stack.enter_context(contestants.agent(self.folder))
        return self._agent

    async def gateways(self) -> list[Contestant]:
        """The gateway of this checkout, then the others that take part."""
        if not self._gateways:
            for name, checkout in {"gateway": ROOT, **self.checkouts}.items():
                self._gateways.append(await self.gateway(name, checkout))
        return self._gateways

    async def gateway(
        self,
        name: str,
        checkout: Path = ROOT,
        cores: Sequence[int] = MEASURED_CORE,
        rows: int = ROWS,
        **settings: object,
    ) -> Contestant:
        """Start a gateway with a filled ledger of its own."""
        database = f"ledger_{len(self.dsns)}"
        dsn = self.dsns[name] = await create_database(self.server_dsn, database)
        log = self.folder / f"{database}.log"
        started = contestants.gateway(name, checkout, dsn, log, cores, None, **settings)
        contestant = self.stack.enter_context(started)
        agent_url = f"http://127.0.0.1:{self.agent().port}"
        await fill(dsn, agent_url, contestants.WORKSPACES, rows)
        return contestant

    async def peers(self, *names: str) -> dict[str, Contestant]:
        """Those of the peers that take part and are installed."""
        (own, *_) = await self.gateways()
        place = Place(self.folder, self.agent().port, self.dsns[own.name])
        for name in names:
            if name in self.peer_names and name not in self._peers:
                try:
                    started = contestants.PEERS[name](place)
                    self._peers[name] = self.stack.enter_context(started)
                except NotInstalledError as error:
                    self.note(f"skipped: {error}")
                except NotStartedError as error:
                    self.note(f"failed: {name}: {error}")
        return {name: self._peers[name] for name in names if name in self._peers}

    def note(self, text: str) -> None:
        """Remember what the figures do not say; once."""
        if text not in self.notes:
            self.notes.append(text)

    def in_turns(
        self, taking_part: Sequence[Contestant], measure: Callable[[Contestant], Figure]
    ) -> dict[str, list[Figure]]:
        """Everybody's figures by name, taken in turns: noise meets all of them alike."""
        figures: dict[str, list[Figure]] = {each.name: [] for each in taking_part}
        for _ in range(self.rounds):
            for contestant in taking_part:
                figures[contestant.name].append(measure(contestant))
                # What was asked last may still be worked at, by PostgreSQL above all.
                time.sleep(SETTLE_S)
        return figures


def look_at_machine() -> dict[str, Any]:
    """The machine, and for a second what else it does."""
    return {
        "cores": os.cpu_count(),
        "core of the measured": MEASURED_CORE,
        "cores of agent, load and PostgreSQL": OTHER_CORES,
        "load average": round(os.getloadavg()[0], 2),
        "busy percent before": psutil.cpu_percent(interval=1),
        "kernel": os.uname().release,
        # One that was built without optimisation is a fifth slower, and so is all that it runs.
        "python": f"{platform.python_version()}, {' '.join(platform.python_build())}",
    }
