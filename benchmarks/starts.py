"""What starts while the database is away: how soon it serves, and how soon it checks afterwards.

A gateway with two workers and a data folder of its own. During an outage of PostgreSQL a worker
is killed, all workers are killed, the workers are replaced (SIGHUP), or the whole gateway is
restarted. Meanwhile a workspace with room in its budget and one with a limit of 0 are called.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from benchmarks import outage
from benchmarks.database import SERVER_SETTINGS, create_database
from benchmarks.outage_seen import OutageSeen
from benchmarks.processes import ROOT
from benchmarks.report import Row
from benchmarks.restartable import ACTS, Restartable
from benchmarks.suite import Suite
from benchmarks.watch import now, watching
from gateway.storage.embedded import EmbeddedPostgres

OUTAGE_S, QUICK_OUTAGE_S = 30.0, 6.0
# The outage is noticed before anything is ended.
BEFORE_ACT_S = 1.0
AFTER_RETURN_S = 2.0
TIMEOUT_S = 30.0
POLL_S = 0.05
# Addresses are written at most a minute after they changed.
SNAPSHOT_TIMEOUT_S = 75.0


async def measure(suite: Suite) -> list[Row]:
    """Every outage of every gateway."""
    rows: list[Row] = []
    folder = suite.folder / "starts-database"
    async with EmbeddedPostgres(folder, settings=SERVER_SETTINGS) as server:
        gateways: list[Restartable] = []
        try:
            await _start(suite, server.dsn, gateways)
            for kind in outage.KINDS:
                for act in ACTS:
                    for gateway in gateways:
                        rows += await _live_through(suite, server, gateway, kind, act)
        finally:
            for gateway in gateways:
                await gateway.stop()
    return rows


async def _start(suite: Suite, server_dsn: str, gateways: list[Restartable]) -> None:
    """Start all that take part, and wait for their snapshots."""
    for number, (name, checkout) in enumerate({"gateway": ROOT, **suite.checkouts}.items()):
        folder = suite.folder / f"starts-{number}"
        folder.mkdir()
        dsn = await create_database(server_dsn, f"starts_{number}")
        gateway = Restartable(name, checkout, dsn, folder)
        gateways.append(gateway)
        await gateway.start()
        await gateway.register(suite.agent().port)
    await _until(lambda: all(each.has_snapshot for each in gateways), SNAPSHOT_TIMEOUT_S)
    for gateway in gateways:
        if not gateway.has_snapshot:
            suite.note(f"{gateway.name}: no snapshot of addresses after {SNAPSHOT_TIMEOUT_S:.0f} s")


async def _live_through(
    suite: Suite, server: EmbeddedPostgres, gateway: Restartable, kind: outage.Kind, act: str
) -> list[Row]:
    seen = OutageSeen(f"{act}, {kind.name.partition(' ')[0]}", gateway)
    async with watching(seen.known, seen.blocked):
        await _until(lambda: seen.is_calm)
        await seen.begin()
        await kind.take_away(server)
        await asyncio.sleep(BEFORE_ACT_S)
        async with seen.new_workers_noted():
            await seen.act(act)
            await asyncio.sleep(QUICK_OUTAGE_S if suite.is_quick else OUTAGE_S)
        seen.returning_at = now()
        await kind.bring_back(server)
        seen.returned_at = now()
        if not await gateway.has_restarted():
            suite.note(f"{gateway.name}: {seen.what}: its start failed; it was started once more")
        await _until(lambda: seen.blocked.seen[-1].is_refused)
        await asyncio.sleep(AFTER_RETURN_S)
    if seen.passed is None:
        suite.note(f"{gateway.name}: {seen.what}: no new process let a call pass in the outage")
    await seen.count()
    return seen.rows()


async def _until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait for the condition; what comes later is measured as it is."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - polled, as files and processes are
                await asyncio.sleep(POLL_S)
