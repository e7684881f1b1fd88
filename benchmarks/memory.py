"""What open answers cost a worker: 100 callers that stop reading, and 1,000 idle event streams.

    .venv/bin/python benchmarks/memory.py

Gateway, agent and callers are processes of their own on loopback. Memory is what the worker alone
holds (USS), at its highest, without the kernel's buffers. Exit status 1 if stalled readers make it
grow by more than the limit.
"""

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

STALLED_READERS = 100
STALLED_GROWTH_MB_MAX = 50
IDLE_STREAMS = 1_000
PART_BYTES = 64 * 1024
# They read so much before they stall that everybody has seen them as fast.
READ_BYTES = 128 * 1024
TIME_MAX_S = 85

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def main() -> int:
    """Measure, print, and give the exit status."""
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    async with asyncio.timeout(TIME_MAX_S):
        stalled_mb = await growth_mb("endless", STALLED_READERS)
        idle_mb = await growth_mb("idle", IDLE_STREAMS)
    print(f"{STALLED_READERS:,} stalled readers     {stalled_mb:6.1f} MB")
    print(f"{IDLE_STREAMS:,} idle event streams {idle_mb:6.1f} MB")
    return int(stalled_mb > STALLED_GROWTH_MB_MAX)


async def growth_mb(path: str, count: int) -> float:
    """By how much a fresh worker grows with so many answers open."""
    async with running_agent() as agent_url, running_gateway() as (url, worker):
        await post(f"{url}/registry/register", {"id": "w", "url": agent_url})
        async with AsyncExitStack() as stack:
            # What is loaded and cached with the first call is no growth.
            await stack.enter_async_context(answer(url, path))
            before = int(worker.memory_full_info().uss)
            for _ in range(count):
                await stack.enter_async_context(answer(url, path))
            return (await highest_uss(worker) - before) / 1_000_000


async def highest_uss(worker: psutil.Process) -> int:
    """The worker's memory once it has not grown for two seconds."""
    highest, quiet_s = 0, 0
    while quiet_s < 2:
        now = worker.memory_full_info().uss
        quiet_s = 0 if now > highest else quiet_s + 1
        highest = max(highest, now)
        await asyncio.sleep(1)
    return highest


@asynccontextmanager
async def answer(url: str, path: str) -> AsyncIterator[None]:
    """An answer that has begun; its caller reads no further."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(f"GET /workspaces/w/a2a/{path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
        await reader.readuntil(b"hello")
        if path == "endless":
            await reader.readexactly(READ_BYTES)
        yield
    finally:
        writer.transport.abort()


async def post(url: str, body: object) -> None:
    """Send JSON; the answer must be 200."""
    address, data = urlsplit(url), json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST {address.path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    received = await reader.read()
    writer.close()
    assert b" 200 " in received.partition(b"\r\n")[0], received


@asynccontextmanager
async def running_agent() -> AsyncIterator[str]:
    """An agent in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "agent"), stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        await end(process)


@asynccontextmanager
async def running_gateway() -> AsyncIterator[tuple[str, psutil.Process]]:
    """`gateway serve` with a database of its own: its address, and its worker."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            "GATEWAY_SERVER__PORT": "0",
            "GATEWAY_SERVER__DRAIN_TIMEOUT_S": "0",
            "GATEWAY_DATABASE__DATA_DIR": str(Path(folder) / "database"),
            "GATEWAY_LOG__FORMAT": "json",
        }
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "serve"),
                env={**os.environ, **variables},
                stderr=file,
            )
        try:
            url = await address_in(log)
            below = psutil.Process(process.pid).children()
            (worker,) = (each for each in below if "worker" in each.cmdline())
            yield url, worker
        finally:
            await end(process)


async def address_in(log: Path) -> str:
    """The gateway's address, once its log tells it."""
    while True:
        for line in lines_of(log):
            if '"listening"' in line:
                return str(json.loads(line)["url"])
        await asyncio.sleep(0.05)


def lines_of(log: Path) -> list[str]:
    """What was logged so far."""
    return log.read_text().splitlines()


async def end(process: Process) -> None:
    """End a process that was started here."""
    with suppress(ProcessLookupError):
        process.terminate()
    await process.wait()


async def serve_answers() -> None:
    """Be the agent: begin every answer, and go on with the endless ones."""
    part = b"%x\r\n%b\r\n" % (PART_BYTES, bytes(PART_BYTES))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            is_endless = b"/endless" in await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + b"5\r\nhello\r\n")
            while is_endless:
                writer.write(part)
                await writer.drain()
            await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1:] == ["agent"]:
        asyncio.run(serve_answers())
    else:
        sys.exit(asyncio.run(main()))
