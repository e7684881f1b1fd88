"""Agents and users on real A2A SDKs, in processes of their own: the versions exclude each other."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEWER, OLDER = "1.x", "0.3"
SCRIPTS = {NEWER: Path(__file__).parent / "a2a_1", OLDER: Path(__file__).parent / "a2a_03"}

LINE_TIMEOUT_S = 10
END_TIMEOUT_S = 5


@dataclass
class Script:
    """A running script of one SDK version, which is told lines and tells lines."""

    version: str
    process: asyncio.subprocess.Process

    def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def hear(self) -> str:
        """Give its next line."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(LINE_TIMEOUT_S):
                line = await self.process.stdout.readline()
        except TimeoutError:
            self.process.kill()  # the tests after this one shall not wait for it, too
            raise
        assert line, "the script has ended"
        return line.decode().rstrip()


@asynccontextmanager
async def run_script(python: Path, version: str, name: str) -> AsyncIterator[Script]:
    """A script that runs until its stdin is closed; so it cannot outlive the tests."""
    process = await asyncio.create_subprocess_exec(
        *(python, SCRIPTS[version] / name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        yield Script(version, process)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@dataclass
class Agent:
    """A running agent. Asked to count, it goes on when it is told to, and ends when told to."""

    script: Script
    url: str

    def go_on(self) -> None:
        """Let it send the next number."""
        self.script.tell("go on")

    def finish(self) -> None:
        """Let it complete its task."""
        self.script.tell("finish")


class CallFailed(Exception):
    """What the SDK raised for a call; the text is the error's own."""

    def __init__(self, told: dict[str, Any]) -> None:
        """Take the line in which the user's program tells of it."""
        super().__init__(told["error"])
        self.traceback: str = told["traceback"]
        self.status: int | None = told.get("status")
        self.answer: Any = told.get("answer")


@dataclass
class User:
    """Who calls an agent: for every call, the program resolves the card and builds a client."""

    program: Script
    agent_url: str
    binding: str

    async def watches(self, do: str, **more: str) -> AsyncIterator[Any]:
        """Make a call and give what comes back, when it comes. Raises CallFailed."""
        order = {"do": do, "url": self.agent_url, "binding": self.binding, **more}
        self.program.tell(json.dumps(order))
        while "end" not in (told := json.loads(await self.program.hear())):
            yield told
        if told["end"] == "failed":
            raise CallFailed(told)

    async def gets(self, do: str, **more: str) -> Any:
        """Make a call and give the last that comes back. Raises CallFailed."""
        return [told async for told in self.watches(do, **more)][-1]
