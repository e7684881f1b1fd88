"""Work for each member of a foreign JSON body is bounded: one of very many is refused unread."""

import orjson
import pytest
from aiohttp import web

from gateway.web.json_body import ITEMS_MAX
from tests.running import Agent, Gateway

CARD_PATH = "/workspaces/w/a2a/.well-known/agent-card.json"


def with_items(count: int) -> dict[str, object]:
    """A card with so many members that nobody needs."""
    return {f"m{number}": number for number in range(count)}


async def test_registration_with_too_many_members_is_refused_and_changes_nothing(
    gateway: Gateway, agent: Agent
) -> None:
    await gateway.register("w", agent.url)
    body = {"id": "w", "url": "http://127.0.0.1:1", "agent_card": with_items(ITEMS_MAX)}
    status, problem = await gateway.json("POST", "/registry/register", body)
    assert (status, "members" in problem["detail"]) == (400, True)
    assert (await gateway.json("GET", "/workspaces/w"))[1]["url"] == agent.url


async def test_heartbeat_with_too_many_members_is_refused(gateway: Gateway, agent: Agent) -> None:
    token = await gateway.register("w", agent.url)
    body = {"workspace_id": "w", "monthly_spend": 5, "runtime_metadata": {"m": [0] * ITEMS_MAX}}
    status, _ = await gateway.json("POST", "/registry/heartbeat", body, token)
    assert status == 400


@pytest.mark.parametrize(
    ("members", "status"), [(with_items(100), 200), (with_items(ITEMS_MAX), 502)]
)
async def test_agents_card_with_too_many_members_is_a_bad_one(
    gateway: Gateway, agent: Agent, members: dict[str, object], status: int
) -> None:
    card = {"name": "a", "url": agent.url, "skills": [], "more": members}

    async def respond(_request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(card), content_type="application/json")

    agent.respond = respond
    await gateway.register("w", agent.url)
    async with gateway.client.get(gateway.url + CARD_PATH) as answer:
        assert answer.status == status


async def test_interfaces_beyond_any_that_a_card_has_are_dropped(
    gateway: Gateway, agent: Agent
) -> None:
    interfaces = [{"url": f"{agent.url}/{n}", "transport": "JSONRPC"} for n in range(2_000)]
    card = {"name": "a", "url": agent.url, "skills": [], "additionalInterfaces": interfaces}

    async def respond(_request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(card), content_type="application/json")

    agent.respond = respond
    await gateway.register("w", agent.url)
    async with gateway.client.get(gateway.url + CARD_PATH) as answer:
        assert len((await answer.json())["additionalInterfaces"]) == 100
