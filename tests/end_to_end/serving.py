"""`gateway serve` as a process, for as long as a context is open."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

START_TIMEOUT_S = 60


@dataclass
class Serving:
    """A running `gateway serve`: its process, its address, and all it started."""

    process: asyncio.subprocess.Process
    url: str
    # What it wrote to its log.
    lines: list[bytes] = field(default_factory=list)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log with this event, the first to the last."""
        events = map(json.loads, self.lines)
        return [event for event in events if event["event"] == name]

    def processes(self, name: str = "") -> list[psutil.Process]:
        """The processes below it whose command line has `name`."""
        return processes_below(self.process.pid, name)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and give the exit status."""
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()


def processes_below(process_id: int, name: str = "") -> list[psutil.Process]:
    """The processes that a process started, and those did, whose command line has `name`."""
    below = psutil.Process(process_id).children(recursive=True)
    return [each for each in below if name in _command_line(each)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended meanwhile
        return ""


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    """The environment of a gateway on a free port."""
    return {
        **os.environ,
        "GATEWAY_SERVER__PORT": "0",
        "GATEWAY_DATABASE__DATA_DIR": str(data_dir),
        "GATEWAY_LOG__FORMAT": "json",
        **more,
    }


async def start(variables: Mapping[str, str], command: str = "serve") -> asyncio.subprocess.Process:
    """Start a gateway."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", command), env=variables, stderr=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def serving(data_dir: Path, **more: str) -> AsyncIterator[Serving]:
    """A gateway that answers; killed at the end, if it still runs."""
    process = await start(environment(data_dir, **more))
    reading: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            gateway = Serving(process, "")
            gateway.url = await _address(process, gateway.lines)
            reading = asyncio.create_task(_read_on(process, gateway.lines))
            await answers(gateway.url)
        yield gateway
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if reading is not None:
            await reading


async def _address(process: asyncio.subprocess.Process, lines: list[bytes]) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        lines.append(line)
        if b'"listening"' in line:
            return str(json.loads(line)["url"])
    raise AssertionError(b"".join(lines).decode())


async def _read_on(process: asyncio.subprocess.Process, lines: list[bytes]) -> None:
    """Read the log, so that the gateway can write it."""
    assert process.stderr is not None
    async for line in process.stderr:
        lines.append(line)


async def answers(url: str) -> None:
    """Wait for an answer: the socket is open before a worker runs, and calls wait in its queue."""
    async with aiohttp.ClientSession() as client, client.get(f"{url}/healthz") as answer:
        assert answer.status == 200


async def register(url: str, workspace_id: str, agent_url: str = "http://127.0.0.1:9") -> None:
    """Register an agent."""
    body = {"id": workspace_id, "url": agent_url}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{url}/registry/register", json=body) as answer,
    ):
        assert answer.status == 200


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them have ended."""
    return not any(each.is_running() and each.status() != "zombie" for each in processes)
