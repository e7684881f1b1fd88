"""Nothing that others send, and no file that grows, holds up the event loop of a worker."""

import asyncio
import gzip
import io
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import orjson
import pytest
from aiohttp import web

from tests.end_to_end.serving import Serving, serving
from tests.running import Agent

WATCH = Path(__file__).parent / "loop_watch"
KEYS = 90_000
TRIES = 3
CALL = "/workspaces/w/a2a"
CARD = {
    "name": "w",
    "url": "{url}",
    "skills": [{"id": str(number), "description": "a, b, c"} for number in range(100)],
    "additionalInterfaces": [{"url": "{url}/x", "transport": "JSONRPC"}] * 50,
}

# A program whose event loop is held up once.
BUSY = """
import asyncio, time

async def main():
    while time.thread_time() < 0.5:
        pass

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Watched:
    """A gateway whose worker reports what holds up its loop."""

    gateway: Serving
    client: aiohttp.ClientSession
    report: Path
    token: str

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> int:
        """Send a request, bytes as they are; give the status once the answer is read.

        Fails if it holds up the loop each of TRIES times: once may be a first time, or a
        collection of garbage.
        """
        for _ in range(TRIES):
            self.report.write_text("")
            status = await self._send(method, path, body, headers)
            # Answered once the loop has turned, and reported what held it up.
            await self._send("GET", "/healthz", None, {})
            if not self.report.read_text():
                return status
        raise AssertionError(self.report.read_text())

    async def _send(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> int:
        text = body if isinstance(body, bytes | None) else orjson.dumps(body)
        data = None if text is None else io.BytesIO(text)
        fields = {"Content-Type": "application/json", **headers}
        async with self.client.request(method, path, data=data, headers=fields) as answer:
            await answer.read()
            return answer.status

    async def beat(self, **members: object) -> int:
        body = {"workspace_id": "w", **members}
        return await self.send(
            "POST", "/registry/heartbeat", body, Authorization=f"Bearer {self.token}"
        )


@pytest.fixture
async def watched(tmp_path: Path, dsn: str, agent: Agent) -> AsyncIterator[Watched]:
    report = tmp_path / "report"
    python_path = os.pathsep.join([str(WATCH), os.environ.get("PYTHONPATH", "")])
    variables = {
        "GATEWAY_DATABASE__DSN": dsn,
        "PYTHONPATH": python_path,
        "LOOP_WATCH_FILE": str(report),
    }
    async with (
        serving(tmp_path, **variables) as gateway,
        aiohttp.ClientSession(gateway.url) as client,
    ):
        body = {"id": "w", "url": agent.url, "agent_card": CARD}
        async with client.post("/registry/register", json=body) as answer:
            token = (await answer.json())["token"]
        report.touch()  # what starting took is not what is watched
        yield Watched(gateway, client, report, token)


async def test_watch_reports_a_callback_that_holds_up_the_loop(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.touch()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BUSY),
        env={**os.environ, "PYTHONPATH": str(WATCH), "LOOP_WATCH_FILE": str(report)},
    )
    assert await process.wait() == 0
    assert len(report.read_text().splitlines()) == 1


async def test_bodies_of_callers_do_not_hold_up_the_loop(watched: Watched) -> None:
    large = orjson.dumps({f"key{number}": number for number in range(KEYS)})[:980_000]
    nested = b'{"params":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    small = b'{"method":"tasks/get",' + b",".join(b'"m%d":{}' % n for n in range(6_000)) + b"}"
    hidden = b"{" + b",".join([b'"\\u006dethod":"tasks/get"'] * 2_000) + b"}"
    bodies = (large, nested, small, small[: 64 * 1024], hidden, gzip.compress(large), b"[" * 60_000)
    for limit in (None, 0):
        await watched.send("PATCH", "/workspaces/w/budget", {"budget_limit": limit})
        for body in bodies:
            status = await watched.send("POST", CALL, body)
            assert status in (200, 402 if limit == 0 else 200)


async def test_bodies_of_agents_do_not_hold_up_the_loop(watched: Watched) -> None:
    flat = {f"key{number}": number for number in range(KEYS)}
    for body in (
        {"id": "w", "url": "http://127.0.0.1:1", "agent_card": flat},
        {"id": "w", "url": "http://127.0.0.1:1", "agent_card": {"text": "x" * 900_000}},
        {"id": "w", "url": "http://127.0.0.1:1", "agent_card": {"list": [[]] * 9_000}},
    ):
        await watched.send("POST", "/registry/register", body)
    assert await watched.beat(monthly_spend=10, runtime_metadata={"list": [[[]]] * 3_000}) == 200
    for cents in range(11, 40):
        assert await watched.beat(monthly_spend=cents) == 200


async def test_cards_of_agents_do_not_hold_up_the_loop(watched: Watched, agent: Agent) -> None:
    paths = (f"{CALL}/.well-known/agent-card.json", f"{CALL}/v1/card")
    many = {**CARD, "more": list(range(9_000))}
    too_many = {**CARD, "more": list(range(KEYS))}
    ask = {"jsonrpc": "2.0", "id": 1, "method": "agent/getAuthenticatedExtendedCard"}
    for card in (CARD, many, too_many):

        async def respond(_request: web.Request, card: object = card) -> web.Response:
            document = {"jsonrpc": "2.0", "id": 1, "result": card}
            is_rpc = _request.method == "POST"
            return web.json_response(body=orjson.dumps(document if is_rpc else card))

        agent.respond = respond
        for path in paths:
            assert await watched.send("GET", path) in (200, 502)
        assert await watched.send("POST", CALL, ask) == 200


async def test_pages_lists_and_metrics_do_not_hold_up_the_loop(
    watched: Watched, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        """INSERT INTO workspaces (id, name, url, budget_limits)
           SELECT 'many-' || n, 'Workspace ' || n, 'http://127.0.0.1:1', '{"hourly": 100}'
           FROM generate_series(1, 2000) AS n"""
    )
    for path in (
        "/openapi.yaml",
        "/metrics",
        "/readyz",
        "/",
        "/?limit=200",
        "/ui/workspaces/w",
        "/ui/sign-in",
        "/workspaces",
        "/workspaces?limit=1000",
        "/workspaces/w",
        "/workspaces/w/spend?period=hourly",
        "/workspaces/w/budget",
        "/workspaces/w/budget/changes",
    ):
        assert (await watched.send("GET", path)) == 200, path
