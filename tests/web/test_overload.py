"""What callers see when more calls arrive than a worker can serve: on real sockets.

Overload is not made by load, which would need luck, but by the scheduler's limits: every call
waited too long, or nothing starts.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from gateway.web.request_scheduler import Pace, SchedulerSettings
from tests.raw import Message, RawConnection, connect, request_bytes
from tests.running import Agent, Gateway, run_agent, until
from tests.web.conftest import PATIENT
from tests.web.refusals import beside

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Every call is shed; everything else starts.
SHEDDING = SchedulerSettings(
    unpaced_max=0,
    share_max=0,
    mixed=Pace(1, 1000),
    alone=Pace(1, 1000),
    standing_after_s=0,
    wait_max_s=0,
)
# Every request waits, and none starts.
HOLDING = SchedulerSettings(unpaced_max=0, share_max=0, checking_max=0, standing_after_s=1000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent() -> AsyncIterator[Agent]:
    """The agent of every workspace."""
    async with run_agent() as agent:
        yield agent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_gateway: Gateway, agent: Agent) -> AsyncIterator[Gateway]:
    """A gateway of this module's own, whose scheduler may be changed."""
    async with beside(shared_gateway, PATIENT) as gateway:
        for workspace_id in ("w", "other"):
            await gateway.register(workspace_id, agent.url)
        yield gateway


@pytest.fixture
def set_limits(gateway: Gateway, agent: Agent) -> AsyncIterator[Callable[..., None]]:
    """Sets the scheduler's limits for one test."""
    scheduler = gateway.services.overload.scheduler
    usual = scheduler.settings

    def set_limits(limits: SchedulerSettings = usual) -> None:
        scheduler.settings = limits

    agent.received.clear()
    yield set_limits
    scheduler.settings = usual


SetLimits = Callable[..., None]
CALL = request_bytes("/workspaces/w/a2a")


def require_shed(answer: Message) -> None:
    """The answer must be what a call that is shed gets."""
    assert answer.status == 503
    assert answer.values("Retry-After") == ["1"]
    assert answer.values("Content-Type") == ["application/problem+json"]
    assert answer.values("Cache-Control") == ["no-store"]
    problem = json.loads(answer.body)
    assert problem.keys() == {"type", "title", "status", "detail", "error"}
    assert problem["error"] == "The gateway has more calls than it can serve."


