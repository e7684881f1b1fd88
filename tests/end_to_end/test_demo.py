"""`gateway demo` as a person runs it, its output in a pipe."""

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from tests.running import until

START_TIMEOUT_S = 30
# The demo promises to show a refusal within a minute.
REFUSAL_TIMEOUT_S = 60
PASSED_AGAIN = r"runaway coder: \d tests? fails?, trying again"


@dataclass
class Demo:
    """A running demo and what it has printed so far."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def read(self) -> None:
        """Collect lines until the demo closes its output."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    async def prints(
        self, pattern: str, deadline_s: float = START_TIMEOUT_S, after: int = 0
    ) -> re.Match[str]:
        """Wait for a line, not among the first `after` ones, that the pattern is found in."""

        def find() -> re.Match[str] | None:
            found = (re.search(pattern, line) for line in self.lines[after:])
            return next((match for match in found if match), None)

        await until(lambda: find() is not None, deadline_s)
        match = find()
        assert match is not None
        return match

    async def end(self, number: signal.Signals) -> int:
        """Send a signal; give the exit status once no process of the demo is left."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        assert family, "a demo without a worker and a database"
        self.process.send_signal(number)
        async with asyncio.timeout(10):
            status = await self.process.wait()
        await until(lambda: not any(is_alive(process) for process in family))
        return status


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs: one that ended, but that nobody has waited for, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def run_demo(data_dir: Path, port: int = 0) -> AsyncIterator[Demo]:
    """A demo in a process of its own, killed at the end if it still runs."""
    environment = {
        **os.environ,
        "GATEWAY_DATABASE__DATA_DIR": str(data_dir),
        "GATEWAY_SERVER__PORT": str(port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "demo", stdout=asyncio.subprocess.PIPE, env=environment
    )
    demo = Demo(process)
    reading = asyncio.create_task(demo.read())
    try:
        yield demo
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def raise_limit(command: str) -> int:
    """Send what the printed curl command would send, and give the answer's status."""
    words = shlex.split(command)
    assert words[:3] == ["curl", "-X", "PATCH"]
    assert words[4] == "-d"
    async with (
        aiohttp.ClientSession() as client,
        client.patch(words[3], json=json.loads(words[5])) as answer,
    ):
        return answer.status


async def read(url: str) -> str:
    """The text at an address."""
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        assert answer.status == 200
        return await answer.text()


async def test_demo_shows_a_runaway_stopped_and_let_through_again_by_the_printed_curl(
    tmp_path: Path,
) -> None:
    async with run_demo(tmp_path / "with a space") as demo:
        await demo.prints(r"translator: Guten Morgen!")
        await demo.prints(r"researcher: streams: reading 12 sources")
        await demo.prints(
            r"runaway coder: HTTP 402 workspace budget limit exceeded: hourly \$25\.\d\d of "
            r"\$25\.00; earliest retry \d\d:\d\d:\d\d UTC",
            REFUSAL_TIMEOUT_S,
        )
        await demo.prints(r"summary: runaway coder is .* monthly \$191\.\d\d of \$500\.00")

        address = await demo.prints(r"page +(\S+)")
        assert "runaway coder" in await read(address[1])

        refused_at = len(demo.lines)
        command = await demo.prints(r"curl -X PATCH .*")
        assert await raise_limit(command[0]) == 200
        await demo.prints(r"runaway coder: the operator's limits: hourly \$30\.00", 5, refused_at)
        await demo.prints(PASSED_AGAIN, 10, refused_at)

        assert await demo.end(signal.SIGINT) == 0
        await demo.prints(r"\d+ calls passed, [1-9]\d* refused, \$\d\.\d\d spent\.")
    assert [path.name for path in (tmp_path / "with a space").iterdir()] == ["demo"]


async def test_second_demo_finds_a_port_and_a_folder_of_its_own_and_outlives_the_first(
    tmp_path: Path,
) -> None:
    async with run_demo(tmp_path) as first:
        port = int((await first.prints(r"API +http://127\.0\.0\.1:(\d+)"))[1])
        async with run_demo(tmp_path, port) as second:
            await second.prints(rf"Port {port} is in use; this is port \d+\.")
            await second.prints(rf"data +{re.escape(str(tmp_path))}/demo-2")
            await second.prints(PASSED_AGAIN)

            assert await first.end(signal.SIGTERM) == 0
            await second.prints(PASSED_AGAIN, after=len(second.lines))
            assert await second.end(signal.SIGTERM) == 0


async def test_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    async with run_demo(tmp_path) as demo:
        await demo.prints(PASSED_AGAIN)
        assert await demo.end(signal.SIGKILL) == -signal.SIGKILL
