"""The budget over HTTP: sections 3 and 4 of the contract, line by line."""

from datetime import datetime, timedelta

import asyncpg
import pytest

from gateway.core.periods import PERIODS
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


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"},
        {"Content-Type": "application/json; charset=utf-7"},
        {"Content-Type": 'application/json; Charset="UTF-16"'},
    ],
)
async def test_body_that_the_agent_may_read_otherwise_than_we_is_refused(
    gateway: Gateway, agent: Agent, headers: dict[str, str]
) -> None:
    await gateway.register("w", agent.url)
    await gateway.limit("w", **{PERIODS[0].name: 0})
    url, free = f"{gateway.url}/workspaces/w/a2a", b'{"jsonrpc":"2.0","id":1,"method":"tasks/get"}'
    plain = {"Content-Type": "application/json; charset=utf-8"}
    async with gateway.client.post(url, data=free, headers=plain) as answer:
        assert answer.status == 200
    async with gateway.client.post(url, data=free, headers=headers) as answer:
        assert answer.status == 402


@pytest.mark.parametrize(
    ("sent", "repeated"),
    [
        ("7", 7),
        ('"a\\nb"', "a\nb"),
        ("1.5", 1.5),
        ("null", None),
        ("99999999999999999999", None),  # no JSON writer of ours can write it
        ('"\\ud800"', None),  # half a character
    ],
)
async def test_refusal_repeats_the_id_or_null(
    gateway: Gateway, agent: Agent, sent: str, repeated: object
) -> None:
    await gateway.register("w", agent.url)
    await gateway.limit("w", **{PERIODS[0].name: 0})
    body = f'{{"jsonrpc":"2.0","id":{sent},"method":"message/send"}}'
    async with gateway.client.post(f"{gateway.url}/workspaces/w/a2a", data=body) as answer:
        assert answer.status == 402
        assert (await answer.json())["id"] == repeated


async def test_workspace_over_its_budget_is_refused_even_before_its_agent_registered(
    gateway: Gateway, connection: asyncpg.Connection
) -> None:
    await connection.execute("INSERT INTO workspaces (id) VALUES ('w')")
    assert (await gateway.json("POST", "/workspaces/w/a2a", {}))[0] == 503
    await gateway.limit("w", **{PERIODS[0].name: 0})
    assert (await gateway.json("POST", "/workspaces/w/a2a", {}))[0] == 402


async def test_spend_counts_although_a_column_is_too_narrow_for_what_the_agent_tells(
    gateway: Gateway, connection: asyncpg.Connection
) -> None:
    await connection.execute("ALTER TABLE workspaces ALTER current_task TYPE varchar(9)")
    await connection.execute("INSERT INTO workspaces (id) VALUES ('w')")
    heartbeat = {"workspace_id": "w", "monthly_spend": 7, "current_task": "x" * 10}
    status, body = await gateway.json("POST", "/registry/heartbeat", heartbeat)
    assert (status, body["budget"]["monthly_spend"]) == (200, 7)


async def test_call_is_refused_until_the_moment_that_the_refusal_names_and_passes_at_it(
    gateway: Gateway, agent: Agent
) -> None:
    token = await gateway.register("w", agent.url)
    await gateway.limit("w", **{PERIODS[0].name: 100})
    for total_cents in (60, 110, 140):
        await gateway.spend("w", total_cents, token)
    _, refusal = await gateway.json("POST", "/workspaces/w/a2a", {})
    retry_at = datetime.fromisoformat(refusal["periods"][PERIODS[0].name]["retry_at"])
    for moment, status in (
        (retry_at - timedelta(milliseconds=1), 402),
        (retry_at - timedelta(microseconds=1), 402),
        (retry_at, 200),
    ):
        gateway.services.gate.as_of = lambda moment=moment: moment
        assert (await gateway.json("POST", "/workspaces/w/a2a", {}))[0] == status
