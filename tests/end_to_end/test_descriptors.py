"""File descriptors that run out: callers are refused, and serving goes on."""

import resource
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

from tests.end_to_end.serving import Serving, answers, register, serving
from tests.raw import RawConnection, connect
from tests.running import Agent, until


async def few_descriptors(gateway: Serving, count: int) -> None:
    """Have a new worker that may open only so many more files than this one."""
    (worker,) = gateway.processes("gateway worker")
    limit = worker.num_fds() + count
    psutil.Process(gateway.process.pid).rlimit(resource.RLIMIT_NOFILE, (limit, limit))
    worker.kill()
    await answers(gateway.url)


async def test_worker_without_descriptors_refuses_callers_says_so_and_serves_on(
    tmp_path: Path, dsn: str, agent: Agent, stack: AsyncExitStack
) -> None:
    async with serving(tmp_path, GATEWAY_DATABASE__DSN=dsn) as gateway:
        await few_descriptors(gateway, 40)
        await register(gateway.url, "w", agent.url)
        first = await stack.enter_async_context(connect(gateway.url))
        held = [first]
        while all(each.is_open for each in held):
            held.append(await opened(gateway.url, stack))
            assert len(held) < 60
        refused = held.pop()
        assert refused.received.startswith(b"HTTP/1.1 503 ")
        # Neither is there one for a connection to the agent, and that is not the agent's fault.
        first.send(b"GET /workspaces/w/a2a HTTP/1.1\r\nHost: gateway\r\n\r\n")
        answer = await first.receive_message()
        assert (answer.status, answer.values("Retry-After")) == (503, ["1"])
        line, *_ = gateway.events("descriptors_exhausted")
        assert (line["level"], line["count"]) == ("warning", 1)
        for each in held:
            each.transport.abort()
        await until(lambda: _takes_a_caller(gateway.url))
        assert agent.received == []


async def _takes_a_caller(url: str) -> bool:
    async with connect(url) as caller:
        caller.send(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
        return (await caller.receive_message()).status == 200


async def opened(url: str, stack: AsyncExitStack) -> RawConnection:
    """A connection on which the gateway answered, or which it refused."""
    caller = await stack.enter_async_context(connect(url))
    caller.send(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
    await caller.until(lambda: b"\r\n\r\n" in caller.received)
    if b" 503 " in caller.received:
        await caller.ended()
    return caller
