"""Who may do what: operators, agents and removed workspaces, and what is kept of their tokens."""

import hashlib
import logging
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from gateway.config import ConfigError, load_config
from tests.running import Agent, Gateway, run_gateway

ADMIN, SECOND_ADMIN, ALICE = "admin-token-1", "admin-token-2", "alices-token"

BUDGET_CHANGE = {"budget_limits": {"daily": 5}}
HEARTBEAT = {"workspace_id": "w", "monthly_spend": 5}


@pytest.fixture
async def closed(dsn: str, stack: AsyncExitStack) -> Gateway:
    """A gateway that knows two admin tokens, and a third that has a name."""
    environment = {
        "GATEWAY_AUTH__ADMIN_TOKENS": f"{ADMIN},{SECOND_ADMIN}",
        "GATEWAY_AUTH__NAMED_ADMIN_TOKENS": f"alice={ALICE}",
    }
    return await stack.enter_async_context(run_gateway(dsn, environment))


@pytest.fixture
async def tokens(closed: Gateway, agent: Agent) -> dict[str, str | None]:
    """The token that everybody has; `removed` had one of a workspace that is no more."""
    found: dict[str, str | None] = {"nobody": None, "stranger": "zebra", "admin": ADMIN}
    found["alice"] = ALICE
    for name in ("own", "other", "removed"):
        workspace_id = "w" if name == "own" else name
        found[name] = await closed.register(workspace_id, agent.url)
    assert (await closed.json("DELETE", "/workspaces/removed", token=ADMIN))[0] == 204
    return found


@pytest.mark.parametrize(
    ("method", "path", "body", "answers"),
    [
        # answers to nobody, a stranger, a removed workspace, another one, the workspace, an admin
        ("GET", "/workspaces", None, (401, 401, 401, 403, 403, 200)),
        ("GET", "/workspaces/w", None, (401, 401, 401, 403, 403, 200)),
        ("GET", "/workspaces/w/budget", None, (401, 401, 401, 403, 200, 200)),
        ("GET", "/workspaces/w/spend", None, (401, 401, 401, 403, 200, 200)),
        ("GET", "/workspaces/w/budget/changes", None, (401, 401, 401, 403, 200, 200)),
        # its own budget is the one thing that an agent must never change
        ("PATCH", "/workspaces/w/budget", BUDGET_CHANGE, (401, 401, 401, 403, 403, 200)),
        (
            "PATCH",
            "/workspaces/w/budget?dry_run=true",
            BUDGET_CHANGE,
            (401, 401, 401, 403, 403, 200),
        ),
        ("DELETE", "/workspaces/w", None, (401, 401, 401, 403, 403, 204)),
        # heartbeats are the agent's alone
        ("POST", "/registry/heartbeat", HEARTBEAT, (401, 401, 401, 401, 200, 401)),
        ("POST", "/registry/register", {"id": "w"}, (401, 401, 401, 401, 200, 200)),
        # a new workspace needs nothing
        ("POST", "/registry/register", {"id": "new"}, (200, 401, 401, 401, 401, 200)),
        # calls are not the gateway's to authorize
        ("POST", "/workspaces/w/a2a", {}, (200, 200, 200, 200, 200, 200)),
        ("GET", "/healthz", None, (200, 200, 200, 200, 200, 200)),
    ],
)
async def test_route_is_open_to_whom_it_is_for(
    closed: Gateway,
    agent: Agent,
    tokens: dict[str, str | None],
    method: str,
    path: str,
    body: Any,
    answers: tuple[int, ...],
) -> None:
    if path == "/registry/register":
        body = {**body, "url": agent.url}
    found = []
    for who in ("nobody", "stranger", "removed", "other", "own", "admin"):
        found.append((await closed.json(method, path, body, tokens[who]))[0])
    assert tuple(found) == answers


async def test_every_admin_token_counts(closed: Gateway) -> None:
    for token in (ADMIN, SECOND_ADMIN, ALICE):
        assert (await closed.json("GET", "/workspaces", token=token))[0] == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"bearer {ADMIN}", 200),  # the scheme ignores case (RFC 9110 section 11.1)
        (f"Bearer  {ADMIN} ", 200),
        (ADMIN, 401),
        (f"Basic {ADMIN}", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {ADMIN.upper()}", 401),
        (f"Bearer {ADMIN}x", 401),
        (f"Bearer {ADMIN[:-1]}", 401),
        (f"Bearer {ADMIN},{SECOND_ADMIN}", 401),
        ("Bearer \udcff\udcfe", 401),  # no UTF-8
        ("Bearer " + "a" * 4000, 401),
    ],
)
async def test_token_is_read_from_the_authorization_field(
    closed: Gateway, authorization: str, status: int
) -> None:
    url, headers = closed.url + "/workspaces", {"Authorization": authorization}
    async with closed.client.get(url, headers=headers) as answer:
        assert answer.status == status
        # RFC 9110 section 11.6.1: a 401 tells what it wants.
        assert ("WWW-Authenticate" in answer.headers) is (status == 401)


