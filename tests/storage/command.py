"""The command line as an operator runs it: in a process of its own, told by the environment."""

import asyncio
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


async def run_command(dsn: str, *arguments: str) -> tuple[int | None, str, str]:
    """Run `gateway` with these arguments; its exit status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        cwd=REPOSITORY,
        env={**os.environ, "GATEWAY_DATABASE__DSN": dsn, "GATEWAY_SERVER__PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()
