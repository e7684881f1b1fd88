"""What agents use: registration, where they may live, and heartbeats."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.periods import PERIODS
from gateway.web import registrations
from tests.running import Agent, Gateway, run_gateway


async def register(
    gateway: Gateway,
    url: str,
    workspace_id: str = "w",
    token: str | None = None,
    **members: object,
) -> Any:
    """Register a workspace and give the status and answer."""
    body = {"id": workspace_id, "url": url, **members}
    return await gateway.json("POST", "/registry/register", body, token)


async def sample(gateway: Gateway, name: str, **labels: str) -> float:
    """The value of a metric now."""
    async with gateway.client.get(gateway.url + "/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    samples = (each for family in families for each in family.samples)
    return next(each.value for each in samples if (each.name, each.labels) == (name, labels))


async def test_registration_creates_a_workspace_that_operators_see_and_callers_reach(
    gateway: Gateway, agent: Agent
) -> None:
    card = {"name": "Reno Stars", "skills": [{"id": "quote"}], "unknown": None}
    status, answer = await register(gateway, agent.url, "reno-stars", agent_card=card, more=[1])
    assert (status, answer["status"], answer["workspace_id"]) == (200, "registered", "reno-stars")
    assert answer["token"] == answer["auth_token"]
    _, seen = await gateway.json("GET", "/workspaces/reno-stars")
    assert (seen["name"], seen["url"]) == ("Reno Stars", agent.url)
    assert seen["last_heartbeat_at"] is None
    assert (await gateway.json("POST", "/workspaces/reno-stars/a2a", {}))[0] == 200


@pytest.mark.parametrize("card", [{}, {"name": ""}, {"name": 5}, {"name": None}, None])
async def test_workspace_without_a_name_is_called_by_its_id(gateway: Gateway, card: Any) -> None:
    await register(gateway, "http://127.0.0.1:9", agent_card=card)
    assert (await gateway.json("GET", "/workspaces/w"))[1]["name"] == "w"


async def test_registering_again_moves_the_workspace_and_keeps_a_card_that_is_not_sent(
    gateway: Gateway, connection: asyncpg.Connection
) -> None:
    _, first = await register(gateway, "http://127.0.0.1:9", agent_card={"name": "first"})
    assert (await register(gateway, "http://127.0.0.1:10"))[0] == 401  # anybody could move it
    assert (await register(gateway, "http://127.0.0.1:10", token=first["token"]))[0] == 200
    row = await connection.fetchrow("SELECT url, agent_card::text AS card FROM workspaces")
    assert (row["url"], row["card"]) == ("http://127.0.0.1:10", '{"name": "first"}')


async def test_agent_may_live_on_loopback_and_in_private_networks(gateway: Gateway) -> None:
    allowed = [
        *(
            "http://127.0.0.1",
            "https://127.0.0.1:8443/agent",
            "http://[::1]:1/",
            "http://localhost",
        ),
        *(
            "http://10.1.2.3",
            "http://172.31.255.255",
            "http://192.168.0.1:65535",
            "http://[fd12::1]",
        ),
        *("HTTP://127.0.0.1/?tenant=1", "http://127.0.0.1/%C3%A9", "http://127.0.0.1/a/../b"),
        # Other spellings of loopback addresses are loopback addresses.
        *("http://2130706433", "http://0x7f.1", "http://017700000001", "http://127.1"),
        "http://[::ffff:127.0.0.1]",
    ]
    answers = {
        url: (await register(gateway, url, f"w{number}"))[0] for number, url in enumerate(allowed)
    }
    assert answers == dict.fromkeys(allowed, 200)


NOWHERE = [
    # cloud metadata, in every spelling
    *("http://169.254.169.254/", "http://[::ffff:169.254.169.254]/", "http://2852039166"),
    *(
        "http://0xa9fea9fe",
        "http://0251.0376.0251.0376",
        "http://[fd00:ec2::254]",
        "http://[fe80::1]",
    ),
    *("http://[::169.254.169.254]", "http://[64:ff9b::a9fe:a9fe]", "http://[2002:a9fe:a9fe::]"),
    # unspecified, multicast, broadcast, documentation, shared and public addresses
    *("http://0.0.0.0", "http://0", "http://[::]", "http://224.0.0.1", "http://255.255.255.255"),
    *("http://192.0.2.1", "http://198.51.100.1", "http://203.0.113.1", "http://[2001:db8::1]"),
    *("http://100.64.0.1", "http://8.8.8.8", "http://172.32.0.1", "http://[2606:4700::1111]"),
    # not what it seems
    *("http://user@127.0.0.1", "http://user:secret@127.0.0.1", "http://127.0.0.1@8.8.8.8"),
    *("http://127.0.0.1#@8.8.8.8", "http://127.0.0.1\\@8.8.8.8", "http://127.0.0.1%2f@8.8.8.8"),
    *(
        "http://127.0.0.1/#part",
        "http://127.0.0.1 /",
        "http://127.0.0.1/\r\nX: y",
        "http://127.0.0.1/\t",
    ),
    *("http://127.0.0.1/é", "http://127.0.0.1/\u2028", "http://١٢٧.0.0.1"),
    # no URL of ours, and no host
    *(
        "file:///etc/passwd",
        "ftp://127.0.0.1",
        "javascript:alert(1)",
        "unix:/run/agent",
        "ws://127.0.0.1",
    ),
    *("", "http:", "http://", "http:///agent", "//127.0.0.1", "127.0.0.1:80", "/agent"),
    *(
        "http://127.0.0.1:0",
        "http://127.0.0.1:65536",
        "http://127.0.0.1:-1",
        "http://127.0.0.1:8:8",
    ),
    *("http://[::1", "http://[127.0.0.1]", "http://[::1%25lo]:a"),
    # names that cannot be resolved
    *(
        "http://a..b",
        "http://" + "a" * 64 + ".test",
        "http://" + "a" * 300,
        "http://10.0.0.1,8.8.8.8",
    ),
]


async def test_agent_may_live_nowhere_else(
    gateway: Gateway, connection: asyncpg.Connection
) -> None:
    answers = {url: await register(gateway, url) for url in NOWHERE}
    assert {url: status for url, (status, _) in answers.items()} == dict.fromkeys(NOWHERE, 400)
    assert all(problem["detail"].startswith("url: ") for _, problem in answers.values())
    assert await connection.fetchval("SELECT count(*) FROM workspaces") == 0


async def test_every_address_of_a_name_must_be_allowed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(_host: str) -> list[str]:
        return ["127.0.0.1", "169.254.169.254"]

    monkeypatch.setattr(registrations, "_resolve", resolve)
    assert (await register(gateway, "http://agent.test"))[0] == 400


async def test_operators_choose_the_networks_except_those_that_are_never_allowed(
    dsn: str, stack: AsyncExitStack
) -> None:
    environment = {"GATEWAY_REGISTRY__ALLOWED_NETWORKS": "8.8.8.0/24, 169.254.0.0/16, ::/0"}
    gateway = await stack.enter_async_context(run_gateway(dsn, environment))
    urls = ["http://8.8.8.8", "http://127.0.0.1", "http://169.254.169.254", "http://[fe80::1]"]
    assert [(await register(gateway, url))[0] for url in urls] == [200, 400, 400, 400]


async def test_agent_that_moved_out_of_the_allowed_networks_is_not_called(
    gateway: Gateway, agent: Agent, connection: asyncpg.Connection
) -> None:
    await register(gateway, agent.url)
    await connection.execute("UPDATE workspaces SET url = 'http://169.254.169.254/'")
    assert (await gateway.json("POST", "/workspaces/w/a2a", {}))[0] == 502


async def test_heartbeat_answers_the_budget_and_operators_see_what_it_told(
    gateway: Gateway,
) -> None:
    token = await gateway.register("w", "http://127.0.0.1:9")
    told = {
        "uptime_seconds": 3600,
        "active_tasks": 1,
        "current_task": "Quote for kitchen 12",
        "error_rate": 0.25,
        "sample_error": "no\nsuch file",
        "runtime_state": "busy",
        "runtime_metadata": {"model": "x", "nested": [1, {"a": None}]},
    }
    budget = await gateway.spend("w", 1234, token, **told)
    assert budget == (await gateway.json("GET", "/workspaces/w/budget"))[1]
    assert {name: window["spend"] for name, window in budget["periods"].items()} == {
        period.name: 1234 for period in PERIODS
    }
    _, seen = await gateway.json("GET", "/workspaces/w")
    assert {name: seen[name] for name in told} == told
    age = datetime.now(UTC) - datetime.fromisoformat(seen["last_heartbeat_at"])
    assert timedelta(0) <= age < timedelta(minutes=1)


@pytest.mark.parametrize(
    "members",
    [
        '"unknown": {"a": [1, "\\u0000"]}',  # what is ignored may be anything
        '"monthly_spend": 1, "monthly_spend": 40',  # the last of two counts, as in Python and Go
        '"monthly_spend": 40.0, "error_rate": 1',  # JSON has one kind of number
        '"monthly_spend": 4e1, "uptime_seconds": -5, "active_tasks": 1e30',
        '"uptime_seconds": null, "current_task": null, "runtime_metadata": null, "instance_id": ""',
    ],
)
async def test_heartbeat_is_taken_whatever_else_it_has(gateway: Gateway, members: str) -> None:
    token = await gateway.register("w", "http://127.0.0.1:9")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
    body = f'{{"workspace_id": "w", "monthly_spend": 40, {members}}}'
    async with gateway.client.post(
        gateway.url + "/registry/heartbeat", data=body, headers=headers
    ) as answer:
        assert answer.status == 200
        assert (await answer.json())["budget"]["monthly_spend"] == 40


async def test_heartbeat_of_64_kib_is_taken(gateway: Gateway) -> None:
    token = await gateway.register("w", "http://127.0.0.1:9")
    headers, url = {"Authorization": f"Bearer {token}"}, gateway.url + "/registry/heartbeat"
    body = b'{"workspace_id": "w"}'.ljust(65_536)
    async with gateway.client.post(url, data=body, headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("workspace_id", ["unknown", "", "W", "w/x", "é", "a" * 129, " w", "w\n"])
async def test_heartbeat_of_nobody_is_404(gateway: Gateway, workspace_id: str) -> None:
    await gateway.register("w", "http://127.0.0.1:9")
    body = {"workspace_id": workspace_id, "monthly_spend": 5}
    assert (await gateway.json("POST", "/registry/heartbeat", body))[0] == 404


@pytest.mark.parametrize(
    ("reported", "booked_cents", "reason"),
    [
        (-1, 0, "negative"),
        (-(10**30), 0, "negative"),
        (10**12, 10**12, None),
        (10**12 + 1, 10**12, "too_large"),
        (10**30, 10**12, "too_large"),
    ],
)
async def test_report_out_of_range_is_clamped_and_counted(
    gateway: Gateway, reported: int, booked_cents: int, reason: str | None
) -> None:
    token = await gateway.register("w", "http://127.0.0.1:9")
    budget = await gateway.spend("w", reported, token)
    assert budget["monthly_spend"] == booked_cents
    assert await sample(gateway, "gateway_booked_cents_total") == booked_cents
    for each in ("negative", "too_large"):
        counted = await sample(gateway, "gateway_clamped_reports_total", reason=each)
        assert counted == (each == reason)
