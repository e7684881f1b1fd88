"""A fifth period is one line: budget, refusal, page and metrics of a copy all have it."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.running import Agent

REPOSITORY = Path(__file__).parents[2]
LINE = '    Period("yearly", timedelta(days=365), "last 365 days"),\n'
YEAR_S = 365 * 86_400


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its SQL with the one line more."""
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("gateway", "sql"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=ignore)
    module = tmp_path / "gateway" / "core" / "periods.py"
    text = module.read_text(encoding="utf-8")
    # The end of the tuple is the first bracket that closes at a line's start after it opened.
    changed, count = re.subn(r"(?ms)^(PERIODS = \(\n.*?)^\)", rf"\1{LINE})", text, count=1)
    assert count == 1
    module.write_text(changed, encoding="utf-8")
    return tmp_path


@asynccontextmanager
async def serve(folder: Path, dsn: str) -> AsyncIterator[str]:
    """`python -m gateway serve` in the copy; gives its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "serve",
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(folder),
            "GATEWAY_DATABASE__DSN": dsn,
            "GATEWAY_SERVER__PORT": "0",
            "GATEWAY_LOG__FORMAT": "json",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        yield await address(process.stderr)
    finally:
        process.terminate()
        await process.communicate()  # reads what else it logs, so that it can end


async def address(log: asyncio.StreamReader) -> str:
    """The address that the gateway logs once it listens."""
    async with asyncio.timeout(30):
        async for line in log:
            event = orjson.loads(line)
            if event["event"] == "listening":
                return str(event["url"])
    raise AssertionError("the gateway ended before it listened")


async def send(
    client: aiohttp.ClientSession, method: str, path: str, body: Any = None, token: str = ""
) -> tuple[int, Any]:
    """A request with a JSON body; the answer's status and JSON."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with client.request(method, path, json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_fifth_period_is_one_line(copy: Path, dsn: str, agent: Agent) -> None:
    async with serve(copy, dsn) as url, aiohttp.ClientSession(url) as client:
        registration = {"id": "w", "url": agent.url, "agent_card": {}}
        token = (await send(client, "POST", "/registry/register", registration))[1]["token"]

        status, budget = await send(
            client, "PATCH", "/workspaces/w/budget", {"budget_limits": {"yearly": 100}}
        )
        assert (status, budget["budget_limits"]) == (200, {"yearly": 100})
        assert list(budget["periods"])[-1] == "yearly"

        status, problem = await send(
            client, "PATCH", "/workspaces/w/budget", {"budget_limits": {"fortnightly": 1}}
        )
        assert (status, problem["detail"].endswith("monthly, yearly.")) == (400, True)

        heartbeat = {"workspace_id": "w", "monthly_spend": 140}
        answer = (await send(client, "POST", "/registry/heartbeat", heartbeat, token))[1]
        yearly = answer["budget"]["periods"]["yearly"]
        assert yearly["window_seconds"] == YEAR_S
        assert (yearly["limit"], yearly["spend"], yearly["remaining"]) == (100, 140, -40)
        assert yearly["retry_at"] is not None

        status, problem = await send(client, "POST", "/workspaces/w/a2a", {"a": 1})
        assert (status, problem["violated-policies"]) == (402, ["yearly"])
        assert "yearly $1.40 of $1.00" in problem["detail"]
        assert agent.received == []

        status, history = await send(client, "GET", "/workspaces/w/spend?period=yearly")
        assert status == 200
        assert sum(bucket["spend"] for bucket in history["buckets"]) == 140

        async with client.get("/ui/workspaces/w") as page:
            text = await page.text()
        assert 'data-period="yearly"' in text
        assert "$1.40 of $1.00, over the limit" in text

        async with client.get("/metrics") as metrics:
            text = await metrics.text()
        assert 'gateway_refusals_total{period="yearly"} 1.0' in text
