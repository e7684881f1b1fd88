"""Stopping and replacing workers under load: no call is lost."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web

from gateway.workers import RETIRED_PER_WORKER_MAX
from tests.end_to_end.serving import Serving, register, serving
from tests.raw import RawConnection, connect
from tests.running import Agent, until

KEEPING = 6
OPENING = 2
RESTARTS = 8
# Callers think a little, so that the two cores have time for processes to start.
PACE_S = 0.01


@dataclass
class Load:
    """Callers that call one after another, and what became of their calls."""

    url: str
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    is_over: bool = False

    async def call_on(self, is_keeping: bool) -> None:
        """Call until the gateway is gone, on kept connections or each time on a new one."""
        connector = aiohttp.TCPConnector(force_close=not is_keeping)
        async with aiohttp.ClientSession(connector=connector) as client:
            while not self.is_over:
                try:
                    async with client.post(self.url, data=b"{}") as answer:
                        await answer.read()
                    self.count(answer.status)
                    await asyncio.sleep(PACE_S)
                except aiohttp.ClientConnectorError:
                    # Nobody listens any more: no call was accepted.
                    return
                except aiohttp.ClientError as error:
                    self.failed[repr(error)] += 1

    def count(self, status: int) -> None:
        if status == 200:
            self.answered += 1
        else:
            self.failed[f"status {status}"] += 1


@asynccontextmanager
async def load_on(url: str) -> AsyncIterator[Load]:
    load = Load(url)
    callers = [
        asyncio.create_task(load.call_on(number < KEEPING)) for number in range(KEEPING + OPENING)
    ]
    try:
        await until(lambda: load.answered > 100)
        yield load
    finally:
        load.is_over = True
        await asyncio.gather(*callers)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_stop_under_load_loses_no_call(
    tmp_path: Path, dsn: str, agent: Agent, workers: str
) -> None:
    variables = {"GATEWAY_DATABASE__DSN": dsn, "GATEWAY_SERVER__WORKERS": workers}
    async with serving(tmp_path, **variables) as gateway:
        await register(gateway.url, "w", agent.url)
        async with load_on(f"{gateway.url}/workspaces/w/a2a") as load:
            assert await gateway.stop() == 0
        assert load.failed == Counter()


async def test_workers_are_replaced_8_times_under_load_without_losing_a_call(
    tmp_path: Path, dsn: str, agent: Agent
) -> None:
    variables = {
        "GATEWAY_DATABASE__DSN": dsn,
        "GATEWAY_SERVER__WORKERS": "2",
        "GATEWAY_SERVER__DRAIN_DELAY_S": "0.1",
    }
    async with serving(tmp_path, **variables) as gateway:
        await register(gateway.url, "w", agent.url)
        async with load_on(f"{gateway.url}/workspaces/w/a2a") as load:
            for _ in range(RESTARTS // 2):
                await _replace_both(gateway)
        assert load.failed == Counter()
        assert await gateway.stop() == 0


async def _replace_both(gateway: Serving) -> None:
    before = {each.pid for each in gateway.processes("gateway worker")}
    gateway.process.send_signal(signal.SIGHUP)

    def all_are_new() -> bool:
        now = {each.pid for each in gateway.processes("gateway worker")}
        return len(now) == 2 and not now & before

    await until(all_are_new, deadline_s=30)


async def test_replacement_that_cannot_start_leaves_the_old_worker(
    tmp_path: Path, dsn: str
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("")
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, GATEWAY_CONFIG=str(file)) as gateway:
        before = [each.pid for each in gateway.processes("gateway worker")]
        file.write_text("[nonsense]\n")
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: len(gateway.processes("gateway worker")) == 2)
        await until(lambda: len(gateway.processes("gateway worker")) == 1)
        assert [each.pid for each in gateway.processes("gateway worker")] == before
        await until(lambda: bool(gateway.events("workers_not_replaced")))
        (line,) = gateway.events("worker_start_failed")
        assert (line["cause"], line["reason"]) == ("ConfigError", "nonsense: unknown key")
        assert "exception" not in line
        file.write_text("[auth]\nadmin_tokens = ['secret']\n")
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: _is_closed_to_strangers(gateway.url))


async def _is_closed_to_strangers(url: str) -> bool:
    async with aiohttp.ClientSession() as client, client.get(f"{url}/workspaces") as answer:
        return answer.status == 401


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_open_event_streams_are_broken_off_at_the_drain_limit(
    tmp_path: Path, dsn: str, agent: Agent, version: str
) -> None:
    cancelled = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: 1\n\n")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return answer

    agent.respond = respond
    variables = {"GATEWAY_DATABASE__DSN": dsn, "GATEWAY_SERVER__DRAIN_TIMEOUT_S": "0.5"}
    async with serving(tmp_path, **variables) as gateway:
        await register(gateway.url, "w", agent.url)
        async with connect(gateway.url) as caller:
            caller.send(f"GET /workspaces/w/a2a HTTP/{version}\r\nHost: gateway\r\n\r\n".encode())
            await caller.until(lambda: b"data: 1\n\n" in caller.received)
            assert await gateway.stop() == 0
            await caller.ended()
            assert not caller.has_whole_answer
        async with asyncio.timeout(5):
            await cancelled.wait()


async def test_event_stream_that_ends_within_the_limit_is_complete(
    tmp_path: Path, dsn: str, agent: Agent
) -> None:
    may_end = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: 1\n\n")
        await may_end.wait()
        await answer.write(b"data: 2\n\n")
        return answer

    agent.respond = respond
    async with (
        serving(tmp_path, GATEWAY_DATABASE__DSN=dsn) as gateway,
        aiohttp.ClientSession() as client,
    ):
        await register(gateway.url, "w", agent.url)
        async with client.get(f"{gateway.url}/workspaces/w/a2a") as answer:
            assert await answer.content.readany() == b"data: 1\n\n"
            stopping = asyncio.create_task(gateway.stop())
            await until(lambda: _refuses_connections(gateway.url))
            may_end.set()
            assert await answer.content.read() == b"data: 2\n\n"
        assert await stopping == 0


async def _refuses_connections(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as client, client.get(f"{url}/readyz"):
            return False
    except aiohttp.ClientConnectorError:
        return True


class Streams:
    """An agent's streams, which begin, say on what they are told to, and have no end."""

    def __init__(self, agent: Agent) -> None:
        self.goes_on = asyncio.Event()
        agent.respond = self.respond

    async def respond(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: 1\n\n")
        await self.goes_on.wait()
        await answer.write(b"data: 2\n\n")
        await asyncio.Event().wait()
        return answer


@asynccontextmanager
async def open_stream(url: str) -> AsyncIterator[RawConnection]:
    """A call whose answer has begun and goes on."""
    async with connect(url) as caller:
        caller.send(b"GET /workspaces/w/a2a HTTP/1.1\r\nHost: gateway\r\n\r\n")
        await caller.until(lambda: b"data: 1\n\n" in caller.received)
        yield caller


async def _reload(gateway: Serving) -> None:
    """Replace the workers; the old ones take no connections any more."""
    count = len(gateway.events("workers_replaced"))
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: len(gateway.events("workers_replaced")) > count, deadline_s=60)
    retired = {line["process_id"] for line in gateway.events("worker_retires")}
    old = [each for each in gateway.processes("gateway worker") if each.pid in retired]
    await until(lambda: not any(map(_listens, old)))


