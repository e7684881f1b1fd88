"""The budget over HTTP: sections 3 and 4 of the contract, line by line."""

from tests.running import Agent, Gateway


async def test_first_answer_to_a_registration_carries_the_token(
    gateway: Gateway, agent: Agent
) -> None:
    status, first = await gateway.json("POST", "/registry/register", {"id": "w", "url": agent.url})
    assert (status, first["token"]) == (200, first["auth_token"])
    status, second = await gateway.json(
        "POST", "/registry/register", {"id": "w", "url": agent.url}, token=first["token"]
    )
    assert (status, "token" in second) == (200, False)


async def test_call_is_refused_once_a_window_is_spent_and_passes_after_the_limit_is_raised(
    gateway: Gateway, agent: Agent
) -> None:
    token = await gateway.register("w", agent.url)
    await gateway.limit("w", hourly=100)
    assert (await gateway.json("POST", "/workspaces/w/a2a", {}))[0] == 200
    await gateway.spend("w", 140, token)
    status, problem = await gateway.json("POST", "/workspaces/w/a2a", {})
    assert (status, problem["violated-policies"]) == (402, ["hourly"])
    await gateway.limit("w", hourly=200)
    assert (await gateway.json("POST", "/workspaces/w/a2a", {}))[0] == 200
    assert len(agent.received) == 2
