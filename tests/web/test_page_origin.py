"""Which browsers may do what: pages of other sites, and names that are not ours."""

from contextlib import AsyncExitStack

import pytest

from tests.running import Agent, Gateway, run_gateway
from tests.web.test_page import get, post

SAVE = {"save": "", "limit-hourly": "9"}


async def test_page_is_shown_by_no_name_that_is_not_ours(gateway: Gateway, agent: Agent) -> None:
    await gateway.register("w", agent.url)
    for path in ("/", "/ui/workspaces/w", "/ui/events", "/ui/workspaces/w/events"):
        status, _, text = await get(gateway, path, Host="rebound.example:8080")
        assert status == 403
        assert "server.public_url" in text


@pytest.mark.parametrize(
    "host", ["localhost:8080", "gateway.localhost", "127.0.0.1", "[::1]:8080", "10.1.2.3:80"]
)
async def test_nobody_else_can_lead_these_names_here(gateway: Gateway, host: str) -> None:
    assert (await get(gateway, "/", Host=host))[0] == 200


async def test_configured_name_is_ours(dsn: str, stack: AsyncExitStack) -> None:
    environment = {"GATEWAY_SERVER__PUBLIC_URL": "https://Agents.example.com/a"}
    gateway = await stack.enter_async_context(run_gateway(dsn, environment))
    assert (await get(gateway, "/", Host="agents.example.com"))[0] == 200
    assert (await get(gateway, "/", Host="other.example.com"))[0] == 403


async def test_browser_changes_nothing_by_a_name_that_is_not_ours(
    gateway: Gateway, agent: Agent
) -> None:
    await gateway.register("w", agent.url)
    name = "rebound.example:8080"
    for marks in (
        {"Origin": f"http://{name}"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": f"http://{name}", "Authorization": "Bearer nonsense"},
    ):
        fields = {"Host": name, **marks}
        for method, path, body in (
            ("PATCH", "/workspaces/w/budget", {"budget_limits": {"hourly": 900}}),
            ("DELETE", "/workspaces/w", None),
            ("POST", "/registry/register", {"id": "x", "url": agent.url}),
        ):
            async with gateway.client.request(
                method, gateway.url + path, json=body, headers=fields
            ) as answer:
                assert answer.status == 403
        headers = {key.replace("-", "_"): value for key, value in fields.items()}
        assert (await post(gateway, "/ui/workspaces/w", SAVE, **headers))[0] == 403
    assert (await gateway.json("GET", "/workspaces/w/budget"))[1]["budget_limits"] == {}
    assert (await gateway.json("GET", "/workspaces/x"))[0] == 404


async def test_program_calls_us_by_any_name(gateway: Gateway, agent: Agent) -> None:
    async def ask(method: str, path: str, body: object) -> int:
        async with gateway.client.request(
            method, gateway.url + path, json=body, headers={"Host": "gateway.internal"}
        ) as answer:
            return answer.status

    assert await ask("POST", "/registry/register", {"id": "w", "url": agent.url}) == 200
    assert await ask("PATCH", "/workspaces/w/budget", {"budget_limits": {"hourly": 1}}) == 200
    assert await ask("GET", "/workspaces", None) == 200


async def test_site_without_a_token_registers_no_agent(gateway: Gateway, agent: Agent) -> None:
    # A form, or a script without asking first, can send JSON as plain text.
    headers = {"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    async with gateway.client.post(
        f"{gateway.url}/registry/register",
        data=f'{{"id": "x", "url": "{agent.url}"}}',
        headers=headers,
    ) as answer:
        assert answer.status == 403


@pytest.mark.parametrize("origin", ["http://[", "null", "", "://", "http://127.0.0.1.evil.example"])
async def test_origin_that_is_none_is_another_site(
    gateway: Gateway, agent: Agent, origin: str
) -> None:
    await gateway.register("w", agent.url)
    assert (await post(gateway, "/ui/workspaces/w", SAVE, Origin=origin))[0] == 403
