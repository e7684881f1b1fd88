"""What two workers count together: while one is killed, without their folder, in an outage."""

import asyncio
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import psutil
import pytest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from gateway.web.metrics_files import (
    read_interruptions,
)
from gateway.web.metrics_folder import FOLDER_VARIABLE
from tests.end_to_end.serving import Serving, register, serving
from tests.running import Agent, until
from tests.storage.wire import open_wire
from tests.web.test_page import words

# A check is not late because the machine is busy.
TWO = {"GATEWAY_SERVER__WORKERS": "2", "GATEWAY_BUDGET__CHECK_TIMEOUT_MS": "10000"}


@pytest.fixture
async def client(stack: AsyncExitStack) -> aiohttp.ClientSession:
    """A client with a new connection for every request, so that both workers get some."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    return await stack.enter_async_context(aiohttp.ClientSession(connector=connector))


async def text_of(client: aiohttp.ClientSession, url: str) -> str:
    async with client.get(url) as answer:
        return await answer.text()


async def heartbeats(client: aiohttp.ClientSession, gateway: Serving) -> dict[str, float]:
    """The heartbeats counted, by result."""
    text = ""
    # A worker that just began may be late, and then shows no counters.
    while "gateway_heartbeats_total" not in text:
        text = await text_of(client, f"{gateway.url}/metrics")
    return {
        sample.labels["result"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gateway_heartbeats_total" and sample.value
    }


async def beat(client: aiohttp.ClientSession, gateway: Serving, count: int) -> None:
    """Send heartbeats of nobody, all at once; that they are rejected is counted."""

    async def send() -> None:
        body = {"workspace_id": "unknown"}
        async with client.post(f"{gateway.url}/registry/heartbeat", json=body) as answer:
            assert answer.status == 404

    await asyncio.gather(*(send() for _ in range(count)))


def folder_of(workers: list[psutil.Process]) -> Path:
    """The folder in which the workers share their metrics."""
    return Path(workers[0].environ()[FOLDER_VARIABLE])


async def two_workers(gateway: Serving) -> list[psutil.Process]:
    """Both workers, as soon as both count."""
    await until(lambda: len(gateway.processes("gateway worker")) == 2)
    workers = gateway.processes("gateway worker")
    await until(lambda: count_their_files(folder_of(workers)) == 2, deadline_s=60)
    return workers


def count_their_files(folder: Path) -> int:
    # There is another of all that ended, once one did.
    return len(list(folder.glob("gauge_livesum_*.db")))


async def test_killed_workers_counts_are_neither_lost_nor_doubled(
    tmp_path: Path, dsn: str, client: aiohttp.ClientSession
) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, **TWO) as gateway:
        workers = await two_workers(gateway)
        first, folder = workers[0], folder_of(workers)
        await beat(client, gateway, 100)
        first.kill()
        async with asyncio.timeout(60):
            while has_files(folder, first):
                assert await heartbeats(client, gateway) == {"rejected": 100}
        assert await heartbeats(client, gateway) == {"rejected": 100}


def has_files(folder: Path, worker: psutil.Process) -> bool:
    """Whether the supervisor has not yet merged what a worker left behind."""
    return any(folder.glob(f"*_{worker.pid}.*"))


async def test_gateway_serves_on_without_its_folder_of_metrics(
    tmp_path: Path, dsn: str, client: aiohttp.ClientSession
) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, **TWO) as gateway:
        folder = folder_of(await two_workers(gateway))
        shutil.rmtree(folder)
        await beat(client, gateway, 20)
        assert "gateway_breaker_open 0" in await text_of(client, f"{gateway.url}/metrics")
        await until(lambda: count_their_files(folder) == 2)
        assert folder.stat().st_mode & 0o777 == 0o700
        before = await heartbeats(client, gateway)
        await beat(client, gateway, 7)
        after = {"rejected": before.get("rejected", 0) + 7}

        async def are_counted() -> bool:
            return await heartbeats(client, gateway) == after

        await until(are_counted)
        assert await gateway.stop() == 0
        assert not folder.exists()


async def test_pages_header_counts_the_unchecked_calls_of_all_workers(
    tmp_path: Path, dsn: str, client: aiohttp.ClientSession, agent: Agent
) -> None:
    async with (
        open_wire(dsn) as wire,
        serving(tmp_path, GATEWAY_DATABASE__DSN=wire.dsn, **TWO) as gateway,
    ):
        workers = await two_workers(gateway)
        folder = folder_of(workers)
        await register(gateway.url, "w", agent.url)
        async with asyncio.timeout(60):
            while not all(has_checked(folder, worker) for worker in workers):
                assert await unchecked_calls(client, gateway) == 0
            wire.cut()
            unchecked = 0
            while len(read_interruptions(folder)) < 2:
                unchecked += await unchecked_calls(client, gateway)
        await until(lambda: page_shows(client, gateway, unchecked), 40)
        workers[0].kill()
        await until(lambda: not has_files(folder, workers[0]))
        await until(lambda: page_shows(client, gateway, unchecked), 40)


def has_checked(folder: Path, worker: psutil.Process) -> bool:
    """Whether a worker knows the agent's address, from a call that it checked."""
    file = folder / f"histogram_{worker.pid}.db"
    if not file.exists():
        return False
    found = MmapedDict.read_all_values_from_file(file)
    return any("check_duration_seconds_sum" in key and value for key, value, *_ in found)


async def unchecked_calls(client: aiohttp.ClientSession, gateway: Serving) -> int:
    """Send a few calls at once, and count those that passed unchecked."""

    async def call() -> bool:
        async with client.post(f"{gateway.url}/workspaces/w/a2a", json={}) as answer:
            return answer.headers.get("Budget-Check") == "skipped"

    return sum(await asyncio.gather(*(call() for _ in range(10))))


async def page_shows(client: aiohttp.ClientSession, gateway: Serving, unchecked: int) -> bool:
    text = words(await text_of(client, f"{gateway.url}/"))
    return f" {unchecked:,} unchecked calls since" in text
