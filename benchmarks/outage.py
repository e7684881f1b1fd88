"""How long calls wait for their budget while PostgreSQL is killed, or stopped.

    .venv/bin/python benchmarks/outage.py

Callers ask the gate without a pause. Each outage lasts two seconds; printed are the longest waits
before, during and after it, and how soon after the server's return a budget was read again.
"""

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from gateway.core.errors import StorageUnavailable
from gateway.storage.database import DatabaseSettings, connect
from gateway.storage.embedded import EmbeddedPostgres, EmbeddedPostgresError
from gateway.storage.gate import Gate
from gateway.storage.migrations import migrate
from gateway.storage.workspace_key import WorkspaceKeys

CALLERS = 16
PAUSE_S = 0.002
OUTAGE_S = 2.0

Act = Callable[[EmbeddedPostgres], Awaitable[None]]


class Kind(NamedTuple):
    """A way in which PostgreSQL can be away."""

    name: str
    take_away: Act
    bring_back: Act


@dataclass(frozen=True, slots=True)
class Waited:
    """What questions waited in a while; those skipped are among those asked."""

    asked: int
    skipped: int
    p50_ms: float
    p99_ms: float
    longest_ms: float

    def __str__(self) -> str:
        return (
            f"{self.asked:>7} asked {self.skipped:>7} skipped"
            f"   p50 {self.p50_ms:6.2f} ms"
            f"   p99 {self.p99_ms:6.2f} ms"
            f"   longest {self.longest_ms:6.2f} ms"
        )


@dataclass(frozen=True, slots=True)
class Outage:
    """What calls waited before and during an outage, and when the budget was enforced again."""

    name: str
    before: Waited
    during: Waited
    enforced_again_ms: float


class Waits:
    """How long each question took, and when one was answered last."""

    def __init__(self) -> None:
        self.durations_s: list[float] = []
        self.skipped = 0
        self.answered_at = 0.0

    def take(self) -> Waited:
        """What happened since the last look."""
        ordered = [duration_s * 1000 for duration_s in sorted(self.durations_s)]
        count = len(ordered)
        middle, high = ordered[count // 2], ordered[count * 99 // 100]
        waited = Waited(count, self.skipped, middle, high, ordered[-1])
        self.durations_s, self.skipped = [], 0
        return waited


async def main() -> None:
    """Measure both outages and print them."""
    for outage in await measure():
        print(f"{outage.name}\n  before {outage.before}\n  during {outage.during}")
        print(f"  enforced again {outage.enforced_again_ms:.0f} ms after its return")


async def measure() -> list[Outage]:
    """Both outages, each on a server of its own."""
    outages = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            async with EmbeddedPostgres(Path(folder)) as server:
                outages.append(await _measure(kind, server))
    return outages


async def _measure(kind: Kind, server: EmbeddedPostgres) -> Outage:
    settings = DatabaseSettings(server.dsn)
    await migrate(settings)
    connection = await connect(settings)
    await connection.execute("INSERT INTO workspaces (id) VALUES ('w')")
    await connection.close()
    gate, waits = Gate(settings, WorkspaceKeys("text")), Waits()
    await gate.open()
    callers = [asyncio.create_task(_ask_on(gate, waits)) for _ in range(CALLERS)]
    await asyncio.sleep(1)
    before = waits.take()
    await kind.take_away(server)
    await asyncio.sleep(OUTAGE_S)
    during = waits.take()
    await kind.bring_back(server)
    returned_at = waits.answered_at = time.perf_counter()
    while waits.answered_at == returned_at:  # noqa: ASYNC110 - polled, so as not to slow callers
        await asyncio.sleep(0.001)
    enforced_again_ms = (waits.answered_at - returned_at) * 1000
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await gate.close()
    return Outage(kind.name, before, during, enforced_again_ms)


async def _ask_on(gate: Gate, waits: Waits) -> None:
    while True:
        started = time.perf_counter()
        try:
            await gate.ask("w")
            waits.answered_at = time.perf_counter()
        except StorageUnavailable:
            waits.skipped += 1
        waits.durations_s.append(time.perf_counter() - started)
        await asyncio.sleep(PAUSE_S)


async def _kill(server: EmbeddedPostgres) -> None:
    psutil.Process(server.process_id).kill()


async def _restart(server: EmbeddedPostgres) -> None:
    while True:
        with contextlib.suppress(EmbeddedPostgresError):
            return await server.restart()


async def _stop(server: EmbeddedPostgres) -> None:
    _signal_all(server, signal.SIGSTOP)


async def _go_on(server: EmbeddedPostgres) -> None:
    _signal_all(server, signal.SIGCONT)


def _signal_all(server: EmbeddedPostgres, number: signal.Signals) -> None:
    main_process = psutil.Process(server.process_id)
    for process in (main_process, *main_process.children(recursive=True)):
        process.send_signal(number)


KINDS = (
    Kind("killed (SIGKILL)", _kill, _restart),
    Kind("stopped (SIGSTOP)", _stop, _go_on),
)

if __name__ == "__main__":
    asyncio.run(main())
