"""What somebody writes first: `python -m benchmarks.peers.naive ROLE QUERY PORT DSN`.

ROLE `proxy` is an aiohttp proxy, one query from a pool before every call; `check` is only the
query, for nginx's auth_request. QUERY `sum` is the plain sum, `totals` the gateway's own query on
connections as asyncpg makes them, `tuned` the same on connections with the gateway's settings.
"""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import uvloop
from aiohttp import web

from gateway.storage.budgets import PERIOD_LENGTHS, PERIOD_NAMES
from gateway.storage.database import DatabaseSettings
from gateway.storage.queries import query

POOL = web.AppKey("pool", asyncpg.Pool)
CLIENT = web.AppKey("client", aiohttp.ClientSession)
QUERY = web.AppKey("query", str)

PLAIN_SUM = Path(__file__).with_name("plain_sum.sql").read_text()
HOP_FIELDS = {"host", "connection", "keep-alive", "transfer-encoding"}


def create_app(role: str, query_name: str, dsn: str) -> web.Application:
    """The program of this role."""
    app = web.Application()
    app[QUERY] = query_name
    # Without them PostgreSQL makes a new plan for every call, which is most of the query's cost.
    settings = DatabaseSettings(dsn).server_settings if query_name == "tuned" else {}

    async def connections(app: web.Application) -> AsyncIterator[None]:
        unlimited = aiohttp.TCPConnector(limit=0)
        async with (
            asyncpg.create_pool(dsn, server_settings=settings) as app[POOL],
            aiohttp.ClientSession(connector=unlimited, auto_decompress=False) as app[CLIENT],
        ):
            yield

    app.cleanup_ctx.append(connections)
    app.router.add_get("/healthz", answer_health)
    tail = "/workspaces/{id}/a2a{tail:.*}"
    app.router.add_route("*", tail, forward if role == "proxy" else answer_check)
    return app


async def answer_health(_: web.Request) -> web.Response:
    """It runs."""
    return web.Response()


async def answer_check(request: web.Request) -> web.Response:
    """204 for a call that may pass, 403 for another: what auth_request wants."""
    _, is_spent = await check(request)
    return web.Response(status=403 if is_spent else 204)


async def forward(request: web.Request) -> web.StreamResponse:
    """Check, ask the agent, and stream its answer back."""
    url, is_spent = await check(request)
    if is_spent:
        return web.json_response({"error": "budget"}, status=402)
    headers = {name: each for name, each in request.headers.items() if is_passed_on(name)}
    body = request.content if request.can_read_body else None
    async with request.app[CLIENT].request(
        request.method, url + request.match_info["tail"], headers=headers, data=body
    ) as upstream:
        passed = {name: each for name, each in upstream.headers.items() if is_passed_on(name)}
        answer = web.StreamResponse(status=upstream.status, headers=passed)
        await answer.prepare(request)
        async for part in upstream.content.iter_any():
            await answer.write(part)
        await answer.write_eof()
        return answer


def is_passed_on(field: str) -> bool:
    """Whether a field is for more than this hop."""
    return field.lower() not in HOP_FIELDS


async def check(request: web.Request) -> tuple[str, bool]:
    """The agent's URL, and whether a window is spent."""
    workspace_id = request.match_info["id"]
    if request.app[QUERY] != "sum":
        row = await request.app[POOL].fetchrow(
            query("budgets"), [workspace_id], PERIOD_LENGTHS, None
        )
        assert row is not None
        spent = dict(zip(PERIOD_NAMES, row["spend_cents"], strict=True))
    else:
        row = await request.app[POOL].fetchrow(PLAIN_SUM, workspace_id, PERIOD_LENGTHS)
        assert row is not None
        spent = dict(zip(PERIOD_NAMES, list(row.values())[2:], strict=True))
    limits: dict[str, Any] = json.loads(row["budget_limits"])
    is_spent = any((spent.get(name) or 0) >= limit for name, limit in limits.items())
    return row["url"], is_spent


if __name__ == "__main__":
    web.run_app(
        create_app(sys.argv[1], sys.argv[2], sys.argv[4]),
        host="127.0.0.1",
        port=int(sys.argv[3]),
        access_log=None,
        loop=uvloop.new_event_loop(),
    )
