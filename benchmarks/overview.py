"""What the Budget page costs, by the number of workspaces: one request at a time, over loopback.

    .venv/bin/python -m benchmarks.overview

The server's share and the client's are both in the figure; what the gateway must keep is 200 ms
for 1,000 workspaces.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
from aiohttp import web

from benchmarks.database import create_database, fill
from gateway.app import create_app
from gateway.config import load_config
from gateway.storage.database import DatabaseSettings
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.migrations import migrate
from gateway.storage.workspace_key import read_workspace_keys
from gateway.worker import create_runner

WORKSPACES = (10, 1_000, 10_000)
ROWS_EACH = 300
ROUNDS = 15
PATHS = {
    "by spend": "/",
    "by part of a limit": "/?sort=used",
    "by first limit reached": "/?sort=fullness",
    "by name": "/?sort=name",
    "search": "/?q=w1",
    "last page": "/?page=1000",
    "one workspace": "/ui/workspaces/w7",
}


async def main() -> None:
    """Fill databases of its own, measure, print."""
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder), settings={"fsync": "off"}) as server:
            medians = {}
            for count in WORKSPACES:
                dsn = await create_database(server.dsn, f"with_{count}")
                await migrate(DatabaseSettings(dsn))
                await fill(dsn, "http://127.0.0.1:9", count, ROWS_EACH)
                medians[count] = await measure(dsn, count)
    print("ms, median".ljust(22), *(f"{count:>8,}" for count in WORKSPACES))
    for name in PATHS:
        print(name.ljust(22), *(f"{medians[count][name]:8.1f}" for count in WORKSPACES))


async def measure(dsn: str, count: int) -> dict[str, float]:
    """The median of each page in ms."""
    config = load_config(None, {"GATEWAY_DATABASE__DSN": dsn})
    app = create_app(config, await read_workspace_keys(DatabaseSettings(dsn)))
    runner = create_runner(app, config)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        medians = {}
        for name, path in PATHS.items():
            last = path.replace("page=1000", f"page={max(1, count // 50)}")
            medians[name] = statistics.median([await _ms(client, last) for _ in range(ROUNDS)])
    await runner.cleanup()
    return medians


async def _ms(client: aiohttp.ClientSession, path: str) -> float:
    started = time.perf_counter()
    async with client.get(path) as answer:
        await answer.read()
        assert answer.status == 200
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    asyncio.run(main())
