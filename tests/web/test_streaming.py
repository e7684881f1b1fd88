"""Streams, failures and time: nothing waits, a broken answer is seen broken, nothing is left.

RFC 9112 section 8, RFC 9110 section 15.6. Callers and agents are raw sockets.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from hashlib import sha256
from operator import le

import asyncpg
import psutil
import pytest
import pytest_asyncio

from gateway.config import Config
from gateway.web import agent_pool
from gateway.web.agent_address import Origin
from gateway.web.agent_pool import AgentPool
from gateway.web.call_answer import CallAnswer
from gateway.web.descriptors import Descriptors
from tests.raw import (
    PATIENCE_S,
    Message,
    RawAgent,
    RawConnection,
    answering,
    call,
    connect,
    exchange_bytes,
    request_bytes,
    run_raw_agent,
    target_of,
)
from tests.running import Gateway, run_gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = OK + b"Content-Length: 2\r\n\r\n{}"

# Every deadline is short, and none as long as another that could come before it.
IMPATIENT = {
    "GATEWAY_PROXY__CONNECT_TIMEOUT_S": "0.2",
    "GATEWAY_PROXY__REQUEST_BODY_TIMEOUT_S": "0.2",
    "GATEWAY_PROXY__IDLE_TIMEOUT_S": "0.3",
    "GATEWAY_PROXY__FIRST_BYTE_TIMEOUT_S": "0.8",
    "GATEWAY_PROXY__REQUEST_BODY_BYTES_MAX": "1000",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient_gateway(shared_dsn: str) -> AsyncIterator[Gateway]:
    """A gateway whose deadlines and limits are reached soon."""
    async with run_gateway(shared_dsn, IMPATIENT) as gateway:
        yield gateway


def chunk(data: bytes) -> bytes:
    """A chunk as it goes over the wire."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize(
    ("head", "framed"),
    [
        pytest.param(CHUNKED, chunk, id="chunks"),
        pytest.param(OK + b"Content-Type: text/event-stream\r\n\r\n", bytes, id="until the close"),
        pytest.param(OK + b"Content-Length: 1000\r\n\r\n", bytes, id="length"),
    ],
)
async def test_every_event_arrives_by_itself_before_the_next_is_sent(
    shared_gateway: Gateway, head: bytes, framed: Callable[[bytes], bytes]
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(head)
        while True:
            connection.send(framed(await events.get()))

    events: asyncio.Queue[bytes] = asyncio.Queue()
    async with run_raw_agent(script) as agent, connect(shared_gateway.url) as caller:
        caller.send(request_bytes(await target_of(shared_gateway, agent)))
        # The head comes at once, too: there may be no event for long.
        received = await caller.receive()
        assert received.endswith(b"\r\n\r\n")
        for number in range(5):
            event = b"data: %d\n\n" % number
            events.put_nowait(event)
            is_chunked = b"chunked" in received
            assert await caller.receive() == (chunk(event) if is_chunked else event)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
async def test_every_part_of_a_request_arrives_before_the_next_is_sent(
    shared_gateway: Gateway, is_chunked: bool
) -> None:
    framing = "Transfer-Encoding: chunked" if is_chunked else "Content-Length: 1000"
    async with run_raw_agent(answering(WHOLE)) as agent, connect(shared_gateway.url) as caller:
        target = await target_of(shared_gateway, agent)
        caller.send(request_bytes(target, fields=[framing], body=None))
        connection = await agent.connection(0)
        assert (await connection.receive()).endswith(b"\r\n\r\n")
        for number in range(5):
            part = chunk(b"part %d" % number) if is_chunked else b"part %d" % number
            caller.send(part)
            assert await connection.receive() == part


async def test_large_body_passes_both_ways_unchanged(shared_gateway: Gateway) -> None:
    """Larger than every buffer on the way: each has to wait for the next, and go on."""
    sent = os.urandom(9 * 1024 * 1024)

    async def script(connection: RawConnection) -> None:
        body = (await connection.receive_message()).body
        connection.send(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async with run_raw_agent(script) as agent, connect(shared_gateway.url) as caller:
        caller.send(request_bytes(await target_of(shared_gateway, agent), body=sent))
        answer = await caller.receive_message()
    assert sha256(answer.body).digest() == sha256(sent).digest()


def close(connection: RawConnection) -> None:
    """The agent ends in order, as if it had said all."""
    connection.close()


def reset(connection: RawConnection) -> None:
    """The agent dies."""
    connection.reset()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("answer", "end"),
    [
        pytest.param(OK + b"Content-Length: 9\r\n\r\nhalf", close, id="close within a length"),
        pytest.param(OK + b"Content-Length: 9\r\n\r\nhalf", reset, id="reset within a length"),
        pytest.param(CHUNKED + b"9\r\nhalf", close, id="close within a chunk"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n", close, id="close after a chunk"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n", reset, id="reset after a chunk"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n0\r\n", close, id="close within the last chunk"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n0\r\nX: 1\r\n", close, id="close within trailers"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\nzebra\r\n", None, id="no chunk"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n-1\r\n", None, id="negative chunk"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n0x1\r\nx\r\n", None, id="chunk with 0x"),
        pytest.param(CHUNKED + b"4\r\nhalf and more\r\n0\r\n\r\n", None, id="chunk that is longer"),
        pytest.param(CHUNKED + b"4\r\nhalf\r\n" + b"f" * 17 + b"\r\n", None, id="chunk over 2^64"),
        # aiohttp's own client reports success.
        pytest.param(OK + b"\r\nhalf", reset, id="reset in a body that ends by a close"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nhalf", reset, id="reset of HTTP 1.0"),
    ],
)
async def test_answer_that_breaks_off_is_seen_broken(
    shared_gateway: Gateway,
    answer: bytes,
    end: Callable[[RawConnection], None] | None,
    version: str,
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(answer)
        await has_begun.wait()
        if end is not None:
            end(connection)

    has_begun = asyncio.Event()
    async with run_raw_agent(script) as agent, connect(shared_gateway.url) as caller:
        target = await target_of(shared_gateway, agent)
        caller.send(f"GET {target} HTTP/{version}\r\nHost: gateway\r\n\r\n".encode())
        await caller.until(lambda: b"\r\n\r\n" in caller.received or not caller.is_open)
        has_begun.set()
        await caller.ended()
        assert not caller.has_whole_answer
        # A reset may overtake what was sent before; it is only where nothing else may tell.
        assert caller.was_reset is (version == "1.0")
        # Raising an error after the first byte would write another answer into the body.
        assert caller.received.count(b"HTTP/") <= 1
        await agent.connections[0].ended()
        assert len(agent.requests) == 1


async def test_answer_in_thousands_of_small_chunks_goes_on_after_them(
    impatient_gateway: Gateway,
) -> None:
    """aiohttp's parser stops by itself after many chunks that nobody read yet."""

    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(CHUNKED + chunk(b"a") * 2049)
        await has_begun.wait()
        connection.send(chunk(b"b") * 3 + b"0\r\n\r\n")

    has_begun = asyncio.Event()
    async with run_raw_agent(script) as agent, connect(impatient_gateway.url) as caller:
        caller.send(request_bytes(await target_of(impatient_gateway, agent)))
        await caller.until(
            lambda: caller.received.count(b"\r\na") >= 2049 or b"aaa" in caller.received
        )
        has_begun.set()
        assert (await caller.receive_message()).body == b"a" * 2049 + b"bbb"


async def test_upload_in_thousands_of_small_chunks_goes_on_after_them(
    shared_gateway: Gateway,
) -> None:
    async with run_raw_agent(answering(WHOLE)) as agent, connect(shared_gateway.url) as caller:
        target = await target_of(shared_gateway, agent)
        caller.send(request_bytes(target, fields=["Transfer-Encoding: chunked"], body=None))
        agent_side = await agent.connection(0)
        caller.send(chunk(b"a") * 16_385)
        await agent_side.until(lambda: agent_side.received.count(b"a") >= 16_385)
        caller.send(chunk(b"b") * 3 + b"0\r\n\r\n")
        assert (await caller.receive_message()).status == 200
        assert agent.requests[0].body == b"a" * 16_385 + b"bbb"


async def test_requests_sent_ahead_are_all_answered_behind_one_whose_body_came_late(
    shared_gateway: Gateway,
) -> None:
    """aiohttp's parser counts such a request once too often, and stops when it seems full."""
    calls = shared_gateway.services.calls_under_way
    async with run_raw_agent(answering(WHOLE)) as agent, connect(shared_gateway.url) as caller:
        request = request_bytes(await target_of(shared_gateway, agent))
        caller.send(request[:-1])
        await until(lambda: len(calls) == 1)
        caller.send(request[-1:])
        assert (await caller.receive_message()).status == 200
        caller.send(request * 64)
        for _ in range(64):
            assert (await caller.receive_message()).status == 200


async def test_mistake_of_ours_within_an_answer_writes_no_second_one(
    shared_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_answer: CallAnswer, _data: bytes) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(CallAnswer, "write", fail)
    async with run_raw_agent(answering(WHOLE)) as agent, connect(shared_gateway.url) as caller:
        caller.send(request_bytes(await target_of(shared_gateway, agent)) * 2)
        await caller.ended()
        assert b"HTTP/1.1 500" not in caller.received
        assert not caller.has_whole_answer


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_caller_of_http_1_0_keeps_its_connection_only_where_the_answer_has_a_length(
    shared_gateway: Gateway, framing: str
) -> None:
    answer = WHOLE if framing == "length" else CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"
    async with run_raw_agent(answering(answer)) as agent, connect(shared_gateway.url) as caller:
        target = await target_of(shared_gateway, agent)
        request = f"GET {target} HTTP/1.0\r\nHost: gateway\r\nConnection: keep-alive\r\n\r\n"
        caller.send(request.encode())
        if framing == "chunks":
            await caller.ended()
            assert b"Connection: close\r\n" in caller.received
            assert caller.received.endswith(b"{}")
            return
        for _ in range(2):
            assert (await caller.receive_message()).values("Connection") == ["keep-alive"]
            caller.send(request.encode())


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
async def test_whole_answer_to_a_caller_of_http_1_0_ends_in_order(
    shared_gateway: Gateway, framing: str
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        answers = {
            "length": WHOLE,
            "chunks": CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
            "close": OK + b"\r\n{}",
        }
        connection.send(answers[framing]).close()

    async with run_raw_agent(script) as agent:
        target = await target_of(shared_gateway, agent)
        request = f"GET {target} HTTP/1.0\r\nHost: gateway\r\n\r\n".encode()
        answer = await exchange_bytes(shared_gateway.url, request)
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n{}")
    assert b"chunked" not in answer


@pytest.mark.parametrize(
    ("framing", "rest"),
    [
        pytest.param("Transfer-Encoding: chunked", chunk(bytes(1001)), id="is too large"),
        pytest.param("Transfer-Encoding: chunked", b"zebra\r\n", id="is no chunk"),
        pytest.param("Content-Length: 100", b"x", id="does not arrive"),
    ],
)
async def test_answer_that_began_before_the_body_went_wrong_is_broken_and_the_only_one(
    impatient_gateway: Gateway, framing: str, rest: bytes
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive()
        connection.send(CHUNKED + chunk(b"early"))
        await connection.ended()

    async with run_raw_agent(script) as agent, connect(impatient_gateway.url) as caller:
        target = await target_of(impatient_gateway, agent)
        caller.send(request_bytes(target, fields=[framing], body=None))
        await caller.until(lambda: b"early" in caller.received)
        caller.send(rest)
        await caller.ended()
        assert not caller.has_whole_answer
        assert caller.received.count(b"HTTP/1.1") == 1


async def test_answer_without_a_length_is_broken_if_the_body_goes_wrong_while_nobody_reads_it(
    shared_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway itself closes such an exchange in order, and for others that ends an answer."""

    async def script(connection: RawConnection) -> None:
        await connection.receive()
        connection.send(OK + b"\r\nearly")
        await connection.ended()

    async def write_to_a_caller_that_does_not_read(answer: CallAnswer, data: bytes) -> None:
        await write(answer, data)
        await reads.wait()

    write, reads = CallAnswer.write, asyncio.Event()
    monkeypatch.setattr(CallAnswer, "write", write_to_a_caller_that_does_not_read)
    async with run_raw_agent(script) as agent, connect(shared_gateway.url) as caller:
        target = await target_of(shared_gateway, agent)
        caller.send(request_bytes(target, fields=["Transfer-Encoding: chunked"], body=None))
        await caller.until(lambda: b"early" in caller.received)
        caller.send(b"zebra\r\n")
        await agent.connections[0].ended()
        reads.set()
        await caller.ended()
        assert not caller.has_whole_answer


async def test_answer_that_does_not_wait_for_the_request_passes_and_ends_the_connection(
    shared_gateway: Gateway,
) -> None:
    """An agent that refuses a large body may never read the rest: nothing may wait for it."""

    async def script(connection: RawConnection) -> None:
        await connection.receive()
        connection.transport.pause_reading()
        connection.send(OK + b"Content-Length: 9\r\n\r\ntoo large")

    process = psutil.Process()
    async with run_raw_agent(script) as agent:
        target, body = await target_of(shared_gateway, agent), bytes(9 * 1024 * 1024)
        before = process.num_fds()
        async with connect(shared_gateway.url) as caller:
            caller.send(request_bytes(target, body=body))
            answer = await caller.receive_message()
            assert (answer.body, answer.values("Connection")) == (b"too large", ["close"])
        # The agent has its end of the connection open, the gateway has closed the other.
        await until(lambda: process.num_fds() == before + 1)
        assert len(agent.open_connections) == 1


@pytest.mark.parametrize("is_reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("has_begun", [False, True], ids=["before", "after the first byte"])
async def test_caller_who_leaves_is_gone_for_the_agent_at_once(
    shared_gateway: Gateway, has_begun: bool, is_reset: bool
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        if has_begun:
            connection.send(CHUNKED + chunk(b"first"))
        await connection.ended()

    async with run_raw_agent(script) as agent, connect(shared_gateway.url) as caller:
        caller.send(request_bytes(await target_of(shared_gateway, agent)))
        connection = await agent.connection(0)
        await connection.until(lambda: connection.received.endswith(b"{}"))
        if has_begun:
            await caller.until(lambda: b"first" in caller.received)
        left_at = time.monotonic()
        caller.reset() if is_reset else caller.close()
        await connection.ended()
        # On a quiet machine within 100 ms, and in fact within 5.
        assert time.monotonic() - left_at < 1


async def test_reader_who_stops_stops_the_agent_and_ends_at_the_idle_deadline(
    impatient_gateway: Gateway,
) -> None:
    pushed_bytes = 0

    async def script(connection: RawConnection) -> None:
        nonlocal pushed_bytes
        await connection.receive_message()
        connection.send(CHUNKED)
        while True:  # without an end; ended by its connection
            await connection.push(chunk(bytes(64 * 1024)))
            pushed_bytes += 64 * 1024

    async with run_raw_agent(script) as agent, connect(impatient_gateway.url) as caller:
        caller.send(request_bytes(await target_of(impatient_gateway, agent)))
        await caller.until(lambda: b"\r\n\r\n" in caller.received)
        caller.transport.pause_reading()
        await until(lambda: bool(agent.connections) and not agent.open_connections)
        # The kernel's buffers on both ways; an agent that is not stopped writes some GiB.
        assert pushed_bytes < 32 * 1024 * 1024
        caller.transport.resume_reading()
        await caller.ended()
        assert not caller.has_whole_answer


async def test_reader_who_stops_before_the_last_bytes_ends_at_the_idle_deadline(
    impatient_gateway: Gateway,
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(CHUNKED)
        # Small pieces fill the gateway's buffer without any of them being waited for.
        await until(lambda: len(impatient_gateway.services.calls_under_way) == 1)
        (caller_side,) = impatient_gateway.services.calls_under_way._calls
        while not caller_side.writing_paused:
            await connection.push(chunk(bytes(1024)))
            await asyncio.sleep(0)
        connection.send(b"0\r\n\r\n")

    async with run_raw_agent(script) as agent, connect(impatient_gateway.url) as caller:
        caller.send(request_bytes(await target_of(impatient_gateway, agent)))
        await caller.until(lambda: b"\r\n\r\n" in caller.received)
        caller.transport.pause_reading()
        calls = impatient_gateway.services.calls_under_way
        await until(lambda: len(agent.requests) == 1 and len(calls) == 0)
        caller.transport.resume_reading()
        await caller.ended()
        assert not caller.has_whole_answer


async def test_agent_that_does_not_take_connections_is_a_504(impatient_gateway: Gateway) -> None:
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        # One connection may wait to be accepted; the next one is not answered.
        listener.listen(0)
        first.connect(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        await impatient_gateway.register("full", url)
        assert (await call(impatient_gateway, "/workspaces/full/a2a")).status == 504


async def test_agent_that_refuses_connections_is_a_502(shared_gateway: Gateway) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        await shared_gateway.register("gone", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert (await call(shared_gateway, "/workspaces/gone/a2a")).status == 502


async def test_workspace_without_an_agent_is_a_503_with_retry_after(
    shared_gateway: Gateway, shared_dsn: str
) -> None:
    connection = await asyncpg.connect(shared_dsn)
    await connection.execute("INSERT INTO workspaces (id) VALUES ('platform-made')")
    await connection.close()
    answer = await call(shared_gateway, "/workspaces/platform-made/a2a")
    assert (answer.status, answer.values("Retry-After")) == (503, ["30"])


async def test_agent_that_does_not_answer_is_a_504_and_its_connection_is_closed(
    impatient_gateway: Gateway,
) -> None:
    async with run_raw_agent(RawConnection.ended) as agent:
        target = await target_of(impatient_gateway, agent)
        assert (await call(impatient_gateway, target)).status == 504
        await agent.connections[0].ended()
        assert len(agent.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 102 Processing\r\n\r\n", id="interim answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", id="half a head"),
    ],
)
async def test_agent_that_does_not_get_to_its_answer_is_a_504(
    impatient_gateway: Gateway, answer: bytes
) -> None:
    async with run_raw_agent(answering(answer)) as agent:
        target = await target_of(impatient_gateway, agent)
        assert (await call(impatient_gateway, target)).status == 504
        await agent.connections[0].ended()


async def test_long_upload_is_no_late_answer(shared_dsn: str) -> None:
    environment = {"GATEWAY_PROXY__FIRST_BYTE_TIMEOUT_S": "1"}
    async with (
        run_gateway(shared_dsn, environment) as gateway,
        run_raw_agent(answering(WHOLE)) as agent,
        connect(gateway.url) as caller,
    ):
        target = await target_of(gateway, agent)
        caller.send(request_bytes(target, fields=["Content-Length: 4"], body=None))
        for part in (b"l", b"o", b"n", b"g"):
            await asyncio.sleep(0.4)  # the time that is not to count
            caller.send(part)
        assert (await caller.receive_message()).status == 200


async def test_agent_that_falls_silent_within_its_answer_is_broken_off(
    impatient_gateway: Gateway,
) -> None:
    async with (
        run_raw_agent(answering(CHUNKED + chunk(b"half"))) as agent,
        connect(impatient_gateway.url) as caller,
    ):
        caller.send(request_bytes(await target_of(impatient_gateway, agent)))
        await caller.ended()
        assert caller.received.endswith(chunk(b"half"))
        await agent.connections[0].ended()


@pytest.mark.parametrize(
    ("framing", "part"),
    [("Content-Length: 100", b"part"), ("Transfer-Encoding: chunked", chunk(b"part"))],
    ids=["length", "chunks"],
)
async def test_body_that_stalls_is_a_408_and_takes_the_agents_connection_along(
    impatient_gateway: Gateway, framing: str, part: bytes
) -> None:
    async with (
        run_raw_agent(answering(WHOLE)) as agent,
        connect(impatient_gateway.url) as caller,
    ):
        target = await target_of(impatient_gateway, agent)
        caller.send(request_bytes(target, fields=[framing], body=None) + part)
        answer = await caller.receive_message()
        assert (answer.status, answer.values("Connection")) == (408, ["close"])
        await agent.connections[0].ended()
        assert agent.requests == []


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 1001"])
async def test_body_over_the_limit_is_a_413_and_never_reaches_the_agent_whole(
    impatient_gateway: Gateway, framing: str
) -> None:
    async with (
        run_raw_agent(answering(WHOLE)) as agent,
        connect(impatient_gateway.url) as caller,
    ):
        target = await target_of(impatient_gateway, agent)
        caller.send(request_bytes(target, fields=[framing], body=None))
        if "chunked" in framing:
            # Counted on the way: the first part is with the agent when the limit is passed.
            connection = await agent.connection(0)
            caller.send(chunk(bytes(1000)))
            await connection.until(lambda: chunk(bytes(1000)) in connection.received)
            caller.send(chunk(b"x"))
        answer = await caller.receive_message()
        assert (answer.status, answer.values("Connection")) == (413, ["close"])
        await until(lambda: not agent.open_connections)
        assert agent.requests == []


async def test_body_at_the_limit_passes(impatient_gateway: Gateway) -> None:
    async with (
        run_raw_agent(answering(WHOLE)) as agent,
        connect(impatient_gateway.url) as caller,
    ):
        target = await target_of(impatient_gateway, agent)
        for fields, body in (([], bytes(1000)), (["Transfer-Encoding: chunked"], None)):
            caller.send(request_bytes(target, fields=fields, body=body))
            caller.send(b"" if body else chunk(bytes(1000)) + chunk(b""))
            assert (await caller.receive_message()).status == 200
        assert [each.body for each in agent.requests] == [bytes(1000)] * 2


async def test_idle_connections_are_closed_before_agents_do() -> None:
    """uvicorn, gunicorn and Node close theirs after 5 s."""
    assert agent_pool.KEEPALIVE_TIMEOUT_S + agent_pool.SWEEP_INTERVAL_S <= 5


async def test_idle_connection_is_closed_when_its_time_is_over(
    shared_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_pool, "KEEPALIVE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(agent_pool, "SWEEP_INTERVAL_S", 0.02)
    async with run_raw_agent(answering(WHOLE)) as agent:
        await call(shared_gateway, await target_of(shared_gateway, agent))
        await agent.connections[0].ended()


async def test_idle_connection_is_not_used_when_its_time_is_over(
    shared_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_pool, "KEEPALIVE_TIMEOUT_S", 0)
    monkeypatch.setattr(agent_pool, "SWEEP_INTERVAL_S", 60)
    async with run_raw_agent(answering(WHOLE)) as agent:
        target = await target_of(shared_gateway, agent)
        for _ in range(2):
            assert (await call(shared_gateway, target)).status == 200
        assert len(agent.connections) == 2


@pytest.mark.parametrize("is_concurrent", [False, True], ids=["one by one", "twelve at once"])
async def test_calls_succeed_though_the_agent_closes_after_every_answer_without_a_word(
    shared_gateway: Gateway, is_concurrent: bool
) -> None:
    """aiohttp's own client lost 60 of 120: it does not send a POST again, and must not."""

    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(WHOLE).close()

    async with run_raw_agent(script) as agent:
        target = await target_of(shared_gateway, agent)
        width = 12 if is_concurrent else 1
        for _ in range(120 // width):
            answers = await asyncio.gather(*[call(shared_gateway, target) for _ in range(width)])
            assert [answer.status for answer in answers] == [200] * width
        assert len(agent.requests) == 120


@pytest.mark.parametrize("said", [b"", b"x"], ids=["its end", "a byte"])
async def test_connection_is_not_used_on_which_something_came_that_the_loop_did_not_read(
    said: bytes,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = Origin(False, *listener.getsockname())
        pool = AgentPool(PATIENCE_S, Config().registry.networks, Descriptors())
        kept = await pool.take(origin)
        agent_side = listener.accept()[0]
        answered = kept.begin(request_bytes("/"), is_head=False)
        agent_side.send(WHOLE)
        await answered
        pool.give_back(origin, kept)
        # Nothing is awaited between this and the look into the pool.
        agent_side.send(said) if said else agent_side.close()
        taken = await pool.take(origin)
        assert taken is not kept
        taken.end()
        agent_side.close()


async def test_calls_over_a_cap_are_a_503_at_once_and_a_place_that_is_freed_is_used_again(
    shared_dsn: str,
) -> None:
    async def script(connection: RawConnection) -> None:
        while True:
            await connection.receive_message()
            await may_answer.wait()
            connection.send(WHOLE)

    may_answer = asyncio.Event()
    caps = {"GATEWAY_PROXY__CALLS_PER_WORKSPACE_MAX": "2", "GATEWAY_PROXY__CALLS_MAX": "3"}
    async with run_gateway(shared_dsn, caps) as gateway, run_raw_agent(script) as agent:
        targets = [await target_of(gateway, agent) for _ in range(3)]

        async def hold(target: str, count: int) -> asyncio.Task[Message]:
            held = asyncio.create_task(call(gateway, target))
            await until(lambda: len(agent.requests) == count)
            return held

        async def require_refusal(target: str) -> None:
            refusal = await call(gateway, target)
            assert (refusal.status, refusal.values("Retry-After")) == (503, ["1"])

        held = [await hold(targets[0], 1), await hold(targets[0], 2)]
        await require_refusal(targets[0])
        held.append(await hold(targets[1], 3))  # another workspace has its own places
        await require_refusal(targets[2])  # until there are none in all
        assert len(agent.requests) == 3
        held.pop().cancel()
        await until(lambda: len(gateway.services.calls_under_way) == 2)
        held.append(await hold(targets[2], 4))
        await require_refusal(targets[0])
        may_answer.set()
        assert [(await each).status for each in held] == [200] * 3
        assert (await call(gateway, targets[0])).status == 200


@pytest.mark.parametrize("has_begun", [False, True], ids=["before", "after the first byte"])
async def test_nothing_is_left_of_five_hundred_calls_whose_callers_left(
    shared_gateway: Gateway, has_begun: bool
) -> None:
    """A thousand in all: no task, connection or file descriptor."""
    process = psutil.Process()

    def left() -> tuple[int, int, int]:
        calls = shared_gateway.services.calls_under_way
        return len(calls), process.num_fds(), len(asyncio.all_tasks())

    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(CHUNKED + chunk(b"first") if has_begun else b"")
        await connection.ended()

    async with run_raw_agent(script) as agent:
        url, request = shared_gateway.url, request_bytes(await target_of(shared_gateway, agent))
        await call_and_leave(1, url, request, agent, has_begun)
        before = left()
        for _ in range(5):
            await call_and_leave(100, url, request, agent, has_begun)
        await until(lambda: all(map(le, left(), before)), PATIENCE_S)
        assert len(agent.requests) == 501


async def call_and_leave(
    count: int, url: str, request: bytes, agent: RawAgent, has_begun: bool
) -> None:
    """Leave when all calls are with the agent, or the first bytes of their answers here."""
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(connect(url)) for _ in range(count)]
        for caller in callers:
            caller.send(request)
        if has_begun:
            for caller in callers:
                await caller.until(lambda got=caller.received: b"first" in got)
        await until(lambda: is_everywhere(b"{}", agent, count), PATIENCE_S)
    await until(lambda: not agent.open_connections, PATIENCE_S)


def is_everywhere(mark: bytes, agent: RawAgent, count: int) -> bool:
    """Whether so many connections are open and received this."""
    return sum(mark in connection.received for connection in agent.open_connections) == count
