"""A gateway whose log is a pipe that nobody reads: it serves and ends like any other."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.end_to_end.serving import START_TIMEOUT_S, Serving, answers, environment, register
from tests.pipes import SmallPipe, small_pipe
from tests.running import Agent, until

CALLERS = 20
CALLS_TIMEOUT_S = 60
# As long as they may be, so that fewer calls fill the buffer.
WORKSPACE_ID = "w" * 128
REQUEST_ID = "r" * 128


@asynccontextmanager
async def serving_unread(data_dir: Path, dsn: str) -> AsyncIterator[tuple[Serving, SmallPipe]]:
    """A gateway whose log was read until it serves, and is not read from then on."""
    variables = environment(data_dir, GATEWAY_DATABASE__DSN=dsn)
    with small_pipe() as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve"), env=variables, stderr=log.stream
        )
        try:
            await until(lambda: bool(events(log, "listening")), START_TIMEOUT_S)
            url = events(log, "listening")[0]["url"]
            await answers(url)
            yield Serving(process, url), log
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def events(log: SmallPipe, name: str) -> list[dict[str, Any]]:
    """The lines of an event that have been read so far, or can be."""
    marked = [line for line in log.lines() if b'"event":"%b"' % name.encode() in line]
    return [json.loads(line) for line in marked]


async def shows(url: str, metric: str) -> bool:
    """Whether the metrics contain this line."""
    async with aiohttp.ClientSession() as client, client.get(f"{url}/metrics") as answer:
        return metric in await answer.text()


async def call(url: str, count: int) -> None:
    """Call the agent so often, and see every call answered."""
    path = f"/workspaces/{WORKSPACE_ID}/a2a"
    headers = {"X-Request-ID": REQUEST_ID}
    numbers = iter(range(count))
    async with aiohttp.ClientSession(url) as client:

        async def call_on() -> None:
            for _ in numbers:
                async with client.post(path, data=b"{}", headers=headers) as answer:
                    assert answer.status == 200

        async with asyncio.timeout(CALLS_TIMEOUT_S):
            await asyncio.gather(*(call_on() for _ in range(CALLERS)))


async def test_calls_are_answered_and_the_gateway_ends_while_nobody_reads_its_log(
    tmp_path: Path, dsn: str, agent: Agent
) -> None:
    async with serving_unread(tmp_path, dsn) as (gateway, _):
        await register(gateway.url, WORKSPACE_ID, agent.url)
        await call(gateway.url, 400)
        assert await gateway.stop() == 0


async def test_log_that_is_read_again_reports_how_many_lines_were_lost(
    tmp_path: Path, dsn: str, agent: Agent
) -> None:
    async with serving_unread(tmp_path, dsn) as (gateway, log):
        await register(gateway.url, WORKSPACE_ID, agent.url)
        # Over a mebibyte of lines.
        await call(gateway.url, 3000)
        log.widen()
        await until(lambda: bool(events(log, "log_lines_lost")))
        (report,) = events(log, "log_lines_lost")
        await until(lambda: report["count"] + len(events(log, "call")) == 3000)
        metric = f"\ngateway_log_lines_lost_total {report['count']:.1f}\n"
        await until(lambda: shows(gateway.url, metric))
        assert await gateway.stop() == 0