async def shed_total(gateway: Gateway) -> tuple[float, float]:
    """How many calls were shed, and how many rejected with a 5xx."""
    async with gateway.client.get(gateway.url + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    names = ("gateway_calls_shed_total", 'gateway_calls_total{outcome="rejected",status="5xx"}')
    found = {
        name: float(line.split()[-1]) for name in names for line in lines if line.startswith(name)
    }
    return found.get(names[0], 0.0), found.get(names[1], 0.0)


async def test_call_is_shed_and_the_next_on_its_connection_is_served(
    gateway: Gateway, agent: Agent, set_limits: SetLimits
) -> None:
    before = await shed_total(gateway)
    async with connect(gateway.url) as caller:
        for _ in range(3):
            set_limits(SHEDDING)
            answer = await caller.send(CALL).receive_message()
            require_shed(answer)
            assert answer.values("Connection") == []
            set_limits()
            assert (await caller.send(CALL).receive_message()).status == 200
    assert len(agent.received) == 3
    after = await shed_total(gateway)
    assert [round(b - a) for a, b in zip(before, after, strict=True)] == [3, 3]


async def test_call_with_a_large_body_waits_and_arrives_whole(
    gateway: Gateway, agent: Agent, set_limits: SetLimits
) -> None:
    body = b"x" * 1_000_000
    async with connect(gateway.url) as caller:
        set_limits(HOLDING)
        caller.send(request_bytes("/workspaces/w/a2a", body=body))
        await until(lambda: gateway.services.overload.scheduler.length == 1)
        set_limits()
        assert (await caller.receive_message()).status == 200
    assert agent.received[0].body == body


@pytest.mark.parametrize(
    "sent",
    [
        CALL.removesuffix(b"}"),  # the rest of the body may be anything
        request_bytes("/workspaces/w/a2a", fields=["Connection: close"]),
        request_bytes("/workspaces/w/a2a", fields=["Transfer-Encoding: chunked"], body=None)
        + b"0\r\n\r\n",
        CALL.replace(b"HTTP/1.1", b"HTTP/1.0"),
        CALL.removesuffix(b"{}").replace(b"Length: 2", b"Length: 2\r\nExpect: 100-continue"),
    ],
    ids=["half a body", "last request", "chunked", "HTTP/1.0", "expectation"],
)
async def test_shed_call_whose_connection_cannot_go_on_ends_it(
    gateway: Gateway, agent: Agent, set_limits: SetLimits, sent: bytes
) -> None:
    set_limits(SHEDDING)
    async with connect(gateway.url) as caller:
        answer = await caller.send(sent).receive_message()
        require_shed(answer)
        # In HTTP/1.0 a connection ends unless it is said to go on.
        assert answer.values("Connection") == ["close"] * (b"HTTP/1.1" in sent)
        await caller.ended()
        assert not caller.was_reset
        assert caller.unread == b""
    assert agent.received == []


async def test_shed_head_request_gets_no_body(gateway: Gateway, set_limits: SetLimits) -> None:
    set_limits(SHEDDING)
    async with connect(gateway.url) as caller:
        caller.send(request_bytes("/workspaces/w/a2a", "HEAD", body=None))
        assert (await caller.receive_message(is_bodiless=True)).status == 503
        require_shed(await caller.send(CALL).receive_message())


@pytest.mark.parametrize(
    "target",
    [
        "/workspaces/w/a2a",
        "/workspaces/w/a2a/v1/message:send",
        "/workspaces/w/.well-known/agent-card.json",
        "/workspaces/w/a2a/.well-known/agent-card.json",
        "/workspaces/%77/a2a",
        "/workspaces/never-seen/a2a",
    ],
)
async def test_every_kind_of_call_is_shed(
    gateway: Gateway, agent: Agent, set_limits: SetLimits, target: str
) -> None:
    set_limits(SHEDDING)
    async with connect(gateway.url) as caller:
        require_shed(await caller.send(request_bytes(target, "GET")).receive_message())
    assert agent.received == []


async def test_probes_agents_and_operators_are_served_while_calls_are_shed(
    gateway: Gateway, set_limits: SetLimits
) -> None:
    set_limits(SHEDDING)
    for path in ("/healthz", "/readyz", "/workspaces", "/openapi.yaml"):
        async with gateway.client.get(gateway.url + path) as answer:
            assert answer.status == 200, path
    status, _ = await gateway.json("POST", "/registry/heartbeat", {"workspace_id": "unknown"})
    assert status == 404


async def test_malformed_call_is_told_its_fault_instead_of_being_shed(
    gateway: Gateway, set_limits: SetLimits
) -> None:
    set_limits(SHEDDING)
    async with connect(gateway.url) as caller:
        answer = await caller.send(CALL.replace(b"Host: gateway", b"Host: a/b")).receive_message()
        assert answer.status == 400
        await caller.ended()


async def test_requests_in_a_row_are_shed_in_order(
    gateway: Gateway, agent: Agent, set_limits: SetLimits
) -> None:
    set_limits(SHEDDING)
    health = request_bytes("/healthz", "GET", body=None)
    async with connect(gateway.url) as caller:
        caller.send(CALL + health + CALL)
        require_shed(await caller.receive_message())
        assert (await caller.receive_message()).status == 200
        require_shed(await caller.receive_message())
        require_shed(await caller.send(CALL).receive_message())
    assert agent.received == []


async def test_call_in_pieces_keeps_its_bytes_in_order(
    gateway: Gateway, agent: Agent, set_limits: SetLimits
) -> None:
    scheduler = gateway.services.overload.scheduler
    sent = request_bytes("/workspaces/w/a2a", body=b"0123456789")
    for cut in (1, 20, 60, len(sent) - 5):
        agent.received.clear()
        set_limits(HOLDING)
        async with connect(gateway.url) as caller:
            caller.send(sent[:cut])
            await until(lambda: scheduler.length == 1)
            caller.send(sent[cut:])
            set_limits()
            assert (await caller.receive_message()).status == 200
        assert [received.body for received in agent.received] == [b"0123456789"]


async def test_head_whose_end_comes_after_it_was_shed_is_still_answered(
    gateway: Gateway, set_limits: SetLimits
) -> None:
    overload = gateway.services.overload
    set_limits(SHEDDING)
    async with connect(gateway.url) as caller:
        caller.send(CALL[:40])
        await until(lambda: overload.scheduler.length == 0 and overload.is_shedding)
        require_shed(await caller.send(CALL[40:]).receive_message())


async def test_caller_who_leaves_while_its_call_waits_leaves_nothing_behind(
    gateway: Gateway, agent: Agent, set_limits: SetLimits
) -> None:
    scheduler = gateway.services.overload.scheduler
    set_limits(HOLDING)
    async with connect(gateway.url) as leaving, connect(gateway.url) as staying:
        leaving.send(CALL)
        staying.send(CALL)
        await until(lambda: scheduler.length == 2)
        leaving.reset()
        await until(lambda: scheduler.length == 1)
        set_limits()
        assert (await staying.receive_message()).status == 200
    assert len(agent.received) == 1


async def test_waiting_call_is_not_taken_for_an_idle_connection(
    gateway: Gateway,
) -> None:
    variables = {**PATIENT, "GATEWAY_SERVER__KEEPALIVE_TIMEOUT_S": "0.05"}
    async with beside(gateway, variables) as gateway, connect(gateway.url) as caller:
        scheduler = gateway.services.overload.scheduler
        usual, scheduler.settings = scheduler.settings, HOLDING
        caller.send(CALL)
        await until(lambda: scheduler.length == 1)
        # An idle connection of the same age is closed.
        async with connect(gateway.url) as idle:
            await idle.ended()
        scheduler.settings = usual
        assert (await caller.receive_message()).status == 200


async def test_connection_is_idle_again_after_its_call_was_shed(gateway: Gateway) -> None:
    variables = {**PATIENT, "GATEWAY_SERVER__KEEPALIVE_TIMEOUT_S": "0.05"}
    async with beside(gateway, variables) as gateway, connect(gateway.url) as caller:
        gateway.services.overload.scheduler.settings = SHEDDING
        require_shed(await caller.send(CALL).receive_message())
        await caller.ended()


async def test_calls_that_wait_when_the_worker_stops_are_served(gateway: Gateway) -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(beside(gateway, PATIENT))
        scheduler = gateway.services.overload.scheduler
        scheduler.settings = HOLDING
        async with AsyncExitStack() as callers:
            waiting = [await callers.enter_async_context(connect(gateway.url)) for _ in range(20)]
            for caller in waiting:
                caller.send(CALL)
            await until(lambda: scheduler.length == 20)
            gateway.services.is_draining = True
            await stack.aclose()
            answers = [await caller.receive_message() for caller in waiting]
    assert [answer.status for answer in answers] == [200] * 20
    assert all(answer.values("Connection") == ["close"] for answer in answers)


async def test_call_that_is_shed_while_the_worker_stops_ends_its_connection(
    gateway: Gateway, set_limits: SetLimits
) -> None:
    set_limits(SHEDDING)
    gateway.services.is_draining = True
    try:
        async with connect(gateway.url) as caller:
            answer = await caller.send(CALL).receive_message()
            require_shed(answer)
            assert answer.values("Connection") == ["close"]
            await caller.ended()
    finally:
        gateway.services.is_draining = False


async def test_call_of_another_workspace_starts_before_a_flood_that_waits(
    gateway: Gateway, agent: Agent, set_limits: SetLimits
) -> None:
    patient = replace(SchedulerSettings(), standing_after_s=1000)
    set_limits(replace(patient, checking_max=0))
    scheduler = gateway.services.overload.scheduler
    async with AsyncExitStack() as stack:
        flood = [await stack.enter_async_context(connect(gateway.url)) for _ in range(200)]
        for caller in flood:
            caller.send(CALL)
        await until(lambda: scheduler.length > 64)
        waiting = scheduler.length
        async with connect(gateway.url) as caller:
            other = request_bytes("/workspaces/other/a2a")
            assert (await caller.send(other).receive_message()).status == 200
        assert scheduler.length == waiting
        set_limits(patient)
        for caller in flood:
            assert (await caller.receive_message()).status == 200
    assert scheduler.length == 0


async def test_workspaces_that_do_not_exist_share_one_share(
    gateway: Gateway, set_limits: SetLimits
) -> None:
    set_limits(HOLDING)
    scheduler = gateway.services.overload.scheduler
    async with AsyncExitStack() as stack:
        callers: list[RawConnection] = []
        for number in range(5):
            callers.append(await stack.enter_async_context(connect(gateway.url)))
            callers[-1].send(request_bytes(f"/workspaces/invented-{number}/a2a"))
        await until(lambda: scheduler.length == 5)
        assert len(scheduler._queues) == 1
        set_limits()
        for caller in callers:
            assert (await caller.receive_message()).status == 404


async def test_shedding_is_reported_once_when_it_begins_and_once_when_it_ends(
    gateway: Gateway, set_limits: SetLimits
) -> None:
    overload = gateway.services.overload
    await until(lambda: not overload.is_shedding)
    with capture_logs() as lines:
        set_limits(SHEDDING)
        async with connect(gateway.url) as caller:
            for _ in range(5):
                require_shed(await caller.send(CALL).receive_message())
        set_limits()
        await until(lambda: not overload.is_shedding)
    lines = [line for line in lines if line["event"] != "request_unreadable"]
    assert [line["event"] for line in lines] == ["shedding_began", "shedding_ended"]
    assert lines[0].keys() >= {"waited_ms", "waiting", "calls_in_flight"}
    assert lines[1]["shed"] == 5


async def test_failure_with_one_request_does_not_hold_up_the_others(
    gateway: Gateway, set_limits: SetLimits
) -> None:
    overload = gateway.services.overload
    set_limits(HOLDING)
    async with connect(gateway.url) as failing, connect(gateway.url) as other:
        failing.send(CALL)
        await until(lambda: overload.scheduler.length == 1)
        (queue,) = overload.scheduler._queues.values()
        queue.requests[0].data = None  # type: ignore[assignment] # no bytes: parsing raises
        other.send(CALL)
        await until(lambda: overload.scheduler.length == 2)
        with capture_logs() as lines:
            set_limits()
            assert (await other.receive_message()).status == 200
            await failing.ended()
        assert "request_failed" in [line["event"] for line in lines]