def _listens(process: psutil.Process) -> bool:
    try:
        connections = process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    return any(each.status == psutil.CONN_LISTEN for each in connections)


# Much shorter than what a worker may take after a reload.
SHORT_DRAIN = {"GATEWAY_SERVER__DRAIN_TIMEOUT_S": "0.5", "GATEWAY_SERVER__DRAIN_DELAY_S": "0"}


async def test_calls_outlive_two_reloads_and_sigterm_ends_them(
    tmp_path: Path, dsn: str, agent: Agent
) -> None:
    streams = Streams(agent)
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, **SHORT_DRAIN) as gateway:
        await register(gateway.url, "w", agent.url)
        async with open_stream(gateway.url) as first:
            await _reload(gateway)
            async with open_stream(gateway.url) as second:
                await _reload(gateway)
                assert len(gateway.processes("gateway worker")) == 3
                over = time.monotonic() + 3  # the short drain would be
                await until(lambda: time.monotonic() > over)
                streams.goes_on.set()
                for caller in (first, second):
                    await caller.until(lambda: b"data: 2\n\n" in caller.received)  # noqa: B023
                assert await gateway.stop() == 0
                for caller in (first, second):
                    await caller.ended()
                    assert not caller.has_whole_answer
        assert gateway.events("worker_hung") == []


async def test_retired_worker_ends_with_its_last_call(
    tmp_path: Path, dsn: str, agent: Agent
) -> None:
    Streams(agent)
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn) as gateway:
        await register(gateway.url, "w", agent.url)
        async with open_stream(gateway.url):
            await _reload(gateway)
        await until(lambda: bool(gateway.events("retired_worker_ended")), deadline_s=30)
        (line,) = gateway.events("retired_worker_ended")
        assert line["status"] == 0
        assert len(gateway.processes("gateway worker")) == 1


async def test_the_oldest_of_too_many_retired_workers_is_hurried(
    tmp_path: Path, dsn: str, agent: Agent, stack: AsyncExitStack
) -> None:
    Streams(agent)
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn, **SHORT_DRAIN) as gateway:
        await register(gateway.url, "w", agent.url)
        callers = []
        for _ in range(RETIRED_PER_WORKER_MAX + 1):
            callers.append(await stack.enter_async_context(open_stream(gateway.url)))
            await _reload(gateway)
        assert len(gateway.events("retired_worker_hurried")) == 1
        assert [each.is_open for each in callers] == [False, True, True, True]
        assert await gateway.stop() == 0
