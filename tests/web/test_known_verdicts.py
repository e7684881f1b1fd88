"""A check that comes to nothing does not undo what the last one found."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.core.periods import PERIODS
from tests.running import Agent, Gateway, run_gateway, until
from tests.storage.wire import Wire, open_wire

NAME = PERIODS[0].name
SEND = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {}}
CANCEL = {"jsonrpc": "2.0", "id": 1, "method": "tasks/cancel", "params": {"id": "a"}}


@dataclass(frozen=True, slots=True)
class Far:
    """A gateway at the other end of a wire to its database."""

    gateway: Gateway
    wire: Wire
    token: str

    async def call(self, body: object = SEND) -> tuple[int, str | None, Any]:
        """A call's status, its Budget-Check, and its JSON."""
        path = f"{self.gateway.url}/workspaces/w/a2a"
        async with self.gateway.client.post(path, json=body) as answer:
            document = await answer.json(content_type=None)
            return answer.status, answer.headers.get("Budget-Check"), document

    async def lose_database(self) -> None:
        """Take the database away until the breaker is open."""
        self.wire.cut()

        async def is_open() -> bool:
            await self.call(CANCEL)
            return self.gateway.services.gate.is_open

        await until(is_open)

    async def counted(self, name: str) -> float:
        async with self.gateway.client.get(f"{self.gateway.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def far_gateway(dsn: str, agent: Agent, stack: AsyncExitStack, on_outage: str) -> Far:
    wire = await stack.enter_async_context(open_wire(dsn))
    environment = {"GATEWAY_BUDGET__ON_OUTAGE": on_outage}
    gateway = await stack.enter_async_context(run_gateway(wire.dsn, environment))
    return Far(gateway, wire, await gateway.register("w", agent.url))


@pytest.fixture
async def far(dsn: str, agent: Agent, stack: AsyncExitStack) -> Far:
    """With the default: during an outage everything passes."""
    return await far_gateway(dsn, agent, stack, "open")


async def spend_limit(far: Far) -> None:
    """Have the workspace refused, until its window has room again."""
    await far.gateway.limit("w", **{NAME: 100})
    await far.gateway.spend("w", 140, far.token)
    assert (await far.call())[:2] == (402, None)


async def test_workspace_over_its_limit_stays_refused_when_a_check_is_late(
    far: Far, agent: Agent
) -> None:
    await spend_limit(far)
    far.wire.hold_answers()
    status, check, document = await far.call()
    far.wire.release_answers()
    assert (status, check) == (402, "known")
    (info,) = document["error"]["data"]
    assert info["metadata"][f"{NAME}_spend"] == "140"
    assert await far.counted("gateway_refusals_without_check_total") == 1
    assert not agent.received


async def test_call_that_costs_nothing_passes_a_late_check_and_is_counted(
    far: Far, agent: Agent
) -> None:
    await spend_limit(far)
    far.wire.hold_answers()
    assert (await far.call(CANCEL))[:2] == (200, "skipped")
    far.wire.release_answers()
    assert len(agent.received) == 1
    assert await far.counted("gateway_budget_checks_failed_open_total") == 1


async def test_workspace_within_its_limit_passes_a_late_check(far: Far) -> None:
    await far.gateway.limit("w", **{NAME: 100})
    assert (await far.call())[:2] == (200, None)
    far.wire.hold_answers()
    assert (await far.call())[:2] == (200, "skipped")
    far.wire.release_answers()


async def test_raised_limit_ends_what_was_known(far: Far) -> None:
    await spend_limit(far)
    await far.gateway.limit("w", **{NAME: 1000})
    far.wire.hold_answers()
    assert (await far.call())[:2] == (200, "skipped")
    far.wire.release_answers()


async def test_limit_of_zero_that_was_just_set_is_known_without_a_call(far: Far) -> None:
    await far.gateway.limit("w", **{NAME: 0})
    far.wire.hold_answers()
    assert (await far.call())[:2] == (402, "known")
    far.wire.release_answers()


async def test_outage_passes_everything_by_default(far: Far) -> None:
    await spend_limit(far)
    await far.lose_database()
    assert (await far.call())[:2] == (200, "skipped")


async def test_outage_keeps_what_is_known_refused_if_it_is_configured(
    dsn: str, agent: Agent, stack: AsyncExitStack
) -> None:
    far = await far_gateway(dsn, agent, stack, "known")
    await spend_limit(far)
    await far.lose_database()
    passed = len(agent.received)
    assert (await far.call())[:2] == (402, "known")
    assert len(agent.received) == passed
    assert (await far.call(CANCEL))[:2] == (200, "skipped")


async def test_unknown_agent_is_told_from_an_unknown_workspace_and_counted(
    far: Far,
) -> None:
    await far.lose_database()
    path = f"{far.gateway.url}/workspaces/never-seen/a2a"
    async with far.gateway.client.post(path, json=SEND) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert (await answer.json())["status"] == 503
    assert await far.counted('gateway_calls_total{outcome="unknown_agent",status="5xx"}') == 1


async def test_breaker_that_opens_and_closes_is_two_lines(
    far: Far, capsys: pytest.CaptureFixture[str]
) -> None:
    await far.lose_database()
    far.wire.mend()
    await until(lambda: not far.gateway.services.gate.is_open)
    out = "".join(capsys.readouterr())
    assert [out.count(f"circuit_breaker_{change}") for change in ("opened", "closed")] == [1, 1]
