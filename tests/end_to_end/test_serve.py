"""`gateway serve` as a process: its database, its workers, its end, and why it may not start."""

import asyncio
import signal
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.end_to_end.serving import (
    START_TIMEOUT_S,
    answers,
    environment,
    gone,
    register,
    serving,
    start,
)
from tests.running import until


async def _readiness(url: str) -> object:
    async with aiohttp.ClientSession() as client, client.get(f"{url}/readyz") as answer:
        return await answer.json()


async def _workspace_status(url: str, workspace_id: str) -> int:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"{url}/workspaces/{workspace_id}") as answer,
    ):
        return answer.status


async def is_well(url: str) -> bool:
    """Whether the gateway says that all is well."""
    return await _readiness(url) == {"status": "ok", "database": "up"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_everything_with_status_0_and_data_survives(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with serving(tmp_path / "a folder") as gateway:
        await register(gateway.url, "w")
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
        await answers(gateway.url)
        assert [each.pid for each in gateway.processes("gateway worker")] != [worker.pid]


async def test_embedded_database_that_dies_comes_back_with_its_data(tmp_path: Path) -> None:
    async with serving(tmp_path) as gateway:
        await register(gateway.url, "w")
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
    await register(first.url, "w")
    assert await _workspace_status(second.url, "w") == 200
    assert await second.stop() == 0
    assert await _workspace_status(first.url, "w") == 200


async def test_configuration_file_reaches_the_worker(tmp_path: Path, dsn: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[auth]\nadmin_tokens = ["secret"]\n')
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, GATEWAY_CONFIG=str(file)) as gateway:
        assert await _workspace_status(gateway.url, "w") == 401


async def refusal(variables: Mapping[str, str], command: str = "serve") -> str:
    """Why a command did not start: one line."""
    process = await start(variables, command)
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


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("postgresql://x@[::1/x", "database.dsn"),
        ("mysql://x@localhost/x", "database.dsn"),
        ("{dsn}_that_does_not_exist", "refuses the connection"),
    ],
)
async def test_gateway_says_that_its_database_cannot_be_used_however_long_it_waits(
    tmp_path: Path, dsn: str, reason: str, postgres: str
) -> None:
    head, _, query = postgres.partition("?")
    dsn = dsn.replace("{dsn}", head) + (f"?{query}" if "{dsn}" in dsn else "")
    line = await refusal(environment(tmp_path, GATEWAY_DATABASE__DSN=dsn))
    assert reason in line


async def test_command_says_that_its_database_does_not_answer(tmp_path: Path) -> None:
    dsn = f"postgresql://x@/x?host={tmp_path}"
    variables = environment(tmp_path, GATEWAY_DATABASE__DSN=dsn)
    variables["GATEWAY_DATABASE__STARTUP_TIMEOUT_S"] = "0"
    assert "does not answer" in await refusal(variables, "migrate")


async def test_open_pages_do_not_hold_up_the_end(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as gateway,
        aiohttp.ClientSession(gateway.url) as client,
        client.get("/ui/events") as stream,
    ):
        assert (stream.status, stream.content_type) == (200, "text/event-stream")
        await stream.content.readline()
        # Calls under way would have 30 s to end, and the test waits for 20.
        assert await gateway.stop() == 0


async def test_a_thousand_connections_may_wait_for_a_worker(tmp_path: Path, dsn: str) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn) as gateway:
        (worker,) = gateway.processes("gateway worker")
        port = urlsplit(gateway.url).port
        worker.suspend()
        try:
            async with asyncio.timeout(10):
                connected = await asyncio.gather(
                    *[asyncio.open_connection("127.0.0.1", port) for _ in range(1000)]
                )
        finally:
            worker.resume()
        for _, writer in connected:
            writer.transport.abort()
        await answers(gateway.url)
