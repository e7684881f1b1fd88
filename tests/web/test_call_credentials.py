"""The gateway's own credentials: no agent gets one, and none sets one.

The agents are raw sockets and show the very bytes.
"""

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.credentials import without_credentials
from gateway.web.access import token_sha256
from gateway.web.session import new_session, read_session
from tests.raw import (
    Message,
    RawAgent,
    RawConnection,
    answering,
    connect,
    exchange_bytes,
    request_bytes,
    run_raw_agent,
    target_of,
)
from tests.running import Gateway, run_gateway
from tests.web.conftest import PATIENT

ADMIN, ALICE = "admin-token-1", "alices-token"

_SESSION = new_session(token_sha256(ADMIN), None)
SIGNATURE = _SESSION.signature
SESSION = f"~{_SESSION.expires_s}~{SIGNATURE}"

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
EXTENDED = b'{"jsonrpc":"2.0","id":1,"method":"GetExtendedAgentCard"}'
CARD = b'{"name":"a","url":"http://a/","skills":[]}'
EXTENDED_CARD = b'{"jsonrpc":"2.0","id":1,"result":%b}' % CARD

# Every way by which a caller's fields reach an agent.
WAYS = {
    "a call": ("POST", "", b"{}"),
    "a call without a body": ("GET", "/v1/tasks/1", None),
    "an extended card over JSON-RPC": ("POST", "", EXTENDED),
    "an extended card over REST": ("GET", "/v1/card", None),
    "a card": ("GET", "/.well-known/agent-card.json", None),
    "a card below the workspace": ("GET", "../.well-known/agent-card.json", None),
}

CARD_PLACES = ("a card", "a card below the workspace")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def closed(shared_dsn: str) -> AsyncIterator[Gateway]:
    """A gateway with an operator's token, and another that has a name."""
    environment = {
        **PATIENT,
        "GATEWAY_AUTH__ADMIN_TOKENS": ADMIN,
        "GATEWAY_AUTH__NAMED_ADMIN_TOKENS": f"alice={ALICE}",
    }
    async with run_gateway(shared_dsn, environment) as gateway:
        yield gateway


async def sent_on(gateway: Gateway, way: str, fields: list[str]) -> list[Message]:
    """What an agent got of a call with these fields."""
    async with run_raw_agent(answering(ANSWER)) as agent:
        await send(gateway, agent, way, fields)
        return agent.requests


async def send(gateway: Gateway, agent: RawAgent, way: str, fields: list[str]) -> Message:
    method, tail, body = WAYS[way]
    target = await target_of(gateway, agent) + tail
    target = target.replace("a2a../", "")
    async with connect(gateway.url) as caller:
        return await caller.send(request_bytes(target, method, fields, body)).receive_message()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", WAYS)
async def test_agent_gets_neither_an_operators_session_nor_a_token(
    closed: Gateway, way: str
) -> None:
    requests = await sent_on(
        closed,
        way,
        [
            f"Cookie: a=1; gateway-session={SESSION}; b=2",
            f"cookie: __Host-gateway-session={SESSION}",
            f"Authorization: Bearer {ADMIN}",
            f"authorization: bearer  {ALICE}",
            "Authorization: Bearer for-the-agent",
            f"X-Gateway-Token: {ALICE}",
        ],
    )
    assert requests
    for request in requests:
        assert request.values("Cookie") == ["a=1; b=2"]
        assert request.values("Authorization") == ["Bearer for-the-agent"]
        assert request.values("X-Gateway-Token") == []
        for secret in (SIGNATURE, ADMIN, ALICE):
            assert secret not in repr(request)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", WAYS)
async def test_agents_own_authentication_passes_as_it_was_sent(closed: Gateway, way: str) -> None:
    values = ["Bearer x, y", "Basic YTpi", "Bearer", "bearer  x"]
    cookies = ["a=1;b = 2 ;; c", 'q="1;2"']
    fields = [f"Authorization: {value}" for value in values]
    fields += [f"Cookie: {value}" for value in cookies] + ["X-Gateway-Token: mine"]
    requests = await sent_on(closed, way, fields)
    assert requests
    for request in requests:
        assert request.values("Authorization") == values
        assert request.values("Cookie") == cookies
        assert request.values("X-Gateway-Token") == ["mine"]


