"""A response that comes before the end of its request is read by whoever sends on.

RFC 9112 section 9.6. Closing over unread bytes resets the connection, and the response is lost.
"""

import asyncio
from collections.abc import AsyncIterator

import httpx
import psutil
import pytest
import pytest_asyncio

from tests.raw import PATIENCE_S, RawConnection, connect
from tests.running import Gateway, run_agent, until
from tests.web.conftest import PATIENT
from tests.web.refusals import beside

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
SEND = b'{"jsonrpc":"2.0","id":7,"method":"message/send","params":{"text":"%b"}}'

HEAD = b"POST /workspaces/over/a2a HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
UPLOAD = HEAD + b"Content-Length: 999999999\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_gateway: Gateway) -> AsyncIterator[Gateway]:
    """A gateway with the workspace `over`, which may spend nothing."""
    async with beside(shared_gateway, PATIENT) as gateway, run_agent() as agent:
        await gateway.register("over", agent.url)
        await gateway.limit("over", hourly=0)
        yield gateway


@pytest.mark.parametrize("mib", [3, 8, 20])
async def test_async_httpx_sees_the_refusal_of_a_large_body(gateway: Gateway, mib: int) -> None:
    """It reads only after it has written all, as A2A's SDKs for Python do."""
    body = SEND % bytes(mib * MIB)
    url = f"{gateway.url}/workspaces/over/a2a"
    async with httpx.AsyncClient(timeout=60) as client:
        for _ in range(8):
            answer = await client.post(
                url, content=body, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 402
            assert answer.json()["error"]["code"] == -32000


async def refused(connection: RawConnection) -> None:
    """Receive the refusal; after it, nothing more comes."""
    answer = await connection.receive_message()
    assert (answer.status, answer.values("Connection")) == (402, ["close"])


class StayingConnection(RawConnection):
    """A caller that does not close when the gateway has sent all."""

    def eof_received(self) -> bool:
        return True


async def test_connection_is_closed_when_the_caller_is_silent(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.web.lingering.SILENCE_S", 0.2)
    monkeypatch.setattr("gateway.web.lingering.LINGER_S", 1000)
    connection = await stay(gateway)
    await refused(connection.send(UPLOAD))
    # The gateway's end of it is gone; the caller's still waits for what it sends to be read.
    await until(lambda: port_of(connection) not in callers_of(gateway))
    connection.transport.abort()


async def test_connection_is_closed_when_the_caller_sends_on_for_too_long(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.web.lingering.SILENCE_S", 1000)
    monkeypatch.setattr("gateway.web.lingering.LINGER_S", 0.5)
    connection = await stay(gateway)
    await refused(connection.send(UPLOAD))
    await fails_in_the_end(connection)


async def test_connection_is_closed_when_the_caller_sends_too_much(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.web.lingering.DISCARDED_BYTES_MAX", MIB)
    monkeypatch.setattr("gateway.web.lingering.SILENCE_S", 1000)
    monkeypatch.setattr("gateway.web.lingering.LINGER_S", 1000)
    connection = await stay(gateway)
    await refused(connection.send(UPLOAD))
    await fails_in_the_end(connection)


async def stay(gateway: Gateway) -> RawConnection:
    """A connection that only the gateway closes."""
    host, port = gateway.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(StayingConnection, host, int(port))
    return connection


def port_of(connection: RawConnection) -> int:
    """The port that the caller has."""
    return int(connection.transport.get_extra_info("sockname")[1])


def callers_of(gateway: Gateway) -> set[int]:
    """The callers' ports of the connections that the gateway holds."""
    own = int(gateway.url.rpartition(":")[2])
    each = psutil.Process().net_connections("tcp4")
    return {one.raddr.port for one in each if one.laddr.port == own and one.raddr}


async def fails_in_the_end(connection: RawConnection) -> None:
    """Send on until the gateway takes no more."""
    async with asyncio.timeout(PATIENCE_S):
        while connection.is_open:
            await connection.push(bytes(64))
            await asyncio.sleep(0)  # the gateway's turn
    connection.transport.abort()


async def test_connection_ends_with_the_caller(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.web.lingering.SILENCE_S", 1000)
    monkeypatch.setattr("gateway.web.lingering.LINGER_S", 1000)
    async with connect(gateway.url) as connection:
        await refused(connection.send(UPLOAD + bytes(MIB)))
        await connection.ended()
        assert not connection.was_reset


async def test_nothing_that_follows_a_refused_body_is_taken_for_a_request(
    gateway: Gateway,
) -> None:
    connection = await stay(gateway)
    await refused(connection.send(HEAD + b"Content-Length: 100000\r\n\r\n"))
    connection.send(bytes(100_000) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: port_of(connection) not in callers_of(gateway))
    assert connection.unread == b""
    connection.transport.abort()
