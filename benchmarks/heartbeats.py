"""How many heartbeats a second are acknowledged, and whether the ledger is exact afterwards.

    .venv/bin/python benchmarks/heartbeats.py [--workers N] [--connections N] [--against FOLDER]

A gateway with a PostgreSQL of its own takes heartbeats of 1,000 workspaces with tokens from 256
connections; every heartbeat reports new spend. With another checkout in FOLDER its gateway takes
turns with this one, in one run. At the end each ledger must hold exactly what was acknowledged.
CPU time per heartbeat is told beside, because it depends less on what else the machine does.
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import uvloop

from gateway.storage.audit import verify_ledger
from gateway.storage.database import DatabaseSettings, connect
from gateway.storage.embedded import EmbeddedPostgres

CHECKOUT = Path(__file__).parents[1]
CONNECTIONS = 256
WORKSPACES = 1_000
START_TIMEOUT_S = 60

HEAD = (
    "POST /registry/heartbeat HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    "Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
)
BODY = (
    '{{"workspace_id":"{workspace_id}","monthly_spend":{cents},"uptime_seconds":{cents},'
    '"active_tasks":1,"current_task":"write","error_rate":0.0,"sample_error":"",'
    '"runtime_state":"","instance_id":"pod-1","counter_epoch":"2026-11-01T00:00:00Z"}}'
)


async def measure(
    checkouts: Mapping[str, Path],
    workers: int = 1,
    connections: int = CONNECTIONS,
    rounds: int = 5,
    round_s: float = 2.0,
) -> dict[str, dict[str, float]]:
    """The medians of each checkout's gateway. Raises AssertionError for a ledger that is wrong."""
    async with AsyncExitStack() as stack:
        gateways = {
            name: await stack.enter_async_context(running_gateway(folder, workers))
            for name, folder in checkouts.items()
        }
        for number in range(rounds + 1):
            for gateway in gateways.values():
                await gateway.take_heartbeats(connections, round_s)
                if number == 0:  # it fills caches
                    gateway.figures.clear()
        measured = {name: gateway.medians() for name, gateway in gateways.items()}
        for name, gateway in gateways.items():
            measured[name]["acknowledged"] = await gateway.verify()
    return measured


@dataclass(slots=True)
class Agent:
    """A workspace's agent, whose spend grows by a cent with each heartbeat."""

    workspace_id: str
    token: str
    cents: int = 0

    def heartbeat(self) -> bytes:
        """The next heartbeat as it is sent."""
        self.cents += 1
        body = BODY.format(workspace_id=self.workspace_id, cents=self.cents)
        return (HEAD.format(token=self.token, length=len(body)) + body).encode()


class Sender(asyncio.Protocol):
    """One connection: the next heartbeat follows the answer to the last. Cheap on purpose."""

    def __init__(self, agents: Iterator[Agent], until: float) -> None:
        self.agents, self.until = agents, until
        self.latencies_s: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received, self.sent_at = b"", 0.0

    def connection_made(self, transport: Any) -> None:  # uvloop's is none of asyncio's types
        """Begin."""
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send a heartbeat, or end."""
        self.sent_at = time.perf_counter()
        if self.sent_at < self.until:
            self.transport.write(next(self.agents).heartbeat())
        else:
            self.ended.set_result(None)
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Go on when the answer is whole."""
        self.received += data
        head, _, body = self.received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            self.ended.set_exception(RuntimeError(self.received.decode()))
        elif len(body) == int(head.lower().partition(b"content-length:")[2].split()[0]):
            self.latencies_s.append(time.perf_counter() - self.sent_at)
            self.received = b""
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        """No answer is missing."""
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("the gateway closed"))