@pytest.mark.asyncio(loop_scope="module")
async def test_where_operators_need_no_token_every_token_is_the_agents(
    shared_gateway: Gateway,
) -> None:
    fields = [f"Authorization: Bearer {ADMIN}", f"Cookie: gateway-session={SESSION}"]
    (request,) = await sent_on(shared_gateway, "a call", fields)
    assert request.values("Authorization") == [f"Bearer {ADMIN}"]
    assert request.values("Cookie") == []


# What may confuse readers of cookies, who each end names and values somewhere else.
COOKIES = st.lists(
    st.sampled_from(
        [
            *("gateway-session", "__Host-gateway-session", "a", "$Path", "expires"),
            *("=", "=", ";", ";", " ", "\t", ",", '"', "\\", "\\073", "\xa0", "Mon, "),
            *(SESSION, f'"{SESSION}"', f"gateway-session={SESSION}", "~"),
        ]
    ),
    max_size=12,
).map("".join)


@given(COOKIES)
def test_no_session_can_be_read_out_of_what_an_agent_gets(cookies: str) -> None:
    sent = cookies.strip(" \t")
    left = "".join(value for _, value in without_credentials([("Cookie", sent)], never))
    assert not [name for name in read_cookies(left) if name.endswith("gateway-session")]
    if is_let_in(sent) and sent.count(SIGNATURE) == 1:
        assert SIGNATURE not in left


def never(_token: str) -> bool:
    """Whether a token is an operator's, where there is none."""
    return False


def read_cookies(value: str) -> Mapping[str, str]:
    """The cookies as the gateway reads them."""
    return make_mocked_request("GET", "/", headers={"Cookie": value}).cookies


def is_let_in(value: str) -> bool:
    """Whether the gateway takes the sender of these cookies for an operator."""
    session = read_session(make_mocked_request("GET", "/", headers={"Cookie": value}))
    return session is not None and session.holder([token_sha256(ADMIN)]) is not None


SET_COOKIES = [
    "Set-Cookie: a=1; Path=/",
    "set-cookie: gateway-session=x; Path=/; HttpOnly",
    "Set-Cookie: __Host-gateway-session=x; Secure; Path=/",
    "Set-Cookie: =gateway-session=x",
    "Set-Cookie: b=2",
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", ["200 OK", "201 Created", "401 No", "302 Found"])
async def test_agent_sets_every_cookie_but_the_session(
    closed: Gateway, way: str, status: str
) -> None:
    body = EXTENDED_CARD if "JSON-RPC" in way else CARD
    head = "\r\n".join([f"HTTP/1.1 {status}", *SET_COOKIES, "Content-Type: application/json"])
    answer = f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    async with run_raw_agent(answering(answer)) as agent:
        got = await send(closed, agent, way, [])
        assert agent.requests
    # What is no card at a card's place is passed over: then the registered one is the answer.
    is_agents = way not in CARD_PLACES or status in ("200 OK", "401 No")
    assert got.values("Set-Cookie") == (["a=1; Path=/", "b=2"] if is_agents else [])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "answer",
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie\r\n\r\n"
            b"2\r\n{}\r\n0\r\nSet-Cookie: gateway-session=zebra\r\n\r\n"
        ),
        b"HTTP/1.1 103 Early Hints\r\nSet-Cookie: gateway-session=zebra\r\n\r\n" + ANSWER,
        (
            b"HTTP/1.1 200 OK\r\nConnection: close, x\r\nX: 1\r\n"
            b"Set-Cookie: gateway-session=zebra\r\n\r\n{}"
        ),
    ],
    ids=["trailer", "interim response", "until the close"],
)
async def test_session_is_set_neither_before_nor_behind_the_head(
    closed: Gateway, answer: bytes
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.receive_message()
        connection.send(answer).close()

    async with run_raw_agent(script) as agent:
        request = request_bytes(await target_of(closed, agent), fields=["Connection: close"])
        got = await exchange_bytes(closed.url, request)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"zebra" not in got
