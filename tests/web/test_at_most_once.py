"""A POST reaches the agent at most once, and no part of an answer passes for the whole.

RFC 9110 section 9.2.2. Connections are cut at every byte: a caller within its request, an agent
within its answer. Agents do not tell one message from its double.
"""

from collections.abc import Callable

import pytest

from tests.raw import (
    PATIENCE_S,
    RawAgent,
    RawConnection,
    answering,
    call,
    connect,
    request_bytes,
    run_raw_agent,
    target_of,
)
from tests.running import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WHOLE = OK + b"Content-Length: 16\r\n\r\n" + b'{"result": "ok"}'
IN_CHUNKS = OK + b'Transfer-Encoding: chunked\r\n\r\n9\r\n{"result"\r\n7\r\n: "ok"}\r\n0\r\n\r\n'

BODY = b'{"jsonrpc": "2.0", "id": 7, "method": "message/send", "params": {}}'
BODY_IN_CHUNKS = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (20, BODY[:20], len(BODY) - 20, BODY[20:])

CUTS = {"closed": RawConnection.close, "reset": RawConnection.reset}
Cut = Callable[[RawConnection], None]


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
async def test_call_that_the_caller_cuts_anywhere_never_reaches_the_agent_as_a_whole_one(
    shared_gateway: Gateway, is_chunked: bool, cut: Cut
) -> None:
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(BODY)}"
    async with run_raw_agent(answering(WHOLE)) as agent:
        target = await target_of(shared_gateway, agent)
        head = request_bytes(target, fields=[framing, "A2A-Version: 1.0"], body=None)
        request = head + (BODY_IN_CHUNKS if is_chunked else BODY)
        for position in range(len(request)):
            async with connect(shared_gateway.url) as caller:
                caller.send(request[:position])
                if position >= len(head):
                    # The call is under way: its head is with the agent.
                    await until(lambda: is_begun(agent))
                cut(caller)
                await until(lambda: not agent.open_connections, PATIENCE_S)
            assert agent.requests == [], position
        assert (await call(shared_gateway, target)).status == 200


def is_begun(agent: RawAgent) -> bool:
    """Whether the head of a call is on an open connection."""
    return any(b"\r\n\r\n" in connection.received for connection in agent.open_connections)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_call_that_the_caller_leaves_when_all_is_sent_reaches_the_agent_at_most_once(
    shared_gateway: Gateway, cut: Cut
) -> None:
    async with run_raw_agent(answering(WHOLE)) as agent:
        target = await target_of(shared_gateway, agent)
        for number in range(50):
            async with connect(shared_gateway.url) as caller:
                caller.send(request_bytes(f"{target}/{number}", body=BODY))
                cut(caller)
        # The last call comes after them: what was to reach the agent has reached it.
        assert (await call(shared_gateway, f"{target}/last")).status == 200
        starts = [request.start for request in agent.requests]
        assert len(starts) == len(set(starts))


@pytest.mark.parametrize("is_kept", [False, True], ids=["new connection", "kept connection"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("answer", [WHOLE, IN_CHUNKS], ids=["length", "chunks"])
async def test_call_whose_answer_is_cut_anywhere_is_a_502_or_broken_and_is_not_sent_again(
    shared_gateway: Gateway, answer: bytes, cut: Cut, is_kept: bool
) -> None:
    async def script(connection: RawConnection) -> None:
        if is_kept:
            await connection.receive_message()
            connection.send(WHOLE)
        await connection.receive_message()
        connection.send(answer[:position])
        # Let the caller see the beginning of its answer, if there is one.
        if position >= len(head):
            await caller.until(lambda: b"\r\n\r\n" in caller.received)
        cut(connection)

    head = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    async with run_raw_agent(script) as agent:
        target = await target_of(shared_gateway, agent)
        for position in range(len(answer)):
            if is_kept:
                await call(shared_gateway, f"{target}/before")
            async with connect(shared_gateway.url) as caller:
                caller.send(request_bytes(f"{target}/{position}", body=BODY))
                if position < len(head):
                    assert (await caller.receive_message()).status == 502, position
                else:
                    await caller.ended()
                    assert caller.received.startswith(b"HTTP/1.1 200 OK\r\n")
                    assert not caller.has_whole_answer, position
            starts = [request.start for request in agent.requests]
            assert starts.count(f"POST /{position} HTTP/1.1") == 1
        # A new connection, not cut: the gateway is none the worse.
        position = len(answer)
        assert (await call(shared_gateway, target)).status == 200
