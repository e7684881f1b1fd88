"""`gateway serve` as a process: its database, its workers, its end, and why it may not start."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.running import until

START_TIMEOUT_S = 60


@dataclass
class Serving:
    """A running `gateway serve`: its process, its address, and all it started."""

    process: asyncio.subprocess.Process
    url: str

    def processes(self, name: str = "") -> list[psutil.Process]:
        """The processes below it whose command line has `name`."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in below if name in " ".join(each.cmdline())]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and give the exit status."""
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "GATEWAY_SERVER__PORT": "0",
        "GATEWAY_DATABASE__DATA_DIR": str(data_dir),
        "GATEWAY_LOG__FORMAT": "json",
        **more,
    }


async def start(variables: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve"), env=variables, stderr=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def serving(data_dir: Path, **more: str) -> AsyncIterator[Serving]:
    """A gateway with a database of its own that answers; killed at the end, if it still runs."""
    process = await start(environment(data_dir, **more))
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            url = await _address(process)
            await _answers(url)
        yield Serving(process, url)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    lines = []
    async for line in process.stderr:
        lines.append(line)
        if b'"listening"' in line:
            return str(json.loads(line)["url"])
    raise AssertionError(b"".join(lines).decode())


async def _answers(url: str) -> None:
    # The socket is open before the worker runs: this call waits in its queue.
    async with aiohttp.ClientSession() as client, client.get(f"{url}/healthz") as answer:
        assert answer.status == 200


async def _readiness(url: str) -> object:
    async with aiohttp.ClientSession() as client, client.get(f"{url}/readyz") as answer:
        return await answer.json()


async def _register(url: str, workspace_id: str) -> None:
    body = {"id": workspace_id, "url": "http://127.0.0.1:9"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{url}/registry/register", json=body) as answer,
    ):
        assert answer.status == 200


async def _workspace_status(url: str, workspace_id: str) -> int:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"{url}/workspaces/{workspace_id}") as answer,
    ):
        return answer.status


async def is_well(url: str) -> bool:
    """Whether the gateway says that all is well."""
    return await _readiness(url) == {"status": "ok", "database": "up"}


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != "zombie" for each in processes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_everything_with_status_0_and_data_survives(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with serving(tmp_path / "a folder") as gateway:
        await _register(gateway.url, "w")
        below = gateway.processes()
        assert len(below) >= 2  # a worker and PostgreSQL
        assert await gateway.stop(number) == 0
        await until(lambda: gone(below))
    async with serving(tmp_path / "a folder") as gateway:
        assert await _workspace_status(gateway.url, "w") == 200


async def test_supervisor_killed_by_force_leaves_no_process(tmp_path: Path) -> None:
    async with serving(tmp_path) as gateway:
        below = gateway.processes()
        await gateway.stop(signal.SIGKILL)
        await until(lambda: gone(below), deadline_s=30)


async def test_worker_that_dies_is_replaced(tmp_path: Path, dsn: str) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn) as gateway:
        (worker,) = gateway.processes("gateway worker")
        worker.kill()
        await _answers(gateway.url)
        assert [each.pid for each in gateway.processes("gateway worker")] != [worker.pid]


async def test_embedded_database_that_dies_comes_back_with_its_data(tmp_path: Path) -> None:
    async with serving(tmp_path) as gateway:
        await _register(gateway.url, "w")
        (postgres,) = gateway.processes("bin/postgres")
        postgres.kill()
        await until(lambda: not postgres.is_running() or postgres.status() == "zombie")
        await until(lambda: is_well(gateway.url), deadline_s=20)
        assert await _workspace_status(gateway.url, "w") == 200


async def test_workers_share_the_port_and_their_metrics(tmp_path: Path, dsn: str) -> None:
    two = {"GATEWAY_DATABASE__DSN": dsn, "GATEWAY_SERVER__WORKERS": "2"}
    async with serving(tmp_path, **two) as gateway:
        await until(lambda: len(gateway.processes("gateway worker")) == 2)
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{gateway.url}/metrics") as answer,
        ):
            assert "gateway_calls_total" in await answer.text()
        assert await gateway.stop() == 0


async def test_second_gateway_on_the_same_folder_shares_the_database(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    first = await stack.enter_async_context(serving(tmp_path))
    second = await stack.enter_async_context(serving(tmp_path))
    await _register(first.url, "w")
    assert await _workspace_status(second.url, "w") == 200
    assert await second.stop() == 0
    assert await _workspace_status(first.url, "w") == 200


async def test_configuration_file_reaches_the_worker(tmp_path: Path, dsn: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[auth]\nadmin_tokens = ["secret"]\n')
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, GATEWAY_CONFIG=str(file)) as gateway:
        assert await _workspace_status(gateway.url, "w") == 401


async def refusal(variables: Mapping[str, str]) -> str:
    """Why a gateway did not start: one line."""
    process = await start(variables)
    async with asyncio.timeout(START_TIMEOUT_S):
        _, stderr = await process.communicate()
    assert process.returncode == 1
    (line,) = stderr.decode().strip().splitlines()
    return line


async def test_gateway_refuses_to_be_public_without_admin_tokens(tmp_path: Path) -> None:
    line = await refusal(environment(tmp_path, GATEWAY_SERVER__HOST="0.0.0.0"))
    assert "auth.admin_tokens is not set" in line


async def test_gateway_says_that_its_port_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = await refusal(environment(tmp_path, GATEWAY_SERVER__PORT=port))
    assert f"Cannot listen on 127.0.0.1 port {port}" in line


async def test_gateway_says_that_its_database_does_not_answer(tmp_path: Path) -> None:
    dsn = f"postgresql://x@/x?host={tmp_path}"
    variables = environment(tmp_path, GATEWAY_DATABASE__DSN=dsn)
    line = await refusal({**variables, "GATEWAY_DATABASE__STARTUP_TIMEOUT_S": "0"})
    assert "does not answer" in line


async def test_signal_ends_a_gateway_that_still_waits_for_its_database(tmp_path: Path) -> None:
    dsn = f"postgresql://x@/x?host={tmp_path}"
    process = await start(environment(tmp_path, GATEWAY_DATABASE__DSN=dsn))
    # It listens before it waits, so that a port in use is told at once.
    children = psutil.Process(process.pid)
    await until(lambda: bool(children.net_connections("tcp")))
    process.terminate()
    async with asyncio.timeout(5):
        assert await process.wait() == 0