async def test_without_admin_tokens_operators_need_none_and_an_agent_still_changes_nothing(
    gateway: Gateway, agent: Agent
) -> None:
    token = await gateway.register("w", agent.url)
    assert (await gateway.json("PATCH", "/workspaces/w/budget", BUDGET_CHANGE))[0] == 200
    for method, path, status in [
        ("GET", "/workspaces/w/budget", 200),
        ("PATCH", "/workspaces/w/budget", 403),
        ("GET", "/workspaces", 403),
        ("DELETE", "/workspaces/w", 403),
    ]:
        assert (await gateway.json(method, path, BUDGET_CHANGE, token))[0] == status, path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.example", "10.0.0.1"])
def test_gateway_that_others_can_reach_does_not_start_without_admin_tokens(host: str) -> None:
    with pytest.raises(ConfigError, match="GATEWAY_AUTH__ADMIN_TOKENS"):
        load_config(None, {"GATEWAY_SERVER__HOST": host})
    load_config(None, {"GATEWAY_SERVER__HOST": host, "GATEWAY_AUTH__ADMIN_TOKENS": ADMIN})


async def test_registering_again_with_the_token_moves_the_workspace_and_keeps_the_token(
    closed: Gateway, agent: Agent
) -> None:
    token = await closed.register("w", "http://127.0.0.1:9")
    again = {"id": "w", "url": agent.url}
    status, answer = await closed.json("POST", "/registry/register", again, token)
    assert (status, "token" in answer) == (200, False)
    assert (await closed.json("POST", "/workspaces/w/a2a", {}))[0] == 200
    await closed.spend("w", 5, token)


async def test_removed_workspace_is_gone_for_everybody_until_an_operator_registers_it_again(
    closed: Gateway, agent: Agent
) -> None:
    first = await closed.register("w", agent.url)
    await closed.spend("w", 40, first)
    assert (await closed.json("DELETE", "/workspaces/w", token=ADMIN))[0] == 204
    for method, path, token in [
        ("GET", "/workspaces/w", ADMIN),
        ("DELETE", "/workspaces/w", ADMIN),
        ("PATCH", "/workspaces/w/budget", ADMIN),
        ("GET", "/workspaces/w/budget", first),
        ("GET", "/workspaces/w/spend", ADMIN),
        ("GET", "/workspaces/w/budget/changes", ADMIN),
        ("POST", "/registry/heartbeat", first),
        ("POST", "/workspaces/w/a2a", None),
    ]:
        body = HEARTBEAT if method == "POST" else BUDGET_CHANGE
        assert (await closed.json(method, path, body, token))[0] == 404, path
    again = {"id": "w", "url": agent.url}
    assert (await closed.json("POST", "/registry/register", again, first))[0] == 401
    status, answer = await closed.json("POST", "/registry/register", again, ADMIN)
    assert (status, answer["token"] != first) == (200, True)
    assert (await closed.json("POST", "/registry/heartbeat", HEARTBEAT, first))[0] == 401
    # What was spent before stays spent.
    assert (await closed.spend("w", 45, answer["token"]))["monthly_spend"] == 45


async def test_workspace_from_before_there_were_tokens_needs_none_until_it_registers(
    closed: Gateway, agent: Agent, connection: asyncpg.Connection
) -> None:
    await connection.execute("INSERT INTO workspaces (id) VALUES ('w')")
    assert (await closed.json("POST", "/registry/heartbeat", HEARTBEAT))[0] == 200
    token = await closed.register("w", agent.url)
    assert (await closed.json("POST", "/registry/heartbeat", HEARTBEAT))[0] == 401
    assert (await closed.json("POST", "/registry/heartbeat", HEARTBEAT, token))[0] == 200


async def test_tokens_stand_in_no_log_line(
    closed: Gateway, tokens: dict[str, str | None], caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as lines, caplog.at_level(logging.DEBUG):
        for token in filter(None, tokens.values()):
            for method, path in [
                ("POST", "/workspaces/w/a2a"),
                ("PATCH", "/workspaces/w/budget"),
                ("POST", "/registry/heartbeat"),
                ("POST", "/registry/register"),
            ]:
                await closed.json(method, path, {"workspace_id": "w", "token": token}, token)
    assert lines
    for token in filter(None, tokens.values()):
        assert token not in str(lines) + caplog.text


async def test_tokens_are_stored_as_sha256_only(
    closed: Gateway, tokens: dict[str, str | None], connection: asyncpg.Connection
) -> None:
    stored = await connection.fetch("SELECT * FROM workspace_tokens")
    given = [tokens[name] for name in ("own", "other", "removed")]
    digests = [hashlib.sha256((token or "").encode()).digest() for token in given]
    assert sorted(row["token_sha256"] for row in stored) == sorted(digests)
    for table in ("workspaces", "workspace_tokens", "workspace_spend_marks"):
        rows = str(await connection.fetch(f"SELECT * FROM {table}"))
        assert not any(token and token in rows for token in given)