@dataclass(slots=True)
class Gateway:
    """A running gateway, its agents, and what was measured in each round."""

    port: int
    dsn: str
    processes: Mapping[str, psutil.Process]
    agents: list[Agent] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    async def register(self) -> None:
        """Give every agent its token."""
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as client:
            for number in range(WORKSPACES):
                body = {"id": f"w{number}", "url": "http://127.0.0.1:9"}
                async with client.post("/registry/register", json=body) as answer:
                    self.agents.append(Agent(body["id"], (await answer.json())["token"]))

    async def take_heartbeats(self, connections: int, duration_s: float) -> None:
        """Send heartbeats for so long, and take note."""
        before, started = self._cpu_s(), time.perf_counter()
        latencies_s = sorted(await self._send(connections, started + duration_s))
        count, elapsed_s = len(latencies_s), time.perf_counter() - started
        self.figures["heartbeats/s"].append(count / elapsed_s)
        self.figures["p50, ms"].append(latencies_s[count // 2] * 1000)
        self.figures["p99, ms"].append(latencies_s[count * 99 // 100] * 1000)
        for name, cpu_s in self._cpu_s().items():
            self.figures[f"{name} CPU, us"].append((cpu_s - before[name]) / count * 1e6)

    async def _send(self, connections: int, until: float) -> list[float]:
        loop, senders = asyncio.get_running_loop(), []
        for number in range(connections):
            sender = Sender(cycle(self.agents[number::connections]), until)
            await loop.create_connection(lambda sender=sender: sender, "127.0.0.1", self.port)
            senders.append(sender)
        await asyncio.gather(*[sender.ended for sender in senders])
        return [latency_s for sender in senders for latency_s in sender.latencies_s]

    def _cpu_s(self) -> dict[str, float]:
        return {
            name: sum(
                sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True))
            )
            for name, process in self.processes.items()
        }

    def medians(self) -> dict[str, float]:
        """What was measured, in the middle."""
        return {name: statistics.median(each) for name, each in self.figures.items()}

    async def verify(self) -> int:
        """How many heartbeats were acknowledged; the ledger must hold them and nothing else."""
        settings = DatabaseSettings(self.dsn)
        differences = [each async for _, found in verify_ledger(settings) for each in found]
        assert not differences, differences
        connection = await connect(settings)
        rows = await connection.fetch(
            """SELECT workspace_id, sum(amount_cents)::bigint AS cents, count(*) AS count
               FROM workspace_spend_events GROUP BY workspace_id"""
        )
        await connection.close()
        acknowledged = {agent.workspace_id: agent.cents for agent in self.agents if agent.cents}
        assert {row["workspace_id"]: row["cents"] for row in rows} == acknowledged
        assert {row["workspace_id"]: row["count"] for row in rows} == acknowledged
        return sum(acknowledged.values())


@asynccontextmanager
async def running_gateway(checkout: Path, workers: int) -> AsyncIterator[Gateway]:
    """`gateway serve` of a checkout, its agents registered."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        variables = {
            "PYTHONPATH": str(checkout),
            "GATEWAY_SERVER__PORT": str(port),
            "GATEWAY_SERVER__WORKERS": str(workers),
        }
        async with EmbeddedPostgres(Path(folder)) as server:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "serve"),
                cwd=checkout,
                env={**os.environ, **variables, "GATEWAY_DATABASE__DSN": server.dsn},
                stderr=DEVNULL,
            )
            try:
                await _until_ready(port)
                parts = {"gateway": process.pid, "PostgreSQL": server.process_id}
                gateway = Gateway(
                    port, server.dsn, {name: psutil.Process(pid) for name, pid in parts.items()}
                )
                await gateway.register()
                yield gateway
            finally:
                process.terminate()
                await process.wait()


async def _until_ready(port: int) -> None:
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    options = parser.parse_args()
    checkouts = {"this": CHECKOUT}
    if options.against:
        checkouts["against"] = options.against.resolve()
    measured = uvloop.run(measure(checkouts, options.workers, options.connections))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end")
    for name, figures in measured.items():
        print(f"\n{name}, workers: {options.workers}, connections: {options.connections}")
        for title, value in figures.items():
            print(f"  {title:<20}{value:>12,.1f}")
    print("\nEvery ledger holds exactly what was acknowledged.")


if __name__ == "__main__":
    main()
